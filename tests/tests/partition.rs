//! A partition of all replicas from one another, with clients on every side: nothing that was answered is lost, and all are
//! the same once they have met again.

use stablechat_tests::cluster::Cluster;
use stablechat_tests::ledger::{assert_kept, assert_same};
use stablechat_tests::network::Network;
use stablechat_tests::raw::{RawClient, call_everywhere};
use stablechat_tests::session::Person;
use stablechat_tests::talker::{Plan, Talker};
use std::time::{Duration, Instant};

const NAMES: [&str; 3] = ["a", "b", "c"];
const DELIVERY_BOUND: Duration = Duration::from_millis(500);
const WHOLE: Duration = Duration::from_secs(60);

/// How long the partition lasts: a while, or as many seconds as STABLECHAT_PARTITION_S says.
fn partition() -> Duration {
    let seconds = std::env::var("STABLECHAT_PARTITION_S").map(|seconds| seconds.parse().expect("a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(6))
}

#[test]
fn replicas_that_were_cut_off_from_one_another_become_the_same() {
    let network = match Network::new(&NAMES) {
        Ok(network) => network,
        Err(why) => {
            println!("SKIPPED: this machine does not let us make network namespaces: {why}");
            return;
        }
    };
    let mut cluster = Cluster::start_on(network, &NAMES, DELIVERY_BOUND);
    cluster.wait_until_same(WHOLE);
    let mut clients: Vec<RawClient> = NAMES.iter().map(|name| cluster.greet(name)).collect();
    let bob = Person::new("bob");
    call_everywhere(&mut clients, &bob.create());
    let talkers: Vec<Talker> = NAMES
        .iter()
        .flat_map(|host| [(*host, 1, 5), (host, 8, 3)])
        .map(|(host, window, pace)| {
            let person = Person::new(&format!("on-{host}-{window}"));
            call_everywhere(&mut clients, &person.create());
            let namespace = Some(cluster.network().path(host));
            Plan { namespace, window, pace: Duration::from_millis(pace), ..Plan::new(&cluster, &person) }.start()
        })
        .collect();
    drop(clients);
    let answered = || -> Vec<u64> { talkers.iter().map(Talker::answered).collect() };

    std::thread::sleep(Duration::from_secs(1));
    let before = answered();
    NAMES.iter().for_each(|name| cluster.network().cut(name));
    std::thread::sleep(partition());
    let during = answered();
    NAMES.iter().for_each(|name| cluster.network().mend(name));
    let mended = Instant::now();
    let position = cluster.wait_until_same(WHOLE);
    println!("all the same {:?} after the cables were plugged in, at position {position}", mended.elapsed());
    let sides: Vec<u64> = during.iter().zip(&before).map(|(during, before)| during - before).collect();
    println!("answered on each side while cut off: {sides:?}");
    assert!(sides.iter().all(|answered| *answered > 10), "someone was not answered: {sides:?}");

    std::thread::sleep(Duration::from_secs(1));
    let told: Vec<_> = talkers.into_iter().map(Talker::finish).collect();
    for told in &told {
        println!("{}: {} messages, {:?}", told.account, told.samples.len(), told.refusals);
    }
    cluster.wait_until_same(WHOLE);
    for name in NAMES {
        assert_eq!(cluster.stop(name).code(), Some(0), "{}", cluster.log(name));
        println!("the log of replica {name}:\n{}", cluster.log(name));
    }
    let ledgers = assert_same(&cluster, &NAMES);
    ledgers.iter().for_each(|ledger| assert_kept(ledger, &told, &bob));
}
