//! A replica's process: the real applier, what the poll loop does in front of it, and the disk that outlives both.
//!
//! A turn has three parts, as the real loop and applier have: the loop takes a reading of its clock; some time later it reads
//! what has arrived by then; and some time after that the applier takes it in. A process that is paused goes on where it was,
//! in the middle of a turn or not, and what arrives meanwhile is not part of what was read.

use super::clock::Clock;
use super::disk::Disk;
use super::links::LinkId;
use super::{DELIVERY_BOUND, REPLICAS};
use fastrand::Rng;
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::login::Challenge;
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::request::{Actor, QueryRequest, Request};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::version::VERSION_MAX;
use stablechat_server::applier::Applier;
use stablechat_server::net::{EventBatch, NetCommand, NetEvent};
use stablechat_server::replica::{Body, ConnectionId, PeerId, Phase, ProtocolSettings, Submission};
use stablechat_server::store::ChatStore;
use stablechat_server::store::schema::StoreIdentity;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

/// How far a replica's clock is off the true time at most, in nanoseconds: half of ε.
pub const SKEW_MAX: i64 = 8_000_000;
/// How far an accepted timestamp may be ahead of a replica's clock, as in a real cluster with this Δ.
const AHEAD: Duration = Duration::from_millis(50);
/// How many requests may be undone while others wait, and how many bytes a batch of a repair has: few, as runs are short.
const DEPTH_MAX: u64 = 10;
const REPAIR_BATCH_BYTES: usize = 6000;
/// How much of a log a peer gets at a time: a few requests.
const PIECE_BYTES: usize = 3000;

/// What replicas are called.
pub fn name(node: usize) -> &'static str {
    ["a", "b", "c"][node]
}

/// When a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// In its next turn, with requests applied and not committed, if there are any.
    BeforeCommit,
    /// In its next turn, when it has let something out so many times: what it says to peers comes before the answers.
    AfterRelease(u8),
}

/// What a cluster file sets for all replicas.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// With how many replicas one must be in contact to answer anything.
    pub min_live: usize,
    /// How many bytes of the log are kept.
    pub log_retention: u64,
}

impl Setup {
    /// The usual, or less: a log so short that who was away needs a snapshot, or replicas that answer nothing alone.
    pub fn choose(random: &mut Rng) -> Setup {
        let log_retention = if random.u8(..3) == 0 { random.u64(500..20_000) } else { u64::MAX / 2 };
        Setup { min_live: if random.u8(..4) == 0 { 2 } else { 1 }, log_retention }
    }
}

/// A replica's process and disk.
pub struct Node {
    index: usize,
    disk: Disk,
    /// What runs; none while the process is down.
    pub applier: Option<Applier>,
    /// The number of starts.
    pub incarnation: u64,
    pub clock: Clock,
    setup: Setup,
    /// What has arrived and was not read.
    inbox: Vec<Arrival>,
    /// The loop's connections with peers; none with itself.
    links: [PeerLink; REPLICAS],
    /// The connections that have been greeted, and for whom they speak.
    actors: BTreeMap<ConnectionId, Option<Actor>>,
    /// The loop's reading of the clock, before it has read what arrived.
    reading: Option<Timestamp>,
    /// What the loop has read, before the applier has taken it in.
    rounds: Option<Vec<EventBatch>>,
    /// When the loop's next turn is planned.
    pub turn: Option<Timestamp>,
    /// Whether it is stopped by a signal, to be resumed.
    pub paused: bool,
    /// For how long it is to be paused in the middle of its next turn, between what the loop reads and the applier.
    pub pause_in_turn: Option<Duration>,
    /// How it is to die.
    pub death: Option<Death>,
    /// Whether it has been asked to stop.
    pub leaving: bool,
}

/// Something that has arrived.
enum Arrival {
    /// From a client; none is the end of the connection.
    Client(ConnectionId, Option<ToReplica>),
    /// The beginning of a connection with a peer.
    PeerConnected(PeerId),
    /// From a peer.
    Peer(PeerId, PeerMessage),
    /// The end of a connection with a peer.
    PeerDisconnected(PeerId),
}

