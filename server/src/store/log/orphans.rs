//! Orphans: requests whose place in our log is gone, because a snapshot has replaced the log, or because the log is settled
//! beyond the place that they would have.
//!
//! An orphan may be in no other log, and its client may have been answered. So it is kept until it has been submitted again, as a
//! new request of the same session with a new timestamp. If it had been executed after all, its session recognises it.

use super::entries::uid_of_key;
use crate::store::database::{decode, family};
use crate::store::error::StoreError;
use crate::store::state::keys::{Column, Session, conversation_key, message_key, session_key};
use crate::store::state::{accounts, rows::Rows};
use crate::store::{ChatStore, schema};
use rocksdb::IteratorMode;
use stablechat_protocol::command::{Command, Recipient};
use stablechat_protocol::request::{Request, StampedRequest};

impl ChatStore {
    /// The first orphans that are committed, in the order of their uids.
    ///
    /// # Errors
    /// Storage failed, or is corrupt.
    pub fn orphans(&self, requests_max: usize) -> Result<Vec<StampedRequest>, StoreError> {
        let db = self.database.db();
        let rows = db.iterator_cf(family(db, schema::ORPHANS), IteratorMode::Start).take(requests_max);
        let orphans = rows.map(|row| {
            let (key, value) = row.map_err(|error| StoreError::Rocks("reading orphans", error))?;
            Ok(StampedRequest { uid: uid_of_key(&key)?, request: decode(schema::ORPHANS, &value)? })
        });
        orphans.collect()
    }

    /// Keeps a request as an orphan. Durable with the next commit.
    pub fn keep_orphan(&mut self, orphan: &StampedRequest) {
        self.batch.put(schema::ORPHANS, orphan.uid.to_bytes(), &orphan.request);
    }

    /// Removes an orphan that is in the log again, or has had its effect. Durable with the next commit.
    pub fn remove_orphan(&mut self, orphan: &StampedRequest) {
        self.batch.delete(schema::ORPHANS, orphan.uid.to_bytes());
    }

    /// Whether the state has the effect of an orphan, so that it need not be submitted again.
    ///
    /// # Errors
    /// Storage failed, or is corrupt.
    pub fn has_effect(&self, orphan: &StampedRequest) -> Result<bool, StoreError> {
        let Request { client, sequence, .. } = orphan.request;
        let session: Option<Session> = self.rows.read(Column::Sessions, &session_key(client))?;
        let was_executed = session.is_some_and(|session| session.sequence >= sequence);
        // The message outlives the session, which ends after a day without use.
        Ok(was_executed || is_message_stored(&self.rows, orphan)?)
    }
}

/// Whether a request sent a message that is in its timeline.
fn is_message_stored(rows: &Rows, StampedRequest { uid, request }: &StampedRequest) -> Result<bool, StoreError> {
    let (Some(from), Command::Send { to: Recipient::Account { name }, .. }) = (&request.actor, &request.command) else {
        return Ok(false);
    };
    let (from, to) = (accounts::find(rows, &from.account)?, accounts::find(rows, name)?);
    let (Some(from), Some(to)) = (from, to) else { return Ok(false) };
    let key = message_key(&conversation_key(from.id, to.id), *uid);
    Ok(rows.get(Column::Timelines, &key)?.is_some())
}
