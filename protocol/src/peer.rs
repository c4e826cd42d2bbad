//! What replicas say to each other.
//!
//! One connection joins a pair of replicas. The one that the cluster file names first dials, sends a
//! [`crate::message::ToReplica::Hello`] in the role of a replica, and gets a [`PeerMessage::Greeting`] or a
//! [`PeerMessage::Closing`]. From there on both sides send the messages below. The messages on a connection arrive in the order
//! in which they were sent, up to some point, and none after it: the protocol relies on that.
//!
//! How replicas use the messages is described with the replication protocol (`docs/ARCHITECTURE.md`), and message by message in
//! `docs/PROTOCOL.md`.

use crate::close::CloseReason;
use crate::digest::{BoundaryDigests, Digest, LogMark};
use crate::name::ReplicaName;
use crate::request::StampedRequest;
use crate::time::Timestamp;
use crate::uid::Uid;
use crate::wire::Bytes;
use std::time::Duration;

/// The most uids in one message.
pub const UIDS_MAX: usize = 20_000;
/// About the most bytes of requests in one [`PeerMessage::Bodies`] or [`PeerMessage::LogEntries`], and of rows in one
/// [`PeerMessage::SnapshotPart`]: the last request or row may exceed it. Small enough that other messages on the connection are
/// not delayed for long.
pub const BODIES_BYTES: usize = 256 * 1024;
/// How long a replica that learns of a request from a peer's list waits for the client's own copy, before it fetches the peer's.
/// Clients send every request to every replica, so most fetches would be superfluous.
pub const FETCH_DELAY: Duration = Duration::from_millis(2);

