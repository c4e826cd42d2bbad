//! Replicas that are down, die, hang, refuse or return, and clocks that are wrong: as long as one replica answers, the user
//! notices nothing.

use super::run::{Cluster, run_within, wait_until};
use std::time::Duration;

fn numbers(count: usize) -> (String, Vec<String>) {
    let expected: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    (expected.iter().map(|number| format!("send bob {number}\n")).collect(), expected)
}

#[test]
fn replicas_that_are_down_at_the_start_are_not_waited_for() {
    let cluster = Cluster::with_accounts(3, &["alice", "bob"]);
    cluster.replicas[0].kill();
    cluster.replicas[1].kill();
    // Without an answer a script gives up after 10 s.
    let said = run_within(Duration::from_secs(5), || cluster.run(&["--as", "alice", "send", "bob", "x"]));
    said.says("sent to bob\n");
}

#[test]
fn a_replica_that_hangs_from_the_start_is_not_waited_for() {
    let cluster = Cluster::with_accounts(3, &["alice", "bob"]);
    cluster.replicas[0].set(|manners| manners.hangs = true);
    cluster.run(&["--as", "alice", "send", "bob", "x"]).says("sent to bob\n");
    cluster.replicas[0].set(|manners| manners.hangs = false);
}

#[test]
fn replicas_that_die_under_load_lose_nothing() {
    let cluster = Cluster::with_accounts(3, &["alice", "bob"]);
    cluster.replicas[0].set(|manners| manners.dies_after = Some(700));
    cluster.replicas[2].set(|manners| manners.dies_after = Some(2900));
    let (lines, expected) = numbers(5000);
    cluster.pipe(&["--as", "alice"], lines.as_bytes()).says(&"sent to bob\n".repeat(5000));
    assert!(cluster.replicas[1].state().sent == expected);
}

#[test]
fn refusals_under_load_lose_and_reorder_nothing() {
    let cluster = Cluster::with_accounts(1, &["alice", "bob"]);
    let (lines, expected) = numbers(3000);
    for round in 0..3 {
        cluster.replicas[0].set(|manners| (manners.refuses, manners.refuses_queries) = (40 * round, round));
        cluster.pipe(&["--as", "alice"], lines.as_bytes()).says(&"sent to bob\n".repeat(3000));
        assert!(std::mem::take(&mut cluster.replicas[0].state().sent) == expected, "round {round}");
    }
}

#[test]
fn lines_typed_while_the_only_replica_is_down_are_sent_when_it_returns() {
    let cluster = Cluster::with_accounts(1, &["alice", "bob"]);
    let mut talk = cluster.talk(&["--as", "alice"]);
    talk.type_line("send bob 1");
    assert_eq!(talk.line(), "sent to bob");
    cluster.replicas[0].kill();
    talk.type_line("send bob 2");
    talk.type_line("send bob 3");
    cluster.replicas[0].restart();
    assert_eq!((talk.line(), talk.line()), ("sent to bob".into(), "sent to bob".into()));
    talk.end().says("");
    assert_eq!(cluster.replicas[0].state().sent, ["1", "2", "3"]);
}

#[test]
fn a_line_typed_while_the_only_replica_hangs_takes_effect_once() {
    let cluster = Cluster::with_accounts(1, &["alice", "bob"]);
    let mut talk = cluster.talk(&["--as", "alice"]);
    talk.type_line("send bob 1");
    assert_eq!(talk.line(), "sent to bob");
    cluster.replicas[0].set(|manners| manners.hangs = true);
    talk.type_line("send bob 2");
    // Long enough for the client to send it again.
    std::thread::sleep(Duration::from_secs(3));
    cluster.replicas[0].set(|manners| manners.hangs = false);
    assert_eq!(talk.line(), "sent to bob");
    talk.end().says("");
    assert_eq!(cluster.replicas[0].state().sent, ["1", "2"]);
}

#[test]
fn a_listener_gets_messages_sent_while_no_replica_was_in_reach() {
    let cluster = Cluster::with_accounts(2, &["alice", "bob"]);
    let listener = cluster.talk(&["--as", "bob", "listen"]);
    cluster.run(&["--as", "alice", "send", "bob", "1"]);
    assert_eq!(listener.line(), "alice: 1");
    // Break the listener's connections, and let a message come in before it is back.
    for replica in &cluster.replicas {
        replica.kill();
        replica.restart();
    }
    cluster.run(&["--as", "alice", "send", "bob", "2"]);
    assert_eq!(listener.line(), "alice: 2");
    super::run::signal(listener.child.id(), "TERM");
    listener.end().says("");
}

#[test]
fn a_listener_looks_at_its_inbox_when_another_replica_comes_into_reach() {
    let cluster = Cluster::with_accounts(2, &["alice"]);
    let inboxes = || cluster.replicas[0].state().inboxes;
    cluster.replicas[1].kill();
    let listener = cluster.talk(&["--as", "alice", "listen"]);
    wait_until("it has connected, and begun to listen", || inboxes() == 2);
    cluster.replicas[1].restart();
    wait_until("it has looked again", || inboxes() == 3);
    super::run::signal(listener.child.id(), "TERM");
    listener.end().says("");
}

