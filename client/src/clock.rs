//! What time it is by the replicas' clocks.
//!
//! Requests are ordered by their timestamps, and replicas refuse timestamps that are far from their own clocks. So that a
//! machine whose clock is wrong can still chat, each exchange with a replica that carries its clock is a sample of the
//! distance to it (Cristian 1989): the replica read its clock at some time between our two readings. Of the last samples
//! of a replica the one with the shortest round trip counts, and the median over the replicas is the correction.

use stablechat_protocol::time::Timestamp;
use std::collections::VecDeque;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// How many samples are kept of each replica.
const SAMPLES_MAX: usize = 16;

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
        // A machine that believes to live before 1970 gets corrected like any other.
        let base = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        LocalClock { base: Timestamp::ZERO.after(base), started: Instant::now() }
    }

    /// The time, not corrected.
    pub fn now(&self) -> Timestamp {
        self.base.after(self.started.elapsed())
    }
}

/// The estimated distances to the replicas' clocks.
#[derive(Clone, Debug)]
pub struct Offsets {
    /// By link.
    samples: Vec<VecDeque<Sample>>,
}

/// One exchange.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// How far the replica's clock is ahead of ours, in nanoseconds, if it was read half-way.
    offset: i64,
    /// How long the exchange took, in nanoseconds: the true offset is within half of it.
    round_trip: i64,
}

impl Sample {
    /// Whether one offset explains both samples.
    fn agrees_with(&self, other: &Sample) -> bool {
        let distance = self.offset.saturating_sub(other.offset).saturating_abs();
        distance <= (self.round_trip / 2).saturating_add(other.round_trip / 2)
    }
}

impl Offsets {
    /// No samples yet, of this many links.
    pub fn new(links: usize) -> Offsets {
        Offsets { samples: vec![VecDeque::new(); links] }
    }

    /// Takes an exchange with a replica that showed `clock` between `sent` and `received` by our uncorrected clock.
    pub fn sample(&mut self, link: usize, sent: Timestamp, clock: Timestamp, received: Timestamp) {
        let round_trip = signed(received.since(sent).as_nanos());
        let middle = sent.offset_by(round_trip / 2);
        let offset = match clock >= middle {
            true => signed(clock.since(middle).as_nanos()),
            false => -signed(middle.since(clock).as_nanos()),
        };
        let sample = Sample { offset, round_trip };
        let samples = &mut self.samples[link];
        if samples.iter().any(|earlier| !earlier.agrees_with(&sample)) {
            // One of the clocks was stepped, or we were suspended: what was known is of no use.
            samples.clear();
        }
        samples.push_back(sample);
        if samples.len() > SAMPLES_MAX {
            samples.pop_front();
        }
    }

    /// How far the replicas' clocks are ahead of ours, in nanoseconds; 0 while nothing is known.
    pub fn offset(&self) -> i64 {
        let best = |samples: &VecDeque<Sample>| samples.iter().min_by_key(|sample| sample.round_trip).copied();
        let mut offsets: Vec<i64> = self.samples.iter().filter_map(best).map(|sample| sample.offset).collect();
        offsets.sort_unstable();
        match offsets.len() {
            0 => 0,
            odd if odd % 2 == 1 => offsets[odd / 2],
            even => offsets[even / 2 - 1].midpoint(offsets[even / 2]),
        }
    }
}

/// Nanoseconds as a signed number, or the greatest there is.
fn signed(nanoseconds: u128) -> i64 {
    i64::try_from(nanoseconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_shortest_round_trip_counts() {
        let mut offsets = Offsets::new(1);
        assert_eq!(offsets.offset(), 0);
        offsets.sample(0, Timestamp(1000), Timestamp(5000), Timestamp(1400));
        assert_eq!(offsets.offset(), 3800);
        offsets.sample(0, Timestamp(2000), Timestamp(5900), Timestamp(2020));
        assert_eq!(offsets.offset(), 3890);
        offsets.sample(0, Timestamp(3000), Timestamp(6950), Timestamp(3300));
        assert_eq!(offsets.offset(), 3890);
    }

    #[test]
    fn the_median_replica_counts() {
        let mut offsets = Offsets::new(3);
        offsets.sample(0, Timestamp(SECOND), Timestamp(0), Timestamp(SECOND));
        assert_eq!(offsets.offset(), -(SECOND as i64));
        offsets.sample(1, Timestamp(SECOND), Timestamp(SECOND + 40), Timestamp(SECOND));
        offsets.sample(2, Timestamp(SECOND), Timestamp(SECOND + 50), Timestamp(SECOND));
        assert_eq!(offsets.offset(), 40);
    }

    #[test]
    fn a_step_is_believed_at_once() {
        let mut offsets = Offsets::new(1);
        offsets.sample(0, Timestamp(1000), Timestamp(1010), Timestamp(1020));
        offsets.sample(0, Timestamp(2000), Timestamp(SECOND), Timestamp(2100));
        assert_eq!(offsets.offset(), SECOND as i64 - 2050);
    }

    #[test]
    fn absurd_clocks_do_no_harm() {
        let mut offsets = Offsets::new(2);
        offsets.sample(0, Timestamp(0), Timestamp::MAX, Timestamp::MAX);
        offsets.sample(0, Timestamp::MAX, Timestamp::ZERO, Timestamp::ZERO);
        offsets.sample(1, Timestamp::ZERO, Timestamp::MAX, Timestamp::ZERO);
        offsets.offset();
    }

    #[test]
    fn the_local_clock_moves_forward() {
        let clock = LocalClock::start();
        let first = clock.now();
        assert!(clock.now() >= first && first > Timestamp::ZERO);
    }
}
