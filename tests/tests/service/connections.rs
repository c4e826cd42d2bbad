//! Connections that misbehave, by silence, by not reading or by their number, and the cost of idle connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stablechat_protocol::answer::{Answer, Refusal};
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::command::Query;
use stablechat_protocol::conversation::Page;
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::request::RequestId;
use stablechat_protocol::time::Timestamp;
use stablechat_tests::cluster::{CLUSTER, Cluster};
use stablechat_tests::process::{Program, run_to_end};
use stablechat_tests::raw::{RawClient, Received, create_accounts, frame, hello};
use stablechat_tests::session::{Person, Session, conversation, send, stamp, stamp_ahead};
use stablechat_tests::wait::{SOON, wait_for, wait_until};
use std::io::ErrorKind;
use std::process::Command;
use std::time::{Duration, Instant};

const DELIVERY_BOUND: Duration = Duration::from_millis(200);
/// The most connections that a replica has.
const CONNECTIONS_MAX: usize = 1024;
const MEBIBYTE: u64 = 1024 * 1024;

#[test]
fn silent_connections_are_ended() {
    let cluster = Cluster::start(&["a"], DELIVERY_BOUND);
    let start = Instant::now();
    let mut stranger = cluster.connect("a");
    let mut trickling = cluster.connect("a");
    let mut greeted = cluster.greet("a");
    let mut pinging = cluster.greet("a");
    let hello = frame(&hello(CLUSTER));
    let mut trickle = hello[..hello.len() - 1].iter();
    let mut ended = [None; 3];
    while ended.contains(&None) {
        assert!(start.elapsed() < Duration::from_secs(90), "not all ended: {ended:?}");
        if let (None, Some(byte)) = (ended[1], trickle.next()) {
            trickling.send_bytes(&[*byte]).expect("the connection stands");
        }
        pinging.ping();
        for (client, ended) in [&mut stranger, &mut trickling, &mut greeted].into_iter().zip(&mut ended) {
            if ended.is_none()
                && let Received::Message(message) = client.receive_within(Duration::from_millis(200))
            {
                assert_eq!(message, ToClient::Closing { reason: CloseReason::Silent });
                assert_eq!(client.receive_within(SOON), Received::End);
                *ended = Some(start.elapsed().as_secs());
            }
        }
    }
    // A connection without a hello is ended after 10 s, one that has said hello after 30 s of silence. On a machine that is busy
    // with other things either may take longer, but never less.
    assert!(matches!(ended, [Some(9..29), Some(9..29), Some(29..)]), "{ended:?}");
    pinging.ping();
}

#[test]
fn an_address_that_creates_accounts_too_fast_is_told_to_wait() {
    let cluster = Cluster::start(&["a"], DELIVERY_BOUND);
    let mut stranger = cluster.greet("a");
    let creations: Vec<ToReplica> =
        (0..1200).map(|number| Session::default().next(Person::new(&format!("account-{number}")).create())).collect();
    stranger.send_all(&creations).expect("the connection stands");
    let wait_ms = wait_for("a refusal", Duration::from_secs(60), || match stranger.receive() {
        ToClient::Refused { reason: Refusal::TooFast { wait_ms }, .. } => Some(wait_ms),
        _ => None,
    });
    assert!((1..=1000).contains(&wait_ms), "{wait_ms}");
    // The client waits.
    let client = cluster.client(&["create", "patient"]);
    let output = run_to_end(client);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("created patient"), "{output:?}");
}

/// Fills bob's mailbox with enough messages for a page of the greatest size.
fn fill_mailbox(cluster: &Cluster, alice: &Person) {
    let mut client = cluster.greet("a");
    client.login(alice, false);
    let settled = client.call_all((0..140).map(|_| send("bob", "x".repeat(4096))));
    assert!(settled.iter().all(|settled| settled.answer == Answer::Done));
}

/// Waits until the replica has dropped a connection, without reading from it: until sending on it fails. Meanwhile another one pings,
/// so that it is not ended as silent.
fn wait_until_dropped(client: &mut RawClient, other: &mut RawClient) {
    client.stream().set_nonblocking(true).expect("a socket can be made so");
    let ping = ToReplica::Ping { sent: Timestamp(0) };
    wait_until("the replica drops a connection", SOON, || {
        other.ping();
        client.send(&ping).is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
    });
    client.stream().set_nonblocking(false).expect("a socket can be made so");
}

