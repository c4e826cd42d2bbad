//! The poll loop: from sockets to messages and back, in one thread around mio.
//!
//! It knows connections, greetings, logins and limits, and nothing of chat. A request is a body: the loop adds the account that
//! the connection is logged in to and passes it on. It never waits for the disk, because it never waits for the applier: when the
//! applier is behind, the loop stops reading sockets.
//!
//! Events go to the applier in [`EventBatch`]es over a bounded channel. Commands come back through the [`NetHandle`], which wakes
//! the loop.
//!
//! - `poll_loop`: the loop; `channel`: the way to the applier and back; `intake`: batches, and the clock reading of each.
//! - `connections`: the table of connections and their common limits; `connection`: one of them, over the common transport.
//! - `tls`: the replica's certificate, and whose it trusts.
//! - `greeting`: what clients may say when; `peer_greeting`, `peer_links`, `dialer`: the one connection with each peer.
//! - `rates`: how many commands an account and an address may submit.
//! - `monitor`, `http`: metrics and health for monitoring systems.

mod channel;
mod connection;
mod connections;
mod dialer;
mod dials;
#[cfg(test)]
mod fuzz;
mod greeting;
mod http;
mod inquirer;
mod intake;
mod listener;
mod logins;
mod monitor;
mod peer_greeting;
mod peer_links;
mod poll_loop;
mod rates;
mod registrar;
mod source;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tls;

pub use channel::{LoopWaker, NetHandle};
pub use listener::Listener;
pub use monitor::Monitor;
pub use poll_loop::PollLoop;
use source::Source;
#[cfg(test)]
pub use testing::replica_tls;
pub use tls::ReplicaTls;

use crate::replica::{ConnectionId, PeerId, Submission};
use stablechat_protocol::cluster::{Cluster, ReplicaEntry};
use stablechat_protocol::digest::Digest;
use stablechat_protocol::message::ToClient;
use stablechat_protocol::name::{AccountName, ClusterName, ReplicaName};
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::request::Actor;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::version::Versions;

/// Which replica this is, in which cluster.
#[derive(Clone, Debug)]
pub struct ReplicaIdentity {
    pub cluster: ClusterName,
    pub replica: ReplicaName,
    /// Its place in the cluster file.
    place: PeerId,
    /// The cluster file. It has the replica.
    file: Cluster,
    /// The versions of the protocol that the replica speaks.
    versions: Versions,
}

impl ReplicaIdentity {
    /// The replica of this name; none if the cluster file does not have it.
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

    /// The same replica, speaking these versions of the protocol, for tests of upgrades.
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

    /// The digest of what a peer's cluster file must have in common with ours.
    fn digest_with(&self, peer: &ReplicaName) -> Digest {
        self.file.digest_between(&self.replica, peer)
    }

    /// The place of the replica of this name; none if the cluster file does not have it.
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

/// Something that the poll loop tells the applier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// A client issued a request or a query.
    Request(Submission),
    /// A client has said hello. Everything else that comes from its connection follows, and at last a [`NetEvent::Closed`].
    Greeted { connection: ConnectionId },
    /// A connection proved that it holds the actor's key, and speaks for that account from here on.
    LoggedIn {
        connection: ConnectionId,
        actor: Actor,
        /// Whether messages for the account are to be pushed to the connection.
        receive: bool,
    },
    /// A connection speaks for no account from here on.
    LoggedOut { connection: ConnectionId },
    /// The connection of a client that had been greeted is gone.
    Closed { connection: ConnectionId },
    /// A peer is connected. Messages for it arrive in order until it is disconnected. The applier answers with
    /// [`NetCommand::ConnectionSeen`] before it sends anything that is meant for this connection.
    PeerConnected { peer: PeerId },
    /// A peer is no longer connected. Some of the last messages for it may not have arrived.
    PeerDisconnected { peer: PeerId },
    /// Nobody listens at a peer's address: the answer to [`NetCommand::AskAddress`]. All that was read of the peer before it was
    /// asked is handed over before.
    AddressRefused {
        peer: PeerId,
        /// As in the command.
        number: u64,
    },
    /// A peer sent a message: any but a greeting or a closing, which the loop handles itself.
    Peer {
        /// The replica's clock when the message was read.
        time: Timestamp,
        peer: PeerId,
        message: PeerMessage,
    },
    /// A client asks for the replica's status.
    Status { from: ConnectionId },
    /// A monitoring system asks for a report, which the applier gives by [`NetCommand::ScrapeResult`].
    Scrape { stats: NetStats },
    /// A client asks for pings of the peers, and for their answers.
    PingPeers { from: ConnectionId },
    /// The process is to stop.
    Stop,
}

/// What only the poll loop can count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    /// How many clients are connected.
    pub clients: usize,
    /// How many bytes wait to be written, to clients and peers.
    pub unwritten_bytes: usize,
    /// How many bytes of memory incoming frames take that are not handled.
    pub incoming_bytes: usize,
    /// How many connections were dropped before they had said what they were, for the sake of others.
    pub strangers_dropped: u64,
    /// How many clients were ended for the sake of others.
    pub clients_ended: u64,
    /// How many clients were ended because they did not read, or held too much memory.
    pub hoarders_ended: u64,
    /// How often the wall clock was set.
    pub clock_steps: u64,
    /// Until when the replica's certificate is valid, in seconds since 1970; and the authority's.
    pub certificate_until: u64,
    pub authority_until: u64,
}

/// What a monitoring system may learn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapeReport {
    /// Why the replica does not serve; none when it serves.
    pub unready: Option<String>,
    /// All metrics, in Prometheus' text format.
    pub metrics: String,
}

/// Events in the order in which they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventBatch {
    pub events: Vec<NetEvent>,
    /// A clock reading: everything that had arrived by then is in this batch or in an earlier one.
    pub drained: Option<Timestamp>,
}

/// Something that the applier wants done. A connection that it is for may be gone by then; then nothing is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetCommand {
    /// Send a message to clients.
    ToClients { to: Vec<ConnectionId>, message: ToClient },
    /// Send a message to a peer.
    ToPeer { to: PeerId, message: PeerMessage },
    /// The applier has seen a [`NetEvent::PeerConnected`]. Comes once for each, before the messages that are meant for that
    /// connection. Earlier messages were meant for an earlier connection, on which something may have been lost, and must not
    /// follow on this one.
    ConnectionSeen { peer: PeerId },
    /// Answer the monitoring systems that wait for a report.
    ScrapeResult { report: ScrapeReport },
    /// A connection is logged in under this name with a key that no account of the name has.
    WrongKey { connection: ConnectionId, account: AccountName },
    /// End the connection with a peer and make a new one.
    Disconnect { peer: PeerId },
    /// Find out whether anybody listens at a peer's address, with a connection that is begun now, until the peer is connected.
    AskAddress { peer: PeerId, number: u64 },
    /// The peer is down for us, so the answer is not wanted any more.
    DropQuestion { peer: PeerId },
}
