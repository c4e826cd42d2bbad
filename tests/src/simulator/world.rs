//! The world of a run: its virtual time, the queue of events, and the parts that handle them.

mod clients;
mod peers;
mod staging;
mod trouble;
mod turns;

use super::bounds::Bounds;
use super::checks::Checks;
use super::client::Client;
use super::faults;
use super::links::{LinkId, Links};
use super::network::Network;
use super::node::{self, Node};
use super::scenes::{Act, SceneKind};
use super::setup::Setup;
use super::situations::Situations;
use super::stopwatch;
use super::tally::{Latencies, Tally};
use super::trace::Trace;
use super::{Check, DELIVERY_BOUND, Mode, Run, START, Scenario, Violation, verdict};
use fastrand::Rng;
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::time::Timestamp;
use stablechat_server::replica::ConnectionId;
use staging::Stage;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// When every request must have been answered, after the start. Runs without failures end within half of it, although a replica
/// that has begun anew often waits for more than a minute.
const TIME_LIMIT: Duration = Duration::from_secs(240);
/// How long the clients are silent between the end of the faults and the epilogue, and after that before the end: longer than
/// it takes to settle what was left.
const CALM: Duration = Duration::from_secs(6);
/// The number of requests that each client issues in the epilogue.
const EPILOGUE: u32 = 12;

/// An event of the simulation.
enum SimEvent {
    /// A client's message reaches a replica; none is the end of the connection.
    AtNode(ConnectionId, Option<ToReplica>),
    /// A replica's message reaches a client; none is the end of the connection.
    AtClient(ConnectionId, Option<ToClient>),
    /// A replica's message reaches a peer; none is the end of the connection.
    AtPeer { node: usize, link: LinkId, message: Option<PeerMessage> },
    /// A body leaves that its sender was slow to send.
    SlowBody { from: usize, to: usize, link: LinkId, message: PeerMessage },
    /// A replica dials another.
    Dial { from: usize, to: usize, incarnation: u64 },
    /// The greeting of the replica that was dialed reaches the one that dialed.
    Greeted { node: usize, link: LinkId },
    /// A replica begins a turn, unless its turn has been planned for another time since.
    Turn { node: usize, incarnation: u64 },
    /// A replica's loop reads what has arrived, in its turn.
    Read { node: usize, incarnation: u64 },
    /// A replica's applier handles what was read, which ends the turn.
    Apply { node: usize, incarnation: u64 },
    /// A paused replica is resumed.
    Resume { node: usize, incarnation: u64 },
    /// A replica has room on its disk again.
    Room { node: usize, incarnation: u64 },
    /// A replica that ended is started.
    Start { node: usize },
    /// A machine's wall clock is set right.
    ClockSetRight { node: usize },
    /// An operator looks after a replica.
    Operated { node: usize },
    /// A client wakes, unless its wake has been planned for another time since.
    Wake { client: usize },
    /// An attempt of a replica to find out whether anybody listens at another's address; its outcome comes from there.
    AskAddress { node: usize, incarnation: u64, peer: usize, number: u64 },
    /// A replica's address has refused a connection.
    AddressRefused { node: usize, incarnation: u64, peer: usize, number: u64 },
    /// A client tries to connect.
    Connect { client: usize, node: usize },
    /// A fault is drawn.
    Fault,
    /// A scene begins.
    Scene(SceneKind),
    /// A step of a scene.
    Act(Act),
    /// A scene ends.
    SceneEnds,
    /// The only replica that a dead client has reached is killed.
    Ambush { node: usize },
    /// The faults end: from here on everything is within bounds.
    Heal,
    /// Clients send once more, to see how fast answers are without faults.
    Epilogue,
    /// The run ends.
    End,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunPhase {
    /// Faults occur, and clients work off their plans.
    Trouble,
    /// Clients are silent for [`CALM`].
    Calm,
    /// Clients send once more.
    Epilogue,
    /// Clients are silent for [`CALM`] again.
    Ending,
    Over,
}

/// A run.
pub struct World {
    scenario: Scenario,
    bounds: Bounds,
    phase: RunPhase,
    /// Whether the last fault has occurred.
    is_healed: bool,
    now: Timestamp,
    step: u64,
    random: Rng,
    /// The events to come, by their times; those of one time in the order in which they were planned. Boxed, since messages are
    /// large and the map moves its values.
    queue: BTreeMap<(Timestamp, u64), Box<SimEvent>>,
    planned: u64,
    network: Network,
    links: Links,
    nodes: Vec<Node>,
    /// The events of paused replicas, which happen when they are resumed.
    withheld: Vec<Vec<SimEvent>>,
    /// Whether each replica reads a stop signal in its next turn.
    stopping: Vec<bool>,
    /// Whether each replica has lost its disk and not served since.
    wiped: Vec<bool>,
    /// The connections of each replica whose machine is gone, with the peers that have not noticed.
    unnoticed: Vec<Option<Vec<(usize, LinkId)>>>,
    /// How long each replica stays down when it next ends, if that is known already.
    stays_down: Vec<Option<Duration>>,
    /// The scene that is being played.
    stage: Stage,
    clients: Vec<Client>,
    /// When each client's next wake is planned.
    wakes: Vec<Option<Timestamp>>,
    /// When requests that are not answered were first sent, by the digests in their uids.
    sent_at: BTreeMap<[u8; 16], Timestamp>,
    checks: Checks,
    situations: Situations,
    tally: Tally,
    latencies: Latencies,
    /// The latencies of the epilogue, for clients that speak for an account.
    calm_latencies: Latencies,
    trace: Trace,
}

impl World {
    /// A world before its start.
    pub fn new(scenario: Scenario, trace: Trace) -> World {
        let Scenario { mode, seed, replicas, .. } = scenario;
        let mut random = Rng::with_seed(seed);
        stopwatch::begin(seed);
        let bounds = Bounds::of(replicas);
        let count = random.usize(2..=4);
        let client = |number| Client::new(&mut random, number, count, replicas, START);
        let mut clients: Vec<Client> = (0..count).map(client).collect();
        if random.bool() {
            clients.push(Client::operator(&mut random, replicas, START));
        }
        if random.bool() {
            clients.push(Client::device(&mut random, count, replicas, START));
        }
        let network = Network::new(&mut random, bounds);
        let mut links = Links::new(replicas, bounds, network.usual_delay);
        let setup = Setup::choose(&mut random, scenario);
        // Where a scene is played alone, nothing may interfere with it.
        if mode == Mode::Beyond && random.bool() && scenario.scene.is_none() {
            links.late_one_in = 2000;
        }
        World {
            scenario,
            bounds,
            is_healed: false,
            phase: RunPhase::Trouble,
            now: START,
            step: 0,
            network,
            links,
            random,
            queue: BTreeMap::new(),
            planned: 0,
            nodes: (0..replicas).map(|index| Node::new(index, setup)).collect(),
            withheld: (0..replicas).map(|_| Vec::new()).collect(),
            stopping: vec![false; replicas],
            wiped: vec![false; replicas],
            unnoticed: vec![None; replicas],
            stays_down: vec![None; replicas],
            stage: Stage::default(),
            wakes: vec![None; clients.len()],
            clients,
            sent_at: BTreeMap::new(),
            checks: Checks::new(mode, replicas),
            situations: Situations::default(),
            tally: Tally::default(),
            latencies: Latencies::default(),
            calm_latencies: Latencies::default(),
            trace,
        }
    }

