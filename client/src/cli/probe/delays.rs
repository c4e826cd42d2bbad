//! From pings and their answers to delays one way and distances of clocks.
//!
//! An exchange gives three readings of two clocks, and the unknowns are three: how long the ping took, how long its answer
//! took, and how far one clock is ahead of the other. So something has to be assumed, and as in Cristian's *Probabilistic clock
//! synchronization* (1989) it is that the fastest exchange took equally long both ways. Whatever is true, the clock was read
//! somewhere between sending and receiving: the distance of the clocks is known up to half of the round trip.
//!
//! Clocks drift and are slewed, so an exchange says less of the distance the longer ago it was. Each is measured by the one that
//! bounds the distance best at its time: half of the round trip, and what the clocks may have drifted since (RFC 5905 ages its
//! samples in this way, section 10).

use stablechat_protocol::clock_offset::{Exchange, signed_difference};
use stablechat_protocol::time::Timestamp;

/// By how much two clocks may part in a second, in nanoseconds: two replicas that slew towards their wall clocks in opposite
/// directions, by 500 ppm each.
const DRIFT_NS_PER_S: u64 = 1_000_000;

/// What an exchange says, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// How long the ping took.
    pub there: u64,
    /// How long the answer took.
    pub back: u64,
    /// How far the clock of who answers is ahead.
    pub offset: i64,
    /// By how much that may be wrong, either way.
    pub error: u64,
}

/// How far a clock is ahead, as bounded at some time.
#[derive(Clone, Copy)]
struct Bound {
    at: Timestamp,
    offset: i64,
    error: u64,
}

impl Bound {
    /// What one exchange alone says of the clocks.
    fn of(exchange: &Exchange) -> Bound {
        Bound { at: exchange.sent, offset: exchange.offset_ns(), error: exchange.error_ns() }
    }

    /// The same at another time.
    fn aged_to(self, at: Timestamp) -> Bound {
        let age = u128::from(at.0.abs_diff(self.at.0));
        let drift = u64::try_from(age * u128::from(DRIFT_NS_PER_S) / 1_000_000_000).unwrap_or(u64::MAX);
        Bound { at, offset: self.offset, error: self.error.saturating_add(drift) }
    }

    fn better(self, other: Bound) -> Bound {
        if other.error < self.error { other } else { self }
    }
}

/// Measures exchanges of one pair, in the order in which they were sent.
pub fn measure(exchanges: &[Exchange]) -> Vec<Delay> {
    let mut bounds: Vec<Bound> = exchanges.iter().map(Bound::of).collect();
    // What ages from one to the next in both directions has met all.
    for at in 1..bounds.len() {
        bounds[at] = bounds[at].better(bounds[at - 1].aged_to(bounds[at].at));
    }
    for at in (1..bounds.len()).rev() {
        bounds[at - 1] = bounds[at - 1].better(bounds[at].aged_to(bounds[at - 1].at));
    }
    let delay = |(exchange, bound): (&Exchange, &Bound)| {
        let ahead = signed_difference(exchange.clock.0, exchange.sent.0);
        let there = u64::try_from(ahead.saturating_sub(bound.offset)).unwrap_or(0).min(exchange.round_trip_ns());
        Delay { there, back: exchange.round_trip_ns() - there, offset: bound.offset, error: bound.error }
    };
    exchanges.iter().zip(&bounds).map(delay).collect()
}

/// How long it would have taken, either way, to say something, to be asked for it and to send it: three messages, each sent when the
/// one before it had come, as found in these delays of one pair's exchanges. The last message is the first that was sent after
/// that; where none was, half of all are shorter than what is taken for it.
pub fn hops(exchanges: &[Exchange], delays: &[Delay]) -> Vec<u64> {
    let median = |of: fn(&Delay) -> u64| {
        let mut all: Vec<u64> = delays.iter().map(of).collect();
        all.sort_unstable();
        if all.is_empty() { 0 } else { quantile(&all, 0.5) }
    };
    let (there, back) = (median(|delay| delay.there), median(|delay| delay.back));
    let hops = exchanges.iter().zip(delays).flat_map(|(exchange, delay)| {
        let next = exchanges.partition_point(|later| later.sent < exchange.received);
        let next = delays.get(next).map_or((there, back), |delay| (delay.there, delay.back));
        // Forth, back, forth; and back, forth, back.
        [exchange.round_trip_ns().saturating_add(next.0), delay.back.saturating_add(next.0).saturating_add(next.1)]
    });
    hops.collect()
}

