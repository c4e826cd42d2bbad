//! What was in our log when a snapshot took its place, or came too late for its own: it may be in no other log, and was
//! perhaps answered.
//!
//! It is submitted again, as a new request of the same session, which knows it if it has been applied already.

use super::error::StoreError;
use super::rows::{decode, family};
use super::schema::{self, Column, Session, conversation_key, message_key, session_key};
use super::{ChatStore, chat, log};
use rocksdb::IteratorMode;
use stablechat_protocol::command::{Command, Recipient};
use stablechat_protocol::request::{Request, StampedRequest};
use stablechat_protocol::wire::to_cbor;

impl ChatStore {
    /// The first of what is aside, in order, as far as it is committed.
    ///
    /// # Errors
    /// Storage failed, or is corrupt; as for all that follows.
    pub fn orphans(&self, requests_max: usize) -> Result<Vec<StampedRequest>, StoreError> {
        let db = self.rows.db();
        let rows = db.iterator_cf(family(db, schema::ORPHANS), IteratorMode::Start).take(requests_max);
        let held = rows.map(|row| {
            let (key, value) = row.map_err(|error| StoreError::Rocks("reading what is aside", error))?;
            Ok(StampedRequest { uid: log::uid_of_key(&key)?, request: decode(schema::ORPHANS, &value)? })
        });
        held.collect()
    }

    /// Puts a request aside. Durable with the next commit.
    pub fn keep_orphan(&mut self, held: &StampedRequest) {
        self.pending.put_cf(family(self.rows.db(), schema::ORPHANS), held.uid.to_bytes(), to_cbor(&held.request));
    }

    /// Whether the effect that a request from aside could have is there: its session has come to it, or its message is in its
    /// timeline, which outlives the session.
    pub fn has_effect(&self, held: &StampedRequest) -> Result<bool, StoreError> {
        let session: Option<Session> = self.rows.read(Column::Sessions, &session_key(held.request.client))?;
        if session.is_some_and(|session| session.sequence >= held.request.sequence) {
            return Ok(true);
        }
        let Request { actor: Some(from), command: Command::Send { to: Recipient::Account { name }, .. }, .. } =
            &held.request
        else {
            return Ok(false);
        };
        let (from, to) = (chat::account(&self.rows, &from.account)?, chat::account(&self.rows, name)?);
        let (Ok(from), Ok(to)) = (from, to) else { return Ok(false) };
        let key = message_key(&conversation_key(from.id, to.id), held.uid);
        Ok(self.rows.get(Column::Timelines, &key)?.is_some())
    }

    /// Forgets a request that was aside. Durable with the next commit.
    pub fn remove_orphan(&mut self, held: &StampedRequest) {
        self.pending.delete_cf(family(self.rows.db(), schema::ORPHANS), held.uid.to_bytes());
    }
}
