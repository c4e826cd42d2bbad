//! How long work takes. Unlike the replica's clock it is never set, and the protocol does not go by it.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Reads the time that has passed since some moment. The simulator has one of its own, so that a seed reproduces a run.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(pub fn() -> Duration);

impl Stopwatch {
    /// The machine's, since it was first read.
    pub const MONOTONIC: Stopwatch = Stopwatch(|| {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    });
    /// One that does not run, for tests.
    #[cfg(test)]
    pub const STOPPED: Stopwatch = Stopwatch(|| Duration::ZERO);

    /// The time that has passed.
    pub fn read(self) -> Duration {
        (self.0)()
    }
}
