//! Letting things go wrong, as far as the bounds allow.

use super::{Happening, World};
use crate::simulator::client::Client;
use crate::simulator::faults::{self, Fault};
use crate::simulator::node::Death;
use crate::simulator::{DELIVERY_BOUND, REPLICAS, START};
use std::time::Duration;

/// How long a connection to a steady replica has to last before it may break, so that what one loses is sent again before
/// the next can lose it: Δ and something.
const CALM: Duration = Duration::from_millis(1500);

impl World {
    /// Something goes wrong.
    pub(super) fn on_fault(&mut self) {
        let wait = faults::gap(&mut self.random);
        if self.now.after(wait).since(START) < faults::END {
            self.plan(wait, Happening::Fault);
        }
        let fault = faults::choose(&mut self.random, self.checks.steady, self.clients.len());
        match fault {
            Fault::Break { client, node } => self.break_link(client, node, "connections broken"),
            Fault::Isolate { client } => {
                self.tally.count("clients isolated");
                (0..REPLICAS).for_each(|node| self.break_link(client, node, "connections broken by isolation"));
            }
            Fault::Pause { node, pause } => self.pause(node, pause),
            Fault::Kill { node, death } => self.kill(node, death),
            Fault::Stop { node } => {
                if self.nodes[node].is_up() && !self.nodes[node].paused {
                    self.tally.count("replicas stopped");
                    self.note(Some(node), || "is asked to stop".into());
                    self.stopping[node] = true;
                    self.plan_turn_at_once(node);
                }
            }
        }
    }

    /// Breaks a connection, unless that would be out of bounds.
    fn break_link(&mut self, client: usize, node: usize, kind: &'static str) {
        let link = &self.clients[client].links[node];
        let Some(id) = link.connection.filter(|id| !self.network.is_broken(*id)) else { return };
        let since = self.welcomed.get(&(client, node)).copied();
        let is_calm = link.ready && since.is_some_and(|since| self.now.since(since) > CALM);
        if self.checks.steady[node] && (self.nodes[node].paused || !is_calm) {
            return;
        }
        self.tally.count(kind);
        self.note(Some(node), || format!("loses the connection {} to client {client}", id.0));
        let lost = [self.random.bool(), self.random.bool()];
        let [node_notices, client_notices] = self.network.break_off(&mut self.random, self.now, id, lost);
        self.plan_at(node_notices, Happening::AtNode(id, None));
        self.plan_at(client_notices, Happening::AtClient(id, None));
    }

    /// Pauses a replica, unless that would be out of bounds.
    fn pause(&mut self, node: usize, pause: Duration) {
        let is_connected = |client: &Client| {
            let link = &client.links[node];
            link.ready && link.connection.is_some_and(|id| !self.network.is_broken(id))
        };
        let is_allowed = !self.checks.steady[node] || self.clients.iter().all(is_connected);
        if !self.nodes[node].is_up() || self.nodes[node].paused || !is_allowed {
            return;
        }
        self.tally.count(if pause > DELIVERY_BOUND { "pauses longer than the bound" } else { "pauses" });
        self.note(Some(node), || format!("is paused for {pause:?}"));
        self.nodes[node].paused = true;
        let incarnation = self.nodes[node].incarnation;
        self.plan(pause, Happening::Resume { node, incarnation });
    }

    /// Kills a replica now, or in its next turn.
    fn kill(&mut self, node: usize, death: Option<Death>) {
        if !self.nodes[node].is_up() {
            return;
        }
        match death {
            Some(death) if !self.nodes[node].paused => {
                self.tally.count(match death {
                    Death::BeforeCommit => "kills before a commit",
                    Death::AfterRelease => "kills after answers were let out",
                });
                self.nodes[node].death = Some(death);
            }
            _ => {
                self.tally.count("kills between turns");
                self.end(node, "killed");
            }
        }
    }

    /// A replica's process ends; it is started again later.
    pub(super) fn end(&mut self, node: usize, how: &str) {
        self.note(Some(node), || format!("is {how}"));
        self.nodes[node].kill();
        self.withheld[node].clear();
        self.stopping[node] = false;
        for id in self.network.of_node(node) {
            let lost = [true, self.random.bool()];
            let [_, client_notices] = self.network.break_off(&mut self.random, self.now, id, lost);
            self.plan_at(client_notices, Happening::AtClient(id, None));
        }
        let wait = faults::down_time(&mut self.random);
        self.plan(wait, Happening::Start { node });
    }

    /// Plans a turn whether the replica wants one or not, since a signal has come.
    fn plan_turn_at_once(&mut self, node: usize) {
        if !self.nodes[node].is_in_turn() {
            let at = self.now.next();
            self.nodes[node].turn = Some(at);
            let incarnation = self.nodes[node].incarnation;
            self.plan_at(at, Happening::Turn { node, incarnation });
        }
    }
}
