//! What time it is by the replicas' clocks.
//!
//! Requests are ordered by their timestamps, and replicas refuse timestamps that are far from their own clocks. So that a
//! machine whose clock is wrong can still chat, the client corrects its clock. Each exchange with a replica that shows the
//! replica's clock estimates how far that is ahead, and the median over the replicas is the correction.

use stablechat_protocol::clock_offset::{ClockOffset, Exchange};
use stablechat_protocol::time::Timestamp;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A clock that never steps: wall time at its start, plus the time that has passed since.
#[derive(Debug)]
pub struct LocalClock {
    /// Wall time at the start.
    base: Timestamp,
    /// The start.
    started: Instant,
}

impl LocalClock {
    /// Starts a clock.
    pub fn start() -> LocalClock {
        // A clock that shows a time before 1970 is corrected like any other wrong clock.
        let base = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        LocalClock { base: Timestamp::ZERO.after(base), started: Instant::now() }
    }

    /// The time, not corrected.
    pub fn now(&self) -> Timestamp {
        self.base.after(self.started.elapsed())
    }
}

/// The estimated offsets of the replicas' clocks from ours.
#[derive(Clone, Debug)]
pub struct Offsets {
    /// By link.
    replicas: Vec<ClockOffset>,
}

impl Offsets {
    /// No exchanges yet, on this many links.
    pub fn new(links: usize) -> Offsets {
        Offsets { replicas: vec![ClockOffset::default(); links] }
    }

    /// Takes in an exchange on a link, by our uncorrected clock.
    pub fn observe(&mut self, link: usize, exchange: Exchange) {
        self.replicas[link].observe(exchange);
    }

    /// How far the replicas' clocks are ahead of ours, in nanoseconds; 0 before the first exchange.
    pub fn offset(&self) -> i64 {
        let mut offsets: Vec<i64> = self.replicas.iter().filter_map(ClockOffset::estimate_ns).collect();
        offsets.sort_unstable();
        match offsets.len() {
            0 => 0,
            odd if odd % 2 == 1 => offsets[odd / 2],
            even => offsets[even / 2 - 1].midpoint(offsets[even / 2]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_median_replica_counts() {
        let instant =
            |clock| Exchange { sent: Timestamp(SECOND), clock: Timestamp(clock), received: Timestamp(SECOND) };
        let mut offsets = Offsets::new(3);
        assert_eq!(offsets.offset(), 0);
        offsets.observe(0, instant(0));
        assert_eq!(offsets.offset(), -(SECOND as i64));
        offsets.observe(1, instant(SECOND + 40));
        assert_eq!(offsets.offset(), -(SECOND as i64) / 2 + 20);
        offsets.observe(2, instant(SECOND + 50));
        assert_eq!(offsets.offset(), 40);
    }

    #[test]
    fn the_local_clock_moves_forward() {
        let clock = LocalClock::start();
        let first = clock.now();
        assert!(clock.now() >= first && first > Timestamp::ZERO);
    }
}
