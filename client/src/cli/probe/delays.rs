//! Computes one-way delays and clock offsets from pings and their answers.
//!
//! An exchange consists of three readings of two clocks: when the ping was sent, when it was answered, and when the answer
//! was received. Two differences cannot determine three unknowns: the delay of the ping, the delay of the answer, and the
//! offset of the clocks. So an assumption is needed. As in Cristian's *Probabilistic clock synchronization* (1989), it is that
//! the fastest exchange took equally long both ways. Even if it did not, the other clock was read between sending and
//! receiving, so the offset is wrong by at most half of the round trip.
//!
//! Clocks drift and are slewed, so an exchange says less about the offset the longer ago it was. Each exchange therefore uses
//! the offset of the exchange with the smallest error at its time: half of that one's round trip, plus the possible drift of
//! the clocks in between (RFC 5905 ages its samples in this way, section 10).

use stablechat_protocol::clock_offset::{Exchange, signed_difference};
use stablechat_protocol::time::Timestamp;

/// By how much the offset of two clocks may change in a second, in nanoseconds: two replicas that slew towards their wall clocks in opposite
/// directions, by 500 ppm each.
const DRIFT_NS_PER_S: u64 = 1_000_000;

/// The delays of one exchange, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// How long the ping took.
    pub there: u64,
    /// How long the answer took.
    pub back: u64,
    /// How far the answering clock is ahead.
    pub offset: i64,
    /// By how much `offset` may be wrong, either way. `there` and `back` are wrong by as much.
    pub error: u64,
}

/// How far a clock is ahead at a time: `offset` ± `error`, in nanoseconds.
#[derive(Clone, Copy)]
struct Bound {
    at: Timestamp,
    offset: i64,
    error: u64,
}

impl Bound {
    /// From one exchange alone.
    fn of(exchange: &Exchange) -> Bound {
        Bound { at: exchange.sent, offset: exchange.offset_ns(), error: exchange.error_ns() }
    }

    /// The bound at another time, before or after: the same offset, with a larger error.
    fn aged_to(self, at: Timestamp) -> Bound {
        let age = u128::from(at.0.abs_diff(self.at.0));
        let drift = u64::try_from(age * u128::from(DRIFT_NS_PER_S) / 1_000_000_000).unwrap_or(u64::MAX);
        Bound { at, offset: self.offset, error: self.error.saturating_add(drift) }
    }

    fn better(self, other: Bound) -> Bound {
        if other.error < self.error { other } else { self }
    }
}

/// The delays of one pair's exchanges. Both are in the order in which the pings were sent.
pub fn measure(exchanges: &[Exchange]) -> Vec<Delay> {
    let mut bounds: Vec<Bound> = exchanges.iter().map(Bound::of).collect();
    // One pass in each direction compares every bound with every other, since errors grow linearly with time.
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

/// How long three messages would have taken, each sent when the one before it arrived: an announcement, a fetch and a body, in
/// either direction. Every exchange gives two of them; its third message has the delay of the next ping that was sent after the
/// exchange, or the median delay where there is no such ping.
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

/// The value that this share of the values does not exceed, by nearest rank: of fewer than 1,000 values, the largest is their
/// p99.9.
///
/// # Panics
/// There are no values.
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
    fn delays_and_an_offset_are_found_from_one_symmetric_exchange() {
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
            assert_eq!(delay.offset, ahead, "the fastest exchange bounds the offset of all within a second");
            assert!(delay.error <= 2 * MS + 600_000 && delay.error >= 2 * MS, "{delay:?}");
        }
        assert_eq!((delays[0].there, delays[0].back), (9 * MS, 3 * MS));
    }

    #[test]
    fn the_true_offset_lies_within_the_error_with_asymmetric_delays() {
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
        // A slow exchange takes its offset from the nearest fast one, plus the drift since then.
        let rare = [exchange(0, 0, MS, MS), exchange(1000 * MS, 50_000, 500 * MS, MS), exchange(9000 * MS, 0, MS, MS)];
        let delay = measure(&rare)[1];
        assert_eq!((delay.offset, delay.error), (0, 2 * MS));
        assert_eq!((delay.there, delay.back), (500 * MS + 50_000, MS - 50_000));
    }

    #[test]
    fn a_pause_delays_only_one_of_three_messages() {
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
    fn extreme_clock_readings_do_not_overflow() {
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
