//! The grace: how far behind the clock a replica closes.
//!
//! A short grace makes answers fast, but a grace shorter than the delays of clients refuses their requests as late. So it follows
//! the delays that are observed between the timestamps of requests and their direct arrival: their p99.9, and a quarter on top
//! (adaptive deadlines, as in Geng et al., *Nezha*, 2023).
//!
//! A replica that no client speaks to, as after a restart, would keep the longest grace and make the others wait for it. There the
//! delays of requests that it first hears of from a peer count instead.

use stablechat_protocol::time::Timestamp;
use std::time::Duration;

/// The least grace.
pub const GRACE_MIN: Duration = Duration::from_micros(200);
/// Buckets double in width every four; the first ends at [`FIRST_BUCKET_NS`], the last lies beyond any delivery bound.
const BUCKETS: usize = 128;
const FIRST_BUCKET_NS: f64 = 10_000.0;
/// Delays count for one to two stretches of this length: those of the current stretch, and of the one before.
const STRETCH: Duration = Duration::from_secs(1);
/// The share of delays that may be longer than the grace: one in so many.
const LATE_ONE_IN: u32 = 1000;
/// With at least this many delays, one of them does not count: a single retransmitted request would make all others wait.
const OUTLIER_FROM: u32 = 32;

/// The observed delays, and the grace that follows from them.
#[derive(Debug)]
pub struct Grace {
    /// How many delays fell into each bucket in the current stretch.
    counts: [u32; BUCKETS],
    /// And in the stretch before, the last in which there were any.
    before: [u32; BUCKETS],
    /// When a request last came from its client.
    observed_at: Timestamp,
    /// When the current stretch began.
    began_at: Timestamp,
    /// The most that the grace may be: Δ/N.
    max: Duration,
    /// The grace, from `counts`.
    current: Duration,
}

impl Grace {
    /// Begins with the longest grace, until delays have been observed.
    pub fn new(max: Duration) -> Grace {
        Grace {
            counts: [0; BUCKETS],
            before: [0; BUCKETS],
            observed_at: Timestamp::ZERO,
            began_at: Timestamp::ZERO,
            max,
            current: max,
        }
    }

    /// The most that it may be: Δ/N.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// How far behind the clock to close.
    pub fn current(&self) -> Duration {
        self.current
    }

    /// Takes in the delay of a request that was first heard of from a peer. It counts only when none has come from a client
    /// lately, and then alone: there is nobody whom too short a grace could harm.
    pub fn observe_indirect(&mut self, now: Timestamp, delay: Duration) {
        if now.since(self.observed_at) > STRETCH {
            (self.counts, self.before) = ([0; BUCKETS], [0; BUCKETS]);
            self.count(delay);
        }
    }

    /// Takes in the delay of a request that came from its client at `now`.
    pub fn observe(&mut self, now: Timestamp, delay: Duration) {
        self.observed_at = now;
        if now.since(self.began_at) >= STRETCH {
            self.began_at = now;
            self.before = std::mem::replace(&mut self.counts, [0; BUCKETS]);
        }
        self.count(delay);
    }

    /// Counts a delay.
    fn count(&mut self, delay: Duration) {
        let doublings = (delay.as_nanos() as f64 / FIRST_BUCKET_NS).max(1.0).log2();
        let bucket = ((doublings * 4.0).ceil() as usize).min(BUCKETS - 1);
        self.counts[bucket] += 1;
        self.current = self.quantile();
    }

    /// The end of the bucket that all but one in [`LATE_ONE_IN`] delays lie below, and a quarter of it.
    fn quantile(&self) -> Duration {
        let count = |bucket: usize| self.counts[bucket] + self.before[bucket];
        let total = (0..BUCKETS).map(count).sum::<u32>();
        let mut above = (total / LATE_ONE_IN).max(u32::from(total >= OUTLIER_FROM));
        let mut bucket = BUCKETS - 1;
        while bucket > 0 && count(bucket) <= above {
            above -= count(bucket);
            bucket -= 1;
        }
        let end_ns = FIRST_BUCKET_NS * (bucket as f64 / 4.0).exp2();
        Duration::from_nanos((end_ns * 1.25) as u64).max(GRACE_MIN).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_millis(333);

    const NOW: Timestamp = Timestamp(1_700_000_000_000_000_000);

    #[test]
    fn it_begins_long_and_follows_what_is_observed() {
        let mut grace = Grace::new(MAX);
        assert_eq!(grace.current(), MAX);
        grace.observe(NOW, Duration::from_micros(30));
        assert_eq!(grace.current(), GRACE_MIN);
        (0..3).for_each(|_| grace.observe(NOW, Duration::from_millis(10)));
        assert!((10..16).contains(&grace.current().as_millis()), "{:?}", grace.current());
        grace.observe(NOW, Duration::from_secs(100));
        assert_eq!(grace.current(), MAX);
    }

    #[test]
    fn one_in_many_may_be_late() {
        let mut grace = Grace::new(MAX);
        (0..5000).for_each(|_| grace.observe(NOW, Duration::from_micros(400)));
        grace.observe(NOW, Duration::from_millis(100));
        assert!(grace.current() < Duration::from_millis(1), "{:?}", grace.current());
        (0..50).for_each(|_| grace.observe(NOW, Duration::from_millis(100)));
        assert!(grace.current() > Duration::from_millis(99), "{:?}", grace.current());
    }

    #[test]
    fn indirect_delays_count_while_no_client_sends() {
        let mut grace = Grace::new(MAX);
        grace.observe_indirect(NOW, Duration::from_millis(200));
        grace.observe_indirect(NOW, Duration::from_millis(1));
        assert!(grace.current() < Duration::from_millis(2), "{:?}", grace.current());
        grace.observe(NOW, Duration::from_millis(100));
        assert!(grace.current() > Duration::from_millis(99), "{:?}", grace.current());
        let later = NOW.after(STRETCH).next();
        grace.observe_indirect(later.before(STRETCH / 2), Duration::from_millis(1));
        assert!(grace.current() > Duration::from_millis(99), "{:?}", grace.current());
        grace.observe_indirect(later, Duration::from_millis(1));
        assert!(grace.current() < Duration::from_millis(2), "{:?}", grace.current());
    }

    #[test]
    fn old_delays_are_forgotten() {
        let mut grace = Grace::new(MAX);
        (0..1000).for_each(|_| grace.observe(NOW, Duration::from_millis(100)));
        grace.observe(NOW.after(STRETCH), Duration::from_micros(400));
        assert!(grace.current() > Duration::from_millis(99), "{:?}", grace.current());
        grace.observe(NOW.after(STRETCH * 2), Duration::from_micros(400));
        assert!(grace.current() < Duration::from_millis(1), "{:?}", grace.current());
    }
}
