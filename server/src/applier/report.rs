//! The status report: what protocol and store show, in the words of the wire.

use super::Applier;
use super::counters::nanoseconds;
use crate::net::Identity;
use crate::replica::{Overview, PeerOverview, Standing, Status};
use stablechat_protocol::status::{PeerReport, PeerStanding, Phase, StatusReport};

impl Applier {
    /// What the replica says of itself.
    pub fn report(&self) -> StatusReport {
        let overview = self.replica.overview();
        let applied = self.store.applied();
        StatusReport {
            replica: self.identity.replica.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            phase: phase(&overview),
            is_mute: overview.is_muted,
            clock_is_off: overview.clock_is_off,
            epoch: overview.epoch,
            applied: applied.mark(),
            state_digest: applied.state_digest,
            boundaries: self.boundaries.last(overview.now, &self.replica, &self.store),
            settled_s: None,
            clock: overview.now,
            closed: overview.closed,
            grace_ns: nanoseconds(overview.grace),
            has_barrier: overview.has_barrier,
            pending: overview.pending as u64,
            peers: peers(&self.identity, &overview),
            catching_up: None,
            counters: self.tally.counters(),
        }
    }
}

/// What the replica does.
fn phase(overview: &Overview) -> Phase {
    match overview.status {
        _ if overview.is_stopping => Phase::Stopping,
        Status::CatchingUp => Phase::CatchingUp,
        Status::Joining => Phase::Joining,
        Status::Serving => Phase::Serving,
    }
}

/// The other replicas of the cluster file.
fn peers(us: &Identity, overview: &Overview) -> Vec<PeerReport> {
    let named = |(id, entry)| overview.peers.iter().find(|peer| peer.id == id).map(|peer| (entry, peer));
    let report = |(entry, peer): (&stablechat_protocol::cluster::ReplicaEntry, &PeerOverview)| PeerReport {
        replica: entry.name.clone(),
        standing: match peer.standing {
            Standing::Unknown => PeerStanding::Unknown,
            Standing::Reader => PeerStanding::Reader,
            Standing::Linked => PeerStanding::Linked,
            Standing::Down => PeerStanding::Down,
        },
        is_connected: peer.is_connected,
        closed: peer.closed,
        silence_ns: nanoseconds(peer.silence),
        clock: peer.clock_offset_ns.map(|offset| overview.now.offset_by(offset)),
    };
    us.peers().filter_map(named).map(report).collect()
}
