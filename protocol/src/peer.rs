//! The messages between two replicas.
//!
//! One connection joins a pair of replicas; the one that the cluster file names first dials. It says a
//! [`crate::message::ToReplica::Hello`] in the role of a replica and gets a [`PeerMessage::Greeting`] or a closing; from there on both sides send
//! what is below, in any order. Everything on a connection arrives in order or not at all.

use crate::id::Digest;
use crate::message::CloseReason;
use crate::name::ReplicaName;
use crate::request::Request;
use crate::time::Timestamp;
use crate::uid::Uid;
use crate::wire::Bytes;
use std::time::Duration;

/// The most uids in one message.
pub const UIDS_MAX: usize = 20_000;
/// The most bytes of requests in one [`PeerMessage::Bodies`] or [`PeerMessage::LogEntries`], and of rows in one
/// [`PeerMessage::SnapshotPart`], but for the last of them.
pub const BODIES_BYTES: usize = 256 * 1024;
/// How long a replica waits for a client's own copy of what a peer has listed, before it asks the peer for its copy.
pub const FETCH_DELAY: Duration = Duration::from_millis(2);

wire_enum! {
    /// From a replica to another.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum PeerMessage {
        /// The answer to a peer's hello that was in order: the connection stands.
        0 => Greeting {
            /// The agreed version.
            version: u16,
            /// Who answers.
            replica: ReplicaName,
        },
        /// The last frame: the sender ends the connection.
        1 => Closing {
            /// Why.
            reason: CloseReason,
        },
        /// The sender is catching up: it accepts nothing, and nobody waits for it.
        2 => CatchingUp {
            /// The number of its incarnation.
            epoch: u64,
        },
        /// The sender has these, pending or applied.
        3 => Listed {
            /// At most [`UIDS_MAX`] uids.
            uids: Vec<Uid>,
        },
        /// The sender joins, or has joined: from here on it has to be consulted. What it holds of the recent past was listed
        /// before.
        4 => Join {
            /// The number of its incarnation.
            epoch: u64,
            /// It accepts no client's request up to here.
            closed: Timestamp,
        },
        /// The answer to a join: the sender consults the joining replica from here on. What the sender holds of the recent
        /// past was listed before.
        5 => Welcome {
            /// The incarnation that it welcomes.
            to: u64,
            /// It accepts no client's request up to here; up to here it may have applied without the one that joins.
            closed: Timestamp,
        },
        /// Everything new: what the sender holds since its last announcement, however it got it.
        6 => Announce {
            /// It accepts no client's request up to here, and has listed all that it accepted up to here.
            closed: Timestamp,
            /// At most [`UIDS_MAX`] uids.
            uids: Vec<Uid>,
        },
        /// Asks for bodies.
        7 => Fetch {
            /// Of these, at most [`UIDS_MAX`].
            uids: Vec<Uid>,
        },
        /// Bodies that were asked for.
        8 => Bodies {
            /// The requests.
            requests: Vec<StampedRequest>,
        },
        /// The sender stops. It has handed over all that it holds.
        9 => Leave,
        /// Asks where the two logs part. The marks lie further and further back, each an applied request.
        10 => LogMarks {
            /// The marks, newest first.
            marks: Vec<Mark>,
        },
        /// The answer to a probe, and to a request for a tail that is not there any more.
        11 => CommonPrefix {
            /// The newest mark that is in the sender's log with the same chain hash; none when no mark is.
            common: Option<Mark>,
            /// The sender's last applied request.
            last: Mark,
            /// The last request that is no longer in the sender's log, after which it begins.
            base: Mark,
            /// Up to here nothing can be inserted into the sender's log any more.
            settled: Mark,
        },
        /// Asks for the log after a request.
        12 => FetchLog {
            /// From the first request after this one.
            after: Uid,
        },
        /// A piece of the log, in order.
        13 => LogEntries {
            /// The request after which it begins, as asked for.
            after: Uid,
            /// The requests.
            requests: Vec<StampedRequest>,
            /// Whether the log ends with the last of them.
            is_end: bool,
        },
        /// How far the sender's log had come at a whole second of timestamps.
        14 => Boundary {
            /// The digests.
            digests: BoundaryDigests,
        },
        /// Asks for a [`PeerMessage::Pong`].
        15 => Ping {
            /// The sender's clock, to be sent back.
            sent: Timestamp,
        },
        /// The answer to a ping.
        16 => Pong {
            /// As in the ping.
            sent: Timestamp,
            /// The sender's clock.
            clock: Timestamp,
        },
        /// The receiver is alive, but so slow that others had to do without it for long: it has to begin again.
        17 => TooSlow,
        /// Asks for a part of a snapshot of the log and the state.
        18 => FetchSnapshot {
            /// Its number, from 0, which begins a new snapshot.
            part: u64,
        },
        /// A part of a snapshot.
        19 => SnapshotPart {
            /// Its number.
            part: u64,
            /// The rows that come next, by the numbers of their column families and by their keys.
            rows: Vec<SnapshotRow>,
            /// After the last part: what they come to.
            end: Option<SnapshotEnd>,
            /// About how many rows all parts have together, to tell how far it is.
            rows_total: u64,
        },
        /// There is no such part of a snapshot for now: ask again later, from the first.
        20 => SnapshotBusy,
    }
}

wire_struct! {
    /// A request with its uid, which whoever receives it checks.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct StampedRequest {
        /// The uid.
        pub uid: Uid,
        /// The request.
        pub request: Request,
    }
}

impl StampedRequest {
    /// Whether the uid is that of the request.
    pub fn is_genuine(&self) -> bool {
        self.request.uid(self.uid.timestamp) == self.uid
    }
}

wire_struct! {
    /// A place in a log: equal marks mean equal logs up to there.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Mark {
        /// The request there.
        pub uid: Uid,
        /// How many requests the log has up to and with it.
        pub position: u64,
        /// The chain hash over them.
        pub log_digest: Digest,
    }
}

wire_struct! {
    /// A row of a snapshot.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct SnapshotRow {
        /// The number of its column family.
        pub family: u8,
        /// Its key.
        pub key: Bytes,
        /// Its value.
        pub value: Bytes,
    }
}

wire_struct! {
    /// What the rows of a snapshot come to.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct SnapshotEnd {
        /// After this request the log begins.
        pub base: Mark,
        /// Up to this request nothing can be inserted into it any more.
        pub settled: Uid,
        /// With this request it ends.
        pub applied: Mark,
        /// The digest over the state then.
        pub state_digest: Digest,
        /// How many bytes the rows of the log take.
        pub log_bytes: u64,
    }
}

wire_struct! {
    /// A log and a state as of a whole second of timestamps: after all requests with an earlier timestamp.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct BoundaryDigests {
        /// The second, since the Unix epoch.
        pub second: u64,
        /// How many requests had been applied.
        pub position: u64,
        /// The chain hash over them.
        pub log_digest: Digest,
        /// The digest over the state.
        pub state_digest: Digest,
    }
}
