//! The world of a run: its time, what happens next, and whom it concerns.

mod clients;
mod peers;
mod staging;
mod trouble;
mod turns;

use super::checks::Checks;
use super::client::Client;
use super::faults;
use super::links::{LinkId, Links};
use super::network::Network;
use super::node::{self, Node, Setup};
use super::scenes::Act;
use super::tally::{Latencies, Tally};
use super::trace::Trace;
use super::{Check, DELIVERY_BOUND, Mode, REPLICAS, Run, START, Violation, verdict};
use fastrand::Rng;
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use stablechat_server::replica::ConnectionId;
use staging::Stage;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// When everything must have been answered, after the start.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// How long nothing goes wrong before it is looked at how fast answers are, and after that before the end.
const CALM: Duration = Duration::from_secs(6);
/// How many requests each client then issues.
const EPILOGUE: u32 = 12;

/// Something that is to happen.
enum SimEvent {
    /// A message reaches a replica; none is the end of the connection.
    AtNode(ConnectionId, Option<ToReplica>),
    /// A message reaches a client; none is the end of the connection.
    AtClient(ConnectionId, Option<ToClient>),
    /// A message reaches a peer; none is the end of the connection.
    AtPeer { node: usize, link: LinkId, message: Option<PeerMessage> },
    /// A replica dials another.
    Dial { from: usize, to: usize, incarnation: u64 },
    /// The greeting of a replica that was dialed has come.
    Greeted { node: usize, link: LinkId },
    /// A replica begins a turn, if it still is what it wants.
    Turn { node: usize, incarnation: u64 },
    /// A replica's loop reads what has arrived, in its turn.
    Read { node: usize, incarnation: u64 },
    /// A replica's applier takes in what was read, and ends the turn.
    Apply { node: usize, incarnation: u64 },
    /// A paused replica is resumed.
    Resume { node: usize, incarnation: u64 },
    /// A replica has room on its disk again.
    Room { node: usize, incarnation: u64 },
    /// A replica that ended is started.
    Start { node: usize },
    /// A client wakes, if it still is what it wants.
    Wake { client: usize },
    /// A client tries to connect.
    Connect { client: usize, node: usize },
    /// Something goes wrong.
    Fault,
    /// A scene begins.
    Scene,
    /// Something happens in a scene.
    Act(Act),
    /// A scene is over.
    SceneEnds,
    /// The only replica that a client has reached is killed.
    Ambush { node: usize },
    /// From here on all is within bounds.
    Heal,
    /// Clients speak once more, to see how fast answers are when nothing goes wrong.
    Epilogue,
    /// All is said and done.
    End,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReportedPhase {
    /// Things go wrong, and clients work off their plans.
    Trouble,
    /// Nothing happens, for [`CALM`].
    Calm,
    /// Clients speak once more.
    Epilogue,
    /// Nothing happens, for [`CALM`].
    Ending,
    /// It is over.
    Over,
}

/// A run.
pub struct World {
    mode: Mode,
    phase: ReportedPhase,
    now: Timestamp,
    step: u64,
    random: Rng,
    /// What is to happen, by time; at one time, in the order in which it was planned. Boxed, since messages are large and
    /// much is moved within the map.
    queue: BTreeMap<(Timestamp, u64), Box<SimEvent>>,
    planned: u64,
    network: Network,
    links: Links,
    nodes: Vec<Node>,
    /// What was to happen to paused replicas.
    withheld: Vec<Vec<SimEvent>>,
    /// Which replicas are to be stopped in their next turn.
    stopping: [bool; REPLICAS],
    /// Which replicas have lost their disk and not served since.
    wiped: [bool; REPLICAS],
    /// How long replicas stay down that end next, where that is settled.
    stays_down: [Option<Duration>; REPLICAS],
    /// The scene that is being played.
    stage: Stage,
    clients: Vec<Client>,
    /// When each client's next wake is planned.
    wakes: Vec<Option<Timestamp>>,
    /// When requests that are not answered were first sent.
    sent_at: BTreeMap<(ClientId, u64), Timestamp>,
    checks: Checks,
    tally: Tally,
    latencies: Latencies,
    /// Those of the epilogue.
    calm_latencies: Latencies,
    trace: Trace,
}

impl World {
    /// A world before its start.
    pub fn new(mode: Mode, seed: u64, trace: Trace) -> World {
        let mut random = Rng::with_seed(seed);
        let count = random.usize(2..=4);
        let clients = (0..count).map(|number| Client::new(&mut random, number, count, START)).collect();
        let network = Network::new(&mut random);
        let mut links = Links::new(network.usual_delay);
        let setup = Setup::choose(&mut random);
        if mode == Mode::Beyond && random.bool() {
            links.late_one_in = 2000;
        }
        World {
            mode,
            phase: ReportedPhase::Trouble,
            now: START,
            step: 0,
            network,
            links,
            random,
            queue: BTreeMap::new(),
            planned: 0,
            nodes: (0..REPLICAS).map(|index| Node::new(index, setup)).collect(),
            withheld: (0..REPLICAS).map(|_| Vec::new()).collect(),
            stopping: [false; REPLICAS],
            wiped: [false; REPLICAS],
            stays_down: [None; REPLICAS],
            stage: Stage::default(),
            wakes: vec![None; count],
            clients,
            sent_at: BTreeMap::new(),
            checks: Checks::new(mode),
            tally: Tally::default(),
            latencies: Latencies::default(),
            calm_latencies: Latencies::default(),
            trace,
        }
    }

