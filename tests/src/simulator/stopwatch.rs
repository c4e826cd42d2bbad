//! The stopwatch of simulated replicas: it advances with virtual time, and a little, sometimes much, whenever it is read. So a
//! replica often finds that its wake has taken too long, and that a query has used up its budget, and a seed still reproduces a
//! run.

use super::START;
use stablechat_protocol::time::Timestamp;
use stablechat_server::applier::Stopwatch;
use std::cell::RefCell;
use std::time::Duration;

/// Longer than a replica applies in one wake.
const LONG: Duration = Duration::from_millis(12);
/// One reading in so many takes long.
const LONG_ONE_IN: u8 = 16;

/// What has passed, and the dice for what passes at a reading.
struct Work {
    passed: Duration,
    random: fastrand::Rng,
}

thread_local! {
    /// A run uses one thread.
    static WORK: RefCell<Work> = const { RefCell::new(Work { passed: Duration::ZERO, random: fastrand::Rng::with_seed(0) }) };
}

/// What all replicas of a run are timed by.
pub const STOPWATCH: Stopwatch = Stopwatch(|| {
    WORK.with_borrow_mut(|Work { passed, random }| {
        *passed += match random.u8(..LONG_ONE_IN) {
            0 => LONG,
            _ => Duration::from_micros(20),
        };
        *passed
    })
});

/// A run begins on this thread.
pub fn begin(seed: u64) {
    WORK.set(Work { passed: Duration::ZERO, random: fastrand::Rng::with_seed(seed) });
}

/// Virtual time passes.
pub fn advance_to(now: Timestamp) {
    WORK.with_borrow_mut(|work| work.passed = work.passed.max(now.since(START)));
}
