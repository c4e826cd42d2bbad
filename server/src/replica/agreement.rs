//! Agreement: what one replica accepts spreads to all.
//!
//! A replica announces to each peer what it holds, however it got it. A peer that lacks something fetches it, and announces
//! it in turn. So a request that was accepted anywhere is everywhere after at most N hops, whoever dies on the way, well
//! within the delivery bound (the hops of Cristian, Aghili, Strong and Dolev 1985). Announcements on a connection arrive in
//! order: when a closed timestamp arrives, everything up to it that its sender accepted has been listed.

use super::peer::Standing;
use super::pending::{PeerSet, Pending};
use super::{Body, ConnectionId, Output, PeerId, Replica, Status};
use stablechat_protocol::answer::Refusal;
use stablechat_protocol::peer::{BODIES_BYTES, Held, PeerMessage, UIDS_MAX};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a replica says that it lives, at least.
pub const HEARTBEAT: Duration = Duration::from_millis(50);
/// How long to wait for a client's own copy of what a peer has listed, before the peer is asked for its copy.
const FETCH_DELAY: Duration = Duration::from_millis(2);
/// The most refused requests that are remembered for an answer; the oldest are forgotten.
const REFUSED_MAX: usize = 10_000;

/// What peers hold and we do not.
#[derive(Debug)]
pub struct Missing {
    /// Those who hold it.
    pub listed_by: PeerSet,
    /// When to ask one of them for it; `None` when that has been done.
    pub fetch_at: Option<Timestamp>,
}

impl Replica {
    /// Accepts a client's request, joins it to one that is held already, or refuses it.
    pub(super) fn on_request(
        &mut self,
        time: Timestamp,
        from: ConnectionId,
        timestamp: Timestamp,
        body: Body,
        outputs: &mut Vec<Output>,
    ) {
        self.now = self.now.max(time);
        let uid = body.uid(timestamp);
        // A repetition of what is held is no new request, whatever we would say of one now.
        if self.pending.wait_for(uid, from) {
            return;
        }
        let delay = time.since(timestamp);
        // While we catch up, we are slow to read: that says nothing of the clients.
        if delay <= self.settings.delivery_bound && self.status != Status::CatchingUp {
            self.grace.observe(time, delay);
        }
        match self.refusal(time, timestamp) {
            None => self.hold(uid, body, vec![from]),
            Some(reason) => {
                outputs.push(Output::Refuse { to: from, request: body.id(), timestamp, reason });
                if matches!(body, Body::Request(_)) {
                    self.refused.entry(uid).or_default().push(from);
                    if self.refused.len() > REFUSED_MAX {
                        self.refused.pop_first();
                    }
                }
            }
        }
    }

    /// Why a client's request with this timestamp is not accepted, if it is not.
    fn refusal(&self, time: Timestamp, timestamp: Timestamp) -> Option<Refusal> {
        if self.status != Status::Serving || self.stopping || self.is_muted() {
            Some(Refusal::NotServing)
        } else if timestamp <= self.closed {
            Some(Refusal::Late)
        } else if timestamp > time.after(self.settings.ahead) {
            Some(Refusal::Ahead)
        } else if self.pending.is_full() {
            Some(Refusal::Overloaded)
        } else {
            None
        }
    }

    /// Holds what was not held, and is not applied as far as we remember.
    fn hold(&mut self, uid: Uid, body: Body, mut waiting: Vec<ConnectionId>) {
        let missing = self.missing.remove(&uid);
        let held_by = missing.map_or(PeerSet::default(), |missing| missing.listed_by);
        waiting.extend(self.refused.remove(&uid).into_iter().flatten());
        let Body::Request(request) = body else {
            self.pending.insert(uid, Pending { body, waiting, held_by });
            return;
        };
        self.unannounced.push(uid);
        if uid > self.applied {
            self.pending.insert(uid, Pending { body: Body::Request(request), waiting, held_by });
        } else {
            // The assumption broke: this belongs before what has been applied.
            self.recent.insert(uid);
            self.belated.push((Held { uid, request }, waiting));
        }
    }

    /// A peer holds these.
    pub(super) fn on_listed(&mut self, from: PeerId, uids: Vec<Uid>, outputs: &mut Vec<Output>) {
        if self.status == Status::CatchingUp {
            // What is new now is listed again before we are welcomed; all else is in the logs that we follow.
            return;
        }
        let horizon = self.now.before(self.settings.memory());
        let mut old = Vec::new();
        for uid in uids {
            if self.pending.note_holder(uid, from) || self.recent.contains(&uid) {
                continue;
            }
            if uid.timestamp < horizon {
                old.push(uid);
                continue;
            }
            if !self.missing.contains_key(&uid) {
                self.observe_indirect(uid);
            }
            let ripe = self.closed >= uid.timestamp || uid <= self.applied;
            let fetch_at = if ripe { self.now } else { self.now.after(FETCH_DELAY) };
            let missing =
                self.missing.entry(uid).or_insert(Missing { listed_by: PeerSet::default(), fetch_at: Some(fetch_at) });
            missing.listed_by.insert(from);
        }
        if !old.is_empty() {
            outputs.push(Output::FetchMissing { from, uids: old });
        }
    }

    /// Lets the grace follow what we first hear of from a peer, in case no client speaks to us.
    fn observe_indirect(&mut self, uid: Uid) {
        let delay = self.now.since(uid.timestamp);
        if delay <= self.settings.delivery_bound {
            self.grace.observe_indirect(self.now, delay);
        }
    }

