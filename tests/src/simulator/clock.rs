//! A machine's clocks: a wall clock that is off the true time and runs a little too fast or too slow, and the replica's clock,
//! which follows it by the real rule ([`SlewedClock`]).

use super::START;
use super::bounds::SKEW_MAX;
use fastrand::Rng;
use stablechat_protocol::time::Timestamp;
use stablechat_server::clock::SlewedClock;
use std::time::Duration;

/// How much a wall clock gains or loses in a second at most, in nanoseconds: more than a cheap crystal does.
const DRIFT_MAX: i64 = 300_000;

/// The clocks of a machine. The wall clock outlives processes.
#[derive(Clone, Debug)]
pub struct Clock {
    wall: WallClock,
    /// The clock of the present process.
    process: SlewedClock,
    /// A wall clock that is further ahead than this is followed by a jump.
    jump: Duration,
}

/// A wall clock.
#[derive(Clone, Copy, Debug, Default)]
struct WallClock {
    /// How far it was ahead of the true time at some time, in nanoseconds.
    skew: i64,
    /// When it was.
    set_at: Timestamp,
    /// How many nanoseconds it gains in a second; none when it is wrong.
    drift: i64,
    /// Whether it has been set to a wrong time.
    is_wrong: bool,
}

impl Clock {
    /// The clocks of a machine on which no process runs yet, and how far the wall clock may be ahead without a jump.
    pub fn new(jump: Duration) -> Clock {
        Clock { wall: WallClock::default(), process: SlewedClock::new(START, Duration::ZERO, jump), jump }
    }

    /// A process starts. Unless the wall clock is wrong, it agrees with those of others within the bounds.
    pub fn start(&mut self, random: &mut Rng, now: Timestamp) {
        if !self.wall.is_wrong {
            self.wall = WallClock::right(random, now);
        }
        self.process = SlewedClock::new(self.wall.read(now), now.since(START), self.jump);
    }

    /// Sets the wall clock so far ahead of the true time, in nanoseconds.
    pub fn set_wrong(&mut self, now: Timestamp, skew: i64) {
        self.wall = WallClock { skew, set_at: now, drift: 0, is_wrong: true };
    }

    /// Sets the wall clock right.
    pub fn set_right(&mut self, random: &mut Rng, now: Timestamp) {
        self.wall = WallClock::right(random, now);
    }

    /// Whether the wall clock is wrong.
    pub fn is_wrong(&self) -> bool {
        self.wall.is_wrong
    }

    /// How far the wall clock is ahead, if it is so far behind the process's clock that this does not follow.
    pub fn unfollowed_ns(&self) -> Option<i64> {
        self.process.unfollowed_ns()
    }

    /// Lets the process's clock show this time at least.
    pub fn raise(&mut self, now: Timestamp, to: Timestamp) {
        self.process.raise(now.since(START), to);
    }

    /// What the process's clock shows.
    pub fn read(&mut self, now: Timestamp) -> Timestamp {
        let wall = self.wall;
        self.process.read(now.since(START), || wall.read(now))
    }

    /// The true time at which the process's clock will show this time.
    pub fn true_time_of(&self, shown: Timestamp) -> Timestamp {
        START.after(self.process.when(shown))
    }
}

impl WallClock {
    /// A wall clock that agrees with others within the bounds.
    fn right(random: &mut Rng, now: Timestamp) -> WallClock {
        let (skew, drift) = (random.i64(-SKEW_MAX..=SKEW_MAX), random.i64(-DRIFT_MAX..=DRIFT_MAX));
        WallClock { skew, set_at: now, drift, is_wrong: false }
    }

    /// How far it is ahead of the true time, in nanoseconds. Drift is corrected before it exceeds the bounds, as by a time service:
    /// it then goes the other way.
    fn skew(self, now: Timestamp) -> i64 {
        if self.drift == 0 {
            return self.skew;
        }
        let milliseconds = i64::try_from(now.since(self.set_at).as_millis()).expect("runs are short");
        let period = 4 * SKEW_MAX;
        let along = (self.skew + SKEW_MAX + self.drift * milliseconds / 1000).rem_euclid(period);
        along.min(period - along) - SKEW_MAX
    }

    /// What it shows.
    fn read(self, now: Timestamp) -> Timestamp {
        now.offset_by(self.skew(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUMP: Duration = Duration::from_millis(333);

    fn at(second: u64) -> Timestamp {
        START.after(Duration::from_secs(second))
    }

    #[test]
    fn it_drifts_within_the_bounds() {
        for seed in 0..100 {
            let mut random = Rng::with_seed(seed);
            let mut clock = Clock::new(JUMP);
            clock.start(&mut random, START);
            let offset =
                |clock: &mut Clock, second| clock.read(at(second)).0.cast_signed() - at(second).0.cast_signed();
            let offsets: Vec<i64> = (0..200).map(|second| offset(&mut clock, second)).collect();
            assert!(offsets.iter().all(|offset| offset.abs() <= SKEW_MAX), "{offsets:?}");
            assert!(clock.wall.drift == 0 || offsets.iter().any(|offset| *offset != offsets[0]));
        }
    }

    #[test]
    fn a_wrong_wall_clock_outlives_processes_and_is_followed_as_by_a_real_replica() {
        let mut random = Rng::with_seed(1);
        let mut clock = Clock::new(JUMP);
        clock.start(&mut random, START);
        clock.set_wrong(at(1), 3_600_000_000_000);
        clock.read(at(2));
        assert_eq!(clock.read(at(3)), at(3603), "a step forward is followed");
        clock.set_wrong(at(4), -3_600_000_000_000);
        clock.read(at(5));
        assert!(clock.unfollowed_ns().is_some() && clock.read(at(6)) == at(3606), "a step back is not");
        clock.start(&mut random, at(10_000));
        assert_eq!(clock.read(at(10_000)), at(6400));
        assert_eq!(clock.true_time_of(at(6401)), at(10_001));
        clock.set_right(&mut random, at(10_002));
        clock.read(at(10_003));
        let shown = clock.read(at(10_004));
        let off = shown.since(at(10_004)).max(at(10_004).since(shown));
        assert!(!clock.is_wrong() && off <= Duration::from_nanos(2 * SKEW_MAX as u64), "{off:?}");
    }
}
