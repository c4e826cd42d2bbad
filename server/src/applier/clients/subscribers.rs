//! Which connections get the messages that are delivered to an account.

use crate::applier::outbox::Outbox;
use crate::replica::ConnectionId;
use crate::store::Delivery;
use stablechat_protocol::message::ToClient;
use stablechat_protocol::request::Actor;
use std::collections::{BTreeMap, BTreeSet};

/// The logins that asked for messages. A connection has at most one, an account may have many.
#[derive(Default)]
pub struct Subscribers {
    /// The account that a connection is logged in to.
    accounts: BTreeMap<ConnectionId, Actor>,
    /// The inverse of `accounts`. No set in it is empty.
    connections: BTreeMap<Actor, BTreeSet<ConnectionId>>,
}

impl Subscribers {
    /// Subscribes a connection to the messages of this account and no other, or of none.
    pub fn set(&mut self, connection: ConnectionId, actor: Option<Actor>) {
        if let Some(before) = self.accounts.remove(&connection)
            && let Some(connections) = self.connections.get_mut(&before)
        {
            connections.remove(&connection);
            if connections.is_empty() {
                self.connections.remove(&before);
            }
        }
        if let Some(actor) = actor {
            self.connections.entry(actor.clone()).or_default().insert(connection);
            self.accounts.insert(connection, actor);
        }
    }

    /// The connections that get the messages of an account.
    #[cfg(test)]
    pub fn connections_of(&self, actor: &Actor) -> Vec<ConnectionId> {
        self.connections.get(actor).into_iter().flatten().copied().collect()
    }

    /// Sends a message to all connections of its recipient. They are logged in with the recipient's key: an account of the same name that
    /// was deleted before is another actor.
    pub fn deliver(&self, delivery: Delivery, outbox: &mut Outbox) {
        for to in self.connections.get(&delivery.to).into_iter().flatten() {
            outbox.for_client(*to, ToClient::Delivery { message: delivery.message.clone() });
        }
    }
}
