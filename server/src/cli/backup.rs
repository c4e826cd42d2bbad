//! `stablechatd backup`.

use super::Failure;
use super::data::{keep_private, with_store};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::exit;
use crate::store::{Backups, DataDirectory, DatabaseView, OpenError, applied_of, open_copy, owner_of};
use argh::{ArgsInfo, FromArgs};
use rocksdb::DB;
use stablechat_command_line::size::size;
use stablechat_protocol::time::utc;
use std::fs::File;
use std::path::{Path, PathBuf, absolute};
use std::time::Instant;

/// Back up a replica's data, while the replica runs or not.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "backup",
    example = "{command_name} --data /var/lib/stablechat/a --to /mnt/backups/a --keep 7",
    note = "Files that earlier backups in the directory have already are not written again. A running replica lends a
checkpoint that this program reads: run it as the replica's user or as root. One replica's backup is enough to
restore all.",
    error_code(0, "backed up"),
    error_code(2, "the command line was not understood"),
    error_code(69, "another backup is being made, or the replica is starting or stopping"),
    error_code(74, "the data cannot be read, or the backup cannot be written"),
    error_code(78, "there is no store, or the directory is not for this replica's backups")
)]
pub struct Backup {
    /// the replica's data directory
    #[argh(option)]
    data: PathBuf,
    /// the directory for this replica's backups; it is made if it does not exist
    #[argh(option)]
    to: PathBuf,
    /// how many backups to keep in the directory, the last ones (all of them)
    #[argh(option, from_str_fn(at_least_one))]
    keep: Option<usize>,
}

impl Backup {
    /// Makes a backup.
    ///
    /// # Errors
    /// The backup could not be made. Earlier backups are not affected.
    pub fn execute(self) -> Result<(), Failure> {
        keep_private();
        let began = Instant::now();
        let data = with_store(self.data)?;
        let to = outside(&self.to, &data)?;
        let Some(_lock) = data.lock_for_backup()? else {
            return Err(unavailable(format!(
                "another backup of {} is being made; wait until it has ended",
                data.0.display()
            )));
        };
        let source = Source::open(&data)?;
        let (owner, applied) = (owner_of(&source.db), applied_of(&source.db));
        let owner = owner.map_err(OpenError::Store)?;
        let applied = applied.map_err(OpenError::Store)?;
        let backups = Backups::of(owner, &to)?;
        let (backup, new_bytes) = backups.add(&source.db, self.keep)?;
        println!(
            "backed up {} to {}: backup {}, position {} ({} UTC), {}, of which {} are new, in {:.1} s; {} backups there",
            backups.owner(),
            to.display(),
            backup.id,
            applied.position,
            utc(applied.uid.timestamp),
            size(backup.bytes),
            size(new_bytes),
            began.elapsed().as_secs_f64(),
            backups.list()?.len()
        );
        Ok(())
    }
}

/// A database that no process changes while it is backed up. The fields are dropped in this order: the database is closed before the
/// view and the checkpoint are deleted or the lock released.
struct Source {
    db: DB,
    _view: DatabaseView,
    /// The checkpoint that the running replica has made for this backup.
    _checkpoint: Option<Checkpoint>,
    /// The lock on the data directory, when no replica runs.
    _lock: Option<File>,
}

impl Source {
    /// Opens the store itself, or a checkpoint of it when a replica runs.
    fn open(data: &DataDirectory) -> Result<Source, Failure> {
        match data.lock() {
            Ok(lock) => {
                data.remove_copy().map_err(|error| Failure {
                    code: exit::IO,
                    message: format!(
                        "cannot delete {}, a checkpoint that an interrupted backup has left: {error}",
                        data.copy().display()
                    ),
                })?;
                Source::view(&data.store(), None, Some(lock))
            }
            Err(OpenError::InUse(_)) => {
                let checkpoint = Checkpoint::request(data.clone())?;
                Source::view(&checkpoint.path(), Some(checkpoint), None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a view of a database: its own directory may be another user's.
    fn view(database: &Path, checkpoint: Option<Checkpoint>, lock: Option<File>) -> Result<Source, Failure> {
        let view = DatabaseView::of(database)?;
        Ok(Source { db: open_copy(view.path())?, _view: view, _checkpoint: checkpoint, _lock: lock })
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        let code = match error {
            CheckpointError::Unreachable(..) => exit::UNAVAILABLE,
            CheckpointError::Failed(_) => exit::IO,
        };
        Failure { code, message: error.to_string() }
    }
}

/// The directory for backups, unless it is in the data directory: a fault that destroys the data would destroy them as well.
fn outside(to: &Path, data: &DataDirectory) -> Result<PathBuf, Failure> {
    let wrong =
        |path: &Path, error| Failure::configuration(format!("cannot use the directory {}: {error}", path.display()));
    let to = absolute(to).map_err(|error| wrong(to, error))?;
    let inside = data.0.canonicalize().map_err(|error| wrong(&data.0, error))?;
    // A directory that does not exist yet is where its nearest existing ancestor is.
    let existing = to.ancestors().find_map(|ancestor| ancestor.canonicalize().ok()).unwrap_or_default();
    if existing.starts_with(&inside) {
        return Err(Failure::configuration(format!(
            "the directory for backups {} is in the data directory; give one elsewhere, on another disk",
            to.display()
        )));
    }
    Ok(to)
}

/// Parses the value of `--keep`.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("{text} is not a number of backups to keep; give 1 or more")),
        Ok(count) => Ok(count),
    }
}

/// The data directory or the backups are in use by another process.
fn unavailable(message: String) -> Failure {
    Failure { code: exit::UNAVAILABLE, message }
}
