//! Checking a store against itself.

use super::boundary::{begin_of, second_of};
use super::chat::unread_count;
use super::error::StoreError;
use super::rows::{Direction, Rows, decode, family, row_digest};
use super::schema::{self, Applied, Bytes, Column, Session, User, message_key, uid_at_end};
use super::{ChatStore, log};
use rocksdb::{DB, IteratorMode};
use stablechat_protocol::id::Digest;
use stablechat_protocol::peer::Mark;
use stablechat_protocol::uid::Uid;
use stablechat_protocol::wire::to_cbor;
use std::collections::BTreeMap;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// How many requests are in the log.
    pub requests: u64,
    /// How many rows the state has.
    pub rows: u64,
    /// What is wrong, a sentence each; empty when nothing is.
    pub faults: Vec<String>,
}

/// The most faults that a report names.
const FAULTS_MAX: usize = 100;

impl CheckReport {
    /// Adds a fault, unless there are enough.
    fn fault(&mut self, fault: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }
}

/// See [`super::ChatStore::check`].
pub fn check(store: &ChatStore) -> Result<CheckReport, StoreError> {
    let mut report = CheckReport::default();
    check_log(store, &mut report)?;
    check_undo(store, &mut report)?;
    check_boundaries(store, &mut report)?;
    check_digest(&store.rows, &store.applied, &mut report)?;
    check_unread(&store.rows, &mut report)?;
    check_sessions(&store.rows, &mut report)?;
    Ok(report)
}

/// The log is a chain without gaps that ends where it is said to end, each request under its own uid.
fn check_log(store: &ChatStore, report: &mut CheckReport) -> Result<(), StoreError> {
    let mut end = store.base;
    let mut bytes = 0;
    for entry in store.log(Uid::MIN) {
        let (uid, entry) = entry?;
        end = Mark { uid, position: end.position + 1, log_digest: end.log_digest.chain(uid) };
        bytes += to_cbor(&entry).len() as u64;
        if entry.position != end.position {
            report.fault(format!("request {uid} says position {}, but is number {}", entry.position, end.position));
        }
        if entry.log_digest != end.log_digest {
            report.fault(format!("the chain hash at position {} is not what the log gives", end.position));
        }
        if entry.request.uid(uid.timestamp) != uid {
            report.fault(format!("the request under {uid} is not the one that the uid names"));
        }
    }
    report.requests = end.position - store.base.position;
    if bytes != store.log_bytes {
        report.fault(format!("the log has {bytes} bytes, not {}", store.log_bytes));
    }
    let Mark { uid, position, .. } = store.applied.mark();
    if end != store.applied.mark() {
        report.fault(format!("the log ends at {} ({}), not at {position} ({uid})", end.position, end.uid));
    }
    Ok(())
}

/// Exactly the requests that are not settled have undo records, and none is waiting to be applied again.
fn check_undo(store: &ChatStore, report: &mut CheckReport) -> Result<(), StoreError> {
    let db = store.rows.db();
    if store.settled > store.applied.uid {
        report.fault(format!("{} is settled, but only {} applied", store.settled, store.applied.uid));
    }
    let mut recorded = uids(db, schema::UNDO).peekable();
    for uid in uids(db, schema::LOG) {
        let uid = uid?;
        while let Some(stray) = recorded.next_if(|found| found.as_ref().is_ok_and(|found| *found < uid)) {
            report.fault(format!("there is an undo record of {}, which is not in the log", stray?));
        }
        let is_recorded = recorded.next_if(|found| found.as_ref().is_ok_and(|found| *found == uid)).is_some();
        if is_recorded && uid <= store.settled {
            report.fault(format!("the settled request {uid} has an undo record"));
        }
        if !is_recorded && uid > store.settled {
            report.fault(format!("request {uid} has no undo record"));
        }
    }
    for stray in recorded {
        report.fault(format!("there is an undo record of {}, which is not in the log", stray?));
    }
    for undone in uids(db, schema::UNDONE) {
        report.fault(format!("request {} has been undone and not been applied again", undone?));
    }
    Ok(())
}

/// The uids that are the keys of a column family, in order.
fn uids<'a>(db: &'a DB, name: &'static str) -> impl Iterator<Item = Result<Uid, StoreError>> + 'a {
    db.iterator_cf(family(db, name), IteratorMode::Start).map(move |row| {
        let (key, _) = row.map_err(|error| StoreError::Rocks("reading in order", error))?;
        Uid::from_bytes(&key).ok_or_else(|| StoreError::Corrupt(format!("a key in {name} is no uid")))
    })
}

