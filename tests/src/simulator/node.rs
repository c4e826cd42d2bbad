//! A replica's process: the real applier, a simulated poll loop in front of it, and the disk that outlives both.
//!
//! A turn has three parts, as with the real loop and applier: the loop takes a clock reading; some time later it reads what has
//! arrived by then; and some time after that the applier handles it. A paused process goes on where it was, in the middle of
//! a turn or not, and what arrives meanwhile is not part of what it had read.

use super::clock::Clock;
use super::disk::Disk;
use super::links::LinkId;
use super::peer_links::PeerLinks;
use super::setup::Setup;
use super::stopwatch::{self, STOPWATCH};
use super::{DELIVERY_BOUND, REPLICAS_MAX};
use fastrand::Rng;
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::login::Challenge;
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::request::{Actor, QueryRequest, Request};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use stablechat_protocol::version::VERSION_MAX;
use stablechat_server::applier::Applier;
use stablechat_server::net::{EventBatch, NetCommand, NetEvent};
use stablechat_server::replica::{Body, ConnectionId, PeerId, Phase, ProtocolSettings, Submission};
use stablechat_server::store::ChatStore;
use stablechat_server::store::schema::StoreIdentity;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

/// How far an accepted timestamp may be ahead of a replica's clock, as in a real cluster with this Δ.
const AHEAD: Duration = Duration::from_millis(50);
/// How many requests may be undone while others wait, and how many bytes a batch of a repair has: few, as runs are short.
const DEPTH_MAX: u64 = 10;
const REPAIR_BATCH_BYTES: usize = 6000;
/// How much of a log a peer gets at a time: a few requests.
const PIECE_BYTES: usize = 3000;

/// What replicas are called.
pub fn name(node: usize) -> &'static str {
    const NAMES: [&str; REPLICAS_MAX] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    NAMES[node]
}

/// When a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// In its next turn, with requests applied and not committed, if there are any.
    BeforeCommit,
    /// In its next turn, after it has let something out so many times: messages to peers are let out before answers.
    AfterRelease(u8),
}

/// A replica's process and disk.
pub struct Node {
    index: usize,
    disk: Disk,
    /// None while the process is down.
    pub applier: Option<Applier>,
    pub incarnation: u64,
    pub clock: Clock,
    /// When the process was started.
    pub started: Timestamp,
    setup: Setup,
    /// Everything that has arrived and was not read.
    inbox: Vec<Arrival>,
    /// The loop's connections with peers; none with itself.
    pub links: PeerLinks,
    /// The clients' connections that have been greeted, with the account that each is logged in to.
    actors: BTreeMap<ConnectionId, Option<Actor>>,
    /// The clock reading of the turn, before the loop has read what arrived.
    reading: Option<Timestamp>,
    /// Everything that the loop has read and the applier not yet handled.
    rounds: Option<Vec<EventBatch>>,
    /// When the next turn is planned.
    pub turn: Option<Timestamp>,
    /// Whether it is suspended.
    pub paused: bool,
    /// A pause in the middle of the next turn, between the loop's reading and the applier.
    pub pause_in_turn: Option<Duration>,
    /// How it is to die.
    pub death: Option<Death>,
    /// Whether it has been asked to stop.
    pub leaving: bool,
    /// Until when, by its clock, it refuses all commands because they come too fast.
    pub throttled_until: Timestamp,
}

/// A message or an event that has arrived.
enum Arrival {
    /// From a client; none is the end of the connection.
    Client(ConnectionId, Option<ToReplica>),
    /// The beginning of a connection with a peer.
    PeerConnected(PeerId),
    /// From a peer.
    Peer(PeerId, PeerMessage),
    /// The end of a connection with a peer.
    PeerDisconnected(PeerId),
    /// The refusal of a connection by a peer's address, and the number of the question.
    AddressRefused(PeerId, u64),
}

/// The outcome of the loop's reading.
pub struct Reading {
    /// The answers of the loop itself.
    pub sent: Vec<NetCommand>,
    /// The events for the applier, in order.
    pub read: Vec<NetEvent>,
}

