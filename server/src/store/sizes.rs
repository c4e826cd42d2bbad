//! How much room the store takes.

use super::rows::family;
use super::schema::{Column, INCOMING, LOG, META, ORPHANS, UNDO, UNDONE};
use super::{ChatStore, StoreError};
use rocksdb::properties::{CUR_SIZE_ALL_MEM_TABLES, ESTIMATE_LIVE_DATA_SIZE};
use std::ffi::OsStr;
use std::fmt;
use std::io;

/// How much room the store takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The kept part of the log, before it is compressed.
    pub log: u64,
    /// About what all rows take in RocksDB's files.
    pub live: u64,
    /// What RocksDB has in memory and not in files.
    pub memtables: u64,
    /// RocksDB's write-ahead log.
    pub write_ahead_log: u64,
    /// What is free on the file system.
    pub available: u64,
}

/// The sizes cannot be found out.
#[derive(Debug)]
pub enum SizesError {
    /// RocksDB does not say.
    Store(StoreError),
    /// The file system does not say.
    System(io::Error),
}

impl fmt::Display for SizesError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SizesError::Store(error) => error.fmt(formatter),
            SizesError::System(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for SizesError {}

impl ChatStore {
    /// How much room the store takes. Asks RocksDB and the file system, neither of which has to read data for it.
    ///
    /// # Errors
    /// One of them does not say; it is not in a directory, for example.
    pub fn sizes(&self) -> Result<Sizes, SizesError> {
        let path = self.rows.db().path();
        let system = rustix::fs::statvfs(path).map_err(|error| SizesError::System(error.into()))?;
        let mut write_ahead_log = 0;
        for entry in std::fs::read_dir(path).map_err(SizesError::System)? {
            let entry = entry.map_err(SizesError::System)?;
            if entry.path().extension() == Some(OsStr::new("log")) {
                // RocksDB may have deleted it meanwhile.
                write_ahead_log += entry.metadata().map_or(0, |metadata| metadata.len());
            }
        }
        Ok(Sizes {
            log: self.log_bytes,
            live: self.sum(ESTIMATE_LIVE_DATA_SIZE)?,
            memtables: self.sum(CUR_SIZE_ALL_MEM_TABLES)?,
            write_ahead_log,
            available: system.f_bavail * system.f_frsize,
        })
    }

    /// A number that RocksDB has for each column family, for all together.
    fn sum(&self, property: &rocksdb::properties::PropName) -> Result<u64, SizesError> {
        let db = self.rows.db();
        let names = [LOG, UNDO, UNDONE, INCOMING, ORPHANS, META].into_iter().chain(Column::ALL.map(Column::name));
        let mut sum = 0;
        for name in names {
            let value = db.property_int_value_cf(family(db, name), property);
            let value = value.map_err(|error| SizesError::Store(StoreError::Rocks("asking for sizes", error)))?;
            sum += value.unwrap_or(0);
        }
        Ok(sum)
    }
}
