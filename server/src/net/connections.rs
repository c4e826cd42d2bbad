//! The table of connections, with the limits that hold for all of them together.
//!
//! Anybody may connect, so each kind of connection has room of its own: connections without a hello, clients, and connections that
//! are being ended. Peers take none of it, so strangers cannot keep a peer from connecting. When a kind has no room, the source with
//! the most connections loses the one that matters least. So a source with many connections takes places from itself.

use super::connection::Connection;
use super::greeting::Greeting;
use super::{NetStats, Source};
use crate::replica::{ConnectionId, PeerId};
use stablechat_protocol::close::CloseReason;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The most connections of clients. Beyond it one that has not logged in gives way to a new one, or else one of a source that has
/// more of them than the new one's; if there is none, the new one is told that the replica is full.
pub const CLIENTS_MAX: usize = 1024;
/// The most connections without a hello. Beyond it the oldest of the source that has most of them is dropped without a
/// word. A peer says hello as soon as it is connected, before as many others can connect.
pub const STRANGERS_MAX: usize = 256;
/// The most connections that are being ended. Beyond it the oldest is dropped, whether or not it has read the reason.
pub const ENDED_MAX: usize = 256;
/// The most bytes that may wait to be written to all clients together, 64 MiB. Beyond it the connection for which most waits is
/// ended. Peers have a limit of their own for each.
const UNWRITTEN_MAX: usize = 64 * 1024 * 1024;
/// The most memory that frames of clients take that have come in part, or are not handled: 32 MiB. Beyond it the connection with
/// most of it is ended.
const INCOMING_MAX: usize = 32 * 1024 * 1024;
/// How long a connection may take until both sides have greeted.
const GREETING_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection may be silent, or its other side may read none of the bytes that wait. Clients ping every 5 s, and peers
/// announce at least every 50 ms.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// How often connections are looked at for these two limits.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// All connections but those for monitoring.
pub struct Connections {
    all: BTreeMap<ConnectionId, (Connection, Remote)>,
    next_sweep: Instant,
    /// How many connections had to give way, by their kind.
    strangers_dropped: u64,
    clients_ended: u64,
    /// How many were ended because they did not read, or because of the memory that they took.
    hoarders_ended: u64,
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

/// Whether there is room for one more client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientRoom {
    Free,
    /// When this connection is ended.
    InPlaceOf(ConnectionId),
    None,
}

/// Faults that were found while writing.
#[derive(Debug, Default)]
pub struct Flushed {
    /// Connections of clients that are broken, or let too much wait: to be removed.
    pub gone: Vec<ConnectionId>,
    /// Connections of peers that are broken. The bytes that arrived before that may still be read.
    pub broken_peers: Vec<ConnectionId>,
}

/// Connections that have run into a time limit.
#[derive(Debug, Default)]
pub struct Expired {
    /// Ended long enough ago: to be removed.
    pub overdue: Vec<ConnectionId>,
    /// Silent for too long: to be ended.
    pub silent: Vec<ConnectionId>,
    /// The other side has read none of the bytes that wait for too long: to be ended.
    pub deaf: Vec<ConnectionId>,
}

