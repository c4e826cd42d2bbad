//! Failures of the storage. They differ between replicas, so none of them may become an answer: they end the process. The
//! reason for which a command is refused is a [`Rejection`](stablechat_protocol::answer::Rejection), see [`super::state::Abort`].

use stablechat_protocol::operator::InitialSettings;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// The storage failed, or contradicts itself.
#[derive(Debug)]
pub enum StoreError {
    /// RocksDB reported a failure: the operation that failed, and the report.
    Rocks(&'static str, rocksdb::Error),
    /// Rows contradict the schema or each other; which, and how.
    Corrupt(String),
    /// The operating system refused an operation: the operation, and the reason.
    System(&'static str, io::Error),
}

impl StoreError {
    /// Whether the disk is full, or a quota is used up. Then nothing is lost: all earlier commits are stored, and the replica can go
    /// on as soon as there is room.
    pub fn is_no_room(&self) -> bool {
        match self {
            StoreError::Rocks(_, error) => tells_of_no_room(error.as_ref()),
            StoreError::System(_, error) => is_no_room(error),
            StoreError::Corrupt(_) => false,
        }
    }
}

/// Whether a report of RocksDB tells of a full disk. Its bindings pass on no error code, only the text, which has the C library's
/// words for `ENOSPC` or `EDQUOT`.
fn tells_of_no_room(report: &str) -> bool {
    ["No space left on device", "Disk quota exceeded"].iter().any(|words| report.contains(words))
}

fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Rocks(doing, error) => write!(formatter, "{doing} failed: {error}"),
            StoreError::System(doing, error) => write!(formatter, "{doing} failed: {error}"),
            StoreError::Corrupt(what) => write!(formatter, "the stored data is corrupt: {what}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// Why a store could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has the data directory open.
    InUse(PathBuf),
    /// The data directory belongs to another replica.
    OtherReplica {
        directory: PathBuf,
        /// The replica that it belongs to.
        found: String,
        /// The replica that was to be started.
        wanted: String,
    },
    /// The cluster file says other initial settings than the store was made with.
    OtherSettings {
        directory: PathBuf,
        /// Those of the store.
        found: InitialSettings,
    },
    /// The store has a newer format than this program.
    NewerFormat {
        directory: PathBuf,
        found: u64,
    },
    /// The store has an older format than this program.
    OlderFormat {
        directory: PathBuf,
        found: u64,
    },
    /// The operating system refused something.
    System {
        /// The operation that failed, as an infinitive.
        doing: String,
        error: io::Error,
    },
    Store(StoreError),
}

impl OpenError {
    /// Whether the store could not be opened because the disk is full or a quota is used up; see [`StoreError::is_no_room`].
    pub fn is_no_room(&self) -> bool {
        match self {
            OpenError::Store(error) => error.is_no_room(),
            OpenError::System { error, .. } => is_no_room(error),
            OpenError::InUse(_)
            | OpenError::OtherReplica { .. }
            | OpenError::OtherSettings { .. }
            | OpenError::NewerFormat { .. }
            | OpenError::OlderFormat { .. } => false,
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::InUse(directory) => write!(
                formatter,
                "the data directory {} is in use by another process; stop that replica first",
                directory.display()
            ),
            OpenError::OtherSettings { directory, found: InitialSettings { registration, invitation } } => write!(
                formatter,
                "the data in {} was made with `registration = \"{}\"` and {} in the cluster file, and these two lines must stay as \
                 they were; to change who may create an account, use `stablechat admin registration` and `stablechat admin invite`",
                directory.display(),
                registration.word(),
                match invitation {
                    Some(invitation) => format!("`first_invitation = \"{invitation}\"`"),
                    None => "no `first_invitation`".into(),
                }
            ),
            OpenError::OtherReplica { directory, found, wanted } => write!(
                formatter,
                "the data directory {} belongs to {found}, not to {wanted}; give each replica a directory of its own",
                directory.display()
            ),
            OpenError::NewerFormat { directory, found } => write!(
                formatter,
                "the data directory {} has format {found}, but this program knows formats up to {}; run the newer program that \
                 wrote it, or remove the directory: this replica then gets everything from the others",
                directory.display(),
                super::schema::FORMAT
            ),
            OpenError::OlderFormat { directory, found } => write!(
                formatter,
                "the data directory {} has format {found}, but this program reads format {} only; run the program that wrote \
                 it, or remove the directory: this replica then gets everything from the others",
                directory.display(),
                super::schema::FORMAT
            ),
            OpenError::System { doing, error } => write!(formatter, "cannot {doing}: {error}"),
            OpenError::Store(error @ StoreError::Corrupt(_)) => write!(
                formatter,
                "{error}; `stablechatd check` lists the damage, `stablechatd restore` brings back a backup, and a replica that \
                 is started with an empty data directory gets everything from the others"
            ),
            OpenError::Store(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        OpenError::Store(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_up_quota_is_no_room() {
        assert!(tells_of_no_room("IO error: While appending to file: /data/store/000008.log: Disk quota exceeded"));
        assert!(tells_of_no_room("IO error: No space left on device: While appending to file: /data/store/000008.log"));
        assert!(!tells_of_no_room("IO error: While appending to file: /data/store/000008.log: Input/output error"));
        for code in [rustix::io::Errno::DQUOT, rustix::io::Errno::NOSPC] {
            let error = || io::Error::from(code);
            assert!(StoreError::System("writing", error()).is_no_room(), "{}", error());
            assert!(OpenError::Store(StoreError::System("writing", error())).is_no_room(), "{}", error());
            assert!(OpenError::System { doing: "listen".into(), error: error() }.is_no_room(), "{}", error());
        }
        assert!(!StoreError::Corrupt("a sentence".into()).is_no_room());
    }
}
