//! The senders of requests: which connections speak for an account that exists, or for an operator.
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
            if !actor.account.is_operator() && !store.owns(actor)? {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::Body;
    use crate::store::testing::{actor, apply, create, held, send, store};
    use stablechat_protocol::time::Timestamp;

    #[test]
    fn only_the_owner_of_an_account_that_exists_speaks_for_it() {
        let (mut senders, mut store) = (Senders::default(), store());
        let (ann, mallory) = (actor("ann", 1), actor("ann", 2));
        let speaks = |senders: &mut Senders, store: &ChatStore, actor: &Actor| {
            let body = Body::Request(held(5, 1, 2, actor, send(actor, "hi")).request);
            let (time, from) = (Timestamp::ZERO, ConnectionId(1));
            let submission = Submission { time, from, timestamp: time, body, too_fast: None };
            senders.sender(store, &submission).expect("memory does not fail")
        };
        assert_eq!(speaks(&mut senders, &store, &ann), Sender::Stranger, "nobody has made the account");
        apply(&mut store, &held(1, 1, 1, &ann, create(&ann)));
        assert_eq!(speaks(&mut senders, &store, &ann), Sender::Account(ann.account.clone()));
        assert_eq!(speaks(&mut senders, &store, &mallory), Sender::Stranger, "it has another key");
    }
}
