//! Faults take effect here, as far as the bounds of the mode allow.

use super::{RunPhase, SimEvent, World};
use crate::simulator::client::speech;
use crate::simulator::faults::{self, Fault};
use crate::simulator::network::Way;
use crate::simulator::node::{self, Death};
use crate::simulator::scenes::{self, SceneKind};
use crate::simulator::{DELIVERY_BOUND, Mode, START, Scenario};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use stablechat_server::store::ChatStore;
use std::time::Duration;

/// The most microseconds after which the only replica that heard a client dies: before it has told the others, while they
/// fetch what it has told them of, or later.
const AMBUSH_MAX_US: [u64; 3] = [3_000, 12_000, 80_000];

/// How often an operator looks after a replica.
const OPERATOR: Duration = Duration::from_secs(5);
/// How wrong a clock is at most where a replica may serve with it, in nanoseconds. Sessions end that are not used for a day of log
/// time, and neither the checks nor the clients of the simulator know of such ends.
const SKEW_BEYOND: i64 = 6 * 3600 * 1_000_000_000;
/// What it is counted as when a clock is wrong as all replicas start.
const WRONG_AT_FIRST: &str = "clocks wrong at the first start";

impl World {
    /// Draws a fault and lets it take effect, and plans the next one.
    pub(super) fn on_fault(&mut self) {
        let wait = faults::gap(&mut self.random);
        if self.now.after(wait).since(START) >= faults::END {
            // The last fault is one whose only witness dies: nothing that comes of it may last.
            self.take_effect(Fault::Ambush);
            self.plan(wait, SimEvent::Heal);
            return;
        }

        let fault = self.draw_fault();
        if fault == Fault::Scene {
            match self.choose_scene() {
                Some(kind) => self.plan_scene(kind),
                None => self.plan(wait, SimEvent::Fault),
            }
            return;
        }
        self.plan(wait, SimEvent::Fault);
        self.take_effect(fault);
    }

    /// Draws a fault. Where a kind of scene is given, nothing but scenes occurs.
    fn draw_fault(&mut self) -> Fault {
        let Scenario { mode, replicas, scene, .. } = self.scenario;
        match scene {
            Some(_) => Fault::Scene,
            None => faults::draw(&mut self.random, mode, self.bounds, replicas, self.clients.len()),
        }
    }

    /// The scene that is played next; none when it is too late for any.
    fn choose_scene(&mut self) -> Option<SceneKind> {
        let Scenario { mode, replicas, scene, .. } = self.scenario;
        let is_early = self.now.since(START) < scenes::LAST;
        match scene {
            _ if !is_early => None,
            Some(kind) => Some(kind).filter(|kind| kind.is_possible(mode, replicas)),
            None => scenes::choose(&mut self.random, mode, replicas),
        }
    }

    /// Lets a fault take effect, and counts it if it did.
    pub(super) fn take_effect(&mut self, fault: Fault) {
        if self.strike(fault) {
            self.tally.count(fault.name());
        }
    }

    /// Lets a fault take effect, if the bounds of the mode allow it now. Says whether they did.
    fn strike(&mut self, fault: Fault) -> bool {
        match fault {
            // Its parts take effect one by one.
            Fault::Scene => false,
            Fault::BreakConnection { client, node } => self.break_connection(client, node),
            Fault::IsolateClient { client } => self.isolate(client),
            Fault::Sever { one, other } => self.sever(one, other),
            Fault::DeadClient => self.send_and_die(false),
            Fault::Ambush => self.send_and_die(true),
            Fault::Pause { node, length, .. } => self.pause(node, length),
            Fault::Kill { node, death } => self.kill(node, death),
            Fault::Wipe { node } => self.wipe(node),
            Fault::Stop { node } => self.stop(node),
            Fault::AlmostFullDisk { node, length } => self.fill_to_reserve(node, length),
            Fault::FullDisk { node, length } => self.fill(node, length),
            Fault::Throttle { node, length } => {
                let throttled = node.map_or(self.nodes(), |node| node..node + 1);
                for node in throttled {
                    let until = self.nodes[node].clock.read(self.now).after(length);
                    self.note(Some(node), || format!("refuses all commands as too fast for {length:?}"));
                    self.nodes[node].throttled_until = until;
                }
                true
            }
            Fault::Partition { .. } if self.nodes().any(|node| self.is_recovering(node)) => false,
            Fault::Partition { from, to, symmetric, length } => {
                self.cut_off(from, to, symmetric, length);
                true
            }
            Fault::Wall { node, from, length } => self.wall_off(node, from, length),
            Fault::SlowBodies { from, to, wait, length } => {
                self.note(Some(from), || format!("takes {wait:?} to send bodies to {} for {length:?}", node::name(to)));
                self.links.slow_bodies_down(from, to, wait, self.now.after(length));
                true
            }
            Fault::WrongClock { node, skew, length, kill } => self.set_clock_wrong(node, skew, length, kill),
        }
    }

