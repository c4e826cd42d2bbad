//! Counting what happens.

use stablechat_protocol::answer::Stability;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How often what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// Counts one event.
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// Counts several happenings.
    pub fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    /// How often this happened.
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Adds up another tally.
    pub fn merge(&mut self, other: &Tally) {
        other.0.iter().for_each(|(what, times)| self.add(what, *times));
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (what, times) in &self.0 {
            write!(formatter, "{separator}{what} {times}")?;
            separator = ", ";
        }
        Ok(())
    }
}

/// How long answers took, from the first sending of a request, and by which test they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// How many came by the closed test.
    pub closed: u64,
    /// How many came by the real-time test.
    pub real_time: u64,
    /// How long each took, in microseconds of virtual time.
    pub micros: Vec<u32>,
}

impl Latencies {
    /// Adds an answer.
    pub fn add(&mut self, latency: Duration, stability: Stability) {
        match stability {
            Stability::Closed => self.closed += 1,
            Stability::RealTime => self.real_time += 1,
        }
        self.micros.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    /// Adds others.
    pub fn merge(&mut self, other: &Latencies) {
        self.closed += other.closed;
        self.real_time += other.real_time;
        self.micros.extend(&other.micros);
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let quantile = |share: f64| {
            let at = (share * sorted.len().saturating_sub(1) as f64) as usize;
            sorted.get(at).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
        };
        let all = (self.closed + self.real_time).max(1);
        write!(
            formatter,
            "{} answers, {:.2} % by the closed test, p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms",
            self.closed + self.real_time,
            100.0 * self.closed as f64 / all as f64,
            quantile(0.5),
            quantile(0.99),
            quantile(0.999)
        )
    }
}
