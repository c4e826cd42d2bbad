//! What the peers have been told, and what there is to tell them.

use super::PeerId;
use stablechat_protocol::peer::{PeerMessage, UIDS_MAX};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::time::Duration;

/// Gathers the uids of the next announcement.
#[derive(Debug)]
pub struct Announcer {
    /// What we hold since the last announcement, in the order in which it came.
    unannounced: Vec<Uid>,
    /// The peers that we have fenced since then, each up to an incarnation.
    fences: Vec<(PeerId, u64)>,
    /// The closed timestamp that was last announced.
    closed: Timestamp,
    /// When it was.
    announced_at: Timestamp,
}

impl Announcer {
    /// Nothing has been announced. The first heartbeat follows an interval after `now`.
    pub fn new(now: Timestamp) -> Announcer {
        Announcer { unannounced: Vec::new(), fences: Vec::new(), closed: Timestamp::ZERO, announced_at: now }
    }

    /// A request is held since now.
    pub fn add(&mut self, uid: Uid) {
        self.unannounced.push(uid);
    }

    /// Nothing more is taken from the incarnations of a peer up to this one.
    pub fn add_fence(&mut self, peer: PeerId, epoch: u64) {
        self.fences.push((peer, epoch));
    }

    /// Whether there are requests or fences to announce.
    pub fn has_news(&self) -> bool {
        !self.unannounced.is_empty() || !self.fences.is_empty()
    }

    pub fn unannounced(&self) -> &[Uid] {
        &self.unannounced
    }

    /// The closed timestamp that was last announced.
    pub fn closed(&self) -> Timestamp {
        self.closed
    }

    /// When the peers are to be told that we live, at the latest.
    pub fn heartbeat_at(&self, interval: Duration) -> Timestamp {
        self.announced_at.after(interval)
    }

    /// Drops what there is to announce.
    pub fn clear(&mut self) {
        self.unannounced.clear();
        self.fences.clear();
    }

    /// The messages of an announcement, for each peer. Only the last of those that list requests says how far we have closed:
    /// what the others list belongs before it. Fences follow, since they say that everything is listed.
    pub fn announce(&mut self, now: Timestamp, closed: Timestamp) -> Vec<PeerMessage> {
        (self.closed, self.announced_at) = (closed, now);

        let uids = std::mem::take(&mut self.unannounced);
        let mut messages: Vec<PeerMessage> = Vec::new();
        let mut chunks = uids.chunks(UIDS_MAX).peekable();
        while chunks.len() > 1 {
            let uids = chunks.next().unwrap_or_default().to_vec();
            messages.push(PeerMessage::Listed { uids });
        }

        let uids = chunks.next().unwrap_or_default().to_vec();
        messages.push(PeerMessage::Announce { closed, uids });
        messages.extend(self.fences.drain(..).map(|(peer, epoch)| fenced(peer, epoch)));
        messages
    }
}

/// Says that nothing more is taken from the incarnations of a peer up to this one.
pub fn fenced(PeerId(replica): PeerId, epoch: u64) -> PeerMessage {
    PeerMessage::Fenced { replica, epoch }
}
