//! Comparing logs and states with the peers' at *boundaries*: whole seconds of timestamps.
//!
//! While the assumption of the protocol holds, nothing can differ. Logs differ only after it broke; then they are compared to find
//! where they part, and the difference is repaired. Different states under equal logs are a bug. A comparison that cannot be made
//! says nothing.
//!
//! The log is *settled* up to a boundary at which all replicas have reported the same digests. A replica reports a boundary only when
//! it has applied everything before it that it holds, and accepts nothing there any more. So a request that is not in the log
//! by then is nowhere.

use super::outbox::Outbox;
use crate::replica::{PeerId, Phase, Replica};
use crate::store::ChatStore;
use stablechat_protocol::digest::BoundaryDigests;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::status::BOUNDARIES_MAX;
use stablechat_protocol::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// How far behind the clock boundaries are compared, beyond the delivery bound: a repair may take that long.
const LAG: Duration = Duration::from_secs(1);
/// The most boundaries whose reports are remembered. The oldest are forgotten: a later boundary settles the log up to them as well.
const SECONDS_MAX: usize = 16;
/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// The reports of the last boundaries.
#[derive(Default)]
pub struct BoundaryExchange {
    /// The last boundary that we reported to the peers.
    second: u64,
    /// The reports of boundaries that are not settled, by second.
    reports: BTreeMap<u64, Reports>,
}

/// The reports of one boundary by replicas.
#[derive(Default)]
struct Reports {
    ours: Option<BoundaryDigests>,
    theirs: BTreeMap<PeerId, BoundaryDigests>,
}

impl Reports {
    /// How many replicas, ourselves included, have reported the same as we.
    fn agreeing(&self) -> usize {
        1 + self.theirs.values().filter(|theirs| Some(**theirs) == self.ours).count()
    }
}

impl BoundaryExchange {
    /// Reports the last boundary that lies far enough back to the peers, once.
    pub fn exchange(&mut self, now: Timestamp, replica: &Replica, store: &ChatStore, outbox: &mut Outbox) {
        let second = last_second(now, replica);
        if second <= self.second || !replica.has_passed(Timestamp(second * SECOND)) {
            return;
        }
        self.second = second;
        if let Some(digests) = store.log().boundary(second) {
            self.note(second).ours = Some(digests);
            for peer in replica.connected() {
                outbox.for_peer(peer, PeerMessage::Boundary { digests });
            }
        }
    }

    /// The last boundaries that lie far enough back and are known, oldest first.
    pub fn last(&self, now: Timestamp, replica: &Replica, store: &ChatStore) -> Vec<BoundaryDigests> {
        let last = last_second(now, replica);
        let first = last.saturating_sub(BOUNDARIES_MAX as u64 - 1);
        let has_passed = |second: &u64| replica.has_passed(Timestamp(second * SECOND));
        (first..=last).filter(has_passed).filter_map(|second| store.log().boundary(second)).collect()
    }

    /// Settles the log up to the last boundary that is the same at all replicas. When the log is too long, replicas that are away are
    /// not waited for if it is the same at more than half of all. So when replicas are cut off from each other, at most one
    /// side truncates requests that another has not seen, and the other sides still have all of theirs when they meet again.
    ///
    /// All replicas are waited for as long as our clock shows log time. Then a log that ends at the time of the machines' clocks may
    /// have to replace ours ([`Replica::mend_log_ahead`]), so ours has to keep the requests that it may have to submit again.
    pub fn settle(&mut self, replica: &Replica, store: &mut ChatStore) {
        let replicas = replica.settings().peers.len() + 1;
        let newest_first = self.reports.values().rev();
        let is_enough = |reports: &Reports| {
            let with_all_here = || replica.connected().all(|peer| reports.theirs.get(&peer) == reports.ours.as_ref());
            let agreeing = reports.agreeing();
            let may_be_fewer = store.log().is_too_long() && !replica.is_log_time();
            agreeing == replicas || may_be_fewer && 2 * agreeing > replicas && with_all_here()
        };
        let agreed = newest_first.filter(|reports| is_enough(reports)).find_map(|reports| reports.ours);
        if let Some(agreed) = agreed {
            store.settle_boundary(&agreed);
            self.reports = self.reports.split_off(&(agreed.second + 1));
        }
    }

    /// Compares a peer's report with ours.
    pub fn compare(
        &mut self,
        peer: PeerId,
        theirs: &BoundaryDigests,
        replica: &Replica,
        store: &ChatStore,
    ) -> Comparison {
        self.note(theirs.second).theirs.insert(peer, *theirs);
        let Some(ours) = store.log().boundary(theirs.second) else { return Comparison::Unknown };
        if replica.phase() != Phase::Serving {
            Comparison::Unknown
        } else if (ours.position, ours.log_digest) != (theirs.position, theirs.log_digest) {
            let is_later = replica.settings().place > peer;
            let is_ours_shorter = (theirs.position, is_later) > (ours.position, false);
            Comparison::LogsDiffer { is_ours_shorter }
        } else if ours.state_digest != theirs.state_digest {
            Comparison::StatesDiffer
        } else {
            Comparison::Same
        }
    }

    /// The reports of a boundary.
    fn note(&mut self, second: u64) -> &mut Reports {
        while self.reports.len() >= SECONDS_MAX && !self.reports.contains_key(&second) {
            self.reports.pop_first();
        }
        self.reports.entry(second).or_default()
    }
}

/// The result of comparing two replicas at a boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The comparison cannot be made: one of them has no report.
    Unknown,
    Same,
    /// They have applied different requests.
    LogsDiffer {
        /// Whether we have applied fewer. Of equal numbers, that of the replica later in the cluster file counts as fewer.
        is_ours_shorter: bool,
    },
    /// They have applied the same requests, and have different states: a bug.
    StatesDiffer,
}

/// The last boundary that lies far enough back.
fn last_second(now: Timestamp, replica: &Replica) -> u64 {
    now.before(replica.settings().delivery_bound + LAG).0 / 1_000_000_000
}
