//! Functions shared by the subcommands that work on a data directory or on backups.

use super::Failure;
use crate::exit;
use crate::store::{Backup, BackupError, DataDirectory, OpenError};
use rustix::fs::Mode;
use rustix::process::umask;
use stablechat_command_line::size::size;
use stablechat_protocol::time::utc;
use std::path::{Path, PathBuf};

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Failure { code: exit::of_opening(&error), message: error.to_string() }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let code = match error {
            BackupError::Store(error) => return error.into(),
            BackupError::InUse(_) => exit::UNAVAILABLE,
            BackupError::System { .. } => exit::IO,
            BackupError::NoBackups(_)
            | BackupError::NotForBackups(_)
            | BackupError::OthersBackups { .. }
            | BackupError::NoSuchBackup { .. }
            | BackupError::NotEmpty { .. } => exit::CONFIGURATION,
        };
        Failure { code, message: error.to_string() }
    }
}

/// The data directory, if there is a store in it. A command that only reads must not make one.
pub fn with_store(directory: PathBuf) -> Result<DataDirectory, Failure> {
    let data = DataDirectory(directory);
    let is_there = |path: &Path| path.try_exists();
    match is_there(&data.store()) {
        Ok(true) => Ok(data),
        Ok(false) => Err(Failure::configuration(format!(
            "there is no store in {}; give the directory that the replica runs with (`stablechatd run --data`)",
            data.0.display()
        ))),
        Err(error) => Err(Failure {
            code: exit::IO,
            message: format!("cannot read the data directory {}: {error}", data.0.display()),
        }),
    }
}

/// Makes the files that this process creates readable by its user only: they contain people's messages.
pub fn keep_private() {
    umask(Mode::RWXG | Mode::RWXO);
}

/// A backup as a line of `stablechatd backups`.
pub fn line(backup: &Backup) -> String {
    format!("{:>4}  {} UTC  {:>9}", backup.id, utc(backup.made), size(backup.bytes))
}
