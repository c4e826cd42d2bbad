//! Checking the rows of the state: their digest, and what they say about each other.

use super::Check;
use crate::store::database::decode;
use crate::store::error::StoreError;
use crate::store::state::keys::{Column, SETTINGS, SWEEP, session_use_key};
use crate::store::state::rows::{Direction, Row, Rows, row_digest, with_row};
use crate::store::state::settings;
use crate::store::state::values::{Invitation, KeptAnswer, Session, Sweep};
use stablechat_protocol::digest::Digest;
use stablechat_protocol::session::{ClientId, WINDOW};
use stablechat_protocol::status::StateContents;
use std::collections::BTreeMap;

impl Check<'_> {
    /// The state digest and the contents are those that the rows give.
    pub(super) fn check_digest(&mut self) -> Result<(), StoreError> {
        self.begin("the state digest", &Column::ALL.map(Column::name));
        let (mut digest, mut contents) = (Digest::ZERO, StateContents::default());
        for column in Column::ALL {
            for row in all(self.rows, column) {
                let (key, value) = row?;
                digest.toggle(row_digest(column, &key, &value));
                contents = with_row(contents, column, &key, &value, u64::wrapping_add);
                self.report.rows += 1;
                self.count();
            }
        }

        let said = self.store.applied().state_digest;
        if digest != said {
            self.fault(format!("the state digest is {said}, but the rows give {digest}"));
        }
        let counted = self.store.contents();
        if contents != counted {
            self.fault(format!("{counted:?} are counted, but the rows give {contents:?}"));
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
            if key == SWEEP {
                decode::<Sweep>(Column::Settings.name(), &value)?;
                continue;
            }
            decode::<Invitation>(Column::Settings.name(), &value)?;
            if !matches!(key.split_first(), Some((b'i', digest)) if digest.len() == 32) {
                self.fault(format!("the key {key:02x?} in settings is of no known kind"));
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

/// The session in the key of a session or of an answer.
fn client_in(key: &[u8]) -> Option<ClientId> {
    key.get(1..17).and_then(|bytes| bytes.try_into().ok()).map(ClientId)
}

/// All rows of a column.
pub(super) fn all(rows: &Rows, column: Column) -> impl Iterator<Item = Result<Row, StoreError>> + '_ {
    rows.scan(column, &[], &[0xff], Direction::Forward)
}