    /// How many steps have been made.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The true time.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// What was taken down.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Runs until every client's plan is worked off and nothing is pending, then looks at what is left.
    pub fn run(&mut self) -> Check<Run> {
        for node in 0..REPLICAS {
            self.plan(Duration::ZERO, SimEvent::Start { node });
            for client in 0..self.clients.len() {
                let wait = Duration::from_millis(1 + self.random.u64(..clients::RECONNECT_MAX_MS));
                self.plan(wait, SimEvent::Connect { client, node });
            }
        }
        self.plan(faults::BEGIN, SimEvent::Fault);
        (0..self.clients.len()).for_each(|client| self.after_client(client));
        while self.phase != ReportedPhase::Over {
            let Some(((at, _), event)) = self.queue.pop_first() else {
                return Err(Violation::among_all("nothing happens any more"));
            };
            if at.since(START) > TIME_LIMIT {
                let busy = self.clients.iter().filter(|client| !client.is_over()).map(Client::describe);
                return Err(Violation::among_all(format!("not answered in time: {:?}", busy.collect::<Vec<_>>())));
            }
            self.now = at;
            self.step += 1;
            self.happen_caught(*event)?;
            self.go_on();
        }
        verdict::check(&self.checks, &self.nodes, &self.clients, self.mode)?;
        self.check_calm()?;
        self.tally.add("messages shown after later ones", self.clients.iter().map(|client| client.misplaced).sum());
        self.tally.add("messages shown under two uids", self.clients.iter().map(|client| client.doubled).sum());
        self.tally.add("steps", self.step);
        self.tally.add("answers compared with the specification", self.checks.compared() as u64);
        self.tally.add("requests applied", self.checks.applied() as u64);
        self.tally.add("snapshots", self.checks.snapshots);
        self.tally.add("requests undone and applied again", self.checks.undone());
        Ok(Run {
            tally: self.tally.clone(),
            latencies: self.latencies.clone(),
            calm_latencies: self.calm_latencies.clone(),
            fingerprint: verdict::fingerprint(&self.nodes),
        })
    }

    /// Begins the next phase when the present one is over.
    fn go_on(&mut self) {
        match self.phase {
            ReportedPhase::Trouble if self.now.since(START) > faults::END && self.is_quiet() => {
                self.phase = ReportedPhase::Calm;
                self.plan(CALM, SimEvent::Epilogue);
            }
            ReportedPhase::Epilogue if self.is_quiet() => {
                self.phase = ReportedPhase::Ending;
                self.plan(CALM, SimEvent::End);
            }
            _ => {}
        }
    }

