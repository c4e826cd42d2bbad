//! The world of a run: its time, what happens next, and whom it concerns.

mod peers;
mod trouble;

use super::checks::Checks;
use super::client::Client;
use super::faults;
use super::links::{LinkId, Links};
use super::network::{Network, Way};
use super::node::{self, Node, Turn};
use super::tally::{Latencies, Tally};
use super::trace::Trace;
use super::{Check, DELIVERY_BOUND, Mode, REPLICAS, Run, START, Violation, verdict};
use fastrand::Rng;
use stablechat_client::session::Verdict;
use stablechat_protocol::answer::{Refusal, Stability};
use stablechat_protocol::id::ClientId;
use stablechat_protocol::message::{RequestId, ToClient, ToReplica};
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use stablechat_server::net::{Event, Sent};
use stablechat_server::replica::ConnectionId;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// When everything must have been answered, after the start.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// How long nothing goes wrong before it is looked at how fast answers are, and after that before the end.
const CALM: Duration = Duration::from_secs(6);
/// How many requests each client then issues.
const EPILOGUE: u32 = 12;
/// The most nanoseconds that either half of a replica's turn takes to begin.
const TURN_MAX: u64 = 2_000_000;
/// The most milliseconds before a client makes a lost connection again.
const RECONNECT_MAX_MS: u64 = 60;

