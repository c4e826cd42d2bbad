//! Letting things go wrong, as far as the bounds allow.

use super::{SimEvent, World};
use crate::simulator::client::{label, speech};
use crate::simulator::faults::{self, Fault};
use crate::simulator::network::Way;
use crate::simulator::node::{self, Death};
use crate::simulator::{DELIVERY_BOUND, Mode, REPLICAS, START};
use stablechat_protocol::session::ClientId;
use std::time::Duration;

/// The most microseconds after which the only replica that heard a client dies: before it has told the others, while they
/// fetch what it has told them of, or later.
const AMBUSH_MAX_US: [u64; 3] = [3_000, 12_000, 80_000];

impl World {
    /// Something goes wrong.
    pub(super) fn on_fault(&mut self) {
        let wait = faults::gap(&mut self.random);
        let fault = faults::choose(&mut self.random, self.mode, self.clients.len());
        if fault == Fault::Scene && self.now.since(START) < faults::LAST_SCENE {
            self.plan_scene();
            return;
        }
        if self.now.after(wait).since(START) < faults::END {
            self.plan(wait, SimEvent::Fault);
        } else {
            // The last word is had by one whose only hearer dies: nothing that comes of it may last.
            self.stray(true);
            self.plan(wait, SimEvent::Heal);
            return;
        }
        match fault {
            Fault::Scene => {}
            Fault::Break { client, node } => self.break_link(client, node, "connections broken"),
            Fault::Isolate { client } => {
                self.tally.count("clients isolated");
                (0..REPLICAS).for_each(|node| self.break_link(client, node, "connections broken by isolation"));
            }
            Fault::Sever { one, other } => self.sever(one, other),
            Fault::Stray { ambush } => self.stray(ambush),
            Fault::Pause { node, pause } => self.pause(node, pause),
            Fault::Kill { node, death, wipe: false } => self.kill(node, death),
            Fault::Kill { node, wipe: true, .. } => self.wipe(node),
            Fault::Stop { node } => self.stop(node),
            Fault::Full { node, length } => self.fill(node, length),
            Fault::Partition { .. } if (0..REPLICAS).any(|node| self.is_recovering(node)) => {}
            Fault::Partition { from, to, symmetric, length } => {
                self.tally.count(if symmetric { "partitions" } else { "partitions one way" });
                let until = self.now.after(length);
                self.note(Some(from), || format!("is cut off from {} for {length:?}, {symmetric}", node::name(to)));
                for to in (0..REPLICAS).filter(|node| *node != from && (to == from || *node == to)) {
                    self.links.block(from, to, until);
                    if symmetric {
                        self.links.block(to, from, until);
                    }
                }
            }
            Fault::Step { node, skew } => {
                self.tally.count("clocks set");
                self.note(Some(node), || format!("has its clock set to {skew} ns ahead"));
                self.nodes[node].clock.set(self.now, skew);
            }
        }
    }

