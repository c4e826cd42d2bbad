//! Appliers that talk to each other without sockets, under a clock of their own.

use super::*;
use crate::replica::{Body, PeerId, Phase, StoreChange, Submission};
use crate::store::Location;
use crate::store::schema::StoreIdentity;
use crate::store::testing::{actor, assert_sound, create, held, send};
use stablechat_protocol::answer::QueryAnswer;
use stablechat_protocol::command::{Command, Query};
use stablechat_protocol::conversation::{Conversation, Page};
use stablechat_protocol::operator::InitialSettings;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::request::{Actor, QueryRequest, Request};
use stablechat_protocol::room::{RoomAction, RoomName};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::uid::Uid;
use std::collections::VecDeque;
use std::time::Duration;

mod clocks;
mod orphans;
mod restarts;

/// Between two wakes.
const STEP: Duration = Duration::from_millis(50);

/// One replica's place.
struct Node {
    location: Location,
    /// None while it is down.
    applier: Option<Applier>,
    /// The events that have come and are not yet taken in.
    inbox: VecDeque<NetEvent>,
}

/// Replicas, all of them connected with all that are up.
struct Cluster {
    nodes: Vec<Node>,
    now: Timestamp,
    /// How many requests have been issued, all of one session.
    issued: u64,
    /// The replica that is cut off from all others.
    cut_off: Option<u8>,
    /// The replicas of which others have asked for a piece of the log, once for each piece.
    asked_for_log: Vec<u8>,
    /// The messages to clients of replicas, apart from answers.
    told: Vec<(u8, ToClient)>,
}

impl Cluster {
    /// So many new replicas, serving.
    fn new(replicas: u8) -> Cluster {
        let node = || Node { location: memory(), applier: None, inbox: VecDeque::new() };
        let nodes = (0..replicas).map(|_| node()).collect();
        let now = Timestamp(1_000_000_000_000);
        let mut cluster = Cluster { nodes, now, issued: 0, cut_off: None, asked_for_log: Vec::new(), told: Vec::new() };
        (0..replicas).for_each(|place| cluster.start(place));
        cluster.run(Duration::from_secs(4));
        cluster
    }

    /// The identity of a replica.
    fn identity(&self, place: u8) -> crate::net::ReplicaIdentity {
        let entry = |index: usize| format!("[[replica]]\nname = 'r{index}'\naddress = 'host{index}:1'\n");
        let entries: String = (0..self.nodes.len()).map(entry).collect();
        let cluster = stablechat_protocol::cluster::Cluster::parse(&format!("name = 'test'\nid = '1'\n{entries}"))
            .expect("a good cluster file");
        let replica = stablechat_protocol::name::ReplicaName::parse(format!("r{place}")).expect("a name");
        crate::net::ReplicaIdentity::of(&cluster, &replica).expect("one of the cluster's")
    }

    /// Starts a replica with what its location has.
    fn start(&mut self, place: u8) {
        let others: Vec<PeerId> = (0..self.nodes.len() as u8).filter(|other| *other != place).map(PeerId).collect();
        let identity = StoreIdentity { cluster: "test".into(), replica: place.to_string() };
        let store = ChatStore::open(&self.nodes[usize::from(place)].location, &identity, &InitialSettings::OPEN)
            .expect("the store opens");
        let settings = ProtocolSettings {
            delivery_bound: Duration::from_secs(1),
            ahead: Duration::from_millis(50),
            place: PeerId(place),
            peers: others.clone(),
            min_live: 1,
            refusal_is_proof: true,
            depth_max: 100,
            piece_bytes: 10_000,
            restarts_free: 3,
        };
        let applier = Applier::start(self.identity(place), settings, store, self.now).expect("the log can be read");
        self.nodes[usize::from(place)].applier = Some(applier);
        for PeerId(other) in others {
            if self.nodes[usize::from(other)].applier.is_some() {
                self.nodes[usize::from(place)].inbox.push_back(NetEvent::PeerConnected { peer: PeerId(other) });
                self.nodes[usize::from(other)].inbox.push_back(NetEvent::PeerConnected { peer: PeerId(place) });
            }
        }
    }

