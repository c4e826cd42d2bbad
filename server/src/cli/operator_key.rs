//! `stablechatd operator-key`.

use super::Failure;
use super::entropy::random;
use super::files::{SECRET, write_new};
use crate::exit;
use argh::{ArgsInfo, FromArgs};
use stablechat_protocol::key_file::write_key;
use stablechat_protocol::login::SecretKey;
use stablechat_protocol::name::AccountName;
use std::path::PathBuf;

/// Make a key for one more operator.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "operator-key",
    example = "{command_name} --out operator-2.key",
    note = "It prints the public half, which belongs among `operators` in the cluster file of each replica. OPERATIONS.md says how
replicas take it in. The file is for the operator, and for nobody else.",
    error_code(0, "the key was made"),
    error_code(2, "the command line was not understood"),
    error_code(73, "the file exists or cannot be written")
)]
pub struct OperatorKey {
    /// the file to make for the key
    #[argh(option, arg_name = "file")]
    out: PathBuf,
}

impl OperatorKey {
    /// Makes the key, and prints its public half.
    ///
    /// # Errors
    /// The file exists or cannot be written.
    pub fn execute(self) -> Result<(), Failure> {
        let cannot = |fault: String| Failure { code: exit::CANNOT_CREATE, message: format!("cannot write {fault}") };
        let secret = SecretKey::from_seed(&random()?);
        let text = write_key(&AccountName::operator(), &secret);
        write_new(&self.out, &text, SECRET).map_err(|error| cannot(error.to_string()))?;
        println!("{}", secret.public());
        Ok(())
    }
}
