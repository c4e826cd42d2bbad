//! The command line: a subcommand a file, each of which says how it failed in one way.

mod backup;
mod backups;
mod check;
mod data;
mod restore;
mod run;

use argh::FromArgs;
use backup::Backup;
use backups::ListBackups;
use check::Check;
use restore::Restore;
use run::Run;
use stablechat_server::exit;

/// A replica of the stablechat service, which stays up when all replicas but one are dead.
#[derive(FromArgs)]
#[argh(example = "{command_name} run --cluster cluster.toml --name a --data /var/lib/stablechat/a")]
pub struct Arguments {
    #[argh(subcommand)]
    subcommand: Subcommand,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Subcommand {
    Run(Run),
    Backup(Backup),
    Backups(ListBackups),
    Restore(Restore),
    Check(Check),
}

/// How a subcommand failed.
pub struct Failure {
    /// The exit code of the process.
    pub code: i32,
    /// What happened, to what, and what to do.
    pub message: String,
}

impl Failure {
    /// What was asked for cannot be done with this configuration.
    fn configuration(message: String) -> Failure {
        Failure { code: exit::CONFIGURATION, message }
    }
}

impl Arguments {
    /// Does what was asked for.
    ///
    /// # Errors
    /// It could not be done.
    pub fn execute(self) -> Result<(), Failure> {
        match self.subcommand {
            Subcommand::Run(run) => run.execute(),
            Subcommand::Backup(backup) => backup.execute(),
            Subcommand::Backups(list) => list.execute(),
            Subcommand::Restore(restore) => restore.execute(),
            Subcommand::Check(check) => check.execute(),
        }
    }
}
