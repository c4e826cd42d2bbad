//! What a replica has accepted and not yet applied: a binary heap by uid, bounded in number and bytes.

use super::{Body, ConnectionId};
use stablechat_protocol::command::Command;
use stablechat_protocol::uid::Uid;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

/// The most requests and questions that are held. Beyond it, new ones are refused as overload.
const REQUESTS_MAX: usize = 200_000;
/// The most bytes that they may take, in their texts and about them. Beyond it, new ones are refused as overload.
const BYTES_MAX: usize = 128 * 1024 * 1024;
/// What one takes beside its variable part: a generous estimate.
const OVERHEAD: usize = 384;
/// The most connections that wait for one request. Repetitions from further ones find no place, and get no answer here.
const WAITING_MAX: usize = 16;

/// A request or question, and who waits for it.
#[derive(Debug)]
pub struct Pending {
    /// Its place in the order.
    pub uid: Uid,
    /// What it is.
    pub body: Body,
    /// The connections that it came on, in the order in which it came, each once.
    pub waiting: Vec<ConnectionId>,
}

/// All that is pending.
#[derive(Debug, Default)]
pub struct PendingRequests {
    /// What is held, least uid first.
    heap: BinaryHeap<Reverse<Held>>,
    /// Who waits, by uid: exactly those in the heap.
    waiting: BTreeMap<Uid, Vec<ConnectionId>>,
    /// About how many bytes the heap takes.
    bytes: usize,
}

/// An entry of the heap, compared by uid alone.
#[derive(Debug)]
struct Held {
    uid: Uid,
    body: Body,
}

impl PendingRequests {
    /// How many are pending.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none is pending.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Whether there is no room for another.
    pub fn is_full(&self) -> bool {
        self.heap.len() >= REQUESTS_MAX || self.bytes >= BYTES_MAX
    }

    /// The first in the order.
    pub fn first(&self) -> Option<Uid> {
        self.heap.peek().map(|Reverse(held)| held.uid)
    }

    /// Lets a connection wait for what is held already. Says whether it is held.
    pub fn wait_for(&mut self, uid: Uid, connection: ConnectionId) -> bool {
        let Some(waiting) = self.waiting.get_mut(&uid) else { return false };
        if !waiting.contains(&connection) && waiting.len() < WAITING_MAX {
            waiting.push(connection);
        }
        true
    }

    /// Adds one that is not held.
    pub fn insert(&mut self, uid: Uid, body: Body, connection: ConnectionId) {
        self.bytes += size(&body);
        let before = self.waiting.insert(uid, vec![connection]);
        debug_assert!(before.is_none(), "{uid} is held already");
        self.heap.push(Reverse(Held { uid, body }));
    }

    /// Takes the first in the order.
    pub fn pop(&mut self) -> Option<Pending> {
        let Reverse(Held { uid, body }) = self.heap.pop()?;
        self.bytes -= size(&body);
        let waiting = self.waiting.remove(&uid).unwrap_or_default();
        Some(Pending { uid, body, waiting })
    }
}

/// About how many bytes a body takes in memory.
fn size(body: &Body) -> usize {
    let variable = match body {
        Body::Request(request) => match &request.command {
            Command::Send { text, .. } => text.as_str().len(),
            Command::Ack { uids } => size_of_val(&uids[..]),
            Command::Create { .. } | Command::Delete => 0,
        },
        Body::Question(_) => 0,
    };
    OVERHEAD + variable
}

impl PartialEq for Held {
    fn eq(&self, other: &Held) -> bool {
        self.uid == other.uid
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Held) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Held) -> Ordering {
        self.uid.cmp(&other.uid)
    }
}
