//! Checking a store against itself: reads everything, recomputes all values that can be recomputed, and compares values that
//! are stored twice.
//!
//! RocksDB keeps a checksum of each block, so a byte that the disk has changed is found by reading it. A change that was made
//! through RocksDB is found by the other checks.
//!
//! The last process may have left the store in the middle of a repair, which the next one completes. Even then the state is that
//! of the log as far as it is applied, so everything is checked. Only while a snapshot replaces log and state is there nothing to
//! compare; then it is only checked that all rows can be read.

mod conversations;
mod state;

use super::ChatStore;
use super::database::{decode, family, read_meta};
use super::error::StoreError;
use super::log::boundaries::begin_of;
use super::log::entries;
use super::open::all_families;
use super::schema::{self, LogEntry, StoreIdentity};
use super::state::keys::Column;
use super::state::rows::{Row, Rows};
use super::state::second_of;
use super::state::values::UndoRecord;
use rocksdb::{DB, IteratorMode, ReadOptions};
use stablechat_protocol::digest::LogMark;
use stablechat_protocol::operator::InitialSettings;
use stablechat_protocol::peer::SnapshotEnd;
use stablechat_protocol::request::Request;
use stablechat_protocol::uid::Uid;
use stablechat_protocol::wire::to_cbor;

/// The findings of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The number of applied requests in the log.
    pub requests: u64,
    /// The number of rows of the state.
    pub rows: u64,
    /// The number of requests in the log that are still to be applied, since a repair was under way when the last process ended.
    pub unapplied: u64,
    /// Whether a snapshot was being installed when the last process ended. Then log and state were not compared.
    pub is_installing: bool,
    /// The faults that were found, a sentence each, at most 100; empty when the store is sound.
    pub faults: Vec<String>,
}

/// How far a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The part of the store that is being checked.
    pub what: &'static str,
    /// How many rows of it have been read.
    pub rows: u64,
    /// About how many rows there are to read.
    pub rows_about: u64,
}

/// The most faults that a report names: a damaged store may have one in every row.
const FAULTS_MAX: usize = 100;
/// Rows between two reports of progress.
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

/// See [`ChatStore::check_and_tell`].
pub fn check(store: &ChatStore, tell: &mut dyn FnMut(Progress)) -> CheckReport {
    let (rows, db, report) = (&store.rows, store.database.db(), CheckReport::default());
    let progress = Progress { what: "", rows: 0, rows_about: 0 };
    let mut check = Check { store, rows, db, report, progress, tell };
    check.part(Check::check_facts);
    check.part(Check::read_all);
    if check.report.is_installing {
        return check.report;
    }
    check.part(Check::check_invariants);
    check.part(Check::check_log);
    check.part(Check::check_undo);
    check.part(Check::check_undone);
    check.part(Check::check_boundaries);
    check.part(Check::check_digest);
    check.part(Check::check_settings);
    check.part(Check::check_members);
    check.part(Check::check_timelines);
    check.part(Check::check_sessions);
    check.part(Check::check_orphans);
    check.report
}

