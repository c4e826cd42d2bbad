//! What a replica shows of itself, for logs, metrics and status reports. Nothing in the protocol depends on it.

use super::peers::PeerState;
use super::{ClockStanding, Loss, PeerId, Phase, Replica, Stopping};
use stablechat_protocol::time::Timestamp;
use std::time::Duration;

/// A replica's part in the protocol, at its latest reading of the clock.
#[derive(Clone, Debug)]
pub struct Overview {
    pub phase: Phase,
    /// Whether it has been asked to stop.
    pub is_stopping: bool,
    /// Whether it answers nothing for now: it is in contact with fewer than `min_live` replicas.
    pub is_muted: bool,
    /// How its clock stands among those of the replicas.
    pub clock: ClockStanding,
    pub epoch: u64,
    /// The number of incarnations before this one since one was stable, except those that have left.
    pub restarts: u32,
    /// How much longer it waits before it joins, because of its restarts; none when it does not wait.
    pub join_wait: Option<Duration>,
    /// The latest reading of the clock.
    pub now: Timestamp,
    pub closed: Timestamp,
    /// How far behind the clock it closes.
    pub grace: Duration,
    /// Whether a request that the real-time test has not reached may lie below the barrier.
    pub has_barrier: bool,
    /// How many requests and queries are pending.
    pub pending: usize,
    pub peers: Vec<PeerOverview>,
}

/// A peer, as the replica sees it.
#[derive(Clone, Debug)]
pub struct PeerOverview {
    pub id: PeerId,
    pub state: PeerState,
    /// How it was last lost; none if it never was.
    pub loss: Option<Loss>,
    pub is_connected: bool,
    /// Its closed timestamp, as far as it was announced; none when it is not consulted.
    pub closed: Option<Timestamp>,
    /// How long ago it was heard, or began to be waited for.
    pub silence: Duration,
    /// How far its clock is ahead, in nanoseconds; none before it was measured.
    pub clock_offset_ns: Option<i64>,
    /// Whether its clock differs from ours by more than the delivery bound has room for.
    pub clock_is_apart: bool,
}

impl Replica {
    /// What each peer is to the replica.
    pub fn peer_states(&self) -> impl Iterator<Item = (PeerId, PeerState)> {
        self.peers.iter().map(|(id, peer)| (id, peer.state))
    }

    /// What the replica shows of itself.
    pub fn overview(&self) -> Overview {
        let peers = self.peers.iter().map(|(id, peer)| PeerOverview {
            id,
            state: peer.state,
            loss: peer.loss,
            is_connected: peer.is_connected,
            closed: (peer.state == PeerState::Linked).then_some(peer.closed),
            silence: self.now.since(peer.heard),
            clock_offset_ns: peer.offset.estimate_ns(),
            clock_is_apart: self.is_clock_apart(peer),
        });
        Overview {
            phase: self.phase,
            is_stopping: self.stopping != Stopping::No,
            is_muted: self.is_muted(),
            clock: self.clock_check.standing(),
            epoch: self.epoch,
            restarts: self.restarts(),
            join_wait: self.join_wait(),
            now: self.now,
            closed: self.closing.closed(),
            grace: self.closing.grace.current(),
            has_barrier: self.barrier > self.now.before(self.settings.delivery_bound),
            pending: self.pending.len(),
            peers: peers.collect(),
        }
    }
}
