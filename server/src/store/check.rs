//! Checking a store against itself.

use super::chat::unread_count;
use super::error::StoreError;
use super::rows::{Direction, Rows, decode, family, row_digest};
use super::schema::{self, Applied, Bytes, Column, LogEntry, Session, User, message_key, uid_at_end};
use rocksdb::{DB, IteratorMode};
use stablechat_protocol::id::Digest;
use stablechat_protocol::uid::Uid;
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
pub fn check(rows: &Rows, applied: &Applied) -> Result<CheckReport, StoreError> {
    let mut report = CheckReport::default();
    check_log(rows, applied, &mut report)?;
    check_digest(rows, applied, &mut report)?;
    check_unread(rows, &mut report)?;
    check_sessions(rows, &mut report)?;
    Ok(report)
}

/// The log in its order, from the first uid that is not below `from`.
pub fn log(db: &DB, from: Uid) -> impl Iterator<Item = Result<(Uid, LogEntry), StoreError>> + '_ {
    let from = from.to_bytes();
    let mode = IteratorMode::From(&from, rocksdb::Direction::Forward);
    db.iterator_cf(family(db, schema::LOG), mode).map(|row| {
        let (key, value) = row.map_err(|error| StoreError::Rocks("reading the log", error))?;
        let uid = Uid::from_bytes(&key).ok_or_else(|| StoreError::Corrupt("a key in the log is no uid".into()))?;
        Ok((uid, decode(schema::LOG, &value)?))
    })
}

/// The log is a chain without gaps that ends where it is said to end, each request under its own uid, with its undo.
fn check_log(rows: &Rows, applied: &Applied, report: &mut CheckReport) -> Result<(), StoreError> {
    let mut position = 0;
    let mut digest = Digest::ZERO;
    let mut last = Uid::MIN;
    for entry in log(rows.db(), Uid::MIN) {
        let (uid, entry) = entry?;
        position += 1;
        digest = digest.chain(uid);
        last = uid;
        if entry.position != position {
            report.fault(format!("request {uid} says position {}, but is number {position}", entry.position));
        }
        if entry.log_digest != digest {
            report.fault(format!("the chain hash at position {position} is not what the log gives"));
        }
        if entry.request.uid(uid.timestamp) != uid {
            report.fault(format!("the request under {uid} is not the one that the uid names"));
        }
        let undo = rows.db().get_cf(family(rows.db(), schema::UNDO), uid.to_bytes());
        if undo.map_err(|error| StoreError::Rocks("reading undo records", error))?.is_none() {
            report.fault(format!("request {uid} has no undo record"));
        }
    }
    report.requests = position;
    if (position, digest, last) != (applied.position, applied.log_digest, applied.uid) {
        report.fault(format!("the log ends at {position} ({last}), not at {} ({})", applied.position, applied.uid));
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
