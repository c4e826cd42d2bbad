//! What the peers have been told, and what there is to tell them.

use stablechat_protocol::peer::{PeerMessage, UIDS_MAX};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::time::Duration;

/// Gathers the uids of the next announcement.
#[derive(Debug)]
pub struct Announcer {
    /// What we hold since the last announcement, in the order in which it came.
    unannounced: Vec<Uid>,
    /// The closed timestamp that was last announced.
    closed: Timestamp,
    /// When it was.
    announced_at: Timestamp,
}

impl Announcer {
    /// Nothing has been announced. The first heartbeat follows an interval after `now`.
    pub fn new(now: Timestamp) -> Announcer {
        Announcer { unannounced: Vec::new(), closed: Timestamp::ZERO, announced_at: now }
    }

    /// A request is held since now.
    pub fn add(&mut self, uid: Uid) {
        self.unannounced.push(uid);
    }

    /// Whether there are requests to announce.
    pub fn has_news(&self) -> bool {
        !self.unannounced.is_empty()
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
    }

    /// The messages of an announcement, for each peer. Only the last one says how far we have closed: what the others list belongs
    /// before it.
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
        messages
    }
}
