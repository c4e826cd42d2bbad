//! Replicas on hosts of their own, with clients on every host, and a network between them that delays, loses and partitions:
//! every answered request is in every log, and all replicas are equal in the end.

use stablechat_tests::cluster::Cluster;
use stablechat_tests::ledger::{assert_kept, assert_same};
use stablechat_tests::network::{Network, PathMeasurement, Wire};
use stablechat_tests::session::Person;
use stablechat_tests::talker::{Plan, Talker, Transcript, create_bob, create_talker, to_bob_and_room};
use stablechat_tests::wait::wait_until;
use std::time::{Duration, Instant};

const NAMES: [&str; 3] = ["a", "b", "c"];
const DELIVERY_BOUND: Duration = Duration::from_millis(500);
/// How long a cluster may take to be whole again, and everyone to be answered, on a machine that is busy with other things.
const WHOLE: Duration = Duration::from_secs(120);
/// The number of datagrams that a measurement of the network sends.
const DATAGRAMS: u32 = 1000;

/// Replicas with hosts of their own, and people on each host who send messages all the time.
struct Scene {
    cluster: Cluster,
    bob: Person,
    talkers: Vec<Talker>,
}

impl Scene {
    /// Starts the replicas, and two people on each host: one has one message in flight at a time, the other eight.
    fn begin(network: Network, delivery_bound: Duration) -> Scene {
        let cluster = Cluster::start_on(network, &NAMES, delivery_bound);
        cluster.wait_until_same(WHOLE);
        let bob = Person::new("bob");
        create_bob(&cluster, &NAMES, &bob);
        let talkers = NAMES
            .iter()
            .flat_map(|host| [(*host, 1, 5), (host, 8, 10)])
            .map(|(host, window, pace)| {
                let person = Person::new(&format!("on-{host}-{window}"));
                create_talker(&cluster, &NAMES, &person);
                let (namespace, pace) = (Some(cluster.network().path(host)), Duration::from_millis(pace));
                Plan { namespace, window, pace, command: to_bob_and_room, ..Plan::new(&cluster, &person) }.start()
            })
            .collect();
        Scene { cluster, bob, talkers }
    }

    /// For each of the people, how many requests are answered.
    fn answered(&self) -> Vec<u64> {
        self.talkers.iter().map(Talker::answered).collect()
    }

    /// Waits until everyone has been answered so many times more.
    fn go_on(&self, answers: u64) {
        self.go_on_from(&self.answered(), answers);
    }

    /// Waits until everyone has been answered so many times more than before.
    fn go_on_from(&self, before: &[u64], answers: u64) {
        wait_until("everyone is answered", WHOLE, || {
            assert!(self.talkers.iter().all(|talker| !talker.has_ended()), "someone has given up");
            self.answered().iter().zip(before).all(|(answered, before)| *answered >= before + answers)
        });
    }

    /// Measures what the network does to datagrams from the first host to the second.
    fn measure(&self) -> PathMeasurement {
        let [one, other, ..] = NAMES;
        let measured = self.cluster.network().measure(one, other, DATAGRAMS);
        println!("datagrams from {one} to {other}: {measured}");
        measured
    }

    /// Waits until all replicas serve and are the same.
    fn heal(&self, what: &str) {
        let start = Instant::now();
        let position = self.cluster.wait_until_same(WHOLE);
        println!("{what}: all the same after {:?}, at position {position}", start.elapsed());
    }

    /// Lets everyone finish, stops all replicas, and compares their stores with each other and with the answers that people got.
    /// Returns how often replicas repaired their logs.
    fn end(mut self) -> usize {
        let transcripts: Vec<Transcript> = self.talkers.drain(..).map(Talker::finish).collect();
        for transcript in &transcripts {
            let mut latencies: Vec<Duration> = transcript.samples.iter().map(|sample| sample.latency).collect();
            latencies.sort();
            let [median, most] = [0.5, 0.99].map(|share| latencies[((latencies.len() - 1) as f64 * share) as usize]);
            let Transcript { account, samples, repetitions, refusals, .. } = transcript;
            println!(
                "{account}: {} messages, half within {median:.1?}, 99 % within {most:.1?}; {repetitions} repetitions, {refusals:?}",
                samples.len()
            );
        }
        self.heal("after the last message");
        let mut repairs = 0;
        for name in NAMES {
            let status = self.cluster.stop(name);
            let log = self.cluster.log(name);
            assert_eq!(status.code(), Some(0), "{log}");
            println!("the log of replica {name}:\n{log}");
            repairs += log.matches("repaired the log").count();
        }
        let ledgers = assert_same(&self.cluster, &NAMES);
        ledgers.iter().for_each(|ledger| assert_kept(ledger, &transcripts, &self.bob));
        repairs
    }
}

