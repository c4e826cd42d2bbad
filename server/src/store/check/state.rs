//! Checking the rows of the state: their digest, and what they say about each other.

use super::Check;
use crate::store::database::decode;
use crate::store::error::StoreError;
use crate::store::state::keys::{Bytes, Column, Session, TOMBSTONE, User, message_key, session_use_key, uid_at_end};
use crate::store::state::messages::unread_count;
use crate::store::state::rows::{Direction, Row, Rows, row_digest};
use stablechat_protocol::digest::Digest;
use stablechat_protocol::session::{ClientId, WINDOW};
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeMap, BTreeSet};

impl Check<'_> {
    /// The state digest is the one that the rows give.
    pub(super) fn check_digest(&mut self) -> Result<(), StoreError> {
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

        let said = self.store.applied().state_digest;
        if digest != said {
            self.fault(format!("the state digest is {said}, but the rows give {digest}"));
        }
        Ok(())
    }

    /// Each unread message is in a timeline and belongs to an account or a tombstone, and the counts are those of the rows.
    pub(super) fn check_unread(&mut self) -> Result<(), StoreError> {
        self.begin("unread messages", &[Column::Unread.name()]);
        let mut owners = BTreeSet::new();
        for row in all(self.rows, Column::Users) {
            owners.insert(decode::<User>(Column::Users.name(), &row?.1)?.id);
        }

        let mut tombstones = BTreeSet::new();
        let mut counts: BTreeMap<Uid, u64> = BTreeMap::new();
        for row in all(self.rows, Column::Unread) {
            let (key, value) = row?;
            self.count();
            match (key.first(), uid_at_end(&key)) {
                (Some(b'm'), Some(uid)) => {
                    let account = key.get(1..=Uid::LENGTH).and_then(Uid::from_bytes);
                    let unnamed = || StoreError::Corrupt(format!("the unread message {key:02x?} names no account"));
                    *counts.entry(account.ok_or_else(unnamed)?).or_default() += 1;
                    let Bytes(conversation) = decode(Column::Unread.name(), &value)?;
                    if self.rows.get(Column::Timelines, &message_key(&conversation, uid))?.is_none() {
                        self.fault(format!("unread message {uid} is in no timeline"));
                    }
                }
                (Some(first), Some(account)) if [*first] == TOMBSTONE => drop(tombstones.insert(account)),
                (Some(b'c'), Some(account)) => drop(counts.entry(account).or_default()),
                _ => self.fault(format!("the key {key:02x?} in unread is of no known kind")),
            }
        }

        for (account, counted) in counts {
            let (said, has_tombstone) = (unread_count(self.rows, account)?, tombstones.contains(&account));
            // While a tombstone is emptied, the count is not kept up.
            if counted != said && !has_tombstone {
                self.fault(format!("account {account} has {counted} unread messages, but its count says {said}"));
            }
            if !owners.contains(&account) && !has_tombstone {
                self.fault(format!("there are unread messages of {account}, which is no account"));
            }
        }
        Ok(())
    }

    /// Each session is in the order of use once, and has exactly the answers of its window.
    pub(super) fn check_sessions(&mut self) -> Result<(), StoreError> {
        self.begin("sessions", &[Column::Sessions.name()]);
        let (mut places, mut answers) = (0, BTreeMap::new());
        let mut sessions = BTreeMap::new();
        for row in all(self.rows, Column::Sessions) {
            let (key, value) = row?;
            self.count();
            match (key.first(), client_in(&key)) {
                (Some(b's'), Some(client)) => {
                    let session: Session = decode(Column::Sessions.name(), &value)?;
                    if self.rows.get(Column::Sessions, &session_use_key(session.used, client))?.is_none() {
                        self.fault(format!("session {client} is not in the order of use"));
                    }
                    sessions.insert(client, session.sequence);
                }
                (Some(b'a'), Some(client)) => *answers.entry(client).or_insert(0) += 1,
                (Some(b't'), _) => places += 1,
                _ => self.fault(format!("the key {key:02x?} in sessions is of no known kind")),
            }
        }

        if sessions.len() != places {
            self.fault(format!("{} sessions have {places} places in the order of use", sessions.len()));
        }
        for (client, sequence) in sessions {
            let (kept, expected) = (answers.remove(&client).unwrap_or(0), sequence.min(WINDOW));
            if kept != expected {
                self.fault(format!("session {client} has {kept} answers, but {expected} of its requests have one"));
            }
        }
        for (client, kept) in answers {
            self.fault(format!("there are {kept} answers of session {client}, which does not exist"));
        }
        Ok(())
    }
}

/// The session in the key of a session or of an answer.
fn client_in(key: &[u8]) -> Option<ClientId> {
    key.get(1..17).and_then(|bytes| bytes.try_into().ok()).map(ClientId)
}

/// All rows of a column.
fn all(rows: &Rows, column: Column) -> impl Iterator<Item = Result<Row, StoreError>> + '_ {
    rows.scan(column, &[], &[0xff], Direction::Forward)
}
