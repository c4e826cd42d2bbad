//! Real poll loops connected over loopback, with the tests acting as their appliers. Some tests also act as a peer, with a bare
//! socket.

use super::testing::{FarEnd, replica_tls};
use super::*;
use crate::clock::Clock;
use crossbeam_channel::Receiver;
use mio::net::UnixStream;
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::frame::{Decoded, FrameBuffer, encode};
use stablechat_protocol::message::{MAGIC, Role, ToReplica};
use stablechat_protocol::uid::Uid;
use stablechat_protocol::version::{VERSION_MAX, VERSION_MIN};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

mod watching;

const A: PeerId = PeerId(0);
const B: PeerId = PeerId(1);
const C: PeerId = PeerId(2);
/// How long anything may take before a test fails. On a machine of its own nothing takes longer than the limits that are
/// tested, 5 s at most.
const LIMIT: Duration = Duration::from_secs(120);

/// A cluster of the replicas a, b, … at these addresses.
fn cluster(addresses: &[String]) -> Cluster {
    let entry = |(name, address): (char, &String)| format!("[[replica]]\nname = '{name}'\naddress = '{address}'\n");
    let entries: String = ('a'..).zip(addresses).map(entry).collect();
    Cluster::parse(&format!("name = 'demo'\nid = '1'\n{entries}")).expect("a good file")
}

fn name(name: &str) -> ReplicaName {
    ReplicaName::parse(name).expect("a name")
}

/// A listening socket, and its address.
fn listen(ip: Ipv4Addr) -> (TcpListener, String) {
    let listener = TcpListener::bind((ip, 0)).expect("a free port");
    let address = listener.local_addr().expect("a listener has an address").to_string();
    (listener, address)
}

/// Addresses at which nobody listens, for replicas that are started later.
///
/// Each has a loopback IP of its own, made from the number of this process and a counter. A port of 127.0.0.1 could be taken
/// meanwhile, by the listener of another test or by an outgoing connection, all of which come from 127.0.0.1.
fn unused_addresses(count: usize) -> Vec<String> {
    static COUNTER: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let unused = || {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let (_, address) = listen(Ipv4Addr::new(127, 64 | high & 63, low, number));
        address
    };
    std::iter::repeat_with(unused).take(count).collect()
}

/// Messages that are told apart by their number.
fn listed(number: u64) -> PeerMessage {
    PeerMessage::Listed { uids: vec![Uid { timestamp: Timestamp(number), digest: [0; 16] }] }
}

/// A replica whose poll loop is real, and whose applier is the test.
struct Node {
    batches: Receiver<EventBatch>,
    handle: NetHandle,
    thread: JoinHandle<io::Result<()>>,
    events: VecDeque<NetEvent>,
    /// The loop watches the other end.
    _stop: std::os::unix::net::UnixStream,
}

impl Node {
    /// Starts the replica of this name at its address.
    fn start(cluster: &Cluster, replica: &str) -> Node {
        Node::start_watched(cluster, replica, None)
    }