/// The network; none, and a line that says so, when this machine does not allow namespaces.
fn or_skip(network: Result<Network, String>) -> Option<Network> {
    network.inspect_err(|why| println!("SKIPPED: this machine does not let us make network namespaces: {why}")).ok()
}

/// How long the partition lasts at least: STABLECHAT_PARTITION_S seconds, or 6.
fn partition() -> Duration {
    let seconds = std::env::var("STABLECHAT_PARTITION_S").map(|seconds| seconds.parse().expect("a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(6))
}

#[test]
fn replicas_become_equal_after_a_partition() {
    let Some(network) = or_skip(Network::new(&NAMES)) else { return };
    let scene = Scene::begin(network, DELIVERY_BOUND);
    scene.go_on(20);

    let before = scene.answered();
    NAMES.iter().for_each(|name| scene.cluster.network().cut(name));
    std::thread::sleep(partition());
    // Every replica goes on by itself, however slow the machine is.
    scene.go_on_from(&before, 10);
    let during = scene.answered();
    NAMES.iter().for_each(|name| scene.cluster.network().mend(name));
    scene.heal("the cables are plugged in again");
    let sides: Vec<u64> = during.iter().zip(&before).map(|(during, before)| during - before).collect();
    println!("answered on each side while cut off: {sides:?}");

    scene.go_on(20);
    scene.end();
}

/// Shorter than the delivery bound, the others have taken for dead a replica that notices nothing; longer, both sides serve.
#[test]
fn a_firewall_that_refuses_in_the_name_of_a_live_replica_loses_nothing() {
    let Some(network) = or_skip(Network::new(&NAMES)) else { return };
    let scene = Scene::begin(network, DELIVERY_BOUND);
    scene.go_on(20);
    for (round, time) in (1..).zip([DELIVERY_BOUND / 4, DELIVERY_BOUND * 6]) {
        scene.cluster.network().refuse_for("b");
        wait_until("the others take it for dead", WHOLE, || {
            ["a", "c"].iter().all(|name| {
                scene.cluster.log(name).matches("replica b is down: its process has ended").count() >= round
            })
        });
        std::thread::sleep(time);
        scene.cluster.network().admit("b");
        scene.heal("the firewall is gone");
        scene.go_on(20);
    }
    scene.end();
}

#[test]
fn a_delay_within_the_bound_causes_no_repair() {
    let Some(network) = or_skip(Network::with_wires(&NAMES)) else { return };
    // Two cables: 20 ms from host to host, 10 ms less or more. A request that takes three messages to spread takes 90 ms
    // at most. The bound is fifty times that, so that it is kept by a machine that stalls for a second as well.
    let [delay, jitter] = [10, 5].map(Duration::from_millis);
    let scene = Scene::begin(network, Duration::from_secs(5));
    NAMES.iter().for_each(|name| scene.cluster.network().set_wire(name, Wire { delay, jitter, loss: 0.0 }));
    scene.go_on(10);
    let measured = scene.measure();
    assert!(measured.quantile(0.0) >= 2 * (delay - jitter) && measured.quantile(0.5) >= 2 * delay, "{measured}");
    scene.go_on(60);
    assert_eq!(scene.end(), 0, "the bound was kept, and a log was repaired");
}

#[test]
fn lost_network_frames_lose_no_messages() {
    let Some(network) = or_skip(Network::with_wires(&NAMES)) else { return };
    // On two cables, about 5 % from host to host. More are lost when the receiver of a busy machine does not keep up.
    let scene = Scene::begin(network, Duration::from_secs(2));
    NAMES.iter().for_each(|name| scene.cluster.network().set_wire(name, Wire { loss: 0.025, ..Wire::default() }));
    scene.go_on(10);
    let measured = scene.measure();
    assert!(measured.lost > 0.02, "{measured}");
    scene.go_on(60);
    scene.end();
}

#[test]
fn replicas_become_equal_after_a_delay_beyond_the_bound() {
    let Some(network) = or_skip(Network::with_wires(&NAMES)) else { return };
    let scene = Scene::begin(network, DELIVERY_BOUND);
    scene.go_on(20);
    let delay = Duration::from_millis(700);
    scene.cluster.network().set_wire(NAMES[0], Wire { delay, ..Wire::default() });
    let measured = scene.measure();
    assert!(measured.quantile(0.0) >= delay, "{measured}");
    // The people on the other two hosts are answered as well, although one replica is far away.
    scene.go_on(10);
    scene.cluster.network().set_wire(NAMES[0], Wire::default());
    scene.heal("the delay is gone");
    scene.go_on(20);
    scene.end();
}
