//! Comparing logs and states with the peers' at whole seconds of timestamps.
//!
//! While the assumption of the protocol holds, nothing can differ. So a difference in logs is what is left of a time when it
//! did not hold, and sets off a comparison that finds and repairs it; a difference in states under equal logs is a bug.
//! A comparison that cannot be made says nothing.
//!
//! What all replicas have said to be the same is *settled*. Each says so only when it holds nothing from before the boundary
//! that it has not applied, and accepts nothing there any more. So whatever is not in the log by then is nowhere.

use super::outbox::Outbox;
use crate::replica::{PeerId, Phase, Replica};
use crate::store::ChatStore;
use stablechat_protocol::digest::BoundaryDigests;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::status::BOUNDARIES_MAX;
use stablechat_protocol::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// How far behind the clock boundaries are compared, beyond the delivery bound: time for a repair to have come to pass.
const LAG: Duration = Duration::from_secs(1);
/// The most seconds of which it is remembered who said what; the oldest are forgotten, and later ones settle them.
const SECONDS_MAX: usize = 16;
/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// What has been said of the last boundaries.
#[derive(Default)]
pub struct BoundaryExchange {
    /// The last one of which we told the peers.
    second: u64,
    /// Those not yet settled.
    said: BTreeMap<u64, Said>,
}

/// What has been said of one boundary.
#[derive(Default)]
struct Said {
    /// By us.
    ours: Option<BoundaryDigests>,
    /// By the peers.
    theirs: BTreeMap<PeerId, BoundaryDigests>,
}

impl Said {
    /// How many replicas, we included, have said what we have.
    fn agreeing(&self) -> usize {
        1 + self.theirs.values().filter(|theirs| Some(**theirs) == self.ours).count()
    }
}

impl BoundaryExchange {
    /// Tells the peers of the last boundary that lies far enough back, once for each.
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

    /// Settles the log up to the last boundary that is the same everywhere. When the log is too long, those who are away are
    /// not waited for, if it is the same at more than half of all: so when replicas are cut off from each other, at most one
    /// side drops what another has not seen, and what the other sides have they still have when all meet again.
    pub fn settle(&mut self, replica: &Replica, store: &mut ChatStore) {
        let replicas = replica.settings().peers.len() + 1;
        let newest_first = self.said.values().rev();
        let is_enough = |said: &Said| {
            let with_all_here = || replica.connected().all(|peer| said.theirs.get(&peer) == said.ours.as_ref());
            let agreeing = said.agreeing();
            agreeing == replicas || store.log().is_too_long() && 2 * agreeing > replicas && with_all_here()
        };
        let agreed = newest_first.filter(|said| is_enough(said)).find_map(|said| said.ours);
        if let Some(agreed) = agreed {
            store.settle_boundary(&agreed);
            self.said = self.said.split_off(&(agreed.second + 1));
        }
    }

    /// What comes of comparing a peer's log and state with ours.
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

    /// What has been said of a boundary.
    fn note(&mut self, second: u64) -> &mut Said {
        while self.said.len() >= SECONDS_MAX && !self.said.contains_key(&second) {
            self.said.pop_first();
        }
        self.said.entry(second).or_default()
    }
}

/// What comes of comparing two replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// It cannot be made.
    Unknown,
    /// They are the same.
    Same,
    /// They have applied different requests.
    LogsDiffer {
        /// Whether we have applied fewer; if they are as many, the one that comes later in the cluster file has.
        is_ours_shorter: bool,
    },
    /// They have applied the same requests, and not come to the same.
    StatesDiffer,
}

/// The last second that lies far enough back.
fn last_second(now: Timestamp, replica: &Replica) -> u64 {
    now.before(replica.settings().delivery_bound + LAG).0 / 1_000_000_000
}
