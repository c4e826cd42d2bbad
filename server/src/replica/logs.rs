//! Comparing logs with the peers, and taking over what theirs have and ours lacks.
//!
//! Each new connection begins with a comparison of logs, and logs that were found to differ later are compared again. A peer's log
//! that has more is transferred to its end, in pieces, one peer after the other. Requests that continue our own log are inserted
//! as they come. Requests that belong below its end are gathered first, since inserting them undoes and applies again everything
//! that follows, which takes time. While clients and peers depend on us, only a few requests may be undone that way.
//!
//! Replicas that diverged long ago therefore rejoin one after the other, the one with the shorter log first. It catches up while
//! nobody depends on it, and the others serve.

use super::peers::{LogSync, PeerState};
use super::pending::Pending;
use super::{Body, ConnectionId, LogPart, Output, PeerId, Phase, Replica, StoreChange};
use stablechat_protocol::digest::LogMark;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::request::StampedRequest;
use stablechat_protocol::uid::Uid;

impl Replica {
    /// A peer's log has been compared with ours. If it has more, it is transferred now, or when its turn comes.
    pub(super) fn on_compared(&mut self, id: PeerId, after: Option<Uid>, depth: u64, outputs: &mut Vec<Output>) {
        // A transfer from this peer is of an earlier comparison: it has truncated what we asked for, or was asked twice.
        self.catch_up.end_if_from(id);

        let is_busy = self.catch_up.is_transferring();
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.log = match after {
            None => LogSync::InSync(self.now),
            Some(_) if is_busy => LogSync::Queued,
            Some(after) => {
                let after = after.max(peer.transferred_to);
                self.catch_up.begin_log(id, after, depth);
                outputs.push(Output::send(id, PeerMessage::FetchLog { after }));
                LogSync::Comparing
            }
        };

        if !self.catch_up.is_transferring() {
            self.compare_with_queued(outputs);
        }
    }

    /// Compares logs again with the peers whose turn it was not: by now, what they had may have come from another.
    pub(super) fn compare_with_queued(&mut self, outputs: &mut Vec<Output>) {
        self.compare(|log| log == LogSync::Queued, outputs);
    }

    /// Compares logs with all peers whose log is not being compared or transferred.
    pub(super) fn compare_with_all(&mut self, outputs: &mut Vec<Output>) {
        self.compare(|log| matches!(log, LogSync::InSync(_)), outputs);
    }

    /// Compares logs again with those connected peers whose log stands so.
    fn compare(&mut self, stands_so: impl Fn(LogSync) -> bool, outputs: &mut Vec<Output>) {
        for (to, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.is_connected && stands_so(peer.log)) {
            peer.log = LogSync::Comparing;
            outputs.push(Output::read(to, LogPart::Marks));
        }
    }

    /// A peer compares its log with ours. While it catches up, its log grows, and it tells us of that in no other way. So we compare
    /// ours with it, too: how far its log goes by now decides whether it can contradict our clock
    /// (`is_contradicted`).
    pub(super) fn on_log_marks(&mut self, from: PeerId, marks: Vec<LogMark>, outputs: &mut Vec<Output>) {
        outputs.push(Output::read(from, LogPart::CommonPrefix { marks }));

        // If both caught up, each comparison would lead to the next.
        let is_ours_stable = self.phase != Phase::CatchingUp;
        if let Some(peer) = self.peers.get_mut(from)
            && is_ours_stable
            && peer.state == PeerState::CatchingUp
            && matches!(peer.log, LogSync::InSync(_))
        {
            peer.log = LogSync::Comparing;
            outputs.push(Output::read(from, LogPart::Marks));
        }
    }

    /// Nothing more comes from a peer: the transfer ends, if it was from this one.
    pub(super) fn end_transfer_from(&mut self, id: PeerId, outputs: &mut Vec<Output>) {
        if let Some(gathered) = self.catch_up.end_if_from(id) {
            self.take_applied(id, gathered, outputs);
            self.compare_with_queued(outputs);
        }
    }

