//! `ChatStore`: the state machine of the service, on RocksDB.
//!
//! It maps ordered commands to answers and is deterministic: what [`ChatStore::apply`] answers and writes is a function of
//! the state and the request (uid, actor, command) alone. No clock, no randomness, no hash map's order, no configuration.
//! What a connection is, or which replica this is, it does not know.
//!
//! Requests are applied on top of what is committed and stay in memory until [`ChatStore::commit`] writes everything of one
//! wake in a single synced batch: state, log entries, undo records, sessions and how far the log has been applied. An
//! answer may leave the replica only after that.
//!
//! A request that becomes known too late is put in its place by [`ChatStore::begin_inserting`], which undoes and applies again what
//! follows it (as Bayou does: Terry et al. 1995).
//!
//! The log does not grow for ever: [`ChatStore::truncate`]. Who lacks what was truncated gets a snapshot: see `snapshot`.
//!
//! Left out here: rooms.

mod backup;
mod boundary;
mod chat;
mod check;
mod directory;
mod error;
mod housekeeping;
mod log;
mod open;
mod orphans;
mod query;
mod repair;
mod rows;
pub mod schema;
mod session;
mod sizes;
mod snapshot;
mod truncation;

pub use backup::{Backup, BackupError, Backups, Restored, applied_of, copy_database, owner_of};
pub use check::{CheckReport, Progress};
pub use directory::DataDirectory;
pub use error::{OpenError, StoreError};
pub use open::{Medium, open_copy};
pub use repair::{Changed, Repair};
pub use sizes::{Sizes, SizesError};
pub use snapshot::{Export, Import, ImportError, Part};
pub use truncation::Parting;

use boundary::BoundaryHistory;
use repair::{ChunkLimit, PendingRepair};
use rocksdb::{DB, WriteBatch, WriteOptions};
use rows::{Rows, family};
use schema::{Applied, LogEntry, StoreIdentity};
use stablechat_protocol::answer::{Answer, Message, QueryAnswer};
use stablechat_protocol::digest::{BoundaryDigests, LogMark};
use stablechat_protocol::request::{Actor, QueryRequest, Request};
use stablechat_protocol::uid::Uid;
use stablechat_protocol::wire::to_cbor;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The replicated state, its log, and what is known about both.
pub struct ChatStore {
    /// All rows of the state.
    rows: Rows,
    /// How far the log has been applied, what is not committed included.
    applied: Applied,
    /// The last request of the log, what is not committed left out.
    committed: LogMark,
    /// Up to here nothing is undone any more. Never above `applied`.
    settled: Uid,
    /// After this request the log begins; what comes before it was truncated. Not above `settled`.
    base: LogMark,
    /// How many bytes the applied entries of the log take.
    log_bytes: u64,
    /// How many of them are kept.
    retention: u64,
    /// Digests at whole seconds of the recent past.
    boundaries: BoundaryHistory,
    /// Log entries and undo records not yet committed.
    pending: WriteBatch,
    /// How many requests `pending` holds.
    uncommitted: usize,
    /// How much of a repair one batch holds.
    chunk_limit: ChunkLimit,
    /// The insertion that is under way.
    insertion: Option<PendingRepair>,
    /// What came of the repair that the last process left unfinished.
    resumed: Repair,
    /// The number of this replica's incarnation.
    epoch: u64,
    /// How many batches have been written.
    writes: Arc<AtomicU64>,
    /// After so many commits the next one fails, as a crash would.
    #[cfg(test)]
    commits_left: Option<usize>,
    /// Held open, and locked, for as long as the directory is ours.
    _lock: Option<std::fs::File>,
}

/// What applying a request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The answer for its client.
    pub answer: Answer,
    /// A message that it brought into being, and whose owners get to see it.
    pub delivery: Option<Delivery>,
}

/// A message for the connections of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The account and the key that owns it: a connection that holds another key is not its owner's.
    pub to: Actor,
    /// The message.
    pub message: Message,
}

impl ChatStore {
    /// Opens the store of a replica, or makes it, and begins a new epoch. Completes a repair that a crash interrupted; see
    /// [`ChatStore::take_resumed_repair`].
    ///
    /// # Errors
    /// The store is in use, belongs to another replica, is of a newer format, or cannot be read or written.
    pub fn open(medium: &Medium, identity: &StoreIdentity) -> Result<ChatStore, OpenError> {
        open::open(medium, identity)
    }

    /// Opens what is in a data directory that no replica uses, whosever it is, as its last process left it, for
    /// [`ChatStore::check`]. Nothing can be written.
    ///
    /// # Errors
    /// A process has it open, it is of a newer format, or cannot be read.
    pub fn open_to_read(directory: &DataDirectory) -> Result<ChatStore, OpenError> {
        open::open_to_read(directory)
    }

