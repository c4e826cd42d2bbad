//! A replica's clock: monotonic, and slewed towards the wall clock.
//!
//! Timestamps of different machines are compared, so a replica's clock has to follow the wall clock. The protocol's promises
//! are about times that have passed, so it must never go back. It therefore shows the wall clock's time at start plus the time
//! since then by the monotonic clock, which it lets run a little faster or slower to stay with the wall clock.
//!
//! A wall clock that is set is logged and counted. When it is set back, this clock only runs slower. When it is set far
//! forward, this clock jumps, and the protocol treats the jump as a pause of the process.

use parking_lot::Mutex;
use stablechat_protocol::time::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The clock. Clones share their state.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Mutex<SlewedClock>>);

/// The clock runs faster or slower by at most one part in this many (0.5 ms in a second), as NTP daemons slew.
const SLEW_ONE_IN: i64 = 2000;
/// The time in which a difference to the wall clock is slewed away, unless that takes more than [`SLEW_ONE_IN`].
const SLEW_OVER: Duration = Duration::from_secs(10);
/// The time between two readings of the wall clock.
const ADJUST_EVERY: Duration = Duration::from_secs(1);
/// When the difference to the wall clock changes by more than this between two readings, in nanoseconds, the wall clock was
/// set: no drift is that fast (50 ms in a second).
const STEP_MIN_NS: i64 = 50_000_000;

/// The time shown as a function of the monotonic clock: a line, and a new one after each adjustment.
#[derive(Debug)]
struct SlewedClock {
    /// The time shown at `since`.
    base: Timestamp,
    /// Where the line begins.
    since: Instant,
    /// How much faster than the monotonic clock this clock runs, in nanoseconds per second.
    slew_ns_per_s: i64,
    /// How far the wall clock was ahead at the last adjustment.
    difference_ns: i64,
    /// A wall clock that is further ahead than this is followed by a jump.
    jump: Duration,
    /// How often the wall clock was set.
    steps: u64,
}

impl Clock {
    /// A clock that agrees with the wall clock now. When the wall clock is set forward by more than `jump`, the clock follows
    /// at once; its user must treat that as a pause.
    pub fn start(jump: Duration) -> Clock {
        let (base, since) = (wall_clock(), Instant::now());
        Clock(Arc::new(Mutex::new(SlewedClock { base, since, slew_ns_per_s: 0, difference_ns: 0, jump, steps: 0 })))
    }

    /// The time. Never less than at an earlier call.
    pub fn now(&self) -> Timestamp {
        let mut clock = self.0.lock();
        let elapsed = clock.since.elapsed();
        if elapsed >= ADJUST_EVERY {
            clock.adjust(wall_clock(), elapsed);
            return clock.base;
        }
        clock.after(elapsed)
    }

    /// When the clock will show this time, as far as it is known now. Good for waiting: the slew makes it wrong by 0.05 % at
    /// most, and whoever wakes up looks at the time again.
    pub fn instant_of(&self, time: Timestamp) -> Instant {
        let clock = self.0.lock();
        clock.since + time.since(clock.base)
    }

    /// How often the wall clock was set since the start.
    pub fn steps(&self) -> u64 {
        self.0.lock().steps
    }
}

impl SlewedClock {
    /// The time shown when this much time has passed on the line.
    fn after(&self, elapsed: Duration) -> Timestamp {
        let slew = self.slew_ns_per_s as f64 * elapsed.as_secs_f64();
        self.base.after(elapsed).offset_by(slew as i64)
    }

    /// Begins a new line, towards the time that the wall clock shows.
    fn adjust(&mut self, wall: Timestamp, elapsed: Duration) {
        let shown = self.after(elapsed);
        let difference_ns = wall.0.cast_signed().wrapping_sub(shown.0.cast_signed());
        if (difference_ns - self.difference_ns).abs() > STEP_MIN_NS {
            self.steps += 1;
            log::warn!("the wall clock was set by {} ms", (difference_ns - self.difference_ns) / 1_000_000);
        }
        self.since += elapsed;
        self.base = shown;
        self.difference_ns = difference_ns;

        if difference_ns > 0 && Duration::from_nanos(difference_ns.unsigned_abs()) > self.jump {
            log::warn!(
                "the wall clock is {} ms ahead, too far to slew: setting the replica's clock, which counts as a pause",
                difference_ns / 1_000_000
            );
            (self.base, self.difference_ns) = (wall, 0);
        }

        let most = 1_000_000_000 / SLEW_ONE_IN;
        self.slew_ns_per_s = (self.difference_ns / SLEW_OVER.as_secs().cast_signed()).clamp(-most, most);
    }
}

/// The wall clock's time; the Unix epoch when it shows an earlier one.
fn wall_clock() -> Timestamp {
    Timestamp::ZERO.after(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_700_000_000_000_000_000);

    fn clock() -> SlewedClock {
        let jump = Duration::from_millis(500);
        SlewedClock { base: START, since: Instant::now(), slew_ns_per_s: 0, difference_ns: 0, jump, steps: 0 }
    }

    #[test]
    fn a_small_difference_is_slewed_away() {
        let mut clock = clock();
        let wall = |second: u64| START.after(Duration::from_secs(second)).offset_by(2_000_000);
        for second in 1..=60 {
            let before = clock.base;
            clock.adjust(wall(second), ADJUST_EVERY);
            let ran = clock.base.since(before).as_nanos().cast_signed();
            assert!((ran - 1_000_000_000).abs() <= 500_000, "it ran {ran} ns in a second");
        }
        assert!(clock.difference_ns.abs() < 100_000, "{}", clock.difference_ns);
        assert_eq!(clock.steps, 0);
    }

    #[test]
    fn a_step_back_is_never_followed_but_slewed() {
        let mut clock = clock();
        clock.adjust(START.before(Duration::from_secs(3600)), ADJUST_EVERY);
        assert_eq!(clock.base, START.after(ADJUST_EVERY));
        assert_eq!((clock.steps, clock.slew_ns_per_s), (1, -500_000));
        assert_eq!(clock.after(ADJUST_EVERY), START.after(ADJUST_EVERY + ADJUST_EVERY).offset_by(-500_000));
    }

    #[test]
    fn a_far_step_forward_is_followed_at_once() {
        let mut clock = clock();
        let wall = START.after(Duration::from_secs(3600));
        clock.adjust(wall, ADJUST_EVERY);
        assert_eq!((clock.base, clock.steps, clock.difference_ns), (wall, 1, 0));
    }
}
