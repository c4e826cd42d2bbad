//! Which connection gives way when a kind has no room, and which when all clients together take too much memory.

use super::*;
use crate::net::logins::LoginAttempt;
use crate::net::testing::{self, FakeChannel, FarEnd};
use crate::net::{ReplicaIdentity, ReplicaTls};
use mio::net::TcpStream;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::login::{Challenge, LoginStatement, PublicKey, Signature};
use stablechat_protocol::message::{MAGIC, Role, ToReplica};
use stablechat_protocol::name::{AccountName, ClusterId, ClusterName, ReplicaName};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::version::{VERSION_MAX, VERSION_MIN};
use std::net::TcpListener;
use std::sync::LazyLock;

/// How long anything may take before a test fails.
const LIMIT: Duration = Duration::from_secs(60);

/// A table of connections. Those of [`Table::add`] share one socket: nothing is sent or read on them.
struct Table {
    connections: Connections,
    socket: std::net::TcpStream,
    /// Keeps the socket connected.
    _other: std::net::TcpStream,
    now: Instant,
    next: u64,
}

impl Table {
    fn new() -> Table {
        // A socket for each client that there is room for is more than the usual limit of open files.
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the maximum is allowed");
        let (socket, other) = pair();
        let now = Instant::now();
        Table { connections: Connections::new(now), socket, _other: other, now, next: 0 }
    }

    /// Adds a connection, later than all before it.
    fn add(&mut self, last: u8, remote: Remote) -> ConnectionId {
        let socket = self.socket.try_clone().expect("a descriptor is left");
        self.add_with(socket, last, remote)
    }

    /// The same with a socket of its own.
    fn add_with(&mut self, socket: std::net::TcpStream, last: u8, remote: Remote) -> ConnectionId {
        self.now += Duration::from_millis(1);
        let id = ConnectionId(self.next);
        self.next += 1;
        let source = Source::of([192, 0, 2, last].into());
        let tls = replica_tls().accept().expect("random numbers");
        let connection = Connection::new(TcpStream::from_std(socket), tls, source, self.now);
        self.connections.insert(id, connection, remote);
        id
    }

    /// Adds so many connections, and returns the first.
    fn add_all(&mut self, count: usize, last: u8, remote: impl Fn() -> Remote) -> ConnectionId {
        let ids: Vec<ConnectionId> = (0..count).map(|_| self.add(last, remote())).collect();
        ids[0]
    }

    /// Whether a new client of this source finds room.
    fn room_for_one_from(&mut self, last: u8) -> ClientRoom {
        let newcomer = self.add(last, greeted());
        let room = self.connections.room_for_client(newcomer);
        self.connections.remove(newcomer);
        room
    }
}

/// Two ends of a connection, the first of which does not block.
fn pair() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let near = std::net::TcpStream::connect(listener.local_addr().expect("it listens")).expect("it listens");
    near.set_nonblocking(true).expect("a socket");
    (near, listener.accept().expect("it has connected").0)
}

/// What the replica of these tests makes the near ends of connections with.
fn replica_tls() -> ReplicaTls {
    static TLS: LazyLock<ReplicaTls> = LazyLock::new(|| testing::replica_tls("a"));
    TLS.clone()
}

/// Completes the handshake of a connection. Returns its far end.
fn shake_hands(connection: &mut Connection, far: std::net::TcpStream) -> FarEnd {
    let mut far = FarEnd::dial(far, "a", "b");
    let far = std::thread::spawn(move || far.shake_hands().map(|()| far));
    let began = Instant::now();
    while connection.is_handshaking() || !far.is_finished() {
        connection.read(&mut [0; 4096], began);
        connection.flush(began);
        assert!(began.elapsed() < LIMIT, "the handshake is not done within {LIMIT:?}");
    }
    far.join().expect("no panic").expect("a good handshake")
}

/// A process that has said nothing.
fn stranger() -> Remote {
    Remote::Client(Greeting::new(Challenge([0; 32])))
}

/// A client that has not logged in.
fn greeted() -> Remote {
    Remote::Client(greeting())
}

fn greeting() -> Greeting {
    let cluster =
        Cluster::parse("name = 'demo'\nid = '1'\n[[replica]]\nname = 'a'\naddress = 'x:1'\n").expect("a good file");
    let us = ReplicaIdentity::of(&cluster, &ReplicaName::parse("a").expect("a name")).expect("it is in the file");
    let hello = ToReplica::Hello {
        magic: MAGIC.into(),
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        role: Role::Client,
        cluster: cluster.name,
    };
    let mut greeting = Greeting::new(Challenge([0; 32]));
    greeting.on_message(hello, &FakeChannel { is_certified: false }, &us, Timestamp::ZERO);
    assert!(greeting.is_done());
    greeting
}

