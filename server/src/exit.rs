//! The exit codes of `stablechatd`, as in `sysexits.h` where that has one.

use crate::store::OpenError;

/// Stopped as asked.
pub const DONE: i32 = 0;
/// The command line was not understood.
pub const USAGE: i32 = 2;
/// What is stored is damaged, or not what it should be.
pub const DATA: i32 = 65;
/// Something that is needed is in use: the address, or the data directory.
pub const UNAVAILABLE: i32 = 69;
/// A bug: a thread panicked.
pub const SOFTWARE: i32 = 70;
/// What was to be made is there already, or cannot be made there.
pub const CANNOT_CREATE: i32 = 73;
/// Storage or the network failed in a way that the replica cannot go on after.
pub const IO: i32 = 74;
/// The cluster file, or the data directory, is not right for this replica.
pub const CONFIGURATION: i32 = 78;

/// What a data directory that cannot be opened comes to.
pub fn of_opening(error: &OpenError) -> i32 {
    match error {
        OpenError::InUse(_) => UNAVAILABLE,
        OpenError::OtherReplica { .. } | OpenError::NewerFormat { .. } | OpenError::OlderFormat { .. } => CONFIGURATION,
        OpenError::System { .. } | OpenError::Store(_) => IO,
    }
}
