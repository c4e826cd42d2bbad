//! The poll loop: sockets to messages and back, in one thread around mio.
//!
//! It knows connections, frames, greetings, logins and limits, and nothing of chat: a request is a body that it stamps with
//! the connection's login and passes on, an answer is a message that it passes back. It never waits for the disk, because
//! it never waits for the applier: when the applier is behind, it stops reading instead.
//!
//! What it reads goes to the applier in [`Round`]s over a bounded channel; what is to be sent comes back through the
//! [`Mailbox`], which wakes the loop.

mod channel;
mod connection;
mod greeting;
mod listener;
mod poll_loop;

pub use channel::Mailbox;
pub use listener::Listener;
pub use poll_loop::PollLoop;

use crate::replica::{Body, ConnectionId, PeerId};
use stablechat_protocol::message::ToClient;
use stablechat_protocol::name::{ClusterName, ReplicaName};
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::request::Actor;
use stablechat_protocol::time::Timestamp;

/// Who a connection reaches here.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterName,
    /// The replica.
    pub replica: ReplicaName,
}

/// What the poll loop tells the applier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client issued a request or a question.
    Request {
        /// The clock when it was read.
        time: Timestamp,
        /// The connection that it came on.
        from: ConnectionId,
        /// When its client issued it.
        timestamp: Timestamp,
        /// What it is, with the login of the connection.
        body: Body,
    },
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
    /// A peer is connected: what is sent to it arrives in order, until it is disconnected.
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
    /// The process shall stop.
    Stop,
}

/// Some of what was read, in the order in which it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// What happened.
    pub events: Vec<Event>,
    /// A reading of the clock: everything that had arrived by then is in this round or in earlier ones.
    pub drained: Option<Timestamp>,
}

/// A message to be sent. Whom it is for may be gone by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
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
}
