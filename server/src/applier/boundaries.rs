//! Comparing logs and states with the peers' at whole seconds of timestamps.
//!
//! While the assumption of the protocol holds, nothing can differ. So a difference in logs is what is left of a time when it
//! did not hold, and sets off a comparison that finds and repairs it; a difference in states under equal logs is a bug.
//! A comparison that cannot be made says nothing.

use super::unsent::Unsent;
use crate::replica::{PeerId, Replica, Status};
use crate::store::ChatStore;
use stablechat_protocol::peer::{BoundaryDigests, PeerMessage};
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
        let second = now.before(replica.settings().delivery_bound + LAG).0 / 1_000_000_000;
        if second <= self.second || replica.status() != Status::Serving {
            return;
        }
        self.second = second;
        if let Some(digests) = store.boundary(second) {
            for peer in replica.connected() {
                unsent.to_peer(peer, PeerMessage::Boundary { digests });
            }
        }
    }

    /// Whether a peer's log is ours, as far as it can be said.
    pub fn agree(&self, peer: PeerId, theirs: &BoundaryDigests, replica: &Replica, store: &ChatStore) -> bool {
        let Some(ours) = store.boundary(theirs.second) else { return true };
        if replica.status() != Status::Serving {
            return true;
        }
        let same_log = (ours.position, ours.log_digest) == (theirs.position, theirs.log_digest);
        if same_log && ours.state_digest != theirs.state_digest {
            let PeerId(peer) = peer;
            log::error!("BUG: the state at position {} differs from that of replica {peer}", ours.position);
        }
        same_log
    }
}
