//! The senders of requests: which connections speak for an account that exists.
//!
//! The poll loop checks that a client holds the key that it logs in with, and knows no accounts. So anybody can log in under any
//! name, and only the state tells whether the key owns an account of that name. It is looked up once for a connection.

use crate::replica::{ConnectionId, Sender, Submission};
use crate::store::{ChatStore, StoreError};
use stablechat_protocol::request::Actor;
use std::collections::BTreeMap;

/// The connections whose account was found.
#[derive(Default)]
pub struct Senders {
    /// At most one for each connection; those that are gone are forgotten.
    confirmed: BTreeMap<ConnectionId, Actor>,
}

impl Senders {
    /// The sender of a request. An account that is deleted counts until its connections have ended.
    pub fn sender(&mut self, store: &ChatStore, submission: &Submission) -> Result<Sender, StoreError> {
        let Some(actor) = submission.body.actor() else { return Ok(Sender::Stranger) };
        if self.confirmed.get(&submission.from) != Some(actor) {
            // The account may have been made after the login, so this is asked again for each request.
            if !store.owns(actor)? {
                return Ok(Sender::Stranger);
            }
            self.confirmed.insert(submission.from, actor.clone());
        }
        Ok(Sender::Account(actor.account.clone()))
    }

    /// A connection is gone, or speaks for nobody any more.
    pub fn forget(&mut self, connection: ConnectionId) {
        self.confirmed.remove(&connection);
    }
}