/// A client that has logged in.
fn logged_in() -> Remote {
    let statement = LoginStatement {
        cluster: ClusterName::parse("demo").expect("a name"),
        cluster_id: ClusterId::parse("1").expect("an id"),
        replica: ReplicaName::parse("a").expect("a name"),
        challenge: Challenge([0; 32]),
        account: AccountName::parse("alice").expect("a name"),
        key: PublicKey([0; 32]),
        channel: FakeChannel::BINDING,
    };
    let mut greeting = greeting();
    greeting.on_checked(LoginAttempt { statement, signature: Signature([0; 64]), receive: false }, true);
    assert!(greeting.is_logged_in());
    Remote::Client(greeting)
}

#[test]
fn peers_and_strangers_take_no_room_of_clients() {
    let mut table = Table::new();
    table.add_all(CLIENTS_MAX - 1, 1, logged_in);
    for peer in 0..8 {
        table.add(2, Remote::Peer(PeerId(peer)));
    }
    table.add_all(10, 3, stranger);
    assert_eq!(table.room_for_one_from(1), ClientRoom::Free);
    table.add(1, logged_in());
    assert_eq!(table.room_for_one_from(1), ClientRoom::None);
}

#[test]
fn clients_that_are_not_logged_in_give_way_first() {
    let mut table = Table::new();
    table.add_all(CLIENTS_MAX - 5, 1, logged_in);
    table.add_all(2, 2, greeted);
    let first = table.add_all(3, 3, greeted);
    let oldest_of_most = ClientRoom::InPlaceOf(first);
    assert_eq!(table.room_for_one_from(4), oldest_of_most, "the source with most of those that are not logged in");
    assert_eq!(table.room_for_one_from(1), oldest_of_most, "even for the source with most of all");
}

#[test]
fn of_clients_that_are_logged_in_those_of_the_source_with_most_give_way() {
    let mut table = Table::new();
    let of_few = 20;
    table.add_all(of_few, 2, logged_in);
    let first = table.add_all(CLIENTS_MAX - of_few, 1, logged_in);
    assert_eq!(table.room_for_one_from(3), ClientRoom::InPlaceOf(first));
    assert_eq!(table.room_for_one_from(2), ClientRoom::InPlaceOf(first));
    assert_eq!(table.room_for_one_from(1), ClientRoom::None, "it would take places from nobody but itself");
}

#[test]
fn the_oldest_stranger_of_the_source_with_most_is_dropped() {
    let mut table = Table::new();
    let of_few = 10;
    table.add_all(of_few, 1, stranger);
    let first = table.add_all(STRANGERS_MAX - of_few - 1, 2, stranger);
    table.add_all(300, 1, greeted);
    assert_eq!(table.connections.make_room_for_stranger(), [], "there is room for one more");
    table.add(2, stranger());
    assert_eq!(table.connections.make_room_for_stranger(), [first]);
}

#[test]
fn the_oldest_of_too_many_ended_connections_is_dropped() {
    let mut table = Table::new();
    let first = table.add_all(ENDED_MAX, 1, greeted);
    let end = |table: &mut Table, id| {
        let now = table.now;
        table.connections.client_mut(id).expect("it is a client").give_up(CloseReason::Full, now);
    };
    (first.0..table.next - 1).for_each(|id| end(&mut table, ConnectionId(id)));
    assert_eq!(table.connections.make_room_for_stranger(), []);
    let last = ConnectionId(table.next - 1);
    end(&mut table, last);
    assert_eq!(table.connections.make_room_for_stranger(), [first]);
}

