//! Replicas that are killed, wiped, paused and stopped under load, come back by themselves and are equal to the others, and
//! no client sees a fault.
//!
//! The scenarios run one after the other on one cluster: each begins with the state that the one before has left.

use rustix::process::Signal;
use stablechat_protocol::answer::{Answer, Stability};
use stablechat_tests::cluster::Cluster;
use stablechat_tests::ledger::{Ledger, assert_kept, assert_received, assert_same};
use stablechat_tests::raw::{RawClient, call_everywhere};
use stablechat_tests::session::{Person, send};
use stablechat_tests::talker::{Plan, Talker, Transcript, create_bob, create_talker, to_bob_and_room};
use stablechat_tests::wait::wait_until;
use std::time::{Duration, Instant};

const NAMES: [&str; 3] = ["a", "b", "c"];
const DELIVERY_BOUND: Duration = Duration::from_millis(500);
/// How long a cluster may take to be whole again, on a machine that is busy with other things.
const WHOLE: Duration = Duration::from_secs(120);

/// A cluster with people who send messages all the time.
struct Scene {
    cluster: Cluster,
    bob: Person,
    talkers: Vec<Talker>,
    began: Instant,
}

impl Scene {
    /// Starts the replicas, and people who send messages: some one at a time, some many at a time.
    fn begin() -> Scene {
        Scene::begin_in(Cluster::prepare(&NAMES, DELIVERY_BOUND))
    }

    /// The same in a cluster of which no replica runs yet.
    fn begin_in(mut cluster: Cluster) -> Scene {
        NAMES.iter().for_each(|name| cluster.start_replica(name));
        cluster.wait_until_same(WHOLE);
        let bob = Person::new("bob");
        create_bob(&cluster, &NAMES, &bob);
        let plan = |name: &str, window: usize, pace: u64| {
            let person = Person::new(name);
            create_talker(&cluster, &NAMES, &person);
            let pace = Duration::from_millis(pace);
            Plan { window, pace, command: to_bob_and_room, ..Plan::new(&cluster, &person) }
        };
        let plans = [("alice", 1, 1), ("carol", 16, 2)].map(|(name, window, pace)| (name, window, pace));
        let talkers = plans.into_iter().map(|(name, window, pace)| plan(name, window, pace).start()).collect();
        Scene { cluster, bob, talkers, began: Instant::now() }
    }

    /// Waits until everyone has been answered as many times again, and then a little.
    fn go_on(&self, time: Duration) {
        let before: Vec<u64> = self.talkers.iter().map(Talker::answered).collect();
        std::thread::sleep(time);
        wait_until("everyone is answered", WHOLE, || {
            assert!(self.talkers.iter().all(|talker| !talker.has_ended()), "someone has given up");
            self.talkers.iter().zip(&before).all(|(talker, before)| talker.answered() > before + 2)
        });
    }

    /// Waits until all replicas serve and are the same.
    fn heal(&self, what: &str) {
        let start = Instant::now();
        self.cluster.wait_until_same(WHOLE);
        println!("{:>6.1} s  {what}: whole after {:?}", self.began.elapsed().as_secs_f64(), start.elapsed());
    }

    /// Lets everyone finish, stops all replicas, and compares their stores with the answers that people got.
    fn end(self) {
        self.end_with(assert_kept);
    }

    /// The same, when the logs may not go back to the beginning.
    fn end_with(mut self, check: fn(&Ledger, &[Transcript], &Person)) {
        let transcripts: Vec<Transcript> = self.talkers.drain(..).map(Talker::finish).collect();
        for transcript in &transcripts {
            let count = transcript.samples.len();
            println!(
                "{}: {count} messages, {} repetitions, {:?}",
                transcript.account, transcript.repetitions, transcript.refusals
            );
            let slowest = transcript.samples.iter().max_by_key(|sample| sample.latency);
            println!("   slowest: {:?}", slowest.map(|sample| (sample.latency, sample.issued - self.began)));
        }
        self.cluster.wait_until_same(WHOLE);
        for name in NAMES {
            let log = self.cluster.log(name);
            println!("{name}: {} repairs", log.matches("repaired the log").count());
            assert_eq!(self.cluster.stop(name).code(), Some(0), "{log}");
        }
        let ledgers = assert_same(&self.cluster, &NAMES);
        ledgers.iter().for_each(|ledger| check(ledger, &transcripts, &self.bob));
    }
}

/// Every two replicas, in either order.
const PAIRS: [(&str, &str); 6] = [("a", "b"), ("b", "a"), ("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")];

#[test]
fn any_two_replicas_are_killed_and_come_back() {
    let mut scene = Scene::begin();
    scene.go_on(Duration::from_millis(300));
    for (round, (first, second)) in PAIRS.into_iter().enumerate() {
        scene.cluster.kill(first);
        scene.go_on(Duration::from_millis(200));
        scene.cluster.kill(second);
        if round % 2 == 0 {
            // Late: by then the last replica serves alone, at full speed again.
            scene.go_on(3 * DELIVERY_BOUND);
        }
        scene.cluster.start_replica(first);
        scene.go_on(Duration::from_millis(100));
        scene.cluster.start_replica(second);
        scene.go_on(Duration::from_millis(100));
        scene.heal(&format!("kill {first}, kill {second}, restart {first}, restart {second}"));
    }
    for name in NAMES {
        scene.cluster.kill(name);
        scene.cluster.start_replica(name);
        scene.go_on(Duration::from_millis(100));
        scene.heal(&format!("kill {name} and restart it at once"));
    }
    scene.end();
}

/// So long that an answer which waits for it shows.
const LONG_BOUND: Duration = Duration::from_secs(20);