    /// A peer sends a piece of its log. What continues our own is taken at once. What belongs below its end is gathered
    /// first, since inserting it piece by piece would undo and apply again all that follows, for each piece.
    pub(super) fn on_entries(
        &mut self,
        id: PeerId,
        after: Uid,
        missing: Vec<StampedRequest>,
        next: Option<Uid>,
        outputs: &mut Vec<Output>,
    ) {
        let Some(mut transfer) = self.catch_up.take_if_awaited(id, after) else { return };

        // Requests of a wrong clock end what can be taken: all that follow lie further ahead still.
        let (mut missing, mut next) = (missing, next);
        let credible = self.latest_credible();
        if missing.iter().any(|held| held.uid.timestamp > credible) {
            missing.retain(|held| held.uid.timestamp <= credible);
            next = None;
        }

        let is_new = |held: &StampedRequest| held.is_genuine() && !self.is_known(held.uid);
        transfer.add(missing.into_iter().filter(is_new));
        if self.phase != Phase::CatchingUp && transfer.undone_by_inserting(self.applied) > self.settings.depth_max {
            // Clients and peers depend on us. Comparing the boundaries will tell whose turn it is to rejoin.
            self.peers.set_log(id, LogSync::Diverged);
            return self.compare_with_queued(outputs);
        }

        let continues = transfer.first().is_none_or(|uid| uid > self.applied);
        if continues || next.is_none() || transfer.is_full() {
            self.take_applied(id, transfer.take(), outputs);
            if let Some(peer) = self.peers.get_mut(id) {
                peer.transferred_to = next.unwrap_or(after);
            }
        }

        let Some(next) = next else {
            self.peers.set_log(id, LogSync::InSync(self.now));
            return self.compare_with_queued(outputs);
        };
        self.catch_up.resume(transfer, next);
        self.ask_for_next_piece(outputs);
    }

    /// Asks for the next piece of the log that is being transferred, unless there is enough to insert already.
    fn ask_for_next_piece(&mut self, outputs: &mut Vec<Output>) {
        if let Some((to, after)) = self.catch_up.next_piece() {
            outputs.push(Output::send(to, PeerMessage::FetchLog { after }));
        }
    }

    /// Whether a request is pending, or applied as far as we remember.
    pub(super) fn is_known(&self, uid: Uid) -> bool {
        self.recent.contains(uid) || self.pending.get(uid).is_some()
    }

    /// Takes in requests that a peer has applied. While we catch up they need no test of our own; afterwards those that come
    /// after the last one that we have applied take their turn with the pending ones.
    fn take_applied(&mut self, peer: PeerId, requests: Vec<StampedRequest>, outputs: &mut Vec<Output>) {
        let mut inserted = Vec::new();

        for held in requests {
            let uid = held.uid;
            if self.is_known(uid) {
                continue;
            }

            let mut held_by = self.missing.remove(uid);
            if self.phase != Phase::CatchingUp && uid > self.applied {
                held_by.insert(peer);
                let waiting = self.refused.take(uid);
                self.pending.insert(uid, Pending { body: Body::Request(held.request), waiting, held_by });
                self.announcer.add(uid);
                continue;
            }

            if uid.timestamp >= self.recent.horizon() {
                self.recent.insert(uid);
            }
            self.applied = self.applied.max(uid);
            // We accept nothing any more that would belong before it.
            self.closing.raise(uid.timestamp);
            inserted.push(held);
        }

        self.insert(inserted, Vec::new(), outputs);
    }

    /// Wants requests inserted into the log.
    pub(super) fn insert(
        &mut self,
        requests: Vec<StampedRequest>,
        waiting: Vec<(Uid, Vec<ConnectionId>)>,
        outputs: &mut Vec<Output>,
    ) {
        if !requests.is_empty() {
            self.catch_up.on_inserting();
            outputs.push(Output::Change(StoreChange::Insert { requests, waiting }));
        }
    }

    /// An insertion is done.
    pub(super) fn on_inserted(&mut self, applied: Uid, outputs: &mut Vec<Output>) {
        self.catch_up.on_inserted();
        self.applied = self.applied.max(applied);
        self.ask_for_next_piece(outputs);
    }

    /// At a boundary our log differs from a peer's: finds out where they part, unless that is under way.
    ///
    /// If they diverged long ago, the replica with the shorter log rejoins, and takes in what the other has while that one serves. Then
    /// its log is the longer one, and it is the other's turn. So one of them serves all the time.
    pub(super) fn on_logs_differ(&mut self, id: PeerId, is_ours_shorter: bool, outputs: &mut Vec<Output>) {
        let Some(peer) = self.peers.get_connected(id) else { return };
        match peer.log {
            LogSync::Diverged if is_ours_shorter && peer.state == PeerState::Linked => self.rejoin(outputs),
            LogSync::Diverged | LogSync::InSync(_) => {
                // The peer may have inserted a request below the end of the part that has been transferred.
                peer.compare_anew();
                outputs.push(Output::read(id, LogPart::Marks));
            }
            LogSync::Comparing | LogSync::Queued => {}
        }
    }

    /// Compares logs again with the peers that were last in sync longer ago than what they list when they welcome us.
    pub(super) fn compare_again(&mut self, outputs: &mut Vec<Output>) {
        if !self.catch_up.is_transferring() {
            let long_ago = self.now.before(self.settings.delivery_bound);
            self.compare(|log| matches!(log, LogSync::InSync(at) if at < long_ago), outputs);
        }
    }
}
