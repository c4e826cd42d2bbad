//! Status reports.

use super::Vectors;
use super::samples::*;
use stablechat_protocol::answer::{Answer, Rejection};
use stablechat_protocol::digest::{BoundaryDigests, Digest, LogMark};
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::status::{
    CatchUpProgress, Counters, LossCounts, PeerReport, RefusalCounts, ReportedLoss, ReportedPeerState, ReportedPhase,
    StateContents, StatusReport,
};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;

wire_enums! {
    "phase" ReportedPhase { CatchingUp, Joining, Serving, Stopping }
    "peer-state" ReportedPeerState { Unknown, CatchingUp, Linked, Down }
    "loss" ReportedLoss { Dead, Silent, TooSlow, Left }
}

impl Vectors {
    pub fn add_status(&mut self) {
        self.add("", ToReplica::Status);
        self.add("of a replica that has just started", ToClient::Status { report: Box::new(started()) });
        self.add("of a replica that serves", ToClient::Status { report: Box::new(serving()) });
        self.add("", ToClient::PublicStatus { status: serving().public() });
        let rejected = Answer::Rejected { reason: Rejection::NoSuchUser { name: account("bob") } };
        self.add("", ToClient::Changed { client: CLIENT, sequence: 24, uid: uid(1), answer: rejected });
        for phase in
            [ReportedPhase::CatchingUp, ReportedPhase::Joining, ReportedPhase::Serving, ReportedPhase::Stopping]
        {
            self.add("", phase);
        }
        for state in [
            ReportedPeerState::Unknown,
            ReportedPeerState::CatchingUp,
            ReportedPeerState::Linked,
            ReportedPeerState::Down,
        ] {
            self.add("", state);
        }
        for loss in [ReportedLoss::Dead, ReportedLoss::Silent, ReportedLoss::TooSlow, ReportedLoss::Left] {
            self.add("", loss);
        }
    }
}

/// A replica that has just started with an empty store, alone in its cluster.
fn started() -> StatusReport {
    StatusReport {
        replica: replica("a"),
        version: "0.1.0".to_string(),
        phase: ReportedPhase::CatchingUp,
        is_muted: true,
        good_clock: None,
        epoch: 1,
        restarts: 5,
        join_wait_ns: Some(4_000_000_000),
        applied: LogMark { uid: Uid::MIN, position: 0, log_digest: Digest::ZERO },
        state_digest: Digest::ZERO,
        boundaries: vec![],
        settled: 0,
        clock: NOW,
        closed: Timestamp::ZERO,
        grace_ns: 333_000_000,
        has_barrier: true,
        pending: 0,
        peers: vec![],
        catching_up: Some(catching_up()),
        counters: Counters::default(),
        contents: StateContents::default(),
    }
}

/// A transfer of the log, a quarter done.
fn catching_up() -> CatchUpProgress {
    let (received_bytes, bytes_per_second) = (65_536, 256);
    CatchUpProgress { from: replica("b"), is_snapshot: false, received_bytes, bytes_per_second, done_percent: 24 }
}

/// A replica that serves, in a cluster of four.
fn serving() -> StatusReport {
    let (second, position) = (NOW.0 / 1_000_000_000, 100_000);
    let (log_digest, state_digest) = (Digest([0xd1; 32]), Digest([0xd2; 32]));
    let peer = |name, state, closed, clock| PeerReport {
        replica: replica(name),
        state,
        loss: (state == ReportedPeerState::Down).then_some(ReportedLoss::Dead),
        is_connected: state == ReportedPeerState::Linked,
        closed,
        silence_ns: 20_000_000,
        clock,
        clock_is_apart: state == ReportedPeerState::CatchingUp,
    };
    StatusReport {
        phase: ReportedPhase::Serving,
        is_muted: false,
        restarts: 0,
        join_wait_ns: None,
        applied: LogMark { uid: uid(1), position, log_digest },
        state_digest,
        boundaries: vec![BoundaryDigests { second, position, log_digest, state_digest }],
        settled: position - 1000,
        closed: NOW,
        has_barrier: false,
        pending: 24,
        peers: vec![
            peer("b", ReportedPeerState::Linked, Some(NOW), Some(NOW.next())),
            peer("c", ReportedPeerState::Down, None, None),
            peer("d", ReportedPeerState::CatchingUp, None, Some(NOW)),
        ],
        catching_up: None,
        counters: Counters {
            closed: 65_536,
            real_time: 256,
            queries: 24,
            refused: RefusalCounts { late: 1, ahead: 2, not_serving: 3, overloaded: 4, no_room: 5, too_fast: 6 },
            lost: LossCounts { dead: 1, silent: 2, too_slow: 3, left: 4 },
            repairs: 1,
            undone: 23,
            longest_repair_ns: 1_000_000,
            rejoins: 2,
            state_disagreements: 0,
        },
        contents: StateContents { accounts: 24, conversations: 256, messages: 65_536, message_bytes: 16_777_216 },
        ..started()
    }
}
