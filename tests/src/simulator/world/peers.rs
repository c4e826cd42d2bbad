//! The connections between replicas: making them, what arrives on them, and their end.

use super::{SimEvent, World};
use crate::simulator::Check;
use crate::simulator::links::LinkId;
use crate::simulator::node;
use stablechat_protocol::peer::PeerMessage;
use stablechat_server::replica::PeerId;
use std::time::Duration;

/// The most milliseconds before a replica dials again.
const REDIAL_MAX_MS: u64 = 50;

impl World {
    /// Plans to dial, if this is the replica that dials in the pair.
    pub(super) fn redial(&mut self, from: usize, to: usize) {
        if from < to {
            let wait = Duration::from_millis(1 + self.random.u64(..REDIAL_MAX_MS));
            let incarnation = self.nodes[from].incarnation;
            self.plan(wait, SimEvent::Dial { from, to, incarnation });
        }
    }

    /// A replica dials another that it is not connected with.
    pub(super) fn on_dial(&mut self, from: usize, to: usize, incarnation: u64) {
        let dialer = &self.nodes[from];
        if !dialer.is_up() || dialer.incarnation != incarnation || dialer.links.get(to).is_some() {
            return;
        }
        let can_answer = self.nodes[to].is_up() && !self.nodes[to].paused && !self.nodes[from].paused;
        if !can_answer || self.links.is_blocked(self.now, from, to) || self.links.is_walled(self.now, from, to) {
            self.redial(from, to);
            return;
        }
        self.tally.count("connections between replicas");
        let id = self.links.open([from, to], [incarnation, self.nodes[to].incarnation]);
        self.begin_link(to, from, id);
        // The dialer takes the connection for made when the greeting has come.
        if let Some(at) = self.links.send(&mut self.random, self.now, id, from) {
            self.plan_at(at, SimEvent::Greeted { node: from, link: id });
        }
    }

    /// The greeting of the replica that was dialed has come.
    pub(super) fn on_greeted(&mut self, node: usize, id: LinkId) {
        if !self.is_known(node, id) {
            return;
        }
        let peer = self.links.peer(id, node);
        match self.links.is_lost(id, node) {
            false => self.begin_link(node, peer, id),
            true => self.redial(node, peer),
        }
    }

    /// A connection is made at one of its ends.
    fn begin_link(&mut self, node: usize, peer: usize, id: LinkId) {
        self.note(Some(node), || format!("is connected to {}", node::name(peer)));
        if let Some(earlier) = self.nodes[node].begin_link(peer, id) {
            self.end_link(earlier, [peer, peer], &[]);
        }
        self.plan_turn(node);
    }

    /// A message comes from a peer; none is the end of the connection.
    pub(super) fn on_arrival_at_peer(&mut self, node: usize, id: LinkId, message: Option<PeerMessage>) {
        if !self.is_known(node, id) {
            return;
        }
        let peer = self.links.peer(id, node);
        match message {
            Some(message) if !self.links.is_lost(id, node) => {
                self.situations.on_arrival(self.now, node, peer, &message, self.nodes[node].store(), &mut self.tally);
                self.nodes[node].arrive_from_peer(peer, id, message);
            }
            Some(_) => {}
            None if self.nodes[node].end_link(peer, id) => {
                self.note(Some(node), || format!("is disconnected from {}", node::name(peer)));
                self.redial(node, peer);
            }
            None => {}
        }
        self.plan_turn(node);
    }

    /// Ends a connection; these replicas notice after everything that still arrives.
    pub(super) fn end_link(&mut self, id: LinkId, noticed_by: [usize; 2], lost_to: &[usize]) {
        let notices = noticed_by.map(|node| (node, self.links.send(&mut self.random, self.now, id, node)));
        self.links.end(id, lost_to);
        for (node, at) in notices {
            if let Some(at) = at {
                self.plan_at(at, SimEvent::AtPeer { node, link: id, message: None });
            }
        }
    }

    /// Sends a message to a peer, if the replica that sends means the present connection.
    pub(super) fn send_to_peer(&mut self, node: usize, PeerId(peer): PeerId, message: PeerMessage) -> Check {
        let peer = usize::from(peer);
        let Some(link) = self.nodes[node].links.seen(peer) else { return Ok(()) };
        self.on_about_to_send(node, peer, &message)?;
        self.situations.on_sent(self.now, node, peer, &message, &mut self.tally);
        match self.links.body_wait(self.now, node, peer).filter(|_| matches!(message, PeerMessage::Bodies { .. })) {
            Some(wait) => self.plan(wait, SimEvent::SlowBody { from: node, to: peer, link, message }),
            None => self.put_on_link(link, peer, message),
        }
        Ok(())
    }

