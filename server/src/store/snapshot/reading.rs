//! Reading a snapshot from a store.

use super::{SnapshotPart, undo_digest};
use crate::store::ChatStore;
use crate::store::database::{decode, family};
use crate::store::error::StoreError;
use crate::store::log::{self, entries};
use crate::store::schema::{self, Applied};
use crate::store::state::keys::Column;
use crate::store::state::values::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use rocksdb::properties::ESTIMATE_NUM_KEYS;
use rocksdb::{DB, Direction, IteratorMode, ReadOptions, Snapshot};
use stablechat_protocol::digest::{Digest, LogMark};
use stablechat_protocol::peer::{BODIES_BYTES, SnapshotEnd, SnapshotRow};
use stablechat_protocol::uid::Uid;
use std::thread::JoinHandle;

/// Parts that are read ahead of being asked for, [`BODIES_BYTES`] each.
const PARTS_AHEAD: usize = 1;

/// A snapshot that is being read, by a thread of its own, so that the store goes on.
pub struct SnapshotReader {
    /// `None` once nothing more is wanted.
    parts: Option<Receiver<Result<SnapshotPart, StoreError>>>,
    rows_total: u64,
    thread: Option<JoinHandle<()>>,
}

impl SnapshotReader {
    /// About how many rows all parts have together, for showing progress.
    pub fn rows_total(&self) -> u64 {
        self.rows_total
    }

    /// The next part; `None` after the last.
    ///
    /// # Errors
    /// Storage failed, or is corrupt.
    pub fn next_part(&mut self) -> Result<Option<SnapshotPart>, StoreError> {
        let part = self.parts.as_ref().and_then(|parts| parts.recv().ok());
        part.transpose()
    }
}

impl Drop for SnapshotReader {
    fn drop(&mut self) {
        // The thread ends when nothing receives from it. It is waited for since it holds the database, which must be closed before
        // the store's lock is released.
        self.parts = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a panic has ended the process");
        }
    }
}

impl ChatStore {
    /// Begins to read a snapshot of the store as it is committed now.
    ///
    /// # Errors
    /// The operating system has no thread for it.
    pub fn read_snapshot(&self) -> Result<SnapshotReader, std::io::Error> {
        let (begun_sender, begun) = bounded(1);
        let (sender, parts) = bounded(PARTS_AHEAD);
        let db = self.database.shared();
        let thread = std::thread::Builder::new().name("snapshot".into()).spawn(move || {
            let snapshot = db.snapshot();
            drop(begun_sender);
            let parts = Parts { sender, rows: Vec::new(), bytes: 0 };
            Reading { db: &db, snapshot, parts, undo_digest: Digest::ZERO }.run();
        })?;
        // Wait until RocksDB has fixed the moment: a repair that began before that would be seen half done.
        begun.recv().unwrap_or(());
        Ok(SnapshotReader { parts: Some(parts), rows_total: self.about_how_many_rows(), thread: Some(thread) })
    }

    /// About how many rows a snapshot has, as far as RocksDB can tell without counting.
    fn about_how_many_rows(&self) -> u64 {
        let names = Column::ALL.map(Column::name).into_iter().chain([schema::LOG, schema::UNDO]);
        names.map(|name| self.rows_about(name)).sum()
    }

    /// About how many rows a column family has, as far as RocksDB can tell without counting.
    pub(in crate::store) fn rows_about(&self, name: &str) -> u64 {
        let db = self.database.db();
        // It only serves to show progress, so an estimate that cannot be had counts as none.
        db.property_int_value_cf(family(db, name), ESTIMATE_NUM_KEYS).ok().flatten().unwrap_or(0)
    }
}

/// The thread of a [`SnapshotReader`].
struct Reading<'a> {
    db: &'a DB,
    snapshot: Snapshot<'a>,
    parts: Parts,
    /// The sum of the digests of the undo records so far.
    undo_digest: Digest,
}

/// The parts of a snapshot, for the one that receives them.
struct Parts {
    sender: Sender<Result<SnapshotPart, StoreError>>,
    /// The rows of the next part so far, and the bytes of their keys and values.
    rows: Vec<SnapshotRow>,
    bytes: usize,
}

