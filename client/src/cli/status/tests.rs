//! The comparison of replicas, the tables and JSON.

use super::testing::{SECOND, boundary, catching_up, change, cluster_status, name, report};
use super::*;
use serde_json::{Value, json};
use stablechat_protocol::status::ReportedPeerState;

/// The comparison as a sentence, how many replicas serve, and the exit code.
fn outcome(cluster_status: &ClusterStatus) -> (String, usize, u8) {
    (cluster_status.comparison_line(), cluster_status.serving().count(), cluster_status.code())
}

fn expected_outcome(text: &str, serving: usize, code: u8) -> (String, usize, u8) {
    (text.into(), serving, code)
}

#[test]
fn replicas_are_same_as_of_the_latest_second_that_all_know() {
    let same = "state: same, as of 2026-11-22 08:30:05 UTC";
    assert_eq!(outcome(&cluster_status()), expected_outcome(same, 3, 0));
    let mut cluster_status = cluster_status();
    change(&mut cluster_status, 1, |report| report.boundaries.retain(|digests| digests.second < SECOND - 1));
    change(&mut cluster_status, 2, |report| report.boundaries[7] = boundary(SECOND, 9, 9));
    let earlier = "state: same, as of 2026-11-22 08:30:03 UTC";
    assert_eq!(
        outcome(&cluster_status),
        expected_outcome(earlier, 3, 0),
        "a second that one replica does not know is not compared"
    );
}

#[test]
fn replicas_that_do_not_serve_are_left_out_and_the_exit_code_is_1() {
    let same = "state: same at the 2 of 3 that serve, as of 2026-11-22 08:30:05 UTC";
    let mut absent = cluster_status();
    absent.replicas[2].1 = None;
    assert_eq!(outcome(&absent), expected_outcome(same, 2, 1));
    let mut behind = cluster_status();
    change(&mut behind, 0, |report| (report.phase, report.boundaries) = (ReportedPhase::CatchingUp, Vec::new()));
    assert_eq!(outcome(&behind), expected_outcome(same, 2, 1));
    let mut mute = cluster_status();
    change(&mut mute, 1, |report| report.is_muted = true);
    assert_eq!(outcome(&mute), expected_outcome(same, 2, 1));
}

#[test]
fn a_difference_names_the_replicas_and_whether_logs_or_states_differ() {
    let mut logs = cluster_status();
    change(&mut logs, 1, |report| report.boundaries[7] = boundary(SECOND, 9, 9));
    let text = "state: different: a c and b have applied different requests, as of 2026-11-22 08:30:05 UTC";
    assert_eq!(outcome(&logs), expected_outcome(text, 3, 1));
    let mut states = cluster_status();
    change(&mut states, 0, |report| report.boundaries[7] = boundary(SECOND, 1, 9));
    let text = "state: different: a and b c have come to different states after the same log, which is a bug, \
                as of 2026-11-22 08:30:05 UTC";
    assert_eq!(outcome(&states), expected_outcome(text, 3, 1));
}

#[test]
fn replicas_that_cannot_be_compared_are_unknown() {
    let mut none_in_reach = cluster_status();
    none_in_reach.replicas.iter_mut().for_each(|(_, report)| *report = None);
    assert_eq!(outcome(&none_in_reach), expected_outcome("state: unknown: no replica is in reach", 0, 69));
    let mut none_serves = cluster_status();
    (0..3).for_each(|place| change(&mut none_serves, place, |report| report.phase = ReportedPhase::Joining));
    assert_eq!(outcome(&none_serves), expected_outcome("state: unknown: no replica serves", 0, 1));
    let mut one_serves = cluster_status();
    one_serves.replicas[0].1 = None;
    change(&mut one_serves, 1, |report| report.phase = ReportedPhase::Stopping);
    let text = "state: unknown: only c serves, and there is none to compare it with";
    assert_eq!(outcome(&one_serves), expected_outcome(text, 1, 1));
    let mut nothing_in_common = cluster_status();
    change(&mut nothing_in_common, 2, |report| report.boundaries = vec![boundary(SECOND + 1, 1, 2)]);
    let text = "state: unknown: the replicas that serve know no second in common";
    assert_eq!(outcome(&nothing_in_common), expected_outcome(text, 3, 1));
}

#[test]
fn strangers_are_shown_who_serves_and_how_far_it_is() {
    let mut cluster_status = cluster_status();
    for (_, report) in &mut cluster_status.replicas[..2] {
        let whole = report.as_ref().and_then(Report::whole).expect("it is in reach").clone();
        *report = Some(Report::Public(whole.public()));
    }
    cluster_status.replicas[2].1 = None;
    let unknown = "state: unknown: replicas tell it to accounts and operators only, and not all of them know us as one";
    assert_eq!(outcome(&cluster_status), expected_outcome(unknown, 2, 1));
    let table = "\
replica  status   position  links
a        serving        41      2
b        serving        41      2
c        not in reach
";
    assert_eq!(cluster_status.to_text(), format!("{table}{unknown}"));
    let json: Value =
        serde_json::from_str(cluster_status.to_json_lines().lines().next().expect("a line")).expect("JSON");
    let expected = json!({"type": "status", "replica": "a", "in_reach": true, "status": "serving", "muted": false,
        "position": 41, "linked": 2});
    assert_eq!(json, expected);
}