    /// A body that its sender was slow to send leaves, if the connection for which it was meant is still there.
    pub(super) fn on_slow_body(&mut self, from: usize, to: usize, link: LinkId, message: PeerMessage) {
        if self.nodes[from].links.seen(to) == Some(link) {
            self.put_on_link(link, to, message);
        }
    }

    /// Sends a message on a connection.
    fn put_on_link(&mut self, link: LinkId, to: usize, message: PeerMessage) {
        if let Some(at) = self.links.send(&mut self.random, self.now, link, to) {
            self.tally.count("messages between replicas");
            self.plan_at(at, SimEvent::AtPeer { node: to, link, message: Some(message) });
        }
    }

    /// Ends a connection because a replica wants a new one. What it has sent arrives.
    pub(super) fn disconnect(&mut self, node: usize, PeerId(peer): PeerId) {
        let peer = usize::from(peer);
        let Some(link) = self.nodes[node].links.seen(peer) else { return };
        self.tally.count("connections between replicas ended by them");
        self.nodes[node].end_link(peer, link);
        self.end_link(link, [peer, peer], &[node]);
        self.redial(node, peer);
    }

    /// A replica asks whether anybody listens at another's address. Each attempt takes a while to get there.
    pub(super) fn ask_address(&mut self, node: usize, peer: usize, number: u64) {
        self.nodes[node].links.ask(peer, number);
        self.attempt(node, peer, number);
    }

    fn attempt(&mut self, node: usize, peer: usize, number: u64) {
        let wait = Duration::from_nanos(self.random.u64(..self.bounds.delay_max()));
        let incarnation = self.nodes[node].incarnation;
        self.plan(wait, SimEvent::AskAddress { node, incarnation, peer, number });
    }

    /// An attempt has come to a replica's address. Where a process listens it is accepted, which says nothing, as if no answer
    /// came.
    pub(super) fn on_question(&mut self, node: usize, incarnation: u64, peer: usize, number: u64) {
        let asker = &self.nodes[node];
        if asker.incarnation != incarnation || !asker.is_up() || !asker.links.asks(peer, number) {
            return;
        }
        let listens = self.nodes[peer].is_up() && !self.links.is_walled(self.now, node, peer);
        let is_gone = self.unnoticed[peer].is_some();
        if listens || is_gone || self.links.is_blocked(self.now, node, peer) {
            return self.attempt(node, peer, number);
        }
        let wait = Duration::from_nanos(self.random.u64(..self.bounds.delay_max()));
        self.plan(wait, SimEvent::AddressRefused { node, incarnation, peer, number });
    }

    /// A replica learns that nobody listens at another's address.
    pub(super) fn on_address_refused(&mut self, node: usize, incarnation: u64, peer: usize, number: u64) {
        let asker = &mut self.nodes[node];
        if asker.incarnation == incarnation && asker.is_up() && asker.links.asks(peer, number) {
            asker.on_address_refused(peer, number);
            self.tally.count("addresses that refused");
            self.note(Some(node), || format!("is refused by the address of {}", node::name(peer)));
            self.plan_turn(node);
        }
    }

    /// A machine that was gone is there again, and resets the connections that it does not know.
    pub(super) fn let_notice(&mut self, node: usize) {
        for (peer, link) in self.unnoticed[node].take().unwrap_or_default() {
            let wait = Duration::from_millis(self.random.u64(1..60));
            self.plan(wait, SimEvent::AtPeer { node: peer, link, message: None });
        }
    }

    /// Whether a connection is one of a replica's present incarnation, which is up.
    fn is_known(&self, node: usize, id: LinkId) -> bool {
        let process = &self.nodes[node];
        process.is_up() && self.links.is_of(id, node, process.incarnation)
    }

    /// Plans to dial all peers, or to be dialed by them.
    pub(super) fn dial_all(&mut self, node: usize) {
        (0..self.nodes.len()).for_each(|peer| self.redial(node, peer));
    }
}