impl Check<'_> {
    /// Runs a part of the check. A row that cannot be read is a fault, and ends the part.
    fn part(&mut self, part: fn(&mut Self) -> Result<(), StoreError>) {
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

    /// Begins to read the rows of these column families.
    fn begin(&mut self, what: &'static str, families: &[&str]) {
        let rows_about = families.iter().map(|name| self.store.rows_about(name)).sum();
        self.progress = Progress { what, rows: 0, rows_about };
    }

    /// Counts a row that has been read.
    fn count(&mut self) {
        self.progress.rows += 1;
        if self.progress.rows.is_multiple_of(TELL_EVERY) {
            (self.tell)(self.progress);
        }
    }

    /// The facts that every store has are there.
    fn check_facts(&mut self) -> Result<(), StoreError> {
        if read_meta::<u64>(self.db, schema::META_FORMAT)?.is_none() {
            self.fault("the store does not say in which format it is".into());
        }
        if read_meta::<StoreIdentity>(self.db, schema::META_IDENTITY)?.is_none() {
            self.fault("the store does not say which replica it belongs to".into());
        }
        if read_meta::<InitialSettings>(self.db, schema::META_INITIAL)?.is_none() {
            self.fault("the store does not say with which settings it was made".into());
        }
        if read_meta::<u64>(self.db, schema::META_EPOCH)?.is_none() {
            self.fault("the store has no epoch".into());
        }
        self.report.is_installing = read_meta::<SnapshotEnd>(self.db, schema::META_INSTALLING)?.is_some();
        Ok(())
    }

    /// All rows can be read, those included that have been truncated from the log: they are in the files until RocksDB compacts
    /// them, and a damaged one would make that fail.
    #[expect(deprecated, reason = "deprecated as a way to read faster; here it serves to read deleted rows as well")]
    fn read_all(&mut self) -> Result<(), StoreError> {
        for name in all_families() {
            self.begin("whether all rows can be read", &[name]);
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

    /// The invariants that need no reading: how far the log is truncated, settled, applied and committed.
    fn check_invariants(&mut self) -> Result<(), StoreError> {
        self.store.violation().into_iter().for_each(|violation| self.fault(violation));
        Ok(())
    }

    /// The log is a chain without gaps that ends where the store says, each request under the uid that names it. Entries after that
    /// are still to be applied.
    fn check_log(&mut self) -> Result<(), StoreError> {
        let log = &self.store.log;
        let applied = log.applied().mark();
        self.begin("the log", &[schema::LOG]);
        let mut end = log.base();
        let mut bytes = 0;
        for entry in log.entries(Uid::MIN) {
            let (uid, entry) = entry?;
            self.count();
            if entry.request.uid(uid.timestamp) != uid {
                self.fault(format!("the request stored under {uid} is another one than this uid names"));
            }
            if uid > applied.uid {
                self.report.unapplied += 1;
                continue;
            }

            end = LogMark { uid, position: end.position + 1, log_digest: end.log_digest.chain(uid, &entry.request) };
            bytes += to_cbor(&entry).len() as u64;
            self.check_place(&entry, end);
        }

        self.report.requests = end.position - log.base().position;
        if bytes != log.bytes() {
            self.fault(format!("the entries of the log have {bytes} bytes, but the store says {}", log.bytes()));
        }
        if end != applied {
            self.fault(format!(
                "the log ends with request {} ({}), but the store says that it has applied up to {} ({})",
                end.position, end.uid, applied.position, applied.uid
            ));
        }
        Ok(())
    }

    /// An entry has the position and the chain hash that follow from the entries before it.
    fn check_place(&mut self, entry: &LogEntry, place: LogMark) {
        let LogMark { uid, position, log_digest } = place;
        if entry.position != position {
            self.fault(format!("request {uid} is number {position} in the log, but says {}", entry.position));
        }
        if entry.log_digest != log_digest {
            self.fault(format!("the chain hash of request {position} does not follow from the log before it"));
        }
    }

    /// Exactly the applied requests that are not settled have undo records.
    fn check_undo(&mut self) -> Result<(), StoreError> {
        let (db, settled, applied) = (self.db, self.store.log.settled(), self.store.applied().uid);
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
            self.fault(format!("there is an undo record for {stray}, which is not in the log"));
        }
        Ok(())
    }

    /// An undo record can be decoded, and names columns that exist.
    fn check_record(&mut self, uid: Uid) -> Result<(), StoreError> {
        let value = self.db.get_cf(family(self.db, schema::UNDO), uid.to_bytes());
        let value = value.map_err(|error| StoreError::Rocks("reading undo records", error))?.unwrap_or_default();
        let undo: UndoRecord = decode(schema::UNDO, &value)?;
        for row in undo.rows.iter().filter(|row| Column::from_number(row.column).is_none()) {
            self.fault(format!("the undo record of {uid} names column {}, which does not exist", row.column));
        }
        Ok(())
    }

    /// The requests whose former answers are kept are in the log, to be applied again.
    fn check_undone(&mut self) -> Result<(), StoreError> {
        for row in pairs(self.db, schema::UNDONE) {
            let uid = uid_key(schema::UNDONE, &row?.0)?;
            if uid <= self.store.applied().uid || !self.store.log.contains(uid)? {
                self.fault(format!("request {uid} was undone, but is not in the log to be applied again"));
            }
        }
        Ok(())
    }

    /// The requests that are remembered as the ends of seconds are.
    fn check_boundaries(&mut self) -> Result<(), StoreError> {
        let log = &self.store.log;
        for end in log.boundaries().iter().filter(|end| end.position >= log.base().position) {
            let second = second_of(end.uid.timestamp);
            let last = entries::last_before(self.db, begin_of(second + 1))?;
            let last = last.map_or(log.base(), |(uid, entry)| entries::mark(uid, &entry));
            if last != end.mark() {
                self.fault(format!(
                    "second {second} is remembered to end with {}, but ends with {}",
                    end.uid, last.uid
                ));
            }
        }
        Ok(())
    }

    /// Orphans are stored under the uids that name them.
    fn check_orphans(&mut self) -> Result<(), StoreError> {
        for row in pairs(self.db, schema::ORPHANS) {
            let (key, value) = row?;
            let uid = uid_key(schema::ORPHANS, &key)?;
            let request: Request = decode(schema::ORPHANS, &value)?;
            if request.uid(uid.timestamp) != uid {
                self.fault(format!("the orphan stored under {uid} is another request than this uid names"));
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

/// The uid in a key of a column family.
fn uid_key(name: &str, key: &[u8]) -> Result<Uid, StoreError> {
    Uid::from_bytes(key).ok_or_else(|| StoreError::Corrupt(format!("the key {key:02x?} in {name} is no uid")))
}

/// Whether a uid could be read, and fits.
fn is_uid(found: &Result<Uid, StoreError>, fits: impl Fn(Uid) -> bool) -> bool {
    found.as_ref().is_ok_and(|uid| fits(*uid))
}

#[cfg(test)]
mod tests;
