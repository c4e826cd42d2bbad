//! How much room the store takes.

use super::database::family;
use super::error::StoreError;
use super::{ChatStore, open};
use rocksdb::properties::{CUR_SIZE_ALL_MEM_TABLES, ESTIMATE_LIVE_DATA_SIZE};
use std::ffi::OsStr;
use std::fmt;
use std::io;

/// How much room the store takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The log, before RocksDB compresses it.
    pub log: u64,
    /// All rows in RocksDB's sorted files, about; replaced and deleted ones are left out.
    pub live: u64,
    /// Rows in memory, not yet in sorted files.
    pub memtables: u64,
    pub write_ahead_log: u64,
    /// Free space on the file system.
    pub available: u64,
}

/// Why the sizes cannot be told.
#[derive(Debug)]
pub enum SizesError {
    Store(StoreError),
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
    /// How much room the store takes. It is quick: neither RocksDB nor the file system has to read data for it.
    ///
    /// # Errors
    /// RocksDB or the file system cannot tell, for example because the store is in memory.
    pub fn sizes(&self) -> Result<Sizes, SizesError> {
        let path = self.database.db().path();
        let system = rustix::fs::statvfs(path).map_err(|error| SizesError::System(error.into()))?;
        let mut write_ahead_log = 0;
        for entry in std::fs::read_dir(path).map_err(SizesError::System)? {
            let entry = entry.map_err(SizesError::System)?;
            if entry.path().extension() == Some(OsStr::new("log")) {
                // If RocksDB has deleted the file meanwhile, it takes no room.
                write_ahead_log += entry.metadata().map_or(0, |metadata| metadata.len());
            }
        }
        Ok(Sizes {
            log: self.log.bytes(),
            live: self.sum(ESTIMATE_LIVE_DATA_SIZE)?,
            memtables: self.sum(CUR_SIZE_ALL_MEM_TABLES)?,
            write_ahead_log,
            available: system.f_bavail * system.f_frsize,
        })
    }

    /// The sum of a number that RocksDB keeps for each column family.
    fn sum(&self, property: &rocksdb::properties::PropName) -> Result<u64, SizesError> {
        let db = self.database.db();
        let mut sum = 0;
        for name in open::all_families() {
            let value = db.property_int_value_cf(family(db, name), property);
            let value = value.map_err(|error| SizesError::Store(StoreError::Rocks("asking for sizes", error)))?;
            sum += value.unwrap_or(0);
        }
        Ok(sum)
    }
}
