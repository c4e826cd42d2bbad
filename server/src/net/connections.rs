//! The table of connections, with the limits that hold for all of them together.

use super::connection::Connection;
use super::greeting::Greeting;
use crate::replica::{ConnectionId, PeerId};
use stablechat_protocol::close::CloseReason;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The most connections of clients. Further clients are told that the replica is full.
pub const CLIENTS_MAX: usize = 1024;
/// The most connections beyond [`CLIENTS_MAX`] that are being ended, or have not yet said that they are a peer's. Further ones are
/// closed without a word.
pub const EXTRA_MAX: usize = 256;
/// The most bytes that may wait to be written to all clients together, 256 MiB. The connection that adds more is ended. Peers have
/// a limit of their own for each.
const UNWRITTEN_MAX: usize = 256 * 1024 * 1024;
/// How long a connection may take until both sides have greeted.
const GREETING_LIMIT: Duration = Duration::from_secs(10);
/// How long nothing may come on a connection. Clients ping every 5 s, and peers announce at least every 50 ms.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// How often connections are looked at for these two limits.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// All connections but those for monitoring.
pub struct Connections {
    all: BTreeMap<ConnectionId, (Connection, Remote)>,
    next_sweep: Instant,
}

/// The other end of a connection.
pub enum Remote {
    /// A client, or a process that has not said hello yet.
    Client(Greeting),
    /// A peer that we have dialed and that has not answered our hello yet.
    Dialed(PeerId),
    /// A peer. This is its only connection that is one.
    Peer(PeerId),
}

impl Remote {
    /// Whether it counts as a peer, and takes none of the room for clients.
    pub fn is_peer(&self) -> bool {
        !matches!(self, Remote::Client(_))
    }
}

/// Whether a new connection can be taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Whatever it turns out to be.
    Free,
    /// If it turns out to be a peer's. A client is told that the replica is full.
    ForPeers,
    /// Not at all.
    None,
}

/// What writing has shown.
#[derive(Debug, Default)]
pub struct Flushed {
    /// Connections of clients that are broken, or let too much wait: to be removed.
    pub gone: Vec<ConnectionId>,
    /// Connections of peers that are broken. What arrived before that may still be read.
    pub broken_peers: Vec<ConnectionId>,
}

/// Connections that have run into a time limit.
#[derive(Debug, Default)]
pub struct Expired {
    /// Ended long enough ago: to be removed.
    pub overdue: Vec<ConnectionId>,
    /// Silent for too long: to be ended.
    pub silent: Vec<ConnectionId>,
}

impl Connections {
    /// An empty table.
    pub fn new(now: Instant) -> Connections {
        Connections { all: BTreeMap::new(), next_sweep: now }
    }

    /// Adds a connection.
    pub fn insert(&mut self, id: ConnectionId, connection: Connection, remote: Remote) {
        self.all.insert(id, (connection, remote));
    }

    /// Drops a connection, and returns its other end.
    pub fn remove(&mut self, id: ConnectionId) -> Option<Remote> {
        self.all.remove(&id).map(|(_, remote)| remote)
    }

    /// A connection and its other end.
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut (Connection, Remote)> {
        self.all.get_mut(&id)
    }

    /// The connection of a client.
    pub fn client_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        match self.all.get_mut(&id) {
            Some((connection, Remote::Client(_))) => Some(connection),
            _ => None,
        }
    }

    /// Whether this is the connection of a peer.
    pub fn is_peer(&self, id: ConnectionId) -> bool {
        self.all.get(&id).is_some_and(|(_, remote)| remote.is_peer())
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.all.values().filter(|(_, remote)| !remote.is_peer()).count()
    }

    /// How many bytes wait to be written, to clients and peers.
    pub fn unwritten(&self) -> usize {
        self.all.values().map(|(connection, _)| connection.unwritten()).sum()
    }

    /// Whether a new connection can be taken in.
    pub fn room(&self) -> Room {
        let is_open = |(connection, remote): &&(Connection, Remote)| !remote.is_peer() && !connection.is_closing();
        if self.clients() >= CLIENTS_MAX + EXTRA_MAX {
            Room::None
        } else if self.all.values().filter(is_open).count() >= CLIENTS_MAX {
            Room::ForPeers
        } else {
            Room::Free
        }
    }

    /// Writes what the sockets take, and ends the clients' connections that let too much wait.
    pub fn flush(&mut self, now: Instant) -> Flushed {
        let mut flushed = Flushed::default();
        let mut unwritten = 0;
        for (id, (connection, remote)) in &mut self.all {
            let is_sound = connection.flush();
            if remote.is_peer() {
                if !is_sound {
                    flushed.broken_peers.push(*id);
                }
                continue;
            }

            if !is_sound {
                flushed.gone.push(*id);
            }
            unwritten += connection.unwritten();
            if unwritten > UNWRITTEN_MAX {
                unwritten -= connection.unwritten();
                connection.close(CloseReason::SlowReader, now);
                flushed.gone.push(*id);
            }
        }
        flushed
    }

    /// When [`Connections::expired`] will look next; none without connections.
    pub fn deadline(&self) -> Option<Instant> {
        (!self.all.is_empty()).then_some(self.next_sweep)
    }

    /// The connections that have run into a time limit, once in each [`SWEEP_INTERVAL`]. `is_readable` says whether something may
    /// have arrived that is not read yet: such a connection is not silent.
    pub fn expired(&mut self, now: Instant, is_readable: impl Fn(ConnectionId) -> bool) -> Expired {
        let mut expired = Expired::default();
        if now < self.next_sweep {
            return expired;
        }

        self.next_sweep = now + SWEEP_INTERVAL;
        for (id, (connection, remote)) in &self.all {
            let limit = match remote {
                Remote::Client(greeting) if !greeting.is_done() => connection.since() + GREETING_LIMIT,
                Remote::Dialed(_) => connection.since() + GREETING_LIMIT,
                Remote::Client(_) | Remote::Peer(_) => connection.heard() + SILENCE_LIMIT,
            };
            if connection.is_overdue(now) {
                expired.overdue.push(*id);
            } else if now > limit && !is_readable(*id) {
                expired.silent.push(*id);
            }
        }
        expired
    }

    /// Tells everybody that the replica stops. Connections that are still being made are dropped.
    pub fn stop(&mut self, now: Instant) {
        self.all.retain(|_, (_, remote)| !matches!(remote, Remote::Dialed(_)));
        self.all.values_mut().for_each(|(connection, _)| connection.close(CloseReason::Stopping, now));
    }

    /// Goes on writing after [`Connections::stop`]. Returns whether everybody has got everything.
    ///
    /// A peer's connection is kept until the peer has ended it: dropping a socket with unread bytes would discard bytes in
    /// flight, and the peer must get the leave that tells it not to wait for us.
    pub fn finish(&mut self, scratch: &mut [u8], now: Instant) -> bool {
        self.all.retain(|_, (connection, remote)| {
            connection.flush()
                && (connection.unwritten() > 0 || remote.is_peer() && !connection.read(scratch, now).end.is_over())
        });
        self.all.is_empty()
    }
}