/// The outcome of a wake of the applier.
pub struct Wake {
    pub sent: Vec<NetCommand>,
    /// Whether the process was killed in it.
    pub killed: bool,
    /// Whether the clock was raised to the end of the log.
    pub raised: bool,
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
            clock: Clock::new(DELIVERY_BOUND / setup.replicas as u32),
            started: Timestamp::ZERO,
            setup,
            inbox: Vec::new(),
            links: PeerLinks::new(setup.replicas),
            actors: BTreeMap::new(),
            reading: None,
            rounds: None,
            turn: None,
            paused: false,
            pause_in_turn: None,
            death: None,
            leaving: false,
            throttled_until: Timestamp::ZERO,
        }
    }

    /// Loses everything on the disk.
    pub fn wipe(&mut self) {
        self.disk = Disk::empty();
    }

    /// Starts the process. Its clock shows what the machine's does.
    pub fn start(&mut self, random: &mut Rng, now: Timestamp) -> Result<(), String> {
        self.incarnation += 1;
        self.started = now;
        self.throttled_until = Timestamp::ZERO;
        self.clock.start(random, now);
        let identity = StoreIdentity { cluster: "simulated".into(), replica: name(self.index).into() };
        let mut store = self.disk.open(random, &identity).map_err(|error| error.to_string())?;
        store.repair_in_batches_of(REPAIR_BATCH_BYTES);
        store.retain(self.setup.log_retention);
        debug_assert!(AHEAD * self.setup.replicas as u32 <= DELIVERY_BOUND);
        let peers =
            (0..self.setup.replicas).filter(|peer| *peer != self.index).map(|peer| PeerId(peer as u8)).collect();
        let place = PeerId(self.index as u8);
        let settings = ProtocolSettings {
            delivery_bound: DELIVERY_BOUND,
            ahead: AHEAD,
            place,
            peers,
            min_live: self.setup.min_live,
            refusal_is_proof: self.setup.refusal_is_proof,
            depth_max: DEPTH_MAX,
            piece_bytes: PIECE_BYTES,
            restarts_free: self.setup.restarts_free,
        };
        let clock = self.clock.read(now);
        let started = Applier::start(self.identity(), settings, store, clock);
        self.applier = Some(started.map_err(|error| error.to_string())?.timed_by(STOPWATCH));
        Ok(())
    }

    /// What the replica says of itself.
    fn identity(&self) -> stablechat_server::net::ReplicaIdentity {
        let entry = |index: usize| format!("[[replica]]\nname = '{0}'\naddress = '{0}:1'\n", name(index));
        let file = (0..self.setup.replicas)
            .map(entry)
            .fold("name = 'simulated'\nid = '1'\n".to_string(), |file, entry| file + &entry);
        let cluster = Cluster::parse(&file).expect("a good cluster file");
        let replica = ReplicaName::parse(name(self.index)).expect("a letter is a name");
        stablechat_server::net::ReplicaIdentity::of(&cluster, &replica).expect("one of the cluster's")
    }

    /// Ends the process, and everything that it had in memory.
    pub fn kill(&mut self) {
        self.applier = None;
        self.inbox.clear();
        self.actors.clear();
        self.links.clear();
        (self.reading, self.rounds, self.turn) = (None, None, None);
        (self.death, self.pause_in_turn) = (None, None);
        (self.paused, self.leaving) = (false, false);
    }

    /// Whether the process is there, running or paused.
    pub fn is_up(&self) -> bool {
        self.applier.is_some()
    }

    /// How many requests are pending, apart from queries, which clients ask at any time.
    pub fn pending_requests(&self) -> usize {
        self.applier.as_ref().map_or(0, |applier| applier.replica().pending() - applier.replica().pending_queries())
    }

    /// Whether the process is there and accepts clients' requests.
    pub fn is_serving(&self) -> bool {
        self.applier.as_ref().is_some_and(|applier| applier.replica().phase() == Phase::Serving)
    }

    /// Whether it serves, and no fault affects it.
    pub fn is_well(&self) -> bool {
        self.is_serving() && !self.paused && !self.leaving && self.death.is_none() && !self.clock.is_wrong()
    }

    /// Whether it stands down because its clock is off.
    pub fn is_clock_off(&self) -> bool {
        self.applier.as_ref().is_some_and(|applier| applier.replica().is_clock_off())
    }

    /// Whether it waits for an operator, because its log ends in the future and others serve without it.
    pub fn waits_for_operator(&self) -> bool {
        self.applier.as_ref().is_some_and(|applier| applier.replica().is_log_unmendable())
    }

    /// Whether the process ends itself, as the real one does, because its clock has to be set back.
    pub fn has_to_start_again(&self) -> bool {
        self.applier.as_ref().is_some_and(Applier::has_to_start_again)
    }

    /// The store of a process that is up.
    pub fn store(&self) -> Option<&ChatStore> {
        self.applier.as_ref().map(Applier::store)
    }

    /// A message arrives from a client, and waits to be read.
    pub fn arrive(&mut self, connection: ConnectionId, message: Option<ToReplica>) {
        self.inbox.push(Arrival::Client(connection, message));
    }

    /// A connection with a peer was made, in place of an earlier one. Returns the earlier one.
    pub fn begin_link(&mut self, peer: usize, link: LinkId) -> Option<LinkId> {
        let earlier = self.links.begin(peer, link);
        if earlier.is_some() {
            self.inbox.push(Arrival::PeerDisconnected(PeerId(peer as u8)));
        }
        self.inbox.push(Arrival::PeerConnected(PeerId(peer as u8)));
        earlier
    }

    /// A message arrives from a peer. It counts only if the connection is still the present one.
    pub fn arrive_from_peer(&mut self, peer: usize, link: LinkId, message: PeerMessage) {
        if self.links.get(peer) == Some(link) {
            self.inbox.push(Arrival::Peer(PeerId(peer as u8), message));
        }
    }

    /// A connection with a peer is gone. Says whether it was the present one.
    pub fn end_link(&mut self, peer: usize, link: LinkId) -> bool {
        let is_present = self.links.end(peer, link);
        if is_present {
            self.inbox.push(Arrival::PeerDisconnected(PeerId(peer as u8)));
        }
        is_present
    }

    /// Nobody listens at a peer's address.
    pub fn on_address_refused(&mut self, peer: usize, number: u64) {
        self.links.drop_question(peer);
        self.inbox.push(Arrival::AddressRefused(PeerId(peer as u8), number));
    }

    /// When the next turn is wanted: at once while something waits to be read, else at the applier's deadline.
    pub fn wants_turn(&self, now: Timestamp) -> Option<Timestamp> {
        let applier = self.applier.as_ref()?;
        if self.is_in_turn() {
            return None;
        }
        match self.inbox.is_empty() {
            false => Some(now),
            true => applier.deadline().map(|deadline| self.clock.true_time_of(deadline).max(now)),
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
                Arrival::AddressRefused(peer, number) => Some(NetEvent::AddressRefused { peer, number }),
            });
        }
        read.extend(stop.then_some(NetEvent::Stop));
        self.rounds = Some(split(random, read.clone(), self.reading.take()));
        Reading { sent, read }
    }

    /// The requests that peers ask for in what the loop has read, with the peers. Nothing is owed on a connection that has ended
    /// since.
    pub fn asked_for(&self) -> Vec<(PeerId, Uid)> {
        let mut asked = Vec::new();
        for event in self.rounds.iter().flatten().flat_map(|batch| &batch.events) {
            match event {
                NetEvent::Peer { peer, message: PeerMessage::Fetch { uids }, .. } => {
                    asked.extend(uids.iter().map(|uid| (*peer, *uid)));
                }
                NetEvent::PeerDisconnected { peer } => asked.retain(|(of, _)| of != peer),
                _ => {}
            }
        }
        asked
    }

    /// The third part of a turn: the applier handles what was read. The process may be killed in the middle.
    pub fn wake(&mut self, now: Timestamp) -> Result<Wake, String> {
        let clock = self.clock.read(now);
        stopwatch::advance_to(now);
        let rounds = self.rounds.take().unwrap_or_default();
        let Some(applier) = self.applier.as_mut() else { return Err("it has a turn while it is down".into()) };
        applier.note_wall_clock(self.clock.unfollowed_ns());
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
                let floor = applier.take_clock_floor();
                if let Some(floor) = floor {
                    self.clock.raise(now, floor);
                }
                let checked = applier.replica().check_invariants_fully();
                checked.map_err(|rule| format!("it must hold that {rule}"))?;
                Ok(Wake { sent, killed: death.is_some(), raised: floor.is_some() })
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(cause) if cause.is::<Killed>() => Ok(Wake { sent, killed: true, raised: false }),
            Err(cause) => Err(format!("it panicked: {}", message_of(&*cause))),
        }
    }

    /// Answers what the poll loop answers itself, and returns what it passes on. Proofs of logins are not verified.
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
        let mut reply = |message| sent.push(NetCommand::ToClients { to: vec![connection], message });
        match message {
            ToReplica::Hello { .. } => {
                self.actors.insert(connection, None);
                let replica = ReplicaName::parse(name(self.index)).expect("a letter is a name");
                reply(ToClient::Welcome { version: VERSION_MAX, replica, clock, challenge: Challenge([0; 32]) });
                Some(NetEvent::Greeted { connection })
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
                let wait = self.throttled_until.since(clock);
                let too_fast = Some(wait).filter(|wait| !wait.is_zero());
                Some(NetEvent::Request(Submission { time: clock, from: connection, timestamp, body, too_fast }))
            }
            ToReplica::Query { id, timestamp, query } => {
                let actor = self.actors.get(&connection).cloned().flatten();
                let body = Body::Query(QueryRequest { id, actor, query });
                let too_fast = None;
                Some(NetEvent::Request(Submission { time: clock, from: connection, timestamp, body, too_fast }))
            }
            ToReplica::Ping { sent } => {
                reply(ToClient::Pong { sent, clock });
                None
            }
        }
    }
}

/// Splits what was read into batches. The last one has the clock reading.
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

/// The message of a panic.
pub fn message_of(cause: &(dyn std::any::Any + Send)) -> String {
    let text = cause.downcast_ref::<&str>().map(|text| (*text).to_string());
    text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".into())
}
