//! A replica as a process: how it starts, when it refuses to start, how it stops, and how it comes back.

use rustix::process::Signal;
use stablechat_protocol::answer::{Answer, Refusal, Rejection};
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_tests::cluster::Cluster;
use stablechat_tests::process::{assert_ends, stablechatd};
use stablechat_tests::raw::{RawClient, Received, create_accounts, send_message};
use stablechat_tests::session::{Person, Session, send, stamp, stamp_ahead};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

const DELIVERY_BOUND: Duration = Duration::from_millis(200);

#[test]
fn a_wrong_cluster_file_is_named() {
    let cluster = Cluster::prepare(&["a"], DELIVERY_BOUND);
    let run = |file: &std::path::Path, name: &str| {
        let mut command = stablechatd(&["run", "--name", name]);
        command.arg("--cluster").arg(file).arg("--data").arg(cluster.data(name));
        command.arg("--identity").arg(cluster.identity(name));
        command
    };
    let missing = cluster.path().join("missing.toml");
    assert_ends(run(&missing, "a"), 78, "missing.toml");
    assert_ends(run(cluster.path(), "a"), 78, "cannot read the cluster file");
    assert_ends(run(&cluster.file(), "b"), 78, "the cluster file has no replica b; it has a");
    let malformed = cluster.path().join("malformed.toml");
    for (text, says) in [
        (&b"name = "[..], "malformed.toml is not valid"),
        (b"", "missing field `name`"),
        (b"name = 'test'\n", "missing field `id`"),
        (b"name = 'test'\nid = '1'\n", "0 [[replica]] entries"),
        (b"name = 'test'\nspeed = 3\n", "unknown field `speed`"),
        (b"name = 'test'\nid = '1'\n[[replica]]\nname = 'a'\naddress = 'here'\n", "not HOST:PORT"),
        (b"name = 'test'\nid = '1'\n[[replica]]\nname = 'a'\naddress = 'x:1'\n", "has no `ca`"),
        (b"name = 'test\xff'", "cannot read the cluster file"),
    ] {
        std::fs::write(&malformed, text).expect("temporary files can be written");
        assert_ends(run(&malformed, "a"), 78, says);
    }
    assert!(!cluster.data("a").exists(), "no data directory is created for a replica that cannot run");
}

#[test]
fn a_data_directory_belongs_to_one_process_and_one_replica() {
    let mut cluster = Cluster::start(&["a", "b"], DELIVERY_BOUND);
    let with_data_of = |cluster: &Cluster, owner: &str, name: &str| {
        let mut command = stablechatd(&["run", "--name", name]);
        command.arg("--cluster").arg(cluster.file()).arg("--data").arg(cluster.data(owner));
        command.arg("--identity").arg(cluster.identity(name));
        command
    };
    assert_ends(with_data_of(&cluster, "a", "a"), 69, "is in use by another process; stop that replica first");
    assert_ends(with_data_of(&cluster, "a", "b"), 69, "is in use by another process; stop that replica first");
    cluster.kill("a");
    assert_ends(with_data_of(&cluster, "a", "b"), 78, "belongs to replica a of cluster test, not to replica b");
    cluster.start_replica("a");
    cluster.greet("a").ping();
    cluster.greet("b").ping();

    // A file in the place of the directory.
    let mut command = stablechatd(&["run", "--name", "a"]);
    command.arg("--cluster").arg(cluster.file()).arg("--data").arg(cluster.file());
    command.arg("--identity").arg(cluster.identity("a"));
    assert_ends(command, 74, "cannot create the data directory");
}

#[test]
fn an_address_in_use_is_named() {
    let cluster = Cluster::prepare(&["a"], DELIVERY_BOUND);
    let address = cluster.address("a");
    let _occupant = std::net::TcpListener::bind(address).expect("the address was free");
    let mut command = cluster.command("a");
    command.stderr(std::process::Stdio::piped());
    assert_ends(command, 69, &format!("the address {address} is in use by another process"));
}

