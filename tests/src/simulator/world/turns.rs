//! The replicas' processes: their starts, and their turns.

use super::{SimEvent, World};
use crate::simulator::checks::Checks;
use crate::simulator::node::{self, Reading, Wake};
use crate::simulator::situations::{CUT_SHORT, ENDED_FOR_ITS_CLOCK, RAISED_ITS_CLOCK, STOOD_DOWN};
use crate::simulator::{Check, Violation};
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::request::RequestId;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use stablechat_server::net::{NetCommand, NetEvent};
use stablechat_server::replica::{PeerId, Submission};
use std::time::Duration;

/// The most nanoseconds from when a replica wants a turn to its beginning.
pub(super) const TURN_MAX: u64 = 2_000_000;
/// The most nanoseconds from one part of a turn to the next.
pub(super) const PART_MAX: u64 = 1_000_000;

impl World {
    /// A replica begins a turn.
    pub(super) fn on_turn(&mut self, node: usize, incarnation: u64) {
        if self.nodes[node].incarnation != incarnation || self.nodes[node].turn != Some(self.now) {
            return;
        }
        self.nodes[node].turn = None;
        if self.nodes[node].is_in_turn() {
            // It was paused in the middle of one, and had a next one planned.
            return;
        }
        self.nodes[node].take_reading(self.now);
        let wait = Duration::from_nanos(self.random.u64(..PART_MAX));
        self.plan(wait, SimEvent::Read { node, incarnation });
    }

    /// A replica's loop reads what has arrived.
    pub(super) fn on_read(&mut self, node: usize, incarnation: u64) -> Check {
        if self.nodes[node].incarnation != incarnation || !self.nodes[node].is_up() {
            return Ok(());
        }
        let stop = std::mem::take(&mut self.stopping[node]);
        let Reading { sent, read } = self.nodes[node].read(&mut self.random, self.now, stop);
        read.iter().for_each(|event| self.note(Some(node), || describe(event)));
        let network = &self.network;
        self.checks.on_read(node, &read, |connection| network.connection(connection).client)?;
        self.send_all(node, sent)?;
        let wait = Duration::from_nanos(self.random.u64(..PART_MAX));
        self.plan(wait, SimEvent::Apply { node, incarnation });
        if let Some(pause) = self.nodes[node].pause_in_turn.take() {
            self.pause(node, pause);
        }
        Ok(())
    }

    /// A replica's applier handles what was read.
    pub(super) fn on_apply(&mut self, node: usize, incarnation: u64) -> Check {
        if self.nodes[node].incarnation != incarnation || !self.nodes[node].is_up() {
            return Ok(());
        }
        self.wiped[node] &= !self.nodes[node].is_serving();
        let asked = self.nodes[node].asked_for();
        let was_off = self.nodes[node].is_clock_off();
        let Wake { sent, killed, raised } =
            self.nodes[node].wake(self.now).map_err(|what| Violation::at(node, what))?;
        self.tally.add(STOOD_DOWN, u64::from(!was_off && self.nodes[node].is_clock_off()));
        self.tally.add(RAISED_ITS_CLOCK, u64::from(raised));
        // While a replica catches up, it also lists requests that it is still putting into its log, a batch at each wake.
        if let Some(applier) = self.nodes[node].applier.as_ref().filter(|_| self.nodes[node].is_serving() && !killed) {
            Checks::check_listed(node, &sent, applier)?;
        }
        let owed = owed(asked, &sent);
        self.send_all(node, sent)?;
        if killed {
            self.end(node, "killed in a turn");
            return Ok(());
        }
        if let Some(applier) = self.nodes[node].applier.as_ref() {
            self.checks.on_written(node, applier.store(), applier.undone(), applier.snapshots_installed())?;
            self.checks.check_held(node, &owed, applier)?;
            if applier.replica().has_stable() {
                self.tally.count(CUT_SHORT);
            }
            if applier.is_stopped() {
                self.end(node, "stopped");
                return Ok(());
            }
        }
        if self.nodes[node].has_to_start_again() {
            self.tally.count(ENDED_FOR_ITS_CLOCK);
            self.end(node, "ended, to start with the right clock");
            return Ok(());
        }
        self.plan_turn(node);
        Ok(())
    }