    /// When nothing goes wrong, all is stable by the closed test, and soon.
    fn check_calm(&self) -> Check {
        let Latencies { closed, real_time, micros } = &self.calm_latencies;
        if *real_time > 0 || micros.iter().any(|micros| *micros > DELIVERY_BOUND.as_micros() as u32) {
            let what = format!("in the end {closed} answers come by the closed test and {real_time} by the other");
            return Err(Violation::among_all(what));
        }
        Ok(())
    }

    /// Whether all is said, applied and answered, and every replica serves.
    fn is_quiet(&self) -> bool {
        let is_idle = |node: &Node| {
            let applier = node.applier.as_ref();
            !node.paused && node.is_serving() && applier.is_some_and(|applier| applier.replica().pending() == 0)
        };
        self.clients.iter().all(Client::is_over) && self.nodes.iter().all(is_idle)
    }

    /// Plans something for later.
    fn plan(&mut self, wait: Duration, event: SimEvent) {
        self.plan_at(self.now.after(wait), event);
    }

    /// Plans something for a time.
    fn plan_at(&mut self, at: Timestamp, event: SimEvent) {
        self.planned += 1;
        self.queue.insert((at, self.planned), Box::new(event));
    }

    /// Takes down what happens to a replica, or to none.
    fn note(&mut self, node: Option<usize>, line: impl FnOnce() -> String) {
        self.trace.note(self.step, self.now, node, line);
    }

    /// Lets something happen. A panic is a violation like any other.
    fn happen_caught(&mut self, event: SimEvent) -> Check {
        let happened = catch_unwind(AssertUnwindSafe(|| self.happen(event)));
        happened.unwrap_or_else(|cause| Err(Violation::among_all(format!("a panic: {}", node::message_of(&*cause)))))
    }

    /// Lets something happen.
    fn happen(&mut self, event: SimEvent) -> Check {
        match event {
            SimEvent::AtNode(connection, message) => self.on_arrival_at_node(connection, message),
            SimEvent::AtClient(connection, message) => self.on_arrival_at_client(connection, message)?,
            SimEvent::AtPeer { node, link, message } => self.on_arrival_at_peer(node, link, message),
            SimEvent::Dial { from, to, incarnation } => self.on_dial(from, to, incarnation),
            SimEvent::Greeted { node, link } => self.on_greeted(node, link),
            SimEvent::Turn { node, incarnation }
            | SimEvent::Read { node, incarnation }
            | SimEvent::Apply { node, incarnation }
                if self.nodes[node].paused && self.nodes[node].incarnation == incarnation =>
            {
                self.withheld[node].push(event);
            }
            SimEvent::Turn { node, incarnation } => self.on_turn(node, incarnation),
            SimEvent::Read { node, incarnation } => self.on_read(node, incarnation)?,
            SimEvent::Apply { node, incarnation } => self.on_apply(node, incarnation)?,
            SimEvent::Resume { node, incarnation } => self.on_resume(node, incarnation),
            SimEvent::Room { node, incarnation } => self.note_room(node, incarnation, true),
            SimEvent::Start { node } => self.on_start(node)?,
            SimEvent::Wake { client } => self.on_wake(client),
            SimEvent::Connect { client, node } => self.on_connect(client, node),
            SimEvent::Fault => self.on_fault(),
            SimEvent::Scene => self.on_scene(),
            SimEvent::Act(act) => self.on_act(act),
            SimEvent::SceneEnds => self.on_scene_ends(),
            SimEvent::Ambush { node } => self.kill(node, None),
            SimEvent::Heal => self.on_heal(),
            SimEvent::Epilogue => self.on_epilogue(),
            SimEvent::End => self.phase = ReportedPhase::Over,
        }
        Ok(())
    }

    /// Lets the clients speak once more.
    fn on_epilogue(&mut self) {
        self.phase = ReportedPhase::Epilogue;
        self.checks.on_epilogue();
        for client in 0..self.clients.len() {
            if self.clients[client].lasting {
                self.clients[client].speak_again(self.now, EPILOGUE);
            }
            self.after_client(client);
        }
    }
}