    /// Kills a replica.
    fn kill(&mut self, place: u8) {
        self.nodes[usize::from(place)].applier = None;
        self.nodes[usize::from(place)].inbox.clear();
        self.cut_off.take_if(|cut_off| *cut_off == place);
        for node in &mut self.nodes {
            node.inbox.push_back(NetEvent::PeerDisconnected { peer: PeerId(place) });
        }
    }

    /// Cuts a replica off from all others, until it is killed.
    fn cut_off(&mut self, place: u8) {
        self.cut_off = Some(place);
        for other in 0..self.nodes.len() as u8 {
            if other != place {
                self.nodes[usize::from(other)].inbox.push_back(NetEvent::PeerDisconnected { peer: PeerId(place) });
                self.nodes[usize::from(place)].inbox.push_back(NetEvent::PeerDisconnected { peer: PeerId(other) });
            }
        }
    }

    /// Lets time pass. Messages sent meanwhile arrive at the next wake.
    fn run(&mut self, span: Duration) {
        let end = self.now.after(span);
        while self.now < end {
            self.now = self.now.after(STEP);
            let mut posted = Vec::new();
            for (place, node) in self.nodes.iter_mut().enumerate() {
                let Some(applier) = &mut node.applier else { continue };
                let events = node.inbox.drain(..).map(|event| match event {
                    NetEvent::Peer { peer, message, .. } => NetEvent::Peer { time: self.now, peer, message },
                    other => other,
                });
                let round = EventBatch { events: events.collect(), drained: Some(self.now) };
                let post = |sent: Vec<NetCommand>| posted.extend(sent.into_iter().map(|sent| (place as u8, sent)));
                applier.wake([round], || self.now, post).expect("memory does not fail");
            }
            for (from, sent) in posted {
                if let NetCommand::ToClients { message, .. } = &sent
                    && !matches!(message, ToClient::Answer { .. })
                {
                    self.told.push((from, message.clone()));
                }
                if let NetCommand::ToPeer { to: PeerId(to), message } = sent {
                    self.asked_for_log.extend(matches!(message, PeerMessage::FetchLog { .. }).then_some(to));
                    let is_cut_off = self.cut_off.is_some_and(|place| place == from || place == to);
                    let to = &mut self.nodes[usize::from(to)];
                    if to.applier.is_some() && !is_cut_off {
                        to.inbox.push_back(NetEvent::Peer { time: self.now, peer: PeerId(from), message });
                    }
                }
            }
        }
    }

    /// Issues a command to all that are up.
    fn issue(&mut self, command: Command) {
        self.issued += 1;
        let ann = Some(actor("ann", 1));
        let request = Request { client: ClientId([1; 16]), sequence: self.issued, actor: ann, command };
        let timestamp = self.now.after(STEP / 2);
        for node in self.nodes.iter_mut().filter(|node| node.applier.is_some()) {
            let body = Body::Request(request.clone());
            let from = ConnectionId(0);
            let submission = Submission { time: self.now.after(STEP), from, timestamp, body, too_fast: None };
            node.inbox.push_back(NetEvent::Request(submission));
        }
        self.run(STEP);
    }

    /// Sends so many messages of some length.
    fn chat(&mut self, messages: usize) {
        for number in 0..messages {
            self.issue(send(&actor("ann", 1), &format!("{number} {}", "x".repeat(200))));
        }
    }

    /// A replica that is up.
    fn applier(&self, place: u8) -> &Applier {
        self.nodes[usize::from(place)].applier.as_ref().expect("it is up")
    }

    /// Fails unless all serve, are the same and agree with themselves.
    fn assert_same(&self) {
        for place in 0..self.nodes.len() as u8 {
            let applier = self.applier(place);
            assert_eq!(applier.replica().phase(), Phase::Serving, "replica {place}");
            assert_eq!(applier.store().applied(), self.applier(0).store().applied(), "replica {place}");
            assert_sound(applier.store());
        }
    }
}

