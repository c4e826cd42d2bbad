//! What strangers and accounts can take from replicas at most. They send a bounded amount, as fast as they can; meanwhile two people
//! chat. However slow the machine is: all messages of the two arrive, no replica takes another for dead, none repairs its log, and
//! the memory stays below the figure that docs/ARCHITECTURE.md states.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stablechat_protocol::answer::{Answer, QueryAnswer, Refusal};
use stablechat_protocol::command::{PAGE_MAX, Query};
use stablechat_protocol::frame::{CLIENT_FRAME_MAX, FRAME_MAX};
use stablechat_protocol::login::{LoginProof, Signature};
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::name::Pattern;
use stablechat_protocol::time::Timestamp;
use stablechat_tests::cluster::{CLUSTER, Cluster};
use stablechat_tests::metrics::Metrics;
use stablechat_tests::raw::{RawClient, TlsStream, call_everywhere, frame};
use stablechat_tests::session::{Person, send, stamp_ahead};
use stablechat_tests::wait::{SOON, wait_until};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const NAMES: [&str; 3] = ["a", "b", "c"];
/// The delivery bound of most clusters: the usual one.
const DELIVERY_BOUND: Duration = Duration::from_millis(1000);
/// The memory that all connections of a replica together may take.
const MEMORY_MAX: u64 = 256 * MEBIBYTE;
const MEBIBYTE: u64 = 1024 * 1024;

/// Three replicas, two people that chat, and what the replicas had counted and used before anything went wrong.
struct Chat {
    cluster: Cluster,
    alice: Person,
    bob: Person,
    sender: RawClient,
    receiver: RawClient,
    sent: usize,
    /// Rejoins and repairs of each replica.
    before: Vec<(f64, f64)>,
    resident: Vec<u64>,
}

impl Chat {
    fn begin() -> Chat {
        allow_many_files();
        let mut cluster = Cluster::prepare(&NAMES, DELIVERY_BOUND).with_metrics();
        NAMES.iter().for_each(|name| cluster.start_replica(name));
        cluster.wait_until_same(SOON);
        let (alice, bob) = (Person::new("alice"), Person::new("bob"));
        let mut everywhere: Vec<RawClient> = NAMES.iter().map(|name| cluster.greet(name)).collect();
        [&alice, &bob].iter().for_each(|person| call_everywhere(&mut everywhere, &person.create()));

        let (mut sender, mut receiver) = (cluster.greet("a"), cluster.greet("b"));
        sender.login(&alice, false);
        receiver.login(&bob, true);
        let before = NAMES.iter().map(|name| counted(&cluster, name)).collect();
        let resident = NAMES.iter().map(|name| cluster.usage(name).resident).collect();
        let mut chat = Chat { cluster, alice, bob, sender, receiver, sent: 0, before, resident };
        chat.exchange(3);
        chat
    }

    /// Alice sends bob messages, each of which has to be answered and to arrive. Returns how long each took, sorted.
    fn exchange(&mut self, messages: usize) -> Vec<Duration> {
        let exchange_one = |_| {
            self.sent += 1;
            let (text, began) = (format!("message {}", self.sent), Instant::now());
            assert_eq!(self.sender.call(send("bob", text.clone())), Answer::Done);
            assert_eq!(self.receiver.delivery().text.as_str(), text);
            let took = began.elapsed();
            self.receiver.ping();
            took
        };
        let mut took: Vec<Duration> = (0..messages).map(exchange_one).collect();
        took.sort_unstable();
        took
    }

    /// Checks that no replica has rejoined or repaired its log, and that none has used too much memory.
    fn assert_unharmed(&mut self) {
        self.exchange(3);
        for (place, name) in NAMES.iter().enumerate() {
            assert_eq!(counted(&self.cluster, name), self.before[place], "rejoins and repairs of replica {name}");
            let used = self.cluster.usage(name).resident_peak.saturating_sub(self.resident[place]);
            println!("replica {name}: {} MiB at most beyond {} MiB", used / MEBIBYTE, self.resident[place] / MEBIBYTE);
            assert!(used < MEMORY_MAX, "replica {name} used {} MiB", used / MEBIBYTE);
        }
    }

    fn addresses(&self) -> [SocketAddr; 3] {
        NAMES.map(|name| self.cluster.address(name))
    }

