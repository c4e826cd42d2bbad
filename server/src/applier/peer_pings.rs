//! Peer pings: pings between replicas on behalf of clients that measure delays (`stablechat probe`).
//!
//! A ping takes the way of an announcement, from this thread to the peer's poll loop, and its answer waits for the peer's
//! applier as a body would. So the result includes everything that delays requests, a busy disk too. The protocol has pings of its
//! own, from which it estimates clock offsets, and they are other messages: so measuring neither disturbs it nor takes its answers,
//! even if both ping in the same wake.

use super::outbox::Outbox;
use crate::net::ReplicaIdentity;
use crate::replica::{ConnectionId, PeerId, Replica};
use stablechat_protocol::message::ToClient;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::time::Timestamp;
use std::collections::{BTreeSet, VecDeque};

/// How many rounds of pings are remembered. Answers to earlier ones are dropped.
const ROUNDS_MAX: usize = 1024;

/// The clients that have asked for pings, and the answers.
#[derive(Default)]
pub struct PeerPings {
    /// The connections that have asked in this wake. All share one round, however often they ask.
    asking: BTreeSet<ConnectionId>,
    /// The last rounds, oldest first: when the peers were pinged, and for which connections.
    rounds: VecDeque<(Timestamp, BTreeSet<ConnectionId>)>,
    /// The answers that came in this wake.
    pongs: Vec<(PeerId, Pong)>,
}

/// A peer's answer.
#[derive(Clone, Copy)]
pub struct Pong {
    /// Our clock when we pinged.
    pub sent: Timestamp,
    /// The peer's clock.
    pub clock: Timestamp,
    /// Our clock when the answer was read.
    pub received: Timestamp,
}

impl PeerPings {
    /// A client asks.
    pub fn ask(&mut self, from: ConnectionId) {
        self.asking.insert(from);
    }

    /// Those that have asked in this wake and not been answered yet.
    pub fn asking(&self) -> impl Iterator<Item = ConnectionId> {
        self.asking.iter().copied()
    }

    /// Answers a stranger: no peer is pinged for it, and none named.
    pub fn turn_down(&mut self, now: Timestamp, stranger: ConnectionId, outbox: &mut Outbox) {
        self.asking.remove(&stranger);
        outbox.for_client(stranger, ToClient::PeersPinged { sent: now, peers: Vec::new() });
    }

    /// A peer answers a ping. Answers to rounds that are forgotten, or never were, are dropped.
    pub fn on_pong(&mut self, peer: PeerId, pong: Pong) {
        let is_remembered = self.place(pong.sent).is_some();
        self.pongs.extend(is_remembered.then_some((peer, pong)));
    }

    /// Ends a wake: passes on the answers, and pings all connected peers if a client has asked for it.
    pub fn go_on(&mut self, now: Timestamp, replica: &Replica, us: &ReplicaIdentity, outbox: &mut Outbox) {
        for (peer, Pong { sent, clock, received }) in std::mem::take(&mut self.pongs) {
            let Some(place) = self.place(sent) else { continue };
            let message = ToClient::PeerPong { peer: us.name_of(peer), sent, clock, received };
            self.rounds[place].1.iter().for_each(|to| outbox.for_client(*to, message.clone()));
        }
        if self.asking.is_empty() {
            return;
        }
        let asking = std::mem::take(&mut self.asking);
        let connected: Vec<PeerId> = replica.connected().collect();
        let peers: Vec<_> = connected.iter().map(|peer| us.name_of(*peer)).collect();
        connected.iter().for_each(|peer| outbox.for_peer(*peer, PeerMessage::ProbePing { sent: now }));
        for to in &asking {
            outbox.for_client(*to, ToClient::PeersPinged { sent: now, peers: peers.clone() });
        }
        if self.rounds.len() == ROUNDS_MAX {
            self.rounds.pop_front();
        }
        self.rounds.push_back((now, asking));
    }

    /// The round that began then.
    fn place(&self, sent: Timestamp) -> Option<usize> {
        self.rounds.binary_search_by_key(&sent, |(sent, _)| *sent).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::applier::tests::settled_alone;

    #[test]
    fn rounds_that_nobody_answers_are_forgotten() {
        let (applier, now) = settled_alone();
        let mut pings = PeerPings::default();
        for number in 0..ROUNDS_MAX as u64 + 10 {
            pings.ask(ConnectionId(1));
            pings.go_on(Timestamp(now.0 + number), &applier.replica, &applier.identity, &mut Outbox::default());
        }
        assert_eq!(pings.rounds.len(), ROUNDS_MAX);
    }
}
