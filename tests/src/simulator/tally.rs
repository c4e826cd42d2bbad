//! Counts and latencies.

use stablechat_protocol::answer::Stability;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How often each kind of event occurred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// Counts one event.
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// Counts several events.
    pub fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    /// How often this occurred.
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Adds the counts of another tally.
    pub fn merge(&mut self, other: &Tally) {
        other.0.iter().for_each(|(what, times)| self.add(what, *times));
    }
}

impl Tally {
    /// These counts alone, in this order, as text; those that are 0 as well.
    pub fn listed(&self, names: &[&str]) -> String {
        let counts: Vec<String> = names.iter().map(|name| format!("{name} {}", self.of(name))).collect();
        counts.join(", ")
    }

    /// All but these counts.
    pub fn without(&self, names: &[&str]) -> Tally {
        let rest = self.0.iter().filter(|(name, _)| !names.contains(name));
        Tally(rest.map(|(name, times)| (*name, *times)).collect())
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

/// How long answers took since their requests were first sent, and by which test the requests were stable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    pub closed: u64,
    pub real_time: u64,
    /// The latency of each, in microseconds of virtual time.
    pub micros: Vec<u32>,
}

impl Latencies {
    pub fn add(&mut self, latency: Duration, stability: Stability) {
        match stability {
            Stability::Closed => self.closed += 1,
            Stability::RealTime => self.real_time += 1,
        }
        self.micros.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

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
