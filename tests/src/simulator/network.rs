//! Connections between clients and replicas: each direction delivers in order, until it is cut.

use super::bounds::Bounds;
use fastrand::Rng;
use stablechat_protocol::time::Timestamp;
use stablechat_server::replica::ConnectionId;
use std::collections::BTreeMap;

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the replica.
    Up = 0,
    /// From the replica to the client.
    Down = 1,
}

/// A connection between a client and one incarnation of a replica.
#[derive(Debug)]
pub struct Connection {
    /// The client; `usize::MAX` for one that sends a single request and dies.
    pub client: usize,
    /// The replica.
    pub node: usize,
    /// The replica's incarnation.
    pub incarnation: u64,
    /// When the last message arrives, each way.
    last: [Timestamp; 2],
    /// Whether messages under way are lost, each way.
    lost: [bool; 2],
    /// Whether it is broken, so that nothing more is sent.
    broken: bool,
}

/// All connections there are or were.
#[derive(Debug)]
pub struct Network {
    connections: BTreeMap<ConnectionId, Connection>,
    next: u64,
    /// What most messages take at most, in nanoseconds.
    pub usual_delay: u64,
    /// What no message takes longer than, in nanoseconds: δ.
    delay_max: u64,
}

/// What no message takes less than, in nanoseconds.
pub const DELAY_MIN: u64 = 100_000;

impl Network {
    /// A network without connections, of a usual delay drawn at random.
    pub fn new(random: &mut Rng, bounds: Bounds) -> Network {
        let delay_max = bounds.delay_max();
        let usual_delay = random.choice([500_000, 5_000_000, delay_max]).expect("there are some");
        Network { connections: BTreeMap::new(), next: 1, usual_delay, delay_max }
    }

    /// Makes a connection, under a number that is never used again.
    pub fn connect(&mut self, client: usize, node: usize, incarnation: u64) -> ConnectionId {
        let id = ConnectionId(self.next);
        self.next += 1;
        let (last, lost) = ([Timestamp::ZERO; 2], [false; 2]);
        self.connections.insert(id, Connection { client, node, incarnation, last, lost, broken: false });
        id
    }

    /// A connection, broken or not.
    pub fn connection(&self, id: ConnectionId) -> &Connection {
        &self.connections[&id]
    }

    /// The connections of a replica that are not broken.
    pub fn of_node(&self, node: usize) -> Vec<ConnectionId> {
        let whole = self.connections.iter().filter(|(_, connection)| !connection.broken);
        whole.filter(|(_, connection)| connection.node == node).map(|(id, _)| *id).collect()
    }

    /// When a message that is sent now arrives; none on a broken connection.
    pub fn send(&mut self, random: &mut Rng, now: Timestamp, id: ConnectionId, way: Way) -> Option<Timestamp> {
        let connection = self.connections.get_mut(&id).filter(|connection| !connection.broken)?;
        let most = if random.u8(..20) == 0 { self.delay_max } else { self.usual_delay };
        let arrives = Timestamp(now.0 + random.u64(DELAY_MIN..=most));
        let last = &mut connection.last[way as usize];
        *last = arrives.max(last.next());
        Some(*last)
    }

    /// Breaks a connection, and loses messages under way upwards, downwards, both or neither. Returns when the replica and the
    /// client notice: after everything that still arrives.
    pub fn break_off(&mut self, random: &mut Rng, now: Timestamp, id: ConnectionId, lost: [bool; 2]) -> [Timestamp; 2] {
        let noticed = [Way::Up, Way::Down].map(|way| self.send(random, now, id, way).unwrap_or(now));
        let connection = self.connections.get_mut(&id).expect("connections are kept");
        (connection.broken, connection.lost) = (true, lost);
        noticed
    }

    /// Whether messages that would arrive this way are lost.
    pub fn is_lost(&self, id: ConnectionId, way: Way) -> bool {
        self.connections[&id].lost[way as usize]
    }

    /// Whether a connection is broken.
    pub fn is_broken(&self, id: ConnectionId) -> bool {
        self.connections[&id].broken
    }
}