/// What the loop knows of the connection with a peer.
#[derive(Clone, Copy, Debug, Default)]
struct PeerLink {
    /// The connection.
    link: Option<LinkId>,
    /// How many connections the applier does not know of yet: until it does, what it sends was meant for earlier ones.
    unseen: usize,
}

/// What the loop has read.
pub struct Reading {
    /// What it answers itself.
    pub sent: Vec<NetCommand>,
    /// What it passes on, in order.
    pub read: Vec<NetEvent>,
}

/// What a wake of the applier came to.
pub struct Wake {
    /// What is sent, in order.
    pub sent: Vec<NetCommand>,
    /// Whether the process was killed in it.
    pub killed: bool,
}

/// The end of a killed process, as it unwinds through the applier.
struct Killed;

impl Node {
    /// A replica with an empty disk, which does not run.
    pub fn new(index: usize, setup: Setup) -> Node {
        Node {
            index,
            disk: Disk::empty(),
            applier: None,
            incarnation: 0,
            clock: Clock::default(),
            setup,
            inbox: Vec::new(),
            links: [PeerLink::default(); REPLICAS],
            actors: BTreeMap::new(),
            reading: None,
            rounds: None,
            turn: None,
            paused: false,
            pause_in_turn: None,
            death: None,
            leaving: false,
        }
    }

    /// Loses all that is on the disk.
    pub fn wipe(&mut self) {
        self.disk = Disk::empty();
    }

