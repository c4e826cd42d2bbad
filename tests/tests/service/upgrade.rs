//! Upgrades: replicas and clients of adjacent versions of the protocol work together, so that a cluster is upgraded one replica
//! at a time while people chat. Versions further apart refuse each other and say which side is older. A store of another format
//! is not opened.

use stablechat_protocol::version::Versions;
use stablechat_protocol::wire::to_cbor;
use stablechat_server::store::{Location, schema};
use stablechat_tests::cluster::Cluster;
use stablechat_tests::ledger::{assert_kept, assert_same};
use stablechat_tests::process::run_to_end;
use stablechat_tests::raw::{RawClient, call_everywhere};
use stablechat_tests::session::Person;
use stablechat_tests::talker::{Plan, Talker};
use stablechat_tests::wait::wait_until;
use std::time::Duration;

const NAMES: [&str; 3] = ["a", "b", "c"];
const DELIVERY_BOUND: Duration = Duration::from_millis(500);
/// How long a cluster may take to be whole again, and everyone to be answered, on a machine that is busy with other things.
const WHOLE: Duration = Duration::from_secs(60);
/// Three releases in a row: the old one, one that speaks its version as well, and one that does not any more.
const OLD: Versions = Versions { min: 1, max: 1 };
const NEW: Versions = Versions { min: 1, max: 2 };
const NEWEST: Versions = Versions { min: 2, max: 2 };

/// Waits until everyone has been answered so many times more.
fn go_on(talkers: &[Talker], answers: u64) {
    let before: Vec<u64> = talkers.iter().map(Talker::answered).collect();
    wait_until("everyone is answered", WHOLE, || {
        assert!(talkers.iter().all(|talker| !talker.has_ended()), "someone has given up");
        talkers.iter().zip(&before).all(|(talker, before)| talker.answered() >= before + answers)
    });
}

#[test]
fn replicas_are_upgraded_one_after_the_other_while_people_chat() {
    let mut cluster = Cluster::prepare(&NAMES, DELIVERY_BOUND);
    for name in NAMES {
        cluster.speak(name, OLD);
        cluster.start_replica(name);
    }
    cluster.wait_until_same(WHOLE);
    let mut clients: Vec<RawClient> = NAMES.iter().map(|name| cluster.greet(name)).collect();
    let [old, new, bob] = ["of-old", "of-new", "bob"].map(Person::new);
    for person in [&old, &new, &bob] {
        call_everywhere(&mut clients, &person.create());
    }
    drop(clients);
    let talkers = [(&old, OLD), (&new, NEW)].map(|(person, versions)| {
        Plan { versions, window: 4, pace: Duration::from_millis(2), ..Plan::new(&cluster, person) }.start()
    });
    go_on(&talkers, 20);
    for name in NAMES {
        assert_eq!(cluster.stop(name).code(), Some(0), "{}", cluster.log(name));
        go_on(&talkers, 5);
        cluster.speak(name, NEW);
        cluster.start_replica(name);
        cluster.wait_until_same(WHOLE);
        go_on(&talkers, 20);
    }
    let transcripts = talkers.map(Talker::finish);
    cluster.wait_until_same(WHOLE);
    for name in NAMES {
        assert_eq!(cluster.stop(name).code(), Some(0), "{}", cluster.log(name));
    }
    let spoken = |name: &str, other: &str, version: u16| {
        let line = format!("connected to replica {other}, speaking version {version} of the protocol");
        cluster.log(name).contains(&line)
    };
    assert!(spoken("a", "b", 1) && spoken("c", "a", 1) && spoken("b", "c", 1), "while one of the two is old");
    assert!(spoken("a", "c", 2) && spoken("b", "c", 2) && !spoken("c", "a", 3), "once both are new");
    let ledgers = assert_same(&cluster, &NAMES);
    ledgers.iter().for_each(|ledger| assert_kept(ledger, &transcripts, &bob));
}

#[test]
fn replicas_without_a_common_version_refuse_each_other_and_say_who_is_older() {
    let older =
        "it speaks version 1 of the protocol, this program version 2; it is older than this program: upgrade it";
    let newer =
        "it speaks version 2 of the protocol, this program version 1; it is newer than this program: upgrade this one";
    // The replica that is first in the cluster file dials.
    for (first, second, at_first, at_second) in [(OLD, NEWEST, newer, older), (NEWEST, OLD, older, newer)] {
        let mut cluster = Cluster::prepare(&["a", "b"], DELIVERY_BOUND);
        for (name, versions) in [("a", first), ("b", second)] {
            cluster.speak(name, versions);
            cluster.start_replica(name);
        }
        let said = |name: &str, line: String| {
            wait_until("the refusal is logged", WHOLE, || cluster.log(name).contains(&line));
            // Once, although the connection is tried again and again.
            assert_eq!(cluster.log(name).matches(&line).count(), 1, "{}", cluster.log(name));
        };
        said("a", format!("replica b: it refuses us: {at_first}"));
        said("b", format!("refusing replica a: {at_second}"));
        assert!(!cluster.log("a").contains("connected to") && !cluster.log("b").contains("connected to"));
    }
}

/// The client, which speaks the versions of this build.
fn client(cluster: &Cluster, arguments: &[&str]) -> (Option<i32>, String) {
    let output = run_to_end(cluster.client(arguments));
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_client_without_a_common_version_says_who_is_older() {
    let Versions { min, max } = Versions::OURS;
    let later = Versions { min: max + 1, max: max + 2 };
    let mut cluster = Cluster::prepare(&["a"], DELIVERY_BOUND);
    cluster.speak("a", later);
    cluster.start_replica("a");
    let (code, said) = client(&cluster, &["list"]);
    assert_eq!(code, Some(78), "{said}");
    let what = format!("it speaks {later} of the protocol, this program {}; it is newer", Versions::OURS);
    assert!(said.contains(&what), "{said:?} lacks {what:?}");
    let log = cluster.log("a");
    let line = format!("it speaks {} of the protocol, this program {later}; it is older", Versions::OURS);
    assert!(log.contains("refusing a client") && log.contains(&line), "{log}");
    // A client of an adjacent version is served.
    cluster.stop("a");
    cluster.speak("a", Versions { min, max: max + 1 });
    cluster.start_replica("a");
    assert_eq!(client(&cluster, &["create", "alice"]), (Some(0), String::new()));
}

#[test]
fn a_store_of_another_format_is_refused_and_not_changed() {
    let mut cluster = Cluster::start(&["a"], DELIVERY_BOUND);
    cluster.greet("a").ping();
    cluster.stop("a");
    for (format, says) in
        [(schema::FORMAT + 1, "run the newer program that wrote it"), (schema::FORMAT - 1, "reads format")]
    {
        let Ok(Location::Open(db)) = Location::Directory(cluster.data("a")).kept_open() else {
            panic!("the store is not in use")
        };
        let meta = db.cf_handle(schema::META).expect("every store has it");
        db.put_cf(meta, schema::META_FORMAT, to_cbor(&format)).expect("the store can be written");
        drop(db);
        cluster.spawn_replica("a");
        assert_eq!(cluster.wait_for_end("a").code(), Some(78));
        let log = cluster.log("a");
        assert!(log.contains(&format!("has format {format}")) && log.contains(says), "{log}");
    }
}
