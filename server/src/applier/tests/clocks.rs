//! What is not believed of a peer whose clock is wrong, and when a replica's own is.

use super::*;
use stablechat_protocol::digest::{BoundaryDigests, Digest, LogMark};

/// The input for the protocol when a peer's log ends at `last`, and the peer has truncated what our log lacks.
fn input_of_a_log_that_ends(applier: &mut Applier, now: Timestamp, last: Timestamp) -> Option<Input> {
    let mark =
        |timestamp, position| LogMark { uid: Uid::new(timestamp, b"theirs"), position, log_digest: Digest([7; 32]) };
    let (base, last) = (mark(now, 100), mark(last, 200));
    let message = PeerMessage::CommonPrefix { common: None, last, base, settled: base };
    applier.input_from(now, PeerId(1), message).expect("memory does not fail")
}

#[test]
fn a_snapshot_of_a_log_that_ends_in_the_future_is_not_taken() {
    let (mut applier, now) = settled_alone();
    let credible = applier.replica().latest_credible();
    let input = input_of_a_log_that_ends(&mut applier, now, credible);
    assert_eq!(input, Some(Input::Outdated { peer: PeerId(1) }));
    match input_of_a_log_that_ends(&mut applier, now, credible.next()) {
        Some(Input::LogCompared { after: None, .. }) => {}
        input => panic!("it is believed: {input:?}"),
    }
}

/// Sixteen reports of the future would fill the memory for reports. The report of a slow peer would then find those of the others
/// forgotten, and nothing would be settled.
#[test]
fn digests_of_a_boundary_in_the_future_are_ignored() {
    let mut cluster = Cluster::new(3);
    cluster.issue(create(&actor("ann", 1)));
    let now = cluster.now;
    for hours in 1..=16 {
        let second = now.after(Duration::from_secs(3600 * hours)).0 / 1_000_000_000;
        let digests =
            BoundaryDigests { second, position: 9, log_digest: Digest([7; 32]), state_digest: Digest([7; 32]) };
        let message = PeerMessage::Boundary { digests };
        cluster.nodes[0].inbox.push_back(NetEvent::Peer { time: now, peer: PeerId(1), message });
    }
    let mut late = VecDeque::new();
    for _ in 0..200 {
        cluster.run(STEP);
        let inbox = &mut cluster.nodes[0].inbox;
        let is_late = |event: &NetEvent| {
            matches!(event, NetEvent::Peer { peer: PeerId(2), message: PeerMessage::Boundary { .. }, .. })
        };
        let (reports, others) = std::mem::take(inbox).into_iter().partition::<VecDeque<NetEvent>, _>(is_late);
        *inbox = others;
        late.push_back(reports);
        if late.len() > 60 {
            inbox.extend(late.pop_front().into_iter().flatten());
        }
    }
    let store = cluster.applier(0).store();
    assert_eq!(store.log().settled(), store.applied().uid, "the boundaries of the present are not compared");
}

/// Where a peer's log ends counts only if it has all that is settled in ours: it may have to replace ours.
#[test]
fn the_end_of_a_log_that_lacks_what_is_settled_does_not_count() {
    let (mut applier, now) = settled_alone();
    let settled = applier.store().log().settled_mark().expect("it reads");
    let base = applier.store().log().base();
    let mut end_with = |common, settled| {
        let message = PeerMessage::CommonPrefix { common, last: LogMark { position: 9, ..settled }, base, settled };
        match applier.input_from(now, PeerId(1), message).expect("memory does not fail") {
            Some(Input::LogCompared { end, .. }) => end,
            input => panic!("{input:?}"),
        }
    };
    assert_eq!(end_with(Some(settled), settled), Some(settled.uid.timestamp));
    let other = LogMark { log_digest: Digest([7; 32]), position: 0, ..settled };
    assert_eq!(end_with(None, other), None);
}

/// A log that is too long is settled without the replica that is away, but not in log time: it may have to give way to the log of that
/// replica, and then everything that only it has is submitted again.
#[test]
fn a_long_log_is_not_settled_without_all_replicas_in_log_time() {
    let mut cluster = Cluster::new(3);
    cluster.issue(create(&actor("ann", 1)));
    cluster.run(Duration::from_secs(4));
    cluster.kill(2);
    let before = cluster.applier(0).store().log().settled();
    for (unfollowed_ns, is_settled) in [(Some(-3_600_000_000_000), false), (None, true)] {
        for place in 0..2 {
            let applier = cluster.nodes[place].applier.as_mut().expect("it is up");
            applier.executor.store.retain(1_000);
            applier.note_wall_clock(unfollowed_ns);
        }
        cluster.chat(20);
        cluster.run(Duration::from_secs(4));
        assert_eq!(cluster.applier(0).store().log().settled() > before, is_settled, "{unfollowed_ns:?}");
    }
}

/// Only a replica whose clock is an hour ahead of its peers' clocks has to: not one whose peers have its time.
#[test]
fn a_replica_whose_clock_is_wrong_has_to_start_again_when_its_wall_clock_is_right() {
    const HOUR_NS: i64 = 3_600_000_000_000;
    for is_ahead in [true, false] {
        let mut cluster = Cluster::new(3);
        let now = cluster.now;
        let clock = if is_ahead { now.offset_by(-HOUR_NS) } else { now };
        let node = &mut cluster.nodes[0];
        node.inbox.clear();
        for peer in [PeerId(1), PeerId(2)] {
            for _ in 0..2 {
                let message = PeerMessage::Pong { sent: now, clock, is_log_time: false };
                node.inbox.push_back(NetEvent::Peer { time: now, peer, message });
            }
        }
        let applier = node.applier.as_mut().expect("it is up");
        let events = node.inbox.drain(..).collect();
        applier.wake([EventBatch { events, drained: Some(now) }], || now, |_| {}).expect("memory does not fail");
        assert_eq!(applier.replica().is_clock_off(), is_ahead);
        applier.note_wall_clock(Some(-HOUR_NS));
        assert_eq!(applier.has_to_start_again(), is_ahead);
    }
}
