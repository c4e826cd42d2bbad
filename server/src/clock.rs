//! A replica's clock.

use parking_lot::Mutex;
use stablechat_protocol::time::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock's time at start, and from there the monotonic clock, slewed towards the wall clock: it never goes back, and
/// jumps forward only when the wall clock was set forward by far.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Mutex<Slewed>>);

/// The most that the clock is made to run faster or slower, in parts of the elapsed time: one in so many.
const SLEW_ONE_IN: i64 = 2000;
/// The time in which a difference is to be made good, if the slew is enough.
const SLEW_OVER: Duration = Duration::from_secs(10);
/// How often the wall clock is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A change of the difference to the wall clock between two looks that is no drift: the wall clock was set.
const STEP: i64 = 50_000_000;

/// What is shown, as a line in the monotonic clock's time.
#[derive(Debug)]
struct Slewed {
    /// What was shown at `since`.
    base: Timestamp,
    /// When the line begins.
    since: Instant,
    /// By how much more the clock runs than the monotonic clock: nanoseconds in a second.
    slew_ns_per_s: i64,
    /// By how much the wall clock was ahead when it was last looked at, in nanoseconds.
    difference_ns: i64,
    /// A wall clock that is ahead by more than this is followed by a jump.
    jump: Duration,
    /// How often the wall clock was set.
    steps: u64,
}

impl Clock {
    /// A clock that agrees with the wall clock now. When the wall clock is set forward by more than `jump`, it follows at
    /// once; who uses it must take that for a pause.
    pub fn start(jump: Duration) -> Clock {
        let (base, since) = (wall(), Instant::now());
        Clock(Arc::new(Mutex::new(Slewed { base, since, slew_ns_per_s: 0, difference_ns: 0, jump, steps: 0 })))
    }

    /// What it shows.
    pub fn now(&self) -> Timestamp {
        let mut slewed = self.0.lock();
        let elapsed = slewed.since.elapsed();
        if elapsed >= LOOK {
            slewed.look(wall(), elapsed);
            return slewed.base;
        }
        slewed.shown(elapsed)
    }

    /// When it will show this time.
    pub fn instant_of(&self, time: Timestamp) -> Instant {
        let slewed = self.0.lock();
        // The slew is too little to matter for when to wake.
        slewed.since + time.since(slewed.base)
    }

    /// How often the wall clock was set.
    pub fn steps(&self) -> u64 {
        self.0.lock().steps
    }
}

impl Slewed {
    /// What is shown when so much time has passed on the line.
    fn shown(&self, elapsed: Duration) -> Timestamp {
        let slew = self.slew_ns_per_s as f64 * elapsed.as_secs_f64();
        self.base.after(elapsed).offset_by(slew as i64)
    }

    /// Begins a new line, towards what the wall clock shows.
    fn look(&mut self, wall: Timestamp, elapsed: Duration) {
        let shown = self.shown(elapsed);
        let difference = wall.0.cast_signed().wrapping_sub(shown.0.cast_signed());
        if (difference - self.difference_ns).abs() > STEP {
            self.steps += 1;
            log::warn!("the wall clock was set by {} ms", (difference - self.difference_ns) / 1_000_000);
        }
        self.since += elapsed;
        self.base = shown;
        self.difference_ns = difference;
        if difference > 0 && Duration::from_nanos(difference.unsigned_abs()) > self.jump {
            log::warn!("following the wall clock, which is {} ms ahead", difference / 1_000_000);
            (self.base, self.difference_ns) = (wall, 0);
        }
        let most = 1_000_000_000 / SLEW_ONE_IN;
        self.slew_ns_per_s = (self.difference_ns / SLEW_OVER.as_secs().cast_signed()).clamp(-most, most);
    }
}

/// What the wall clock shows.
fn wall() -> Timestamp {
    Timestamp::ZERO.after(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_700_000_000_000_000_000);

    fn slewed() -> Slewed {
        let jump = Duration::from_millis(500);
        Slewed { base: START, since: Instant::now(), slew_ns_per_s: 0, difference_ns: 0, jump, steps: 0 }
    }

    #[test]
    fn a_small_difference_is_slewed_away() {
        let mut clock = slewed();
        let wall = |second: u64| START.after(Duration::from_secs(second)).offset_by(2_000_000);
        for second in 1..=60 {
            let before = clock.base;
            clock.look(wall(second), LOOK);
            let ran = clock.base.since(before).as_nanos().cast_signed();
            assert!((ran - 1_000_000_000).abs() <= 500_000, "it ran {ran} ns in a second");
        }
        assert!(clock.difference_ns.abs() < 100_000, "{}", clock.difference_ns);
        assert_eq!(clock.steps, 0);
    }

    #[test]
    fn a_step_back_is_never_followed_but_slewed() {
        let mut clock = slewed();
        clock.look(START.before(Duration::from_secs(3600)), LOOK);
        assert_eq!(clock.base, START.after(LOOK));
        assert_eq!((clock.steps, clock.slew_ns_per_s), (1, -500_000));
        assert_eq!(clock.shown(LOOK), START.after(LOOK + LOOK).offset_by(-500_000));
    }

    #[test]
    fn a_far_step_forward_is_followed_at_once() {
        let mut clock = slewed();
        let wall = START.after(Duration::from_secs(3600));
        clock.look(wall, LOOK);
        assert_eq!((clock.base, clock.steps, clock.difference_ns), (wall, 1, 0));
    }
}