wire_enum! {
    /// From one replica to another.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum PeerMessage {
        /// Accepts a peer's hello.
        0 => Greeting {
            /// The newest version that both sides speak.
            version: u16,
            replica: ReplicaName,
        },
        /// The last frame: the sender ends the connection.
        1 => Closing { reason: CloseReason },
        /// The first message on a connection: which incarnation the sender is.
        2 => Incarnation {
            epoch: u64,
            /// Whether it has joined, so that a [`PeerMessage::Join`] follows. Until it joins it accepts nothing, and need not be
            /// consulted.
            has_joined: bool,
        },
        /// The sender holds these requests, pending or applied.
        3 => Listed {
            /// At most [`UIDS_MAX`].
            uids: Vec<Uid>,
        },
        /// The sender joins, or has joined: from here on it must be consulted. It has listed before what it holds of the recent
        /// past.
        4 => Join {
            /// The sender's closed timestamp.
            closed: Timestamp,
        },
        /// Answers a join: the sender consults the receiver from here on. It has listed before what it holds of the recent past.
        5 => Welcome {
            /// The incarnation of the receiver that is welcomed.
            to: u64,
            /// Up to here the sender may have applied requests, or answered queries, without consulting the receiver.
            applied: Timestamp,
            /// How far the sender closes behind its clock, in nanoseconds. The receiver has seen no delays of its own yet.
            grace_ns: u64,
        },
        /// What is new at the sender.
        6 => Announce {
            /// The sender's closed timestamp. It has listed all requests up to here that it accepted.
            closed: Timestamp,
            /// The requests that the sender has come to hold since its last announcement, whatever their origin; at most
            /// [`UIDS_MAX`].
            uids: Vec<Uid>,
        },
        /// Asks for the bodies of requests.
        7 => Fetch {
            /// At most [`UIDS_MAX`].
            uids: Vec<Uid>,
        },
        /// Answers a fetch, with as many bodies as the sender has at hand. [`PeerMessage::NotHeld`] names those that it will not
        /// have.
        8 => Bodies { requests: Vec<StampedRequest> },
        /// The sender stops. It has handed over everything that it holds.
        9 => Leave,
        /// Asks where the two logs part: marks of the sender's log at distances that grow, newest first.
        10 => LogMarks { marks: Vec<LogMark> },
        /// Answers [`PeerMessage::LogMarks`], or a [`PeerMessage::FetchLog`] for entries that are truncated.
        11 => CommonPrefix {
            /// The newest of the marks that the sender's log has as well; none when it has none of them.
            common: Option<LogMark>,
            /// The sender's last applied request.
            last: LogMark,
            /// The last request that is truncated from the sender's log, which begins after it.
            base: LogMark,
            /// Up to here the sender's log is settled: nothing can be inserted into it any more.
            settled: LogMark,
        },
        /// Asks for the entries of the log after a request.
        12 => FetchLog { after: Uid },
        /// Consecutive entries of the log.
        13 => LogEntries {
            /// As in the [`PeerMessage::FetchLog`].
            after: Uid,
            requests: Vec<StampedRequest>,
            /// Whether the log ends with the last of them.
            is_end: bool,
        },
        /// The sender's log and state at a boundary.
        14 => Boundary { digests: BoundaryDigests },
        /// Asks for a [`PeerMessage::Pong`].
        15 => Ping {
            /// The sender's clock; the pong returns it.
            sent: Timestamp,
        },
        /// Answers a ping.
        16 => Pong {
            /// As in the ping.
            sent: Timestamp,
            /// The sender's clock.
            clock: Timestamp,
            /// Whether that is far ahead of the wall clock of the sender's machine, and cannot go back: the sender's log has come
            /// there.
            is_log_time: bool,
        },
        /// The receiver is alive, but the sender goes on without it, since it was too slow or was taken for dead: the receiver
        /// has to rejoin, as an incarnation above this one.
        17 => Rejoin { above: u64 },
        /// Asks for a part of a snapshot of the log and the state.
        18 => FetchSnapshot {
            /// From 0; part 0 makes the receiver take a new snapshot.
            part: u64,
        },
        /// A part of a snapshot.
        19 => SnapshotPart {
            part: u64,
            /// The next rows, ordered by column family and key.
            rows: Vec<SnapshotRow>,
            /// Present in the last part.
            end: Option<SnapshotEnd>,
            /// About how many rows all parts have together, to show progress.
            rows_total: u64,
        },
        /// The sender cannot send this part: the receiver should wait, and begin again with part 0.
        20 => SnapshotBusy,
        /// Asks for a [`PeerMessage::ProbePong`], on behalf of a client that measures delays. Not the same message as
        /// [`PeerMessage::Ping`]: two pings that leave at one time would be taken for each other.
        21 => ProbePing {
            /// The sender's clock; the answer returns it.
            sent: Timestamp,
        },
        /// Answers a [`PeerMessage::ProbePing`].
        22 => ProbePong {
            /// As in the ping.
            sent: Timestamp,
            /// The sender's clock.
            clock: Timestamp,
        },
        /// Answers a fetch: the sender does not hold these requests, even if it has listed them. The receiver is not to ask it for
        /// them again.
        23 => NotHeld {
            /// At most [`UIDS_MAX`].
            uids: Vec<Uid>,
        },
        /// The sender takes nothing any more from the incarnations of another replica up to this one. It has listed before all
        /// that it holds.
        24 => Fenced {
            /// The place of the other replica in the cluster file, from 0.
            replica: u8,
            epoch: u64,
        },
    }
}

wire_struct! {
    /// A row of a snapshot, or a piece of a row whose value has more than [`BODIES_BYTES`].
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct SnapshotRow {
        /// The number of the row's column family.
        pub family: u8,
        pub key: Bytes,
        pub value: Bytes,
        /// Whether the next row has the same key, and the next piece of the value.
        pub continues: bool,
    }
}

wire_struct! {
    /// What the rows of a snapshot must add up to. The receiver installs nothing unless they do.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct SnapshotEnd {
        /// The log begins after this request.
        pub base: LogMark,
        /// Up to this request the log is settled: nothing can be inserted into it any more.
        pub settled: Uid,
        /// The log ends with this request.
        pub applied: LogMark,
        /// The digest of the state after `applied`.
        pub state_digest: Digest,
        /// How many bytes the rows of the log take.
        pub log_bytes: u64,
        /// The exclusive or of the digests of the undo records.
        pub undo_digest: Digest,
    }
}
