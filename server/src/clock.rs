//! A replica's clock: monotonic, and slewed towards the wall clock.
//!
//! Timestamps of different machines are compared, so a replica's clock has to follow the wall clock. The protocol's promises
//! are about times that have passed, so it must never go back. It therefore shows the wall clock's time at start plus the time
//! since then by the monotonic clock, which it lets run a little faster or slower to stay with the wall clock.
//!
//! A wall clock that is set is logged and counted. When it is set far forward, this clock jumps, and the protocol treats the jump
//! as a pause of the process. When it is set far back, this clock does not follow at all: slewing would take hours or years, and
//! would only bring the replica out of step with its peers. If the peers find its clock wrong, the replica ends and starts again
//! with the wall clock's time ([`SlewedClock::unfollowed_ns`]).
//!
//! [`Clock`] reads the clocks of the machine; [`SlewedClock`] is the rule alone, which the simulator drives with simulated clocks.

use parking_lot::Mutex;
use stablechat_protocol::clock_offset::signed_difference;
use stablechat_protocol::time::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The clock. Clones share their state.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Where the monotonic clock begins.
    started: Instant,
    slewed: Arc<Mutex<SlewedClock>>,
}

/// The clock runs faster or slower by at most one part in this many (0.5 ms in a second), as NTP daemons slew.
const SLEW_ONE_IN: i64 = 2000;
/// The time in which a difference to the wall clock is slewed away, unless that takes more than [`SLEW_ONE_IN`].
const SLEW_OVER: Duration = Duration::from_secs(10);
/// The time between two readings of the wall clock.
const ADJUST_EVERY: Duration = Duration::from_secs(1);
/// When the difference to the wall clock changes by more than this between two readings, in nanoseconds, the wall clock was
/// set: no drift is that fast (50 ms in a second).
const STEP_MIN_NS: i64 = 50_000_000;

impl Clock {
    /// A clock that agrees with the wall clock now. When the wall clock is set forward by more than `jump`, the clock follows
    /// at once; its user must treat that as a pause.
    pub fn start(jump: Duration) -> Clock {
        let slewed = SlewedClock::new(wall_clock(), Duration::ZERO, jump);
        Clock { started: Instant::now(), slewed: Arc::new(Mutex::new(slewed)) }
    }

    /// The time. Never less than at an earlier call.
    pub fn now(&self) -> Timestamp {
        self.slewed.lock().read(self.started.elapsed(), wall_clock)
    }

    /// When the clock will show this time, as far as it is known now. Good for waiting: the slew makes it wrong by 0.05 % at
    /// most, and the caller looks at the time again when it wakes up.
    pub fn instant_of(&self, time: Timestamp) -> Instant {
        self.started + self.slewed.lock().when(time)
    }

    /// How often the wall clock was set since the start.
    pub fn steps(&self) -> u64 {
        self.slewed.lock().steps
    }

    /// Lets the clock show this time at least, from now on.
    pub fn raise(&self, to: Timestamp) {
        self.slewed.lock().raise(self.started.elapsed(), to);
    }

    /// How far the wall clock is ahead, in nanoseconds, if it is so far behind that it is not followed; then this is negative.
    pub fn unfollowed_ns(&self) -> Option<i64> {
        self.slewed.lock().unfollowed_ns()
    }
}

/// The time shown as a function of a monotonic clock: a line, and a new one after each adjustment.
#[derive(Clone, Debug)]
pub struct SlewedClock {
    /// The time shown at `since`.
    base: Timestamp,
    /// Where the line begins, by the monotonic clock.
    since: Duration,
    /// How much faster than the monotonic clock this clock runs, in nanoseconds per second.
    slew_ns_per_s: i64,
    /// How far the wall clock was ahead at the last adjustment.
    difference_ns: i64,
    /// A wall clock that is further ahead than this is followed by a jump; one that is further behind is not followed.
    jump: Duration,
    /// How often the wall clock was set.
    steps: u64,
}

impl SlewedClock {
    /// A clock that agrees with the wall clock when the monotonic clock shows `monotonic`.
    pub fn new(wall: Timestamp, monotonic: Duration, jump: Duration) -> SlewedClock {
        SlewedClock { base: wall, since: monotonic, slew_ns_per_s: 0, difference_ns: 0, jump, steps: 0 }
    }

    /// The time when the monotonic clock shows `monotonic`. Looks at the wall clock once in a while.
    pub fn read(&mut self, monotonic: Duration, wall: impl FnOnce() -> Timestamp) -> Timestamp {
        let elapsed = monotonic.saturating_sub(self.since);
        if elapsed >= ADJUST_EVERY {
            self.adjust(wall(), elapsed);
            return self.base;
        }
        self.after(elapsed)
    }

    /// What the monotonic clock will show when this clock shows this time, as far as it is known now.
    pub fn when(&self, time: Timestamp) -> Duration {
        self.since + time.since(self.base)
    }

