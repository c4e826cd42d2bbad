//! The log: the requests that have been applied, in their order, and the records for changing that order afterwards.
//!
//! | module | what it holds |
//! |---|---|
//! | this one | [`Log`]: how far it is applied, committed, settled and truncated |
//! | [`entries`] | reading entries from the database |
//! | [`boundaries`] | digests at whole seconds, by which replicas compare logs and states |
//! | [`repair`] | undo, insert, apply again |
//! | [`orphans`] | requests that have lost their place in the log |
//!
//! ```text
//!      truncated │            settled             │     can be undone      │ to be applied (in a repair)
//!  ──────────────┼────────────────────────────────┼────────────────────────┼────────────────────────────► uid
//!              base                            settled                  applied
//! ```
//!
//! Everything up to `settled` is the same on all replicas, for good: nothing is inserted there, and the undo records are gone.
//! Everything up to `base` has been dropped, since the log must not grow for ever. A replica that lacks it gets a snapshot.
//!
//! All reads see committed data and nothing else, so statements of a replica about its log still hold after a crash.

pub mod boundaries;
pub mod entries;
pub mod orphans;
pub mod repair;

use super::database::{Batch, decode, family, read_meta};
use super::error::StoreError;
use super::schema::{self, Applied, LogEntry, Undone};
use super::state::values::UndoRecord;
use boundaries::BoundaryHistory;
pub use entries::Bodies;
use rocksdb::DB;
use stablechat_protocol::digest::{BoundaryDigests, Digest, LogMark};
use stablechat_protocol::peer::SnapshotEnd;
use stablechat_protocol::request::{Request, StampedRequest};
use stablechat_protocol::uid::Uid;
use stablechat_protocol::wire::to_cbor;
use std::sync::Arc;
use std::time::Duration;

/// The beginning of every log, before the first request.
pub const BEGIN: LogMark = LogMark { uid: Uid::MIN, position: 0, log_digest: Digest::ZERO };

/// Bytes of the log that are kept for replicas that have been away, unless [`Log::retain`] says otherwise.
const RETENTION: u64 = 1024 * 1024 * 1024;
/// The log may exceed its retention by 1/64, so that it is truncated seldom and many requests at a time.
const SLACK_SHARE: u64 = 64;
/// The most requests that are truncated at a time, which bounds how long the applier is busy with it.
const TRUNCATED_AT_A_TIME: usize = 4096;

/// The log of a store. See [`Log::violation`] for what holds between its fields.
pub struct Log {
    db: Arc<DB>,
    /// How far the log has been applied, uncommitted requests included.
    applied: Applied,
    /// The last committed request. Equal to `applied` after each commit.
    committed: LogMark,
    /// Nothing up to here is inserted or undone any more.
    settled: Uid,
    /// The last truncated request, after which the log begins; [`BEGIN`] when the log is whole.
    base: LogMark,
    /// Bytes of the encoded entries after `base` and up to `applied`.
    bytes: u64,
    /// Bytes of the log above which it is truncated.
    retention: u64,
    /// Digests at whole seconds of the recent past. All of them lie below `applied`.
    boundaries: BoundaryHistory,
}

/// How two logs that differ become the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconciliation {
    /// The requests that a peer has and we lack can be inserted into our log.
    Insert,
    /// They cannot: a snapshot of the peer's store has to replace ours.
    TakeSnapshot,
    /// Nothing is to be had from the peer, which has to take a snapshot of ours.
    GiveSnapshot,
}

/// The last applied request, with the record for undoing it.
pub struct LastApplied {
    pub entry: LogEntry,
    pub undo: UndoRecord,
    /// The request before it.
    pub before: LogMark,
}

impl Log {
    /// The log in a database, as the last process left it.
    pub fn load(db: Arc<DB>) -> Result<Log, StoreError> {
        let applied: Applied = read_meta(&db, schema::META_APPLIED)?.unwrap_or(Applied::NOTHING);
        Ok(Log {
            committed: applied.mark(),
            applied,
            settled: read_meta(&db, schema::META_SETTLED)?.unwrap_or(Uid::MIN),
            base: read_meta(&db, schema::META_BASE)?.unwrap_or(BEGIN),
            bytes: read_meta(&db, schema::META_LOG_BYTES)?.unwrap_or(0),
            retention: RETENTION,
            boundaries: BoundaryHistory::default(),
            db,
        })
    }

    /// Reads the log anew after a snapshot has replaced it.
    pub fn reload(&mut self) -> Result<(), StoreError> {
        *self = Log { retention: self.retention, ..Log::load(Arc::clone(&self.db))? };
        Ok(())
    }

