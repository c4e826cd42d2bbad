//! `stablechatd backups`.

use super::Failure;
use super::data::line;
use crate::store::Backups;
use argh::{ArgsInfo, FromArgs};
use std::path::PathBuf;

/// List the backups in a directory.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "backups",
    example = "{command_name} /mnt/backups/a",
    error_code(0, "listed"),
    error_code(2, "the command line was not understood"),
    error_code(69, "a backup is being made there, or restored"),
    error_code(74, "the backups cannot be read"),
    error_code(78, "the directory has no backups")
)]
pub struct ListBackups {
    /// the directory that `backup` wrote to
    #[argh(positional)]
    directory: PathBuf,
}

impl ListBackups {
    /// Prints a line for each backup.
    ///
    /// # Errors
    /// The backups could not be read.
    pub fn execute(self) -> Result<(), Failure> {
        let backups = Backups::open(&self.directory)?;
        println!("backups of {}:", backups.owner());
        backups.list()?.iter().for_each(|backup| println!("{}", line(backup)));
        Ok(())
    }
}
