//! What a replica reports about itself: for operators, and for comparing replicas with one another.
//!
//! Durations are in nanoseconds (`_ns`). Counters start at zero when the process starts.

use crate::clock_offset::signed_difference;
use crate::digest::{BoundaryDigests, Digest, LogMark};
use crate::name::ReplicaName;
use crate::time::Timestamp;

/// The most boundaries in a report.
pub const BOUNDARIES_MAX: usize = 8;

wire_struct! {
    /// A replica as it sees itself and its peers at one moment.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct StatusReport {
        pub replica: ReplicaName,
        /// The version of the program.
        pub version: String,
        pub phase: ReportedPhase,
        /// Whether it serves but answers nothing for now, because it is in contact with fewer than `min_live` replicas.
        pub is_muted: bool,
        /// The clock of the replicas that go on without this one because its own clock differs from theirs; none while its own is
        /// good.
        pub good_clock: Option<Timestamp>,
        /// The number of its incarnation.
        pub epoch: u64,
        /// How often it has begun anew, by a restart or a rejoin, since it was last stable. Restarts after it had left do not
        /// count.
        pub restarts: u64,
        /// How much longer it waits before it asks its peers to consult it, because of its restarts; none while it does not wait.
        pub join_wait_ns: Option<u64>,
        /// The last request that it has applied.
        pub applied: LogMark,
        /// The digest of its state after that request.
        pub state_digest: Digest,
        /// Its log and state as of the last boundaries, oldest first; at most [`BOUNDARIES_MAX`].
        pub boundaries: Vec<BoundaryDigests>,
        /// The position up to which its log is settled: all replicas have confirmed that theirs is equal.
        pub settled: u64,
        pub clock: Timestamp,
        /// Its closed timestamp: it accepts no client's request up to here.
        pub closed: Timestamp,
        /// How far its closed timestamp stays behind its clock.
        pub grace_ns: u64,
        /// Whether requests that are issued now may have to wait for the real-time test, because a replica started or fell
        /// silent.
        pub has_barrier: bool,
        /// How many requests and queries it holds and has not yet applied or answered.
        pub pending: u64,
        /// The other replicas, in the order of the cluster file.
        pub peers: Vec<PeerReport>,
        /// None while no log or snapshot is being transferred to it.
        pub catching_up: Option<CatchUpProgress>,
        pub counters: Counters,
        pub contents: StateContents,
    }
}

wire_struct! {
    /// How much there is in the replicated state. It is equal at all replicas that have applied the same requests.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct StateContents {
        pub accounts: u64,
        /// Conversations, of two accounts and in rooms.
        pub conversations: u64,
        pub messages: u64,
        /// The bytes of all messages as they are stored, before compression: text, sender and key.
        pub message_bytes: u64,
    }
}

wire_struct! {
    /// What a replica tells of itself to anybody.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct PublicStatus {
        pub replica: ReplicaName,
        pub phase: ReportedPhase,
        /// As in [`StatusReport`].
        pub is_muted: bool,
        /// How many requests it has applied.
        pub position: u64,
        /// How many other replicas it consults before it answers.
        pub linked: u8,
    }
}

impl PublicStatus {
    /// Whether the replica accepts requests and answers them.
    pub fn is_serving(&self) -> bool {
        self.phase == ReportedPhase::Serving && !self.is_muted
    }
}

impl StatusReport {
    /// As much of it as anybody may know.
    pub fn public(&self) -> PublicStatus {
        let linked = self.peers.iter().filter(|peer| peer.state == ReportedPeerState::Linked).count();
        PublicStatus {
            replica: self.replica.clone(),
            phase: self.phase,
            is_muted: self.is_muted,
            position: self.applied.position,
            linked: u8::try_from(linked).unwrap_or(u8::MAX),
        }
    }

    /// How far its clock is ahead of those that are good, in nanoseconds; none while its own is good. It stands down while its
    /// clock is off.
    pub fn clock_off_by_ns(&self) -> Option<i64> {
        self.good_clock.map(|good| signed_difference(self.clock.0, good.0))
    }

    /// Whether the replica accepts requests and answers them.
    pub fn is_serving(&self) -> bool {
        self.phase == ReportedPhase::Serving && !self.is_muted
    }
}

