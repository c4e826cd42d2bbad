//! Where passwords come from: a file that the command line names, or the terminal, where they are typed without being shown.

use crate::cli::exit::{self, Failure};
use crate::greeting::Credentials;
use crate::keys::Keys;
use crate::password;
use stablechat_protocol::login::SecretKey;
use stablechat_protocol::name::{AccountName, ClusterId};
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

/// No password is longer, in bytes.
const LENGTH_MAX: u64 = 1024;

/// What is needed to find the key of an account.
pub struct Secrets<'a> {
    pub keys: &'a Keys,
    pub cluster: &'a ClusterId,
    /// The file with the account's password, if one is named.
    pub password_file: Option<&'a Path>,
}

impl Secrets<'_> {
    /// The credentials of an account: with the key from its file, or else with one from a password.
    ///
    /// # Errors
    /// The key file cannot be used, or there is none, and no password either.
    pub fn credentials(&self, account: &AccountName) -> Result<Credentials, Failure> {
        if let Some(secret) = load(self.keys, account)? {
            return Ok(Credentials { account: account.clone(), secret, is_from_password: false });
        }
        let password = match self.password_file {
            Some(path) => read(path)?,
            None if io::stdin().is_terminal() => ask(&question(account))?,
            None => return Err(no_key(self.keys, account)),
        };
        Ok(from_password(&password, self.cluster, account))
    }

    /// The credentials of an account, unless its key is in a file: that is read when it is needed.
    ///
    /// # Errors
    /// As with [`Secrets::credentials`], but for the key file.
    pub fn typed(&self, account: &AccountName) -> Result<Option<Credentials>, Failure> {
        match self.keys.load(account) {
            Ok(None) if self.password_file.is_some() || io::stdin().is_terminal() => {
                self.credentials(account).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The key of an account whose password is a new one: from the file, or typed twice. `file` is the one with the new password.
    ///
    /// # Errors
    /// There is no password, or it is too short, or the two differ.
    pub fn new_key(&self, account: &AccountName, file: Option<&Path>) -> Result<SecretKey, Failure> {
        let password = match file {
            Some(path) => read(path)?,
            None if io::stdin().is_terminal() => {
                let password = ask(&format!("New password of {account}: "))?;
                if ask("The same again: ")? != password {
                    return Err(Failure::new(exit::USAGE, "the two passwords are not the same, so nothing was done"));
                }
                password
            }
            None => {
                let text = "a new password is typed at a terminal, or read from the file that the command line names";
                return Err(Failure::new(exit::USAGE, text));
            }
        };
        password::check(&password).map_err(|fault| Failure::new(exit::USAGE, fault))?;
        Ok(password::derive(&password, self.cluster, account))
    }
}

/// Asks at the terminal for the password of an account whose key is not on this machine.
///
/// # Errors
/// The terminal cannot be used, or nothing was typed.
pub fn ask_for(cluster: &ClusterId, account: &AccountName) -> Result<Credentials, Failure> {
    Ok(from_password(&ask(&question(account))?, cluster, account))
}

/// The credentials with the key in an account's file.
///
/// # Errors
/// There is no such file, or it cannot be used.
pub fn load_credentials(keys: &Keys, account: &AccountName) -> Result<Credentials, Failure> {
    let secret = load(keys, account)?.ok_or_else(|| no_key(keys, account))?;
    Ok(Credentials { account: account.clone(), secret, is_from_password: false })
}

/// The key in an account's file, if there is one.
pub fn load(keys: &Keys, account: &AccountName) -> Result<Option<SecretKey>, Failure> {
    keys.load(account).map_err(|error| Failure::new(exit::CONFIGURATION, error.to_string()))
}

fn from_password(password: &str, cluster: &ClusterId, account: &AccountName) -> Credentials {
    let secret = password::derive(password, cluster, account);
    Credentials { account: account.clone(), secret, is_from_password: true }
}

fn question(account: &AccountName) -> String {
    format!("The key of {account} is not on this machine. Password of {account}: ")
}

fn no_key(keys: &Keys, account: &AccountName) -> Failure {
    Failure::new(
        exit::CONFIGURATION,
        format!(
            "there is no key for {account}: {} does not exist; if the account is yours, copy its key there, or, if it has a \
             password, name a file with that by --password-file; otherwise make it with: create {account}",
            keys.path(account).display()
        ),
    )
}

/// Asks at the terminal, without showing what is typed.
fn ask(question: &str) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::new(exit::USAGE, format!("the password cannot be read: {error}"));
    let typed = rpassword::prompt_password(question).map_err(failed)?;
    match typed.is_empty() {
        true => Err(Failure::new(exit::USAGE, "no password was typed")),
        false => Ok(typed),
    }
}

/// The password in a file: its first and only line.
fn read(path: &Path) -> Result<String, Failure> {
    let failed =
        |fault: String| Failure::new(exit::CONFIGURATION, format!("the password file {}: {fault}", path.display()));
    let mut text = String::new();
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    file.take(LENGTH_MAX + 3).read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    match password {
        "" => Err(failed("it is empty".into())),
        password if password.len() as u64 > LENGTH_MAX => Err(failed(format!("it has more than {LENGTH_MAX} bytes"))),
        password if password.contains('\n') => Err(failed("it has more than one line".into())),
        password => Ok(password.into()),
    }
}

/// Which key `stablechat create`, `password` or `key rotate` gives an account.
pub struct NewKey {
    pub secret: SecretKey,
    /// Whether it is put into the account's key file.
    pub is_kept: bool,
}
