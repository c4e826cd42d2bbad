//! How the program ends: named exit codes, after `sysexits.h` where it has one, and failures that carry them.

use stablechat_protocol::answer::Rejection;
use std::{fmt, io};

/// Everything was done.
pub const DONE: u8 = 0;
/// The service said no.
pub const REFUSED: u8 = 1;
/// The command line or the text to be sent is not right.
pub const USAGE: u8 = 2;
/// No replica could be reached, and nothing was changed.
pub const UNREACHABLE: u8 = 69;
/// A fault of the program or of the machine.
pub const INTERNAL: u8 = 70;
/// Standard input could not be read or standard output not be written, so lines are not done or results are missing.
pub const IO: u8 = 74;
/// It is not known whether a request took effect. Safe to repeat with the same `--id`.
pub const UNKNOWN: u8 = 75;
/// The account is somebody else's, or the command needs an account and none was connected.
pub const NOT_ALLOWED: u8 = 77;
/// The cluster file or a key is missing or unusable, or no replica takes part in the cluster as configured.
pub const CONFIGURATION: u8 = 78;

/// Why something was not done: for a person, and for the exit status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One of this module's codes, never [`DONE`].
    pub code: u8,
    /// The message for a person.
    pub message: String,
}

impl Failure {
    /// A failure with a code of this module.
    pub fn new(code: u8, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

/// An error of the operating system about something without which the program cannot work.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::new(INTERNAL, error.to_string())
    }
}

impl From<&Rejection> for Failure {
    fn from(reason: &Rejection) -> Failure {
        let code = match reason {
            Rejection::NotOwner { .. }
            | Rejection::LoginRequired
            | Rejection::NotYourSession
            | Rejection::RegistrationClosed
            | Rejection::InvitationNeeded
            | Rejection::NoSuchInvitation
            | Rejection::NotAnOperator => NOT_ALLOWED,
            _ => REFUSED,
        };
        Failure::new(code, reason.to_string())
    }
}