/// An empty place for a store.
fn memory() -> Location {
    Location::in_memory().expect("memory can be had")
}

/// A replica of three, connected with both others, whose log is settled, and its clock's reading.
pub(super) fn settled_alone() -> (Applier, Timestamp) {
    let mut cluster = Cluster::new(3);
    cluster.issue(create(&actor("ann", 1)));
    cluster.run(Duration::from_secs(4));
    let applier = cluster.nodes[0].applier.take().expect("it is up");
    assert!(applier.store().log().settled() > Uid::MIN);
    (applier, cluster.now)
}

/// A part of a snapshot waits behind an insertion, and the protocol gives up its sender. If the part were taken then, a replica that
/// has joined meanwhile would get another log and another state under its pending requests.
#[test]
fn a_snapshot_part_of_a_peer_that_is_given_up_is_dropped() {
    let (mut applier, now) = settled_alone();
    let part = |from| StoreChange::TakeSnapshotPart { from, part: 0, rows: Vec::new(), end: None };
    let changes = [part(PeerId(1)), part(PeerId(2))].map(Output::Change);
    applier.backlog.outputs().extend(changes);
    applier.backlog.outputs().push(Output::Effect(Effect::Disconnect { peer: PeerId(1) }));

    let mut sent = Vec::new();
    applier.wake([], || now, |messages| sent.extend(messages)).expect("memory does not fail");
    let asks = |of: u8| {
        let next = NetCommand::ToPeer { to: PeerId(of), message: PeerMessage::FetchSnapshot { part: 1 } };
        sent.contains(&next)
    };
    assert!(!asks(1), "the part of the peer that was given up is dropped");
    assert!(asks(2), "the part of the other peer is taken");
}

#[test]
fn boundaries_that_agree_everywhere_are_settled() {
    let mut cluster = Cluster::new(3);
    cluster.issue(create(&actor("ann", 1)));
    cluster.chat(10);
    cluster.run(Duration::from_secs(4));
    cluster.assert_same();
    for place in 0..3 {
        let store = cluster.applier(place).store();
        assert_eq!((store.applied().position, store.log().settled()), (11, store.applied().uid), "replica {place}");
    }

    cluster.kill(2);
    let before = cluster.applier(0).store().log().settled();
    cluster.chat(10);
    cluster.run(Duration::from_secs(4));
    assert_eq!(cluster.applier(0).store().log().settled(), before, "one has not said that it is the same");
    cluster.start(2);
    cluster.run(Duration::from_secs(6));
    cluster.chat(1);
    cluster.run(Duration::from_secs(4));
    cluster.assert_same();
    assert!(cluster.applier(1).store().log().settled() > before);
}

#[test]
fn a_replica_that_returns_is_not_asked_for_what_the_others_have() {
    let mut cluster = Cluster::new(3);
    cluster.issue(create(&actor("ann", 1)));
    // The marks of a longer log, at growing distances from its end, miss the end of this one.
    cluster.chat(100);
    cluster.kill(2);
    cluster.chat(400);
    cluster.asked_for_log.clear();
    cluster.start(2);
    for _ in 0..100 {
        cluster.chat(1);
    }
    cluster.run(Duration::from_secs(4));
    cluster.assert_same();
    let of = |place: u8| cluster.asked_for_log.iter().filter(|asked| **asked == place).count();
    assert!(of(0) + of(1) > 5, "the returning one takes its log from them: {:?}", cluster.asked_for_log);
    assert_eq!(of(2), 0, "it is asked for what is in their logs already");
}