    /// From here on everything is within bounds.
    pub(super) fn on_heal(&mut self) {
        self.links.late_one_in = 0;
        for node in 0..REPLICAS {
            if self.nodes[node].clock.skew(self.now).abs() > node::SKEW_MAX {
                let skew = self.random.i64(-node::SKEW_MAX..=node::SKEW_MAX);
                self.nodes[node].clock.set(self.now, skew);
            }
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
        if (0..REPLICAS).any(|other| other != node && self.is_recovering(other)) {
            return false;
        }
        let is_well = |other: usize| {
            let other = &self.nodes[other];
            other.is_serving() && !other.paused && !other.leaving && other.death.is_none()
        };
        self.mode == Mode::Beyond || (0..REPLICAS).any(|other| other != node && is_well(other))
    }

    /// Breaks a client's connection.
    fn break_link(&mut self, client: usize, node: usize, kind: &'static str) {
        let link = &self.clients[client].links[node];
        let Some(id) = link.connection.filter(|id| !self.network.is_broken(*id)) else { return };
        self.tally.count(kind);
        self.note(Some(node), || format!("loses the connection {} to client {client}", id.0));
        let lost = [self.random.bool(), self.random.bool()];
        let [node_notices, client_notices] = self.network.break_off(&mut self.random, self.now, id, lost);
        self.plan_at(node_notices, SimEvent::AtNode(id, None));
        self.plan_at(client_notices, SimEvent::AtClient(id, None));
    }

    /// Breaks the connection between two replicas.
    fn sever(&mut self, one: usize, other: usize) {
        let Some(id) = self.nodes[one].link(other) else { return };
        self.tally.count("connections between replicas broken");
        self.note(Some(one), || format!("loses the connection to {}", node::name(other)));
        let lost: Vec<usize> = [one, other].into_iter().filter(|_| self.random.bool()).collect();
        self.end_link(id, [one, other], &lost);
    }

    /// A client says something to some of the replicas, and dies.
    fn stray(&mut self, ambush: bool) {
        let up: Vec<usize> = (0..REPLICAS).filter(|node| self.nodes[*node].is_serving()).collect();
        let mut reached = self.random.choose_multiple(up, if ambush { 1 } else { REPLICAS });
        reached.truncate(self.random.usize(..=REPLICAS).max(usize::from(ambush)));
        if reached.is_empty() {
            return;
        }
        self.tally.count(if ambush { "clients dead whose only replica dies" } else { "clients dead half-way" });
        let session = ClientId(self.random.u128(..).to_be_bytes());
        let oldest = if self.random.bool() { -20_000_000 } else { -320_000_000 };
        let timestamp = self.now.offset_by(self.random.i64(oldest..=30_000_000));
        let said = speech(&self.clients[0], &self.clients[1], session, timestamp, label(session, 1));
        self.checks.on_issued((session, 1));
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
    }

    /// Pauses a replica.
    pub(super) fn pause(&mut self, node: usize, pause: Duration) {
        if !self.nodes[node].is_up() || self.nodes[node].paused || !self.can_spare(node) {
            return;
        }
        self.tally.count(match pause {
            pause if pause > DELIVERY_BOUND => "pauses longer than the bound",
            pause if pause > DELIVERY_BOUND / 2 => "pauses longer than half the bound",
            _ => "pauses",
        });
        self.note(Some(node), || format!("is paused for {pause:?}"));
        self.nodes[node].paused = true;
        let incarnation = self.nodes[node].incarnation;
        self.plan(pause, SimEvent::Resume { node, incarnation });
    }

    /// Kills a replica now, or in its next turn.
    pub(super) fn kill(&mut self, node: usize, death: Option<Death>) {
        if !self.nodes[node].is_up() || !self.can_spare(node) {
            return;
        }
        match death {
            Some(death) if !self.nodes[node].paused => {
                self.tally.count(match death {
                    Death::BeforeCommit => "kills before a commit",
                    Death::AfterRelease(_) => "kills after something was let out",
                });
                self.nodes[node].death = Some(death);
            }
            _ => {
                self.tally.count("kills between turns");
                self.end(node, "killed");
            }
        }
    }

    /// Leaves a replica no more room on its disk than its reserve, or none. In the one case clients are refused; in the other it
    /// is to all others as if it had ended when it next writes, and starts when there is room.
    fn fill(&mut self, node: usize, length: Duration) {
        if self.nodes[node].is_up() && !self.nodes[node].paused && self.can_spare(node) {
            if length.as_millis().is_multiple_of(2) {
                self.tally.count("disks almost full");
                self.note(Some(node), || format!("has no room for what clients want for {length:?}"));
                let incarnation = self.nodes[node].incarnation;
                self.note_room(node, incarnation, false);
                return self.plan(length, SimEvent::Room { node, incarnation });
            }
            self.tally.count("disks full");
            self.note(Some(node), || format!("has a full disk for {length:?}"));
            self.nodes[node].death = Some(Death::BeforeCommit);
            self.stays_down[node] = Some(length);
        }
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
    fn wipe(&mut self, node: usize) {
        let others: Vec<usize> = (0..REPLICAS).filter(|other| *other != node).collect();
        let is_elsewhere = self.checks.is_elsewhere(node, &others);
        let is_reached = |other: &usize| self.nodes[*other].is_up() && !self.links.is_blocked(self.now, node, *other);
        if !self.nodes[node].is_up() || !others.iter().all(is_reached) || !is_elsewhere {
            return;
        }
        self.tally.count("disks lost");
        self.end(node, "killed, and its disk lost");
        self.nodes[node].wipe();
        self.wiped[node] = true;
        self.checks.on_wiped(node);
    }

    /// Asks a replica to stop.
    pub(super) fn stop(&mut self, node: usize) {
        if self.nodes[node].is_up() && !self.nodes[node].paused && self.can_spare(node) {
            self.tally.count("replicas stopped");
            self.note(Some(node), || "is asked to stop".into());
            self.stopping[node] = true;
            self.nodes[node].leaving = true;
            self.plan_turn_at_once(node);
        }
    }

    /// A replica's process ends; it is started again later.
    pub(super) fn end(&mut self, node: usize, how: &str) {
        let is_graceful = how == "stopped";
        let lost_to: Vec<usize> = (0..REPLICAS).filter(|_| !is_graceful && self.random.bool()).collect();
        self.end_losing(node, how, &lost_to);
    }

    /// A replica's process ends, and what is under way from it to these is lost. It is started again later.
    pub(super) fn end_losing(&mut self, node: usize, how: &str, lost_to: &[usize]) {
        self.note(Some(node), || format!("is {how}"));
        for link in self.links.of(node, self.nodes[node].incarnation) {
            let peer = self.links.peer(link, node);
            let lost: &[usize] = if lost_to.contains(&peer) { &[node, peer] } else { &[node] };
            self.end_link(link, [peer, peer], lost);
        }
        let is_graceful = how == "stopped";
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
