//! Stability: when nothing can come any more that is to be applied before a request.
//!
//! 1. The *closed test*, the usual one: we and every peer that is not down have promised to accept no client's request up to
//!    the request's timestamp (closed timestamps, as in CockroachDB), everything that was accepted up to there is here, and
//!    everyone holds the request. It takes a few message delays.
//! 2. The *real-time test* (Schneider 1990, section 4.2): more than the delivery bound has passed since the timestamp. It
//!    asks nobody.
//!
//! Below the barrier only the second counts. The barrier is raised when we meet a peer for the first time, when one falls
//! silent, and when one that had not been missed comes back as another incarnation: in each case someone may have accepted
//! requests and told others than us.

use super::peer::{Peer, PeerState};
use super::pending::{PeerSet, Pending};
use super::{Body, Effect, Output, PeerId, Phase, Replica, StoreChange};
use stablechat_protocol::answer::Stability;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::time::Duration;

impl Replica {
    /// Everything that had arrived by `time` has been put in: those who were silent until then are lost.
    pub(super) fn on_drained(&mut self, time: Timestamp, outputs: &mut Vec<Output>) {
        self.drained = self.drained.max(time);
        let silent: Vec<PeerId> =
            self.peers.iter().filter(|(_, peer)| self.is_silent(peer)).map(|(id, _)| *id).collect();
        silent.into_iter().for_each(|peer| self.lose(peer, outputs));
        self.note_muteness();
        if self.drained > self.muted_at.after(self.settings.memory()) {
            // Until then what was held back may still be new to somebody who has to be told of it.
            self.horizon = self.drained.before(self.settings.memory());
        }
        let horizon = Uid { timestamp: self.horizon, digest: [0; 16] };
        self.recent = self.recent.split_off(&horizon);
        self.refused = self.refused.split_off(&horizon);
        // What is missing for so long nobody has any more who could be asked, or only in a log that is compared with ours.
        let connected: PeerSet = self.connected().collect();
        self.missing.retain(|uid, missing| *uid >= horizon || !missing.listed_by.both(connected).is_empty());
    }

    /// Notes when we are muted.
    fn note_muteness(&mut self) {
        if self.is_muted() {
            self.muted_at = self.now.max(self.drained);
        }
    }

    /// Whether a peer has been silent for the delivery bound.
    fn is_silent(&self, peer: &Peer) -> bool {
        peer.standing != PeerState::Down && self.drained > peer.heard.after(self.settings.delivery_bound)
    }

    /// Whether all that we hold or know of up to this timestamp is applied, and we accept no more of it from clients.
    pub fn has_passed(&self, timestamp: Timestamp) -> bool {
        let lies_after = |uid: Uid| uid.timestamp > timestamp;
        self.status == Phase::Serving
            && self.closed >= timestamp
            && self.pending.first().is_none_or(|(uid, _)| lies_after(uid))
            && self.missing.first_key_value().is_none_or(|(uid, _)| lies_after(*uid))
    }

    /// Closes, says what there is to say, and applies what is stable.
    pub(super) fn on_handled(&mut self, time: Timestamp, outputs: &mut Vec<Output>) {
        self.insert_belated(outputs);
        self.notice_pause(time, outputs);
        self.note_muteness();
        self.advance(outputs);
        if self.status != Phase::CatchingUp {
            self.closed = self.closed.max(self.now.before(self.grace.current()));
        }
        self.fetch(outputs);
        self.announce(outputs);
        self.ping(outputs);
        self.apply_stable(outputs);
        self.drop_slow_peers(outputs);
        self.leave_when_done(outputs);
    }

    /// When the next wake is wanted.
    pub fn deadline(&self) -> Option<Timestamp> {
        let applies = self.status == Phase::Serving && !self.is_muted();
        let first = self.pending.first().filter(|_| applies);
        let real_time = first.map(|(uid, _)| self.stable_after(uid).next());
        let unclosed = self.pending.first_above(self.closed).filter(|_| self.status != Phase::CatchingUp);
        let closing = unclosed.map(|timestamp| timestamp.after(self.grace.current()));
        let heartbeat = (!self.peers.is_empty()).then(|| self.announced_at.after(self.settings.heartbeat()));
        let others = self.peers.values().filter(|peer| peer.standing != PeerState::Down);
        let silence = others.map(|peer| peer.heard.after(self.settings.delivery_bound).next()).min();
        [real_time, closing, heartbeat, silence, self.fetch_deadline()].into_iter().flatten().min()
    }

