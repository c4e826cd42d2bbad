//! What comes into the protocol's state machine, and what it wants done.

use super::{ConnectionId, PeerId};
use stablechat_protocol::answer::{Refusal, Stability};
use stablechat_protocol::message::RequestId;
use stablechat_protocol::peer::{Mark, PeerMessage, SnapshotEnd, SnapshotRow, StampedRequest};
use stablechat_protocol::request::{QueryRequest, Request};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::BTreeSet;

/// What happens to a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The replica runs, and is about to take in what has come. Begins each wake.
    Woken {
        /// The replica's clock.
        time: Timestamp,
    },
    /// A client issued a request or a query.
    Request {
        /// The replica's clock when it was read.
        time: Timestamp,
        /// Who gets the answer.
        from: ConnectionId,
        /// When its client issued it.
        timestamp: Timestamp,
        /// What is asked for.
        body: Body,
    },
    /// A peer is connected: what is sent to it arrives in order, until it is disconnected.
    PeerConnected {
        /// The peer.
        peer: PeerId,
    },
    /// A peer is no longer connected. This alone says nothing of the peer.
    PeerDisconnected {
        /// The peer.
        peer: PeerId,
    },
    /// A peer sent a message.
    Peer {
        /// The replica's clock when it was read.
        time: Timestamp,
        /// The peer.
        peer: PeerId,
        /// What it sent.
        message: PeerMessage,
    },
    /// A peer's log has been compared with ours.
    LogCompared {
        /// The replica's clock when its part was read.
        time: Timestamp,
        /// The peer.
        peer: PeerId,
        /// After which request its log has what ours may lack; none when it has nothing more.
        after: Option<Uid>,
        /// How many requests our log has after that.
        depth: u64,
    },
    /// A piece of the log of a peer has come.
    LogEntries {
        /// The replica's clock when it was read.
        time: Timestamp,
        /// The peer.
        peer: PeerId,
        /// After which request it begins.
        after: Uid,
        /// What of it our log lacks, in order.
        missing: Vec<StampedRequest>,
        /// After which request the next piece begins; none when this was the last.
        next: Option<Uid>,
    },
    /// Everything that had arrived at this time, by the replica's clock, has been put in.
    Drained {
        /// The reading, taken before the sockets were read until empty.
        time: Timestamp,
    },
    /// What has come is put in. Ends each wake: what there is to say is said, and what is stable is applied.
    Handled {
        /// The replica's clock.
        time: Timestamp,
    },
    /// Our log differs from a peer's, which it should not.
    LogsDiffer {
        /// The peer.
        peer: PeerId,
        /// Whether ours is the shorter one, or of equal ones that of the replica which comes later in the cluster file: the
        /// peer finds the opposite.
        is_ours_shorter: bool,
    },
    /// A peer's log cannot be brought together with ours any more: a snapshot of it has to take its place.
    Outdated {
        /// The peer.
        peer: PeerId,
    },
    /// What an [`Output::Insert`] asked for is done.
    Inserted {
        /// The last applied request.
        applied: Uid,
    },
    /// The snapshot of a peer has taken the place of log and state.
    Installed {
        /// The last applied request.
        applied: Uid,
        /// The applied requests of the last [`super::ProtocolSettings::memory`], as the log has them.
        recent: BTreeSet<Uid>,
    },
    /// The snapshot of a peer could not be had.
    NotInstalled {
        /// The peer.
        peer: PeerId,
    },
    /// Whether there is room on the disk for what clients may want to write.
    Room {
        /// Whether there is.
        has_room: bool,
    },
    /// What was to be applied cannot be written, and the replica is to be dropped as in a crash: what it holds is refused.
    Halted,
    /// The replica shall stop, once what it holds is applied or in other hands.
    Stop,
}

/// What a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A command in a session: held until it is stable, then applied and logged.
    Request(Request),
    /// A query: held until it is stable, then answered from the state at its place in the order.
    Query(QueryRequest),
}

impl Body {
    /// The identity of this body when it is issued at `timestamp`.
    pub fn uid(&self, timestamp: Timestamp) -> Uid {
        match self {
            Body::Request(request) => request.uid(timestamp),
            Body::Query(query) => query.uid(timestamp),
        }
    }

    /// What its client calls it.
    pub fn id(&self) -> RequestId {
        match self {
            Body::Request(request) => RequestId::Command { client: request.client, sequence: request.sequence },
            Body::Query(query) => RequestId::Query { id: query.id },
        }
    }
}

/// What a replica wants done, in the order in which it says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// This is next in the order: apply it, and give the answer to all who wait for it once it is durable.
    Apply {
        /// Its place in the order.
        uid: Uid,
        /// What to apply, or to answer.
        body: Body,
        /// By which test it is stable.
        stability: Stability,
        /// How many replicas, this one included, are known to hold it.
        copies: u8,
        /// The connections that it came on.
        waiting: Vec<ConnectionId>,
    },
    /// These belong into the log and may lie below its end: insert those that are not in it, and say so by
    /// [`Input::Inserted`]. While the replica catches up it waits for that, so it may take a while.
    Insert {
        /// The requests.
        requests: Vec<StampedRequest>,
        /// Who waits for an answer to one of them.
        waiting: Vec<(Uid, Vec<ConnectionId>)>,
    },
    /// This was not accepted.
    Refuse {
        /// Who asked.
        to: ConnectionId,
        /// For what.
        request: RequestId,
        /// With which timestamp.
        timestamp: Timestamp,
        /// Why.
        reason: Refusal,
    },
    /// Send this to a peer.
    Send {
        /// The peer.
        to: PeerId,
        /// The message.
        message: PeerMessage,
    },
    /// Send a peer these bodies, and those of the uids that are in the log.
    SendBodies {
        /// The peer.
        to: PeerId,
        /// What is pending.
        held: Vec<StampedRequest>,
        /// What is not.
        uids: Vec<Uid>,
    },
    /// Send a peer a probe, with marks from our log.
    SendLogMarks {
        /// The peer.
        to: PeerId,
    },
    /// Answer a peer's probe.
    SendCommonPrefix {
        /// The peer.
        to: PeerId,
        /// Its marks.
        marks: Vec<Mark>,
    },
    /// Send a peer a piece of our log.
    SendLogEntries {
        /// The peer.
        to: PeerId,
        /// From the first request after this one.
        after: Uid,
    },
    /// Send a peer a part of a snapshot.
    SendSnapshotPart {
        /// The peer.
        to: PeerId,
        /// Its number.
        part: u64,
    },
    /// Take in a part of a peer's snapshot, and ask for the next one or install it.
    TakeSnapshotPart {
        /// The peer.
        from: PeerId,
        /// Its number.
        part: u64,
        /// The rows.
        rows: Vec<SnapshotRow>,
        /// What all come to, after the last one.
        end: Option<SnapshotEnd>,
    },
    /// What follows for this peer is meant for its new connection.
    ConnectionSeen {
        /// The peer.
        peer: PeerId,
    },
    /// End the connection to a peer; a new one is a new beginning.
    Disconnect {
        /// The peer.
        peer: PeerId,
    },
    /// A new incarnation begins: note its number, durably, before anything else is sent.
    NewEpoch {
        /// Its number.
        epoch: u64,
    },
    /// After [`Input::Stop`]: everything that was accepted is applied or in other hands.
    Stopped,
}
