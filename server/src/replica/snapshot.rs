//! Catching up by a snapshot.
//!
//! When a peer has truncated entries that we lack, or has settled other entries than we have, its log cannot be brought together
//! with ours. Then our log and state are replaced by a snapshot of the peer's. This happens only while we catch up, when nothing
//! is pending and nobody depends on us: a replica that finds it out later rejoins first. Parts are asked for one by one, so that no
//! more is on its way than can be taken in.

use super::peers::LogSync;
use super::{LogPart, Output, PeerId, Phase, Replica, StoreChange};
use stablechat_protocol::peer::{PeerMessage, SnapshotEnd, SnapshotRow};
use stablechat_protocol::uid::Uid;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long to wait before a snapshot that could not be had is asked for again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl Replica {
    /// A peer's log cannot be brought together with ours: asks for a snapshot of it, unless another peer's is being transferred.
    pub(super) fn on_outdated(&mut self, id: PeerId, outputs: &mut Vec<Output>) {
        if self.peers.get_connected(id).is_none() {
            // The comparison is of a connection that has ended. The next one begins with another.
            return;
        }
        if self.phase != Phase::CatchingUp {
            // All connections begin anew with it, and logs are compared again.
            return self.rejoin(outputs);
        }

        let Some(peer) = self.peers.get_mut(id) else { return };
        if self.catch_up.is_busy_with_another_than(id) {
            peer.log = LogSync::Queued;
            return;
        }
        peer.log = LogSync::Comparing;
        self.catch_up.begin_snapshot(id);
        outputs.push(Output::send(id, PeerMessage::FetchSnapshot { part: 0 }));
    }

    /// A part of a snapshot has come. Parts of one that is no longer wanted are ignored.
    pub(super) fn on_snapshot_part(
        &mut self,
        from: PeerId,
        part: u64,
        rows: Vec<SnapshotRow>,
        end: Option<SnapshotEnd>,
        outputs: &mut Vec<Output>,
    ) {
        if self.phase == Phase::CatchingUp && self.catch_up.awaits_snapshot_of(from) {
            outputs.push(Output::Change(StoreChange::TakeSnapshotPart { from, part, rows, end }));
        }
    }

    /// Log and state are now those that a peer had some time ago. What it and the others have applied since is in their logs.
    pub(super) fn on_installed(&mut self, applied: Uid, recent: BTreeSet<Uid>, outputs: &mut Vec<Output>) {
        debug_assert!(self.phase == Phase::CatchingUp && self.pending.is_empty(), "nobody depends on us");
        self.applied = applied;
        self.recent.replace(recent);
        self.closing.raise(applied.timestamp);
        self.catch_up.end();

        for (id, peer) in self.peers.iter_mut() {
            peer.compare_anew();
            if peer.is_connected {
                outputs.push(Output::read(id, LogPart::Marks));
            }
        }
    }

    /// A peer's snapshot could not be had: its log, and those of the others, are compared again after a while.
    pub(super) fn on_not_installed(&mut self, id: PeerId) {
        if self.catch_up.awaits_snapshot_of(id) {
            self.catch_up.postpone_snapshot(self.now.after(RETRY_DELAY));
            self.peers.set_log(id, LogSync::Queued);
        }
    }

    /// Compares logs again with the peers whose snapshot could not be had, when it is time.
    pub(super) fn retry_snapshot(&mut self, outputs: &mut Vec<Output>) {
        if self.catch_up.is_snapshot_due(self.now) {
            self.compare_with_queued(outputs);
        }
    }
}
