//! What the calls around a fault say.

use super::calls::Call;
use std::time::{Duration, Instant};

/// The length of the intervals in which the usual rate has to be reached.
const INTERVAL: Duration = Duration::from_millis(500);
/// The step from one of these intervals to the next.
const STEP: Duration = Duration::from_millis(10);
/// The share of the usual rate that counts as all of it.
const FULL: f64 = 0.9;

/// A fault, and how long its effects were watched.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    pub begun: Instant,
    pub ended: Instant,
}

/// The effects of a fault.
#[derive(Clone, Copy, Debug)]
pub struct Effects {
    /// The longest time without an answer to anybody.
    pub gap: Duration,
    /// The longest time that a call took that was under way then and was answered, even if later.
    pub longest: Duration,
    /// The time from the fault until the usual rate of answers was reached for good: the beginning of the first half second from
    /// which on each has at least 90 % of it.
    pub slowed: Duration,
    /// How many calls failed.
    pub failed: usize,
}

/// The effects of a fault on calls. They are sorted by the time at which they ended, and `rate` answers per second are usual.
pub fn effects(calls: &[Call], trial: &Trial, rate: f64) -> Effects {
    let Trial { begun, ended } = *trial;
    let from = calls.partition_point(|call| call.ended() < begun);
    let to = calls.partition_point(|call| call.ended() < ended);
    let of_trial = &calls[from..to];
    let answered = |calls: &'_ [Call]| calls.iter().filter(|call| !call.failed).map(Call::ended).collect::<Vec<_>>();

    let mut gap = Duration::ZERO;
    let mut last = begun;
    let answers = answered(of_trial);
    for at in answers.iter().copied().chain([ended]) {
        gap = gap.max(at - last);
        last = at;
    }

    let wanted = (rate * INTERVAL.as_secs_f64() * FULL) as usize;
    let mut slowed = Duration::ZERO;
    let mut at = begun;
    while at + INTERVAL <= ended {
        let before = |limit: Instant| answers.partition_point(|time| *time < limit);
        at += STEP;
        if before(at - STEP + INTERVAL) - before(at - STEP) < wanted {
            slowed = at - begun;
        }
    }

    // An answer that comes after the watch has been waited for in it.
    let under_way = calls[from..].iter().filter(|call| !call.failed && call.begun < ended);
    let longest = under_way.map(|call| call.took).max().unwrap_or_default();
    Effects { gap, longest, slowed, failed: of_trial.iter().filter(|call| call.failed).count() }
}

/// The value that this share of the values does not exceed.
pub fn quantile(values: impl IntoIterator<Item = Duration>, share: f64) -> Duration {
    let mut values: Vec<Duration> = values.into_iter().collect();
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).ceil() as usize).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// An answer every 2 ms for 4 s, each after 1 ms, except those that `is_lost` says.
    fn calls(start: Instant, is_lost: impl Fn(u32) -> bool) -> Vec<Call> {
        let call = |number: u32| Call { begun: start + MS * (2 * number - 1), took: MS, failed: false };
        (1..2000).filter(|number| !is_lost(*number)).map(call).collect()
    }

    #[test]
    fn without_a_fault_there_is_none() {
        let start = Instant::now();
        let trial = Trial { begun: start + MS * 1001, ended: start + MS * 2001 };
        let effects = effects(&calls(start, |_| false), &trial, 500.0);
        assert_eq!((effects.gap, effects.longest, effects.slowed, effects.failed), (2 * MS, MS, Duration::ZERO, 0));
    }

    #[test]
    fn a_hole_shows_as_a_gap_and_a_time_below_the_rate() {
        let start = Instant::now();
        let trial = Trial { begun: start + MS * 1000, ended: start + MS * 3000 };
        // The answers of half a second are missing, and one comes in their place.
        let mut calls = calls(start, |number| (510..760).contains(&number));
        calls.push(Call { begun: start + MS * 1019, took: MS * 480, failed: false });
        calls.push(Call { begun: start + MS * 1030, took: MS * 400, failed: true });
        calls.sort_by_key(Call::ended);
        let effects = effects(&calls, &trial, 500.0);
        assert_eq!((effects.gap, effects.longest, effects.failed), (MS * 481, MS * 480, 1));
        // From 1520 ms on answers come as before, so an interval may begin up to 50 ms earlier.
        assert_eq!(effects.slowed, MS * 470);
    }

    #[test]
    fn a_hole_at_the_end_is_a_gap() {
        let start = Instant::now();
        let trial = Trial { begun: start + MS * 1000, ended: start + MS * 3000 };
        assert_eq!(effects(&calls(start, |number| number > 1000), &trial, 500.0).gap, MS * 1000);
    }

    #[test]
    fn an_answer_that_comes_after_the_watch_counts() {
        let start = Instant::now();
        let trial = Trial { begun: start + MS * 1000, ended: start + MS * 3000 };
        let mut calls = calls(start, |_| false);
        calls.push(Call { begun: start + MS * 990, took: MS * 3000, failed: false });
        calls.sort_by_key(Call::ended);
        assert_eq!(effects(&calls, &trial, 500.0).longest, MS * 3000);
    }

    #[test]
    fn quantiles() {
        let values = || (1..=100).map(|number| MS * number);
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| quantile(values(), share)), [1, 51, 100, 100].map(|n| MS * n));
        assert_eq!(quantile([], 0.5), Duration::ZERO);
    }
}
