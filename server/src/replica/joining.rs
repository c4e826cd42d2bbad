//! Starting, catching up, joining and serving; and losing peers.
//!
//! A replica that starts knows what it has applied and nothing else. It *catches up*: its peers' logs are compared with its
//! own, and what it lacks is transferred, while nobody depends on it. Then it *joins*: it tells each peer what it holds, and
//! from then on the peer consults it. Each peer answers with what it holds and with the timestamp up to which it may have applied
//! requests without asking, so the replica accepts none there. When every peer has welcomed it, or is down, it takes in what they
//! hold, and then it *serves*. Before that it holds nothing that is pending: a peer that does not consult it would not wait for
//! it when another dies (`deaths`).
//!
//! A replica that has not run for longer than a hop may take cannot keep the delivery bound for what it holds, and may be down for
//! the others. It rejoins: it goes on as if it had been restarted, as another incarnation.

use super::peers::{LogSync, PeerState};
use super::{Effect, LogPart, Loss, Output, PeerId, Phase, Replica, announcer};
use stablechat_protocol::answer::Refusal;
use stablechat_protocol::clock_offset::ClockOffset;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::time::Timestamp;
use std::time::Duration;

/// Epochs begin at the seconds of a clock, so none is ever above this. A peer that says otherwise is damaged; we note our epochs on
/// disk, and they must not run out; and we would not hear of one that we have fenced before it restarts.
pub(super) const EPOCH_MAX: u64 = 1 << 48;

impl Replica {
    /// Begins an incarnation: only the applied requests survive.
    pub(super) fn begin(&mut self) {
        self.phase = Phase::CatchingUp;
        self.closing.follow(self.now);
        self.closing.raise(self.applied.timestamp.min(self.latest_credible()));
        self.slow_since = None;
        self.catch_up.reset();
        self.missing.clear();
        self.refused.clear();
        self.announcer.clear();
        self.deaths.clear();
    }

    /// The replica runs. If it had not done so for long, it rejoins.
    pub(super) fn notice_pause(&mut self, time: Timestamp, outputs: &mut Vec<Output>) {
        let paused = time.since(self.now);
        self.now = self.now.max(time);

        // A replica that catches up rejoins as well: that it heard no peer meanwhile does not mean that any of them is down. And
        // its clock may have jumped, so it is compared anew.
        if !self.peers.is_empty() && paused > self.settings.hop() {
            self.clock_check.forget();
            self.rejoin(outputs);
        }
    }

    /// A peer goes on without us, and will not hear of an incarnation of ours up to `above`.
    pub(super) fn on_rejoin(&mut self, above: u64, outputs: &mut Vec<Output>) {
        if above > EPOCH_MAX {
            return;
        }
        if self.phase != Phase::CatchingUp || above >= self.epoch {
            self.epoch = self.epoch.max(above);
            self.rejoin(outputs);
        }
    }

    /// Begins again as another incarnation, as after a restart.
    pub(super) fn rejoin(&mut self, outputs: &mut Vec<Output>) {
        // First of all outputs: nothing may leave under the new epoch before it is durable.
        self.epoch += 1;
        self.restarts.begin_next(self.now);
        outputs.push(Output::Effect(Effect::NewEpoch { epoch: self.epoch, restarts: self.restarts.count() }));

        self.refuse_pending(Refusal::NotServing, outputs);
        self.peers.forget_all(self.settings.first_heard_by(self.now));
        outputs.extend(self.peers.iter().map(|(peer, _)| Output::Effect(Effect::Disconnect { peer })));
        self.begin();
    }

    /// Drops the pending requests, and tells the connections that wait for them.
    pub(super) fn refuse_pending(&mut self, reason: Refusal, outputs: &mut Vec<Output>) {
        // Peers would count on getting it from us.
        self.announcer.clear();
        while let Some((uid, pending)) = self.pending.pop() {
            for to in pending.waiting {
                let (request, timestamp) = (pending.body.id(), uid.timestamp);
                outputs.push(Output::Effect(Effect::Refuse { to, request, timestamp, reason }));
            }
        }
    }

    /// A new connection to a peer: tells it what we are, and compares logs.
    pub(super) fn on_peer_connected(&mut self, id: PeerId, outputs: &mut Vec<Output>) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.is_connected = true;
        peer.compare_anew();