    /// The number of events so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The true time.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Runs until every client's plan is worked off and nothing is pending, then checks the final state. There is none if a replica
    /// waits for an operator, since its log ends in the future and cannot be mended.
    pub fn run(&mut self) -> Check<Run> {
        self.start_with_wrong_clocks();
        for node in 0..self.nodes.len() {
            self.plan(Duration::ZERO, SimEvent::Start { node });
            for client in 0..self.clients.len() {
                let wait = Duration::from_millis(1 + self.random.u64(..clients::RECONNECT_MAX_MS));
                self.plan(wait, SimEvent::Connect { client, node });
            }
        }
        self.plan(faults::BEGIN, SimEvent::Fault);
        (0..self.clients.len()).for_each(|client| self.after_client(client));
        while self.phase != RunPhase::Over {
            let Some(((at, _), event)) = self.queue.pop_first() else {
                return Err(Violation::among_all("no event is planned any more"));
            };
            if at.since(START) > TIME_LIMIT {
                if self.nodes.iter().any(Node::waits_for_operator) {
                    self.tally.count("runs left to an operator");
                    return Ok(self.result());
                }
                let busy = self.clients.iter().filter(|client| !client.is_over()).map(Client::describe);
                return Err(Violation::among_all(format!("not answered in time: {:?}", busy.collect::<Vec<_>>())));
            }
            self.now = at;
            self.step += 1;
            self.handle_caught(*event)?;
            self.go_on();
        }
        verdict::check(&self.checks, &self.nodes, &self.clients, self.scenario.mode)?;
        self.check_calm()?;
        self.tally.add("messages shown after later ones", self.clients.iter().map(|client| client.misplaced).sum());
        self.tally.add("messages shown", self.clients.iter().map(|client| client.shown.len() as u64).sum());
        let (in_rooms, read) = self.checks.done();
        self.tally.add("messages sent to rooms", in_rooms);
        self.tally.add("ranges read", read);
        self.tally.add("messages shown under two uids", self.clients.iter().map(|client| client.doubled).sum());
        self.tally.add("steps", self.step);
        self.tally.add("answers compared with the specification", self.checks.compared() as u64);
        self.tally.add("requests applied", self.checks.applied() as u64);
        self.tally.add("snapshots", self.checks.snapshots);
        self.tally.add("requests undone and applied again", self.checks.undone());
        Ok(self.result())
    }

    fn result(&self) -> Run {
        Run {
            tally: self.tally.clone(),
            latencies: self.latencies.clone(),
            calm_latencies: self.calm_latencies.clone(),
            fingerprint: verdict::fingerprint(&self.nodes),
        }
    }

