//! Starting, catching up, joining and being consulted; and losing peers.
//!
//! A replica that starts knows what it has applied and nothing else. It *catches up*: its peers' logs are compared with its
//! own, and what it lacks is fetched, while nobody waits for it. Then it *joins*: it tells each peer what it holds, and
//! from there on the peer consults it; each peer tells what it holds and how far it has closed, so how far it may have
//! applied on its own, and the replica closes up to there. When everyone has welcomed it, or is silent, it *serves*.
//!
//! A replica that has not run for more than half the delivery bound may be dead to the others, and begins again as if it had
//! been restarted.

use super::peer::{LogSync, Peer, PeerState};
use super::{Effect, LogPart, Output, PeerId, Phase, Replica};
use stablechat_protocol::answer::Refusal;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;

impl Replica {
    /// Begins an incarnation: only what is applied survives.
    pub(super) fn begin(&mut self) {
        self.status = Phase::CatchingUp;
        self.closed = self.closed.max(self.now.before(self.grace.current())).max(self.applied.timestamp);
        self.slow_since = None;
        self.following = None;
        self.snapshot_at = None;
        self.missing.clear();
        self.refused.clear();
        self.unannounced.clear();
    }

    /// The replica runs. If it has not done so for long, it begins again.
    pub(super) fn notice_pause(&mut self, time: Timestamp, outputs: &mut Vec<Output>) {
        let paused = time.since(self.now);
        self.now = self.now.max(time);
        // That nobody was heard meanwhile says nothing of them, so one that catches up has to begin again too.
        if !self.peers.is_empty() && paused > self.settings.delivery_bound / 2 {
            self.rejoin(outputs);
        }
    }

    /// A peer has done without us for long.
    pub(super) fn on_too_slow(&mut self, outputs: &mut Vec<Output>) {
        if self.status != Phase::CatchingUp {
            self.rejoin(outputs);
        }
    }

    /// Begins again as another incarnation, as after a restart.
    pub(super) fn rejoin(&mut self, outputs: &mut Vec<Output>) {
        self.epoch += 1;
        outputs.push(Output::Effect(Effect::NewEpoch { epoch: self.epoch }));
        self.refuse_pending(Refusal::NotServing, outputs);
        for (id, peer) in &mut self.peers {
            *peer = Peer::new(self.settings.first_heard_by(self.now));
            outputs.push(Output::Effect(Effect::Disconnect { peer: *id }));
        }
        self.begin();
    }

    /// Drops what is pending, and tells who waits for it.
    pub(super) fn refuse_pending(&mut self, reason: Refusal, outputs: &mut Vec<Output>) {
        while let Some((uid, pending)) = self.pending.pop() {
            for to in pending.waiting {
                let (request, timestamp) = (pending.body.id(), uid.timestamp);
                outputs.push(Output::Effect(Effect::Refuse { to, request, timestamp, reason }));
            }
        }
    }

    /// A new connection to a peer: tells it what we are, and compares logs.
    pub(super) fn on_peer_connected(&mut self, id: PeerId, outputs: &mut Vec<Output>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.is_connected = true;
        (peer.log, peer.followed_to) = (LogSync::Unknown, Uid::MIN);
        outputs.push(Output::Effect(Effect::ConnectionSeen { peer: id }));
        match self.status {
            Phase::CatchingUp => {
                outputs.push(Output::send(id, PeerMessage::CatchingUp { epoch: self.epoch }));
            }
            Phase::Joining | Phase::Serving => self.join(id, outputs),
        }
        outputs.push(Output::read(id, LogPart::Marks));
        // What was asked for on the old connection may never come.
        self.missing.values_mut().for_each(|missing| missing.fetch_at = missing.fetch_at.min(self.now));
    }

