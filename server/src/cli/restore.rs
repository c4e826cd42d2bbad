//! `stablechatd restore`.

use super::Failure;
use super::data::keep_private;
use crate::store::{Backups, DataDirectory, Restored};
use argh::{ArgsInfo, FromArgs};
use stablechat_command_line::size::size;
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::time::utc;
use std::path::PathBuf;
use std::time::Instant;

/// Restore a replica's data from a backup.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "restore",
    example = "{command_name} --from /mnt/backups/a --data /var/lib/stablechat/a",
    note = "While other replicas run, the restored one catches up with them when it is started. To go back to a backup, stop
all replicas and restore each, from the backup of one of them with its own --name.",
    error_code(0, "restored"),
    error_code(2, "the command line was not understood"),
    error_code(69, "the backups or the data directory are in use"),
    error_code(74, "the backup cannot be read or is damaged, or the data cannot be written"),
    error_code(78, "there is no such backup, or the data directory is not empty")
)]
pub struct Restore {
    /// the directory that `backup` wrote to
    #[argh(option)]
    from: PathBuf,
    /// the replica's data directory, which is new or empty
    #[argh(option)]
    data: PathBuf,
    /// the number of the backup to restore, as `stablechatd backups` shows it (the last one)
    #[argh(option)]
    backup: Option<u32>,
    /// the name of the replica to restore it for (the replica that was backed up)
    #[argh(option)]
    name: Option<ReplicaName>,
}

impl Restore {
    /// Restores a backup.
    ///
    /// # Errors
    /// The backup could not be restored. The data directory has no store then.
    pub fn execute(self) -> Result<(), Failure> {
        keep_private();
        let began = Instant::now();
        let backups = Backups::open(&self.from)?;
        let data = DataDirectory(self.data);
        let name = self.name.map(|name| name.to_string());
        let Restored { backup, identity, applied } = backups.restore(self.backup, &data, name)?;
        println!(
            "restored backup {} of {}, made {} UTC, to {} as {identity}: position {} ({} UTC), {}, in {:.1} s",
            backup.id,
            backups.owner(),
            utc(backup.made),
            data.0.display(),
            applied.position,
            utc(applied.uid.timestamp),
            size(backup.bytes),
            began.elapsed().as_secs_f64()
        );
        Ok(())
    }
}