#[test]
fn a_stop_answers_what_was_accepted_and_says_goodbye() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut cluster = Cluster::start(&["a"], DELIVERY_BOUND);
        let alice = Person::new("alice");
        let mut client = cluster.greet("a");
        create_accounts(&mut client, &[&alice]);
        client.login(&alice, true);
        let mut idle = cluster.greet("a");
        let _stranger = cluster.connect("a");

        let session = Session::default();
        let request = |number: u64| session.attempt(number, stamp_ahead(), send("alice", number.to_string()));
        let requests: Vec<ToReplica> = (1..=500).map(request).collect();
        client.send_all(&requests).expect("the connection stands");
        // The pong shows that the requests before it were read.
        client.ping();
        cluster.program("a").signal(signal);
        let messages = client.until_end();
        let (answers, others, deliveries) = count(&messages);
        assert_eq!((answers + others, deliveries), (500, answers));
        assert!(answers > 0, "all refused");
        assert_eq!(messages.last(), Some(&ToClient::Closing { reason: CloseReason::Stopping }));
        assert_eq!(idle.closing(), CloseReason::Stopping);
        assert_eq!(cluster.wait_for_end("a").code(), Some(0), "{}", cluster.log("a"));

        cluster.start_replica("a");
        let mut client = cluster.greet("a");
        client.login(&alice, true);
        assert_eq!(client.timeline("alice").len(), answers);
    }
}

/// The number of `Done` answers, of requests that were refused as late or out of sequence after one that was late, and of delivered
/// messages.
fn count(messages: &[ToClient]) -> (usize, usize, usize) {
    let number = |kind: fn(&ToClient) -> bool| messages.iter().filter(|message| kind(message)).count();
    let is_late = |message: &ToClient| match message {
        ToClient::Refused { reason, .. } => *reason == Refusal::Late,
        ToClient::Answer { answer: Answer::Rejected { reason }, .. } => {
            matches!(reason, Rejection::OutOfSequence { .. })
        }
        _ => false,
    };
    (
        number(|message| matches!(message, ToClient::Answer { answer: Answer::Done, .. })),
        number(is_late),
        number(|message| matches!(message, ToClient::Delivery { .. })),
    )
}

#[test]
fn a_killed_replica_comes_back_at_once_with_everything_it_answered() {
    let mut cluster = Cluster::start(&["a"], Duration::from_millis(50));
    let (alice, bob) = (Person::new("alice"), Person::new("bob"));
    create_accounts(&mut cluster.greet("a"), &[&alice, &bob]);
    let mut connections: Vec<RawClient> = Vec::new();
    for round in 0..5 {
        let mut client = cluster.greet("a");
        client.login(&alice, true);
        send_message(&mut client, "bob", round.to_string());
        // Kept open, so that the replica's port is in use by this connection when the replica starts again.
        connections.push(client);
        let program = cluster.program("a");
        program.signal(Signal::KILL);
        assert_eq!(cluster.wait_for_end("a").signal(), Some(Signal::KILL.as_raw()));
        cluster.start_replica("a");
    }
    let mut client = cluster.greet("a");
    client.login(&bob, true);
    let texts: Vec<String> = client.unread().iter().map(|message| message.text.to_string()).collect();
    assert_eq!(texts, ["0", "1", "2", "3", "4"]);
    assert!(cluster.log("a").contains(", 7 requests applied"), "{}", cluster.log("a"));
}

#[test]
fn requests_while_stopping_are_refused() {
    // The replica ends once its last request is stable, so the delivery bound is longer than a busy machine needs to refuse one.
    let mut cluster = Cluster::start(&["a", "b"], Duration::from_secs(5));
    let (alice, bob) = (Person::new("alice"), Person::new("bob"));
    let mut client = cluster.greet("a");
    create_accounts(&mut client, &[&alice]);
    // The other replica is suspended, so a request that is accepted now is not stable before the delivery bound has passed.
    cluster.program("b").signal(Signal::STOP);
    client.send(&Session::default().next(bob.create())).expect("the connection stands");
    client.ping();
    cluster.program("a").signal(Signal::TERM);
    // Until that request is stable, the replica keeps its connections and refuses further requests.
    let deadline = Instant::now() + Duration::from_secs(4);
    let refusal = loop {
        assert!(Instant::now() < deadline, "requests are accepted while stopping");
        client.send(&Session::default().attempt(1, stamp(), bob.create())).expect("the connection stands");
        if let Received::Message(message) = client.receive_within(Duration::from_millis(20)) {
            break message;
        }
    };
    assert!(matches!(refusal, ToClient::Refused { reason: Refusal::NotServing, .. }), "{refusal:?}");
    let (answers, _, _) = count(&client.until_end());
    assert_eq!(answers, 1);
    assert_eq!(cluster.wait_for_end("a").code(), Some(0));
}
