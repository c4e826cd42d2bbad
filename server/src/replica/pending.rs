//! What a replica holds and has not yet applied: a binary heap by uid, bounded in number and bytes.

use super::{Body, ConnectionId, PeerId};
use stablechat_protocol::command::Command;
use stablechat_protocol::request::Request;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Bound;

/// The most requests and queries that are held. Beyond it, clients' are refused as overload.
const REQUESTS_MAX: usize = 200_000;
/// The most bytes that they may take, in their texts and about them. Beyond it, clients' are refused as overload.
const BYTES_MAX: usize = 128 * 1024 * 1024;
/// What one takes beside its variable part: a generous estimate.
const OVERHEAD: usize = 384;
/// The most connections that wait for one request. Repetitions from further ones find no place, and get no answer here.
const WAITING_MAX: usize = 16;

/// A set of peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerSet(u16);

impl PeerSet {
    /// Adds a peer.
    pub fn insert(&mut self, PeerId(peer): PeerId) {
        self.0 |= 1 << peer;
    }

    /// Removes a peer.
    pub fn remove(&mut self, PeerId(peer): PeerId) {
        self.0 &= !(1 << peer);
    }

    /// Whether a peer is in it.
    pub fn contains(self, PeerId(peer): PeerId) -> bool {
        self.0 & (1 << peer) != 0
    }

    /// Whether nobody is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many are in it.
    pub fn len(self) -> u8 {
        self.0.count_ones() as u8
    }

    /// Who is in it and in the other.
    pub fn both(self, other: PeerSet) -> PeerSet {
        PeerSet(self.0 & other.0)
    }

    /// Who is in it and not in the other.
    pub fn without(self, other: PeerSet) -> PeerSet {
        PeerSet(self.0 & !other.0)
    }

    /// Its members.
    pub fn iter(self) -> impl Iterator<Item = PeerId> {
        (0..16).map(PeerId).filter(move |peer| self.contains(*peer))
    }
}

impl FromIterator<PeerId> for PeerSet {
    fn from_iter<I: IntoIterator<Item = PeerId>>(peers: I) -> PeerSet {
        let mut set = PeerSet::default();
        peers.into_iter().for_each(|peer| set.insert(peer));
        set
    }
}

/// A request or query, and who has to do with it.
#[derive(Debug)]
pub struct Pending {
    /// What it is.
    pub body: Body,
    /// The connections that it came on, in the order in which it came, each once.
    pub waiting: Vec<ConnectionId>,
    /// The peers that have said that they hold it.
    pub held_by: PeerSet,
}

/// All that is pending.
#[derive(Debug, Default)]
pub struct PendingRequests {
    /// The order, least uid first: exactly the uids of `held`.
    heap: BinaryHeap<Reverse<Uid>>,
    /// What is held.
    held: BTreeMap<Uid, Pending>,
    /// About how many bytes it takes.
    bytes: usize,
}

impl PendingRequests {
    /// How many are pending.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none is pending.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether there is no room for another from a client.
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

    /// One that is held.
    pub fn get(&self, uid: Uid) -> Option<&Pending> {
        self.held.get(&uid)
    }

    /// All that is held, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Uid, &Pending)> {
        self.held.iter().map(|(uid, pending)| (*uid, pending))
    }

    /// Lets a connection wait for what is held already. Says whether it is held.
    pub fn wait_for(&mut self, uid: Uid, connection: ConnectionId) -> bool {
        let Some(pending) = self.held.get_mut(&uid) else { return false };
        if !pending.waiting.contains(&connection) && pending.waiting.len() < WAITING_MAX {
            pending.waiting.push(connection);
        }
        true
    }

    /// Notes that a peer holds it too. Says whether it is held here.
    pub fn note_holder(&mut self, uid: Uid, peer: PeerId) -> bool {
        let Some(pending) = self.held.get_mut(&uid) else { return false };
        pending.held_by.insert(peer);
        true
    }

    /// Forgets what a peer has said that it holds.
    pub fn forget_holder(&mut self, peer: PeerId) {
        self.held.values_mut().for_each(|pending| pending.held_by.remove(peer));
    }

    /// Adds one that is not held.
    pub fn insert(&mut self, uid: Uid, pending: Pending) {
        self.bytes += size(&pending.body);
        self.heap.push(Reverse(uid));
        let before = self.held.insert(uid, pending);
        debug_assert!(before.is_none(), "{uid} is held already");
    }

    /// Takes the first in the order.
    pub fn pop(&mut self) -> Option<(Uid, Pending)> {
        let Reverse(uid) = self.heap.pop()?;
        let pending = self.held.remove(&uid)?;
        self.bytes -= size(&pending.body);
        Some((uid, pending))
    }
}

/// About how many bytes a body takes in memory.
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
