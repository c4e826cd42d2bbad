//! What who watches gets to see.

use super::Applier;
use super::counters::Tally;
use super::unsent::Unsent;
use crate::metrics::Facts;
use crate::net::{Identity, Inspection, Sent, Traffic};
use crate::replica::Settings;
use crate::store::Sizes;
use stablechat_protocol::status::{Phase, StatusReport};

impl Applier {
    /// Gathers what there is to see, if somebody has asked for it.
    pub(super) fn show_to_who_watches(&mut self, unsent: &mut Unsent) {
        let Some(traffic) = self.watched.take() else { return };
        let sizes = match self.store.sizes() {
            Ok(sizes) => Some(sizes),
            Err(error) => {
                log::warn!("cannot find out how much room the store takes: {error}");
                None
            }
        };
        let report = self.report();
        let unready = unready(&report);
        let metrics = metrics(&self.identity, self.replica.settings(), report, &self.tally, traffic, sizes);
        unsent.add(Sent::Inspected { inspection: Inspection { unready: unready.map(Into::into), metrics } });
    }
}

/// Everything that is measured, as text.
pub(super) fn metrics(
    identity: &Identity,
    settings: &Settings,
    report: StatusReport,
    tally: &Tally,
    traffic: Traffic,
    sizes: Option<Sizes>,
) -> String {
    let (further, histograms) = tally.further();
    let (cluster, delivery_bound) = (identity.cluster.clone(), settings.delivery_bound);
    Facts { cluster, delivery_bound, report, further, histograms, traffic, sizes }.text()
}

/// Why a replica does not serve; none when it does.
fn unready(report: &StatusReport) -> Option<&'static str> {
    match report.phase {
        Phase::CatchingUp => Some("catching up"),
        Phase::Joining => Some("joining"),
        Phase::Stopping => Some("stopping"),
        Phase::Serving if report.clock_is_off => Some("its clock is off"),
        Phase::Serving if report.is_mute => Some("in contact with too few replicas"),
        Phase::Serving => None,
    }
}