        outputs.push(Output::Effect(Effect::ConnectionSeen { peer: id }));
        let has_joined = self.phase != Phase::CatchingUp;
        outputs.push(Output::send(id, PeerMessage::Incarnation { epoch: self.epoch, has_joined }));
        if has_joined {
            self.join(id, outputs);
        }
        let fenced = self.peers.iter().filter(|(_, peer)| peer.fenced > 0);
        outputs.extend(fenced.map(|(of, peer)| Output::send(id, announcer::fenced(of, peer.fenced))));
        outputs.push(Output::read(id, LogPart::Marks));
        self.ping_at_once(id, outputs);
        self.missing.on_connected(id, self.now);
    }

    /// A connection is gone. This alone says nothing of the peer; whether anybody listens at its address does.
    pub(super) fn on_peer_disconnected(&mut self, id: PeerId, outputs: &mut Vec<Output>) {
        if let Some(peer) = self.peers.get_mut(id) {
            (peer.is_connected, peer.is_met) = (false, false);
        }
        self.end_transfer_from(id, outputs);
        self.missing.on_disconnected(id, self.now);
        self.ask_address(id, outputs);
    }

    /// Asks a peer to consult us.
    fn join(&self, to: PeerId, outputs: &mut Vec<Output>) {
        self.list_recent(to, outputs);
        outputs.push(Output::send(to, PeerMessage::Join { closed: self.closing.closed() }));
    }

    /// A peer says which incarnation it is. If it is another than before, the earlier one is dead.
    pub(super) fn on_incarnation(
        &mut self,
        time: Timestamp,
        id: PeerId,
        (epoch, has_joined): (u64, bool),
        outputs: &mut Vec<Output>,
    ) {
        self.read = self.read.max(time);
        let Some(peer) = self.peers.get_connected(id).filter(|_| epoch <= EPOCH_MAX) else { return };
        if epoch <= peer.fenced {
            return self.on_fenced_incarnation(id, outputs);
        }
        (peer.is_met, peer.asked) = (true, None);
        peer.heard = peer.heard.max(time);
        if peer.epoch == Some(epoch) {
            return;
        }

        let may_have_accepted = matches!(peer.state, PeerState::Unknown | PeerState::Linked);
        if may_have_accepted && peer.epoch.is_some() {
            peer.loss = Some(Loss::Dead);
            outputs.push(Output::Effect(Effect::PeerLost { peer: id, loss: Loss::Dead }));
        }
        // Until its join comes, one that has joined may have accepted anything.
        let state = if has_joined { PeerState::Unknown } else { PeerState::CatchingUp };
        (peer.epoch, peer.state) = (Some(epoch), state);
        peer.closed = Timestamp::ZERO;
        peer.has_welcomed = false;
        peer.fences.clear();
        // Its process may have started with another clock.
        (peer.offset, peer.is_log_time) = (ClockOffset::default(), false);

        self.pending.forget_holder(id);
        self.missing.forget_peer(id);
        match may_have_accepted {
            true => self.begin_flush(id, epoch.saturating_sub(1)),
            false => self.fence(id, epoch.saturating_sub(1)),
        }
    }

    /// A peer joins: it is consulted from here on.
    pub(super) fn on_join(&mut self, id: PeerId, closed: Timestamp, outputs: &mut Vec<Output>) {
        let credible = self.latest_credible();
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(epoch) = peer.epoch else { return };
        peer.state = PeerState::Linked;
        peer.closed = peer.closed.max(closed.min(credible));

        // The list goes first: the welcome says that everything that was applied up to its timestamp has been listed. It says what
        // was done, not what our clock shows: a wrong clock would keep the peer from accepting anything.
        self.list_recent(id, outputs);
        let applied = self.served.max(self.applied.timestamp);
        let grace_ns = u64::try_from(self.closing.grace.current().as_nanos()).unwrap_or(u64::MAX);
        outputs.push(Output::send(id, PeerMessage::Welcome { to: epoch, applied, grace_ns }));
    }

    /// A peer consults us from here on. Up to `applied` it may have applied without us, so there we accept nothing.
    pub(super) fn on_welcome(&mut self, id: PeerId, to: u64, applied: Timestamp, grace: Duration) {
        // A welcome of an earlier incarnation says nothing of this one.
        if to != self.epoch || self.phase == Phase::CatchingUp {
            return;
        }
        let credible = self.latest_credible();
        if let Some(peer) = self.peers.get_mut(id) {
            peer.has_welcomed = true;
            // If its log has requests of a wrong clock, it cannot serve with them, and gives them up.
            self.closing.raise(applied.min(credible));
            self.closing.grace.learn(self.now, grace);
        }
    }

    /// A peer leaves. It has handed over everything that it holds, so there is nothing to wait for, and no barrier.
    pub(super) fn on_leave(&mut self, id: PeerId, outputs: &mut Vec<Output>) {
        self.stand_down(id, Loss::Left, outputs);
    }

    /// A peer has been silent for the delivery bound, or is too slow.
    pub(super) fn lose(&mut self, id: PeerId, loss: Loss, outputs: &mut Vec<Output>) {
        let was_catching_up = self.peers.get(id).is_some_and(|peer| peer.state == PeerState::CatchingUp);
        self.stand_down(id, loss, outputs);
        if !was_catching_up {
            // What it told others has arrived everywhere since, and only clocks may differ.
            self.raise_barrier(self.closing.grace.max());
        }

        if let Some(peer) = self.peers.get_connected(id) {
            (peer.is_connected, peer.is_met) = (false, false);
            self.missing.on_disconnected(id, self.now);
            outputs.push(Output::Effect(Effect::Disconnect { peer: id }));
            self.end_transfer_from(id, outputs);
        }
    }

    /// Goes on without a peer that lives, and tells it so: it has to rejoin.
    pub(super) fn exclude(&mut self, id: PeerId, outputs: &mut Vec<Output>) {
        let above = self.peers.get(id).and_then(|peer| peer.epoch).unwrap_or_default();
        outputs.push(Output::send(id, PeerMessage::Rejoin { above }));
        self.lose(id, Loss::TooSlow, outputs);
    }

    /// A peer is down: it is not consulted any more, and uids that only it has listed are dropped.
    pub(super) fn stand_down(&mut self, id: PeerId, loss: Loss, outputs: &mut Vec<Output>) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        (peer.state, peer.loss) = (PeerState::Down, Some(loss));
        outputs.push(Output::Effect(Effect::PeerLost { peer: id, loss }));
        peer.has_welcomed = false;
        let dropped = self.missing.forget_peer(id);
        self.pending.forget_holder(id);
        self.fence_accused(id);

        // What it had applied before it welcomed us it may have answered.
        let closed = self.closing.closed();
        let lacking = dropped.iter().filter(|uid| uid.timestamp <= closed).count();
        if self.phase == Phase::Joining && lacking > 0 {
            outputs.push(Output::Effect(Effect::Incomplete { peer: id, lacking }));
        }
    }

    /// Whether requests that peers list are taken in: every peer that is not down consults us.
    pub(super) fn takes_in(&self) -> bool {
        match self.phase {
            Phase::CatchingUp => false,
            Phase::Joining => self.peers.all_up(|peer| peer.has_welcomed),
            Phase::Serving => true,
        }
    }

    /// Joins once our log has the requests of all peers' logs and our clock agrees with theirs, unless we have to wait because of
    /// restarts. Serves once all peers have welcomed us and every request is here that they may have applied without us. Peers that
    /// are down do not count.
    pub(super) fn advance(&mut self, outputs: &mut Vec<Output>) {
        self.retry_snapshot(outputs);

        if self.phase == Phase::CatchingUp && self.catch_up.is_idle() {
            self.compare_again(outputs);
            let has_all_logs = self.peers.all_up(|peer| matches!(peer.log, LogSync::InSync(_)));
            // A log that ends ahead is mended even while our clock is off, since it can be what keeps our clock apart from
            // theirs, and while we wait because of restarts.
            let is_mended = has_all_logs && self.has_compared_clocks() && self.mend_log_ahead(outputs);
            if is_mended && !self.is_clock_off() && self.waits_until().is_none() {
                self.phase = Phase::Joining;
                self.closing.raise(self.applied.timestamp);
                self.peers.connected().iter().for_each(|to| self.join(to, outputs));
            }
        }

        // What a peer may have applied and answered without us has to be here first: the peer may die at any time.
        let has_all = self.missing.is_empty_up_to(self.closing.closed());
        if self.phase == Phase::Joining && has_all && self.takes_in() {
            self.phase = Phase::Serving;
            self.restarts.on_serving(self.now);
        }
    }
}
