//! Checking a store against itself: reads everything, recomputes what can be recomputed, and compares what is said twice.
//!
//! RocksDB keeps a checksum of each block, so a byte that the disk has changed shows in reading it. What somebody has changed
//! through RocksDB shows in the rest.
//!
//! What the last process left may be in the middle of a repair, which the next one completes. The state is one that the log
//! gives even then, as far as it is applied, so all is checked. Only while a snapshot is put in the place of log and state is
//! there nothing to compare; then it is checked that all can be read.

use super::boundary::{begin_of, second_of};
use super::chat::unread_count;
use super::error::StoreError;
use super::open::{all_families, read_meta};
use super::rows::{Direction, Row, Rows, decode, family, row_digest};
use super::schema::{self, Bytes, Column, LogEntry, Session, StoreIdentity, UndoRecord, User, message_key, uid_at_end};
use super::{ChatStore, log};
use rocksdb::{DB, IteratorMode, ReadOptions};
use stablechat_protocol::digest::{Digest, LogMark};
use stablechat_protocol::peer::SnapshotEnd;
use stablechat_protocol::request::Request;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::uid::Uid;
use stablechat_protocol::wire::to_cbor;
use std::collections::{BTreeMap, BTreeSet};

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// How many applied requests are in the log.
    pub requests: u64,
    /// How many rows the state has.
    pub rows: u64,
    /// How many requests of the log are still to be applied, since a repair was under way when the last process ended.
    pub unapplied: u64,
    /// Whether a snapshot was being put in the place of all when the last process ended. Then the rest says little.
    pub is_installing: bool,
    /// What is wrong, a sentence each, but no more than some; empty when nothing is.
    pub faults: Vec<String>,
}

/// How far a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being checked.
    pub what: &'static str,
    /// How many rows of it have been read.
    pub rows: u64,
    /// Of about how many.
    pub rows_about: u64,
}

/// The most faults that a report names.
const FAULTS_MAX: usize = 100;
/// After so many rows it is said how far the check is.
const TELL_EVERY: u64 = 1024;

/// A check that is under way.
struct Check<'a> {
    store: &'a ChatStore,
    rows: &'a Rows,
    db: &'a DB,
    report: CheckReport,
    progress: Progress,
    tell: &'a mut dyn FnMut(Progress),
}

/// What a part of a check came to: nothing, unless something could not be read.
type Checked = Result<(), StoreError>;

/// See [`ChatStore::check_and_tell`].
pub fn check(store: &ChatStore, tell: &mut dyn FnMut(Progress)) -> CheckReport {
    let (rows, db, report) = (&store.rows, store.rows.db(), CheckReport::default());
    let progress = Progress { what: "", rows: 0, rows_about: 0 };
    let mut check = Check { store, rows, db, report, progress, tell };
    check.part(Check::check_facts);
    check.part(Check::read_all);
    if check.report.is_installing {
        return check.report;
    }
    check.part(Check::check_log);
    check.part(Check::check_undo);
    check.part(Check::check_undone);
    check.part(Check::check_boundaries);
    check.part(Check::check_digest);
    check.part(Check::check_unread);
    check.part(Check::check_sessions);
    check.part(Check::check_aside);
    check.report
}