    /// The database, for who reads it as a whole.
    pub fn shared_db(&self) -> Arc<DB> {
        self.rows.shared_db()
    }

    /// How far the log has been applied, what is not committed included.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Begins another incarnation, durably, under a higher number than all before.
    ///
    /// # Errors
    /// Storage failed.
    pub fn begin_epoch(&mut self, epoch: u64) -> Result<(), StoreError> {
        debug_assert!(epoch > self.epoch);
        self.epoch = epoch;
        open::write_epoch(self.rows.db(), epoch)
    }

    /// The number of this replica's incarnation, from 1, increased at every open.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many batches have been written since it was opened: it grows while something is done that takes long.
    pub fn writes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.writes)
    }

    /// Goes on counting for those who have the counter of an earlier store, see [`ChatStore::writes`].
    pub fn count_writes_with(&mut self, earlier: Arc<AtomicU64>) {
        self.writes = earlier;
    }

    /// How many applied requests wait for [`ChatStore::commit`].
    pub fn uncommitted(&self) -> usize {
        self.uncommitted
    }

    /// Applies the request that is next in the order. Its effects are seen by what comes after it, and durable once
    /// [`ChatStore::commit`] has returned.
    ///
    /// # Errors
    /// Storage failed, or is corrupt; the store must not be used any more.
    pub fn apply(&mut self, uid: Uid, request: &Request) -> Result<Outcome, StoreError> {
        assert!(uid > self.applied.uid, "requests are applied in the order of their uids");
        self.boundaries.go_on(&self.applied, uid.timestamp);
        housekeeping::run_once_a_second(&mut self.rows, self.applied.uid.timestamp, uid.timestamp)?;
        let outcome = session::apply(&mut self.rows, uid, request)?;
        self.applied.uid = uid;
        self.applied.position += 1;
        self.applied.log_digest = self.applied.log_digest.chain(uid);
        self.applied.state_digest = self.rows.digest();
        let entry =
            LogEntry { position: self.applied.position, log_digest: self.applied.log_digest, request: request.clone() };
        let undo = self.rows.take_undo();
        let db = self.rows.db();
        let entry = to_cbor(&entry);
        self.log_bytes += entry.len() as u64;
        self.pending.put_cf(family(db, schema::LOG), uid.to_bytes(), entry);
        self.pending.put_cf(family(db, schema::UNDO), uid.to_bytes(), to_cbor(&undo));
        self.uncommitted += 1;
        Ok(outcome)
    }

    /// Answers a query from the state as it is now, what is not committed included.
    ///
    /// # Errors
    /// Storage failed, or is corrupt.
    pub fn query(&self, query: &QueryRequest) -> Result<QueryAnswer, StoreError> {
        query::answer(&self.rows, query)
    }

    /// The digests as of all requests with timestamps before this second, what is not committed included. None when they are
    /// not known: longer ago than about two minutes of requests, or before the start of this process.
    pub fn boundary(&self, second: u64) -> Option<BoundaryDigests> {
        let known = self.boundaries.at(second, &self.applied)?;
        let Applied { position, log_digest, state_digest, .. } = *known;
        Some(BoundaryDigests { second, position, log_digest, state_digest })
    }

    /// Settles the log up to a boundary at which all agree, if this is still what it is; see [`ChatStore::settle`].
    pub fn settle_boundary(&mut self, agreed: &BoundaryDigests) {
        if self.boundary(agreed.second) == Some(*agreed)
            && let Some(known) = self.boundaries.at(agreed.second, &self.applied)
        {
            self.settle(known.uid);
        }
    }

    /// Makes everything that was applied durable, in one synced batch. Does nothing when nothing has changed.
    ///
    /// # Errors
    /// Storage failed; what was applied may or may not be durable, and the store must not be used any more.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        #[cfg(test)]
        self.count_commit()?;
        let mut batch = std::mem::take(&mut self.pending);
        self.rows.drain_into(&mut batch);
        let meta = family(self.rows.db(), schema::META);
        batch.put_cf(meta, schema::META_APPLIED, to_cbor(&self.applied));
        batch.put_cf(meta, schema::META_LOG_BYTES, to_cbor(&self.log_bytes));
        self.rows
            .db()
            .write_opt(batch, &synced())
            .map_err(|error| StoreError::Rocks("writing what was applied", error))?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.uncommitted = 0;
        self.committed = self.applied.mark();
        Ok(())
    }

    /// Recomputes what can be recomputed and compares: the log's chain, the state digest, and what rows of different
    /// column families say about each other. Reads everything. What cannot be read is found wrong, too.
    pub fn check(&self) -> CheckReport {
        self.check_and_tell(&mut |_| {})
    }

    /// The same, telling now and then how far it is.
    pub fn check_and_tell(&self, tell: &mut dyn FnMut(Progress)) -> CheckReport {
        check::check(self, tell)
    }
}

/// Every write is on disk when it returns.
fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
