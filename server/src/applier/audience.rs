//! Which connections get the messages to which account.

use super::outbox::Outbox;
use crate::replica::ConnectionId;
use crate::store::Delivery;
use stablechat_protocol::message::ToClient;
use stablechat_protocol::request::Actor;
use std::collections::{BTreeMap, BTreeSet};

/// Who listens for whom.
#[derive(Default)]
pub struct Audience {
    /// For whom a connection listens.
    accounts: BTreeMap<ConnectionId, Actor>,
    /// The inverse.
    connections: BTreeMap<Actor, BTreeSet<ConnectionId>>,
}

impl Audience {
    /// Lets a connection listen for this account and no other, or for none.
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

    /// Sends a message to all who listen for its recipient, with the recipient's key.
    pub fn deliver(&self, delivery: Delivery, outbox: &mut Outbox) {
        for to in self.connections.get(&delivery.to).into_iter().flatten() {
            outbox.for_client(*to, ToClient::Delivery { message: delivery.message.clone() });
        }
    }
}