    /// Begins the next phase when the present one is over.
    fn go_on(&mut self) {
        match self.phase {
            RunPhase::Trouble
                if self.is_healed && !self.stage.is_playing() && self.is_quiet() && self.have_equal_logs() =>
            {
                self.phase = RunPhase::Calm;
                self.plan(CALM, SimEvent::Epilogue);
            }
            RunPhase::Epilogue if self.is_quiet() => {
                self.phase = RunPhase::Ending;
                self.plan(CALM, SimEvent::End);
            }
            _ => {}
        }
    }

    /// Checks that in the epilogue everything was stable by the closed test, and that its answer took Δ and a round trip at most: a
    /// replica alone closes by Δ behind its clock until it has learned how late requests come. It does not learn that of strangers, so
    /// a client whose account has another key by now may have to repeat its requests for longer.
    fn check_calm(&self) -> Check {
        let Latencies { closed, real_time, micros } = &self.calm_latencies;
        let round_trip = Duration::from_nanos(2 * (self.bounds.delay_max() + turns::TURN_MAX));
        let limit = (DELIVERY_BOUND + round_trip).as_micros() as u32;
        if *real_time > 0 || micros.iter().any(|micros| *micros > limit) {
            let what = format!("in the end {closed} answers come by the closed test and {real_time} by the other");
            return Err(Violation::among_all(what));
        }
        Ok(())
    }

    /// Whether everything is answered and applied, and every replica serves.
    fn is_quiet(&self) -> bool {
        let is_idle = |node: &Node| {
            let applier = node.applier.as_ref();
            !node.paused && node.is_serving() && applier.is_some_and(|applier| applier.replica().pending() == 0)
        };
        self.clients.iter().all(Client::is_over) && self.nodes.iter().all(is_idle)
    }

    /// Whether the logs of all replicas are equal. They need not be when the last replica begins to serve: with two logs that part
    /// far back, it is only then that the other replica takes its turn to repair.
    fn have_equal_logs(&self) -> bool {
        let mut ends = self.nodes.iter().filter_map(Node::store).map(|store| store.applied().log_digest);
        let first = ends.next();
        ends.all(|end| Some(end) == first)
    }

    /// Plans an event after a while.
    fn plan(&mut self, wait: Duration, event: SimEvent) {
        self.plan_at(self.now.after(wait), event);
    }

    /// Plans an event for a time.
    fn plan_at(&mut self, at: Timestamp, event: SimEvent) {
        self.planned += 1;
        self.queue.insert((at, self.planned), Box::new(event));
    }

    /// Adds a line to the trace of a replica, or of none.
    fn note(&mut self, node: Option<usize>, line: impl FnOnce() -> String) {
        self.trace.note(self.step, self.now, node, line);
    }

    /// Handles an event. A panic is a violation like any other.
    fn handle_caught(&mut self, event: SimEvent) -> Check {
        let handled = catch_unwind(AssertUnwindSafe(|| self.handle(event)));
        handled.unwrap_or_else(|cause| Err(Violation::among_all(format!("a panic: {}", node::message_of(&*cause)))))
    }

    /// What each event leads to.
    fn handle(&mut self, event: SimEvent) -> Check {
        match event {
            SimEvent::AtNode(connection, message) => self.on_arrival_at_node(connection, message),
            SimEvent::AtClient(connection, message) => self.on_arrival_at_client(connection, message)?,
            SimEvent::AtPeer { node, link, message } => self.on_arrival_at_peer(node, link, message),
            SimEvent::SlowBody { from, to, link, message } => self.on_slow_body(from, to, link, message),
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
            SimEvent::ClockSetRight { node } => self.set_clock_right(node),
            SimEvent::Operated { node } => self.on_operated(node),
            SimEvent::Wake { client } => self.on_wake(client),
            SimEvent::AskAddress { node, incarnation, peer, number } => {
                self.on_question(node, incarnation, peer, number);
            }
            SimEvent::AddressRefused { node, incarnation, peer, number } => {
                self.on_address_refused(node, incarnation, peer, number);
            }
            SimEvent::Connect { client, node } => self.on_connect(client, node),
            SimEvent::Fault => self.on_fault(),
            SimEvent::Scene(kind) => self.on_scene(kind),
            SimEvent::Act(act) => self.on_act(act)?,
            SimEvent::SceneEnds => self.on_scene_ends(),
            SimEvent::Ambush { node } => {
                self.kill(node, None);
            }
            SimEvent::Heal => self.on_heal(),
            SimEvent::Epilogue => self.on_epilogue(),
            SimEvent::End => self.phase = RunPhase::Over,
        }
        Ok(())
    }

    /// Lets the clients send once more.
    fn on_epilogue(&mut self) {
        self.phase = RunPhase::Epilogue;
        self.checks.on_epilogue();
        for client in 0..self.clients.len() {
            if self.clients[client].lasting {
                self.clients[client].speak_again(self.now, EPILOGUE);
            }
            self.after_client(client);
        }
    }
}