    /// Sends what a replica wants to send.
    fn send_all(&mut self, node: usize, sent: Vec<NetCommand>) -> Check {
        let network = &self.network;
        self.checks.on_sent(node, &sent, |connection| network.connection(connection).client)?;
        for sent in sent {
            self.note(Some(node), || describe_sent(&sent));
            match sent {
                NetCommand::ToClients { to, message } => {
                    to.into_iter().for_each(|to| self.send_to_client(to, message.clone()));
                }
                NetCommand::ToPeer { to, message } => self.send_to_peer(node, to, message)?,
                NetCommand::ConnectionSeen { peer } => self.nodes[node].links.on_seen(usize::from(peer.0)),
                NetCommand::Disconnect { peer } => self.disconnect(node, peer),
                NetCommand::AskAddress { peer, number } => self.ask_address(node, usize::from(peer.0), number),
                NetCommand::DropQuestion { peer } => self.nodes[node].links.drop_question(usize::from(peer.0)),
                NetCommand::ScrapeResult { .. } | NetCommand::WrongKey { .. } => {}
            }
        }
        Ok(())
    }

    /// A paused replica goes on where it was.
    pub(super) fn on_resume(&mut self, node: usize, incarnation: u64) {
        if self.nodes[node].incarnation != incarnation || !self.nodes[node].paused {
            return;
        }
        self.nodes[node].paused = false;
        self.note(Some(node), || "is resumed".into());
        for event in std::mem::take(&mut self.withheld[node]) {
            if let SimEvent::Turn { .. } = event {
                self.nodes[node].turn = Some(self.now);
            }
            self.plan(Duration::ZERO, event);
        }
        self.plan_turn(node);
    }

    /// A replica's process is started.
    pub(super) fn on_start(&mut self, node: usize) -> Check {
        self.nodes[node].start(&mut self.random, self.now).map_err(|what| Violation::at(node, what))?;
        self.note(Some(node), || "starts".into());
        if let Some(store) = self.nodes[node].store() {
            self.checks.on_start(node, store)?;
        }
        self.let_notice(node);
        self.dial_all(node);
        self.plan_turn(node);
        Ok(())
    }

    /// Plans a replica's next turn for when it wants one, unless an earlier one is planned.
    pub(super) fn plan_turn(&mut self, node: usize) {
        let Some(wanted) = self.nodes[node].wants_turn(self.now) else { return };
        let at = Timestamp(wanted.0 + self.random.u64(1..TURN_MAX));
        if self.nodes[node].turn.is_none_or(|planned| at < planned) {
            self.nodes[node].turn = Some(at);
            let incarnation = self.nodes[node].incarnation;
            self.plan_at(at, SimEvent::Turn { node, incarnation });
        }
    }
}

/// The requests that peers have asked for, and that were neither sent to them nor taken back.
fn owed(mut asked: Vec<(PeerId, Uid)>, sent: &[NetCommand]) -> Vec<(PeerId, Uid)> {
    for sent in sent {
        let NetCommand::ToPeer { to, message } = sent else { continue };
        asked.retain(|(peer, uid)| match message {
            PeerMessage::Bodies { requests } => peer != to || requests.iter().all(|held| held.uid != *uid),
            PeerMessage::NotHeld { uids } => peer != to || !uids.contains(uid),
            _ => true,
        });
    }
    asked
}

/// What was read, for the trace.
fn describe(event: &NetEvent) -> String {
    match event {
        NetEvent::Request(Submission { from, timestamp, body, .. }) => {
            let what = match body.id() {
                RequestId::Command { client, sequence } => format!("{client} {sequence}"),
                RequestId::Query { id } => format!("query {id}"),
            };
            format!("reads {what} of {timestamp} from {}, uid {}", from.0, body.uid(*timestamp))
        }
        other => format!("reads {other:?}"),
    }
}

/// What is sent, for the trace.
fn describe_sent(sent: &NetCommand) -> String {
    match sent {
        NetCommand::ToClients { to, message } => format!("sends {message:?} on {to:?}"),
        NetCommand::ToPeer { to, message } => format!("sends {} {message:?}", node::name(usize::from(to.0))),
        other => format!("{other:?}"),
    }
}
