//! What can go wrong in storage. None of it is an answer: it differs between replicas, so it ends the process instead.

use std::fmt;
use std::path::PathBuf;

/// Storage failed or holds what it must not hold.
#[derive(Debug)]
pub enum StoreError {
    /// RocksDB reported a failure, while doing the first.
    Rocks(&'static str, rocksdb::Error),
    /// What is stored contradicts the schema.
    Corrupt(String),
    /// The operating system refused something: what was being done, and its answer.
    System(&'static str, std::io::Error),
}

impl StoreError {
    /// Whether there was no room on the disk. Nothing else is wrong then: what is stored is what was committed before.
    pub fn is_no_room(&self) -> bool {
        // RocksDB's bindings give no more than the text.
        matches!(self, StoreError::Rocks(_, error) if error.as_ref().contains("No space left on device"))
    }
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

/// Why a data directory could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has it open.
    InUse(PathBuf),
    /// It belongs to another replica: its cluster and name.
    OtherReplica {
        /// The directory.
        directory: PathBuf,
        /// Whose it is.
        found: String,
        /// Who wanted it.
        wanted: String,
    },
    /// It is written in a newer format than this program knows.
    NewerFormat {
        /// The directory.
        directory: PathBuf,
        /// Its format.
        found: u64,
    },
    /// It is written in an older format than this program reads.
    OlderFormat {
        /// The directory.
        directory: PathBuf,
        /// Its format.
        found: u64,
    },
    /// The operating system refused something.
    System {
        /// What was being done.
        doing: String,
        /// Its answer.
        error: std::io::Error,
    },
    /// RocksDB or the data in it failed.
    Store(StoreError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::InUse(directory) => write!(
                formatter,
                "the data directory {} is in use by another process; stop that replica first",
                directory.display()
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
