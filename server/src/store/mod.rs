//! `ChatStore`: the replicated state and its log, on RocksDB.
//!
//! It maps ordered commands to answers. The answer and the writes of [`ChatStore::apply`] are a function of the state and of the
//! request (uid, actor, command) alone. It knows no clock, no randomness, no peers and no connections.
//!
//! | module | what it holds |
//! |---|---|
//! | `state` | the state machine: commands and queries on rows. New commands go here |
//! | `log` | the requests that were applied, in order; undo, repair, truncation, orphans |
//! | `snapshot` | log and state as of one moment, for a replica that lacks truncated requests |
//! | `schema` | column families and facts; those of the state are in `state::keys` and `state::values` |
//! | `database`, `open`, `directory` | RocksDB, its settings, and the data directory |
//! | `check`, `sizes`, `backup`, `view` | commands and figures for operators |
//!
//! Requests are applied on top of the committed state and stay in memory until [`ChatStore::commit`] writes everything in one
//! synced batch: rows, log entries, undo records, and how far the log has been applied. The last must never be written apart from the
//! rest, or a crash would leave a request applied twice or not at all. An answer may leave the replica only after the commit,
//! since it promises durability.
//!
//! A request that becomes known too late is put in its place by [`ChatStore::begin_inserting`], which undoes the requests that
//! follow it and applies them again: see `log::repair`.

mod backup;
mod check;
mod database;
mod directory;
mod error;
mod log;
mod open;
pub mod schema;
mod sizes;
mod snapshot;
mod state;
mod view;

pub use backup::{Backup, BackupError, Backups, Restored, applied_of, copy_database, owner_of};
pub use check::{CheckReport, Progress};
pub use directory::DataDirectory;
pub use error::{OpenError, StoreError};
pub use log::orphans::OrphanEffect;
pub use log::repair::{Changed, Repair};
pub use log::{Bodies, Log, Reconciliation};
pub use open::{Location, open_copy};
pub use sizes::{Sizes, SizesError};
pub use snapshot::{SnapshotError, SnapshotPart, SnapshotReader, SnapshotReceiver};
pub use state::session::in_own_session;
pub use state::{Audience, Delivery, Outcome, RoomOutcome};
pub use view::DatabaseView;

use database::{Batch, Database};
use log::repair::Repairs;
use rocksdb::DB;
use schema::{Applied, StoreIdentity};
use stablechat_protocol::answer::QueryAnswer;
use stablechat_protocol::digest::BoundaryDigests;
use stablechat_protocol::operator::InitialSettings;
use stablechat_protocol::request::{Actor, QueryRequest, Request};
use stablechat_protocol::status::StateContents;
use stablechat_protocol::uid::Uid;
use state::rows::Rows;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// A commit is due when it would write about so many bytes: rows, log entries, undo records. Uncommitted writes lie in memory,
/// in the overlay of the rows or in the batch. A message of 30 bytes writes about 850 bytes (measured), so these are some 5,000
/// messages.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The replicated state of a replica, and its log.
pub struct ChatStore {
    rows: Rows,
    log: Log,
    repairs: Repairs,
    /// The writes of the next commit beside the rows.
    batch: Batch,
    /// Last, so that the lock on the directory is released after the others have let go of the database.
    database: Database,
}

impl ChatStore {
    /// Opens the store of a replica, or creates it, and begins a new epoch. Completes a repair or the installation of a snapshot
    /// that a crash has interrupted; see [`ChatStore::take_resumed_repair`].
    ///
    /// # Errors
    /// The store is in use, belongs to another replica, was made with other settings, has another format, or cannot be read or written.
    pub fn open(
        location: &Location,
        identity: &StoreIdentity,
        initial: &InitialSettings,
    ) -> Result<ChatStore, OpenError> {
        open::open(location, identity, initial)
    }

    /// Opens the store in a data directory that no replica uses, whichever replica it belongs to, as its last process left it. For
    /// [`ChatStore::check`]: nothing can be written.
    ///
    /// # Errors
    /// A process has it open, it has another format, or cannot be read.
    pub fn open_to_read(directory: &DataDirectory) -> Result<ChatStore, OpenError> {
        open::open_to_read(directory)
    }

    /// The database, for a backup. It must be dropped before the store.
    pub fn shared_db(&self) -> Arc<DB> {
        self.database.shared()
    }

    /// The log: how far it goes, and its entries.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// How far the log has been applied, uncommitted requests included.
    pub fn applied(&self) -> &Applied {
        self.log.applied()
    }

    /// How much there is in the state, uncommitted requests included.
    pub fn contents(&self) -> StateContents {
        self.rows.contents()
    }

    /// The number of this replica's incarnation, increased at every open.
    pub fn epoch(&self) -> u64 {
        self.database.epoch()
    }

    /// The number of incarnations of this replica before this one since one was stable, except those that have left.
    pub fn restarts(&self) -> u32 {
        self.database.restarts()
    }

    /// Begins another incarnation, durably, under a higher number than all before, with this number of restarts.
    ///
    /// # Errors
    /// Storage failed.
    pub fn begin_epoch(&mut self, epoch: u64, restarts: u32) -> Result<(), StoreError> {
        self.database.begin_epoch(epoch, restarts)
    }

    /// Notes that this incarnation is stable, durably: the ones before it count no more.
    ///
    /// # Errors
    /// Storage failed.
    pub fn note_stable(&mut self) -> Result<(), StoreError> {
        self.database.note_stable()
    }

