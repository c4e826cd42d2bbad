//! The collection of a status report from every replica.
//!
//! A status request is not a query: it has no place in the order, and every replica answers for itself. A replica that does not
//! answer is part of the result.

use super::reachability::Reachability;
use crate::cli::status::{ClusterStatus, Report};
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a replica may take to answer, unless the delivery bound is longer. A replica that takes longer is shown as not in
/// reach.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Collects reports, at most one collection at a time.
#[derive(Default)]
pub(super) struct StatusCollection {
    running: Option<Running>,
}

struct Running {
    /// The reports so far, by link.
    reports: BTreeMap<usize, Report>,
    /// When to stop waiting for the other reports.
    until: Timestamp,
}

impl StatusCollection {
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Begins a collection. The caller asks all replicas now, and later each replica that comes into reach until the end.
    pub fn begin(&mut self, now: Timestamp, delivery_bound: Duration) {
        let until = now.after(ANSWER_TIMEOUT.max(delivery_bound));
        self.running = Some(Running { reports: BTreeMap::new(), until });
    }

    pub fn on_report(&mut self, link: usize, report: Report) {
        if let Some(running) = &mut self.running {
            running.reports.insert(link, report);
        }
    }

    /// Whether every replica that can answer has answered, or the time is over.
    pub fn is_complete(&self, now: Timestamp, replicas: usize, reach: &Reachability) -> bool {
        let Some(running) = &self.running else { return true };
        let is_awaited = |link: usize| !running.reports.contains_key(&link) && reach.may_answer(link);
        running.until <= now || !(0..replicas).any(is_awaited)
    }

    /// When the time is over.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.running.as_ref().map(|running| running.until)
    }

    /// Ends the collection, and returns the reports.
    pub fn finish(&mut self, cluster: &Cluster) -> Option<ClusterStatus> {
        let Running { mut reports, .. } = self.running.take()?;
        let names = cluster.replicas.iter().map(|replica| replica.name.clone());
        let replicas = names.enumerate().map(|(link, name)| (name, reports.remove(&link))).collect();
        Some(ClusterStatus { replicas })
    }
}