    /// The numbers of all replicas.
    fn nodes(&self) -> std::ops::Range<usize> {
        0..self.nodes.len()
    }

    /// Lets nothing get from a replica to another, or to all others if there is no other.
    pub(super) fn cut_off(&mut self, from: usize, to: Option<usize>, symmetric: bool, length: Duration) {
        let until = self.now.after(length);
        self.note(Some(from), || {
            let whom = to.map_or("all others", node::name);
            let ways = if symmetric { "both ways" } else { "one way" };
            format!("is cut off from {whom} for {length:?}, {ways}")
        });
        for to in self.nodes().filter(|node| *node != from && to.is_none_or(|to| *node == to)) {
            self.links.block(from, to, until);
            if symmetric {
                self.links.block(to, from, until);
            }
        }
    }

    /// Lets a firewall refuse all connections to a replica, from another or from all others, in its name, and end those that there
    /// are: to those others the replica looks dead.
    fn wall_off(&mut self, node: usize, from: Option<usize>, length: Duration) -> bool {
        if !self.nodes[node].is_up() || self.nodes().any(|node| self.is_recovering(node)) {
            return false;
        }
        let until = self.now.after(length);
        let whom = from.map_or("all others", node::name);
        self.note(Some(node), || format!("is walled off from {whom} for {length:?}"));
        for other in self.nodes().filter(|other| *other != node && from.is_none_or(|from| *other == from)) {
            self.links.wall(other, node, until);
            self.sever(other, node);
        }
        true
    }

    /// From here on everything is within bounds.
    pub(super) fn on_heal(&mut self) {
        (self.is_healed, self.links.late_one_in) = (true, 0);
        for node in self.nodes() {
            self.nodes[node].throttled_until = Timestamp::ZERO;
            self.set_clock_right(node);
            // Where several clocks may be wrong, an operator restarts the replicas that do not follow. One alone recovers by
            // itself.
            if self.scenario.mode == Mode::Beyond {
                self.plan(OPERATOR, SimEvent::Operated { node });
            }
        }
    }

    /// An operator restarts a replica that stands down, although its machine's clock is right, and will look after it again.
    pub(super) fn on_operated(&mut self, node: usize) {
        if self.phase != RunPhase::Trouble {
            return;
        }
        if self.nodes[node].is_clock_off() && !self.nodes().any(|other| self.is_recovering(other)) {
            self.end(node, "restarted by an operator");
        }
        self.plan(OPERATOR, SimEvent::Operated { node });
    }

    /// Lets a replica start with a wrong clock, in some runs: one of several that start at once, or beyond bounds any of them.
    pub(super) fn start_with_wrong_clocks(&mut self) {
        let is_beyond = self.scenario.mode == Mode::Beyond;
        if self.scenario.scene.is_some() || self.random.u8(..4) > 0 || !is_beyond && self.nodes.len() < 3 {
            return;
        }
        let count = if is_beyond { self.random.usize(1..=self.nodes.len()) } else { 1 };
        let nodes: Vec<usize> = self.nodes().collect();
        for node in self.random.choose_multiple(nodes, count) {
            let drawn = faults::wrong_skew(&mut self.random);
            let skew = self.limited(drawn);
            self.note(Some(node), || format!("has its wall clock {skew} ns ahead from the start"));
            self.nodes[node].clock.set_wrong(self.now, skew);
            let length = Duration::from_millis(self.random.u64(1000..8000));
            self.plan(length, SimEvent::ClockSetRight { node });
            self.tally.count(WRONG_AT_FIRST);
        }
    }

