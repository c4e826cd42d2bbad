//! The connection on which each session was last heard, so that a client learns when a repair has changed an answer that it got.

use crate::replica::ConnectionId;
use stablechat_protocol::session::ClientId;
use std::collections::BTreeMap;

/// How many sessions make up a generation. At least this many are remembered, and at most twice as many. The clients of older
/// ones do not learn that an answer has changed.
const GENERATION: usize = 16_384;

/// The connections of the sessions that were heard last, in two generations: a session is forgotten when it is not heard while a whole
/// generation of others is.
#[derive(Default)]
pub struct Sessions {
    /// Heard in this generation: fewer than [`GENERATION`].
    young: BTreeMap<ClientId, ConnectionId>,
    /// Heard in the one before.
    old: BTreeMap<ClientId, ConnectionId>,
}

impl Sessions {
    /// A session was heard on a connection.
    pub fn on_heard(&mut self, client: ClientId, connection: ConnectionId) {
        self.young.insert(client, connection);
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
    }

    /// The connection on which a session was last heard. It may be gone.
    pub fn connection(&self, client: ClientId) -> Option<ConnectionId> {
        self.young.get(&client).or_else(|| self.old.get(&client)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: usize) -> ClientId {
        ClientId((number as u128).to_be_bytes())
    }

    #[test]
    fn the_last_connection_counts_and_who_is_not_heard_is_forgotten() {
        let mut sessions = Sessions::default();
        sessions.on_heard(client(0), ConnectionId(1));
        sessions.on_heard(client(0), ConnectionId(2));
        assert_eq!(sessions.connection(client(0)), Some(ConnectionId(2)));
        for number in 1..3 * GENERATION {
            sessions.on_heard(client(number), ConnectionId(3));
            if number % 1000 == 0 {
                sessions.on_heard(client(1), ConnectionId(4));
            }
        }
        assert_eq!(sessions.connection(client(0)), None);
        assert_eq!(sessions.connection(client(1)), Some(ConnectionId(4)));
        assert_eq!(sessions.connection(client(2 * GENERATION)), Some(ConnectionId(3)));
        assert!(sessions.young.len() + sessions.old.len() <= 2 * GENERATION);
    }
}