#[test]
fn the_only_replica_of_a_cluster_is_the_same() {
    let alone = ClusterStatus { replicas: vec![(name("a"), Some(Report::Whole(Box::new(report("a", &[])))))] };
    assert_eq!(alone.code(), exit::DONE);
    assert_eq!(ClusterStatus { replicas: vec![(name("a"), None)] }.code(), exit::UNREACHABLE);
}

#[test]
fn the_table_shows_each_replica() {
    let mut cluster_status = cluster_status();
    change(&mut cluster_status, 0, |report| report.peers[1].state = ReportedPeerState::Down);
    change(&mut cluster_status, 1, |report| {
        (report.phase, report.peers[1].is_connected) = (ReportedPhase::CatchingUp, false);
        report.peers.iter_mut().for_each(|peer| peer.clock = None);
        report.catching_up = Some(catching_up());
    });
    cluster_status.replicas[2].1 = None;
    let expected = "\
replica  status            epoch  position  settled  log       state
a        serving               3        41       38  d1d1d1d1  57575757
b        catching up 24 %      3        41       38  d1d1d1d1  57575757
c        not in reach

replica     lag   clock  links  answers  refused  repairs
a        0.4 ms  0.0 ms  b -c      45/2        4        0
b        0.4 ms       ?  a -c      45/2        4        0
stored: 3 accounts, 2 conversations, 24 messages of 64.0 KiB
state: unknown: only a serves, and there is none to compare it with";
    assert_eq!(cluster_status.to_text(), expected);
}

#[test]
fn the_table_says_which_replica_waits_because_of_its_restarts() {
    let mut cluster_status = cluster_status();
    change(&mut cluster_status, 1, |report| {
        (report.phase, report.catching_up) = (ReportedPhase::CatchingUp, Some(catching_up()));
        (report.restarts, report.join_wait_ns) = (7, Some(12_300_000_000));
    });
    let text = cluster_status.to_text();
    assert!(text.contains("\nb        waiting 12 s"), "{text}");
    assert!(text.contains("\nb: waits before it joins, after 7 restarts; see its journal\n"), "{text}");
}

#[test]
fn the_table_fits_80_columns_with_long_names_and_numbers() {
    let names = ["a-very-long-name-of-a-replica", "another-very-long-name", "c"];
    let mut cluster_status = cluster_status();
    for place in 0..3 {
        cluster_status.replicas[place].0 = name(names[place]);
        change(&mut cluster_status, place, |report| {
            *report = super::testing::report(names[place], &names);
            (report.phase, report.closed) =
                (ReportedPhase::CatchingUp, Timestamp::ZERO.after(std::time::Duration::from_secs(1)));
            (report.epoch, report.applied.position, report.settled) = (1_795_345_825, 99_999_999, 99_999_999);
            report.peers.iter_mut().for_each(|peer| peer.clock = Some(Timestamp(report.clock.0 + 999_999_999)));
            report.catching_up = Some(catching_up());
            (report.counters.closed, report.counters.real_time) = (9_999_999_999, 9_999_999);
            report.counters.state_disagreements = 2;
        });
    }
    let text = cluster_status.to_text();
    assert!(text.contains("a-very-lo\u{2026}") && text.contains(" 3/3 "), "{text}");
    let mut tables = text.lines().filter(|line| !line.contains("its state differed from a peer's"));
    assert!(tables.all(|line| line.chars().count() <= 80), "{text}");
    let faults = text.lines().filter(|line| line.contains("its state differed from a peer's")).count();
    assert_eq!(faults, 3, "{text}");
    change(&mut cluster_status, 0, |report| report.closed = report.clock);
    assert!(cluster_status.to_text().contains("0.0 ms"));
}

#[test]
fn json_is_a_line_for_each_replica_and_one_for_the_comparison() {
    let mut cluster_status = cluster_status();
    change(&mut cluster_status, 1, |report| report.catching_up = Some(catching_up()));
    cluster_status.replicas[2].1 = None;
    let text = cluster_status.to_json_lines();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&lines[0]["status"], &lines[0]["closed_lag_ns"]), (&json!("serving"), &json!(400_000)));
    assert_eq!(lines[0]["peers"][1]["closed_lag_ns"], json!(900_000));
    assert_eq!(lines[0]["peers"][1]["clock_offset_ns"], json!(-1500));
    assert_eq!(lines[0]["counters"]["refused"]["not_serving"], json!(3));
    assert_eq!((&lines[0]["settled"], &lines[0]["clock_offset_ns"]), (&json!(38), &json!(1500)));
    assert_eq!(lines[0]["catching_up"], Value::Null);
    assert_eq!((&lines[0]["messages"], &lines[0]["message_bytes"]), (&json!(24), &json!(65_536)));
    assert_eq!((&lines[1]["catching_up"]["done_percent"], &lines[1]["catching_up"]["from"]), (&json!(24), &json!("a")));
    assert_eq!(lines[2], json!({"type": "status", "replica": "c", "in_reach": false}));
    assert_eq!((&lines[0]["restarts"], &lines[0]["join_wait_ns"]), (&json!(0), &Value::Null));
    let verdict = json!({"type": "verdict", "state": "same", "serving": 2, "replicas": 3, "as_of_s": SECOND});
    assert_eq!(lines[3..], [verdict]);
}
