//! The inputs of the protocol's state machine, and its outputs. The poll loop names these types, and the applier performs the
//! outputs.

use super::{ConnectionId, Loss, PeerId};
use stablechat_protocol::answer::{Refusal, Stability};
use stablechat_protocol::digest::LogMark;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::peer::{PeerMessage, SnapshotEnd, SnapshotRow};
use stablechat_protocol::request::{Actor, QueryRequest, Request, RequestId, StampedRequest};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::BTreeSet;
use std::time::Duration;

/// What happens to a replica.
///
/// One wake of its driver is a [`Input::Woken`], then everything that was read, with an [`Input::Drained`] where the sockets had
/// been read until empty, then an [`Input::Handled`], then as many [`Input::ApplyNext`] as the driver has time for, and at last
/// an [`Input::Applied`]. A `time` is the replica's clock when the message or the piece was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Begins each wake, before the events that were read are taken in, so that a pause of the replica is noticed before anything
    /// else.
    Woken { time: Timestamp },
    /// A client issued a request or a query.
    Request { submission: Submission, sender: Sender },
    /// A peer is connected: messages to it arrive in order, until it is disconnected.
    PeerConnected { peer: PeerId },
    /// A peer is no longer connected. This alone says nothing of the peer.
    PeerDisconnected { peer: PeerId },
    /// Nobody listens at a peer's address: it refused a connection that was begun after [`Effect::AskAddress`] of this number.
    AddressRefused { peer: PeerId, number: u64 },
    /// A peer sent a message.
    Peer { time: Timestamp, peer: PeerId, message: PeerMessage },
    /// A peer's log has been compared with ours.
    LogCompared {
        time: Timestamp,
        peer: PeerId,
        /// The common prefix ends with this request, and the peer's log has more; none when it has nothing that ours lacks.
        after: Option<Uid>,
        /// How many requests our log has after the common prefix.
        depth: u64,
        /// The timestamp of the last request in the peer's log; none if that lacks requests that are settled in ours.
        end: Option<Timestamp>,
    },
    /// A piece of a peer's log has come.
    LogEntries {
        time: Timestamp,
        peer: PeerId,
        /// The piece begins after this request.
        after: Uid,
        /// The requests in it that our log lacks, in order.
        missing: Vec<StampedRequest>,
        /// The next piece begins after this request; none when this was the last.
        next: Option<Uid>,
    },
    /// Everything that had arrived at this time has been put in. The reading was taken before the sockets were read until empty.
    Drained { time: Timestamp },
    /// Everything that was read is put in: announcements are sent.
    Handled { time: Timestamp },
    /// Apply the first pending request or query, if it is stable. Each is an input of its own, so that the driver can stop at any
    /// of them: applying all that is stable can take longer than the peers wait for a sign of life.
    ApplyNext,
    /// Nothing more is applied in this wake. Ends it: peers that have kept requests waiting for too long are dropped.
    Applied,
    /// At a boundary our log differs from a peer's, which it does only after the assumption of the protocol broke.
    LogsDiffer {
        peer: PeerId,
        /// Whether ours is the shorter one. Of equally long ones it is that of the replica which comes later in the cluster file.
        /// The peer finds the opposite.
        is_ours_shorter: bool,
    },
    /// A peer's log and ours cannot be brought together any more: a snapshot of the peer's has to replace ours.
    Outdated { peer: PeerId },
    /// A [`StoreChange::Insert`] is done.
    Inserted {
        /// The last request in the log.
        applied: Uid,
    },
    /// The log is settled up to this request: nothing can be inserted there any more.
    Settled { uid: Uid },
    /// The snapshot of a peer has replaced log and state.
    Installed {
        /// The last request in the log.
        applied: Uid,
        /// The requests in the log from [`super::Replica::horizon`] on.
        recent: BTreeSet<Uid>,
    },
    /// The snapshot of a peer could not be had.
    NotInstalled { peer: PeerId },
    /// Whether there is room on the disk for what clients may want to write.
    Room { has_room: bool },
    /// How far the wall clock is ahead of ours, in nanoseconds, if it is so far behind that our clock does not follow; then this is
    /// negative.
    WallClock { unfollowed_ns: Option<i64> },
    /// Nothing can be written, and the replica is to be dropped as in a crash: the pending requests are refused.
    Halted,
    /// The replica shall stop, once everything that it holds is applied or held by others.
    Stop,
}

/// Whom a request or query comes from, as far as the state of this replica knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A connection that has logged in to an account which exists.
    Account(AccountName),
    /// Any other connection. It may have logged in: the poll loop checks that a client holds a key, not whose key it is.
    Stranger,
    /// This replica itself, which submits again what has lost its place in the log.
    Replica,
}

/// A request or query as a client issued it, with the login of its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The replica's clock when it was read. Not its timestamp: the difference is how long it was on its way.
    pub time: Timestamp,
    /// The connection that gets the answer.
    pub from: ConnectionId,
    /// When the client issued it, by the client's clock.
    pub timestamp: Timestamp,
    pub body: Body,
    /// How long its account or address has to wait, if it has sent too many commands lately.
    pub too_fast: Option<Duration>,
}

/// A request or a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A command in a session: held until it is stable, then applied and logged.
    Request(Request),
    /// A query: held until it is stable, then answered from the state at its place in the order.
    Query(QueryRequest),
}

