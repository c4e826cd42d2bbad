//! What a replica says of itself: for an operator, and for comparing replicas with one another.

use crate::id::Digest;
use crate::name::ReplicaName;
use crate::peer::{BoundaryDigests, Mark};
use crate::time::Timestamp;

/// How many boundaries a report has at most.
pub const BOUNDARIES_MAX: usize = 8;

wire_struct! {
    /// A replica as it sees itself and its peers at one moment.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct StatusReport {
        /// Which replica it is.
        pub replica: ReplicaName,
        /// The version of its program.
        pub version: String,
        /// What it does.
        pub phase: ReportedPhase,
        /// Whether it answers nothing for now although it serves: it is in contact with too few others, or its clock is off.
        pub is_mute: bool,
        /// Whether its clock is off against those of others, who agree.
        pub clock_is_off: bool,
        /// The number of its incarnation.
        pub epoch: u64,
        /// The last request that it has applied.
        pub applied: Mark,
        /// The digest over its state.
        pub state_digest: Digest,
        /// Its log and state as of the last seconds at which they can be compared, oldest first; at most
        /// [`BOUNDARIES_MAX`].
        pub boundaries: Vec<BoundaryDigests>,
        /// How many requests from the beginning of its log are settled: all replicas have said that they have them.
        pub settled: u64,
        /// Its clock.
        pub clock: Timestamp,
        /// It accepts no client's request up to here.
        pub closed: Timestamp,
        /// How far behind its clock it closes.
        pub grace_ns: u64,
        /// Whether requests of now may have to wait for the real-time test, because a replica started or fell silent.
        pub has_barrier: bool,
        /// How many requests and queries it holds and has not yet applied or answered.
        pub pending: u64,
        /// The other replicas, in the order of the cluster file.
        pub peers: Vec<PeerReport>,
        /// How far it has caught up; none while it takes in nothing from a peer.
        pub catching_up: Option<CatchUpProgress>,
        /// What it has counted since it started.
        pub counters: Counters,
    }
}

impl StatusReport {
    /// Whether it accepts requests and answers them.
    pub fn is_serving(&self) -> bool {
        self.phase == ReportedPhase::Serving && !self.is_mute
    }
}

wire_enum! {
    /// What a replica does.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ReportedPhase {
        /// It learns what it missed, and accepts nothing.
        0 => CatchingUp,
        /// It has asked to be consulted, and waits to be welcomed.
        1 => Joining,
        /// It accepts requests.
        2 => Serving,
        /// It has been asked to stop, and hands over what it holds.
        3 => Stopping,
    }
}

wire_struct! {
    /// Another replica, as the reporting one sees it.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct PeerReport {
        /// Its name.
        pub replica: ReplicaName,
        /// What it is to the reporting one.
        pub standing: ReportedPeerState,
        /// Whether there is a connection.
        pub is_connected: bool,
        /// Up to where it was last heard to accept no client's request; none when it need not be consulted.
        pub closed: Option<Timestamp>,
        /// How long ago something was last heard from it.
        pub silence_ns: u64,
        /// What its clock shows, as the reporting one estimates it; none before that was done.
        pub clock: Option<Timestamp>,
    }
}

impl PeerReport {
    /// How far the peer's clock is ahead of the clock of the report that this is a part of, in nanoseconds, if it is known.
    pub fn clock_offset_ns(&self, report: &StatusReport) -> Option<i64> {
        self.clock.map(|clock| clock.0.wrapping_sub(report.clock.0).cast_signed())
    }
}

wire_enum! {
    /// What a replica is to another.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ReportedPeerState {
        /// Nothing has been heard of it yet.
        0 => Unknown,
        /// It catches up, and nobody waits for it.
        1 => CatchingUp,
        /// It is consulted.
        2 => Linked,
        /// It has been silent for the delivery bound, or has left.
        3 => Down,
    }
}

wire_struct! {
    /// How far a replica has caught up.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct CatchUpProgress {
        /// From which peer it takes in what it lacks.
        pub from: ReplicaName,
        /// Whether that is a snapshot, or else the peer's log.
        pub is_snapshot: bool,
        /// How many bytes it has received.
        pub received_bytes: u64,
        /// How many bytes it has received per second, on average.
        pub bytes_per_second: u64,
        /// About how much of what it lacked that is.
        pub done_percent: u8,
    }
}

wire_struct! {
    /// What a replica has counted since it started.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Counters {
        /// Requests that it applied, and queries that it answered, by the closed test.
        pub closed: u64,
        /// The same by the real-time test.
        pub real_time: u64,
        /// How many of both were queries.
        pub queries: u64,
        /// Requests and queries that it refused.
        pub refused: Refused,
        /// Times that it put requests below the end of its log.
        pub repairs: u64,
        /// Requests that it undid and applied again for that.
        pub undone: u64,
        /// How long the longest repair took.
        pub longest_repair_ns: u64,
        /// Times that it began again as another incarnation, without having been started.
        pub rejoins: u64,
        /// Times that its state was found to differ from a peer's after the same log. Any is one too many.
        pub state_disagreements: u64,
    }
}

wire_struct! {
    /// Refusals by their reasons.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Refused {
        /// [`crate::answer::Refusal::Late`].
        pub late: u64,
        /// [`crate::answer::Refusal::Ahead`].
        pub ahead: u64,
        /// [`crate::answer::Refusal::NotServing`].
        pub not_serving: u64,
        /// [`crate::answer::Refusal::Overloaded`].
        pub overloaded: u64,
        /// [`crate::answer::Refusal::NoRoom`].
        pub no_room: u64,
    }
}

impl Refused {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.late + self.ahead + self.not_serving + self.overloaded + self.no_room
    }
}