    /// Starts the process. Its clock is set anew.
    pub fn start(&mut self, random: &mut Rng, now: Timestamp) -> Result<(), String> {
        self.incarnation += 1;
        self.clock = Clock::new(random, now);
        let identity = StoreIdentity { cluster: "simulated".into(), replica: name(self.index).into() };
        let mut store = self.disk.open(random, &identity).map_err(|error| error.to_string())?;
        store.repair_in_batches_of(REPAIR_BATCH_BYTES);
        store.retain(self.setup.log_retention);
        debug_assert!(AHEAD * REPLICAS as u32 <= DELIVERY_BOUND);
        let peers = (0..REPLICAS).filter(|peer| *peer != self.index).map(|peer| PeerId(peer as u8)).collect();
        let place = PeerId(self.index as u8);
        let settings = ProtocolSettings {
            delivery_bound: DELIVERY_BOUND,
            ahead: AHEAD,
            place,
            peers,
            min_live: self.setup.min_live,
            depth_max: DEPTH_MAX,
            piece_bytes: PIECE_BYTES,
        };
        let clock = self.clock.read(now);
        let started = Applier::start(self.identity(), settings, store, clock);
        self.applier = Some(started.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// What the replica says of itself.
    fn identity(&self) -> stablechat_server::net::ReplicaIdentity {
        let entry = |index: usize| format!("[[replica]]\nname = '{0}'\naddress = '{0}:1'\n", name(index));
        let file = (0..REPLICAS).map(entry).fold("name = 'simulated'\n".to_string(), |file, entry| file + &entry);
        let cluster = Cluster::parse(&file).expect("a good cluster file");
        let replica = ReplicaName::parse(name(self.index)).expect("a letter is a name");
        stablechat_server::net::ReplicaIdentity::of(&cluster, &replica).expect("one of the cluster's")
    }

    /// Ends the process, with all that it had in memory.
    pub fn kill(&mut self) {
        self.applier = None;
        self.inbox.clear();
        self.actors.clear();
        self.links = [PeerLink::default(); REPLICAS];
        (self.reading, self.rounds, self.turn) = (None, None, None);
        (self.death, self.pause_in_turn) = (None, None);
        (self.paused, self.leaving) = (false, false);
    }

    /// Whether the process is there, running or paused.
    pub fn is_up(&self) -> bool {
        self.applier.is_some()
    }

    /// Whether the process is there and accepts clients' requests.
    pub fn is_serving(&self) -> bool {
        self.applier.as_ref().is_some_and(|applier| applier.replica().phase() == Phase::Serving)
    }

    /// The store of a process that is up.
    pub fn store(&self) -> Option<&ChatStore> {
        self.applier.as_ref().map(Applier::store)
    }

    /// Something arrived from a client, and waits to be read.
    pub fn arrive(&mut self, connection: ConnectionId, message: Option<ToReplica>) {
        self.inbox.push(Arrival::Client(connection, message));
    }

    /// A connection with a peer was made, in place of an earlier one. Returns the earlier one.
    pub fn begin_link(&mut self, peer: usize, link: LinkId) -> Option<LinkId> {
        let earlier = self.links[peer].link.replace(link);
        if earlier.is_some() {
            self.inbox.push(Arrival::PeerDisconnected(PeerId(peer as u8)));
        }
        self.links[peer].unseen += 1;
        self.inbox.push(Arrival::PeerConnected(PeerId(peer as u8)));
        earlier
    }

    /// Something arrived from a peer, if the connection is still the one with it.
    pub fn arrive_from_peer(&mut self, peer: usize, link: LinkId, message: PeerMessage) {
        if self.links[peer].link == Some(link) {
            self.inbox.push(Arrival::Peer(PeerId(peer as u8), message));
        }
    }

    /// A connection with a peer is gone. Says whether it was the one with it.
    pub fn end_link(&mut self, peer: usize, link: LinkId) -> bool {
        let is_present = self.links[peer].link == Some(link);
        if is_present {
            self.links[peer].link = None;
            self.inbox.push(Arrival::PeerDisconnected(PeerId(peer as u8)));
        }
        is_present
    }

    /// The connection with a peer.
    pub fn link(&self, peer: usize) -> Option<LinkId> {
        self.links[peer].link
    }

    /// The connection that the applier means when it speaks of a peer's: none while it does not know of the present one.
    pub fn seen_link(&self, peer: usize) -> Option<LinkId> {
        self.links[peer].link.filter(|_| self.links[peer].unseen == 0)
    }

    /// The applier knows of a connection with a peer.
    pub fn on_connection_seen(&mut self, peer: usize) {
        self.links[peer].unseen = self.links[peer].unseen.saturating_sub(1);
    }

    /// When the loop wants its next turn: at once while something waits, else when something becomes stable.
    pub fn wants_turn(&self, now: Timestamp) -> Option<Timestamp> {
        let applier = self.applier.as_ref()?;
        if self.is_in_turn() {
            return None;
        }
        match self.inbox.is_empty() {
            false => Some(now),
            true => applier.deadline().map(|deadline| deadline.offset_by(-self.clock.skew(now)).max(now)),
        }
    }

    /// Whether it is in the middle of a turn.
    pub fn is_in_turn(&self) -> bool {
        self.reading.is_some() || self.rounds.is_some()
    }

    /// The first part of a turn: the loop looks at the clock.
    pub fn take_reading(&mut self, now: Timestamp) {
        self.reading = Some(self.clock.read(now));
    }

    /// The second part of a turn: the loop reads what has arrived.
    pub fn read(&mut self, random: &mut Rng, now: Timestamp, stop: bool) -> Reading {
        let clock = self.clock.read(now);
        let mut sent = Vec::new();
        let mut read: Vec<NetEvent> = Vec::new();
        for arrival in std::mem::take(&mut self.inbox) {
            read.extend(match arrival {
                Arrival::Client(connection, message) => self.greet(connection, message, clock, &mut sent),
                Arrival::PeerConnected(peer) => Some(NetEvent::PeerConnected { peer }),
                Arrival::Peer(peer, message) => Some(NetEvent::Peer { time: clock, peer, message }),
                Arrival::PeerDisconnected(peer) => Some(NetEvent::PeerDisconnected { peer }),
            });
        }
        read.extend(stop.then_some(NetEvent::Stop));
        self.rounds = Some(split(random, read.clone(), self.reading.take()));
        Reading { sent, read }
    }

    /// The third part of a turn: the applier takes in what was read. It may be killed in the middle.
    pub fn wake(&mut self, now: Timestamp) -> Result<Wake, String> {
        let clock = self.clock.read(now);
        let rounds = self.rounds.take().unwrap_or_default();
        let Some(applier) = self.applier.as_mut() else { return Err("it has a turn while it is down".into()) };
        let death = self.death.take();
        let mut sent = Vec::new();
        let mut released = 0;
        let dies_before_commit = || match death {
            Some(Death::BeforeCommit) => resume_unwind(Box::new(Killed)),
            _ => None,
        };
        let wake = AssertUnwindSafe(|| {
            let rounds = rounds.into_iter().chain(std::iter::from_fn(dies_before_commit));
            applier.wake(
                rounds,
                || clock,
                |batch| {
                    sent.extend(batch);
                    released += 1;
                    if death == Some(Death::AfterRelease(released)) {
                        resume_unwind(Box::new(Killed));
                    }
                },
            )
        });
        match catch_unwind(wake) {
            Ok(Ok(())) => {
                let checked = applier.replica().check_invariants_fully();
                checked.map_err(|rule| format!("it must hold that {rule}"))?;
                Ok(Wake { sent, killed: death.is_some() })
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(cause) if cause.is::<Killed>() => Ok(Wake { sent, killed: true }),
            Err(cause) => Err(format!("it panicked: {}", message_of(&*cause))),
        }
    }

    /// What the poll loop does with a message itself, and what it passes on. Proofs of logins are not looked at.
    fn greet(
        &mut self,
        connection: ConnectionId,
        message: Option<ToReplica>,
        clock: Timestamp,
        sent: &mut Vec<NetCommand>,
    ) -> Option<NetEvent> {
        let Some(message) = message else {
            return self.actors.remove(&connection).map(|_| NetEvent::Closed { connection });
        };
        let mut reply = |message| sent.push(NetCommand::ToClient { to: connection, message });
        match message {
            ToReplica::Hello { .. } => {
                self.actors.insert(connection, None);
                let replica = ReplicaName::parse(name(self.index)).expect("a letter is a name");
                reply(ToClient::Welcome { version: VERSION_MAX, replica, clock, challenge: Challenge([0; 32]) });
                None
            }
            ToReplica::Login { account, key, receive, .. } => {
                reply(ToClient::LoggedIn { account: account.clone() });
                let actor = Actor { account, key };
                self.actors.insert(connection, Some(actor.clone()));
                Some(NetEvent::LoggedIn { connection, actor, receive })
            }
            ToReplica::Status | ToReplica::PingPeers => None,
            ToReplica::Logout => {
                self.actors.insert(connection, None);
                Some(NetEvent::LoggedOut { connection })
            }
            ToReplica::Request { client, sequence, timestamp, command } => {
                let actor = self.actors.get(&connection).cloned().flatten();
                let body = Body::Request(Request { client, sequence, actor, command });
                Some(NetEvent::Request(Submission { time: clock, from: connection, timestamp, body }))
            }
            ToReplica::Query { id, timestamp, query } => {
                let actor = self.actors.get(&connection).cloned().flatten();
                let body = Body::Query(QueryRequest { id, actor, query });
                Some(NetEvent::Request(Submission { time: clock, from: connection, timestamp, body }))
            }
            ToReplica::Ping { sent } => {
                reply(ToClient::Pong { sent, clock });
                None
            }
        }
    }
}

/// Splits what was read into rounds, of which the last says when everything had been read.
fn split(random: &mut Rng, mut events: Vec<NetEvent>, drained: Option<Timestamp>) -> Vec<EventBatch> {
    let mut rounds = Vec::new();
    while events.len() > 1 && random.u8(..4) == 0 {
        let rest = events.split_off(random.usize(1..events.len()));
        rounds.push(EventBatch { events, drained: None });
        events = rest;
    }
    rounds.push(EventBatch { events, drained });
    rounds
}

/// What a panic said.
pub fn message_of(cause: &(dyn std::any::Any + Send)) -> String {
    let text = cause.downcast_ref::<&str>().map(|text| (*text).to_string());
    text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a word".into())
}
