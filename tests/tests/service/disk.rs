//! Replicas with full disks. The disks are small file systems in memory, which the tests fill up.

use stablechat_protocol::answer::{Answer, Refusal};
use stablechat_protocol::message::ToClient;
use stablechat_tests::cluster::Cluster;
use stablechat_tests::process::{assert_ends, built, stablechatd};
use stablechat_tests::raw::{RawClient, Received, create_accounts};
use stablechat_tests::session::{Person, Session, send, stamp};
use stablechat_tests::wait::wait_until;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const DELIVERY_BOUND: Duration = Duration::from_millis(300);
/// How long a replica may take to notice a full disk or free space, or to catch up.
const LATER: Duration = Duration::from_secs(60);
/// How long to wait for an answer that may not come. After that the test asks again.
const PATIENCE: Duration = Duration::from_secs(2);

/// A cluster of three, with these replicas on small disks, and accounts; none on a machine that does not allow small disks.
fn start(small: &'static [&'static str]) -> Option<(Cluster, Person, Person)> {
    let prepared = Cluster::prepare(&["a", "b", "c"], DELIVERY_BOUND).with_small_disks(small);
    let prepared = prepared.inspect_err(|why| println!("SKIPPED: this machine does not let us mount a disk: {why}"));
    let mut cluster = prepared.ok()?;
    ["a", "b", "c"].iter().for_each(|name| cluster.start_replica(name));
    let (alice, bob) = (Person::new("alice"), Person::new("bob"));
    create_accounts(&mut cluster.greet("a"), &[&alice, &bob]);
    Some((cluster, alice, bob))
}

/// A file that takes all free space on a replica's disk.
struct Filler {
    path: PathBuf,
    file: File,
}

impl Filler {
    fn new(cluster: &mut Cluster, name: &str) -> Filler {
        let path = cluster.small_disk(name).join("filler");
        let mut filler = Filler { file: File::create(&path).expect("there is room for a name"), path };
        filler.grow();
        filler
    }

