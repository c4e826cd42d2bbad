//! What holds after every step.
//!
//! The cheap rules are checked after each step, in programs too: a replica that breaks one must not answer anything. Those that look
//! at every request are for the simulator.

use super::peers::PeerState;
use super::{Phase, Replica};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;

/// Values as they were after the last step. They never decrease, unless it says so.
#[derive(Clone, Copy, Debug)]
pub struct HighWater {
    pub epoch: u64,
    pub closed: Timestamp,
    pub barrier: Timestamp,
    pub drained: Timestamp,
    pub now: Timestamp,
    pub horizon: Timestamp,
    /// May decrease, when a snapshot is installed.
    pub applied: Uid,
}

impl Replica {
    /// Panics if a cheap rule is broken. Ends each step.
    pub(super) fn check_invariants(&mut self) {
        if cfg!(debug_assertions) {
            if let Some(rule) = self.broken_rule() {
                panic!("BUG in the replication protocol: it must hold that {rule}: {:?}", self.overview());
            }
            self.reached = self.high_water();
        }
    }

    /// Checks all rules, also those that take time proportional to the number of held requests.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check_invariants_fully(&self) -> Result<(), &'static str> {
        let rules = [
            (self.pending.is_sound_fully(), "the heap, the map and the byte count of the pending requests agree"),
            (
                self.missing.is_sound(),
                "a missing request is listed by a peer, and fetched as long as one of those that list it is connected",
            ),
            (self.catch_up.is_sound(), "a transfer counts the bytes that it has gathered, and moves on"),
            (self.missing.iter().all(|uid| !self.is_known(uid)), "nothing is missing that is pending or applied"),
            (self.pending.iter().all(|(uid, _)| !self.recent.contains(uid)), "nothing is pending that is applied"),
            (
                self.refused.iter().all(|uid| self.pending.get(uid).is_none()),
                "no connection waits among the refused for a request that is pending",
            ),
            (self.is_announced_held(), "announced requests are held"),
        ];
        self.broken_rule().or(first_broken(&rules)).map_or(Ok(()), Err)
    }

    /// Panics unless all requests that are about to be announced are held: peers expect to get them from us.
    pub(super) fn check_announced(&self) {
        debug_assert!(self.is_announced_held(), "announced requests are held");
    }

    /// Whether everything that is to be announced is pending, or applied as far as we remember.
    fn is_announced_held(&self) -> bool {
        let horizon = self.recent.horizon();
        self.announcer.unannounced().iter().all(|uid| self.is_known(*uid) || uid.timestamp < horizon)
    }

    /// A rule that is broken, of those that cost next to nothing.
    fn broken_rule(&self) -> Option<&'static str> {
        let (before, now) = (&self.reached, self.high_water());
        let is_catching_up = self.phase == Phase::CatchingUp;
        let closed = self.closing.closed();
        first_broken(&[
            (now.epoch >= before.epoch, "the epoch only grows"),
            (now.closed >= before.closed, "the closed timestamp never moves back"),
            (now.barrier >= before.barrier, "the barrier never moves back"),
            (now.drained >= before.drained, "the drained reading never moves back"),
            (now.now >= before.now, "the clock reading never moves back"),
            (now.horizon >= before.horizon, "the horizon never moves back"),
            (self.announcer.closed() <= closed, "an announced closed timestamp is closed"),
            (is_catching_up || self.applied.timestamp <= closed, "the applied requests are closed"),
            (
                self.closing.grace.current() <= self.closing.grace.max(),
                "the grace is at most the bound's share of a hop",
            ),
            (
                self.pending.first().is_none_or(|(uid, _)| uid > self.applied),
                "pending requests come after the applied ones",
            ),
            (self.pending.is_sound(), "the heap and the map of the pending requests agree"),
            (
                self.missing.first().is_none_or(|uid| !self.is_known(uid)),
                "nothing is missing that is pending or applied",
            ),
            (self.recent.last().is_none_or(|uid| uid <= self.applied), "uids remembered as applied are applied"),
            (
                is_catching_up || now.applied == before.applied || self.is_last_remembered(),
                "applied uids are remembered",
            ),
            (
                self.missing.connected() == self.peers.connected(),
                "missing requests are fetched from the peers that are connected",
            ),
            (self.are_peers_met(), "a peer is consulted or catches up only under an epoch that we have met"),
            (!is_catching_up || self.pending.is_empty(), "nothing is pending while we catch up"),
            (!is_catching_up || self.missing.first().is_none(), "nothing is missing while we catch up"),
            (self.is_transfer_connected(), "a transfer is from a peer that is connected"),
            (is_catching_up || !self.catch_up.awaits_snapshot(), "a snapshot is taken only while we catch up"),
        ])
    }

    /// Whether the last applied request is remembered, if it lies after the horizon. At a start and with a snapshot it need not be: the
    /// log may have been truncated up to there, but only because all replicas have it.
    fn is_last_remembered(&self) -> bool {
        self.applied.timestamp < self.recent.horizon() || self.recent.contains(self.applied)
    }

    /// Whether the peer whose log or snapshot is being transferred is connected, if there is one.
    fn is_transfer_connected(&self) -> bool {
        let is_connected = |peer| self.peers.get(peer).is_some_and(|peer| peer.is_connected);
        self.catch_up.from().is_none_or(is_connected)
    }

    /// Whether every peer that has told us what it is has told us its epoch as well.
    fn are_peers_met(&self) -> bool {
        let needs_epoch = |state| matches!(state, PeerState::CatchingUp | PeerState::Linked);
        self.peers.iter().all(|(_, peer)| !needs_epoch(peer.state) || peer.epoch.is_some())
    }

    /// The present values.
    fn high_water(&self) -> HighWater {
        HighWater {
            epoch: self.epoch,
            closed: self.closing.closed(),
            barrier: self.barrier,
            drained: self.drained,
            now: self.now,
            horizon: self.recent.horizon(),
            applied: self.applied,
        }
    }
}

/// The first rule that does not hold.
fn first_broken(rules: &[(bool, &'static str)]) -> Option<&'static str> {
    rules.iter().find(|(holds, _)| !holds).map(|(_, rule)| *rule)
}