#[test]
fn a_connection_that_asks_and_does_not_read_is_ended() {
    let cluster = Cluster::start(&["a"], DELIVERY_BOUND);
    let (alice, bob) = (Person::new("alice"), Person::new("bob"));
    create_accounts(&mut cluster.greet("a"), &[&alice, &bob]);
    fill_mailbox(&cluster, &alice);
    let mut witness = cluster.greet("a");
    witness.login(&alice, true);
    let before = cluster.usage("a");

    let mut deaf = cluster.greet("a");
    deaf.login(&bob, false);
    // Half a gigabyte of answers, far more than the buffers of the sockets hold. The replica answers a few, and waits for the
    // connection to read them.
    let history = || Query::History { conversation: conversation("alice"), page: Page::Latest, limit: 1000 };
    let query = |id| ToReplica::Query { id, timestamp: stamp(), query: history() };
    let queries: Vec<ToReplica> = (0..1000).map(query).collect();
    deaf.send_all(&queries).expect("the connection stands");
    wait_until_dropped(&mut deaf, &mut witness);
    witness.ping();
    assert_eq!(witness.call(send("alice", "still here")), Answer::Done);

    let peak = cluster.usage("a").resident_peak;
    println!("resident before: {} MiB, at most: {} MiB", before.resident / MEBIBYTE, peak / MEBIBYTE);
    assert!(peak < before.resident + 100 * MEBIBYTE, "{} MiB", peak / MEBIBYTE);
    // A client that reads after all gets the reason.
    let last = std::iter::from_fn(|| match deaf.receive_within(SOON) {
        Received::Message(message) => Some(message),
        _ => None,
    })
    .last();
    assert!(!matches!(last, Some(ToClient::Closing { reason }) if reason != CloseReason::SlowReader));
}

#[test]
fn a_connection_that_does_not_read_its_deliveries_is_ended_and_others_get_theirs() {
    let cluster = Cluster::start(&["a"], DELIVERY_BOUND);
    let (alice, bob) = (Person::new("alice"), Person::new("bob"));
    create_accounts(&mut cluster.greet("a"), &[&alice, &bob]);
    let before = cluster.usage("a");
    let mut deaf = cluster.greet("a");
    deaf.login(&bob, true);
    let mut reader = cluster.greet("a");
    reader.login(&bob, true);
    let mut sender = cluster.greet("a");
    sender.login(&alice, false);

    let mut sent = 0;
    // Batches, until the connection is gone.
    let ping = ToReplica::Ping { sent: Timestamp(0) };
    // Enough for a slow disk to store as many messages as the connection's write buffer and the system's socket buffers hold.
    let deadline = Instant::now() + Duration::from_secs(120);
    while deaf.send(&ping).is_ok() {
        assert!(Instant::now() < deadline, "{} MiB wait for a connection that does not read", sent / 256);
        let padding = "x".repeat(4000);
        let settled = sender.call_all((0..500).map(|number| send("bob", format!("{} {padding}", sent + number))));
        for settled in settled {
            assert_eq!(settled.answer, Answer::Done);
            let number: usize =
                reader.delivery().text.as_str().split(' ').next().unwrap_or_default().parse().expect("a number");
            assert_eq!(number, sent);
            sent += 1;
        }
    }
    let peak = cluster.usage("a").resident_peak;
    println!("{sent} messages; resident before: {} MiB, at most: {} MiB", before.resident / MEBIBYTE, peak / MEBIBYTE);
    assert!(peak < before.resident + 100 * MEBIBYTE, "{} MiB", peak / MEBIBYTE);
    reader.login(&bob, false);
    assert_eq!(reader.unread().len(), sent, "messages that the deaf connection did not take are still unread");
}

/// Lets this process have as many files as a replica's connections need.
fn allow_many_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the maximum is allowed");
    assert!(maximum.is_none_or(|maximum| maximum > 2048), "this test opens {CONNECTIONS_MAX} connections");
}

/// Starts replica a with a limit on its open files, an argument of `ulimit -n`.
fn start_with_files(cluster: &Cluster, limit: &str) -> Program {
    let replica = cluster.command("a");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")]).arg(replica.get_program());
    command.args(replica.get_args()).stderr(std::fs::File::create(cluster.path().join("a.log")).expect("a file"));
    Program::spawn(command)
}

