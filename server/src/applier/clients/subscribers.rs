//! Which connections are logged in to an account, and which of them get its messages.

use crate::applier::outbox::Outbox;
use crate::replica::ConnectionId;
use crate::store::Delivery;
use stablechat_protocol::message::ToClient;
use stablechat_protocol::request::Actor;
use std::collections::BTreeMap;

/// The logins. A connection has at most one, an account may have many.
#[derive(Default)]
pub struct Subscribers {
    /// The account that a connection is logged in to.
    accounts: BTreeMap<ConnectionId, Actor>,
    /// The inverse of `accounts`, and whether a connection gets the account's messages. No map in it is empty.
    connections: BTreeMap<Actor, BTreeMap<ConnectionId, bool>>,
}

impl Subscribers {
    /// A connection speaks for this account and no other, or for none, and gets its messages if it is to `receive` them.
    pub fn set(&mut self, connection: ConnectionId, actor: Option<Actor>, receive: bool) {
        if let Some(before) = self.accounts.remove(&connection)
            && let Some(connections) = self.connections.get_mut(&before)
        {
            connections.remove(&connection);
            if connections.is_empty() {
                self.connections.remove(&before);
            }
        }
        if let Some(actor) = actor {
            self.connections.entry(actor.clone()).or_default().insert(connection, receive);
            self.accounts.insert(connection, actor);
        }
    }

    /// The account that a connection is logged in to.
    pub fn actor(&self, connection: ConnectionId) -> Option<&Actor> {
        self.accounts.get(&connection)
    }

    /// The connections that get the messages of an account.
    #[cfg(test)]
    pub fn connections_of(&self, actor: &Actor) -> Vec<ConnectionId> {
        self.receiving(actor).collect()
    }

    /// Ends all logins with this key of an account. Returns their connections.
    pub fn end(&mut self, actor: &Actor) -> impl Iterator<Item = ConnectionId> + use<> {
        let ended = self.connections.remove(actor).unwrap_or_default();
        ended.keys().for_each(|connection| drop(self.accounts.remove(connection)));
        ended.into_keys()
    }

    /// Sends a message to all connections of its recipient. They are logged in with the recipient's key: an account of the same name that
    /// was deleted before is another actor.
    pub fn deliver(&self, delivery: Delivery, outbox: &mut Outbox) {
        for to in self.receiving(&delivery.to) {
            outbox.for_client(to, ToClient::Delivery { message: delivery.message.clone() });
        }
    }

    fn receiving(&self, actor: &Actor) -> impl Iterator<Item = ConnectionId> {
        let logins = self.connections.get(actor).into_iter().flatten();
        logins.filter(|(_, receives)| **receives).map(|(connection, _)| *connection)
    }
}