/// The account may have read the messages elsewhere: a client that connects to the replica meanwhile would show them as new.
#[test]
fn a_replica_that_catches_up_delivers_no_old_messages() {
    let (ann, name) = (actor("ann", 1), RoomName::parse("#ops").expect("a name"));
    let say = |to: &Conversation| Command::Send { to: to.clone(), text: "hello".parse().expect("a text") };
    for to in [Conversation::with(&ann.account), Conversation::Room { name: name.clone() }] {
        let mut cluster = Cluster::new(3);
        cluster.issue(create(&ann));
        cluster.issue(Command::Room { room: name.clone(), action: RoomAction::Create { is_private: false } });
        cluster.run(Duration::from_secs(1));
        cluster.kill(2);
        (0..50).for_each(|_| cluster.issue(say(&to)));
        cluster.start(2);
        let connection = ConnectionId(7);
        let login = NetEvent::LoggedIn { connection, actor: ann.clone(), receive: true };
        cluster.nodes[2].inbox.extend([NetEvent::Greeted { connection }, login]);
        cluster.run(Duration::from_secs(4));
        cluster.assert_same();
        let told = |cluster: &Cluster| -> Vec<ToClient> {
            cluster.told.iter().filter(|(from, _)| *from == 2).map(|(_, message)| message.clone()).collect()
        };
        assert_eq!(told(&cluster), [ToClient::InboxChanged], "{to}");
        cluster.issue(say(&to));
        cluster.run(Duration::from_secs(1));
        assert!(matches!(told(&cluster)[1..], [ToClient::Delivery { .. }]), "{:?}", &told(&cluster)[1..]);
    }
}

#[test]
fn a_replica_that_missed_truncated_entries_gets_a_snapshot() {
    let mut cluster = Cluster::new(3);
    cluster.issue(create(&actor("ann", 1)));
    cluster.chat(10);
    cluster.run(Duration::from_secs(4));
    cluster.chat(5);
    cluster.kill(2);
    for place in 0..2 {
        cluster.nodes[place].applier.as_mut().expect("it is up").executor.store.retain(10_000);
    }
    for _ in 0..10 {
        cluster.chat(20);
        cluster.run(Duration::from_secs(3));
    }
    let store = cluster.applier(0).store();
    assert!(store.log().base().position > 100, "{:?}", store.log().base());
    assert_sound(store);

    cluster.start(2);
    cluster.chat(20);
    cluster.run(Duration::from_secs(8));
    cluster.assert_same();
    assert!(cluster.applier(2).store().log().base().position > 100);

    cluster.kill(1);
    cluster.nodes[1].location = memory();
    cluster.start(1);
    cluster.chat(20);
    cluster.run(Duration::from_secs(8));
    cluster.assert_same();
    let settled = cluster.applier(0).store().log().settled();
    cluster.chat(1);
    cluster.run(Duration::from_secs(5));
    cluster.assert_same();
    assert!(cluster.applier(0).store().log().settled() > settled);
}

#[test]
fn orphans_of_a_returning_replica_are_submitted_again() {
    let mut cluster = Cluster::new(3);
    let (ann, bob) = (actor("ann", 1), actor("bob", 2));
    cluster.issue(create(&ann));
    cluster.run(Duration::from_secs(4));
    // Replica 2 is cut off, and takes two requests of a session that nobody else sees.
    cluster.cut_off(2);
    cluster.run(Duration::from_secs(3));
    for (sequence, command) in [(1, create(&bob)), (2, send(&ann, "from the other side"))] {
        let request = Request { client: ClientId([2; 16]), sequence, actor: Some(bob.clone()), command };
        let (from, time) = (ConnectionId(0), cluster.now.after(STEP));
        let body = Body::Request(request);
        let submission = Submission { time, from, timestamp: time, body, too_fast: None };
        cluster.nodes[2].inbox.push_back(NetEvent::Request(submission));
        cluster.run(Duration::from_secs(2));
    }
    let held = cluster.applier(2).store().applied().position;
    assert_eq!(held, 3);
    cluster.kill(2);
    for place in 0..2 {
        cluster.nodes[place].applier.as_mut().expect("it is up").executor.store.retain(2_000);
    }
    for _ in 0..5 {
        cluster.chat(10);
        cluster.run(Duration::from_secs(3));
    }
    let before = cluster.applier(0).store().applied().position;
    assert!(cluster.applier(0).store().log().base().position > held);
    cluster.start(2);
    cluster.run(Duration::from_secs(10));
    cluster.assert_same();
    let store = cluster.applier(0).store();
    assert_eq!(store.applied().position, before + 2);
    assert_eq!(cluster.applier(2).store().orphans(Uid::MIN, 10).expect("it reads"), []);
    let last: Vec<Command> = store
        .log()
        .entries(Uid::MIN)
        .map(|entry| entry.expect("it reads").1.request.command)
        .skip_while(|command| *command != create(&bob))
        .collect();
    assert_eq!(last, [create(&bob), send(&ann, "from the other side")]);
}