/// Kills, and starts again, without any answer waiting for the delivery bound.
#[test]
fn nobody_waits_for_a_replica_that_was_killed() {
    let mut scene = Scene::begin_in(Cluster::prepare(&NAMES, LONG_BOUND).with_metrics());
    scene.go_on(Duration::from_millis(300));
    // No replica begins anew so often that it waits before it joins.
    for (round, (first, second)) in [("a", "b"), ("b", "c"), ("c", "a")].into_iter().enumerate() {
        scene.cluster.program(first).signal(Signal::KILL);
        if round > 0 {
            // In the first round both die at the same instant.
            scene.go_on(Duration::from_millis(100));
        }
        scene.cluster.kill(second);
        scene.cluster.kill(first);
        scene.go_on(Duration::from_millis(100));
        // Both, since a replica that starts waits for one that it has not met.
        scene.cluster.start_replica(first);
        scene.cluster.start_replica(second);
        scene.heal(&format!("kill {first} and {second}, restart both"));
    }
    for name in NAMES {
        scene.cluster.kill(name);
        scene.cluster.start_replica(name);
        scene.go_on(Duration::from_millis(100));
        scene.heal(&format!("kill {name} and restart it at once"));
    }

    let (_, page) = scene.cluster.page("a", "/metrics");
    let lost = |how: &str| {
        let name = format!("stablechat_peers_lost_total{{how=\"{how}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&name)).expect("it is counted");
        line.parse::<u64>().expect("a number")
    };
    // Since a was started, b and c were killed once each.
    assert_eq!(["dead", "silent", "too_slow", "left"].map(lost), [2, 0, 0, 0]);
    scene.end_with(assert_kept_and_closed);
}

/// As [`assert_kept`], and each answer came by the closed test.
fn assert_kept_and_closed(ledger: &Ledger, transcripts: &[Transcript], bob: &Person) {
    assert_kept(ledger, transcripts, bob);
    for sample in transcripts.iter().flat_map(|transcript| &transcript.samples) {
        assert_eq!(sample.stability, Stability::Closed, "{sample:?}");
    }
}

#[test]
fn a_wiped_replica_comes_back() {
    let mut scene = Scene::begin();
    scene.go_on(Duration::from_millis(500));
    for name in NAMES {
        scene.cluster.kill(name);
        scene.cluster.wipe(name);
        scene.go_on(Duration::from_millis(if name == "a" { 0 } else { 800 }));
        scene.cluster.start_replica(name);
        scene.go_on(Duration::from_millis(100));
        scene.heal(&format!("kill and wipe {name}"));
    }
    scene.end();
}

#[test]
fn a_paused_replica_goes_on() {
    let mut scene = Scene::begin();
    scene.go_on(Duration::from_millis(500));
    for (name, bounds) in [("a", 0.3), ("b", 0.8), ("c", 5.0), ("c", 0.3), ("a", 0.8), ("b", 5.0)] {
        scene.cluster.program(name).signal(Signal::STOP);
        std::thread::sleep(DELIVERY_BOUND.mul_f64(bounds));
        scene.cluster.program(name).signal(Signal::CONT);
        scene.go_on(Duration::from_millis(300));
        scene.heal(&format!("pause {name} for {bounds} delivery bounds"));
    }
    scene.end();
}

#[test]
fn replicas_are_stopped_and_started_in_turn() {
    let mut scene = Scene::begin();
    scene.go_on(Duration::from_millis(500));
    for name in NAMES {
        let log = scene.cluster.log(name);
        assert_eq!(scene.cluster.stop(name).code(), Some(0), "{log}");
        scene.go_on(Duration::from_millis(300));
        scene.cluster.start_replica(name);
        scene.go_on(Duration::from_millis(300));
        scene.heal(&format!("stop and start {name}"));
    }
    scene.end();
}

/// Sends about so many MiB of messages of the greatest length to an account that does not read them.
fn send_much(cluster: &Cluster, mebibytes: usize) {
    let mut clients: Vec<RawClient> = NAMES[..2].iter().map(|name| cluster.greet(name)).collect();
    let [mallory, victim] = ["mallory", "victim"].map(Person::new);
    [&mallory, &victim].into_iter().for_each(|person| call_everywhere(&mut clients, &person.create()));
    clients[0].login(&mallory, false);
    let commands = (0..mebibytes * 256).map(|_| send("victim", "x".repeat(4096)));
    assert!(clients[0].call_all(commands).iter().all(|settled| settled.answer == Answer::Done));
}

#[test]
fn a_replica_down_for_longer_than_the_log_reaches_comes_back_by_a_snapshot() {
    let mut scene = Scene::begin_in(Cluster::prepare(&NAMES, DELIVERY_BOUND).with_settings("log_retention_mib = 1\n"));
    scene.go_on(Duration::from_millis(500));
    scene.cluster.kill("c");
    send_much(&scene.cluster, 8);
    // The log drops entries that are settled: those that the two running replicas have found to be equal, a second and the delivery
    // bound ago.
    scene.go_on(3 * DELIVERY_BOUND + Duration::from_secs(2));
    scene.cluster.start_replica("c");
    scene.heal("kill c, and start it when the others have dropped what it lacks");
    assert!(scene.cluster.log("c").contains("the snapshot is complete"), "{}", scene.cluster.log("c"));
    // And again, but killed in the middle of the snapshot: the replica then has the old state or the new one.
    scene.cluster.kill("c");
    scene.cluster.wipe("c");
    for _ in 0..4 {
        scene.cluster.start_replica("c");
        std::thread::sleep(Duration::from_millis(fastrand::u64(20..150)));
        scene.cluster.kill("c");
    }
    scene.cluster.start_replica("c");
    scene.heal("wipe c, and kill it while it takes the snapshot");
    scene.end_with(assert_received);
}