    /// A peer closes up to here, and holds these.
    pub(super) fn on_announce(&mut self, from: PeerId, closed: Timestamp, uids: Vec<Uid>, outputs: &mut Vec<Output>) {
        self.on_listed(from, uids, outputs);
        if let Some(peer) = self.peers.get_mut(&from)
            && peer.standing == Standing::Linked
        {
            peer.closed = peer.closed.max(closed);
        }
    }

    /// A peer wants bodies.
    pub(super) fn on_fetch(&mut self, from: PeerId, uids: Vec<Uid>, outputs: &mut Vec<Output>) {
        let (mut held, mut others) = (Vec::new(), Vec::new());
        for uid in uids {
            match self.pending.get(uid).map(|pending| &pending.body) {
                Some(Body::Request(request)) => held.push(Held { uid, request: request.clone() }),
                _ => others.push(uid),
            }
        }
        outputs.push(Output::SendBodies { to: from, held, uids: others });
    }

    /// A peer sends bodies.
    pub(super) fn on_bodies(&mut self, from: PeerId, requests: Vec<Held>) {
        if self.status == Status::CatchingUp {
            return;
        }
        for held in requests {
            let known = self.pending.note_holder(held.uid, from) || self.recent.contains(&held.uid);
            if !known && held.is_genuine() {
                self.hold(held.uid, Body::Request(held.request), Vec::new());
            }
        }
    }

    /// Inserts what belongs before what is applied: all that a wake brought at once, since each repair undoes and applies
    /// again everything that follows.
    pub(super) fn insert_belated(&mut self, outputs: &mut Vec<Output>) {
        if !self.belated.is_empty() {
            let place = |(held, waiting): (Held, Vec<ConnectionId>)| ((held.uid, waiting), held);
            let (waiting, requests) = std::mem::take(&mut self.belated).into_iter().map(place).unzip();
            outputs.push(Output::Insert { requests, waiting });
        }
    }

    /// Asks for what is missing, as soon as its time has come.
    pub(super) fn fetch(&mut self, outputs: &mut Vec<Output>) {
        let mut by_peer: BTreeMap<PeerId, Vec<Uid>> = BTreeMap::new();
        let connected: PeerSet = self.connected().collect();
        for (uid, missing) in &mut self.missing {
            if missing.fetch_at.is_none_or(|at| at > self.now) {
                continue;
            }
            if let Some(from) = missing.listed_by.iter().find(|peer| connected.contains(*peer)) {
                missing.fetch_at = None;
                by_peer.entry(from).or_default().push(*uid);
            }
        }
        for (to, uids) in by_peer {
            for uids in uids.chunks(UIDS_MAX) {
                outputs.push(Output::Send { to, message: PeerMessage::Fetch { uids: uids.to_vec() } });
            }
        }
    }

    /// When the next missing request is to be asked for.
    pub(super) fn fetch_deadline(&self) -> Option<Timestamp> {
        let connected: PeerSet = self.connected().collect();
        let can_ask = |missing: &&Missing| missing.listed_by.iter().any(|peer| connected.contains(peer));
        self.missing.values().filter(can_ask).filter_map(|missing| missing.fetch_at).min()
    }

    /// Tells all peers what is new, if there is something or if it is time to show that we live.
    pub(super) fn announce(&mut self, outputs: &mut Vec<Output>) {
        let is_new = !self.unannounced.is_empty();
        let has_closed = self.status == Status::Serving
            && self.pending.first_above(self.announced).is_some_and(|timestamp| timestamp <= self.closed);
        if !is_new && !has_closed && self.now < self.announced_at.after(HEARTBEAT) {
            return;
        }
        (self.announced, self.announced_at) = (self.closed, self.now);
        let uids = std::mem::take(&mut self.unannounced);
        let to: Vec<PeerId> = self.connected().collect();
        for to in to {
            let mut chunks = uids.chunks(UIDS_MAX).peekable();
            // Only the last message may say how far we have closed: what the others list belongs before it.
            while chunks.len() > 1 {
                let uids = chunks.next().unwrap_or_default().to_vec();
                outputs.push(Output::Send { to, message: PeerMessage::Listed { uids } });
            }
            let uids = chunks.next().unwrap_or_default().to_vec();
            outputs.push(Output::Send { to, message: PeerMessage::Announce { closed: self.closed, uids } });
        }
    }

    /// The peers that messages can be sent to.
    pub fn connected(&self) -> impl Iterator<Item = PeerId> {
        self.peers.iter().filter(|(_, peer)| peer.is_connected).map(|(id, _)| *id)
    }

    /// Lists to a peer what we hold of the recent past.
    pub(super) fn list_recent(&self, to: PeerId, outputs: &mut Vec<Output>) {
        let pending = self.pending.iter().filter(|(_, pending)| matches!(pending.body, Body::Request(_)));
        let uids: Vec<Uid> = self.recent.iter().copied().chain(pending.map(|(uid, _)| uid)).collect();
        for uids in uids.chunks(UIDS_MAX) {
            outputs.push(Output::Send { to, message: PeerMessage::Listed { uids: uids.to_vec() } });
        }
    }
}

/// The requests in messages that are not too large.
pub fn in_messages(requests: Vec<Held>) -> Vec<Vec<Held>> {
    let mut messages: Vec<Vec<Held>> = Vec::new();
    let mut bytes = usize::MAX;
    for held in requests {
        if bytes >= BODIES_BYTES {
            messages.push(Vec::new());
            bytes = 0;
        }
        bytes += stablechat_protocol::wire::to_cbor(&held).len();
        if let Some(message) = messages.last_mut() {
            message.push(held);
        }
    }
    messages
}