    /// How far the log has been applied, uncommitted requests included.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// The last committed request.
    pub fn last_mark(&self) -> LogMark {
        self.committed
    }

    /// Up to where the log is settled; [`Uid::MIN`] when it is nowhere.
    pub fn settled(&self) -> Uid {
        self.settled
    }

    /// The last settled request; the [`Log::base`] when there is none after it.
    ///
    /// # Errors
    /// Storage failed, or is corrupt; as for all that follows.
    pub fn settled_mark(&self) -> Result<LogMark, StoreError> {
        let entry = entries::entry(&self.db, self.settled)?;
        Ok(entry.map_or(self.base, |entry| entries::mark(self.settled, &entry)))
    }

    /// The last truncated request, after which the log begins.
    pub fn base(&self) -> LogMark {
        self.base
    }

    /// The ends of the seconds that are remembered.
    pub fn boundaries(&self) -> &BoundaryHistory {
        &self.boundaries
    }

    /// Bytes of the entries of the log.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sets how many bytes of the log are kept, about.
    pub fn retain(&mut self, bytes: u64) {
        self.retention = bytes;
    }

    /// Whether the log exceeds its retention by enough to be truncated.
    pub fn is_too_long(&self) -> bool {
        self.bytes > self.retention + self.retention / SLACK_SHARE
    }

    /// The digests as of all requests with timestamps before this second, uncommitted requests included. `None` when they are
    /// not known: the second lies further back than the last 120 seconds with requests, or before the start of this process.
    pub fn boundary(&self, second: u64) -> Option<BoundaryDigests> {
        let Applied { position, log_digest, state_digest, .. } = *self.boundaries.at(second, &self.applied)?;
        Some(BoundaryDigests { second, position, log_digest, state_digest })
    }

    /// Appends a request that has been applied. Its undo record goes beside it.
    pub fn append(&mut self, batch: &mut Batch, uid: Uid, request: &Request, undo: &UndoRecord, state_digest: Digest) {
        debug_assert!(uid > self.applied.uid, "{uid} is appended to a log that ends with {}", self.applied.uid);
        self.boundaries.go_on(&self.applied, uid.timestamp);
        let request = to_cbor(request);
        let (position, log_digest) = (self.applied.position + 1, self.applied.log_digest.chain_encoded(uid, &request));
        self.applied = Applied { uid, position, log_digest, state_digest };

        let entry = LogEntry::encode(position, &log_digest, &request);
        self.bytes += batch.put_encoded(schema::LOG, uid.to_bytes(), &entry) as u64;
        batch.put(schema::UNDO, uid.to_bytes(), undo);
    }

    /// Puts a request into the log below or after the last applied one, to be applied by the repair that is under way.
    pub fn put_unapplied(&self, batch: &mut Batch, uid: Uid, request: Request) {
        let entry = LogEntry { position: 0, log_digest: Digest::ZERO, request };
        batch.put(schema::LOG, uid.to_bytes(), &entry);
    }

    /// The last applied request, which must be committed, with its undo record.
    pub fn last_applied(&self) -> Result<LastApplied, StoreError> {
        let uid = self.applied.uid;
        let corrupt = |what: &str| StoreError::Corrupt(format!("request {uid} cannot be undone: {what}"));
        let entry = entries::entry(&self.db, uid)?.ok_or_else(|| corrupt("it is not in the log"))?;
        let undo = self.db.get_cf(family(&self.db, schema::UNDO), uid.to_bytes());
        let undo = undo.map_err(|error| StoreError::Rocks("reading undo records", error))?;
        let undo = decode(schema::UNDO, &undo.ok_or_else(|| corrupt("it has no undo record"))?)?;

        let before = entries::last_before(&self.db, uid)?;
        let before = before.map_or(self.base, |(uid, entry)| entries::mark(uid, &entry));
        if (before.position + 1, before.log_digest.chain(uid, &entry.request)) != (entry.position, entry.log_digest) {
            return Err(corrupt("the log has a gap before it"));
        }
        Ok(LastApplied { entry, undo, before })
    }

    /// Takes back the last applied request, whose effects on the state have been undone. It stays in the log, to be applied
    /// again.
    pub fn take_back(
        &mut self,
        batch: &mut Batch,
        entry: &LogEntry,
        before: LogMark,
        undone: &Undone,
        state_digest: Digest,
    ) -> Result<(), StoreError> {
        let uid = self.applied.uid;
        self.bytes -= to_cbor(entry).len() as u64;
        let LogMark { uid: last, position, log_digest } = before;
        self.applied = Applied { uid: last, position, log_digest, state_digest };
        if position == 0 && self.applied != Applied::NOTHING {
            return Err(StoreError::Corrupt("all requests have been undone, but the state is not empty".into()));
        }

        batch.delete(schema::UNDO, uid.to_bytes());
        batch.put(schema::UNDONE, uid.to_bytes(), undone);
        self.boundaries.go_back(last);
        Ok(())
    }