/// Adds clients until all together take more than `limit` by this measure, and a bit more: `fill` makes a connection take about
/// `each`, and twice as much of a peer and of the first client. Checks that none is ended before, and then that client and few
/// others, and not the peer.
fn assert_largest_are_ended(
    limit: usize,
    each: usize,
    size: fn(&Connection) -> usize,
    fill: impl Fn(&mut Connection, &mut FarEnd, usize),
) {
    let mut table = Table::new();
    let mut others = Vec::new();
    let mut add = |table: &mut Table, remote, wanted| {
        let (near, far) = pair();
        let id = table.add_with(near, 1, remote);
        let (connection, _) = table.connections.get_mut(id).expect("it was added");
        let mut far = shake_hands(connection, far);
        fill(connection, &mut far, wanted);
        others.push(far);
        id
    };
    let size_of = |table: &Table, id: &ConnectionId| size(&table.connections.get(*id).expect("it is there").0);
    let sum = |table: &Table, ids: &[ConnectionId]| ids.iter().map(|id| size_of(table, id)).sum::<usize>();

    let peer = add(&mut table, Remote::Peer(PeerId(1)), 2 * each);
    let largest = add(&mut table, greeted(), 2 * each);
    let mut clients = vec![largest];
    while sum(&table, &clients) <= limit + limit / 64 {
        let now = table.now;
        if sum(&table, &clients) <= limit {
            assert_eq!(table.connections.flush(now).gone, [], "all together are within the limit");
        }
        clients.push(add(&mut table, greeted(), each));
    }

    let now = table.now;
    let gone = table.connections.flush(now).gone;
    assert!(gone.contains(&largest) && !gone.contains(&peer), "{gone:?} were ended, and the largest is {largest:?}");
    assert!(gone.len() < clients.len() / 2, "{} of {} clients were ended", gone.len(), clients.len());
    clients.retain(|id| !gone.contains(id));
    assert!(sum(&table, &clients) <= limit, "{} bytes are left", sum(&table, &clients));
}

#[test]
fn clients_that_let_most_wait_are_ended_when_it_is_too_much_together() {
    let piece = "x".repeat(64 * 1024);
    assert_largest_are_ended(UNWRITTEN_MAX, 3 * 1024 * 1024, Connection::unwritten, |connection, _, wanted| {
        let now = Instant::now();
        // The socket takes some of it, until it is full.
        while connection.unwritten() < wanted {
            connection.send(&piece, now);
            connection.flush(now);
        }
    });
}

#[test]
fn clients_that_hold_most_in_half_sent_frames_are_ended_when_it_is_too_much_together() {
    const PIECE: usize = 8 * 1024;
    assert_largest_are_ended(INCOMING_MAX, 5 * PIECE, Connection::incoming, |connection, far, wanted| {
        let began = Instant::now();
        for _ in 0..wanted / PIECE {
            far.write(&[0; PIECE]).expect("the socket takes it");
            let mut come = 0;
            while come < PIECE {
                come += connection.read(&mut [0; PIECE], began).bytes;
                assert!(began.elapsed() < LIMIT, "{come} bytes have come within {LIMIT:?}");
            }
        }
    });
}

#[test]
fn strangers_are_served_first_and_then_clients_by_how_often_it_was_their_turn() {
    let mut table = Table::new();
    let [often, once, stranger, never] =
        [logged_in(), greeted(), stranger(), greeted()].map(|remote| table.add(1, remote));
    let mut have_turn = |id, times: u32| {
        let (connection, _) = table.connections.get_mut(id).expect("it is there");
        (0..times).for_each(|_| connection.on_turn(7));
    };
    have_turn(often, 3);
    have_turn(once, 1);
    have_turn(stranger, 9);

    let mut clients = [often, once, stranger, never];
    table.connections.sort_by_turn(&mut clients, 7);
    assert_eq!(clients, [stranger, never, once, often]);
    // In the next stretch nobody has had a turn.
    let mut clients = [often, once, stranger, never];
    table.connections.sort_by_turn(&mut clients, 8);
    assert_eq!(clients, [stranger, often, once, never]);
}

#[test]
fn messages_that_are_no_requests_have_a_rate() {
    let mut table = Table::new();
    let id = table.add(1, greeted());
    let now = table.now;
    let (connection, _) = table.connections.get_mut(id).expect("it is there");
    // All at once.
    let passed = (0..10_000).take_while(|_| {
        let passes = !connection.is_held_up(now);
        connection.on_control_message(now);
        passes
    });
    assert_eq!(passed.count(), 500);

    let until = connection.paused_until(now).expect("it is held up");
    assert!(connection.is_held_up(until - Duration::from_nanos(1)));
    // Another is allowed then, and after a second 250 more.
    assert!(!connection.is_held_up(until));
    let mut now = until;
    let mut passed = 0;
    while now < until + Duration::from_secs(1) {
        if !connection.is_held_up(now) {
            connection.on_control_message(now);
            passed += 1;
        }
        now += Duration::from_millis(1);
    }
    assert_eq!(passed, 250);
}