    /// Takes the free space, to the last byte. A store that is closed releases the space that it had preallocated.
    fn grow(&mut self) {
        for size in [64 * 1024, 1] {
            let bytes = vec![7; size];
            let error = loop {
                if let Err(error) = self.file.write_all(&bytes) {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        }
    }

    fn remove(self) {
        std::fs::remove_file(&self.path).expect("the filler can be removed");
    }
}

/// A connection to a replica, logged in as a person.
fn at(cluster: &Cluster, name: &str, person: &Person) -> RawClient {
    let mut client = cluster.greet(name);
    client.login(person, false);
    client
}

/// A replica's answer to an attempt: done or refused. None without an answer, since the replica may have halted before it.
fn attempt(client: &mut RawClient, session: &Session, number: u64) -> Option<Result<(), Refusal>> {
    client.send(&session.attempt(number, stamp(), send("bob", "hello"))).expect("the connection stands");
    match client.receive_within(PATIENCE) {
        Received::Message(ToClient::Answer { sequence, answer, .. }) if sequence == number => {
            assert_eq!(answer, Answer::Done);
            Some(Ok(()))
        }
        Received::Message(ToClient::Refused { reason, .. }) => Some(Err(reason)),
        Received::Message(_) | Received::Nothing => None,
        Received::End => panic!("the connection is gone"),
    }
}

/// Sends commands until a replica refuses one because its disk is full. Returns the number of commands that were done before.
fn wait_until_refused(client: &mut RawClient, filler: &mut Filler) -> usize {
    let session = Session::default();
    let mut done = 0;
    wait_until("a replica refuses for lack of room", LATER, || {
        filler.grow();
        match attempt(client, &session, done + 1) {
            Some(Ok(())) => done += 1,
            Some(Err(reason)) => return reason == Refusal::NoRoom,
            None => {}
        }
        false
    });
    done as usize
}

/// Waits until a replica answers a command again.
fn wait_until_done(client: &mut RawClient) {
    let session = Session::default();
    wait_until("a replica takes commands again", LATER, || attempt(client, &session, 1) == Some(Ok(())));
}

/// Checks that all replicas have the same messages for bob: all that were answered, and at most one more for each replica, which it
/// accepted just before it halted.
fn assert_all_there(cluster: &Cluster, bob: &Person, answered: usize) {
    cluster.wait_until_same(LATER);
    let unread = ["a", "b", "c"].map(|name| at(cluster, name, bob).unread().len());
    assert!(unread == [unread[0]; 3] && (answered..=answered + 3).contains(&unread[0]), "{unread:?}, {answered}");
}

#[test]
fn a_replica_with_a_full_disk_delays_no_other_and_recovers_by_itself() {
    let Some((mut cluster, alice, bob)) = start(&["b"]) else { return };
    let mut filler = Filler::new(&mut cluster, "b");
    let mut alice_at_b = at(&cluster, "b", &alice);
    let mut sent = wait_until_refused(&mut alice_at_b, &mut filler);

    // The other replicas go on, and b has to apply their requests too. When there is no space for those either, b cannot even
    // answer a query, since a query needs its place in the order.
    let text = "x".repeat(4096);
    let mut alice_at_a = at(&cluster, "a", &alice);
    let mut asking = cluster.greet("b");
    wait_until("a replica halts for lack of room", LATER, || {
        filler.grow();
        let answers = alice_at_a.call_all((0..100).map(|_| send("bob", text.as_str())));
        assert!(answers.iter().all(|settled| settled.answer == Answer::Done));
        sent += answers.len();
        asking.ask_for_position(stamp()).expect("the connection stands");
        let received = asking.receive_within(PATIENCE);
        matches!(received, Received::Message(ToClient::Refused { reason: Refusal::NoRoom, .. }))
    });
    assert!(cluster.log("b").contains("the replica refuses everything until there is room"), "{}", cluster.log("b"));
    assert!(at(&cluster, "c", &bob).unread().len() >= sent);

    filler.remove();
    wait_until_done(&mut alice_at_b);
    assert_all_there(&cluster, &bob, sent + 1);
    assert_eq!(cluster.program("b").ended(), None);
    assert_sound(&mut cluster, "b");
}

#[test]
fn replicas_whose_disks_are_all_full_answer_queries_and_go_on_when_there_is_room() {
    let names = ["a", "b", "c"];
    let Some((mut cluster, alice, bob)) = start(&["a", "b", "c"]) else { return };
    assert_ends(stablechat(&cluster, &["create", "carol"]), 0, "created carol");
    let mut fillers = names.map(|name| Filler::new(&mut cluster, name));
    let mut clients = names.map(|name| at(&cluster, name, &alice));
    let refused = clients.iter_mut().zip(&mut fillers);
    let sent: usize = refused.map(|(client, filler)| wait_until_refused(client, filler)).sum();
    assert_all_there(&cluster, &bob, sent);
    assert_ends(stablechat(&cluster, &["list", "car*"]), 0, "carol");
    let full = "the disks of the replicas in reach are full; it is not known whether this took effect: the send";
    assert_ends(stablechat(&cluster, &["--as", "carol", "send", "bob", "hello"]), 75, full);

    fillers.into_iter().for_each(Filler::remove);
    clients.iter_mut().for_each(wait_until_done);
    assert_all_there(&cluster, &bob, sent + clients.len());
    for name in names {
        assert_eq!(cluster.program(name).ended(), None);
        assert_sound(&mut cluster, name);
    }
}

/// The client's command line, with keys in a directory of the cluster's.
fn stablechat(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::new(built("stablechat"));
    let keys = cluster.path().join("keys");
    command.arg("--cluster").arg(cluster.file()).arg("--keys").arg(keys).args(arguments);
    command
}

/// Checks the store of a running replica, by checking a backup of it.
fn assert_sound(cluster: &mut Cluster, name: &str) {
    let (data, backups) = (cluster.small_disk(name), cluster.path().join("backups").join(name));
    let restored = cluster.path().join("restored").join(name);
    let run = |arguments: &[&str], paths: &[(&str, &Path)], says: &str| {
        let mut command = stablechatd(arguments);
        paths.iter().for_each(|(option, path)| {
            command.args([option]).arg(path);
        });
        assert_ends(command, 0, says);
    };
    run(&["backup"], &[("--data", &data), ("--to", &backups)], "backed up");
    run(&["restore"], &[("--from", &backups), ("--data", &restored)], "restored");
    let mut check = stablechatd(&["check"]);
    check.arg(&restored);
    assert_ends(check, 0, "is in order");
}
