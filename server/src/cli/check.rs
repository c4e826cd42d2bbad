//! `stablechatd check`.

use super::Failure;
use super::data::with_store;
use crate::exit;
use crate::store::{ChatStore, CheckReport, OpenError, Progress, owner_of};
use argh::{ArgsInfo, FromArgs};
use stablechat_protocol::time::utc;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Check the data of a replica that does not run, without changing anything.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "check",
    example = "{command_name} /var/lib/stablechat/a",
    note = "Reads everything: the chain of hashes over the log, the digest over the state, and what rows say about each other.",
    error_code(0, "everything is as it should be"),
    error_code(2, "the command line was not understood"),
    error_code(65, "something is damaged; the output says what"),
    error_code(69, "a replica runs, or has to complete first what it had begun"),
    error_code(74, "the directory cannot be read"),
    error_code(78, "there is no store, or it is of a newer format")
)]
pub struct Check {
    /// the replica's data directory
    #[argh(positional)]
    directory: PathBuf,
}

/// How often it is said how far the check is.
const TELL_EVERY: Duration = Duration::from_secs(5);

impl Check {
    /// Checks, and prints what was found.
    ///
    /// # Errors
    /// Something is wrong, or could not be checked.
    pub fn execute(self) -> Result<(), Failure> {
        let began = Instant::now();
        let data = with_store(self.directory)?;
        let store = match ChatStore::open_to_read(&data) {
            Ok(store) => store,
            Err(OpenError::Store(error)) => {
                println!("damaged: {error}");
                return Err(damaged(&data.0.display().to_string(), 1));
            }
            Err(error) => return Err(error.into()),
        };
        let mut told = began;
        let report = store.check_and_tell(&mut |Progress { what, rows, rows_about }| {
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                log::info!("checking {what}: {rows} of about {} rows", rows.max(rows_about));
            }
        });
        let owner =
            owner_of(&store.shared_db()).map_or("a replica that it does not name".into(), |owner| owner.to_string());
        let CheckReport { requests, rows, unapplied, is_installing, faults } = report;
        faults.iter().for_each(|fault| println!("damaged: {fault}"));
        if !faults.is_empty() {
            return Err(damaged(&data.0.display().to_string(), faults.len()));
        }
        if is_installing {
            return Err(Failure {
                code: exit::UNAVAILABLE,
                message: format!(
                    "{owner} was putting a snapshot in the place of its data when it ended; start it, which completes that, \
                     and check when it has stopped",
                ),
            });
        }
        let applied = store.applied();
        println!(
            "{owner} is in order: position {} ({} UTC), {requests} requests in the log, {rows} rows, checked in {:.1} s",
            applied.position,
            utc(applied.uid.timestamp),
            began.elapsed().as_secs_f64()
        );
        if unapplied > 0 {
            println!(
                "it was repairing its log when it ended: {unapplied} requests are applied again at the next start"
            );
        }
        Ok(())
    }
}

/// Something is damaged.
fn damaged(directory: &str, faults: usize) -> Failure {
    Failure {
        code: exit::DATA,
        message: format!(
            "{directory} is damaged: {faults} faults; move it away, and start the replica with an empty one, which it fills \
             from the others, or restore a backup"
        ),
    }
}
