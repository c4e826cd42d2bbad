//! Stability: when nothing can arrive any more that is to be applied before a request.
//!
//! 1. The *closed test*, the usual one: we and every peer that is not down have promised to accept no client's request up to
//!    the request's timestamp (closed timestamps, as in CockroachDB), every request that was accepted up to there is here, and
//!    all these peers hold the request. It takes a few message delays.
//! 2. The *real-time test* (Schneider 1990, section 4.2): more than the delivery bound has passed since the timestamp. It
//!    consults nobody.
//!
//! Below the barrier only the second counts. The barrier is raised when a peer falls silent, and when it takes too long to find
//! out what a dead one has told the others (`deaths`): in both cases a replica may have accepted requests and told others than us.

use super::peers::{Peer, PeerState};
use super::pending::Pending;
use super::{Body, Effect, Loss, Output, PeerId, Phase, Replica, Stopping, StoreChange};
use stablechat_protocol::answer::Stability;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::time::Duration;

impl Replica {
    /// Everything that had arrived by `time` has been put in: peers that were silent until then are down.
    pub(super) fn on_drained(&mut self, time: Timestamp, outputs: &mut Vec<Output>) {
        self.drained = self.drained.max(time);
        let silent = self.peers.those(|_, peer| self.is_silent(peer));
        silent.iter().for_each(|peer| self.lose(peer, Loss::Silent, outputs));
        self.give_up_flushes();
        self.note_muteness();

        // Requests that were held back while we were muted may still be new to peers that have to be told of them.
        let memory = self.settings.memory();
        if self.drained > self.muted_at.after(memory) {
            self.recent.forget_before(self.drained.before(memory));
        } else {
            self.recent.forget_before(self.recent.horizon());
        }

        let horizon = self.recent.first_remembered();
        self.refused.forget_before(horizon);
        self.missing.forget_unreachable(horizon);
    }

    /// Notes when we are muted.
    fn note_muteness(&mut self) {
        if self.is_muted() {
            self.muted_at = self.now.max(self.drained);
        }
    }

    /// Whether a peer has been silent for the delivery bound.
    fn is_silent(&self, peer: &Peer) -> bool {
        peer.state != PeerState::Down && self.drained > peer.heard.after(self.settings.delivery_bound)
    }

    /// Whether every request up to this timestamp that we hold or know of is applied, and we accept no more of them from clients.
    pub fn has_passed(&self, timestamp: Timestamp) -> bool {
        self.phase == Phase::Serving
            && self.closing.closed() >= timestamp
            && self.pending.first().is_none_or(|(uid, _)| uid.timestamp > timestamp)
            && self.missing.is_empty_up_to(timestamp)
    }

    /// Closes, and sends announcements.
    pub(super) fn on_handled(&mut self, time: Timestamp, outputs: &mut Vec<Output>) {
        self.insert_late(outputs);
        self.notice_pause(time, outputs);
        self.note_muteness();
        self.judge_clock(outputs);
        self.settle_deaths();
        self.advance(outputs);
        if self.phase != Phase::CatchingUp {
            self.closing.follow(self.now);
        }
        if self.phase == Phase::Serving {
            self.served = self.closing.closed();
        }

        // What others wait for leaves before our own applying, which ends with the disk.
        self.fetch(outputs);
        self.announce(outputs);
        self.ping(outputs);
    }

    /// Whether the first pending request or query is stable: [`super::Input::ApplyNext`] applies it.
    pub fn has_stable(&self) -> bool {
        self.pending.first().is_some_and(|(uid, pending)| self.stability(uid, pending).is_some())
    }

    /// When the next wake is wanted: at once while something is stable.
    pub fn deadline(&self) -> Option<Timestamp> {
        if self.has_stable() {
            return Some(Timestamp::ZERO);
        }

        let applies = self.phase == Phase::Serving && !self.is_muted();
        let first = self.pending.first().filter(|_| applies);
        let real_time = first.map(|(uid, _)| self.real_time_deadline(uid));

        let first_unclosed = self.pending.first_above(self.closing.closed());
        let unclosed = first_unclosed.filter(|_| self.phase != Phase::CatchingUp);
        let closing = unclosed.map(|timestamp| timestamp.after(self.closing.grace.current()));

        // Without peers it only waits for its clock to be raised.
        let start = (self.peers.is_empty() && self.phase == Phase::CatchingUp).then_some(self.now);
        let heartbeat = (!self.peers.is_empty()).then(|| self.announcer.heartbeat_at(self.settings.heartbeat()));
        let up = self.peers.iter().filter(|(_, peer)| peer.state != PeerState::Down);
        let silence = up.map(|(_, peer)| peer.heard.after(self.settings.delivery_bound).next()).min();
        let fetch = self.missing.fetch_deadline().filter(|_| self.takes_in());
        [real_time, closing, start, heartbeat, silence, fetch].into_iter().flatten().min()
    }

    /// Nothing more is applied in this wake.
    pub(super) fn on_applied(&mut self, outputs: &mut Vec<Output>) {
        self.drop_slow_peers(outputs);
        self.note_stability(outputs);
        self.leave_when_done(outputs);
    }

    /// Applies the first in the order, if it is stable.
    pub(super) fn apply_next(&mut self, outputs: &mut Vec<Output>) {
        let stability = self.pending.first().and_then(|(uid, pending)| self.stability(uid, pending));
        let Some(stability) = stability else { return };
        let Some((uid, Pending { body, waiting, held_by })) = self.pending.pop() else { return };
        if matches!(body, Body::Request(_)) {
            self.applied = uid;
            self.recent.insert(uid);
        }

        // Above the barrier the closed test should do. While it does not, some peer is slow.
        if stability == Stability::Closed {
            self.slow_since = None;
        } else if uid.timestamp > self.barrier {
            self.slow_since.get_or_insert(self.now);
        }

        let copies = 1 + held_by.len();
        outputs.push(Output::Change(StoreChange::Apply { uid, body, stability, copies, waiting }));
    }

