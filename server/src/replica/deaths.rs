//! Deaths that are certain: a flush instead of a wait.
//!
//! **The problem.** A peer that dies may have told one of the others of a request and not us. Nothing of the like is on its way any
//! more when Δ has passed in silence; but most often that can be known at once. A process that is killed is dead for certain, and
//! those that are left can tell each other all that it ever said. This is the flush of virtual synchrony (Birman and Joseph
//! 1987), without a vote: a dead replica decides nothing, so no majority is needed.
//!
//! **The proof.** An incarnation is dead when its address refuses a connection that was begun after the last one with it had
//! ended, or when a later incarnation has said that it is there. A connection that ends proves nothing, nor does silence.
//!
//! **The flush.** A replica with the proof *fences* the incarnation: it takes nothing from it any more. Then it announces all that it
//! holds, and after that, on the same connections, that it has fenced it ([`PeerMessage::Fenced`]). Once all peers that are
//! consulted have said so, everything that the dead incarnation told anybody who is left has been listed here, and nothing more
//! of it can come. Until then nothing is stable by the closed test; from then on the dead one is not consulted, and needs no
//! barrier.
//!
//! If several are dead, nothing is stable by the closed test before all their flushes are complete: one of the dead may have been
//! told something by another, and have passed it on.
//!
//! A replica that joins holds nothing until all peers that are not down consult it (`joining`). So none can hold what a dead one
//! has told it without being waited for in its flush.
//!
//! **Without proof, or without the fences of all**, Δ decides as it does for silence: a flush that takes longer ends with a
//! barrier.
//!
//! **A wrong proof**, as of a firewall that refuses in the name of a replica that lives, is a partition. Others ask the address
//! themselves, and do not fence a replica that they are connected with. If the fenced incarnation comes back while its flush is
//! under way, we were wrong, and rejoin; if all others have fenced it, it rejoins.

use super::joining::EPOCH_MAX;
use super::peers::PeerState;
use super::{Effect, Loss, Output, PeerId, Replica};
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::time::Timestamp;
use std::collections::BTreeMap;

/// The dead incarnations of peers whose flush is under way, at most one of each peer.
#[derive(Debug, Default)]
pub struct Deaths(BTreeMap<PeerId, Flush>);

/// The flush of a dead incarnation.
#[derive(Clone, Copy, Debug)]
struct Flush {
    /// Everything up to this incarnation is dead.
    epoch: u64,
    /// When that became certain.
    since: Timestamp,
}

impl Deaths {
    /// Whether no flush is under way.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Replica {
    /// Everything up to this incarnation of a peer is dead for certain, or we hold nothing of it but what we have announced: takes
    /// nothing from it any more, and tells the others so after the next announcement.
    pub(super) fn fence(&mut self, id: PeerId, epoch: u64) {
        if let Some(peer) = self.peers.get_mut(id).filter(|peer| peer.fenced < epoch) {
            peer.fenced = epoch;
            peer.is_met &= peer.epoch > Some(epoch);
            self.announcer.add_fence(id, epoch);
        }
    }

    /// Fences the incarnations of a peer that another peer has fenced: it is down for us, so we hold nothing of it that we have
    /// not announced.
    pub(super) fn fence_accused(&mut self, id: PeerId) {
        if let Some(epoch) = self.peers.get(id).and_then(|peer| peer.accused) {
            self.fence(id, epoch);
        }
    }

    /// A peer that was consulted, or of which we do not know what it was, is dead up to this incarnation: waits until all others
    /// have fenced it.
    pub(super) fn begin_flush(&mut self, id: PeerId, epoch: u64) {
        self.fence(id, epoch);
        let since = self.deaths.0.get(&id).map_or(self.now, |flush| flush.since);
        self.deaths.0.insert(id, Flush { epoch, since });
    }

    /// An incarnation is there that we have fenced. If all others have fenced it, too, it has to rejoin; if not, we have taken
    /// for dead what lives.
    pub(super) fn on_fenced_incarnation(&mut self, id: PeerId, outputs: &mut Vec<Output>) {
        let fenced = self.peers.get(id).map_or(0, |peer| peer.fenced);
        match self.deaths.0.contains_key(&id) {
            true => self.rejoin(outputs),
            false => outputs.push(Output::send(id, PeerMessage::Rejoin { above: fenced })),
        }
    }

