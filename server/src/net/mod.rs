//! The poll loop: sockets to messages and back, in one thread around mio.
//!
//! It knows connections, frames, greetings, logins and limits, and nothing of chat: a request is a body that it stamps with
//! the connection's login and passes on, an answer is a message that it passes back. It never waits for the disk, because
//! it never waits for the applier: when the applier is behind, it stops reading instead.
//!
//! It also keeps one connection to each other replica, which it dials or is dialed by, see `peer_greeting`. What peers say to
//! each other it passes on unread.
//!
//! Who wants to watch the replica gets what the applier says of it, over HTTP, see `monitor`.
//!
//! What it reads goes to the applier in [`EventBatch`]s over a bounded channel; what is to be sent comes back through the
//! [`NetHandle`], which wakes the loop.

mod channel;
mod connection;
mod connections;
mod dialer;
mod greeting;
mod http;
mod intake;
mod listener;
mod monitor;
mod peer_greeting;
mod peer_links;
mod poll_loop;
mod registrar;
#[cfg(test)]
mod tests;

pub use channel::{LoopWaker, NetHandle};
pub use listener::Listener;
pub use monitor::Monitor;
pub use poll_loop::PollLoop;

use crate::replica::{ConnectionId, PeerId, Submission};
use stablechat_protocol::cluster::{Cluster, ReplicaEntry};
use stablechat_protocol::digest::Digest;
use stablechat_protocol::message::ToClient;
use stablechat_protocol::name::{ClusterName, ReplicaName};
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::request::Actor;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::version::Versions;

/// Who a connection reaches here.
#[derive(Clone, Debug)]
pub struct ReplicaIdentity {
    /// The cluster.
    pub cluster: ClusterName,
    /// The replica.
    pub replica: ReplicaName,
    /// Its place in the cluster file.
    place: PeerId,
    /// The cluster file.
    file: Cluster,
    /// The versions of the protocol that it speaks.
    versions: Versions,
}

impl ReplicaIdentity {
    /// The replica of this name; none when the cluster has no such.
    pub fn of(cluster: &Cluster, replica: &ReplicaName) -> Option<ReplicaIdentity> {
        let mut identity = ReplicaIdentity {
            cluster: cluster.name.clone(),
            replica: replica.clone(),
            place: PeerId(0),
            file: cluster.clone(),
            versions: Versions::OURS,
        };
        identity.place = identity.place_of(replica)?;
        Some(identity)
    }

    /// The same replica, speaking these versions of the protocol.
    pub fn speaking(self, versions: Versions) -> ReplicaIdentity {
        ReplicaIdentity { versions, ..self }
    }

    /// The name of one of the cluster's replicas.
    pub fn name_of(&self, PeerId(place): PeerId) -> ReplicaName {
        self.file.replicas[usize::from(place)].name.clone()
    }

    /// Its place in the cluster file.
    pub fn place(&self) -> PeerId {
        self.place
    }

    /// `HOST:PORT`, where it listens.
    pub fn address(&self) -> &str {
        &self.file.replicas[usize::from(self.place.0)].address
    }

    /// What a peer's cluster file must agree on with ours.
    fn digest_with(&self, peer: &ReplicaName) -> Digest {
        self.file.digest_between(&self.replica, peer)
    }

    /// The place of the replica of this name; none when the cluster has no such.
    fn place_of(&self, name: &ReplicaName) -> Option<PeerId> {
        self.places().find_map(|(place, entry)| (entry.name == *name).then_some(place))
    }

    /// The other replicas.
    pub fn peers(&self) -> impl Iterator<Item = (PeerId, &ReplicaEntry)> {
        self.places().filter(|(place, _)| *place != self.place)
    }

    /// All replicas with their places.
    fn places(&self) -> impl Iterator<Item = (PeerId, &ReplicaEntry)> {
        (0..).map(PeerId).zip(&self.file.replicas)
    }
}

/// What the poll loop tells the applier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// A client issued a request or a query.
    Request(Submission),
    /// A connection proved that it holds a key.
    LoggedIn {
        /// The connection.
        connection: ConnectionId,
        /// For whom it speaks from here on.
        actor: Actor,
        /// Whether it wants the account's messages.
        receive: bool,
    },
    /// A connection speaks for nobody from here on.
    LoggedOut {
        /// The connection.
        connection: ConnectionId,
    },
    /// A connection that had been greeted is gone.
    Closed {
        /// The connection.
        connection: ConnectionId,
    },
    /// A peer is connected: what is sent to it arrives in order, until it is disconnected. The applier says
    /// [`NetCommand::ConnectionSeen`] before it sends anything that is meant for this connection.
    PeerConnected {
        /// The peer.
        peer: PeerId,
    },
    /// A peer is no longer connected. Some of what was sent to it last may not have arrived.
    PeerDisconnected {
        /// The peer.
        peer: PeerId,
    },
    /// A peer sent a message.
    Peer {
        /// The clock when it was read.
        time: Timestamp,
        /// The peer.
        peer: PeerId,
        /// What it sent: any message but a greeting or a closing.
        message: PeerMessage,
    },
    /// A client asks for the replica's status.
    Status {
        /// The connection that it asked on.
        from: ConnectionId,
    },
    /// Someone watches the replica: say how it is, by a [`NetCommand::ScrapeResult`].
    Scrape {
        /// What only the poll loop knows of it.
        traffic: NetStats,
    },
    /// A client asks for pings of the peers, and for what comes of them.
    PingPeers {
        /// The connection that it asked on.
        from: ConnectionId,
    },
    /// The process shall stop.
    Stop,
}

/// What the poll loop knows of the replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    /// How many clients are connected.
    pub clients: usize,
    /// How many bytes wait to be sent, to clients and peers.
    pub outbox_bytes: usize,
    /// How often the wall clock was set.
    pub clock_steps: u64,
}

/// How the replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapeReport {
    /// Why it does not serve; none when it serves.
    pub unready: Option<String>,
    /// Everything that is measured, in Prometheus' text format.
    pub metrics: String,
}

/// Some of what was read, in the order in which it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventBatch {
    /// What happened.
    pub events: Vec<NetEvent>,
    /// A reading of the clock: everything that had arrived by then is in this round or in earlier ones.
    pub drained: Option<Timestamp>,
}

/// A message to be sent. Whom it is for may be gone by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetCommand {
    /// To a client.
    ToClient {
        /// Its connection.
        to: ConnectionId,
        /// The message.
        message: ToClient,
    },
    /// To a peer.
    ToPeer {
        /// The peer.
        to: PeerId,
        /// The message.
        message: PeerMessage,
    },
    /// Nothing: the applier has seen an [`NetEvent::PeerConnected`]; to be said once for each, before what is meant for that
    /// connection. What was sent to the peer before was meant for an earlier one, on which something may have been lost, and
    /// must not follow on this one.
    ConnectionSeen {
        /// The peer.
        peer: PeerId,
    },
    /// To all who watch.
    ScrapeResult {
        /// How the replica is.
        inspection: ScrapeReport,
    },
    /// Nothing: the connection to a peer shall end, and a new one be made.
    Disconnect {
        /// The peer.
        peer: PeerId,
    },
}
