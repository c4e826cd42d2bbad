//! Catching up: what peers' logs have and ours lacks.
//!
//! A connection begins with a comparison of logs, and logs that were found to differ are compared again. The log of one peer at a
//! time is then followed to its end, in pieces. What continues our own log is inserted as it comes. What belongs below its end
//! is gathered first, and inserting it undoes and applies again what follows, which takes time. So while others wait for us
//! only little of that is done. Of replicas that parted long ago one after the other begins again, and catches up while
//! nobody waits for it: the one with the shorter log first.

use super::peer::{LogSync, PeerState};
use super::pending::{PeerSet, Pending, request_size};
use super::{Body, ConnectionId, LogPart, Output, PeerId, Phase, Replica, StoreChange};
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::request::StampedRequest;
use stablechat_protocol::uid::Uid;

/// The most requests of a peer's log that are gathered before they are inserted below the end of our own.
const ARRIVING_MAX: usize = 100_000;
/// The most bytes that they may take.
const ARRIVING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How many insertions may be under way when the next piece of a peer's log is asked for.
const INSERTING_MAX: usize = 2;

/// A peer whose log we follow.
#[derive(Debug)]
pub(super) struct Following {
    /// The peer.
    pub peer: PeerId,
    /// After which request the piece begins that it has been asked for last; none when it is a snapshot that it was asked for.
    asked: Option<Uid>,
    /// How many requests our log had beyond what both have, when they were compared.
    depth: u64,
    /// What of its log has come and is not yet taken in.
    arriving: Vec<StampedRequest>,
    /// About how many bytes that takes.
    bytes: usize,
    /// After which request the next piece is to be asked for, while it is not.
    next: Option<Uid>,
}

impl Following {
    /// A peer that has been asked for what its log has after a request. Ours has so many then.
    fn log(peer: PeerId, after: Uid, depth: u64) -> Following {
        Following { peer, asked: Some(after), depth, arriving: Vec::new(), bytes: 0, next: None }
    }

    /// A peer that has been asked for a snapshot.
    pub fn snapshot(peer: PeerId) -> Following {
        Following { peer, asked: None, depth: 0, arriving: Vec::new(), bytes: 0, next: None }
    }

    /// Whether it is a snapshot that is awaited.
    pub fn is_snapshot(&self) -> bool {
        self.asked.is_none()
    }

    /// Adds to what has come.
    fn add(&mut self, requests: impl IntoIterator<Item = StampedRequest>) {
        let from = self.arriving.len();
        self.arriving.extend(requests);
        self.bytes += self.arriving[from..].iter().map(|held| request_size(&held.request)).sum::<usize>();
    }

    /// Whether no more may be gathered.
    fn is_full(&self) -> bool {
        self.arriving.len() >= ARRIVING_MAX || self.bytes >= ARRIVING_BYTES_MAX
    }
}

impl Replica {
    /// A peer's log has been compared with ours: what it has, we want, of one peer after the other.
    pub(super) fn on_compared(&mut self, id: PeerId, after: Option<Uid>, depth: u64, outputs: &mut Vec<Output>) {
        // If it is the one that we follow, it has truncated what we asked for, or had been asked twice.
        self.following.take_if(|following| following.peer == id);
        let is_busy = self.following.is_some();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.log = match after {
            None => LogSync::CaughtUp(self.now),
            Some(_) if is_busy => LogSync::Waiting,
            Some(after) => {
                let after = after.max(peer.followed_to);
                self.following = Some(Following::log(id, after, depth));
                outputs.push(Output::send(id, PeerMessage::FetchLog { after }));
                LogSync::Unknown
            }
        };
        if self.following.is_none() {
            self.probe_waiting(outputs);
        }
    }

    /// Compares logs again with the peers whose turn it was not: what they had may have come from another by now.
    pub(super) fn probe_waiting(&mut self, outputs: &mut Vec<Output>) {
        self.probe(|log| log == LogSync::Waiting, outputs);
    }

    /// Compares logs with all whose log is not being compared or followed.
    pub(super) fn compare_with_all(&mut self, outputs: &mut Vec<Output>) {
        self.probe(|log| matches!(log, LogSync::CaughtUp(_)), outputs);
    }

    /// Compares logs again with those whose log stands so.
    fn probe(&mut self, stands_so: impl Fn(LogSync) -> bool, outputs: &mut Vec<Output>) {
        for (to, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.is_connected && stands_so(peer.log)) {
            peer.log = LogSync::Unknown;
            outputs.push(Output::read(*to, LogPart::Marks));
        }
    }