    /// Sets a machine's wall clock wrong for a while, and lets its replica start with it or not. Within bounds, the clocks of all
    /// others are right.
    fn set_clock_wrong(&mut self, node: usize, skew: i64, length: Duration, kill: bool) -> bool {
        let is_another_wrong = self.nodes().any(|other| self.nodes[other].clock.is_wrong());
        let is_possible = match self.scenario.mode {
            Mode::Bounds => !is_another_wrong && self.can_spare(node),
            Mode::Beyond => true,
        };
        if !is_possible || !self.nodes[node].is_up() || self.nodes[node].paused {
            return false;
        }
        let skew = self.limited(skew);
        self.note(Some(node), || format!("has its wall clock set {skew} ns ahead for {length:?}"));
        self.nodes[node].clock.set_wrong(self.now, skew);
        self.plan(length, SimEvent::ClockSetRight { node });
        if kill {
            self.end(node, "killed");
        }
        true
    }

    /// How wrong a clock is, in nanoseconds. Beyond bounds it is less than [`SKEW_BEYOND`].
    fn limited(&self, skew: i64) -> i64 {
        match self.scenario.mode {
            Mode::Bounds => skew,
            Mode::Beyond => skew % SKEW_BEYOND,
        }
    }

    /// Sets a machine's wall clock right, if it is wrong.
    pub(super) fn set_clock_right(&mut self, node: usize) {
        if self.nodes[node].clock.is_wrong() {
            self.note(Some(node), || "has its wall clock set right".into());
            self.nodes[node].clock.set_right(&mut self.random, self.now);
        }
    }

    /// Whether a replica has lost its disk and does not serve again. Until then the others are left alone: if it served
    /// without having heard of them, all that it had would give way to a snapshot, in which the checks cannot see what each
    /// request came to.
    fn is_recovering(&self, node: usize) -> bool {
        self.wiped[node] && !self.nodes[node].is_serving()
    }

    /// Whether a replica may be taken away for a while: another one serves, and none has to learn everything from it.
    fn can_spare(&self, node: usize) -> bool {
        let mut others = self.nodes().filter(|other| *other != node);
        if others.clone().any(|other| self.is_recovering(other)) {
            return false;
        }
        match self.scenario {
            Scenario { mode: Mode::Beyond, .. } => true,
            // A replica without peers has to remember what it answered, too. It must run for a while to answer anything.
            Scenario { replicas: 1, .. } => self.now.since(self.nodes[node].started) > DELIVERY_BOUND,
            _ => others.any(|other| self.nodes[other].is_well()),
        }
    }

    /// Breaks a client's connection.
    fn break_connection(&mut self, client: usize, node: usize) -> bool {
        let link = &self.clients[client].links[node];
        let Some(id) = link.connection.filter(|id| !self.network.is_broken(*id)) else { return false };
        self.note(Some(node), || format!("loses the connection {} to client {client}", id.0));
        let lost = [self.random.bool(), self.random.bool()];
        let [node_notices, client_notices] = self.network.break_off(&mut self.random, self.now, id, lost);
        self.plan_at(node_notices, SimEvent::AtNode(id, None));
        self.plan_at(client_notices, SimEvent::AtClient(id, None));
        true
    }

    /// Breaks all connections of a client.
    fn isolate(&mut self, client: usize) -> bool {
        let broken = self.nodes().filter(|node| self.break_connection(client, *node)).count();
        broken > 0
    }

    /// Breaks the connection between two replicas.
    fn sever(&mut self, one: usize, other: usize) -> bool {
        let Some(id) = self.nodes[one].links.get(other) else { return false };
        self.note(Some(one), || format!("loses the connection to {}", node::name(other)));
        let lost: Vec<usize> = [one, other].into_iter().filter(|_| self.random.bool()).collect();
        self.end_link(id, [one, other], &lost);
        true
    }

