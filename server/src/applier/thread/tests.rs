//! What happens to the events of a wake in which storage fails, and when the thread ends by itself.

use super::*;
use crate::applier::tests::settled_alone;
use crate::net::{Listener, PollLoop};
use crate::replica::{ConnectionId, PeerId};
use crate::store::DataDirectory;
use crate::store::schema::StoreIdentity;
use crate::store::testing::{actor, create, held};
use mio::net::UnixStream;
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::operator::InitialSettings;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::uid::Uid;

/// A wake that fails at the first of these events has not taken in the others: a login, the end of another connection, a question
/// for the status, and the signal to stop.
#[test]
fn events_of_a_wake_that_fails_are_not_lost() {
    let (mut applier, now) = settled_alone();
    let (ann, bob) = (actor("ann", 1), actor("bob", 2));
    let login = |connection, actor: &_| NetEvent::LoggedIn { connection, actor: Clone::clone(actor), receive: true };
    let first = EventBatch { events: vec![login(ConnectionId(1), &ann)], drained: None };
    applier.wake([first], || now, |_| {}).expect("memory does not fail");

    // A peer's entry is compared with ours, which cannot be read.
    let damaged = held(1, 9, 1, &bob, create(&bob));
    applier.executor.store.damage_log(damaged.uid);
    let entries = PeerMessage::LogEntries { after: Uid::MIN, requests: vec![damaged], is_end: true };
    let events = vec![
        NetEvent::PeerConnected { peer: PeerId(2) },
        NetEvent::Peer { time: now, peer: PeerId(1), message: entries },
        login(ConnectionId(2), &bob),
        NetEvent::Closed { connection: ConnectionId(1) },
        NetEvent::PeerConnected { peer: PeerId(2) },
        NetEvent::Status { from: ConnectionId(2) },
        NetEvent::Stop,
    ];
    let failing = EventBatch { events, drained: None };
    applier.wake([failing], || now, |_| {}).expect_err("the entry cannot be read");

    let mut outbox = Outbox::default();
    let halted = Halted::new(applier, now, &mut outbox);
    assert_eq!(halted.clients.subscribers_of(&bob), [ConnectionId(2)]);
    assert_eq!(halted.clients.subscribers_of(&ann), []);
    assert!(halted.is_stopping);
    let mut sent = Vec::new();
    outbox.release(&mut |messages| sent.extend(messages));
    let is_status = |sent: &NetCommand| matches!(sent, NetCommand::ToClients { to, message: ToClient::PublicStatus { .. } } if to[..] == [ConnectionId(2)]);
    assert_eq!(sent.iter().filter(|sent| is_status(sent)).count(), 1);
    let is_seen = |sent: &&NetCommand| matches!(sent, NetCommand::ConnectionSeen { peer: PeerId(2) });
    assert_eq!(sent.iter().filter(is_seen).count(), 2, "the poll loop waits for one for each connection");
}

const HOUR: Duration = Duration::from_secs(3600);

/// Runs replica a, of a cluster with so many peers, under this clock, with what `prepare` puts into its store. Nothing comes but
/// these events. Returns how it ends.
fn run_alone(peers: u8, clock: &Clock, prepare: impl FnOnce(&mut ChatStore), events: Vec<NetEvent>) -> Ended {
    let entry = |name| format!("[[replica]]\nname = '{name}'\naddress = 'host-{name}:1'\n");
    let entries: String = ('a'..='z').take(usize::from(peers) + 1).map(entry).collect();
    let cluster = Cluster::parse(&format!("name = 'test'\nid = '1'\n{entries}")).expect("a good file");
    let us = ReplicaIdentity::of(&cluster, &ReplicaName::parse("a").expect("a name")).expect("it is in the file");
    let settings = ProtocolSettings {
        delivery_bound: Duration::from_secs(1),
        ahead: Duration::from_millis(50),
        place: PeerId(0),
        peers: (1..=peers).map(PeerId).collect(),
        min_live: 1,
        refusal_is_proof: true,
        depth_max: 100,
        piece_bytes: 1000,
        restarts_free: 3,
    };

    let directory = tempfile::tempdir().expect("a directory");
    let owner = StoreIdentity { cluster: "test".into(), replica: "a".into() };
    let (disk, mut store) =
        Disk::open(DataDirectory(directory.path().into()), owner, InitialSettings::OPEN, 1 << 30).expect("it opens");
    prepare(&mut store);
    let listener = Listener::bind("127.0.0.1:0").expect("a free port");
    let tls = crate::net::replica_tls("a");
    let (stop, _asks) = UnixStream::pair().expect("two sockets");
    let (_poll_loop, _batches, net) =
        PollLoop::new(listener, None, stop, us.clone(), tls, clock.clone()).expect("room for a poll");
    let applier = Applier::start(us, settings, store, clock.now()).expect("it starts");

    let (sender, batches) = crossbeam_channel::unbounded();
    sender.send(EventBatch { events, drained: None }).expect("it will be read");
    drop(sender);
    run(applier, &batches, &net, clock.clone(), disk, &Heartbeat::default()).expect("the store does not fail")
}

#[test]
fn a_replica_whose_wall_clock_alone_is_right_ends_to_be_started_again() {
    for (peer_behind, expected) in [(HOUR, Ended::ClockSetBack), (Duration::ZERO, Ended::Stopped)] {
        // As if the wall clock had been set back by an hour.
        let clock = Clock::start(Duration::from_millis(500));
        clock.raise(clock.now().after(HOUR));
        let now = clock.now();
        let pong = PeerMessage::Pong { sent: now, clock: now.before(peer_behind), is_log_time: false };
        let said = |message| NetEvent::Peer { time: now, peer: PeerId(1), message };
        let incarnation = said(PeerMessage::Incarnation { epoch: 1, has_joined: false });
        let events = vec![NetEvent::PeerConnected { peer: PeerId(1) }, incarnation, said(pong)];
        assert_eq!(run_alone(1, &clock, |_| {}, events), expected, "the only peer is {peer_behind:?} behind");
    }
}

#[test]
fn the_clock_is_raised_to_the_end_of_the_log_if_nobody_can_replace_that() {
    let clock = Clock::start(Duration::from_millis(500));
    let ann = actor("ann", 1);
    let request = held(1, 1, 1, &ann, create(&ann)).request;
    let end = clock.now().after(HOUR);
    let prepare = |store: &mut ChatStore| {
        store.apply(request.uid(end), &request).expect("the disk has room");
        store.commit().expect("the disk has room");
    };
    run_alone(0, &clock, prepare, Vec::new());
    assert!(clock.now() >= end, "the clock shows {}, and the log ends at {end}", clock.now());
}