wire_enum! {
    /// What a replica is doing.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ReportedPhase {
        /// It takes over what its peers' logs have and its own lacks, and accepts nothing.
        0 => CatchingUp,
        /// It has asked its peers to consult it, and waits for their welcomes.
        1 => Joining,
        /// It accepts requests.
        2 => Serving,
        /// It was asked to stop, and hands its pending requests to its peers.
        3 => Stopping,
    }
}

wire_struct! {
    /// Another replica, as the reporting one sees it.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct PeerReport {
        pub replica: ReplicaName,
        pub state: ReportedPeerState,
        /// How it was last lost; none if it never was since the process started.
        pub loss: Option<ReportedLoss>,
        pub is_connected: bool,
        /// The peer's closed timestamp, as last heard; none when the peer is not linked.
        pub closed: Option<Timestamp>,
        /// The time since anything was last heard from the peer.
        pub silence_ns: u64,
        /// The peer's clock, as the reporting replica estimates it; none before the first estimate.
        pub clock: Option<Timestamp>,
        /// Whether the peer's clock differs from that of the reporting replica by more than the delivery bound has room for.
        pub clock_is_apart: bool,
    }
}

impl PeerReport {
    /// How far the peer's clock is ahead of the clock of the report that this is a part of, in nanoseconds; none before the first
    /// estimate.
    pub fn clock_offset_ns(&self, report: &StatusReport) -> Option<i64> {
        self.clock.map(|clock| signed_difference(clock.0, report.clock.0))
    }
}

wire_enum! {
    /// What a replica is to another.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ReportedPeerState {
        /// Nothing has been heard from it yet.
        0 => Unknown,
        /// It is catching up, and is not consulted.
        1 => CatchingUp,
        /// It is consulted before anything is answered.
        2 => Linked,
        /// It is lost: [`PeerReport::loss`] says how.
        3 => Down,
    }
}

wire_enum! {
    /// How a replica has lost another.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ReportedLoss {
        /// It is dead for certain: its process has ended.
        0 => Dead,
        /// It was silent for the delivery bound, and may live.
        1 => Silent,
        /// It lives, but was too slow.
        2 => TooSlow,
        /// It was stopped, and has handed over everything.
        3 => Left,
    }
}

wire_struct! {
    /// How far a log transfer or the transfer of a snapshot has come.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct CatchUpProgress {
        /// The peer that sends it.
        pub from: ReplicaName,
        /// Whether a snapshot is transferred, and not entries of the log.
        pub is_snapshot: bool,
        pub received_bytes: u64,
        /// The average since the transfer began.
        pub bytes_per_second: u64,
        /// An estimate, from 0 to 100.
        pub done_percent: u8,
    }
}

wire_struct! {
    /// What a replica has counted since its process started.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Counters {
        /// Requests applied, and queries answered, by the closed test.
        pub closed: u64,
        /// Requests applied, and queries answered, by the real-time test.
        pub real_time: u64,
        /// How many of both were queries.
        pub queries: u64,
        pub refused: RefusalCounts,
        pub lost: LossCounts,
        /// Repairs: times that requests were inserted below the end of its log.
        pub repairs: u64,
        /// Requests that repairs undid and applied again.
        pub undone: u64,
        pub longest_repair_ns: u64,
        /// Times that it took a new epoch without having been restarted.
        pub rejoins: u64,
        /// Comparisons that found equal logs and different states. Each one is a bug.
        pub state_disagreements: u64,
    }
}

wire_struct! {
    /// How often a peer was lost, by [`ReportedLoss`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct LossCounts {
        pub dead: u64,
        pub silent: u64,
        pub too_slow: u64,
        pub left: u64,
    }
}

wire_struct! {
    /// Refused requests and queries, by [`crate::answer::Refusal`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RefusalCounts {
        pub late: u64,
        pub ahead: u64,
        pub not_serving: u64,
        pub overloaded: u64,
        pub no_room: u64,
        pub too_fast: u64,
    }
}

impl RefusalCounts {
    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.late + self.ahead + self.not_serving + self.overloaded + self.no_room + self.too_fast
    }
}
