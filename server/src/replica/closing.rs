//! The closed timestamp: a promise to accept no client's request with a timestamp up to it.
//!
//! It follows the clock at a distance, the grace. Peers rely on the promise (CockroachDB's closed timestamps), so it is never
//! taken back.

use super::grace::Grace;
use stablechat_protocol::time::Timestamp;
use std::time::Duration;

/// How far we have closed, and how far behind the clock we do.
#[derive(Debug)]
pub struct Closing {
    /// Never moves back.
    closed: Timestamp,
    pub grace: Grace,
}

impl Closing {
    /// Closed up to here, with a grace of at most `grace_max`.
    pub fn new(closed: Timestamp, grace_max: Duration) -> Closing {
        Closing { closed, grace: Grace::new(grace_max) }
    }

    /// The closed timestamp.
    pub fn closed(&self) -> Timestamp {
        self.closed
    }

    /// Closes up to here at least.
    pub fn raise(&mut self, to: Timestamp) {
        self.closed = self.closed.max(to);
    }

    /// Closes up to the grace behind the clock.
    pub fn follow(&mut self, now: Timestamp) {
        self.grace.review(now);
        self.raise(now.before(self.grace.current()));
    }

    /// Whether a client's request with this timestamp comes too late. After a stall the closed timestamp lags behind what it
    /// should be, so the longest grace counts as well.
    pub fn is_late(&self, timestamp: Timestamp, now: Timestamp) -> bool {
        timestamp <= self.closed.max(now.before(self.grace.max()))
    }
}
