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
    note = "Reads everything, and verifies the hash chain of the log, the digest of the state, and that rows agree with each other.",
    error_code(0, "no damage was found"),
    error_code(2, "the command line was not understood"),
    error_code(65, "the data is damaged; the output lists the faults"),
    error_code(69, "a replica is running, or must be started first, to complete an interrupted change"),
    error_code(74, "the directory cannot be read"),
    error_code(78, "there is no store, or it is of a newer format")
)]
pub struct Check {
    /// the replica's data directory
    #[argh(positional)]
    directory: PathBuf,
}

/// The time between two log lines about progress.
const TELL_EVERY: Duration = Duration::from_secs(5);

impl Check {
    /// Checks the data, and prints the result.
    ///
    /// # Errors
    /// The data is damaged or cannot be read.
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
                    "{owner} was replacing its data by a snapshot when it ended; start it, which completes that, then stop it \
                     and check again",
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
            println!("it was repairing its log when it ended: the next start applies {unapplied} requests again");
        }
        Ok(())
    }
}

/// The failure for a damaged store, with the two ways out.
fn damaged(directory: &str, faults: usize) -> Failure {
    Failure {
        code: exit::DATA,
        message: format!(
            "{directory} is damaged: {faults} faults; move it away and either start the replica with an empty directory, which \
             it fills from the other replicas, or restore a backup"
        ),
    }
}