    /// Connections to each replica that have been greeted.
    fn crowd(&mut self, each: usize) -> Vec<RawClient> {
        let mut crowd = Vec::new();
        for number in 0..each {
            crowd.extend(NAMES.iter().map(|name| self.cluster.greet(name)));
            if number % 20 == 0 {
                self.keep_alive();
            }
        }
        crowd
    }

    /// Keeps the connections of the two from being ended as silent while a test does other things.
    fn keep_alive(&mut self) {
        self.sender.ping();
        self.receiver.ping();
    }
}

/// Rejoins and repairs of a replica.
fn counted(cluster: &Cluster, name: &str) -> (f64, f64) {
    let metrics = Metrics::of(cluster, name);
    (metrics.get("stablechat_rejoins_total"), metrics.get("stablechat_repairs_total"))
}

/// Lets this process have as many files as a replica's connections need.
fn allow_many_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the maximum is allowed");
}

/// A query for the largest page of names.
fn largest_list(id: u64, timestamp: Timestamp) -> ToReplica {
    let query = Query::List { pattern: Pattern::parse("*").expect("a pattern"), after: None, limit: PAGE_MAX };
    ToReplica::Query { id, timestamp, query }
}

/// Runs an attack while two people exchange messages. Prints how long they took before and meanwhile.
fn chat_during(chat: &mut Chat, messages: usize, attack: impl FnOnce(&AtomicBool) + Send) {
    let show = |what: &str, took: &[Duration]| {
        let at = |share: usize| took[(took.len() - 1) * share / 100].as_secs_f64() * 1e3;
        println!("{what}: p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms", at(50), at(99), at(100));
    };
    show("quiet", &chat.exchange(messages));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let attack = scope.spawn(|| attack(&is_over));
        let end = End(&is_over);
        show("during the attack", &chat.exchange(messages));
        drop(end);
        attack.join().expect("the attack goes on to its end");
    });
}

/// Ends an attack when it is dropped, so that a failed test does not wait for it.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes what a socket takes without waiting. Returns how many bytes, or none when the connection is gone.
fn write_some(stream: &mut TlsStream, bytes: &[u8]) -> Option<usize> {
    match stream.write(bytes) {
        Ok(length) => Some(length),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Some(0),
        Err(_) => None,
    }
}

/// Reads and drops what a socket has.
fn read_all(stream: &mut TlsStream, scratch: &mut [u8]) {
    while matches!(stream.read(scratch), Ok(1..)) {}
}

