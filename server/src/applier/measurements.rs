//! The counts and measurements of a replica, for status reports and metrics.

use super::boundaries::Comparison;
use crate::metrics::{ExtraCounters, Histograms};
use crate::replica::Loss;
use stablechat_protocol::answer::{Refusal, Stability};
use stablechat_protocol::status::Counters;
use stablechat_protocol::time::Timestamp;
use std::time::Duration;

/// Everything that has been counted and measured since the start of the process.
#[derive(Default)]
pub struct Measurements {
    counters: Counters,
    extra: ExtraCounters,
    histograms: Histograms,
    /// The timestamps of requests and queries that are applied and not committed: their latency ends with the commit.
    uncommitted: Vec<(Timestamp, Stability)>,
}

impl Measurements {
    /// A request with this timestamp was applied.
    pub fn on_request(&mut self, timestamp: Timestamp, stability: Stability) {
        match stability {
            Stability::Closed => self.counters.closed += 1,
            Stability::RealTime => self.counters.real_time += 1,
        }
        self.uncommitted.push((timestamp, stability));
    }

    /// A query with this timestamp was answered.
    pub fn on_query(&mut self, timestamp: Timestamp, stability: Stability) {
        self.on_request(timestamp, stability);
        self.counters.queries += 1;
        self.extra.closed_queries += u64::from(stability == Stability::Closed);
    }

    /// Everything that was applied is committed, and answers may leave. `took` is how long writing took, if anything was written.
    pub fn on_commit(&mut self, now: Timestamp, took: Option<Duration>) {
        took.iter().for_each(|took| self.histograms.commit.observe(took.as_secs_f64()));
        for (timestamp, stability) in self.uncommitted.drain(..) {
            let histogram = match stability {
                Stability::Closed => &self.histograms.closed,
                Stability::RealTime => &self.histograms.real_time,
            };
            histogram.observe(now.since(timestamp).as_secs_f64());
        }
    }

    /// Storage failed: the requests that are applied and not committed never will be.
    pub fn on_halt(&mut self) {
        self.uncommitted.clear();
    }

    /// A request or query was refused.
    pub fn on_refusal(&mut self, reason: Refusal) {
        let refused = &mut self.counters.refused;
        let counter = match reason {
            Refusal::Late => &mut refused.late,
            Refusal::Ahead => &mut refused.ahead,
            Refusal::NotServing => &mut refused.not_serving,
            Refusal::Overloaded => &mut refused.overloaded,
            Refusal::NoRoom => &mut refused.no_room,
            Refusal::TooFast { .. } => &mut refused.too_fast,
            // Given by the poll loop, which passes nothing on.
            Refusal::LoginRefused => return,
        };
        *counter += 1;
    }

    /// This many requests were undone and applied again, and this many of their answers have changed.
    pub fn on_repair(&mut self, undone: u64, changed: usize, took: Duration) {
        self.counters.repairs += 1;
        self.counters.undone += undone;
        self.counters.longest_repair_ns = self.counters.longest_repair_ns.max(nanoseconds(took));
        self.extra.changed += changed as u64;
        self.extra.repairing += took;
    }

    /// A peer was lost.
    pub fn on_peer_lost(&mut self, loss: Loss) {
        let lost = &mut self.counters.lost;
        *match loss {
            Loss::Dead => &mut lost.dead,
            Loss::Silent => &mut lost.silent,
            Loss::TooSlow => &mut lost.too_slow,
            Loss::Left => &mut lost.left,
        } += 1;
    }

    /// Another incarnation began.
    pub fn on_rejoin(&mut self) {
        self.counters.rejoins += 1;
    }

    /// A boundary has been compared with a peer.
    pub fn on_comparison(&mut self, comparison: Comparison) {
        *match comparison {
            Comparison::Unknown => &mut self.extra.unknown,
            Comparison::Same => &mut self.extra.same,
            Comparison::LogsDiffer { .. } => &mut self.extra.logs_differ,
            Comparison::StatesDiffer => &mut self.counters.state_disagreements,
        } += 1;
    }

    /// A peer's log was found to have another body under a uid than ours.
    pub fn on_other_body(&mut self) {
        self.extra.other_bodies += 1;
    }

    /// A part of a snapshot was sent to a peer.
    pub fn on_snapshot_part(&mut self, is_last: bool) {
        self.extra.snapshots_sent += u64::from(is_last);
    }

    /// How many snapshots of peers have replaced our log and state.
    pub fn snapshots_installed(&self) -> u64 {
        self.extra.snapshots_installed
    }

    /// A snapshot of a peer has replaced our log and state.
    pub fn on_snapshot_installed(&mut self) {
        self.extra.snapshots_installed += 1;
    }

    /// The counters of status reports.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The counters and histograms that only the metrics have.
    pub fn extra(&self) -> (ExtraCounters, Histograms) {
        (self.extra, self.histograms.clone())
    }
}

/// A duration's nanoseconds, or as many as fit.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_its_place() {
        let mut measurements = Measurements::default();
        measurements.on_request(Timestamp(1), Stability::Closed);
        measurements.on_request(Timestamp(1), Stability::Closed);
        measurements.on_request(Timestamp(1), Stability::RealTime);
        measurements.on_query(Timestamp(1), Stability::Closed);
        for reason in [
            Refusal::Late,
            Refusal::Ahead,
            Refusal::NotServing,
            Refusal::Overloaded,
            Refusal::NoRoom,
            Refusal::TooFast { wait_ms: 1 },
            Refusal::Late,
        ] {
            measurements.on_refusal(reason);
        }
        measurements.on_repair(3, 1, Duration::from_millis(7));
        measurements.on_repair(2, 1, Duration::from_millis(5));
        let counters = measurements.counters();
        assert_eq!((counters.closed, counters.real_time, counters.queries), (3, 1, 1));
        assert_eq!((counters.refused.late, counters.refused.total()), (2, 7));
        assert_eq!((counters.repairs, counters.undone, counters.longest_repair_ns), (2, 5, 7_000_000));
        let extra = measurements.extra().0;
        assert_eq!((extra.closed_queries, extra.changed, extra.repairing), (1, 2, Duration::from_millis(12)));
    }
}
