//! A replica's clock: off the true time, and running a little too fast or too slow.

use super::bounds::SKEW_MAX;
use fastrand::Rng;
use stablechat_protocol::time::Timestamp;

/// How much a clock gains or loses in a second at most, in nanoseconds: more than a cheap crystal does.
const DRIFT_MAX: i64 = 300_000;

/// A clock that never goes back while its process runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// How far it was ahead of the true time at some time, in nanoseconds.
    skew: i64,
    /// When it was.
    set_at: Timestamp,
    /// How many nanoseconds it gains in a second.
    drift: i64,
    /// What it has shown.
    shown: Timestamp,
}

impl Clock {
    /// A clock that agrees with others within the bounds.
    pub fn new(random: &mut Rng, now: Timestamp) -> Clock {
        let (skew, drift) = (random.i64(-SKEW_MAX..=SKEW_MAX), random.i64(-DRIFT_MAX..=DRIFT_MAX));
        Clock { skew, set_at: now, drift, shown: Timestamp::ZERO }
    }

    /// Sets it so far ahead of the true time, from where it drifts no more.
    pub fn set(&mut self, now: Timestamp, skew: i64) {
        (self.skew, self.set_at, self.drift) = (skew, now, 0);
    }

    /// How far it is ahead of the true time, in nanoseconds. Drift is corrected before it exceeds the bounds, as by a time service:
    /// it then goes the other way.
    pub fn skew(&self, now: Timestamp) -> i64 {
        if self.drift == 0 {
            return self.skew;
        }
        let milliseconds = i64::try_from(now.since(self.set_at).as_millis()).expect("runs are short");
        let period = 4 * SKEW_MAX;
        let along = (self.skew + SKEW_MAX + self.drift * milliseconds / 1000).rem_euclid(period);
        along.min(period - along) - SKEW_MAX
    }

    /// What it shows.
    pub fn read(&mut self, now: Timestamp) -> Timestamp {
        self.shown = self.shown.max(now.offset_by(self.skew(now)));
        self.shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_drifts_within_the_bounds() {
        let start = Timestamp(1_700_000_000_000_000_000);
        for seed in 0..100 {
            let mut clock = Clock::new(&mut Rng::with_seed(seed), start);
            let first = clock.skew;
            assert_eq!(clock.skew(start), first);
            let skews: Vec<i64> = (0..200).map(|second| clock.skew(start.after(Duration::from_secs(second)))).collect();
            assert!(skews.iter().all(|skew| skew.abs() <= SKEW_MAX), "{skews:?}");
            assert!(skews.windows(2).all(|pair| (pair[1] - pair[0]).abs() <= DRIFT_MAX), "{skews:?}");
            assert!(clock.drift == 0 || skews.iter().any(|skew| *skew != first));
            clock.set(start, 9 * SKEW_MAX);
            assert_eq!(clock.skew(start.after(Duration::from_secs(9))), 9 * SKEW_MAX);
        }
    }
}