/// Sends the same bytes on all of these connections, over and over, as fast as they are taken, and reads the answers, until it is over.
/// With `is_deaf` it reads nothing.
fn flood(clients: Vec<RawClient>, bytes: impl Fn(u64) -> Vec<u8>, is_deaf: bool, is_over: &AtomicBool) -> usize {
    let mut scratch = vec![0; 64 * 1024];
    let mut streams: Vec<(TlsStream, Vec<u8>)> =
        clients.into_iter().map(|client| (client.into_stream().expect("a socket"), Vec::new())).collect();
    let (mut total, mut number) = (0, 0);
    while !is_over.load(Ordering::Relaxed) && !streams.is_empty() {
        let mut moved = 0;
        streams.retain_mut(|(stream, rest)| {
            if !is_deaf {
                read_all(stream, &mut scratch);
            }
            if rest.is_empty() {
                number += 1;
                *rest = bytes(number);
            }
            let written = write_some(stream, rest);
            if let Some(written) = written {
                moved += written;
                rest.drain(..written);
            }
            written.is_some()
        });
        total += moved;
        // All sockets are full, so the replicas are behind: they get the processor until there is room again.
        if moved == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    total
}

/// A login that anybody can send: its signature is not good.
fn bad_login(person: &Person) -> ToReplica {
    let proof = LoginProof::Signature { signature: Signature([7; 64]) };
    ToReplica::Login { account: person.account.clone(), key: person.secret.public(), receive: false, proof }
}

#[test]
fn sixty_thousand_queries_in_one_write_hold_nobody_up() {
    let mut chat = Chat::begin();
    let cluster = (chat.addresses(), chat.cluster.tls());
    // To make so many takes longer than they may be under way, so they get their timestamp at the last moment.
    let unset = Timestamp(0x0102_0304_0506_0708);
    let mut queries: Vec<u8> = (0..60_000).flat_map(|id| frame(&largest_list(id, unset))).collect();
    let is_unset = |bytes: &[u8]| bytes == unset.0.to_be_bytes();
    let places: Vec<usize> =
        queries.windows(8).enumerate().filter(|(_, bytes)| is_unset(bytes)).map(|(at, _)| at).collect();
    assert_eq!(places.len(), 60_000);

    chat_during(&mut chat, 50, |_| {
        let (addresses, tls) = cluster;
        for (address, name) in addresses.into_iter().zip(NAMES) {
            let mut client = RawClient::connect(address, name, &tls).expect("it listens");
            client.greet(CLUSTER).expect("there is room");
            let now = stamp_ahead().0.to_be_bytes();
            places.iter().for_each(|at| queries[*at..at + 8].copy_from_slice(&now));
            // The replica may end the connection of a client that does not read.
            drop(client.send_bytes(&queries));
        }
    });
    chat.assert_unharmed();
}

#[test]
fn a_thousand_connections_that_ask_for_the_largest_pages_hold_nobody_up() {
    let mut chat = Chat::begin();
    let texts = (0..140).map(|_| send("alice", "x".repeat(4096)));
    let mut bob = chat.cluster.greet("a");
    bob.login(&chat.bob, false);
    bob.call_all(texts);

    let mut crowd = chat.crowd(333);
    for (number, client) in crowd.iter_mut().step_by(2).enumerate() {
        client.login(&chat.alice, false);
        if number % 20 == 0 {
            chat.keep_alive();
        }
    }
    let queries = |number: u64| -> Vec<u8> {
        let unread = |id| ToReplica::Query {
            id,
            timestamp: stamp_ahead(),
            query: Query::Inbox { all: true, after: None, limit: PAGE_MAX },
        };
        (0..20)
            .flat_map(|id| {
                [frame(&unread(number * 100 + id)), frame(&largest_list(number * 100 + 50 + id, stamp_ahead()))]
                    .concat()
            })
            .collect()
    };
    chat_during(&mut chat, 100, |is_over| {
        let bytes = flood(crowd, queries, false, is_over);
        println!("{bytes} bytes of queries");
    });
    chat.assert_unharmed();

    // A query of somebody who asks little is answered, if not always at once.
    let mut bob = chat.cluster.greet("a");
    bob.login(&chat.bob, false);
    let from_alice = bob.unread().into_iter().filter(|message| message.from == chat.alice.account);
    assert_eq!(from_alice.count(), chat.sent);
}

#[test]
fn floods_of_logins_hold_nobody_up() {
    let mut chat = Chat::begin();
    let crowd = chat.crowd(20);
    let login = frame(&bad_login(&chat.alice));
    chat_during(&mut chat, 100, |is_over| {
        let bytes = flood(crowd, |_| login.repeat(1000), false, is_over);
        println!("{} logins", bytes / login.len());
    });
    // Others can still log in.
    chat.cluster.greet("b").login(&chat.alice, false);
    chat.assert_unharmed();
}

#[test]
fn a_thousand_clients_that_come_back_at_once_hold_nobody_up() {
    let mut chat = Chat::begin();
    let (addresses, tls) = (chat.addresses(), chat.cluster.tls());
    // All at the same time, and again as soon as all are there: a handshake is what costs a replica most.
    let come = &|worker: usize, is_over: &AtomicBool| {
        let mut handshakes = 0;
        while !is_over.load(Ordering::Relaxed) {
            let place = worker % addresses.len();
            let connect = |_| RawClient::connect(addresses[place], NAMES[place], &tls).ok();
            handshakes += (0..64).filter_map(connect).collect::<Vec<_>>().len();
        }
        handshakes
    };
    chat_during(&mut chat, 100, |is_over| {
        let handshakes: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..48).map(|worker| scope.spawn(move || come(worker, is_over))).collect();
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
        });
        println!("{handshakes} handshakes");
    });
    chat.assert_unharmed();
}