    /// A connection is gone.
    pub(super) fn on_peer_disconnected(&mut self, id: PeerId, outputs: &mut Vec<Output>) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.is_connected = false;
        }
        self.stop_following(id, outputs);
        self.missing.values_mut().for_each(|missing| missing.fetch_at = missing.fetch_at.min(self.now));
    }

    /// Asks a peer to consult us.
    fn join(&self, to: PeerId, outputs: &mut Vec<Output>) {
        self.list_recent(to, outputs);
        outputs.push(Output::send(to, PeerMessage::Join { epoch: self.epoch, closed: self.closed }));
    }

    /// A peer is there under this epoch. If it is another incarnation of one that we have not missed, the old one may have
    /// accepted requests and told others than us.
    fn meet(&mut self, id: PeerId, epoch: u64) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.epoch == epoch {
            return;
        }
        peer.epoch = epoch;
        peer.closed = Timestamp::ZERO;
        peer.has_welcomed = false;
        let may_have_accepted = matches!(peer.standing, PeerState::Unknown | PeerState::Linked);
        self.pending.forget_holder(id);
        self.forget_listed(id);
        if may_have_accepted {
            // What it told others may still be on its way to them, over all hops but its own.
            self.raise_barrier(self.settings.delivery_bound - self.grace.max());
        }
    }

    /// A peer is catching up.
    pub(super) fn on_reading(&mut self, id: PeerId, epoch: u64) {
        self.meet(id, epoch);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.standing = PeerState::CatchingUp;
        }
    }

    /// A peer joins: it is consulted from here on.
    pub(super) fn on_join(&mut self, id: PeerId, epoch: u64, closed: Timestamp, outputs: &mut Vec<Output>) {
        self.meet(id, epoch);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.standing = PeerState::Linked;
        peer.closed = peer.closed.max(closed);
        self.list_recent(id, outputs);
        outputs.push(Output::send(id, PeerMessage::Welcome { to: epoch, closed: self.closed }));
    }

    /// A peer consults us from here on. Up to its closed timestamp it may have applied without us: there we accept nothing.
    pub(super) fn on_welcome(&mut self, id: PeerId, to: u64, closed: Timestamp) {
        if to != self.epoch || self.status == Phase::CatchingUp {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.has_welcomed = true;
            self.closed = self.closed.max(closed);
        }
    }

    /// A peer leaves: it has handed over all that it holds, so nothing need be waited for.
    pub(super) fn on_leave(&mut self, id: PeerId) {
        self.stand_down(id);
    }

    /// A peer has been silent for the delivery bound.
    pub(super) fn lose(&mut self, id: PeerId, outputs: &mut Vec<Output>) {
        let was_reader = self.peers.get(&id).is_some_and(|peer| peer.standing == PeerState::CatchingUp);
        self.stand_down(id);
        if !was_reader {
            // What it told others has arrived everywhere since, and only clocks may differ.
            self.raise_barrier(self.grace.max());
        }
        if let Some(peer) = self.peers.get_mut(&id)
            && peer.is_connected
        {
            peer.is_connected = false;
            outputs.push(Output::Effect(Effect::Disconnect { peer: id }));
            self.stop_following(id, outputs);
        }
    }

    /// Waits for a peer no more, nor for what only it has listed.
    fn stand_down(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.standing = PeerState::Down;
        peer.has_welcomed = false;
        self.forget_listed(id);
        self.pending.forget_holder(id);
    }

    /// Waits no more for what only this peer has listed.
    fn forget_listed(&mut self, id: PeerId) {
        self.missing.retain(|_, missing| {
            missing.listed_by.remove(id);
            !missing.listed_by.is_empty()
        });
    }

    /// Joins once everyone is caught up with, and serves once everyone has welcomed us and we hold all that they may have
    /// applied without us. Nobody is waited for who is down.
    pub(super) fn advance(&mut self, outputs: &mut Vec<Output>) {
        self.retry_snapshot(outputs);
        let is_down = |peer: &Peer| peer.standing == PeerState::Down;
        let is_caught_up = |peer: &Peer| is_down(peer) || matches!(peer.log, LogSync::CaughtUp(_));
        if self.status == Phase::CatchingUp && self.inserting == 0 && self.following.is_none() {
            self.compare_again(outputs);
            if self.peers.values().all(is_caught_up) {
                self.status = Phase::Joining;
                let to: Vec<PeerId> = self.connected().collect();
                to.into_iter().for_each(|to| self.join(to, outputs));
            }
        }
        // What a peer may have applied and answered without us has to be here first: the peer may die at any time.
        let has_all = self.missing.first_key_value().is_none_or(|(missing, _)| missing.timestamp > self.closed);
        let is_welcome = self.peers.values().all(|peer| is_down(peer) || peer.has_welcomed);
        if self.status == Phase::Joining && is_welcome && has_all {
            self.status = Phase::Serving;
        }
    }
}