    /// Applies what is stable, in order.
    fn apply_stable(&mut self, outputs: &mut Vec<Output>) {
        while let Some(stability) = self.pending.first().and_then(|(uid, pending)| self.stability(uid, pending)) {
            let Some((uid, Pending { body, waiting, held_by })) = self.pending.pop() else { break };
            if matches!(body, Body::Request(_)) {
                self.applied = uid;
                self.recent.insert(uid);
            }
            if stability == Stability::Closed {
                self.slow_since = None;
            } else if uid.timestamp > self.barrier {
                self.slow_since.get_or_insert(self.now);
            }
            outputs.push(Output::Change(StoreChange::Apply {
                uid,
                body,
                stability,
                copies: 1 + held_by.len(),
                waiting,
            }));
        }
    }

    /// By which test the first in the order is stable, if it is.
    fn stability(&self, uid: Uid, pending: &Pending) -> Option<Stability> {
        if self.status != Phase::Serving || self.is_muted() {
            None
        } else if self.is_closed(uid, pending) {
            Some(Stability::Closed)
        } else if self.drained > self.stable_after(uid) {
            Some(Stability::RealTime)
        } else {
            None
        }
    }

    /// After which reading the real-time test holds. What was held back while we were muted has to be everywhere first that is
    /// in contact again.
    fn stable_after(&self, uid: Uid) -> Timestamp {
        uid.timestamp.max(self.muted_at).after(self.settings.delivery_bound)
    }

    /// The closed test.
    fn is_closed(&self, uid: Uid, pending: &Pending) -> bool {
        let must_be_held = matches!(pending.body, Body::Request(_));
        uid.timestamp > self.barrier
            && self.closed >= uid.timestamp
            && self.missing.first_key_value().is_none_or(|(missing, _)| *missing > uid)
            && self.peers.iter().all(|(id, peer)| match peer.standing {
                PeerState::Unknown => false,
                PeerState::CatchingUp | PeerState::Down => true,
                PeerState::Linked => peer.closed >= uid.timestamp && (!must_be_held || pending.held_by.contains(*id)),
            })
    }

    /// Whether this replica answers nothing for now: it is in contact with too few, or its clock is wrong.
    pub fn is_muted(&self) -> bool {
        let linked = self.peers.values().filter(|peer| peer.standing == PeerState::Linked).count();
        1 + linked < self.settings.min_live || self.clock_is_off
    }

    /// Treats as down who is alive but has made all wait for the real-time test for long. It is told, and begins again.
    fn drop_slow_peers(&mut self, outputs: &mut Vec<Output>) {
        let patience = 2 * self.settings.delivery_bound;
        if self.slow_since.is_none_or(|since| self.now.since(since) <= patience) {
            return;
        }
        self.slow_since = None;
        let tolerable = self.now.before(self.settings.delivery_bound);
        let missed = self.pending.first().filter(|(uid, _)| uid.timestamp < tolerable);
        let is_slow = |id: &PeerId, peer: &Peer| {
            let lacks = |(_, pending): (Uid, &Pending)| {
                matches!(pending.body, Body::Request(_)) && !pending.held_by.contains(*id)
            };
            peer.standing == PeerState::Linked && (peer.closed < tolerable || missed.is_some_and(lacks))
        };
        let slow: Vec<PeerId> = self.peers.iter().filter(|(id, peer)| is_slow(id, peer)).map(|(id, _)| *id).collect();
        for id in slow {
            outputs.push(Output::send(id, PeerMessage::TooSlow));
            self.lose(id, outputs);
        }
    }

    /// Lets only the real-time test decide up to now: up to the highest timestamp that anyone would accept by now, and
    /// `beyond` it.
    pub(super) fn raise_barrier(&mut self, beyond: Duration) {
        self.barrier = self.barrier.max(self.now.after(self.settings.ahead + beyond));
    }

    /// Leaves, after having been asked to stop, once what we hold is applied or in the hands of all others.
    fn leave_when_done(&mut self, outputs: &mut Vec<Output>) {
        if !self.stopping || self.stopped {
            return;
        }
        let others: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.standing == PeerState::Linked && peer.is_connected)
            .map(|(id, _)| *id)
            .collect();
        let in_other_hands = |pending: &Pending| {
            matches!(pending.body, Body::Request(_)) && others.iter().all(|peer| pending.held_by.contains(*peer))
        };
        let handed_over = !others.is_empty() && self.pending.iter().all(|(_, pending)| in_other_hands(pending));
        if self.pending.is_empty() || handed_over || self.status != Phase::Serving {
            let to: Vec<PeerId> = self.connected().collect();
            to.into_iter().for_each(|to| outputs.push(Output::send(to, PeerMessage::Leave)));
            outputs.push(Output::Effect(Effect::Stopped));
            self.stopped = true;
        }
    }
}
