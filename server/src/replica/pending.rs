//! Pending requests and queries: held, and not yet applied. They wait in a binary heap by uid, bounded in number and bytes.

use super::peers::PeerSet;
use super::{Body, ConnectionId, PeerId};
use stablechat_protocol::command::Command;
use stablechat_protocol::request::Request;
use stablechat_protocol::room::RoomAction;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Bound;

/// The most requests and queries that are pending. Beyond it, those of clients are refused as overload; those that peers have
/// accepted are still taken, since they have to be applied.
const REQUESTS_MAX: usize = 200_000;
/// The most bytes that they may take in memory. The same rule holds beyond it.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// The bytes that one takes beside its variable part: a generous estimate.
const OVERHEAD: usize = 384;
/// The most requests and queries of one connection that are pending: two windows of a session, since a client may repeat all of its
/// requests in flight. Beyond it they are refused as overload.
const CONNECTION_MAX: usize = 2048;
/// And at most this part of what there is room for, one in 32. So connections that send without end leave room for others, however
/// many they are: each has less the more of them there are.
const CONNECTION_SHARE: usize = 32;
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
    /// How many of them are queries.
    queries: usize,
    /// How many of them each connection was the first to bring, at least one.
    brought: BTreeMap<ConnectionId, usize>,
}

impl PendingRequests {
    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many of them are queries.
    pub fn queries(&self) -> usize {
        self.queries
    }

    /// Whether there is no room for another one that this connection brings.
    pub fn is_full_for(&self, connection: ConnectionId) -> bool {
        let room = REQUESTS_MAX.saturating_sub(self.held.len()).min(BYTES_MAX.saturating_sub(self.bytes) / OVERHEAD);
        let brought = self.brought.get(&connection).copied().unwrap_or(0);
        room == 0 || brought >= CONNECTION_MAX.min(room.div_ceil(CONNECTION_SHARE))
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
            if let [first] = pending.waiting[..] {
                *self.brought.entry(first).or_default() += 1;
            }
        }
        true
    }

    /// Notes that a peer holds this too, if it is pending. Returns whether it is.
    pub fn note_holder(&mut self, uid: Uid, peer: PeerId) -> bool {
        let Some(pending) = self.held.get_mut(&uid) else { return false };
        pending.held_by.insert(peer);
        true
    }

    /// A peer does not hold this, though it has said so.
    pub fn note_not_held(&mut self, uid: Uid, peer: PeerId) {
        if let Some(pending) = self.held.get_mut(&uid) {
            pending.held_by.remove(peer);
        }
    }

    /// Forgets which of them a peer has said that it holds: its incarnation is gone, and they may be gone with it.
    pub fn forget_holder(&mut self, peer: PeerId) {
        self.held.values_mut().for_each(|pending| pending.held_by.remove(peer));
    }

    /// Adds one that is not pending.
    pub fn insert(&mut self, uid: Uid, pending: Pending) {
        self.bytes += size(&pending.body);
        self.queries += usize::from(is_query(&pending.body));
        if let Some(connection) = pending.waiting.first() {
            *self.brought.entry(*connection).or_default() += 1;
        }
        self.heap.push(Reverse(uid));
        let before = self.held.insert(uid, pending);
        debug_assert!(before.is_none(), "{uid} is pending already");
    }

    /// Takes the first in the order.
    pub fn pop(&mut self) -> Option<(Uid, Pending)> {
        let Reverse(uid) = self.heap.pop()?;
        let pending = self.held.remove(&uid)?;
        self.bytes -= size(&pending.body);
        self.queries -= usize::from(is_query(&pending.body));
        if let Some(Entry::Occupied(mut brought)) = pending.waiting.first().map(|first| self.brought.entry(*first)) {
            *brought.get_mut() -= 1;
            if *brought.get() == 0 {
                brought.remove();
            }
        }
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
        let queries = self.held.values().filter(|pending| is_query(&pending.body)).count();
        let brought = self.held.values().filter(|pending| !pending.waiting.is_empty()).count();
        self.is_sound()
            && (self.bytes, self.queries) == (bytes, queries)
            && self.brought.values().sum::<usize>() == brought
            && self.heap.iter().all(is_in_map)
    }
}

fn is_query(body: &Body) -> bool {
    matches!(body, Body::Query(_))
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
        Command::Room { action: RoomAction::SetTopic { topic }, .. } => topic.as_str().len(),
        Command::Create { .. }
        | Command::Delete
        | Command::Read { .. }
        | Command::SetKey { .. }
        | Command::Operate { .. }
        | Command::Room { .. }
        | Command::Block { .. }
        | Command::Mute { .. } => 0,
    };
    OVERHEAD + variable
}