impl Connections {
    /// An empty table.
    pub fn new(now: Instant) -> Connections {
        Connections { all: BTreeMap::new(), next_sweep: now, strangers_dropped: 0, clients_ended: 0, hoarders_ended: 0 }
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

    /// A connection and its other end.
    pub fn get(&self, id: ConnectionId) -> Option<&(Connection, Remote)> {
        self.all.get(&id)
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

    /// Whether this is the connection of a peer, or one without a hello.
    pub fn may_be_peer(&self, id: ConnectionId) -> bool {
        self.all.get(&id).is_some_and(|(_, remote)| match remote {
            Remote::Client(greeting) => !greeting.is_done(),
            Remote::Dialed(_) | Remote::Peer(_) => true,
        })
    }

    /// Puts connections into the order in which they are served: strangers first, of whom any may be a peer, then the clients that had
    /// the fewest turns in this stretch of time. So a client that sends little need not wait for those that send without end.
    pub fn sort_by_turn(&self, clients: &mut [ConnectionId], stretch: u64) {
        clients.sort_by_cached_key(|id| {
            let turns = self.get(*id).map_or(0, |(connection, _)| connection.turns(stretch));
            (!self.may_be_peer(*id), turns)
        });
    }

    /// The counts and sizes of a scrape.
    pub fn note_stats(&self, stats: &mut NetStats) {
        stats.clients = self.all.values().filter(|(_, remote)| !remote.is_peer()).count();
        stats.unwritten_bytes = self.all.values().map(|(connection, _)| connection.unwritten()).sum();
        stats.incoming_bytes = self.all.values().map(|(connection, _)| connection.incoming()).sum();
        stats.strangers_dropped = self.strangers_dropped;
        stats.clients_ended = self.clients_ended;
        stats.hoarders_ended = self.hoarders_ended;
    }

    /// The connections that are to be dropped before one more without a hello can be taken in.
    pub fn make_room_for_stranger(&mut self) -> Vec<ConnectionId> {
        let mut dropped = Vec::new();
        let strangers: Vec<(ConnectionId, Source)> = self.open(|greeting| !greeting.is_done()).collect();
        if strangers.len() >= STRANGERS_MAX {
            self.strangers_dropped += 1;
            let most = most_crowded(strangers.iter().map(|(_, source)| *source));
            // Numbers of connections grow, so the first is the oldest.
            dropped.extend(strangers.iter().find(|(_, source)| Some(*source) == most).map(|(id, _)| *id));
        }

        let mut ended =
            self.all.iter().filter(|(_, (connection, remote))| connection.is_closing() && !remote.is_peer());
        if ended.clone().count() >= ENDED_MAX {
            dropped.extend(ended.next().map(|(id, _)| *id));
        }
        dropped
    }

    /// Whether there is room for the client on this connection, which has just said hello.
    pub fn room_for_client(&mut self, newcomer: ConnectionId) -> ClientRoom {
        let others: Vec<(ConnectionId, Source)> =
            self.open(Greeting::is_done).filter(|(id, _)| *id != newcomer).collect();
        if others.len() < CLIENTS_MAX {
            return ClientRoom::Free;
        }

        let idle: Vec<(ConnectionId, Source)> = self
            .open(|greeting| greeting.is_done() && !greeting.is_logged_in())
            .filter(|(id, _)| *id != newcomer)
            .collect();
        let count = |wanted: Option<Source>| others.iter().filter(|(_, source)| Some(*source) == wanted).count();
        let ours = self.all.get(&newcomer).map(|(connection, _)| connection.source());
        let (candidates, most) = if idle.is_empty() {
            let most = most_crowded(others.iter().map(|(_, source)| *source));
            if count(most) <= count(ours) + 1 {
                return ClientRoom::None;
            }
            (others, most)
        } else {
            let most = most_crowded(idle.iter().map(|(_, source)| *source));
            (idle, most)
        };

        let heard = |id: &ConnectionId| self.all.get(id).map(|(connection, _)| connection.heard());
        let of_most = candidates.iter().filter(|(_, source)| Some(*source) == most).map(|(id, _)| *id);
        match of_most.min_by_key(heard) {
            Some(victim) => {
                self.clients_ended += 1;
                ClientRoom::InPlaceOf(victim)
            }
            None => ClientRoom::None,
        }
    }

    /// The connections of clients and strangers that are not being ended, with their sources.
    fn open(&self, is_wanted: impl Fn(&Greeting) -> bool) -> impl Iterator<Item = (ConnectionId, Source)> {
        self.all.iter().filter_map(move |(id, (connection, remote))| match remote {
            Remote::Client(greeting) if !connection.is_closing() && is_wanted(greeting) => {
                Some((*id, connection.source()))
            }
            _ => None,
        })
    }

    /// Writes as much as the sockets take, and ends the clients' connections that let too much wait, or hold too much memory.
    pub fn flush(&mut self, now: Instant) -> Flushed {
        let mut flushed = Flushed::default();
        let (mut unwritten, mut incoming) = (0, 0);
        for (id, (connection, remote)) in &mut self.all {
            let is_sound = connection.flush(now);
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
            incoming += connection.incoming();
        }

        if unwritten > UNWRITTEN_MAX {
            let hoarders =
                self.end_largest(unwritten - UNWRITTEN_MAX, Connection::unwritten, CloseReason::SlowReader, now);
            flushed.gone.extend(hoarders);
        }
        if incoming > INCOMING_MAX {
            let hoarders = self.end_largest(incoming - INCOMING_MAX, Connection::incoming, CloseReason::Full, now);
            flushed.gone.extend(hoarders);
        }
        flushed
    }

    /// Ends the clients' connections that are the largest by this measure, until they are smaller by `excess` together.
    fn end_largest(
        &mut self,
        excess: usize,
        size: fn(&Connection) -> usize,
        reason: CloseReason,
        now: Instant,
    ) -> Vec<ConnectionId> {
        let clients = self.all.iter_mut().filter(|(_, (_, remote))| !remote.is_peer());
        let mut by_size: Vec<(usize, ConnectionId, &mut Connection)> =
            clients.map(|(id, (connection, _))| (size(connection), *id, connection)).collect();
        by_size.sort_by_key(|(size, id, _)| Reverse((*size, *id)));

        let mut freed = 0;
        let mut ended = Vec::new();
        for (size, id, connection) in by_size {
            if freed >= excess {
                break;
            }
            freed += size;
            connection.give_up(reason.clone(), now);
            connection.flush(now);
            ended.push(id);
        }
        self.hoarders_ended += ended.len() as u64;
        ended
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
        for (id, (connection, remote)) in &mut self.all {
            connection.forget_lost_queries(now);
            let limit = match remote {
                Remote::Client(greeting) if !greeting.is_done() => connection.since() + GREETING_LIMIT,
                Remote::Dialed(_) => connection.since() + GREETING_LIMIT,
                Remote::Client(_) | Remote::Peer(_) => connection.heard() + SILENCE_LIMIT,
            };
            let is_deaf = connection.unwritten() > 0 && now > connection.taken() + SILENCE_LIMIT;
            if connection.is_overdue(now) {
                expired.overdue.push(*id);
            } else if is_deaf && !remote.is_peer() && !connection.is_closing() {
                expired.deaf.push(*id);
            } else if now > limit && !is_readable(*id) {
                expired.silent.push(*id);
            }
        }
        self.hoarders_ended += expired.deaf.len() as u64;
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
            connection.flush(now)
                && (connection.unwritten() > 0 || remote.is_peer() && !connection.read(scratch, now).end.is_over())
        });
        self.all.is_empty()
    }
}

/// The source that occurs most often.
fn most_crowded(sources: impl Iterator<Item = Source>) -> Option<Source> {
    let mut counts: BTreeMap<Source, usize> = BTreeMap::new();
    sources.for_each(|source| *counts.entry(source).or_default() += 1);
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(source, _)| source)
}

#[cfg(test)]
mod tests;
