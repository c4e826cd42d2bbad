//! The exit codes of `stablechatd`. From 64 on they are those of `sysexits.h`.

use crate::store::OpenError;

/// The process stopped as asked, or did what it was asked for.
pub const DONE: i32 = 0;
/// The command line was not understood.
pub const USAGE: i32 = 2;
/// The stored data is damaged (`EX_DATAERR`).
pub const DATA: i32 = 65;
/// Another process uses the address or the data directory (`EX_UNAVAILABLE`).
pub const UNAVAILABLE: i32 = 69;
/// A thread panicked, which is a bug (`EX_SOFTWARE`).
pub const SOFTWARE: i32 = 70;
/// A file to be created exists, or cannot be created (`EX_CANTCREAT`).
pub const CANNOT_CREATE: i32 = 73;
/// Storage or the network failed so that the process cannot go on (`EX_IOERR`).
pub const IO: i32 = 74;
/// The wall clock was set back, so the process has to be started again (`EX_TEMPFAIL`).
pub const START_AGAIN: i32 = 75;
/// The cluster file or the data directory does not fit this replica (`EX_CONFIG`).
pub const CONFIGURATION: i32 = 78;

/// The code for a data directory that cannot be opened.
pub fn of_opening(error: &OpenError) -> i32 {
    match error {
        OpenError::InUse(_) => UNAVAILABLE,
        OpenError::OtherReplica { .. }
        | OpenError::OtherSettings { .. }
        | OpenError::NewerFormat { .. }
        | OpenError::OlderFormat { .. } => CONFIGURATION,
        OpenError::System { .. } | OpenError::Store(_) => IO,
    }
}
