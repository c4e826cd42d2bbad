//! The command line of `stablechatd`: one file for each subcommand, and one way to fail.

mod backup;
mod backups;
mod check;
mod data;
mod entropy;
mod environment;
mod files;
mod init;
mod new_authority;
mod operator_key;
mod renew;
mod restore;
mod run;

use crate::exit;
use argh::{ArgsInfo, FromArgs};
use backup::Backup;
use backups::ListBackups;
use check::Check;
use init::Init;
use new_authority::NewAuthority;
use operator_key::OperatorKey;
use renew::Renew;
use restore::Restore;
use run::Run;

/// A replica of the stablechat service, which stays up when all replicas but one are dead.
#[derive(FromArgs, ArgsInfo)]
#[argh(example = "{command_name} init --dir demo --replica a=h1:7400 --replica b=h2:7400\n\
               {command_name} run --cluster cluster.toml --name a --data /var/lib/stablechat/a")]
pub struct Arguments {
    #[argh(subcommand)]
    subcommand: Subcommand,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum Subcommand {
    Init(Init),
    Renew(Renew),
    NewAuthority(NewAuthority),
    OperatorKey(OperatorKey),
    Run(Run),
    Backup(Backup),
    Backups(ListBackups),
    Restore(Restore),
    Check(Check),
}

/// Why a subcommand failed.
pub struct Failure {
    pub code: i32,
    /// What happened, to what, and what to do.
    pub message: String,
}

impl Failure {
    /// The command line is not valid.
    fn usage(message: String) -> Failure {
        Failure { code: exit::USAGE, message }
    }

    /// The command does not fit the cluster file or the directories that it names.
    fn configuration(message: String) -> Failure {
        Failure { code: exit::CONFIGURATION, message }
    }
}

impl Arguments {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// The reason why the subcommand failed.
    pub fn execute(self) -> Result<(), Failure> {
        match self.subcommand {
            Subcommand::Init(init) => init.execute(),
            Subcommand::Renew(renew) => renew.execute(),
            Subcommand::NewAuthority(new) => new.execute(),
            Subcommand::OperatorKey(key) => key.execute(),
            Subcommand::Run(run) => run.execute(),
            Subcommand::Backup(backup) => backup.execute(),
            Subcommand::Backups(list) => list.execute(),
            Subcommand::Restore(restore) => restore.execute(),
            Subcommand::Check(check) => check.execute(),
        }
    }
}
