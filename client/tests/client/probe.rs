//! `probe` and `status --watch`.
//!
//! The delays between the client and a fake replica depend on the machine. The delays and clock offsets between fake replicas are
//! made up, so the probe must find them to the nanosecond.

use super::fake::Replica;
use super::run::{Cluster, signal};
use serde_json::{Value, json};
use stablechat_protocol::message::ToClient;
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::time::Timestamp;
use std::time::Duration;

/// A peer of a fake replica, and how its pings go.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub name: &'static str,
    /// How long a message takes each way.
    pub delay: Duration,
    /// By how much its clock is ahead, in nanoseconds.
    pub ahead: i64,
}

/// The frames that a replica sends when it has pinged these peers, and each has answered.
pub fn ping_peers(peers: &[Peer], sent: Timestamp) -> Vec<ToClient> {
    let name = |peer: &Peer| ReplicaName::parse(peer.name).expect("a name");
    let pinged = ToClient::PeersPinged { sent, peers: peers.iter().map(name).collect() };
    let pong = |peer: &Peer| {
        let clock = sent.after(peer.delay).offset_by(peer.ahead);
        ToClient::PeerPong { peer: name(peer), sent, clock, received: sent.after(peer.delay * 2) }
    };
    [pinged].into_iter().chain(peers.iter().map(pong)).collect()
}

/// Three replicas that report this delay between them, and that c's clock is `ahead` nanoseconds ahead.
fn cluster(bound_ms: u32, delay: Duration, ahead: i64) -> Cluster {
    let cluster = Cluster::start(3);
    let file = cluster.path("cluster.toml");
    let text = std::fs::read_to_string(&file).expect("readable");
    let bound = format!("delivery_bound_ms = {bound_ms}");
    std::fs::write(file, text.replace("delivery_bound_ms = 50", &bound)).expect("written");
    let clocks = [("a", 0), ("b", 0), ("c", ahead)];
    for (replica, (name, own)) in cluster.replicas.iter().zip(clocks) {
        let others = clocks.iter().filter(|(other, _)| *other != name);
        let peers = others.map(|(name, theirs)| Peer { name, delay, ahead: theirs - own }).collect();
        replica.set(|manners| manners.peers = peers);
    }
    cluster
}

/// The JSON objects of a type.
fn objects(text: &str, kind: &str) -> Vec<Value> {
    let objects = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    objects.filter(|object: &Value| object["type"] == kind).collect()
}

#[test]
fn delays_and_offsets_between_replicas_are_found_exactly() {
    let (delay, ahead) = (Duration::from_millis(3), 20_000_000);
    // The longest bound that a cluster file allows, so that it holds on a slow machine.
    let cluster = cluster(60_000, delay, ahead);
    let said = cluster.run(&["--json", "probe", "--seconds", "1"]);
    let legs = objects(&said.out, "leg");
    let ends =
        |leg: &Value| format!("{} {}", leg["from"].as_str().expect("a name"), leg["to"].as_str().expect("a name"));
    assert_eq!(legs.iter().map(ends).collect::<Vec<_>>(), ["here a", "here b", "here c", "a b", "a c", "b c"]);
    assert!(legs.iter().all(|leg| leg["whole"] == true && leg["pings"].as_u64() > Some(0)), "{said:?}");
    for (leg, offset) in legs[3..].iter().zip([0, ahead, ahead]) {
        let three = json!({"p50": 3_000_000, "p999": 3_000_000, "max": 3_000_000});
        assert_eq!((&leg["there_ns"], &leg["back_ns"]), (&three, &three));
        assert_eq!((&leg["clock_offset_ns"], &leg["clock_error_ns"]), (&json!(offset), &json!(3_000_000)));
        assert_eq!(leg["clock_skew_p999_ns"], json!(offset + 3_000_000));
    }
    let verdict = &objects(&said.out, "verdict")[0];
    assert_eq!((said.code, &verdict["delivery_bound"]), (0, &json!("holds")), "{said:?}");
    assert_eq!((&verdict["replicas"], &verdict["epsilon_ns"]), (&json!(3), &json!(23_000_000)));
    // A hop of three messages of 3 ms and the fetch delay of 2 ms, unless a message from here takes longer on this machine.
    let (delta, needed) = (verdict["delta_ns"].as_u64(), verdict["needed_ns"].as_u64());
    assert!(delta >= Some(11_000_000) && needed == delta.map(|delta| 3 * (delta + 23_000_000)), "{verdict}");
}