/// It is not known whether it was executed at the peer. The peer knows, and submits it again if it was.
#[test]
fn a_request_of_a_peer_below_the_settled_end_is_no_orphan() {
    let (mut applier, now) = settled_alone();
    let bob = actor("bob", 2);
    let messages = [
        PeerMessage::LogEntries { after: Uid::MIN, requests: vec![held(1, 9, 1, &bob, create(&bob))], is_end: true },
        PeerMessage::Bodies { requests: vec![held(2, 8, 1, &bob, create(&bob))] },
    ];
    let events = messages.map(|message| NetEvent::Peer { time: now, peer: PeerId(1), message });
    let batch = EventBatch { events: events.into(), drained: None };
    applier.wake([batch], || now, |_| {}).expect("memory does not fail");
    let store = applier.store();
    assert_eq!(store.orphans(Uid::MIN, 10).expect("it reads"), []);
    assert!(store.log().settled() > Uid::MIN && store.applied().position == 1);
}

#[test]
fn a_ping_for_a_client_does_not_take_the_answer_of_the_protocols_own() {
    let mut cluster = Cluster::new(2);
    cluster.kill(1);
    cluster.start(1);
    let operator = actor("operator", 9);
    let login = NetEvent::LoggedIn { connection: ConnectionId(7), actor: operator, receive: false };
    cluster.nodes[1].inbox.push_back(login);
    // A client asks in every wake, so that each ping of the protocol leaves at the same time as one for the client.
    for _ in 0..60 {
        cluster.nodes[1].inbox.push_back(NetEvent::PingPeers { from: ConnectionId(7) });
        cluster.run(STEP);
    }
    let overview = cluster.applier(1).replica().overview();
    assert!(overview.peers[0].clock_offset_ns.is_some(), "the protocol has measured no clock: {overview:?}");
}

#[test]
fn two_bodies_of_one_uid_are_noticed() {
    let mut cluster = Cluster::new(2);
    let ann = actor("ann", 1);
    cluster.issue(create(&ann));
    cluster.run(Duration::from_secs(1));
    // As if a client had found two requests of one uid, and had sent each to another replica.
    let request =
        |text| Request { client: ClientId([2; 16]), sequence: 1, actor: Some(ann.clone()), command: send(&ann, text) };
    let uid = request("one").uid(cluster.now.after(STEP));
    for (node, text) in cluster.nodes.iter_mut().zip(["one", "two"]) {
        let store = &mut node.applier.as_mut().expect("it is up").executor.store;
        store.apply(uid, &request(text)).expect("memory does not fail");
    }
    cluster.run(STEP * 2);
    cluster.chat(1);
    cluster.run(Duration::from_secs(5));

    for place in 0..2 {
        let measurements = &cluster.applier(place).executor.measurements;
        let extra = measurements.extra().0;
        assert!(extra.logs_differ > 0 && extra.other_bodies > 0, "replica {place}: {extra:?}");
        assert_eq!(measurements.counters().state_disagreements, 0, "replica {place} takes it for a bug of its own");
    }
}

