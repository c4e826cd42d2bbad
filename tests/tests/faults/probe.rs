//! `stablechat probe` with real replicas: it finds pauses and delays that the tests make, and attributes them to the right link.

use rustix::process::Signal;
use serde_json::Value;
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_tests::cluster::Cluster;
use stablechat_tests::network::{Network, Wire};
use stablechat_tests::process::Program;
use stablechat_tests::session::Person;
use stablechat_tests::wait::wait_until;
use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

const NAMES: [&str; 3] = ["a", "b", "c"];
/// Long, so that no replica has to resync because it was suspended.
const DELIVERY_BOUND: Duration = Duration::from_secs(3);
const WHOLE: Duration = Duration::from_secs(60);

/// Runs a probe to its end, and calls `meanwhile` over and over while it runs. Returns the objects that it printed.
fn probe(mut command: Command, mut meanwhile: impl FnMut()) -> Vec<Value> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = Program::spawn(command);
    let (_, mut stdout) = program.pipes();
    wait_until("the probe ends", WHOLE, || {
        meanwhile();
        program.ended().is_some()
    });
    let mut text = String::new();
    stdout.read_to_string(&mut text).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The measurements from one replica or client to another.
fn leg<'a>(objects: &'a [Value], from: &str, to: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["from"] == from && object["to"] == to);
    found.unwrap_or_else(|| panic!("{from} {to} is not in {objects:?}"))
}

/// A figure in nanoseconds.
fn time(value: &Value) -> Duration {
    Duration::from_nanos(value.as_u64().unwrap_or_else(|| panic!("{value} is not a time")))
}

#[test]
fn a_replica_pings_its_peers_for_a_client() {
    let cluster = Cluster::start(&NAMES, DELIVERY_BOUND);
    cluster.wait_until_same(WHOLE);
    let mut client = cluster.greet("a");
    client.login(&Person::operator(), false);
    client.send(&ToReplica::PingPeers).expect("the connection stands");
    let ToClient::PeersPinged { sent, peers } = client.receive() else { panic!("it does not say what it did") };
    assert_eq!(peers.iter().map(|peer| peer.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    let pongs = [client.receive(), client.receive()].map(|message| match message {
        ToClient::PeerPong { peer, sent: pinged, received, .. } if pinged == sent && received >= sent => peer,
        other => panic!("{other:?} is no answer to the ping of {sent}"),
    });
    assert_eq!(pongs.into_iter().collect::<BTreeSet<_>>(), peers.into_iter().collect());
}

#[test]
fn the_pauses_of_a_replica_show_in_every_leg_to_it() {
    let mut cluster = Cluster::start(&NAMES, DELIVERY_BOUND);
    cluster.wait_until_same(WHOLE);
    let pause = Duration::from_millis(300);
    let found = probe(cluster.client(&["--json", "probe", "--seconds", "3"]), || {
        // Over and over, so that at least one pause lies within the measurement.
        for signal in [Signal::STOP, Signal::CONT] {
            cluster.program("c").signal(signal);
            std::thread::sleep(pause);
        }
    });
    for from in ["here", "a", "b"] {
        let leg = leg(&found, from, "c");
        assert!(time(&leg["there_ns"]["max"]) > pause / 2, "{leg}");
    }
    let verdict = found.last().expect("a verdict");
    assert!(time(&verdict["delta_ns"]) > pause / 2, "{verdict}");
}

#[test]
fn network_delays_are_attributed_to_the_right_links() {
    let network = match Network::with_wires(&NAMES) {
        Ok(network) => network,
        Err(why) => return println!("SKIPPED: this machine does not let us make network namespaces: {why}"),
    };
    let cluster = Cluster::start_on(network, &NAMES, DELIVERY_BOUND);
    cluster.wait_until_same(WHOLE);
    let delay = Duration::from_millis(40);
    cluster.network().set_wire("a", Wire { delay, ..Wire::default() });
    let command = cluster.network().on_host("b", &cluster.client(&["--json", "probe", "--seconds", "2"]));
    let found = probe(command, || {});
    let both_ways = |from, to| {
        let leg = leg(&found, from, to);
        println!("{leg}");
        let offset = Duration::from_nanos(leg["clock_offset_ns"].as_i64().expect("a number").unsigned_abs());
        // All replicas share this machine's clock, and their own clocks follow it to within a millisecond or so.
        assert!(offset <= time(&leg["clock_error_ns"]) + Duration::from_millis(5), "{leg}");
        time(&leg["there_ns"]["p50"]) + time(&leg["back_ns"]["p50"])
    };
    // Frames are delayed each way, so a round trip cannot take less. The probe may attribute a part of one way to the other way, so
    // only sums are checked.
    for (from, to) in [("here", "a"), ("a", "b"), ("a", "c")] {
        assert!(both_ways(from, to) >= delay * 2 - Duration::from_millis(10), "{from} {to}");
    }
    assert!(both_ways("b", "c") < both_ways("a", "c"));
    let verdict = found.last().expect("a verdict");
    assert!(time(&verdict["delta_ns"]) >= delay * 3 && time(&verdict["epsilon_ns"]) >= delay, "{verdict}");
}