    /// Settles the log up to this uid, or up to the last applied request if that is below it: drops the undo records.
    pub fn settle(&mut self, batch: &mut Batch, uid: Uid) {
        let uid = uid.min(self.applied.uid);
        if uid <= self.settled {
            return;
        }
        batch.delete_range(schema::UNDO, entries::key_after(self.settled), entries::key_after(uid));
        batch.put(schema::META, schema::META_SETTLED, &uid);
        self.settled = uid;
    }

    /// Settles the log up to a boundary at which all replicas have agreed. Does nothing if a repair has changed the log below it
    /// since.
    pub fn settle_boundary(&mut self, batch: &mut Batch, agreed: &BoundaryDigests) {
        let is_unchanged = self.boundary(agreed.second) == Some(*agreed);
        let known = self.boundaries.at(agreed.second, &self.applied).map(|known| known.uid);
        if let Some(uid) = known.filter(|_| is_unchanged) {
            self.settle(batch, uid);
        }
    }

    /// Drops settled requests from the beginning of the log, a bounded number at a time, if it is too long.
    ///
    /// They can be neither undone nor preceded by another request, so this replica needs them for nothing. The last settled
    /// request stays, so that a log with requests never looks empty.
    pub fn truncate(&mut self, batch: &mut Batch) -> Result<(), StoreError> {
        if !self.is_too_long() {
            return Ok(());
        }

        let (mut base, mut bytes) = (self.base, self.bytes);
        for entry in entries::entries(&self.db, self.base.uid).take(TRUNCATED_AT_A_TIME) {
            let (uid, entry) = entry?;
            if uid <= self.base.uid {
                continue;
            }
            if uid >= self.settled || bytes <= self.retention {
                break;
            }
            base = entries::mark(uid, &entry);
            bytes -= to_cbor(&entry).len() as u64;
        }

        if base != self.base {
            batch.delete_range(schema::LOG, entries::key_after(self.base.uid), entries::key_after(base.uid));
            batch.put(schema::META, schema::META_BASE, &base);
            (self.base, self.bytes) = (base, bytes);
        }
        Ok(())
    }

    /// Writes how far the log has been applied. A batch that changes the log has to end with this.
    pub fn put_applied(&self, batch: &mut Batch) {
        batch.put(schema::META, schema::META_APPLIED, &self.applied);
        batch.put(schema::META, schema::META_LOG_BYTES, &self.bytes);
    }

    /// Everything that was applied has been committed.
    pub fn on_committed(&mut self) {
        self.committed = self.applied.mark();
    }

    /// Writes the facts of a log that has come with a snapshot.
    pub fn put_snapshot(batch: &mut Batch, end: &SnapshotEnd) {
        let LogMark { uid, position, log_digest } = end.applied;
        let applied = Applied { uid, position, log_digest, state_digest: end.state_digest };
        batch.put(schema::META, schema::META_APPLIED, &applied);
        batch.put(schema::META, schema::META_SETTLED, &end.settled);
        batch.put(schema::META, schema::META_BASE, &end.base);
        batch.put(schema::META, schema::META_LOG_BYTES, &end.log_bytes);
    }

    /// The first violated invariant between the fields, in a sentence; `None` when all hold. Reads nothing from the database, so it can
    /// be checked after every request.
    pub fn violation(&self) -> Option<String> {
        let Log { applied, settled, base, bytes, .. } = self;
        let last_boundary = self.boundaries.iter().last().map_or(Uid::MIN, |last| last.uid);
        let is_empty = *base == applied.mark();
        if base.uid > *settled {
            Some(format!("the log is truncated up to {}, but settled only up to {settled}", base.uid))
        } else if *settled > applied.uid {
            Some(format!("{settled} is settled, but only {} applied", applied.uid))
        } else if !is_empty && (base.position >= applied.position || base.uid >= applied.uid) {
            Some(format!("the log begins after {base:?}, but ends with {:?}", applied.mark()))
        } else if is_empty != (*bytes == 0) {
            Some(format!("the log has {bytes} bytes in {} entries", applied.position - base.position))
        } else if (applied.position == 0) != (*applied == Applied::NOTHING) {
            Some(format!("{} requests have been applied, up to {}", applied.position, applied.uid))
        } else if last_boundary != Uid::MIN && last_boundary >= applied.uid {
            Some(format!("a second is remembered to end with {last_boundary}, but only {} is applied", applied.uid))
        } else {
            None
        }
    }
}