    /// Notes that this incarnation has left, durably: it does not count as a restart.
    ///
    /// # Errors
    /// Storage failed.
    pub fn note_left(&mut self) -> Result<(), StoreError> {
        self.database.note_left()
    }

    /// A counter of the batches written since the store was opened. While it grows, a thread that does not answer is at work and
    /// does not hang.
    pub fn writes(&self) -> Arc<AtomicU64> {
        self.database.writes()
    }

    /// Counts on in the counter of an earlier store, so that a thread that watches it need not learn of the new store; see [`ChatStore::writes`].
    pub fn count_writes_with(&mut self, earlier: Arc<AtomicU64>) {
        self.database.count_writes_with(earlier);
    }

    /// Applies the request that is next in the order. The requests after it see its effects at once; they are durable when
    /// [`ChatStore::commit`] has returned.
    ///
    /// # Errors
    /// Storage failed, or is corrupt; the store must not be used any more.
    pub fn apply(&mut self, uid: Uid, request: &Request) -> Result<Outcome, StoreError> {
        let before = self.applied().uid;
        assert!(uid > before, "requests are applied in the order of their uids, but {uid} comes after {before}");
        let outcome = state::apply(&mut self.rows, before.timestamp, uid, request)?;
        let undo = self.rows.take_undo();
        self.log.append(&mut self.batch, uid, request, &undo, self.rows.digest());
        self.assert_invariants();
        Ok(outcome)
    }

    /// Answers a query from the state as it is now, uncommitted requests included.
    ///
    /// # Errors
    /// Storage failed, or is corrupt.
    pub fn query(&self, query: &QueryRequest) -> Result<QueryAnswer, StoreError> {
        state::query::answer(&self.rows, query)
    }

    /// Whether there is an account of the actor's name, and the actor's key owns it, uncommitted requests included.
    ///
    /// # Errors
    /// Storage failed, or is corrupt.
    pub fn owns(&self, actor: &Actor) -> Result<bool, StoreError> {
        Ok(state::users::find(&self.rows, &actor.account)?.is_some_and(|user| user.key == actor.key))
    }

    /// The ids of the rooms of the actor's account; none if there is no such account, or it has another key.
    ///
    /// # Errors
    /// Storage failed, or is corrupt.
    pub fn rooms_of(&self, actor: &Actor) -> Result<Vec<Uid>, StoreError> {
        state::rooms::of_actor(&self.rows, actor)
    }

    /// Settles the log up to a boundary at which all replicas have agreed: nothing up to there will be undone any more, so the
    /// undo records are dropped. Durable with the next commit.
    pub fn settle_boundary(&mut self, agreed: &BoundaryDigests) {
        self.log.settle_boundary(&mut self.batch, agreed);
    }

    /// Drops settled requests from the beginning of the log, a bounded number at a time, if it is too long. Durable with the next
    /// commit.
    ///
    /// # Errors
    /// Storage failed, or is corrupt.
    pub fn truncate(&mut self) -> Result<(), StoreError> {
        self.log.truncate(&mut self.batch)
    }

    /// Sets how many bytes of the log are kept, about, for replicas that have been away.
    pub fn retain(&mut self, bytes: u64) {
        self.log.retain(bytes);
    }

    /// About how many bytes the next commit writes; 0 when there is nothing to commit.
    pub fn uncommitted_bytes(&self) -> usize {
        self.batch.bytes() + self.rows.written_bytes()
    }

    /// Whether so much is uncommitted that a commit is due.
    pub fn is_batch_full(&self) -> bool {
        self.uncommitted_bytes() >= BATCH_BYTES_MAX
    }

    /// Makes everything that was applied durable, in one synced batch. Does nothing when nothing has changed.
    ///
    /// # Errors
    /// Storage failed. The applied requests may or may not be durable, and the store must not be used any more.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        // Rows never change alone: each request writes its log entry, each undone one its former answer.
        if self.batch.is_empty() {
            return Ok(());
        }
        self.log.put_applied(&mut self.batch);
        self.batch.put(schema::META, schema::META_CONTENTS, &self.rows.contents());
        let mut writes = self.batch.take();
        self.rows.drain_into(&mut writes);
        self.database.write("writing the applied requests", writes)?;
        self.log.on_committed();
        self.assert_invariants();
        Ok(())
    }

    /// Recomputes everything that can be recomputed, and compares it with the stored values: the log's chain, the state digest, counts, and
    /// rows of different column families that have to agree. Reads everything. A row that cannot be read is a fault, too.
    pub fn check(&self) -> CheckReport {
        self.check_and_tell(&mut |_| {})
    }

    /// Like [`ChatStore::check`], and tells from time to time how far it is.
    pub fn check_and_tell(&self, tell: &mut dyn FnMut(Progress)) -> CheckReport {
        check::check(self, tell)
    }

    /// The first violated invariant, in a sentence; `None` when all hold. They hold after every request and every commit. Reads nothing
    /// from the database.
    fn violation(&self) -> Option<String> {
        let (said, is) = (self.applied().state_digest, self.rows.digest());
        let is_committed = self.batch.is_empty();
        if said != is {
            Some(format!("the state digest is {said}, but the rows that were written give {is}"))
        } else if is_committed && self.log.last_mark() != self.applied().mark() {
            Some(format!("nothing is uncommitted, but {:?} is not the last request", self.log.last_mark()))
        } else {
            self.log.violation()
        }
    }

    /// Panics when an invariant is violated, which ends the process: better no answer than a wrong one.
    fn assert_invariants(&self) {
        debug_assert_eq!(self.violation(), None);
    }
}

#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