/// Two requests of a session, of which the second is a message that only replica 2 gets. `before` and `after` are texts of messages
/// under the same number that all replicas get before that, and the other replicas after it. More than a day passes, in which the
/// session ends, before replica 2 returns. Returns the texts between ann and bob in the end.
fn texts_after_a_day_away(before: Option<&str>, after: Option<&str>) -> Vec<String> {
    let mut cluster = Cluster::new(3);
    let (ann, bob) = (actor("ann", 1), actor("bob", 2));
    cluster.issue(create(&ann));
    let request =
        |sequence, command| Request { client: ClientId([2; 16]), sequence, actor: Some(bob.clone()), command };
    let attempt = |cluster: &mut Cluster, places: &[usize], request: Request| {
        let (from, time) = (ConnectionId(0), cluster.now.after(STEP));
        for place in places {
            let submission =
                Submission { time, from, timestamp: time, body: Body::Request(request.clone()), too_fast: None };
            cluster.nodes[*place].inbox.push_back(NetEvent::Request(submission));
        }
        cluster.run(Duration::from_secs(5));
    };
    attempt(&mut cluster, &[0, 1, 2], request(1, create(&bob)));
    if let Some(text) = before {
        attempt(&mut cluster, &[0, 1, 2], request(2, send(&ann, text)));
    }
    cluster.chat(1);
    cluster.run(Duration::from_secs(5));
    cluster.cut_off(2);
    cluster.run(Duration::from_secs(3));
    attempt(&mut cluster, &[2], request(2, send(&ann, TEXT)));
    if let Some(text) = after {
        attempt(&mut cluster, &[0, 1], request(2, send(&ann, text)));
    }
    let held = cluster.applier(2).store().applied().position;
    // All are down for the day: a replica that did not run for so long would end its connections.
    (0..3).for_each(|place| cluster.kill(place));
    cluster.now = cluster.now.after(Duration::from_secs(26 * 3600));
    (0..2).for_each(|place| cluster.start(place));
    cluster.run(Duration::from_secs(8));
    for place in 0..2 {
        cluster.nodes[place].applier.as_mut().expect("it is up").executor.store.retain(2_000);
    }
    for _ in 0..5 {
        cluster.chat(10);
        cluster.run(Duration::from_secs(3));
    }
    cluster.start(2);
    cluster.run(Duration::from_secs(15));
    assert!(cluster.applier(2).store().log().base().position > held, "a snapshot has replaced its log");
    cluster.assert_same();
    assert_eq!(cluster.applier(2).store().orphans(Uid::MIN, 10).expect("it reads"), []);
    texts(cluster.applier(0).store(), &bob, &ann)
}

/// The text of the message that only one replica gets.
const TEXT: &str = "answered by one replica";

/// The messages between two accounts, as one of them reads them.
fn texts(store: &ChatStore, reader: &Actor, other: &Actor) -> Vec<String> {
    let conversation = Conversation::with(&other.account);
    let query = Query::History { conversation, page: Page::Latest, limit: 100 };
    let query = QueryRequest { id: 1, actor: Some(reader.clone()), query };
    match store.query(&query).expect("it reads") {
        QueryAnswer::Messages { messages, .. } => messages.iter().map(|held| held.text.as_str().to_string()).collect(),
        other => panic!("no messages: {other:?}"),
    }
}

#[test]
fn an_orphan_whose_session_has_ended_is_not_lost() {
    assert_eq!(texts_after_a_day_away(None, None), [TEXT]);
}

#[test]
fn an_orphan_that_was_sent_again_before_its_session_ended_is_not_doubled() {
    assert_eq!(texts_after_a_day_away(None, Some(TEXT)), [TEXT]);
}

/// Its client was told so. In its session, which has ended, the number is free again, and in a session of its own it would be.
#[test]
fn a_request_that_was_rejected_takes_no_effect_later() {
    assert_eq!(texts_after_a_day_away(Some("first"), None), ["first"]);
}
