//! Status reports for tests.

use super::{ClusterStatus, Report};
use stablechat_protocol::digest::{BoundaryDigests, Digest, LogMark};
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::status::{
    CatchUpProgress, Counters, PeerReport, RefusalCounts, ReportedPeerState, ReportedPhase, StateContents, StatusReport,
};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;

/// The latest second that the reports have boundary digests of.
pub const SECOND: u64 = 1_795_336_205;

pub fn name(text: &str) -> ReplicaName {
    ReplicaName::parse(text).expect("a name")
}

/// Boundary digests that consist of these bytes.
pub fn boundary(second: u64, log: u8, state: u8) -> BoundaryDigests {
    let (log_digest, state_digest) = (Digest([log; 32]), Digest([state; 32]));
    BoundaryDigests { second, position: 40, log_digest, state_digest }
}

/// The report of a serving replica that is linked with these peers.
pub fn report(replica: &str, peers: &[&str]) -> StatusReport {
    let clock = Timestamp((SECOND + 2) * 1_000_000_000);
    let uid = Uid { timestamp: Timestamp(clock.0 - 5_000), digest: [7; 16] };
    let peer = |peer: &&str| PeerReport {
        replica: name(peer),
        state: ReportedPeerState::Linked,
        loss: None,
        is_connected: true,
        closed: Some(Timestamp(clock.0 - 900_000)),
        silence_ns: 20_000_000,
        clock: Some(Timestamp(clock.0 - 1500)),
        clock_is_apart: false,
    };
    StatusReport {
        replica: name(replica),
        version: "0.1.0".into(),
        phase: ReportedPhase::Serving,
        is_muted: false,
        good_clock: None,
        epoch: 3,
        restarts: 0,
        join_wait_ns: None,
        applied: LogMark { uid, position: 41, log_digest: Digest([0xd1; 32]) },
        state_digest: Digest([0x57; 32]),
        boundaries: (SECOND - 7..=SECOND).map(|second| boundary(second, 1, 2)).collect(),
        settled: 38,
        clock,
        closed: Timestamp(clock.0 - 400_000),
        grace_ns: 200_000,
        has_barrier: false,
        pending: 0,
        peers: peers.iter().map(peer).collect(),
        catching_up: None,
        counters: Counters {
            closed: 45,
            real_time: 2,
            queries: 6,
            refused: RefusalCounts { late: 1, ahead: 0, not_serving: 3, overloaded: 0, no_room: 0, too_fast: 0 },
            ..Counters::default()
        },
        contents: StateContents { accounts: 3, conversations: 2, messages: 24, message_bytes: 65_536 },
    }
}

/// A catch-up from replica a, at 24 %.
pub fn catching_up() -> CatchUpProgress {
    let (received_bytes, bytes_per_second) = (65_536, 256);
    CatchUpProgress { from: name("a"), is_snapshot: false, received_bytes, bytes_per_second, done_percent: 24 }
}

/// Three replicas that serve and have the same digests.
pub fn cluster_status() -> ClusterStatus {
    let reports = [report("a", &["b", "c"]), report("b", &["a", "c"]), report("c", &["a", "b"])];
    ClusterStatus {
        replicas: reports
            .into_iter()
            .map(|report| (report.replica.clone(), Some(Report::Whole(Box::new(report)))))
            .collect(),
    }
}

/// Changes one of the reports.
pub fn change(cluster_status: &mut ClusterStatus, place: usize, change: impl FnOnce(&mut StatusReport)) {
    let Some(Report::Whole(report)) = &mut cluster_status.replicas[place].1 else { panic!("no whole report") };
    change(report);
}
