//! Comparing logs and states with the peers' at whole seconds of timestamps.
//!
//! While the assumption of the protocol holds, nothing can differ. So a difference in logs is what is left of a time when it
//! did not hold, and sets off a comparison that finds and repairs it; a difference in states under equal logs is a bug.
//! A comparison that cannot be made says nothing.

use super::unsent::Unsent;
use crate::replica::{Replica, Status};
use crate::store::ChatStore;
use stablechat_protocol::peer::{BoundaryDigests, PeerMessage};
use stablechat_protocol::status::BOUNDARIES_MAX;
use stablechat_protocol::time::Timestamp;
use std::time::Duration;

/// How far behind the clock boundaries are compared, beyond the delivery bound: time for a repair to have come to pass.
const LAG: Duration = Duration::from_secs(1);

/// Which boundary was exchanged last.
#[derive(Default)]
pub struct Boundaries {
    second: u64,
}

impl Boundaries {
    /// Tells the peers of the last boundary that lies far enough back, once for each.
    pub fn exchange(&mut self, now: Timestamp, replica: &Replica, store: &ChatStore, unsent: &mut Unsent) {
        let second = last_second(now, replica);
        if second <= self.second || replica.status() != Status::Serving {
            return;
        }
        self.second = second;
        if let Some(digests) = store.boundary(second) {
            for peer in replica.connected() {
                unsent.for_peer(peer, PeerMessage::Boundary { digests });
            }
        }
    }

    /// The last boundaries that lie far enough back and are known, oldest first.
    pub fn last(&self, now: Timestamp, replica: &Replica, store: &ChatStore) -> Vec<BoundaryDigests> {
        let last = last_second(now, replica);
        let first = last.saturating_sub(BOUNDARIES_MAX as u64 - 1);
        (first..=last).filter_map(|second| store.boundary(second)).collect()
    }

    /// What comes of comparing a peer's log and state with ours.
    pub fn compare(&self, theirs: &BoundaryDigests, replica: &Replica, store: &ChatStore) -> Comparison {
        let Some(ours) = store.boundary(theirs.second) else { return Comparison::Unknown };
        if replica.status() != Status::Serving {
            Comparison::Unknown
        } else if (ours.position, ours.log_digest) != (theirs.position, theirs.log_digest) {
            Comparison::LogsDiffer
        } else if ours.state_digest != theirs.state_digest {
            Comparison::StatesDiffer
        } else {
            Comparison::Same
        }
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
    LogsDiffer,
    /// They have applied the same requests, and not come to the same.
    StatesDiffer,
}

/// The last second that lies far enough back.
fn last_second(now: Timestamp, replica: &Replica) -> u64 {
    now.before(replica.settings().delivery_bound + LAG).0 / 1_000_000_000
}