#[test]
fn connections_beyond_the_limit_are_told_so() {
    allow_many_files();
    let cluster = Cluster::prepare(&["a"], DELIVERY_BOUND);
    // The usual limit of a shell, which is less than what connections and storage need together.
    let _replica = start_with_files(&cluster, "-Sn 1024");
    let alice = Person::new("alice");
    let mut clients: Vec<RawClient> = (0..CONNECTIONS_MAX).map(|_| cluster.greet("a")).collect();
    // One that has not logged in gives way to a new one: the one that was silent longest.
    clients.iter_mut().skip(1).for_each(RawClient::ping);
    clients.push(cluster.greet("a"));
    assert_eq!(clients.remove(0).closing(), CloseReason::Full);
    clients.iter_mut().for_each(RawClient::ping);

    // One that has logged in does not, if it comes from where the new one comes from.
    assert_eq!(clients[0].call(alice.create()), Answer::Done);
    clients.iter_mut().for_each(|client| client.login(&alice, false));
    for _ in 0..300 {
        assert_eq!(cluster.connect("a").greet(CLUSTER), Err(CloseReason::Full));
    }
    // The connections within the limit are served, and the store can open files.
    assert_eq!(clients[0].call(send("alice", "hello")), Answer::Done);
    clients.iter_mut().for_each(RawClient::ping);
    // When a connection ends, another can take its place.
    drop(clients.pop());
    let mut late = wait_for("a place becomes free", SOON, || {
        let mut client = cluster.connect("a");
        client.greet(CLUSTER).is_ok().then_some(client)
    });
    late.login(&alice, false);
    assert_eq!(late.call(send("alice", "x")), Answer::Done);
}

#[test]
fn a_replica_without_free_file_descriptors_serves_its_connections() {
    allow_many_files();
    let cluster = Cluster::prepare(&["a"], DELIVERY_BOUND);
    let mut replica = start_with_files(&cluster, "-n 100");
    let alice = Person::new("alice");
    let mut client = cluster.greet("a");
    assert_eq!(client.call(alice.create()), Answer::Done);
    // More connections than there are file descriptors: they wait in the listening socket's queue.
    let crowd: Vec<RawClient> = (0..150).map(|_| cluster.connect("a")).collect();
    client.login(&alice, true);
    for number in 0..10 {
        assert_eq!(client.call(send("alice", number.to_string())), Answer::Done);
    }
    drop(crowd);
    cluster.greet("a").ping();
    assert_eq!(client.timeline("alice").len(), 10);
    assert_eq!(replica.ended(), None);
}

#[test]
fn an_idle_replica_hardly_wakes_up() {
    const WATCHED: Duration = Duration::from_secs(3);
    // Two bounds that hold on a slow machine too: timers wake the threads a few times a second however long it takes to run them,
    // and a loop that never sleeps, which does not count as waking up, takes a whole core.
    const WAKE_UPS_MAX: f64 = 80.0;
    const SHARE_MAX: f64 = 0.2;

    let cluster = Cluster::start(&["a"], DELIVERY_BOUND);
    let assert_idle = |what: &str, during: &mut dyn FnMut()| {
        let (before, start) = (cluster.usage("a"), Instant::now());
        while start.elapsed() < WATCHED {
            during();
            std::thread::sleep(Duration::from_millis(500));
        }
        let (after, seconds) = (cluster.usage("a"), start.elapsed().as_secs_f64());

        let share = (after.processor - before.processor).as_secs_f64() / seconds;
        let wake_ups = (after.wake_ups - before.wake_ups) as f64 / seconds;
        println!("{what}: {:.3} % of a core, {wake_ups:.1} wake-ups a second", 100.0 * share);
        assert!(
            wake_ups < WAKE_UPS_MAX && share < SHARE_MAX,
            "{what}: {wake_ups} wake-ups a second, {share} of a core"
        );
    };
    assert_idle("without connections", &mut || {});
    let mut clients: Vec<RawClient> = (0..10).map(|_| cluster.greet("a")).collect();
    assert_idle("with 10 connections that ping", &mut || clients.iter_mut().for_each(RawClient::ping));
}

#[test]
fn a_history_can_be_asked_for_by_many_at_once() {
    let cluster = Cluster::start(&["a"], DELIVERY_BOUND);
    let (alice, bob) = (Person::new("alice"), Person::new("bob"));
    create_accounts(&mut cluster.greet("a"), &[&alice, &bob]);
    fill_mailbox(&cluster, &alice);
    let mut clients: Vec<RawClient> = (0..20).map(|_| cluster.greet("a")).collect();
    let ask = |client: &mut RawClient, id| {
        let query = Query::History { conversation: conversation("bob"), page: Page::Latest, limit: 1000 };
        let query = ToReplica::Query { id, timestamp: stamp_ahead(), query };
        client.send(&query).expect("the connection stands");
    };
    for client in &mut clients {
        client.login(&alice, false);
        (0..10).for_each(|id| ask(client, id));
    }
    // A client that reads gets all of it, although it is more than the write buffer of a connection may hold. What the replica has no
    // time for it refuses, so that the client can ask again.
    for client in &mut clients {
        let mut answered = 0;
        while answered < 10 {
            match client.receive() {
                ToClient::QueryAnswer { .. } => answered += 1,
                ToClient::Refused { request: RequestId::Query { id }, .. } => ask(client, id),
                other => panic!("{other:?}"),
            }
        }
    }
}
