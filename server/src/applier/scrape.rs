//! Answering scrapes: metrics and health for a monitoring system.

use super::Applier;
use super::measurements::Measurements;
use super::outbox::Outbox;
use crate::metrics::MetricsSnapshot;
use crate::net::{NetCommand, NetStats, ReplicaIdentity, ScrapeReport};
use crate::replica::ProtocolSettings;
use crate::store::Sizes;
use stablechat_protocol::status::{ReportedPhase, StatusReport};

impl Applier {
    /// Gathers the answer to a scrape, if there was one in this wake.
    pub(super) fn answer_scrape(&mut self, outbox: &mut Outbox) {
        let Some(stats) = self.scraped.take() else { return };
        let sizes = match self.executor.store.sizes() {
            Ok(sizes) => Some(sizes),
            Err(error) => {
                log::warn!("cannot measure the size of the store, so the metrics lack it: {error}");
                None
            }
        };
        let report = self.report();
        let unready = unready(&report);
        let metrics =
            metrics(&self.identity, self.replica.settings(), report, &self.executor.measurements, stats, sizes);
        outbox.add(NetCommand::ScrapeResult { report: ScrapeReport { unready: unready.map(Into::into), metrics } });
    }
}

/// Everything that is measured, in Prometheus' text format.
pub(super) fn metrics(
    identity: &ReplicaIdentity,
    settings: &ProtocolSettings,
    report: StatusReport,
    measurements: &Measurements,
    stats: NetStats,
    sizes: Option<Sizes>,
) -> String {
    let (extra, histograms) = measurements.extra();
    let (cluster, delivery_bound) = (identity.cluster.clone(), settings.delivery_bound);
    MetricsSnapshot { cluster, delivery_bound, report, extra, histograms, net: stats, sizes }.text()
}

/// Why a replica does not serve; none when it does.
fn unready(report: &StatusReport) -> Option<&'static str> {
    match report.phase {
        ReportedPhase::CatchingUp if report.clock_off_by_ns().is_some() => Some("its clock is off"),
        ReportedPhase::CatchingUp if report.join_wait_ns.is_some() => Some("waiting to join, after many restarts"),
        ReportedPhase::CatchingUp => Some("catching up"),
        ReportedPhase::Joining => Some("joining"),
        ReportedPhase::Stopping => Some("stopping"),
        ReportedPhase::Serving if report.is_muted => Some("in contact with too few replicas"),
        ReportedPhase::Serving => None,
    }
}