/// Something that is to happen.
enum Happening {
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
    /// A replica goes on with its turn.
    Read { node: usize, incarnation: u64 },
    /// A paused replica is resumed.
    Resume { node: usize, incarnation: u64 },
    /// A replica that ended is started.
    Start { node: usize },
    /// A client wakes, if it still is what it wants.
    Wake { client: usize },
    /// A client tries to connect.
    Connect { client: usize, node: usize },
    /// Something goes wrong.
    Fault,
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
enum Phase {
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
    phase: Phase,
    now: Timestamp,
    step: u64,
    random: Rng,
    /// What is to happen, by time; at one time, in the order in which it was planned.
    queue: BTreeMap<(Timestamp, u64), Happening>,
    planned: u64,
    network: Network,
    links: Links,
    nodes: Vec<Node>,
    /// What was to happen to paused replicas.
    withheld: Vec<Vec<Happening>>,
    /// Which replicas are to be stopped in their next turn.
    stopping: [bool; REPLICAS],
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
        if mode == Mode::Beyond && random.bool() {
            links.late_one_in = 2000;
        }
        World {
            mode,
            phase: Phase::Trouble,
            now: START,
            step: 0,
            network,
            links,
            random,
            queue: BTreeMap::new(),
            planned: 0,
            nodes: (0..REPLICAS).map(Node::new).collect(),
            withheld: (0..REPLICAS).map(|_| Vec::new()).collect(),
            stopping: [false; REPLICAS],
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
            self.plan(Duration::ZERO, Happening::Start { node });
            for client in 0..self.clients.len() {
                let wait = Duration::from_millis(1 + self.random.u64(..RECONNECT_MAX_MS));
                self.plan(wait, Happening::Connect { client, node });
            }
        }
        self.plan(faults::BEGIN, Happening::Fault);
        (0..self.clients.len()).for_each(|client| self.after_client(client));
        while self.phase != Phase::Over {
            let Some(((at, _), happening)) = self.queue.pop_first() else {
                return Err(Violation::among_all("nothing happens any more"));
            };
            if at.since(START) > TIME_LIMIT {
                let busy = self.clients.iter().filter(|client| !client.is_over()).map(Client::describe);
                return Err(Violation::among_all(format!("not answered in time: {:?}", busy.collect::<Vec<_>>())));
            }
            self.now = at;
            self.step += 1;
            self.happen_caught(happening)?;
            self.go_on();
        }
        verdict::check(&self.checks, &self.nodes, &self.clients, self.mode)?;
        self.check_calm()?;
        self.tally.add("messages shown after later ones", self.clients.iter().map(|client| client.misplaced).sum());
        self.tally.add("messages shown under two uids", self.clients.iter().map(|client| client.doubled).sum());
        self.tally.add("steps", self.step);
        self.tally.add("requests applied", self.checks.applied() as u64);
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
            Phase::Trouble if self.now.since(START) > faults::END && self.is_quiet() => {
                self.phase = Phase::Calm;
                self.plan(CALM, Happening::Epilogue);
            }
            Phase::Epilogue if self.is_quiet() => {
                self.phase = Phase::Ending;
                self.plan(CALM, Happening::End);
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
    fn plan(&mut self, wait: Duration, happening: Happening) {
        self.plan_at(self.now.after(wait), happening);
    }

    /// Plans something for a time.
    fn plan_at(&mut self, at: Timestamp, happening: Happening) {
        self.planned += 1;
        self.queue.insert((at, self.planned), happening);
    }

    /// Takes down what happens to a replica, or to none.
    fn note(&mut self, node: Option<usize>, line: impl FnOnce() -> String) {
        self.trace.note(self.step, self.now, node, line);
    }

    /// Lets something happen. A panic is a violation like any other.
    fn happen_caught(&mut self, happening: Happening) -> Check {
        let happened = catch_unwind(AssertUnwindSafe(|| self.happen(happening)));
        happened.unwrap_or_else(|cause| Err(Violation::among_all(format!("a panic: {}", node::message_of(&*cause)))))
    }

    /// Lets something happen.
    fn happen(&mut self, happening: Happening) -> Check {
        match happening {
            Happening::AtNode(connection, message) => self.on_arrival_at_node(connection, message),
            Happening::AtClient(connection, message) => self.on_arrival_at_client(connection, message)?,
            Happening::AtPeer { node, link, message } => self.on_arrival_at_peer(node, link, message),
            Happening::Dial { from, to, incarnation } => self.on_dial(from, to, incarnation),
            Happening::Greeted { node, link } => self.on_greeted(node, link),
            Happening::Turn { node, incarnation } | Happening::Read { node, incarnation }
                if self.nodes[node].paused && self.nodes[node].incarnation == incarnation =>
            {
                self.withheld[node].push(happening);
            }
            Happening::Turn { node, incarnation } => self.on_turn(node, incarnation),
            Happening::Read { node, incarnation } => self.on_read(node, incarnation)?,
            Happening::Resume { node, incarnation } => self.on_resume(node, incarnation),
            Happening::Start { node } => self.on_start(node)?,
            Happening::Wake { client } => self.on_wake(client),
            Happening::Connect { client, node } => self.on_connect(client, node),
            Happening::Fault => self.on_fault(),
            Happening::Ambush { node } => self.kill(node, None),
            Happening::Heal => self.on_heal(),
            Happening::Epilogue => self.on_epilogue(),
            Happening::End => self.phase = Phase::Over,
        }
        Ok(())
    }

    fn on_arrival_at_node(&mut self, id: ConnectionId, message: Option<ToReplica>) {
        let connection = self.network.connection(id);
        let node = connection.node;
        let is_lost = message.is_some() && self.network.is_lost(id, Way::Up);
        if self.nodes[node].is_up() && self.nodes[node].incarnation == connection.incarnation && !is_lost {
            self.nodes[node].arrive(id, message);
            self.plan_turn(node);
        }
    }

    fn on_arrival_at_client(&mut self, id: ConnectionId, message: Option<ToClient>) -> Check {
        let connection = self.network.connection(id);
        let (client, node) = (connection.client, connection.node);
        if self.clients[client].links[node].connection != Some(id) {
            return Ok(());
        }
        let Some(message) = message else {
            self.clients[client].on_lost(self.now, node);
            let wait = Duration::from_millis(1 + self.random.u64(..RECONNECT_MAX_MS));
            self.plan(wait, Happening::Connect { client, node });
            self.after_client(client);
            return Ok(());
        };
        if self.network.is_lost(id, Way::Down) {
            return Ok(());
        }
        if let ToClient::Refused { reason, .. } = &message {
            self.tally.count(refusal(*reason));
        }
        let answered = match &message {
            ToClient::Answer { client, sequence, uid, note, .. } => Some(((*client, *sequence), *uid, note.stability)),
            _ => None,
        };
        let verdict = self.clients[client].on_message(self.now, node, message);
        if let (Some((request, uid, stability)), Some(verdict)) = (answered, verdict) {
            self.judge(client, request, uid, stability, verdict)?;
        }
        let Client { doubled, actor, .. } = &self.clients[client];
        if self.mode == Mode::Bounds && *doubled > 0 {
            return Err(Violation::among_all(format!("{} is shown a message under two uids", actor.account)));
        }
        self.after_client(client);
        Ok(())
    }

    /// Looks at what a client made of an answer.
    fn judge(
        &mut self,
        client: usize,
        request: (ClientId, u64),
        uid: Uid,
        stability: Stability,
        verdict: Verdict,
    ) -> Check {
        match verdict {
            Verdict::Answered => {
                self.checks.on_answered(request, uid);
                self.tally.count("requests answered");
                if let Some(sent) = self.sent_at.remove(&request) {
                    self.latencies.add(self.now.since(sent), stability);
                    if self.phase == Phase::Epilogue {
                        self.calm_latencies.add(self.now.since(sent), stability);
                    }
                }
            }
            Verdict::Differs { answer, .. } => {
                if self.mode == Mode::Bounds || self.phase == Phase::Epilogue {
                    let account = &self.clients[client].actor.account;
                    let what = format!("{account} got another answer than {answer:?} to its request {}", request.1);
                    return Err(Violation::among_all(what));
                }
                self.tally.count("answers that differ");
            }
            _ => {}
        }
        Ok(())
    }

    /// Lets the clients speak once more.
    fn on_epilogue(&mut self) {
        self.phase = Phase::Epilogue;
        self.checks.on_epilogue();
        for client in 0..self.clients.len() {
            if self.clients[client].lasting {
                self.clients[client].speak_again(self.now, EPILOGUE);
            }
            self.after_client(client);
        }
    }

    fn on_turn(&mut self, node: usize, incarnation: u64) {
        if self.nodes[node].incarnation != incarnation || self.nodes[node].turn != Some(self.now) {
            return;
        }
        self.nodes[node].turn = None;
        self.nodes[node].take_reading(self.now);
        let wait = Duration::from_nanos(self.random.u64(..TURN_MAX));
        self.plan(wait, Happening::Read { node, incarnation });
    }

    fn on_read(&mut self, node: usize, incarnation: u64) -> Check {
        if self.nodes[node].incarnation != incarnation || !self.nodes[node].is_up() {
            return Ok(());
        }
        let stop = std::mem::take(&mut self.stopping[node]);
        let turn = self.nodes[node].read(&mut self.random, self.now, stop);
        let Turn { sent, read, killed } = turn.map_err(|what| Violation::at(node, what))?;
        read.iter().for_each(|event| self.note(Some(node), || describe(event)));
        let network = &self.network;
        self.checks.on_sent(node, &sent, |connection| network.connection(connection).client)?;
        for sent in sent {
            self.note(Some(node), || describe_sent(&sent));
            match sent {
                Sent::ToClient { to, message } => self.send_to_client(to, message),
                Sent::ToPeer { to, message } => self.send_to_peer(node, to, message),
                Sent::PeerSeen { peer } => self.nodes[node].on_peer_seen(usize::from(peer.0)),
                Sent::Disconnect { peer } => self.disconnect(node, peer),
            }
        }
        if killed {
            self.end(node, "killed in a turn");
            return Ok(());
        }
        if let Some(applier) = self.nodes[node].applier.as_ref() {
            self.checks.on_written(node, applier.store(), applier.undone())?;
            if applier.is_stopped() {
                self.end(node, "stopped");
                return Ok(());
            }
        }
        self.plan_turn(node);
        Ok(())
    }

    fn on_resume(&mut self, node: usize, incarnation: u64) {
        if self.nodes[node].incarnation != incarnation || !self.nodes[node].paused {
            return;
        }
        self.nodes[node].paused = false;
        self.note(Some(node), || "is resumed".into());
        for happening in std::mem::take(&mut self.withheld[node]) {
            if let Happening::Turn { .. } = happening {
                self.nodes[node].turn = Some(self.now);
            }
            self.plan(Duration::ZERO, happening);
        }
        self.plan_turn(node);
    }

    fn on_start(&mut self, node: usize) -> Check {
        self.nodes[node].start(&mut self.random, self.now).map_err(|what| Violation::at(node, what))?;
        self.note(Some(node), || "starts".into());
        if let Some(store) = self.nodes[node].store() {
            self.checks.on_start(node, store)?;
        }
        self.dial_all(node);
        self.plan_turn(node);
        Ok(())
    }

    fn on_wake(&mut self, client: usize) {
        if self.wakes[client] == Some(self.now) {
            self.wakes[client] = None;
            self.clients[client].wake(&mut self.random, self.now);
            self.after_client(client);
        }
    }

    fn on_connect(&mut self, client: usize, node: usize) {
        if !self.nodes[node].is_up() {
            let wait = Duration::from_millis(50 + self.random.u64(..RECONNECT_MAX_MS));
            self.plan(wait, Happening::Connect { client, node });
            return;
        }
        let connection = self.network.connect(client, node, self.nodes[node].incarnation);
        self.tally.count("connections");
        self.clients[client].on_connected(self.now, node, connection);
        self.after_client(client);
    }

    /// Sends a message to a client, if the connection is there.
    fn send_to_client(&mut self, id: ConnectionId, message: ToClient) {
        if let Some(at) = self.network.send(&mut self.random, self.now, id, Way::Down) {
            self.tally.count("messages");
            self.plan_at(at, Happening::AtClient(id, Some(message)));
        }
    }

    /// Sends what a client wants sent, and sees to it that it is woken in time.
    fn after_client(&mut self, client: usize) {
        for (link, message) in self.clients[client].take_outbox() {
            self.on_said(client, &message);
            for node in 0..REPLICAS {
                let to = &self.clients[client].links[node];
                let is_meant = link.map_or(to.ready, |link| link == node);
                let Some(id) = to.connection.filter(|_| is_meant) else { continue };
                if let Some(at) = self.network.send(&mut self.random, self.now, id, Way::Up) {
                    self.tally.count("messages");
                    self.plan_at(at, Happening::AtNode(id, Some(message.clone())));
                }
            }
        }
        if let Some(wanted) = self.clients[client].wants_wake() {
            let at = wanted.max(self.now.next());
            if self.wakes[client].is_none_or(|planned| planned <= self.now || at < planned) {
                self.wakes[client] = Some(at);
                self.plan_at(at, Happening::Wake { client });
            }
        }
    }

    /// A client says something: what it is told from here on has to take account of all that was answered before.
    fn on_said(&mut self, client: usize, message: &ToReplica) {
        match message {
            ToReplica::Request { client, sequence, .. } => {
                self.sent_at.entry((*client, *sequence)).or_insert(self.now);
                self.checks.on_issued((*client, *sequence));
            }
            ToReplica::Query { id, .. } => self.checks.on_asked((client, *id)),
            _ => {}
        }
    }

    /// Plans a replica's next turn for when it wants one, unless an earlier one is planned.
    fn plan_turn(&mut self, node: usize) {
        let Some(wanted) = self.nodes[node].wants_turn(self.now) else { return };
        let at = Timestamp(wanted.0 + self.random.u64(1..TURN_MAX));
        if self.nodes[node].turn.is_none_or(|planned| at < planned) {
            self.nodes[node].turn = Some(at);
            let incarnation = self.nodes[node].incarnation;
            self.plan_at(at, Happening::Turn { node, incarnation });
        }
    }
}

/// What a refusal is counted as.
fn refusal(reason: Refusal) -> &'static str {
    match reason {
        Refusal::Late => "refused late",
        Refusal::Ahead => "refused ahead",
        Refusal::NotServing => "refused not serving",
        Refusal::Overloaded => "refused overloaded",
    }
}

/// What was read, for the trace.
fn describe(event: &Event) -> String {
    match event {
        Event::Request { from, timestamp, body, .. } => {
            let what = match body.id() {
                RequestId::Command { client, sequence } => format!("{client} {sequence}"),
                RequestId::Query { id } => format!("question {id}"),
            };
            format!("reads {what} of {timestamp} from {}, uid {}", from.0, body.uid(*timestamp))
        }
        other => format!("reads {other:?}"),
    }
}

/// What is sent, for the trace.
fn describe_sent(sent: &Sent) -> String {
    match sent {
        Sent::ToClient { to, message } => format!("sends {message:?} on {}", to.0),
        Sent::ToPeer { to, message } => format!("sends {} {message:?}", super::node::name(usize::from(to.0))),
        other => format!("{other:?}"),
    }
}