impl Body {
    /// The uid of this body when it is issued at `timestamp`.
    pub fn uid(&self, timestamp: Timestamp) -> Uid {
        match self {
            Body::Request(request) => request.uid(timestamp),
            Body::Query(query) => query.uid(timestamp),
        }
    }

    /// The account that it speaks for.
    pub fn actor(&self) -> Option<&Actor> {
        match self {
            Body::Request(request) => request.actor.as_ref(),
            Body::Query(query) => query.actor.as_ref(),
        }
    }

    /// The name by which its client knows it.
    pub fn id(&self) -> RequestId {
        match self {
            Body::Request(request) => RequestId::Command { client: request.client, sequence: request.sequence },
            Body::Query(query) => RequestId::Query { id: query.id },
        }
    }
}

/// What a replica wants done, in the order in which it says so. The three kinds differ in when they can be performed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Perform this at once.
    Effect(Effect),
    /// Perform this after all changes of the store before it, which may take long. Let nothing out that tells of it before it is
    /// durable.
    Change(StoreChange),
    /// Perform this when no change of the store is half done: it reads the log as a whole.
    Read(LogRead),
}

impl Output {
    /// A message to a peer.
    pub fn send(to: PeerId, message: PeerMessage) -> Output {
        Output::Effect(Effect::Send { to, message })
    }

    /// Something for a peer that is read from the log.
    pub fn read(to: PeerId, part: LogPart) -> Output {
        Output::Read(LogRead { to, part })
    }
}

/// What needs no change of the store, and does not wait for one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "almost every effect is a message; a box for each would cost more than it saves"
)]
pub enum Effect {
    /// Send this to a peer.
    Send { to: PeerId, message: PeerMessage },
    /// Send a peer these requests. Those of `logged` are read from the log: a request that is in it stays in it, whatever
    /// is being inserted, so this need not wait.
    SendBodies { to: PeerId, pending: Vec<StampedRequest>, logged: Vec<Uid> },
    /// Tell a client that its request or query was not accepted.
    Refuse { to: ConnectionId, request: RequestId, timestamp: Timestamp, reason: Refusal },
    /// What follows for this peer is meant for its new connection.
    ConnectionSeen { peer: PeerId },
    /// End the connection to a peer. Its next connection begins with a new greeting and a comparison of logs.
    Disconnect { peer: PeerId },
    /// A peer is lost, so that it is not consulted any more.
    PeerLost { peer: PeerId, loss: Loss },
    /// That peer was lost while we join, and nobody else has so many requests that it may have answered: we serve without them
    /// until it is back.
    Incomplete { peer: PeerId, lacking: usize },
    /// Find out whether anybody listens at a peer's address, with a new connection. [`Input::AddressRefused`] reports that nobody
    /// does.
    AskAddress { peer: PeerId, number: u64 },
    /// A new incarnation begins: note its number, durably, before anything else is sent. Otherwise a crash could bring back an
    /// incarnation that the peers have already met.
    NewEpoch {
        epoch: u64,
        /// The number of incarnations before this one since one was stable, to be noted with it.
        restarts: u32,
    },
    /// This incarnation is stable: note that there were no restarts.
    Stable,
    /// Let the clock show this time at least. Our log ends ahead of the clock, and no peer can say that the log is wrong.
    RaiseClock { to: Timestamp },
    /// Tell the operator: our log ends ahead of the clock, other replicas serve at the time of the clock, and their logs cannot
    /// replace ours because they lack requests that are settled in it.
    LogUnmendable,
    /// After [`Input::Stop`]: everything that was accepted is applied or held by the peers.
    Stopped,
}

/// A change of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChange {
    /// This is next in the order: apply it, and answer the connections that wait for it once it is durable.
    Apply {
        uid: Uid,
        /// A request is applied; a query is answered from the state at this place in the order, and changes nothing.
        body: Body,
        stability: Stability,
        /// How many replicas, this one included, are known to hold it.
        copies: u8,
        /// The connections that it came on.
        waiting: Vec<ConnectionId>,
    },
    /// These belong into the log and may lie below its end: insert those that are not in it, and confirm with
    /// [`Input::Inserted`]. While the replica catches up it asks for little more until then, so this may take a while.
    Insert {
        requests: Vec<StampedRequest>,
        /// The connections that wait for an answer to one of them.
        waiting: Vec<(Uid, Vec<ConnectionId>)>,
    },
    /// Take in a part of a peer's snapshot, and ask for the next one or install it.
    TakeSnapshotPart {
        from: PeerId,
        part: u64,
        rows: Vec<SnapshotRow>,
        /// Totals and digests of the whole snapshot, with its last part.
        end: Option<SnapshotEnd>,
    },
}

/// Something that a peer is to be sent, and that is read from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRead {
    pub to: PeerId,
    pub part: LogPart,
}

/// What of the log is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogPart {
    /// Marks at growing distances from its end, with which the peer compares its own log.
    Marks,
    /// The last of the peer's marks that our log has too.
    CommonPrefix { marks: Vec<LogMark> },
    /// A piece that begins with the first request after this one.
    Entries { after: Uid },
    /// The part of this number of a snapshot.
    SnapshotPart { number: u64 },
}
