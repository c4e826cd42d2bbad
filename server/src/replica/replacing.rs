//! Catching up by a snapshot.
//!
//! A peer that has truncated what we lack, or has settled what we have otherwise, cannot be followed any more. Then our log and
//! state give way to a snapshot of its own. This happens only while we catch up, when nothing is pending and nobody waits for
//! us: a replica that finds it out later begins again. Parts are asked for one by one, so that no more is on its way than is
//! taken in.

use super::catching_up::Following;
use super::peer::LogSync;
use super::{LogPart, Output, PeerId, Phase, Replica, StoreChange};
use stablechat_protocol::peer::{PeerMessage, SnapshotEnd, SnapshotRow};
use stablechat_protocol::uid::Uid;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long to wait before a snapshot that could not be had is asked for again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl Replica {
    /// A peer's log cannot be followed: asks for a snapshot of it, when no other peer is being followed.
    pub(super) fn on_outdated(&mut self, id: PeerId, outputs: &mut Vec<Output>) {
        if self.status != Phase::CatchingUp {
            // Connections begin anew with it, and so does comparing logs.
            return self.rejoin(outputs);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if self.following.as_ref().is_some_and(|followed| followed.peer != id) {
            peer.log = LogSync::Waiting;
            return;
        }
        peer.log = LogSync::Unknown;
        self.following = Some(Following::snapshot(id));
        outputs.push(Output::send(id, PeerMessage::FetchSnapshot { part: 0 }));
    }

    /// Whether this is the peer that was asked for a snapshot.
    fn awaits_snapshot(&self, id: PeerId) -> bool {
        self.following.as_ref().is_some_and(|following| following.peer == id && following.is_snapshot())
    }

    /// A part of a snapshot has come; of one that is no longer wanted, nothing is taken.
    pub(super) fn on_snapshot_part(
        &mut self,
        from: PeerId,
        part: u64,
        rows: Vec<SnapshotRow>,
        end: Option<SnapshotEnd>,
        outputs: &mut Vec<Output>,
    ) {
        if self.status == Phase::CatchingUp && self.awaits_snapshot(from) {
            outputs.push(Output::Change(StoreChange::TakeSnapshotPart { from, part, rows, end }));
        }
    }

    /// Log and state are those of a peer some time ago. What has come to it since, and to the others, is in their logs.
    pub(super) fn on_installed(&mut self, applied: Uid, recent: BTreeSet<Uid>, outputs: &mut Vec<Output>) {
        debug_assert!(self.status == Phase::CatchingUp && self.pending.is_empty(), "nobody waits for us");
        (self.applied, self.recent) = (applied, recent);
        self.closed = self.closed.max(applied.timestamp);
        self.following = None;
        for (id, peer) in &mut self.peers {
            (peer.log, peer.followed_to) = (LogSync::Unknown, Uid::MIN);
            if peer.is_connected {
                outputs.push(Output::read(*id, LogPart::Marks));
            }
        }
    }

    /// A peer's snapshot could not be had: it, or another, is asked again after a while.
    pub(super) fn on_not_installed(&mut self, id: PeerId) {
        if self.awaits_snapshot(id) {
            self.following = None;
            self.snapshot_at = Some(self.now.after(RETRY_DELAY));
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.log = LogSync::Waiting;
            }
        }
    }

    /// Compares logs again with those whose snapshot could not be had, when it is time.
    pub(super) fn retry_snapshot(&mut self, outputs: &mut Vec<Output>) {
        if self.following.is_none() && self.snapshot_at.is_some_and(|at| at <= self.now) {
            self.snapshot_at = None;
            self.probe_waiting(outputs);
        }
    }
}