    /// The same with a listener for monitoring systems.
    fn start_watched(cluster: &Cluster, replica: &str, monitor: Option<Monitor>) -> Node {
        let identity = ReplicaIdentity::of(cluster, &name(replica)).expect("the cluster has it");
        let limit = Instant::now() + LIMIT;
        let listener = loop {
            // The connection of a peer that dials a port of 127.0.0.1 may have been given that very port for a moment.
            match Listener::bind(identity.address()) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < limit, "cannot listen: {error}"),
            }
        };
        let (watched, stop) = UnixStream::pair().expect("two sockets");
        let (poll_loop, batches, handle) = PollLoop::new(
            listener,
            monitor,
            watched,
            identity,
            replica_tls(replica),
            Clock::start(Duration::from_secs(1)),
        )
        .expect("room for a poll");
        let thread = std::thread::spawn(move || poll_loop.run());
        Node { batches, handle, thread, events: VecDeque::new(), _stop: stop.into() }
    }

    /// Takes the next event.
    fn next(&mut self) -> NetEvent {
        loop {
            match self.events.pop_front() {
                Some(event) => return event,
                None => {
                    self.events.extend(self.batches.recv_timeout(LIMIT).expect("an event in time").events);
                    self.handle.resume();
                }
            }
        }
    }

    /// Expects the next event to be a connection, and tells the loop that it has seen it.
    fn see_connected(&mut self, expected: PeerId) {
        assert_eq!(self.next(), NetEvent::PeerConnected { peer: expected });
        self.handle.post(vec![NetCommand::ConnectionSeen { peer: expected }]);
    }

    /// Expects the next event to be the loss of a connection.
    fn see_disconnected(&mut self, expected: PeerId) {
        assert_eq!(self.next(), NetEvent::PeerDisconnected { peer: expected });
    }

    /// Expects the next event to be this message.
    fn see_message(&mut self, from: PeerId, expected: &PeerMessage) {
        match self.next() {
            NetEvent::Peer { peer, message, .. } => assert_eq!((peer, &message), (from, expected)),
            event => panic!("{event:?} instead of a message"),
        }
    }

    fn send(&self, to: PeerId, message: PeerMessage) {
        self.handle.post(vec![NetCommand::ToPeer { to, message }]);
    }

    /// Stops the loop and waits until it has said goodbye.
    fn stop(self) {
        drop(self.handle);
        drop(self.batches);
        self.thread.join().expect("the loop does not panic").expect("the loop does not fail");
    }
}

/// The test's end of a connection with a poll loop.
struct Wire {
    end: FarEnd,
    inbox: FrameBuffer,
}

impl Wire {
    fn new(end: FarEnd) -> Wire {
        end.socket.set_read_timeout(Some(LIMIT)).expect("a limit that is not zero");
        end.socket.set_nodelay(true).expect("a socket can be made so");
        Wire { end, inbox: FrameBuffer::default() }
    }

    /// Dials a replica as another, and sends a hello with the digest of this cluster file.
    fn dial(cluster: &Cluster, to: usize, replica: &str, file: &Cluster) -> Wire {
        let cluster_file = file.digest_between(&name(replica), &cluster.replicas[to].name);
        let ReplicaEntry { name: dialed, address } = &cluster.replicas[to];
        let socket = TcpStream::connect(address).expect("it listens");
        let mut wire = Wire::new(FarEnd::dial(socket, dialed.as_str(), replica));
        wire.send(&ToReplica::Hello {
            magic: MAGIC.into(),
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            role: Role::Replica { name: name(replica), cluster_file },
            cluster: cluster.name.clone(),
        });
        wire
    }

    /// Accepts a connection of a replica that dials b, and reads its hello.
    fn accept(listener: &TcpListener) -> (Wire, ToReplica) {
        let mut wire = Wire::new(FarEnd::accept(listener.accept().expect("it dials").0, "b"));
        let hello = wire.receive().expect("it says hello");
        (wire, hello)
    }

    fn send(&mut self, message: &impl serde::Serialize) {
        let mut bytes = Vec::new();
        encode(message, &mut bytes).expect("short");
        self.end.write(&bytes).expect("the connection stands");
    }

    fn greet(&mut self, replica: &str) {
        self.send(&PeerMessage::Greeting { version: VERSION_MAX, replica: name(replica) });
    }

    /// The next message; none when the connection has ended.
    fn receive<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            if let Decoded::Frame(message) = self.inbox.decode().expect("well-formed") {
                return Some(message);
            }
            match self.end.read() {
                Ok(bytes) if bytes.is_empty() => return None,
                Ok(bytes) => self.inbox.push(&bytes),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }
}