    /// By which test the first in the order is stable; none while it is not.
    fn stability(&self, uid: Uid, pending: &Pending) -> Option<Stability> {
        if self.phase != Phase::Serving || self.is_muted() {
            None
        } else if self.is_closed(uid, pending) {
            Some(Stability::Closed)
        } else if self.drained > self.stable_after(uid) && !self.awaits_earlier(uid) {
            Some(Stability::RealTime)
        } else {
            None
        }
    }

    /// After which reading the real-time test holds. Requests that were held back while we were muted first have to reach all
    /// replicas that are in contact again.
    fn stable_after(&self, uid: Uid) -> Timestamp {
        uid.timestamp.max(self.muted_at).after(self.settings.delivery_bound)
    }

    /// Whether a request is on its way to us that belongs before this one and after those that we have applied: a connected peer
    /// lists it. Applying this one first would make a repair certain. But no peer may hold it up for longer than
    /// [`Replica::awaited_until`].
    fn awaits_earlier(&self, uid: Uid) -> bool {
        self.drained <= self.awaited_until(uid)
            && self.missing.first_reachable_after(self.applied).is_some_and(|(missing, _)| missing < uid)
    }

    /// When the real-time test may hold for the first in the order.
    fn real_time_deadline(&self, uid: Uid) -> Timestamp {
        let stable_after = self.stable_after(uid);
        match stable_after < self.drained && self.awaits_earlier(uid) {
            true => self.awaited_until(uid).next(),
            false => stable_after.next(),
        }
    }

    /// Until which reading the real-time test waits for earlier requests that are on their way: for one more delivery bound.
    fn awaited_until(&self, uid: Uid) -> Timestamp {
        self.stable_after(uid).after(self.settings.delivery_bound)
    }

    /// The closed test.
    fn is_closed(&self, uid: Uid, pending: &Pending) -> bool {
        // A query is not logged, so no peer need hold it.
        let must_be_held = matches!(pending.body, Body::Request(_));
        uid.timestamp > self.barrier
            && self.deaths.is_empty()
            && self.closing.closed() >= uid.timestamp
            && self.missing.first().is_none_or(|missing| missing > uid)
            && self.peers.iter().all(|(id, peer)| match peer.state {
                PeerState::Unknown => false,
                PeerState::CatchingUp | PeerState::Down => true,
                PeerState::Linked => peer.closed >= uid.timestamp && (!must_be_held || pending.held_by.contains(id)),
            })
    }

    /// Whether this replica answers nothing for now: it is in contact with fewer than `min_live`.
    pub fn is_muted(&self) -> bool {
        let in_contact = 1 + usize::from(self.peers.linked().len());
        in_contact < self.settings.min_live
    }

    /// Takes for down the peers that live, but have made all wait for the real-time test for long. Each is told so, and rejoins.
    fn drop_slow_peers(&mut self, outputs: &mut Vec<Output>) {
        if self.slow_since.is_none_or(|since| self.now.since(since) <= self.settings.patience()) {
            return;
        }
        self.slow_since = None;

        let tolerable = self.now.before(self.settings.delivery_bound);
        let overdue = self.pending.first().filter(|(uid, _)| uid.timestamp < tolerable);
        let lacks =
            |id: PeerId, pending: &Pending| matches!(pending.body, Body::Request(_)) && !pending.held_by.contains(id);
        // What several list and do not send says more of us than of them.
        let is_overdue = |uid: Uid| uid.timestamp < self.drained.before(self.settings.delivery_bound);
        let unsent = self.missing.first_reachable_after(self.applied).filter(|(uid, _)| is_overdue(*uid));
        let owes = |id: PeerId| unsent.is_some_and(|(_, listed_by)| listed_by.contains(id) && listed_by.len() == 1);
        let slow = self.peers.those(|id, peer| {
            let lacks_overdue = overdue.is_some_and(|(_, pending)| lacks(id, pending));
            peer.state == PeerState::Linked && (peer.closed < tolerable || lacks_overdue || owes(id))
        });

        for id in slow.iter() {
            self.exclude(id, outputs);
        }
    }

    /// Lets only the real-time test decide up to now: up to the highest timestamp that any replica would accept by now, and
    /// `beyond` it.
    pub(super) fn raise_barrier(&mut self, beyond: Duration) {
        self.barrier = self.barrier.max(self.now.after(self.settings.ahead + beyond));
    }

    /// Leaves, after having been asked to stop, once everything that we hold is applied or held by all peers that serve.
    fn leave_when_done(&mut self, outputs: &mut Vec<Output>) {
        if self.stopping != Stopping::Asked {
            return;
        }

        let others = self.peers.those(|_, peer| peer.state == PeerState::Linked && peer.is_connected);
        let is_handed_over =
            |pending: &Pending| matches!(pending.body, Body::Request(_)) && others.without(pending.held_by).is_empty();
        let all_handed_over = !others.is_empty() && self.pending.iter().all(|(_, pending)| is_handed_over(pending));
        if self.pending.is_empty() || all_handed_over || self.phase != Phase::Serving {
            outputs.extend(self.peers.connected().iter().map(|to| Output::send(to, PeerMessage::Leave)));
            outputs.push(Output::Effect(Effect::Stopped));
            self.stopping = Stopping::Done;
        }
    }
}