    /// Follows a peer's log no more, when it was the one.
    pub(super) fn stop_following(&mut self, id: PeerId, outputs: &mut Vec<Output>) {
        if let Some(following) = self.following.take_if(|following| following.peer == id) {
            self.take_applied(id, following.arriving, outputs);
            self.probe_waiting(outputs);
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
        let is_awaited = |following: &mut Following| following.peer == id && following.asked == Some(after);
        let Some(mut following) = self.following.take_if(is_awaited) else { return };
        let is_new = |held: &StampedRequest| held.is_genuine() && !self.is_known(held.uid);
        following.add(missing.into_iter().filter(is_new));
        if self.is_too_deep(&following) {
            // Others wait for us. The boundaries will tell whose turn it is to take in what the other has.
            self.set_log(id, LogSync::Apart);
            return self.probe_waiting(outputs);
        }
        let continues = following.arriving.first().is_none_or(|held| held.uid > self.applied);
        if continues || next.is_none() || following.is_full() {
            following.bytes = 0;
            let arriving = std::mem::take(&mut following.arriving);
            self.take_applied(id, arriving, outputs);
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.followed_to = next.unwrap_or(after);
            }
        }
        if next.is_none() {
            self.set_log(id, LogSync::CaughtUp(self.now));
            return self.probe_waiting(outputs);
        }
        following.next = next;
        self.following = Some(following);
        self.ask_for_next(outputs);
    }

    /// Asks for the next piece of the log that we follow, unless there is enough to insert already.
    fn ask_for_next(&mut self, outputs: &mut Vec<Output>) {
        if self.inserting < INSERTING_MAX
            && let Some(following) = &mut self.following
            && let Some(after) = following.next.take()
        {
            following.asked = Some(after);
            outputs.push(Output::send(following.peer, PeerMessage::FetchLog { after }));
        }
    }

    /// Notes how a peer's log stands to ours.
    fn set_log(&mut self, id: PeerId, log: LogSync) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.log = log;
        }
    }

    /// Whether taking in what has come would keep us from serving.
    fn is_too_deep(&self, following: &Following) -> bool {
        let below = following.arriving.iter().filter(|held| held.uid <= self.applied).count() as u64;
        self.status != Phase::CatchingUp && below > 0 && following.depth.max(below) > self.settings.depth_max
    }

    /// Whether a request is pending, or applied as far as we remember.
    fn is_known(&self, uid: Uid) -> bool {
        self.recent.contains(&uid) || self.pending.get(uid).is_some()
    }

    /// Takes in requests that a peer has applied. While we catch up they need no test of our own; afterwards those that come
    /// after what we have applied take their turn with what is pending.
    fn take_applied(&mut self, peer: PeerId, arriving: Vec<StampedRequest>, outputs: &mut Vec<Output>) {
        let mut requests = Vec::new();
        for held in arriving {
            let uid = held.uid;
            if self.is_known(uid) {
                continue;
            }
            let missing = self.missing.remove(&uid);
            if self.status != Phase::CatchingUp && uid > self.applied {
                let mut held_by = missing.map_or(PeerSet::default(), |missing| missing.listed_by);
                held_by.insert(peer);
                let waiting = self.refused.remove(&uid).unwrap_or_default();
                self.pending.insert(uid, Pending { body: Body::Request(held.request), waiting, held_by });
                self.unannounced.push(uid);
                continue;
            }
            if uid.timestamp >= self.horizon {
                self.recent.insert(uid);
            }
            self.applied = self.applied.max(uid);
            self.closed = self.closed.max(uid.timestamp);
            requests.push(held);
        }
        self.insert(requests, Vec::new(), outputs);
    }

    /// Wants requests inserted into the log.
    pub(super) fn insert(
        &mut self,
        requests: Vec<StampedRequest>,
        waiting: Vec<(Uid, Vec<ConnectionId>)>,
        outputs: &mut Vec<Output>,
    ) {
        if !requests.is_empty() {
            self.inserting += 1;
            outputs.push(Output::Change(StoreChange::Insert { requests, waiting }));
        }
    }

    /// An insertion is done.
    pub(super) fn on_inserted(&mut self, applied: Uid, outputs: &mut Vec<Output>) {
        self.inserting -= 1;
        self.applied = self.applied.max(applied);
        self.ask_for_next(outputs);
    }

    /// Our log differs from a peer's: finds out where, unless we are doing so. If they parted long ago, the one with the shorter
    /// log begins again, and takes in what the other has while that one serves; then its log is the longer one, and it is the
    /// other's turn. So someone serves all the time.
    pub(super) fn on_logs_differ(&mut self, id: PeerId, is_ours_shorter: bool, outputs: &mut Vec<Output>) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_connected) else { return };
        match peer.log {
            LogSync::Apart if is_ours_shorter && peer.standing == PeerState::Linked => self.rejoin(outputs),
            LogSync::Apart | LogSync::CaughtUp(_) => {
                // It may have taken in something before where we were.
                (peer.log, peer.followed_to) = (LogSync::Unknown, Uid::MIN);
                outputs.push(Output::read(id, LogPart::Marks));
            }
            LogSync::Unknown | LogSync::Waiting => {}
        }
    }

    /// Compares logs again with whom we were caught up with longer ago than what peers list when they welcome us.
    pub(super) fn compare_again(&mut self, outputs: &mut Vec<Output>) {
        if self.following.is_none() {
            let long_ago = self.now.before(self.settings.delivery_bound);
            self.probe(|log| matches!(log, LogSync::CaughtUp(at) if at < long_ago), outputs);
        }
    }
}
