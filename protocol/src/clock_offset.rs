//! How far another machine's clock is ahead of ours.
//!
//! One machine asks, the other shows its clock, and the first notes when it asked and when the answer came. The other read its
//! clock somewhere between these two moments; half-way is the best guess, and it is wrong by at most half of the round trip
//! (Cristian, *Probabilistic clock synchronization*, 1989).

use crate::time::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// How many exchanges an estimate looks back to.
const WINDOW: usize = 8;

/// A question for the time, and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Our clock when we asked.
    pub sent: Timestamp,
    /// The other clock, as the answer shows it.
    pub clock: Timestamp,
    /// Our clock when the answer came.
    pub received: Timestamp,
}

impl Exchange {
    /// How long it took, in nanoseconds; zero if our clock was set back meanwhile.
    pub fn round_trip_ns(&self) -> u64 {
        self.received.0.saturating_sub(self.sent.0)
    }

    /// How far the other clock is ahead of ours, in nanoseconds, if it was read half-way.
    pub fn offset_ns(&self) -> i64 {
        signed_difference(self.clock.0, self.sent.0.saturating_add(self.error_ns()))
    }

    /// By how much [`Exchange::offset_ns`] may be wrong either way, in nanoseconds: half of the round trip.
    pub fn error_ns(&self) -> u64 {
        self.round_trip_ns() / 2
    }

    /// Whether one offset explains both exchanges.
    fn agrees_with(&self, other: &Exchange) -> bool {
        self.offset_ns().abs_diff(other.offset_ns()) <= self.error_ns().saturating_add(other.error_ns())
    }
}

/// An estimate of how far one other clock is ahead, from the last few exchanges. The one with the shortest round trip counts,
/// since it bounds the offset best.
#[derive(Clone, Debug, Default)]
pub struct ClockOffset {
    /// The last exchanges, at most [`WINDOW`], oldest first. Any two of them agree.
    exchanges: VecDeque<Exchange>,
}

impl ClockOffset {
    /// Takes in an exchange.
    pub fn observe(&mut self, exchange: Exchange) {
        // One of the clocks was set, or one of the processes was suspended: earlier exchanges say nothing of the clocks now.
        if self.exchanges.iter().any(|earlier| !earlier.agrees_with(&exchange)) {
            self.exchanges.clear();
        }
        if self.exchanges.len() == WINDOW {
            self.exchanges.pop_front();
        }
        self.exchanges.push_back(exchange);
    }

    /// How far the other clock is ahead, in nanoseconds; none before the first exchange.
    pub fn estimate_ns(&self) -> Option<i64> {
        self.best().map(Exchange::offset_ns)
    }

    /// The exchange with the shortest round trip; none before the first.
    pub fn best(&self) -> Option<&Exchange> {
        self.exchanges.iter().min_by_key(|exchange| exchange.round_trip_ns())
    }

    /// Whether an exchange took no longer than this.
    pub fn is_measured_within(&self, round_trip: Duration) -> bool {
        self.best().is_some_and(|exchange| u128::from(exchange.round_trip_ns()) <= round_trip.as_nanos())
    }
}

/// The difference of two unsigned numbers, or the nearest that fits.
pub fn signed_difference(minuend: u64, subtrahend: u64) -> i64 {
    (i128::from(minuend) - i128::from(subtrahend)).clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn exchange(sent: u64, clock: u64, received: u64) -> Exchange {
        Exchange { sent: Timestamp(sent), clock: Timestamp(clock), received: Timestamp(received) }
    }

    #[test]
    fn the_shortest_round_trip_counts() {
        let mut offset = ClockOffset::default();
        assert_eq!(offset.estimate_ns(), None);
        offset.observe(exchange(1000, 5000, 1400));
        assert_eq!(offset.estimate_ns(), Some(3800));
        offset.observe(exchange(2000, 5900, 2020));
        assert_eq!(offset.estimate_ns(), Some(3890));
        offset.observe(exchange(3000, 6950, 3300));
        assert_eq!(offset.estimate_ns(), Some(3890));
    }

    #[test]
    fn old_exchanges_are_forgotten() {
        let mut offset = ClockOffset::default();
        offset.observe(exchange(1000, 2005, 1010));
        (0..WINDOW).for_each(|_| offset.observe(exchange(2000, 2950, 2500)));
        assert_eq!(offset.estimate_ns(), Some(700));
    }

    #[test]
    fn a_step_is_believed_at_once() {
        let mut offset = ClockOffset::default();
        offset.observe(exchange(1000, 1010, 1020));
        offset.observe(exchange(2000, SECOND, 2100));
        assert_eq!(offset.estimate_ns(), Some(SECOND as i64 - 2050));
    }

    #[test]
    fn absurd_clocks_do_no_harm() {
        let mut offset = ClockOffset::default();
        offset.observe(exchange(0, u64::MAX, u64::MAX));
        offset.observe(exchange(u64::MAX, 0, 0));
        assert_eq!(offset.estimate_ns(), Some(i64::MIN));
        offset.observe(exchange(0, u64::MAX, 0));
        assert_eq!(offset.estimate_ns(), Some(i64::MAX));
    }
}