impl Parts {
    /// Sends a row, in pieces if its value does not fit into a part. An undo record has the old values of all rows that a request
    /// has written, so it may be longer than a frame.
    fn push(&mut self, number: u8, key: &[u8], value: &[u8]) -> Result<(), Stop> {
        let mut rest = value;
        loop {
            let (piece, after) = rest.split_at(rest.len().min(BODIES_BYTES));
            let (key, value, continues) = (Bytes(key.to_vec()), Bytes(piece.to_vec()), !after.is_empty());
            self.bytes += key.0.len() + piece.len();
            self.rows.push(SnapshotRow { family: number, key, value, continues });
            if self.bytes >= BODIES_BYTES {
                self.bytes = 0;
                let rows = std::mem::take(&mut self.rows);
                self.sender.send(Ok((rows, None))).map_err(|_| Stop::Unwanted)?;
            }
            if !continues {
                return Ok(());
            }
            rest = after;
        }
    }
}

/// Why reading ended before the last part.
enum Stop {
    /// Nothing receives the parts any more.
    Unwanted,
    Failed(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Failed(error)
    }
}

impl Reading<'_> {
    /// Sends all parts, as long as they are wanted.
    fn run(mut self) {
        let last = match self.read() {
            Ok(end) => Ok((std::mem::take(&mut self.parts.rows), Some(end))),
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::Unwanted) => return,
        };
        // If the receiver is gone, there is nobody to tell.
        self.parts.sender.send(last).unwrap_or(());
    }

    /// Sends all parts but the last.
    fn read(&mut self) -> Result<SnapshotEnd, Stop> {
        let applied = self.meta(schema::META_APPLIED)?.unwrap_or(Applied::NOTHING);
        let settled: Uid = self.meta(schema::META_SETTLED)?.unwrap_or(Uid::MIN);

        for column in Column::ALL {
            self.send_family(column as u8, column.name(), &[])?;
        }

        let from = settled.to_bytes();
        let base = self.mark_before(&from)?;
        let log_bytes = self.send_family(schema::LOG_NUMBER, schema::LOG, &from)?;
        self.send_family(schema::UNDO_NUMBER, schema::UNDO, &from)?;

        let (applied, state_digest) = (applied.mark(), applied.state_digest);
        Ok(SnapshotEnd { base, settled, applied, state_digest, log_bytes, undo_digest: self.undo_digest })
    }

    /// Sends the rows of a column family from a key on. Returns how many bytes their values take.
    fn send_family(&mut self, number: u8, name: &str, from: &[u8]) -> Result<u64, Stop> {
        let mode = IteratorMode::From(from, Direction::Forward);
        let mut options = ReadOptions::default();
        // Each row is read once. It must not displace rows from the cache that are read again and again.
        options.fill_cache(false);

        let mut total = 0;
        for row in self.snapshot.iterator_cf_opt(family(self.db, name), options, mode) {
            let (key, value) = row.map_err(|error| StoreError::Rocks("reading a snapshot", error))?;
            if number == schema::UNDO_NUMBER {
                self.undo_digest.toggle(undo_digest(&key, &value));
            }
            total += value.len() as u64;
            self.parts.push(number, &key, &value)?;
        }
        Ok(total)
    }

    /// The last request of the log before this key; the log's base when there is none.
    fn mark_before(&self, key: &[u8]) -> Result<LogMark, StoreError> {
        let mode = IteratorMode::From(key, Direction::Reverse);
        for row in self.snapshot.iterator_cf(family(self.db, schema::LOG), mode) {
            let (found, value) = row.map_err(|error| StoreError::Rocks("reading a snapshot", error))?;
            if found[..] < *key {
                return Ok(entries::mark(entries::uid_of_key(&found)?, &decode(schema::LOG, &value)?));
            }
        }
        Ok(self.meta(schema::META_BASE)?.unwrap_or(log::BEGIN))
    }

    /// A fact, as of the snapshot.
    fn meta<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        let bytes = self.snapshot.get_cf(family(self.db, schema::META), key);
        let bytes = bytes.map_err(|error| StoreError::Rocks("reading a snapshot", error))?;
        bytes.map(|bytes| decode(schema::META, &bytes)).transpose()
    }
}
