//! Replicas that are killed, wiped, paused and stopped under load, come back by themselves and are equal to the others, and
//! no client has any trouble.
//!
//! The scenarios run one after the other on one cluster: each begins with what the one before has left.

use rustix::process::Signal;
use stablechat_tests::cluster::Cluster;
use stablechat_tests::ledger::{assert_kept, assert_same};
use stablechat_tests::raw::{RawClient, call_everywhere};
use stablechat_tests::session::Person;
use stablechat_tests::talker::{Plan, Talker, Told};
use stablechat_tests::wait::wait_until;
use std::time::{Duration, Instant};

const NAMES: [&str; 3] = ["a", "b", "c"];
const DELIVERY_BOUND: Duration = Duration::from_millis(500);
/// How long a cluster may take to be whole again, on a machine that is busy with other things.
const WHOLE: Duration = Duration::from_secs(30);

/// A cluster with people who talk all the time.
struct Scene {
    cluster: Cluster,
    bob: Person,
    talkers: Vec<Talker>,
    began: Instant,
}

impl Scene {
    /// Starts replicas, and people who talk: one message at a time, and many.
    fn begin() -> Scene {
        let cluster = Cluster::start(&NAMES, DELIVERY_BOUND);
        cluster.wait_until_same(WHOLE);
        let mut clients: Vec<RawClient> = NAMES.iter().map(|name| cluster.greet(name)).collect();
        let bob = Person::new("bob");
        call_everywhere(&mut clients, &bob.create());
        let plan = |name: &str, window: usize, pace: u64| {
            let person = Person::new(name);
            call_everywhere(&mut clients, &person.create());
            Plan { window, pace: Duration::from_millis(pace), ..Plan::new(&cluster, &person) }
        };
        let plans = [("alice", 1, 1), ("carol", 16, 2)].map(|(name, window, pace)| (name, window, pace));
        let mut plan = plan;
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

    /// Lets everyone finish, stops all replicas, and compares what they have and what people were told.
    fn end(mut self) -> Vec<Told> {
        let told: Vec<Told> = self.talkers.drain(..).map(Talker::finish).collect();
        for told in &told {
            let count = told.samples.len();
            println!("{}: {count} messages, {} repetitions, {:?}", told.account, told.repetitions, told.refusals);
            let slowest = told.samples.iter().max_by_key(|sample| sample.latency);
            println!("   slowest: {:?}", slowest.map(|sample| (sample.latency, sample.issued - self.began)));
        }
        self.cluster.wait_until_same(WHOLE);
        for name in NAMES {
            let log = self.cluster.log(name);
            println!("{name}: {} repairs", log.matches("repaired the log").count());
            assert_eq!(self.cluster.stop(name).code(), Some(0), "{log}");
        }
        let ledgers = assert_same(&self.cluster, &NAMES);
        ledgers.iter().for_each(|ledger| assert_kept(ledger, &told, &self.bob));
        told
    }
}

/// Every two replicas in either order, and how the first comes back.
const PAIRS: [(&str, &str); 6] = [("a", "b"), ("b", "a"), ("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")];

#[test]
fn any_two_are_killed_and_come_back() {
    let mut scene = Scene::begin();
    scene.go_on(Duration::from_millis(300));
    for (round, (first, second)) in PAIRS.into_iter().enumerate() {
        scene.cluster.kill(first);
        scene.go_on(Duration::from_millis(200));
        scene.cluster.kill(second);
        if round % 2 == 0 {
            // Late: the last one carries on alone, at full speed again.
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

#[test]
fn a_wiped_one_comes_back() {
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
fn one_that_paused_goes_on() {
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
fn each_in_turn_is_stopped_and_started() {
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
