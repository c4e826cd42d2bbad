//! The database itself: reading facts, writing batches, and the epoch. This module does not know the rows in it.

use super::error::StoreError;
use super::schema;
use rocksdb::{DB, WriteBatch, WriteOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use stablechat_protocol::wire::{from_cbor, to_cbor};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An open database and the lock on its directory.
pub struct Database {
    db: Arc<DB>,
    epoch: u64,
    /// The number of incarnations before this one since one was stable, except those that have left.
    restarts: u32,
    /// How many batches have been written.
    writes: Arc<AtomicU64>,
    /// After so many writes the next one fails, as a crash would.
    #[cfg(test)]
    pub writes_left: Option<usize>,
    /// Released when the file is closed. Declared after `db`, so that the database is closed first.
    _lock: Option<File>,
}

impl Database {
    /// An open database whose replica is in this incarnation, with the lock on its directory if it is in one.
    pub fn new(db: Arc<DB>, Incarnation { epoch, restarts }: Incarnation, lock: Option<File>) -> Database {
        Database {
            db,
            epoch,
            restarts,
            writes: Arc::default(),
            #[cfg(test)]
            writes_left: None,
            _lock: lock,
        }
    }

    pub fn db(&self) -> &DB {
        &self.db
    }

    /// The database, for a reader that outlives this borrow. It has to be dropped before the lock is released.
    pub fn shared(&self) -> Arc<DB> {
        Arc::clone(&self.db)
    }

    /// The number of this replica's incarnation.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The number of incarnations before this one since one was stable, except those that have left.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Begins another epoch, durably.
    pub fn begin_epoch(&mut self, epoch: u64, restarts: u32) -> Result<(), StoreError> {
        debug_assert!(epoch > self.epoch, "epoch {epoch} does not follow epoch {}", self.epoch);
        write_incarnation(&self.db, Incarnation { epoch, restarts })?;
        (self.epoch, self.restarts) = (epoch, restarts);
        Ok(())
    }

    /// Notes that this incarnation is stable, durably.
    pub fn note_stable(&mut self) -> Result<(), StoreError> {
        self.restarts = 0;
        write_incarnation(&self.db, Incarnation { epoch: self.epoch, restarts: 0 })
    }

    /// Notes that this incarnation has left, durably: it does not count as one that was not stable.
    pub fn note_left(&mut self) -> Result<(), StoreError> {
        let meta = family(&self.db, schema::META);
        let written = match self.restarts.checked_sub(1) {
            Some(before) => self.db.put_cf_opt(meta, schema::META_RESTARTS, to_cbor(&before), &synced()),
            None => self.db.delete_cf_opt(meta, schema::META_RESTARTS, &synced()),
        };
        written.map_err(|error| StoreError::Rocks("noting that the replica has left", error))
    }

    /// The number of batches written so far.
    pub fn writes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.writes)
    }

    /// Counts on in the counter of an earlier store.
    pub fn count_writes_with(&mut self, earlier: Arc<AtomicU64>) {
        self.writes = earlier;
    }

    /// Writes a batch, which is on disk when this returns.
    pub fn write(&mut self, doing: &'static str, batch: WriteBatch) -> Result<(), StoreError> {
        self.write_with(doing, batch, &synced())
    }

    /// Writes a batch without waiting for the disk. A crash may take it, with all writes after it; the next [`Database::write`]
    /// makes it durable.
    pub fn write_unsynced(&mut self, doing: &'static str, batch: WriteBatch) -> Result<(), StoreError> {
        self.write_with(doing, batch, &WriteOptions::default())
    }

    fn write_with(&mut self, doing: &'static str, batch: WriteBatch, options: &WriteOptions) -> Result<(), StoreError> {
        #[cfg(test)]
        self.use_up_write()?;
        self.db.write_opt(batch, options).map_err(|error| StoreError::Rocks(doing, error))?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Fails when no write is left.
    #[cfg(test)]
    fn use_up_write(&mut self) -> Result<(), StoreError> {
        match &mut self.writes_left {
            None => {}
            Some(0) => return Err(StoreError::Corrupt("the test wants a crash".into())),
            Some(left) => *left -= 1,
        }
        Ok(())
    }
}