/// What is remembered as the end of a second is the last request before the next one.
fn check_boundaries(store: &ChatStore, report: &mut CheckReport) -> Result<(), StoreError> {
    for left in store.boundaries.iter().filter(|left| left.position >= store.base.position) {
        let second = second_of(left.uid.timestamp);
        let last = log::last_before(store.rows.db(), begin_of(second + 1))?;
        let last = last.map_or(store.base, |(uid, entry)| log::mark(uid, &entry));
        if last != left.mark() {
            report.fault(format!("second {second} is remembered to end with {}, but ends with {}", left.uid, last.uid));
        }
    }
    Ok(())
}

/// All rows of a column.
fn all(rows: &Rows, column: Column) -> impl Iterator<Item = Result<super::rows::Row, StoreError>> + '_ {
    rows.scan(column, &[], &[0xff], Direction::Forward)
}

/// The state digest is that of the rows.
fn check_digest(rows: &Rows, applied: &Applied, report: &mut CheckReport) -> Result<(), StoreError> {
    let mut digest = Digest::ZERO;
    for column in Column::ALL {
        for row in all(rows, column) {
            let (key, value) = row?;
            digest.toggle(row_digest(column, &key, &value));
            report.rows += 1;
        }
    }
    if digest != applied.state_digest {
        report.fault(format!("the state digest is {}, but the rows give {digest}", applied.state_digest));
    }
    Ok(())
}

/// Unread messages are in their timelines, counted, and belong to an account or a deleted one's grave.
fn check_unread(rows: &Rows, report: &mut CheckReport) -> Result<(), StoreError> {
    let mut owners = std::collections::BTreeSet::new();
    for row in all(rows, Column::Users) {
        owners.insert(decode::<User>(Column::Users.name(), &row?.1)?.id);
    }
    let mut graves = std::collections::BTreeSet::new();
    let mut counts: BTreeMap<Uid, u64> = BTreeMap::new();
    for row in all(rows, Column::Unread) {
        let (key, value) = row?;
        match (key.first(), uid_at_end(&key)) {
            (Some(b'g'), Some(account)) => {
                graves.insert(account);
            }
            (Some(b'm'), Some(uid)) => {
                let account = Uid::from_bytes(&key[1..=Uid::LENGTH])
                    .ok_or_else(|| StoreError::Corrupt("an unread message names no account".into()))?;
                *counts.entry(account).or_default() += 1;
                let Bytes(conversation) = decode(Column::Unread.name(), &value)?;
                if rows.get(Column::Timelines, &message_key(&conversation, uid))?.is_none() {
                    report.fault(format!("unread message {uid} is in no timeline"));
                }
            }
            (Some(b'c'), Some(_)) => {}
            _ => report.fault(format!("the key {key:02x?} has no place in unread")),
        }
    }
    for account in owners.iter().chain(counts.keys()) {
        let (counted, said) = (counts.get(account).copied().unwrap_or(0), unread_count(rows, *account)?);
        if counted != said && !graves.contains(account) {
            report.fault(format!("account {account} has {counted} unread messages, but its count is {said}"));
        }
        if !owners.contains(account) && !graves.contains(account) {
            report.fault(format!("there are unread messages of {account}, which is no account"));
        }
    }
    Ok(())
}

/// Each session has exactly one place in the order of use.
fn check_sessions(rows: &Rows, report: &mut CheckReport) -> Result<(), StoreError> {
    let (mut sessions, mut places) = (0, 0);
    for row in all(rows, Column::Sessions) {
        let (key, value) = row?;
        match key.first() {
            Some(b's') => {
                sessions += 1;
                let session: Session = decode(Column::Sessions.name(), &value)?;
                let client = key[1..].try_into().map(stablechat_protocol::id::ClientId);
                let client = client.map_err(|_| StoreError::Corrupt("a session's key is no client".into()))?;
                if rows.get(Column::Sessions, &schema::session_use_key(session.used, client))?.is_none() {
                    report.fault(format!("session {client} has no place in the order of use"));
                }
            }
            Some(b't') => places += 1,
            Some(b'a') => {}
            _ => report.fault(format!("the key {key:02x?} has no place in sessions")),
        }
    }
    if sessions != places {
        report.fault(format!("{sessions} sessions have {places} places in the order of use"));
    }
    Ok(())
}