    /// A client sends a request to some of the replicas and dies; in an ambush to one, which dies soon after.
    fn send_and_die(&mut self, ambush: bool) -> bool {
        let replicas = self.nodes.len();
        let up: Vec<usize> = self.nodes().filter(|node| self.nodes[*node].is_serving()).collect();
        let mut reached = self.random.choose_multiple(up, if ambush { 1 } else { replicas });
        reached.truncate(self.random.usize(..=replicas).max(usize::from(ambush)));
        if reached.is_empty() {
            return false;
        }

        let session = ClientId(self.random.u128(..).to_be_bytes());
        let latest = -(self.bounds.lateness_max().as_nanos() as i64);
        let oldest = if self.random.bool() { -20_000_000 } else { latest };
        let timestamp = self.now.offset_by(self.random.i64(oldest..=30_000_000));
        let (uid, said) = speech(&self.clients[0], &self.clients[1], session, timestamp);
        self.checks.on_issued(uid);
        let mut heard = self.now;
        for node in &reached {
            let id = self.network.connect(usize::MAX, *node, self.nodes[*node].incarnation);
            for message in said.clone() {
                if let Some(at) = self.network.send(&mut self.random, self.now, id, Way::Up) {
                    self.plan_at(at, SimEvent::AtNode(id, Some(message)));
                    heard = at;
                }
            }
            let [gone, _] = self.network.break_off(&mut self.random, self.now, id, [false, true]);
            self.plan_at(gone, SimEvent::AtNode(id, None));
        }
        if let (true, &[node]) = (ambush, &reached[..]) {
            let most = AMBUSH_MAX_US[self.random.usize(..AMBUSH_MAX_US.len())];
            let wait = Duration::from_micros(self.random.u64(..most));
            self.plan_at(heard.after(wait), SimEvent::Ambush { node });
        }
        true
    }

    /// Pauses a replica.
    pub(super) fn pause(&mut self, node: usize, length: Duration) -> bool {
        let may_pause = self.nodes[node].is_up() && !self.nodes[node].paused && self.can_spare(node);
        if may_pause {
            self.note(Some(node), || format!("is paused for {length:?}"));
            self.nodes[node].paused = true;
            let incarnation = self.nodes[node].incarnation;
            self.plan(length, SimEvent::Resume { node, incarnation });
        }
        may_pause
    }

    /// Kills a replica now, or in its next turn.
    pub(super) fn kill(&mut self, node: usize, death: Option<Death>) -> bool {
        let may_die = self.nodes[node].is_up() && self.can_spare(node);
        match death {
            _ if !may_die => {}
            // A paused one has no turn to die in.
            Some(_) if self.nodes[node].paused => return false,
            Some(death) => self.nodes[node].death = Some(death),
            None => self.end(node, "killed"),
        }
        may_die
    }

    /// Leaves a replica no more room on its disk than its reserve, so that it refuses clients' requests.
    fn fill_to_reserve(&mut self, node: usize, length: Duration) -> bool {
        let may_fill = self.can_be_full(node);
        if may_fill {
            self.note(Some(node), || format!("has no room for clients' requests for {length:?}"));
            let incarnation = self.nodes[node].incarnation;
            self.note_room(node, incarnation, false);
            self.plan(length, SimEvent::Room { node, incarnation });
        }
        may_fill
    }

    /// Leaves a replica no room on its disk: its next commit fails, and with that ends all that it had in memory. It starts
    /// when there is room.
    fn fill(&mut self, node: usize, length: Duration) -> bool {
        let may_fill = self.can_be_full(node);
        if may_fill {
            self.note(Some(node), || format!("has a full disk for {length:?}"));
            self.nodes[node].death = Some(Death::BeforeCommit);
            self.stays_down[node] = Some(length);
        }
        may_fill
    }

    /// Whether a replica is in a state to notice a full disk, and the others can do without it.
    fn can_be_full(&self, node: usize) -> bool {
        self.nodes[node].is_up() && !self.nodes[node].paused && self.can_spare(node)
    }

    /// Tells a replica whether it has room for what clients want.
    pub(super) fn note_room(&mut self, node: usize, incarnation: u64, has_room: bool) {
        if self.nodes[node].incarnation == incarnation
            && let Some(applier) = &mut self.nodes[node].applier
        {
            applier.note_room(has_room);
        }
    }