impl Check<'_> {
    /// Makes a part of the check. What cannot be read is a fault.
    fn part(&mut self, part: fn(&mut Self) -> Checked) {
        if let Err(error) = part(self) {
            self.fault(error.to_string());
        }
    }

    /// Adds a fault, unless there are enough.
    fn fault(&mut self, fault: String) {
        if self.report.faults.len() < FAULTS_MAX {
            self.report.faults.push(fault);
        }
    }

    /// Rows of these column families are going to be read.
    fn begin(&mut self, what: &'static str, families: &[&str]) {
        let rows_about = families.iter().map(|name| self.store.rows_about(name)).sum();
        self.progress = Progress { what, rows: 0, rows_about };
    }

    /// A row has been read.
    fn count(&mut self) {
        self.progress.rows += 1;
        if self.progress.rows.is_multiple_of(TELL_EVERY) {
            (self.tell)(self.progress);
        }
    }

    /// The store says what it is.
    fn check_facts(&mut self) -> Checked {
        if read_meta::<u64>(self.db, schema::META_FORMAT)?.is_none() {
            self.fault("it does not say in which format it is".into());
        }
        if read_meta::<StoreIdentity>(self.db, schema::META_IDENTITY)?.is_none() {
            self.fault("it does not say whose it is".into());
        }
        if read_meta::<u64>(self.db, schema::META_EPOCH)?.is_none() {
            self.fault("it has no epoch".into());
        }
        self.report.is_installing = read_meta::<SnapshotEnd>(self.db, schema::META_INSTALLING)?.is_some();
        Ok(())
    }

    /// Everything can be read, what has been dropped from the beginning of the log included: it is there until RocksDB puts
    /// files together, and would come in the way then.
    #[expect(deprecated, reason = "deprecated as a way to read faster, which is not what it is here for")]
    fn read_all(&mut self) -> Checked {
        for name in all_families() {
            self.begin("whether all can be read", &[name]);
            let mut options = ReadOptions::default();
            options.set_ignore_range_deletions(true);
            options.fill_cache(false);
            for row in self.db.iterator_cf_opt(family(self.db, name), options, IteratorMode::Start) {
                row.map_err(|error| StoreError::Rocks("reading in order", error))?;
                self.count();
            }
        }
        Ok(())
    }

    /// The log is a chain without gaps that ends where it is said to end, each request under its own uid. What comes after that
    /// is still to be applied.
    fn check_log(&mut self) -> Checked {
        let store = self.store;
        self.begin("the log", &[schema::LOG]);
        let mut end = store.base;
        let mut bytes = 0;
        for entry in store.log(Uid::MIN) {
            let (uid, entry) = entry?;
            self.count();
            if entry.request.uid(uid.timestamp) != uid {
                self.fault(format!("the request under {uid} is not the one that the uid names"));
            }
            if uid > store.applied.uid {
                self.report.unapplied += 1;
                continue;
            }
            end = LogMark { uid, position: end.position + 1, log_digest: end.log_digest.chain(uid) };
            bytes += to_cbor(&entry).len() as u64;
            self.check_place(&entry, end);
        }
        self.report.requests = end.position - store.base.position;
        if bytes != store.log_bytes {
            self.fault(format!("the log has {bytes} bytes, not {}", store.log_bytes));
        }
        let LogMark { uid, position, .. } = store.applied.mark();
        if end != store.applied.mark() {
            self.fault(format!("the log ends at {} ({}), not at {position} ({uid})", end.position, end.uid));
        }
        Ok(())
    }

    /// An entry of the log says what the log gives.
    fn check_place(&mut self, entry: &LogEntry, place: LogMark) {
        let LogMark { uid, position, log_digest } = place;
        if entry.position != position {
            self.fault(format!("request {uid} says position {}, but is number {position}", entry.position));
        }
        if entry.log_digest != log_digest {
            self.fault(format!("the chain hash at position {position} is not what the log gives"));
        }
    }

    /// Exactly the applied requests that are not settled have undo records, which can be read.
    fn check_undo(&mut self) -> Checked {
        let (db, settled, applied) = (self.db, self.store.settled, self.store.applied.uid);
        if settled > applied {
            self.fault(format!("{settled} is settled, but only {applied} applied"));
        }
        self.begin("undo records", &[schema::LOG]);
        let mut recorded = pairs(db, schema::UNDO).map(|row| uid_key(schema::UNDO, &row?.0)).peekable();
        let mut strays = Vec::new();
        for row in pairs(db, schema::LOG) {
            let uid = uid_key(schema::LOG, &row?.0)?;
            self.count();
            while let Some(stray) = recorded.next_if(|found| is_uid(found, |found| found < uid)) {
                strays.push(stray?);
            }
            let is_recorded = recorded.next_if(|found| is_uid(found, |found| found == uid)).is_some();
            if is_recorded {
                self.check_record(uid)?;
            }
            match (uid <= settled, uid <= applied, is_recorded) {
                (true, _, true) => self.fault(format!("the settled request {uid} has an undo record")),
                (_, false, true) => self.fault(format!("request {uid} has an undo record, but is not applied")),
                (false, true, false) => self.fault(format!("request {uid} has no undo record")),
                _ => {}
            }
        }
        for stray in recorded {
            strays.push(stray?);
        }
        for stray in strays {
            self.fault(format!("there is an undo record of {stray}, which is not in the log"));
        }
        Ok(())
    }

    /// An undo record can be read, and names columns that there are.
    fn check_record(&mut self, uid: Uid) -> Checked {
        let value = self.db.get_cf(family(self.db, schema::UNDO), uid.to_bytes());
        let value = value.map_err(|error| StoreError::Rocks("reading undo records", error))?.unwrap_or_default();
        let undo: UndoRecord = decode(schema::UNDO, &value)?;
        for row in undo.rows.iter().filter(|row| Column::from_number(row.column).is_none()) {
            self.fault(format!("the undo record of {uid} names a column {}", row.column));
        }
        Ok(())
    }

    /// What was undone is in the log, to be applied again.
    fn check_undone(&mut self) -> Checked {
        for row in pairs(self.db, schema::UNDONE) {
            let uid = uid_key(schema::UNDONE, &row?.0)?;
            if uid <= self.store.applied.uid || !self.store.contains(uid)? {
                self.fault(format!("request {uid} has been undone and is not there to be applied again"));
            }
        }
        Ok(())
    }

    /// What is remembered as the end of a second is the last request before the next one.
    fn check_boundaries(&mut self) -> Checked {
        let store = self.store;
        for left in store.boundaries.iter().filter(|left| left.position >= store.base.position) {
            let second = second_of(left.uid.timestamp);
            let last = log::last_before(self.db, begin_of(second + 1))?;
            let last = last.map_or(store.base, |(uid, entry)| log::mark(uid, &entry));
            if last != left.mark() {
                self.fault(format!(
                    "second {second} is remembered to end with {}, but ends with {}",
                    left.uid, last.uid
                ));
            }
        }
        Ok(())
    }

    /// The state digest is that of the rows.
    fn check_digest(&mut self) -> Checked {
        self.begin("the state digest", &Column::ALL.map(Column::name));
        let mut digest = Digest::ZERO;
        for column in Column::ALL {
            for row in all(self.rows, column) {
                let (key, value) = row?;
                digest.toggle(row_digest(column, &key, &value));
                self.report.rows += 1;
                self.count();
            }
        }
        let said = self.store.applied.state_digest;
        if digest != said {
            self.fault(format!("the state digest is {said}, but the rows give {digest}"));
        }
        Ok(())
    }

    /// Unread messages are in their timelines, counted, and belong to an account or a deleted one's grave.
    fn check_unread(&mut self) -> Checked {
        self.begin("unread messages", &[Column::Unread.name()]);
        let mut owners = BTreeSet::new();
        for row in all(self.rows, Column::Users) {
            owners.insert(decode::<User>(Column::Users.name(), &row?.1)?.id);
        }
        let mut graves = BTreeSet::new();
        let mut counts: BTreeMap<Uid, u64> = BTreeMap::new();
        for row in all(self.rows, Column::Unread) {
            let (key, value) = row?;
            self.count();
            match (key.first(), uid_at_end(&key)) {
                (Some(b'g'), Some(account)) => {
                    graves.insert(account);
                }
                (Some(b'm'), Some(uid)) => {
                    let account = key.get(1..=Uid::LENGTH).and_then(Uid::from_bytes);
                    let account =
                        account.ok_or_else(|| StoreError::Corrupt("an unread message names no account".into()))?;
                    *counts.entry(account).or_default() += 1;
                    let Bytes(conversation) = decode(Column::Unread.name(), &value)?;
                    if self.rows.get(Column::Timelines, &message_key(&conversation, uid))?.is_none() {
                        self.fault(format!("unread message {uid} is in no timeline"));
                    }
                }
                (Some(b'c'), Some(_)) => {}
                _ => self.fault(format!("the key {key:02x?} has no place in unread")),
            }
        }
        for account in owners.iter().chain(counts.keys()) {
            let (counted, said) = (counts.get(account).copied().unwrap_or(0), unread_count(self.rows, *account)?);
            if counted != said && !graves.contains(account) {
                self.fault(format!("account {account} has {counted} unread messages, but its count is {said}"));
            }
            if !owners.contains(account) && !graves.contains(account) {
                self.fault(format!("there are unread messages of {account}, which is no account"));
            }
        }
        Ok(())
    }

    /// Each session has exactly one place in the order of use.
    fn check_sessions(&mut self) -> Checked {
        self.begin("sessions", &[Column::Sessions.name()]);
        let (mut sessions, mut places) = (0, 0);
        for row in all(self.rows, Column::Sessions) {
            let (key, value) = row?;
            self.count();
            match key.first() {
                Some(b's') => {
                    sessions += 1;
                    let session: Session = decode(Column::Sessions.name(), &value)?;
                    let client = key[1..].try_into().map(ClientId);
                    let client = client.map_err(|_| StoreError::Corrupt("a session's key is no client".into()))?;
                    if self.rows.get(Column::Sessions, &schema::session_use_key(session.used, client))?.is_none() {
                        self.fault(format!("session {client} has no place in the order of use"));
                    }
                }
                Some(b't') => places += 1,
                Some(b'a') => {}
                _ => self.fault(format!("the key {key:02x?} has no place in sessions")),
            }
        }
        if sessions != places {
            self.fault(format!("{sessions} sessions have {places} places in the order of use"));
        }
        Ok(())
    }

    /// What is aside are requests under their uids.
    fn check_aside(&mut self) -> Checked {
        for row in pairs(self.db, schema::ORPHANS) {
            let (key, value) = row?;
            let uid = uid_key(schema::ORPHANS, &key)?;
            let request: Request = decode(schema::ORPHANS, &value)?;
            if request.uid(uid.timestamp) != uid {
                self.fault(format!("the request that is aside under {uid} is not the one that the uid names"));
            }
        }
        Ok(())
    }
}

/// All keys and values of a column family, in order.
fn pairs<'a>(db: &'a DB, name: &'static str) -> impl Iterator<Item = Result<Row, StoreError>> + 'a {
    db.iterator_cf(family(db, name), IteratorMode::Start).map(|row| {
        let (key, value) = row.map_err(|error| StoreError::Rocks("reading in order", error))?;
        Ok((key.into_vec(), value.into_vec()))
    })
}

/// The uid that is a key of a column family.
fn uid_key(name: &str, key: &[u8]) -> Result<Uid, StoreError> {
    Uid::from_bytes(key).ok_or_else(|| StoreError::Corrupt(format!("a key in {name} is no uid")))
}

/// Whether a uid was read, and fits.
fn is_uid(found: &Result<Uid, StoreError>, fits: impl Fn(Uid) -> bool) -> bool {
    found.as_ref().is_ok_and(|uid| fits(*uid))
}

/// All rows of a column.
fn all(rows: &Rows, column: Column) -> impl Iterator<Item = Result<Row, StoreError>> + '_ {
    rows.scan(column, &[], &[0xff], Direction::Forward)
}

#[cfg(test)]
mod tests;