#[test]
fn a_bound_that_does_not_hold_exits_1_and_recommends_another() {
    let cluster = cluster(500, Duration::from_secs(1), 0);
    let said = cluster.run(&["probe", "--seconds", "1"]);
    assert!(said.code == 1 && said.err.is_empty(), "{said:?}");
    // Three replicas, 3 s and 2 ms for a hop, and a second for the clocks: 12 s, unless this machine is slow itself.
    assert!(said.out.contains("\n\u{394} = 500 ms does not hold: it is "), "{said:?}");
    assert!(said.out.contains("\nRecommended: delivery_bound_ms = "), "{said:?}");
    assert!(said.out.lines().all(|line| line.chars().count() <= 80), "{said:?}");
}

#[test]
fn legs_of_a_replica_out_of_reach_are_listed_as_not_measured() {
    let cluster = cluster(60_000, Duration::from_millis(1), 0);
    cluster.replicas[2].kill();
    cluster.replicas[..2]
        .iter()
        .for_each(|replica| replica.set(|manners| manners.peers.retain(|peer| peer.name != "c")));
    let said = cluster.run(&["probe", "--seconds", "1"]);
    assert!(said.code == 1 && said.out.contains(" holds for what was measured: "), "{said:?}");
    assert!(said.out.contains("\nNot measured, as there was no connection: here-c a-c b-c\n"), "{said:?}");
    cluster.replicas[..2].iter().for_each(Replica::kill);
    cluster
        .run(&["probe", "--seconds", "1"])
        .fails(69, "cannot reach any replica of the cluster test (a: connection refused");
}

#[test]
fn a_signal_ends_the_measurement_and_the_findings_are_shown() {
    let cluster = cluster(60_000, Duration::from_millis(1), 0);
    let talk = cluster.talk(&["--json", "probe", "--seconds", "3600"]);
    // Once all three have been asked for pings of their peers, it is measuring.
    let is_asked = || cluster.replicas.iter().all(|replica| replica.state().rounds > 10);
    super::run::wait_until("pings", is_asked);
    signal(talk.child.id(), "INT");
    let said = talk.end();
    let verdict = &objects(&said.out, "verdict")[0];
    assert_eq!((said.code, &verdict["delivery_bound"]), (0, &json!("holds")), "{said:?}");
    for wrong in ["0", "3601", "many"] {
        cluster.run(&["probe", "--seconds", wrong]).fails(2, "is not a number of seconds from 1 to 3600");
    }
}

#[test]
fn watch_shows_replicas_die_and_return() {
    let cluster = Cluster::start(3);
    let talk = cluster.talk(&["status", "--watch"]);
    let line = |beginning: &str| while !talk.line().starts_with(beginning) {};
    line("b        serving");
    line("state: same");
    cluster.replicas[1].kill();
    line("b        not in reach");
    line("state: same at the 2 of 3 that serve");
    cluster.replicas[1].restart();
    line("b        serving");
    cluster.replicas[0].set(|manners| manners.hangs = true);
    line("a        not in reach");
    cluster.replicas[0].set(|manners| manners.hangs = false);
    line("a        serving");
    line("state: same, as of");
    signal(talk.child.id(), "INT");
    let said = talk.end();
    assert!(said.err.is_empty() && said.code == 0, "{said:?}");
}

#[test]
fn watch_prints_json_and_exits_with_the_code_of_the_last_status() {
    let cluster = Cluster::start(2);
    cluster.replicas[1].set(|manners| manners.state = 9);
    let talk = cluster.talk(&["--json", "status", "--watch"]);
    for _ in 0..2 {
        let objects: Vec<Value> = (0..3).map(|_| serde_json::from_str(&talk.line()).expect("JSON")).collect();
        assert_eq!((&objects[0]["replica"], &objects[1]["replica"]), (&json!("a"), &json!("b")));
        assert_eq!(objects[2]["state"], json!("different"));
    }
    signal(talk.child.id(), "TERM");
    assert_eq!(talk.end().code, 1);
}