    /// Kills a replica whose disk is lost, unless only that has something.
    fn wipe(&mut self, node: usize) -> bool {
        let others: Vec<usize> = self.nodes().filter(|other| *other != node).collect();
        let is_elsewhere = self.checks.is_elsewhere(node, &others);
        let is_reached = |other: &usize| self.nodes[*other].is_up() && !self.links.is_blocked(self.now, node, *other);
        // An orphan is in no log until it is submitted again.
        let has_orphans = |store: &ChatStore| store.orphans(Uid::MIN, 1).is_ok_and(|orphans| !orphans.is_empty());
        let has_orphans = self.nodes[node].store().is_some_and(has_orphans);
        if !self.nodes[node].is_up() || !others.iter().all(is_reached) || !is_elsewhere || has_orphans {
            return false;
        }
        self.end(node, "killed, and its disk lost");
        self.nodes[node].wipe();
        self.wiped[node] = true;
        self.checks.on_wiped(node);
        true
    }

    /// Asks a replica to stop.
    pub(super) fn stop(&mut self, node: usize) -> bool {
        let may_stop = self.nodes[node].is_up() && !self.nodes[node].paused && self.can_spare(node);
        if may_stop {
            self.note(Some(node), || "is asked to stop".into());
            self.stopping[node] = true;
            self.nodes[node].leaving = true;
            self.plan_turn_at_once(node);
        }
        may_stop
    }

    /// A replica's process ends; it is started again later.
    pub(super) fn end(&mut self, node: usize, how: &str) {
        let is_graceful = how == "stopped";
        let lost_to: Vec<usize> = (0..self.nodes.len()).filter(|_| !is_graceful && self.random.bool()).collect();
        if how == "killed" && self.scenario.scene.is_none() && self.random.u8(..5) == 0 {
            return self.vanish(node, &lost_to);
        }
        self.end_losing(node, how, &lost_to);
    }

    /// A replica's machine is gone, and what is under way from it to these is lost. Nobody notices that its connections have ended,
    /// and its address does not answer. It is there again later.
    pub(super) fn vanish(&mut self, node: usize, lost_to: &[usize]) {
        self.note(Some(node), || "is gone with its machine".into());
        self.tally.count("machines gone");
        let links = self.links.of(node, self.nodes[node].incarnation);
        let unnoticed = links.into_iter().map(|link| {
            let peer = self.links.peer(link, node);
            let lost: &[usize] = if lost_to.contains(&peer) { &[node, peer] } else { &[node] };
            self.links.end(link, lost);
            (peer, link)
        });
        self.unnoticed[node] = Some(unnoticed.collect());
        self.end_process(node, false);
    }

    /// A replica's process ends, and what is under way from it to these is lost. It is started again later.
    pub(super) fn end_losing(&mut self, node: usize, how: &str, lost_to: &[usize]) {
        self.note(Some(node), || format!("is {how}"));
        for link in self.links.of(node, self.nodes[node].incarnation) {
            let peer = self.links.peer(link, node);
            let lost: &[usize] = if lost_to.contains(&peer) { &[node, peer] } else { &[node] };
            self.end_link(link, [peer, peer], lost);
        }
        self.end_process(node, how == "stopped");
    }

    /// Ends a replica's process, and its connections with clients. It is started again later.
    fn end_process(&mut self, node: usize, is_graceful: bool) {
        self.nodes[node].kill();
        self.withheld[node].clear();
        self.stopping[node] = false;
        for id in self.network.of_node(node) {
            let lost = [true, !is_graceful && self.random.bool()];
            let [_, client_notices] = self.network.break_off(&mut self.random, self.now, id, lost);
            self.plan_at(client_notices, SimEvent::AtClient(id, None));
        }
        let wait = self.stays_down[node].take().unwrap_or_else(|| faults::down_time(&mut self.random));
        self.plan(wait, SimEvent::Start { node });
    }

    /// Plans a turn whether the replica wants one or not, since a signal has come.
    fn plan_turn_at_once(&mut self, node: usize) {
        if !self.nodes[node].is_in_turn() {
            let at = self.now.next();
            self.nodes[node].turn = Some(at);
            let incarnation = self.nodes[node].incarnation;
            self.plan_at(at, SimEvent::Turn { node, incarnation });
        }
    }
}