/// The writes of the next commit beside the rows of the state: entries of the log, undo records, orphans and facts.
pub struct Batch {
    db: Arc<DB>,
    writes: WriteBatch,
}

impl Batch {
    pub fn new(db: Arc<DB>) -> Batch {
        Batch { db, writes: WriteBatch::default() }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// How many bytes there are to write; 0 when there is nothing.
    pub fn bytes(&self) -> usize {
        // An empty batch has a header.
        if self.is_empty() { 0 } else { self.writes.size_in_bytes() }
    }

    /// Writes a value, and returns how many bytes it takes.
    pub fn put<T: Serialize>(&mut self, name: &str, key: impl AsRef<[u8]>, value: &T) -> usize {
        self.put_encoded(name, key, &to_cbor(value))
    }

    /// The same for a value that is encoded already.
    pub fn put_encoded(&mut self, name: &str, key: impl AsRef<[u8]>, value: &[u8]) -> usize {
        self.writes.put_cf(family(&self.db, name), key.as_ref(), value);
        value.len()
    }

    pub fn delete(&mut self, name: &str, key: impl AsRef<[u8]>) {
        self.writes.delete_cf(family(&self.db, name), key.as_ref());
    }

    /// Deletes all rows with `from <= key < to`.
    pub fn delete_range(&mut self, name: &str, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) {
        self.writes.delete_range_cf(family(&self.db, name), from.as_ref(), to.as_ref());
    }

    /// The writes gathered so far. The batch is empty afterwards.
    pub fn take(&mut self) -> WriteBatch {
        std::mem::take(&mut self.writes)
    }
}

/// Options of a write that is on disk when it returns.
pub fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

/// A column family. All of them were made when the database was opened.
pub fn family<'a>(db: &'a DB, name: &str) -> &'a rocksdb::ColumnFamily {
    db.cf_handle(name).expect("all column families are made when the database is opened")
}

/// Decodes a value of the column family with this name.
pub fn decode<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, StoreError> {
    from_cbor(bytes).map_err(|error| StoreError::Corrupt(format!("a row of {name} cannot be decoded: {error}")))
}

/// A fact from [`schema::META`]; `None` when it is not there.
pub fn read_meta<T: DeserializeOwned>(db: &DB, key: &[u8]) -> Result<Option<T>, StoreError> {
    let bytes = db.get_cf(family(db, schema::META), key).map_err(|error| StoreError::Rocks("reading a fact", error))?;
    bytes.map(|bytes| decode(schema::META, &bytes)).transpose()
}

/// The incarnation that a store is in.
#[derive(Clone, Copy, Debug)]
pub struct Incarnation {
    /// Its number.
    pub epoch: u64,
    /// The number of incarnations before it since one was stable, except those that have left.
    pub restarts: u32,
}

/// Begins the next incarnation, durably. The one before it was not stable, as far as the store knows.
pub fn next_incarnation(db: &DB) -> Result<Incarnation, StoreError> {
    let Incarnation { epoch, .. } = last_incarnation(db)?;
    let before: Option<u32> = read_meta(db, schema::META_RESTARTS)?;
    let next = Incarnation { epoch: epoch + 1, restarts: before.map_or(0, |before| before.saturating_add(1)) };
    write_incarnation(db, next)?;
    Ok(next)
}

/// The last incarnation that was begun.
pub fn last_incarnation(db: &DB) -> Result<Incarnation, StoreError> {
    let epoch = read_meta(db, schema::META_EPOCH)?.unwrap_or(0);
    Ok(Incarnation { epoch, restarts: read_meta(db, schema::META_RESTARTS)?.unwrap_or(0) })
}

fn write_incarnation(db: &DB, Incarnation { epoch, restarts }: Incarnation) -> Result<(), StoreError> {
    let meta = family(db, schema::META);
    let mut batch = WriteBatch::default();
    batch.put_cf(meta, schema::META_EPOCH, to_cbor(&epoch));
    batch.put_cf(meta, schema::META_RESTARTS, to_cbor(&restarts));
    db.write_opt(batch, &synced()).map_err(|error| StoreError::Rocks("writing the epoch", error))
}