#[test]
fn a_replica_that_missed_a_command_can_take_over_later() {
    let cluster = Cluster::with_accounts(2, &["alice", "bob"]);
    // So long that the command which one replica refuses is not repeated before the other has answered it.
    let file = cluster.path("cluster.toml");
    let text = std::fs::read_to_string(&file).expect("the cluster file");
    std::fs::write(&file, text.replace("delivery_bound_ms = 50", "delivery_bound_ms = 60000")).expect("written");
    let mut talk = cluster.talk(&["--as", "alice"]);
    for number in 0..20 {
        if number == 5 {
            cluster.replicas[0].set(|manners| manners.refuses = 1);
        }
        talk.type_line(&format!("send bob {number}"));
        assert_eq!(talk.line(), "sent to bob");
    }
    let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    wait_until("the other replica has them all", || cluster.replicas[1].state().sent == expected);
    // A new session has replaced the one with a gap at the first replica, so that the first replica can take over.
    cluster.replicas[1].kill();
    talk.type_line("send bob last");
    assert_eq!(talk.line(), "sent to bob");
    talk.end().says("");
    // On a slow machine the first replica may have missed the first commands too, because its connection took longer.
    let sent = cluster.replicas[0].state().sent.clone();
    assert!(!sent.contains(&expected[5]) && sent.last().is_some_and(|text| text == "last"), "{sent:?}");
}

#[test]
fn timestamps_are_corrected_when_clocks_differ_by_hours() {
    for hours in [-5, 7] {
        let cluster = Cluster::start(3);
        for replica in &cluster.replicas {
            replica.set(|manners| manners.clock_offset = hours * 3600 * 1_000_000_000);
        }
        cluster.run(&["create", "alice"]).says("created alice\n");
        cluster.run(&["--as", "alice", "send", "alice", "x"]).says("sent to alice\n");
        let said = cluster.run(&["--as", "alice", "listen", "--once"]);
        assert_eq!(said.texts(), ["alice: x"]);
    }
}

#[test]
fn without_a_replica_in_reach_nothing_is_done_and_it_exits_69() {
    let cluster = Cluster::with_accounts(2, &["alice"]);
    cluster.replicas.iter().for_each(super::fake::Replica::kill);
    let said = cluster.run(&["--as", "alice", "send", "alice", "x"]);
    let reasons = "(a: connection refused, b: connection refused)";
    said.fails(69, &format!("cannot reach any replica of the cluster test {reasons}; not done: the send"));
}

#[test]
fn lines_that_were_sent_to_no_replica_are_named_as_not_done() {
    let cluster = Cluster::with_accounts(1, &["alice"]);
    let mut talk = cluster.talk(&["--as", "alice"]);
    talk.type_line("send alice 1");
    while talk.line() != "sent to alice" {}
    cluster.replicas[0].set(|manners| manners.dies_after = Some(0));
    cluster.replicas[0].kill();
    wait_until("the replica is down", || std::net::TcpStream::connect(cluster.replicas[0].address).is_err());
    talk.type_line("send alice 2\nsend alice 3");
    let expected =
        "line 2: cannot reach any replica of the cluster test (a: connection refused); not done: lines 2 to 3";
    talk.end().fails(69, expected);
}

#[test]
fn without_an_answer_the_outcome_is_unknown_and_it_exits_75() {
    let cluster = Cluster::with_accounts(2, &["alice"]);
    cluster.replicas.iter().for_each(|replica| replica.set(|manners| manners.is_mute = true));
    let said = cluster.run(&["--as", "alice", "send", "--id", "k", "alice", "x"]);
    said.fails(75, "no replica answers; it is not known whether this took effect: the send");
    cluster.replicas.iter().for_each(|replica| replica.set(|manners| manners.is_mute = false));
    cluster.run(&["--as", "alice", "send", "--id", "k", "alice", "x"]).says("sent to alice\n");
    cluster.has_got(&["x"]);
}

#[test]
fn an_idle_client_uses_hardly_any_processor_time() {
    let cluster = Cluster::with_accounts(3, &["alice"]);
    cluster.replicas[2].kill();
    let listener = cluster.talk(&["--as", "alice", "listen"]);
    cluster.run(&["--as", "alice", "send", "alice", "x"]);
    assert_eq!(listener.line(), "alice: x");
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", listener.child.id())).expect("it runs");
        let fields: Vec<u64> = stat.split(' ').skip(13).take(2).map(|field| field.parse().expect("a number")).collect();
        fields[0] + fields[1]
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(3));
    // A loop that never sleeps would use up to 300. A client that only waits uses 1 at most on a machine of its own, and on one
    // that is ten times slower 10.
    let spent = ticks() - before;
    assert!(spent <= 60, "{spent} hundredths of a second of processor time in 3 s");
    super::run::signal(listener.child.id(), "TERM");
    listener.end().says("");
}