    /// How far the wall clock is ahead, in nanoseconds, if it is so far behind that it is not followed; then this is negative.
    pub fn unfollowed_ns(&self) -> Option<i64> {
        Some(self.difference_ns).filter(|difference_ns| *difference_ns < 0 && self.is_far())
    }

    /// Shows this time at least, from now on.
    pub fn raise(&mut self, monotonic: Duration, to: Timestamp) {
        let elapsed = monotonic.saturating_sub(self.since);
        let shown = self.after(elapsed);
        let raised = to.max(shown);
        self.since += elapsed;
        self.base = raised;
        self.difference_ns = self.difference_ns.saturating_sub(signed_difference(raised.0, shown.0));
    }

    /// Whether the wall clock is too far away to be followed by slewing.
    fn is_far(&self) -> bool {
        Duration::from_nanos(self.difference_ns.unsigned_abs()) > self.jump
    }

    /// The time shown when this much time has passed on the line.
    fn after(&self, elapsed: Duration) -> Timestamp {
        let slew = self.slew_ns_per_s as f64 * elapsed.as_secs_f64();
        self.base.after(elapsed).offset_by(slew as i64)
    }

    /// Begins a new line, towards the time that the wall clock shows.
    fn adjust(&mut self, wall: Timestamp, elapsed: Duration) {
        let shown = self.after(elapsed);
        let difference_ns = signed_difference(wall.0, shown.0);
        let set_by = difference_ns.saturating_sub(self.difference_ns);
        self.since += elapsed;
        self.base = shown;
        self.difference_ns = difference_ns;

        let is_set = set_by.saturating_abs() > STEP_MIN_NS;
        if is_set {
            self.steps += 1;
            log::warn!("the wall clock was set by {} ms", set_by / 1_000_000);
        }
        if difference_ns > 0 && self.is_far() {
            log::warn!(
                "the wall clock is {} ms ahead, too far to slew: setting the replica's clock, which counts as a pause",
                difference_ns / 1_000_000
            );
            (self.base, self.difference_ns) = (wall, 0);
        } else if is_set && self.is_far() {
            log::warn!(
                "the wall clock is {} ms behind the replica's clock, which is never set back: restart the replica if the wall \
                 clock is right now",
                difference_ns.unsigned_abs() / 1_000_000
            );
        }

        let most = 1_000_000_000 / SLEW_ONE_IN;
        self.slew_ns_per_s = match self.is_far() {
            true => 0,
            false => (self.difference_ns / SLEW_OVER.as_secs().cast_signed()).clamp(-most, most),
        };
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
        SlewedClock::new(START, Duration::ZERO, Duration::from_millis(500))
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
    fn a_small_step_back_is_slewed() {
        let mut clock = clock();
        clock.adjust(START.after(ADJUST_EVERY).before(Duration::from_millis(300)), ADJUST_EVERY);
        assert_eq!(clock.base, START.after(ADJUST_EVERY));
        assert_eq!((clock.steps, clock.slew_ns_per_s, clock.unfollowed_ns()), (1, -500_000, None));
        assert_eq!(clock.after(ADJUST_EVERY), START.after(ADJUST_EVERY + ADJUST_EVERY).offset_by(-500_000));
    }

    #[test]
    fn a_far_step_back_is_not_followed() {
        for back in [Duration::from_secs(1), Duration::from_secs(3600), Duration::from_secs(1_700_000_000)] {
            let mut clock = clock();
            for second in 1..=60 {
                let time = START.after(Duration::from_secs(second));
                assert_eq!(clock.read(Duration::from_secs(second), || time.before(back)), time);
            }
            assert_eq!((clock.steps, clock.slew_ns_per_s), (1, 0));
            assert_eq!(clock.unfollowed_ns(), Some(-(back.as_nanos() as i64)));
        }
    }

    #[test]
    fn a_far_step_forward_is_followed_at_once() {
        let mut clock = clock();
        let wall = START.after(Duration::from_secs(3600));
        clock.adjust(wall, ADJUST_EVERY);
        assert_eq!((clock.base, clock.steps, clock.difference_ns), (wall, 1, 0));
        assert_eq!(clock.unfollowed_ns(), None);
    }

    #[test]
    fn it_can_be_raised_and_stays_ahead_of_the_wall_clock() {
        let mut clock = clock();
        let (hour, second) = (Duration::from_secs(3600), Duration::from_secs(1));
        clock.raise(second, START.after(hour));
        assert_eq!(clock.read(second, || START), START.after(hour));
        clock.raise(second, START);
        assert_eq!(clock.read(2 * second, || START.after(2 * second)), START.after(hour + second));
        assert_eq!((clock.steps, clock.slew_ns_per_s), (0, 0));
        assert!(clock.unfollowed_ns().is_some());
    }

    #[test]
    fn it_says_when_it_will_show_a_time() {
        let mut clock = clock();
        clock.read(Duration::from_secs(3), || START.after(Duration::from_secs(7200)));
        let time = START.after(Duration::from_secs(7205));
        assert_eq!(clock.when(time), Duration::from_secs(8));
        assert_eq!(clock.when(START), Duration::from_secs(3), "it shows later times already");
    }
}