    /// Asks whether anybody listens at a peer's address, unless the peer is down, or the answer would prove nothing.
    pub(super) fn ask_address(&mut self, id: PeerId, outputs: &mut Vec<Output>) {
        if !self.settings.refusal_is_proof {
            return;
        }
        let Some(peer) = self.peers.get_mut(id).filter(|peer| peer.state != PeerState::Down) else { return };
        self.asked_addresses += 1;
        peer.asked = Some(self.asked_addresses);
        outputs.push(Output::Effect(Effect::AskAddress { peer: id, number: self.asked_addresses }));
    }

    /// Nobody listens at a peer's address. That proves that the peer is dead, if we have asked since we were last connected.
    pub(super) fn on_address_refused(&mut self, id: PeerId, number: u64, outputs: &mut Vec<Output>) {
        let Some(peer) = self.peers.get_mut(id).filter(|peer| peer.asked == Some(number) && !peer.is_connected) else {
            return;
        };
        peer.asked = None;
        // Of a peer that we have not met since we started, we do not know the last incarnation: others may.
        let Some(met) = peer.epoch else { return };
        let (state, epoch) = (peer.state, peer.accused.map_or(met, |accused| met.max(accused)));
        if state == PeerState::Down {
            return;
        }

        self.stand_down(id, Loss::Dead, outputs);
        match state {
            PeerState::Linked | PeerState::Unknown => self.begin_flush(id, epoch),
            PeerState::CatchingUp | PeerState::Down => self.fence(id, epoch),
        }
        self.end_transfer_from(id, outputs);
    }

    /// A peer has fenced everything up to an incarnation of another replica. It has listed before all that it holds.
    pub(super) fn on_fenced(&mut self, from: PeerId, of: PeerId, epoch: u64, outputs: &mut Vec<Output>) {
        if epoch > EPOCH_MAX {
            return;
        }
        if let Some(peer) = self.peers.get_mut(from) {
            let fence = peer.fences.entry(of).or_default();
            *fence = epoch.max(*fence);
        }

        let Some(peer) = self.peers.get_mut(of).filter(|peer| peer.fenced < epoch) else { return };
        peer.accused = peer.accused.max(Some(epoch));
        // Of one that we consult, or are connected with, we want a proof of our own.
        let may_live = peer.state == PeerState::Linked || peer.is_connected && peer.state != PeerState::Down;
        match may_live {
            true => self.ask_address(of, outputs),
            false => self.fence(of, epoch),
        }
    }

    /// Ends the flushes if everybody has fenced all the dead: they are not waited for any more. A peer that has come back need not
    /// fence what it was before.
    pub(super) fn settle_deaths(&mut self) {
        let are_fenced_by = |id: PeerId, fences: &BTreeMap<PeerId, u64>| {
            let mut dead = self.deaths.0.iter().filter(|(dead, _)| **dead != id);
            dead.all(|(dead, flush)| fences.get(dead).copied().unwrap_or_default() >= flush.epoch)
        };
        let is_complete = self.peers.iter().all(|(id, peer)| match peer.state {
            PeerState::Down | PeerState::CatchingUp => true,
            PeerState::Unknown => false,
            PeerState::Linked => are_fenced_by(id, &peer.fences),
        });
        if is_complete {
            self.deaths.clear();
        }
    }

    /// Ends the flushes that have taken longer than the delivery bound: what the dead have told anybody is everywhere by now, and
    /// only clocks may differ.
    pub(super) fn give_up_flushes(&mut self) {
        let bound = self.settings.delivery_bound;
        let drained = self.drained;
        let before = self.deaths.0.len();
        self.deaths.0.retain(|_, flush| drained <= flush.since.after(bound));
        if self.deaths.0.len() < before {
            self.raise_barrier(self.closing.grace.max());
        }
    }
}
