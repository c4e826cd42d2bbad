//! A replica's clock.

use stablechat_protocol::time::Timestamp;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock's time at start, and from there the monotonic clock: it never steps, forwards or backwards.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The wall clock's time at `started`.
    base: Timestamp,
    /// When the clock was made.
    started: Instant,
}

impl Clock {
    /// A clock that agrees with the wall clock now.
    pub fn start() -> Clock {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Clock { base: Timestamp::ZERO.after(since_epoch), started: Instant::now() }
    }

    /// What it shows.
    pub fn now(&self) -> Timestamp {
        self.base.after(self.started.elapsed())
    }

    /// When it will show, or did show, this time.
    pub fn instant_of(&self, time: Timestamp) -> Instant {
        self.started + time.since(self.base)
    }
}