#[test]
fn sockets_that_say_nothing_lock_no_peer_out() {
    allow_many_files();
    let mut cluster = Cluster::prepare(&["a", "b"], DELIVERY_BOUND).with_metrics();
    cluster.start_replica("b");
    let (address, is_over, connected) = (cluster.address("b"), AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // More than a replica has room for, made anew as often as it drops them.
            let mut silent: Vec<TcpStream> = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                silent.retain_mut(|stream| !matches!(stream.read(&mut [0]), Ok(0) | Err(_)) || is_waiting(stream));
                while silent.len() < 1300 {
                    let stream = TcpStream::connect(address).expect("the replica listens");
                    stream.set_nonblocking(true).expect("a socket");
                    silent.push(stream);
                    connected.fetch_add(1, Ordering::Relaxed);
                }
                // Dropped connections are replaced a thousand times a second at most, so that the replicas have some of the processor.
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let end = End(&is_over);
        wait_until("more connect than there is room for", SOON, || connected.load(Ordering::Relaxed) >= 1300);
        cluster.start_replica("a");
        wait_until("the peers are connected", SOON, || {
            Metrics::of(&cluster, "a").sum("stablechat_peer_linked") == 1.0
                && Metrics::of(&cluster, "b").sum("stablechat_peer_linked") == 1.0
        });
        // And a client can connect.
        cluster.greet("b").ping();
        drop(end);
    });
    let dropped = Metrics::of(&cluster, "b").get("stablechat_dropped_connections_total{reason=\"no_hello\"}");
    assert!(dropped > 0.0, "connections had to give way");
}

/// Whether a connection is open, and nothing has come.
fn is_waiting(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn half_frames_take_little_memory() {
    let mut chat = Chat::begin();
    // Frames of the greatest length that a client may send, and of that which only a peer may send: the replica ends these.
    let mut crowd = chat.crowd(400);
    for (number, client) in crowd.iter_mut().enumerate() {
        let length = if (number / NAMES.len()).is_multiple_of(8) { CLIENT_FRAME_MAX } else { FRAME_MAX };
        let header = u32::try_from(length).expect("it fits").to_be_bytes();
        drop(client.send_bytes(&[&header[..], &vec![0x81; length - 1]].concat()));
        if number % 50 == 0 {
            chat.keep_alive();
        }
    }
    chat.exchange(20);
    chat.assert_unharmed();
}

#[test]
fn the_shortest_frames_take_little_memory() {
    let mut chat = Chat::begin();
    let status = frame(&ToReplica::Status);
    assert_eq!(status.len(), 6);
    let crowd = chat.crowd(8);
    chat_during(&mut chat, 100, |is_over| {
        let bytes = flood(crowd, |_| status.repeat(10_000), true, is_over);
        println!("{bytes} bytes of frames of 6 bytes");
    });
    chat.assert_unharmed();
}

#[test]
fn connections_that_ping_and_do_not_read_take_little_memory() {
    let mut chat = Chat::begin();
    let ping = frame(&ToReplica::Ping { sent: Timestamp::MAX });
    let crowd = chat.crowd(100);
    chat_during(&mut chat, 100, |is_over| {
        let bytes = flood(crowd, |_| ping.repeat(10_000), true, is_over);
        println!("{bytes} bytes of pings");
    });
    chat.assert_unharmed();
}

#[test]
fn a_client_that_asks_for_too_much_is_told_so_and_later_answered() {
    allow_many_files();
    let cluster = Cluster::start(&["a"], DELIVERY_BOUND);
    let mut client = cluster.greet("a");
    client.login(&Person::operator(), false);
    let queries: Vec<ToReplica> = (0..2000).map(|id| largest_list(id, stamp_ahead())).collect();
    client.send_all(&queries).expect("the connection stands");
    let (mut answered, mut refused) = (0, 0);
    while answered + refused < queries.len() {
        match client.receive() {
            ToClient::QueryAnswer { .. } => answered += 1,
            ToClient::Refused { reason: Refusal::Overloaded | Refusal::Late, .. } => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    println!("{answered} answered, {refused} refused");
    assert!(answered > 0, "a part is answered");
    let page = client.ask(Query::List { pattern: Pattern::parse("*").expect("a pattern"), after: None, limit: 10 });
    assert!(matches!(page, QueryAnswer::Accounts { .. }), "{page:?}");
}
