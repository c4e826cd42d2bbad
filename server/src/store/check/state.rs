//! Checking the rows of the state: their digest, and what they say about each other.

use super::Check;
use crate::store::database::decode;
use crate::store::error::StoreError;
use crate::store::state::keys::{
    Bytes, Column, Invitation, KeptAnswer, SETTINGS, Session, StoredMessage, Tombstone, UnreadMessage, User,
    conversation_key, message_key, session_use_key, sides_of, uid_at_end,
};
use crate::store::state::messages::{partner_in, unread_count, unread_count_from};
use crate::store::state::rows::{Direction, Row, Rows, row_digest};
use crate::store::state::settings;
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

    /// There are as many accounts as are counted, and the settings can be read.
    pub(super) fn check_settings(&mut self) -> Result<(), StoreError> {
        self.begin("accounts and settings", &[Column::Users.name(), Column::Settings.name()]);
        let mut accounts = 0;
        for row in all(self.rows, Column::Users) {
            row?;
            self.count();
            accounts += 1;
        }
        let said = settings::read(self.rows)?.accounts;
        if accounts != said {
            self.fault(format!("there are {accounts} accounts, but {said} are counted"));
        }
        for row in all(self.rows, Column::Settings) {
            let (key, value) = row?;
            self.count();
            if key == SETTINGS {
                continue;
            }
            decode::<Invitation>(Column::Settings.name(), &value)?;
            if !matches!(key.split_first(), Some((b'i', digest)) if digest.len() == 32) {
                self.fault(format!("the key {key:02x?} in settings is of no known kind"));
            }
        }
        Ok(())
    }

    /// Each unread message is in a timeline, unless that has gone with the other side's account. Each row belongs to an account or a
    /// tombstone, and the counts are those of the rows.
    pub(super) fn check_unread(&mut self) -> Result<(), StoreError> {
        let mut owners = BTreeSet::new();
        for row in all(self.rows, Column::Users) {
            owners.insert(decode::<User>(Column::Users.name(), &row?.1)?.id);
        }
        self.begin("unread messages", &[Column::Unread.name()]);
        let mut unread = Unread::default();
        for row in all(self.rows, Column::Unread) {
            let (key, value) = row?;
            self.count();
            self.check_unread_row(&key, &value, &mut unread)?;
        }

        // While a tombstone is emptied, the counts are not kept up.
        let has_tombstone = |account: &Uid| unread.tombstones.contains(account);
        for (account, counted) in &unread.counts {
            let said = unread_count(self.rows, *account)?;
            if *counted != said && !has_tombstone(account) {
                self.fault(format!("account {account} has {counted} unread messages, but its count says {said}"));
            }
            if !owners.contains(account) && !has_tombstone(account) {
                self.fault(format!("there are unread messages of {account}, which is no account"));
            }
        }
        for ((account, partner), counted) in &unread.counts_from {
            let said = unread_count_from(self.rows, *account, *partner)?;
            if said != Some(*counted) && !has_tombstone(account) {
                self.fault(format!("{account} has {counted} unread messages from {partner}, but counts {said:?}"));
            }
            if unread_count_from(self.rows, *partner, *account)?.is_none() {
                self.fault(format!("{account} has a conversation with {partner}, which has none with it"));
            }
            if !owners.contains(account) && !has_tombstone(account) {
                self.fault(format!("there is a conversation of {account}, which is no account"));
            }
        }
        Ok(())
    }

    /// Checks one row of [`Column::Unread`], and counts it.
    fn check_unread_row(&mut self, key: &[u8], value: &[u8], unread: &mut Unread) -> Result<(), StoreError> {
        let account = key.get(1..=Uid::LENGTH).and_then(Uid::from_bytes);
        let (Some(kind), Some(account), Some(last)) = (key.first(), account, uid_at_end(key)) else {
            self.fault(format!("the key {key:02x?} in unread is of no known kind"));
            return Ok(());
        };
        match kind {
            b'm' => {
                *unread.counts.entry(account).or_default() += 1;
                let message: UnreadMessage = decode(Column::Unread.name(), value)?;
                if let UnreadMessage::InTimeline { conversation: Bytes(conversation) } = message {
                    let partner = partner_in(&conversation, account)?;
                    *unread.counts_from.entry((account, partner)).or_default() += 1;
                    if self.rows.get(Column::Timelines, &message_key(&conversation, last))?.is_none() {
                        self.fault(format!("unread message {last} is in no timeline"));
                    }
                }
            }
            b'c' => drop(unread.counts.entry(account).or_default()),
            b'p' => drop(unread.counts_from.entry((account, last)).or_default()),
            b't' => {
                decode::<Tombstone>(Column::Unread.name(), value)?;
                unread.tombstones.insert(account);
            }
            _ => self.fault(format!("the key {key:02x?} in unread is of no known kind")),
        }
        Ok(())
    }

    /// Each timeline is that of a conversation.
    pub(super) fn check_timelines(&mut self) -> Result<(), StoreError> {
        self.begin("timelines", &[Column::Timelines.name()]);
        let mut last_checked = Vec::new();
        for row in all(self.rows, Column::Timelines) {
            let (key, value) = row?;
            self.count();
            decode::<StoredMessage>(Column::Timelines.name(), &value)?;
            let conversation = &key[..key.len().saturating_sub(Uid::LENGTH)];
            if *conversation == last_checked[..] {
                continue;
            }

            last_checked = conversation.to_vec();
            let sides = sides_of(conversation).filter(|(low, high)| conversation_key(*low, *high) == conversation);
            let Some((low, high)) = sides else {
                self.fault(format!("the key {key:02x?} in timelines names no conversation"));
                continue;
            };
            if unread_count_from(self.rows, low, high)?.is_none() {
                self.fault(format!("there are messages between {low} and {high}, which have no conversation"));
            }
        }
        Ok(())
    }

    /// Each session is in the order of use once, and has exactly the answers that it says are kept.
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
                    sessions.insert(client, session);
                }
                (Some(b'a'), Some(client)) => {
                    decode::<KeptAnswer>(Column::Sessions.name(), &value)?;
                    *answers.entry(client).or_insert(0) += 1;
                }
                (Some(b't'), _) => places += 1,
                _ => self.fault(format!("the key {key:02x?} in sessions is of no known kind")),
            }
        }

        if sessions.len() != places {
            self.fault(format!("{} sessions have {places} places in the order of use", sessions.len()));
        }
        for (client, Session { sequence, kept_from, .. }) in sessions {
            let (kept, expected) = (answers.remove(&client).unwrap_or(0), (sequence + 1).saturating_sub(kept_from));
            if kept != expected || kept > WINDOW {
                self.fault(format!("session {client} has {kept} answers, and should have {expected}"));
            }
        }
        for (client, kept) in answers {
            self.fault(format!("there are {kept} answers of session {client}, which does not exist"));
        }
        Ok(())
    }
}

/// The unread messages that a check has counted.
#[derive(Default)]
struct Unread {
    /// By account.
    counts: BTreeMap<Uid, u64>,
    /// Those in timelines, by account and partner.
    counts_from: BTreeMap<(Uid, Uid), u64>,
    /// The accounts with tombstones.
    tombstones: BTreeSet<Uid>,
}

/// The session in the key of a session or of an answer.
fn client_in(key: &[u8]) -> Option<ClientId> {
    key.get(1..17).and_then(|bytes| bytes.try_into().ok()).map(ClientId)
}

/// All rows of a column.
fn all(rows: &Rows, column: Column) -> impl Iterator<Item = Result<Row, StoreError>> + '_ {
    rows.scan(column, &[], &[0xff], Direction::Forward)
}