#[test]
fn three_replicas_connect_and_their_messages_arrive_in_order() {
    let mut addresses = unused_addresses(2);
    // This one has to be resolved first, perhaps to an address at which nobody listens before one at which somebody does.
    let (_, by_number) = listen(Ipv4Addr::LOCALHOST);
    addresses.push(by_number.replace("127.0.0.1", "localhost"));
    let cluster = cluster(&addresses);
    let mut nodes = ["a", "b", "c"].map(|name| Node::start(&cluster, name));
    let everyone = [A, B, C];
    let others = |us: PeerId| everyone.into_iter().filter(move |peer| *peer != us);
    for (us, node) in everyone.into_iter().zip(&mut nodes) {
        let mut events = [node.next(), node.next()];
        events.sort_by_key(|event| *event != NetEvent::PeerConnected { peer: others(us).next().expect("two others") });
        assert!(others(us).map(|peer| NetEvent::PeerConnected { peer }).eq(events));
    }
    // Only now: a loop reads nothing more, not even a hello, while nobody takes the events that it has.
    for (us, node) in everyone.into_iter().zip(&nodes) {
        for peer in others(us) {
            node.handle.post(vec![NetCommand::ConnectionSeen { peer }]);
            (0..5000).for_each(|number| node.send(peer, listed(number)));
        }
    }
    for (us, node) in everyone.into_iter().zip(&mut nodes) {
        let mut expected = [0; 3];
        let mut last = Timestamp::ZERO;
        while others(us).any(|peer| expected[usize::from(peer.0)] < 5000) {
            let NetEvent::Peer { time, peer, message } = node.next() else { panic!("no connection is lost") };
            let number = &mut expected[usize::from(peer.0)];
            assert_eq!(message, listed(*number));
            assert!(time >= last, "the clock goes forward");
            (last, *number) = (time, *number + 1);
        }
    }
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn all_messages_of_a_stopped_replica_arrive_and_it_connects_again() {
    let cluster = cluster(&unused_addresses(2));
    let (mut a, mut b) = (Node::start(&cluster, "a"), Node::start(&cluster, "b"));
    a.see_connected(B);
    b.see_connected(A);
    // Both directions: first the replica that is dialed stops, then the replica that dials.
    (0..1000).for_each(|number| b.send(A, listed(number)));
    b.send(A, PeerMessage::Leave);
    b.stop();
    (0..1000).for_each(|number| a.see_message(B, &listed(number)));
    a.see_message(B, &PeerMessage::Leave);
    a.see_disconnected(B);
    a.send(B, listed(7));
    b = Node::start(&cluster, "b");
    a.see_connected(B);
    b.see_connected(A);
    a.send(B, PeerMessage::Leave);
    a.stop();
    b.see_message(A, &PeerMessage::Leave);
    b.see_disconnected(A);
    a = Node::start(&cluster, "a");
    a.see_connected(B);
    b.see_connected(A);
    // The same when an applier resyncs.
    b.handle.post(vec![NetCommand::Disconnect { peer: A }, NetCommand::ToPeer { to: A, message: listed(8) }]);
    a.see_disconnected(B);
    b.see_disconnected(A);
    a.see_connected(B);
    b.see_connected(A);
    b.send(A, listed(9));
    a.see_message(B, &listed(9));
    a.stop();
    b.stop();
}

/// From either side: a dials b, and b does not dial a.
#[test]
fn an_address_where_nobody_listens_is_reported_when_it_is_asked() {
    let cluster = cluster(&unused_addresses(2));
    for (asked, asking, other) in [("a", "b", A), ("b", "a", B)] {
        let mut node = Node::start(&cluster, asking);
        let peer = Node::start(&cluster, asked);
        node.see_connected(other);
        peer.stop();
        node.see_disconnected(other);
        node.handle.post(vec![NetCommand::AskAddress { peer: other, number: 7 }]);
        assert_eq!(node.next(), NetEvent::AddressRefused { peer: other, number: 7 });
        node.stop();
    }
}

#[test]
fn a_peer_that_connects_again_replaces_its_earlier_connection() {
    let cluster = cluster(&unused_addresses(2));
    let mut b = Node::start(&cluster, "b");
    let greeting = PeerMessage::Greeting { version: VERSION_MAX, replica: name("b") };
    let mut first = Wire::dial(&cluster, 1, "a", &cluster);
    assert_eq!(first.receive(), Some(greeting.clone()));
    b.see_connected(A);
    b.send(A, listed(1));
    assert_eq!(first.receive(), Some(listed(1)));

    let mut second = Wire::dial(&cluster, 1, "a", &cluster);
    assert_eq!(second.receive(), Some(greeting));
    assert_eq!(first.receive::<PeerMessage>(), None);
    // The applier has not yet seen the second connection, so this message is meant for the first one.
    b.send(A, listed(2));
    b.handle.post(vec![NetCommand::Disconnect { peer: A }]);
    b.see_disconnected(A);
    b.see_connected(A);
    b.send(A, listed(3));
    assert_eq!(second.receive(), Some(listed(3)));
    second.send(&listed(4));
    b.see_message(A, &listed(4));
    drop(second);
    b.see_disconnected(A);
    b.stop();
}

#[test]
fn a_replica_that_is_no_peer_is_refused_with_the_reason() {
    let addresses = unused_addresses(3);
    let ours = cluster(&addresses);
    let theirs = cluster(&addresses[..2]);
    let b = Node::start(&ours, "b");
    let refusal = |replica, file| match Wire::dial(&ours, 1, replica, file).receive() {
        Some(PeerMessage::Closing { reason }) => reason,
        message => panic!("{message:?} instead of a refusal"),
    };
    assert_eq!(refusal("a", &theirs), CloseReason::OtherClusterFile);
    assert_eq!(refusal("d", &ours), CloseReason::OtherClusterFile);
    assert!(matches!(refusal("c", &ours), CloseReason::OutOfPlace { .. }));
    assert!(matches!(refusal("b", &ours), CloseReason::OutOfPlace { .. }));
    assert!(b.batches.is_empty());
    b.stop();
}

#[test]
fn dialing_is_retried_after_a_refusal_and_after_a_malformed_message() {
    let [own_address] = &unused_addresses(1)[..] else { panic!("one address") };
    let (listener, address) = listen(Ipv4Addr::LOCALHOST);
    let cluster = cluster(&[own_address.clone(), address]);
    let mut a = Node::start(&cluster, "a");
    let expected = ReplicaIdentity::of(&cluster, &name("a")).map(|a| peer_greeting::hello(&a, &name("b")));

    let (mut wire, hello) = Wire::accept(&listener);
    assert_eq!(Some(hello), expected);
    wire.send(&ToClient::Closing { reason: CloseReason::OtherClusterFile });
    assert_eq!(wire.receive::<PeerMessage>(), None);

    let (mut wire, _) = Wire::accept(&listener);
    wire.greet("c");
    assert!(matches!(wire.receive(), Some(PeerMessage::Closing { reason: CloseReason::OutOfPlace { .. } })));

    let (wire, _) = Wire::accept(&listener);
    drop(wire);

    let (mut wire, _) = Wire::accept(&listener);
    wire.greet("b");
    wire.send(&listed(1));
    a.see_connected(B);
    a.see_message(B, &listed(1));
    wire.send(&"no message");
    a.see_disconnected(B);
    assert!(matches!(wire.receive(), Some(PeerMessage::Closing { reason: CloseReason::Malformed { .. } })));

    let (mut wire, _) = Wire::accept(&listener);
    wire.greet("b");
    a.see_connected(B);
    a.stop();
    let stopping = PeerMessage::Closing { reason: CloseReason::Stopping };
    assert_eq!(wire.receive(), Some(stopping));
}

#[test]
fn a_peer_that_does_not_read_loses_its_connection_and_may_come_back() {
    let cluster = cluster(&unused_addresses(2));
    let mut b = Node::start(&cluster, "b");
    let idle = Wire::dial(&cluster, 1, "a", &cluster);
    b.see_connected(A);
    let uids = vec![Uid { timestamp: Timestamp::MAX, digest: [255; 16] }; stablechat_protocol::peer::UIDS_MAX];
    let large = PeerMessage::Listed { uids };
    // Half a megabyte each, until the write buffer of 64 MiB and the socket's buffers are full, however large those are.
    let limit = Instant::now() + LIMIT;
    while b.batches.is_empty() {
        assert!(Instant::now() < limit, "a peer that reads nothing keeps its connection");
        (0..10).for_each(|_| b.send(A, large.clone()));
        std::thread::sleep(Duration::from_millis(1));
    }
    b.see_disconnected(A);
    drop(idle);
    let mut back = Wire::dial(&cluster, 1, "a", &cluster);
    b.see_connected(A);
    b.send(A, listed(1));
    assert!(matches!(back.receive(), Some(PeerMessage::Greeting { .. })));
    assert_eq!(back.receive(), Some(listed(1)));
    drop(back);
    b.stop();
}
