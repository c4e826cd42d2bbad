//! Waiting before a join, after many restarts.
//!
//! **The problem.** When an incarnation that has joined ends without leaving, the others answer by the real-time test for about Δ.
//! A replica that begins anew over and over, because its process crashes or is suspended, would make them slow all the time.
//!
//! **The wait.** After a few restarts (`restarts_free`) a replica waits before it joins, twice as long each time. Meanwhile it
//! catches up: it follows the others' logs, and they do not wait for it. If it ends then, that costs them nothing. So a replica
//! that crashes some seconds after each start soon costs nothing at all, and one that crashes later costs about Δ in each
//! [`WAIT_MAX`].
//!
//! It does not wait when it is needed: when fewer peers than `min_live` asks for have joined, so when all others are down.
//!
//! **Counting.** The store keeps how many incarnations have begun, one after the other, without any of them having been stable: having
//! served for [`STABLE`]. That time is measured within one incarnation, so clocks that were set before do not matter. An
//! incarnation that leaves costs nobody anything, and does not count: restarts by an operator do not lead to a wait.

use super::{Effect, Output, Phase, Replica};
use stablechat_protocol::time::Timestamp;
use std::time::Duration;

/// The longest wait, in delivery bounds. The first is two of them, about the time for which a restart makes the others slow.
const WAIT_MAX: u32 = 64;
/// A replica that has served for so many delivery bounds is stable, five minutes by default: much longer than [`WAIT_MAX`], so that
/// restarts are rare before they count no more.
const STABLE: u32 = 300;

/// How often this replica has begun anew, and when it began to serve.
#[derive(Debug)]
pub struct Restarts {
    /// The number of incarnations before this one since one was stable.
    count: u32,
    /// When this incarnation began.
    began: Timestamp,
    /// When it began to serve; none while it does not.
    serving_since: Option<Timestamp>,
}

impl Restarts {
    /// An incarnation that begins now, after so many that were not stable.
    pub fn new(count: u32, now: Timestamp) -> Restarts {
        Restarts { count, began: now, serving_since: None }
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    /// The next incarnation begins.
    pub fn begin_next(&mut self, now: Timestamp) {
        *self = Restarts::new(self.count.saturating_add(1), now);
    }

    /// The replica serves from now on.
    pub fn on_serving(&mut self, now: Timestamp) {
        self.serving_since = Some(now);
    }

    /// Whether the replica has become stable, which it does once. Then its restarts count no more.
    fn becomes_stable(&mut self, now: Timestamp, delivery_bound: Duration) -> bool {
        let is_stable = self.serving_since.is_some_and(|since| now.since(since) >= STABLE * delivery_bound);
        let becomes_stable = is_stable && self.count > 0;
        if becomes_stable {
            self.count = 0;
        }
        becomes_stable
    }

    /// When the replica may join, even if enough others serve without it.
    fn join_at(&self, free: u32, delivery_bound: Duration) -> Timestamp {
        let factor = match self.count.checked_sub(free) {
            None | Some(0) => 0,
            Some(beyond) => WAIT_MAX.min(1_u32.checked_shl(beyond).unwrap_or(WAIT_MAX)),
        };
        self.began.after(factor * delivery_bound)
    }
}

impl Replica {
    /// Until when this replica waits before it joins, because it has begun anew too often; none when it does not wait.
    pub(super) fn waits_until(&self) -> Option<Timestamp> {
        let are_enough_without_us = usize::from(self.peers.linked().len()) >= self.settings.min_live.max(1);
        let join_at = self.restarts.join_at(self.settings.restarts_free, self.settings.delivery_bound);
        Some(join_at).filter(|join_at| are_enough_without_us && *join_at > self.now)
    }

    /// How much longer this replica waits before it joins, because of its restarts; none when it does not wait.
    pub fn join_wait(&self) -> Option<Duration> {
        self.waits_until().filter(|_| self.phase == Phase::CatchingUp).map(|until| until.since(self.now))
    }

    /// How many incarnations there were before this one since one was stable, except those that have left.
    pub fn restarts(&self) -> u32 {
        self.restarts.count()
    }

    /// Notes when this replica has become stable, so that its restarts count no more.
    pub(super) fn note_stability(&mut self, outputs: &mut Vec<Output>) {
        if self.restarts.becomes_stable(self.now, self.settings.delivery_bound) {
            outputs.push(Output::Effect(Effect::Stable));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: u32 = 3;
    const BOUND: Duration = Duration::from_secs(1);
    const NOW: Timestamp = Timestamp(1_700_000_000_000_000_000);

    #[test]
    fn each_wait_is_twice_the_one_before_up_to_a_limit() {
        let wait = |count| Restarts::new(count, NOW).join_at(FREE, BOUND).since(NOW).as_secs();
        assert_eq!((0..=FREE).map(wait).max(), Some(0));
        let waits: Vec<u64> = (FREE + 1..FREE + 9).map(wait).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(wait(u32::MAX), 64);
    }

    #[test]
    fn restarts_count_until_a_replica_has_served_for_long() {
        let mut restarts = Restarts::new(0, NOW);
        (0..5).for_each(|_| restarts.begin_next(NOW));
        assert_eq!(restarts.count(), 5);
        assert!(!restarts.becomes_stable(NOW.after(BOUND * STABLE), BOUND), "it does not serve");
        restarts.on_serving(NOW);
        assert!(!restarts.becomes_stable(NOW.after(BOUND * (STABLE - 1)), BOUND));
        assert!(restarts.becomes_stable(NOW.after(BOUND * STABLE), BOUND));
        assert!(!restarts.becomes_stable(NOW.after(BOUND * STABLE), BOUND), "it is said once");
        assert_eq!(restarts.count(), 0);
    }
}