/// The value that this share of them does not exceed, by the nearest rank: of fewer than 1,000, the largest is their p99.9. They
/// are sorted, and there are some.
pub fn quantile<T: Copy>(sorted: &[T], share: f64) -> T {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_700_000_000_000_000_000;
    const MS: u64 = 1_000_000;

    /// An exchange at `at` with a clock that is ahead by `ahead`, with these delays.
    fn exchange(at: u64, ahead: i64, there: u64, back: u64) -> Exchange {
        let sent = Timestamp(START + at);
        let clock = Timestamp(sent.0 + there).offset_by(ahead);
        Exchange { sent, clock, received: Timestamp(sent.0 + there + back) }
    }

    #[test]
    fn known_delays_and_a_known_offset_are_found() {
        let ahead = -7 * MS as i64;
        let sent: Vec<Exchange> = (0..100)
            .map(|number| match number {
                40 => exchange(number * 10 * MS, ahead, 2 * MS, 2 * MS),
                70 => exchange(number * 10 * MS, ahead, 2 * MS, 300 * MS),
                _ => exchange(number * 10 * MS, ahead, 9 * MS, 3 * MS),
            })
            .collect();
        let delays = measure(&sent);
        assert_eq!(delays[40], Delay { there: 2 * MS, back: 2 * MS, offset: ahead, error: 2 * MS });
        assert_eq!((delays[70].there, delays[70].back), (2 * MS, 300 * MS));
        for delay in &delays {
            assert_eq!(delay.offset, ahead, "the fastest exchange is the best for all within a second");
            assert!(delay.error <= 2 * MS + 600_000 && delay.error >= 2 * MS, "{delay:?}");
        }
        assert_eq!((delays[0].there, delays[0].back), (9 * MS, 3 * MS));
    }

    #[test]
    fn what_is_true_lies_within_the_error_however_unequal_the_ways_are() {
        let mut random = 12_345_u64;
        let mut next = move |most: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % most
        };
        for _ in 0..200 {
            let ahead = next(10_000_000) as i64 - 5_000_000;
            let ways = (next(5 * MS), next(5 * MS));
            let one = |number: u64| exchange(number * 10 * MS, ahead, ways.0 + next(MS), ways.1 + next(MS));
            for (exchange, delay) in (0..50).map(one).map(|exchange| (exchange, measure(&[exchange])[0])) {
                assert!(delay.offset.abs_diff(ahead) <= delay.error + 1, "{exchange:?} {delay:?} {ahead}");
                assert_eq!(delay.there + delay.back, exchange.round_trip_ns());
            }
        }
    }

    #[test]
    fn a_clock_that_drifts_is_followed() {
        // 100 ppm over 1,000 s: 0.1 s in the end, and each exchange has the same delays.
        let sent: Vec<Exchange> =
            (0..1000).map(|second| exchange(second * 1000 * MS, second as i64 * 100_000, MS, MS)).collect();
        for (second, delay) in (0_i64..).zip(measure(&sent)) {
            assert_eq!((delay.offset, delay.error), (second * 100_000, MS));
        }
        // Between fast ones that are far apart, a slow one is bounded by the nearest and by the drift.
        let rare = [exchange(0, 0, MS, MS), exchange(1000 * MS, 50_000, 500 * MS, MS), exchange(9000 * MS, 0, MS, MS)];
        let delay = measure(&rare)[1];
        assert_eq!((delay.offset, delay.error), (0, 2 * MS));
        assert_eq!((delay.there, delay.back), (500 * MS + 50_000, MS - 50_000));
    }

    #[test]
    fn a_pause_lengthens_a_hop_once() {
        let late = |number: u64| if (50..60).contains(&number) { (60 - number) * 10 * MS } else { MS };
        let exchanges: Vec<Exchange> =
            (0..100).map(|number| exchange(number * 10 * MS, 0, late(number), 2 * MS)).collect();
        let mut hops = hops(&exchanges, &measure(&exchanges));
        hops.sort_unstable();
        // There and back take 3 ms together, of which half is taken for each way.
        assert_eq!((hops.len(), hops[0], quantile(&hops, 0.5)), (200, 4 * MS + MS / 2, 4 * MS + MS / 2));
        let longest = quantile(&hops, 1.0);
        assert!((103 * MS..104 * MS).contains(&longest), "100 ms to arrive, 2 ms back, and forth again: {longest}");
    }

    #[test]
    fn absurd_readings_do_no_harm() {
        let absurd = [
            Exchange { sent: Timestamp::ZERO, clock: Timestamp::MAX, received: Timestamp::MAX },
            Exchange { sent: Timestamp::MAX, clock: Timestamp::ZERO, received: Timestamp::MAX },
            Exchange { sent: Timestamp::MAX, clock: Timestamp::MAX, received: Timestamp::ZERO },
        ];
        assert_eq!(measure(&absurd).len(), 3);
        assert!(measure(&[]).is_empty());
    }

    #[test]
    fn quantiles_are_nearest_ranks() {
        let thousand: Vec<u64> = (1..=1000).collect();
        assert_eq!([0.0, 0.5, 0.999, 1.0].map(|share| quantile(&thousand, share)), [1, 500, 999, 1000]);
        assert_eq!([0.0, 0.5, 0.999].map(|share| quantile(&[7, 8], share)), [7, 7, 8]);
    }
}
