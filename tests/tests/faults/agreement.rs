//! Agreement: a request that a client sent to one replica only, which was killed right after, is in the logs of all replicas or
//! of none.
//!
//! Equal logs in the end are not enough. Replicas that apply requests without having agreed on them find out later and repair
//! their logs, so the test also asserts that there was no repair.

use stablechat_protocol::operator::InitialSettings;
use stablechat_server::store::schema::StoreIdentity;
use stablechat_server::store::{ChatStore, Location};
use stablechat_tests::cluster::{CLUSTER, Cluster};
use stablechat_tests::ledger::{assert_kept, assert_same};
use stablechat_tests::raw::{RawClient, call_everywhere};
use stablechat_tests::session::{Person, Session, send};
use stablechat_tests::talker::{Plan, Talker, create_bob, create_talker, to_bob_and_room};
use std::time::{Duration, Instant};

const NAMES: [&str; 3] = ["a", "b", "c"];
/// Three messages in a row have to arrive within this, and no log may be repaired: even a machine that stalls for most of a second
/// keeps this bound.
const DELIVERY_BOUND: Duration = Duration::from_secs(3);
const WHOLE: Duration = Duration::from_secs(120);
/// How many requests are sent in a round, each by a client of its own. In every other round a replica is killed.
const TRIES: usize = 10;
/// The time over which they are spread.
const ROUND: Duration = Duration::from_millis(40);
/// A replica is killed at most this long after a request: about the time that a request takes to reach all replicas.
const SHORTLY: Duration = Duration::from_millis(4);

/// The number of rounds: STABLECHAT_ROUNDS, or a few.
fn rounds() -> usize {
    std::env::var("STABLECHAT_ROUNDS").map_or(16, |rounds| rounds.parse().expect("STABLECHAT_ROUNDS is a number"))
}

/// A client that has logged in at one replica and will send one request.
fn one_shot_client(cluster: &Cluster, name: &str, mallory: &Person) -> RawClient {
    let mut client = cluster.greet(name);
    client.login(mallory, false);
    client
}

/// The events of a round and their times: requests, each with its client, and perhaps a kill right after one of them, either of
/// the replica that it was sent to or of a random one.
fn plan_round(
    random: &mut fastrand::Rng,
    cluster: &Cluster,
    mallory: &Person,
    has_kill: bool,
) -> Vec<(Duration, &'static str, Option<RawClient>)> {
    let mut plan: Vec<(Duration, &str, Option<RawClient>)> = (0..TRIES)
        .map(|_| {
            let name = NAMES[random.usize(0..NAMES.len())];
            (ROUND.mul_f64(random.f64()), name, Some(one_shot_client(cluster, name, mallory)))
        })
        .collect();
    if has_kill {
        let (at, name, _) = plan[random.usize(0..TRIES)];
        let name = if random.bool() { name } else { NAMES[random.usize(0..NAMES.len())] };
        plan.push((at + SHORTLY.mul_f64(random.f64()), name, None));
    }
    plan.sort_by_key(|(at, ..)| *at);
    plan
}

/// Makes a replica that is down forget how often it has begun anew. Otherwise it would soon wait for minutes before it joins.
fn forget_restarts(cluster: &Cluster, name: &str) {
    let identity = StoreIdentity { cluster: CLUSTER.into(), replica: name.into() };
    let store = ChatStore::open(&Location::Directory(cluster.data(name)), &identity, &InitialSettings::OPEN);
    store.expect("the store opens").note_stable().expect("the store can be written");
}

#[test]
fn a_request_sent_to_one_replica_is_applied_by_all_or_none() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cluster = Cluster::start(&NAMES, DELIVERY_BOUND);
    cluster.wait_until_same(WHOLE);
    let mut clients: Vec<RawClient> = NAMES.iter().map(|name| cluster.greet(name)).collect();
    let [alice, bob, carol, dave, mallory] = ["alice", "bob", "carol", "dave", "mallory"].map(Person::new);
    create_bob(&cluster, &NAMES, &bob);
    [&alice, &carol].into_iter().for_each(|person| create_talker(&cluster, &NAMES, person));
    [&dave, &mallory].into_iter().for_each(|person| call_everywhere(&mut clients, &person.create()));
    let talker = |person: &Person| {
        let plan = Plan { window: 4, pace: Duration::from_millis(2), ..Plan::new(&cluster, person) };
        Plan { command: to_bob_and_room, ..plan }.start()
    };
    let talkers: Vec<Talker> = [&alice, &carol].map(talker).into();

    let (mut kills, mut said) = (0, 0);
    for round in 0..rounds() {
        let plan = plan_round(&mut random, &cluster, &mallory, round % 2 == 1);
        let start = Instant::now();
        let mut killed = None;
        for (at, name, client) in plan {
            std::thread::sleep(at.saturating_sub(start.elapsed()));
            match client {
                Some(mut client) => {
                    said += 1;
                    // The replica may be gone.
                    client.send(&Session::default().next(send("dave", format!("try {said}")))).ok();
                }
                None => {
                    cluster.kill(name);
                    kills += 1;
                    killed = Some(name);
                }
            }
        }
        if let Some(name) = killed {
            forget_restarts(&cluster, name);
            std::thread::sleep(DELIVERY_BOUND.mul_f64(random.f64()));
            cluster.start_replica(name);
            cluster.wait_until_same(WHOLE);
        }
    }

    let transcripts: Vec<_> = talkers.into_iter().map(Talker::finish).collect();
    cluster.wait_until_same(WHOLE);
    for name in NAMES {
        assert_eq!(cluster.stop(name).code(), Some(0));
        let log = cluster.log(name);
        assert_eq!(log.matches("repaired the log").count(), 0, "replica {name} had to repair its log; seed {seed}");
    }
    let ledgers = assert_same(&cluster, &NAMES);
    ledgers.iter().for_each(|ledger| assert_kept(ledger, &transcripts, &bob));
    let applied = ledgers[0].unread(&dave).len();
    let load: usize = transcripts.iter().map(|transcript| transcript.samples.len()).sum();
    println!(
        "{said} requests to one replica, {applied} of them applied; {kills} kills; {load} requests of the talkers beside"
    );
    assert!(applied > said / 2 && applied <= said, "{applied} of {said} requests were applied");
}