/// The parts of the log that peers compare, fetch and transfer.
impl Log {
    /// Whether the log has this request.
    pub fn contains(&self, uid: Uid) -> Result<bool, StoreError> {
        Ok(entries::value(&self.db, uid)?.is_some())
    }

    /// The request under this uid, if the log has it.
    pub fn request(&self, uid: Uid) -> Result<Option<Request>, StoreError> {
        Ok(entries::entry(&self.db, uid)?.map(|entry| entry.request))
    }

    /// The entries in their order, from the first whose uid is not below `from`.
    pub fn entries(&self, from: Uid) -> impl Iterator<Item = Result<(Uid, LogEntry), StoreError>> + '_ {
        entries::entries(&self.db, from)
    }

    /// Looks for requests in the log, in the given order, until those that it has come to `bytes_max` bytes; the last one may
    /// exceed it. The rest is in neither list.
    pub fn bodies(&self, uids: &[Uid], bytes_max: usize) -> Result<Bodies, StoreError> {
        entries::bodies(&self.db, uids, bytes_max)
    }

    /// The requests after a uid, in their order, until they come to `bytes_max` bytes; the last one may exceed it. Also whether
    /// the log ends with them.
    pub fn piece_after(&self, after: Uid, bytes_max: usize) -> Result<(Vec<StampedRequest>, bool), StoreError> {
        entries::piece_after(&self.db, after, bytes_max)
    }

    /// Marks for finding where another log parts from this one, newest first: the last request, the last ones that are more
    /// than 1 s, 2 s, 4 s, … older, the last settled one, the first, and the one before the first if it is known. At most 39,
    /// since timestamps have 64 bits; none for an empty log.
    pub fn marks(&self) -> Result<Vec<LogMark>, StoreError> {
        let Some(first) = entries::entries(&self.db, self.base.uid).next().transpose()? else { return Ok(Vec::new()) };
        let first = entries::mark(first.0, &first.1);

        let mut marks = vec![self.committed];
        let mut distance = Duration::from_secs(1);
        loop {
            let bound = self.committed.uid.timestamp.before(distance);
            let Some((uid, entry)) = entries::last_before(&self.db, Uid { timestamp: bound, digest: [0; 16] })? else {
                break;
            };
            if marks.last().is_none_or(|last| last.uid != uid) {
                marks.push(entries::mark(uid, &entry));
            }
            distance *= 2;
        }

        marks.extend([first, self.settled_mark()?, self.base].into_iter().filter(|mark| mark.position > 0));
        marks.sort_by_key(|mark| std::cmp::Reverse(mark.position));
        marks.dedup();
        Ok(marks)
    }

    /// The first of these marks up to which this log is the same. Since a mark has the chain hash, equal marks mean equal logs
    /// before them.
    pub fn common(&self, marks: &[LogMark]) -> Result<Option<LogMark>, StoreError> {
        for other in marks {
            if *other == self.base {
                return Ok(Some(*other));
            }
            if let Some(entry) = entries::entry(&self.db, other.uid)?
                && entries::mark(other.uid, &entry) == *other
            {
                return Ok(Some(*other));
            }
        }
        Ok(None)
    }

    /// How a peer's log, which begins after `base` and is `settled` up to there, and ours become the same. `common` is the newest
    /// known mark that both have.
    ///
    /// Requests that one log lacks cannot be inserted if the other has truncated them, or if they belong below the settled end of the
    /// first. Then a snapshot has to replace one of the two logs, and both replicas have to choose the same one: the log that is
    /// further on stays.
    pub fn reconciliation(
        &self,
        common: Option<LogMark>,
        base: LogMark,
        settled: LogMark,
    ) -> Result<Reconciliation, StoreError> {
        if common.is_none() && rank(base) != rank(self.base) {
            let is_ours_ahead = rank(self.base) > rank(base);
            return Ok(if is_ours_ahead { Reconciliation::GiveSnapshot } else { Reconciliation::TakeSnapshot });
        }

        let reaches = self.committed.uid >= settled.uid && settled.position > self.base.position;
        let is_impossible = reaches && rank(settled) > rank(self.settled_mark()?) && self.common(&[settled])?.is_none();
        Ok(if is_impossible { Reconciliation::TakeSnapshot } else { Reconciliation::Insert })
    }
}

/// The order of marks by how far on they are, the same at all replicas.
fn rank(mark: LogMark) -> (u64, [u8; 32]) {
    (mark.position, mark.log_digest.0)
}

#[cfg(test)]
mod tests;
