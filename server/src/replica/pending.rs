//! Pending requests and queries: held, and not yet applied. They wait in a binary heap by uid, bounded in number and bytes.

use super::peers::PeerSet;
use super::{Body, ConnectionId, PeerId};
use stablechat_protocol::command::Command;
use stablechat_protocol::request::Request;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Bound;

/// The most requests and queries that are pending. Beyond it, those of clients are refused as overload; those that peers have
/// accepted are still taken, since they have to be applied.
const REQUESTS_MAX: usize = 200_000;
/// The most bytes that they may take in memory. The same rule holds beyond it.
const BYTES_MAX: usize = 128 * 1024 * 1024;
/// The bytes that one takes beside its variable part: a generous estimate.
const OVERHEAD: usize = 384;
/// The most connections that wait for one request. A further connection that repeats it gets no answer from this replica.
const WAITING_MAX: usize = 16;

/// A pending request or query.
#[derive(Debug)]
pub struct Pending {
    pub body: Body,
    /// The connections that it came on, in the order in which it came, each once.
    pub waiting: Vec<ConnectionId>,
    /// The peers that have said that they hold it.
    pub held_by: PeerSet,
}

/// All pending requests and queries.
#[derive(Debug, Default)]
pub struct PendingRequests {
    /// The order, least uid first: exactly the uids of `held`.
    heap: BinaryHeap<Reverse<Uid>>,
    held: BTreeMap<Uid, Pending>,
    /// About how many bytes they take: the sum of [`size`].
    bytes: usize,
}

impl PendingRequests {
    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether there is no room for another one from a client.
    pub fn is_full(&self) -> bool {
        self.held.len() >= REQUESTS_MAX || self.bytes >= BYTES_MAX
    }

    /// The first in the order.
    pub fn first(&self) -> Option<(Uid, &Pending)> {
        self.held.first_key_value().map(|(uid, pending)| (*uid, pending))
    }

    /// The timestamp of the first whose timestamp is above this one.
    pub fn first_above(&self, timestamp: Timestamp) -> Option<Timestamp> {
        let last = Uid { timestamp, digest: [0xff; 16] };
        self.held.range((Bound::Excluded(last), Bound::Unbounded)).next().map(|(uid, _)| uid.timestamp)
    }

    pub fn get(&self, uid: Uid) -> Option<&Pending> {
        self.held.get(&uid)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Uid, &Pending)> {
        self.held.iter().map(|(uid, pending)| (*uid, pending))
    }

    /// Lets a connection wait for the answer, if this is pending. Returns whether it is.
    pub fn wait_for(&mut self, uid: Uid, connection: ConnectionId) -> bool {
        let Some(pending) = self.held.get_mut(&uid) else { return false };
        if !pending.waiting.contains(&connection) && pending.waiting.len() < WAITING_MAX {
            pending.waiting.push(connection);
        }
        true
    }

    /// Notes that a peer holds this too, if it is pending. Returns whether it is.
    pub fn note_holder(&mut self, uid: Uid, peer: PeerId) -> bool {
        let Some(pending) = self.held.get_mut(&uid) else { return false };
        pending.held_by.insert(peer);
        true
    }

    /// Forgets which of them a peer has said that it holds: its incarnation is gone, and they may be gone with it.
    pub fn forget_holder(&mut self, peer: PeerId) {
        self.held.values_mut().for_each(|pending| pending.held_by.remove(peer));
    }

    /// Adds one that is not pending.
    pub fn insert(&mut self, uid: Uid, pending: Pending) {
        self.bytes += size(&pending.body);
        self.heap.push(Reverse(uid));
        let before = self.held.insert(uid, pending);
        debug_assert!(before.is_none(), "{uid} is pending already");
    }

    /// Takes the first in the order.
    pub fn pop(&mut self) -> Option<(Uid, Pending)> {
        let Reverse(uid) = self.heap.pop()?;
        let pending = self.held.remove(&uid)?;
        self.bytes -= size(&pending.body);
        Some((uid, pending))
    }

    /// Whether heap, map and byte count agree, as far as that can be seen without looking at each.
    pub fn is_sound(&self) -> bool {
        self.heap.len() == self.held.len()
            && self.heap.peek().map(|Reverse(uid)| uid) == self.held.first_key_value().map(|(uid, _)| uid)
            && self.bytes >= self.held.len() * OVERHEAD
    }

    /// Whether heap, map and byte count agree.
    pub fn is_sound_fully(&self) -> bool {
        let bytes: usize = self.held.values().map(|pending| size(&pending.body)).sum();
        let is_in_map = |Reverse(uid): &Reverse<Uid>| self.held.contains_key(uid);
        self.is_sound() && self.bytes == bytes && self.heap.iter().all(is_in_map)
    }
}

/// About how many bytes a request or query takes in memory.
fn size(body: &Body) -> usize {
    match body {
        Body::Request(request) => request_size(request),
        Body::Query(_) => OVERHEAD,
    }
}

/// About how many bytes a request takes in memory.
pub fn request_size(request: &Request) -> usize {
    let variable = match &request.command {
        Command::Send { text, .. } => text.as_str().len(),
        Command::Ack { uids } => size_of_val(&uids[..]),
        Command::Create { .. } | Command::Delete => 0,
    };
    OVERHEAD + variable
}
