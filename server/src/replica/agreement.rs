//! Agreement: what one replica accepts spreads to all.
//!
//! A replica announces to each peer what it holds, however it got it. A peer that lacks something fetches it, and announces
//! it in turn. So a request that was accepted anywhere is everywhere after at most N hops, whoever dies on the way, well
//! within the delivery bound (the hops of Cristian, Aghili, Strong and Dolev 1985). Announcements on a connection arrive in
//! order: when a closed timestamp arrives, everything up to it that its sender accepted has been listed.

use super::peer::{LogSync, PeerState};
use super::pending::{PeerSet, Pending};
use super::{Body, ConnectionId, Effect, Output, PeerId, Phase, Replica, Submission};
use stablechat_protocol::answer::Refusal;
use stablechat_protocol::peer::{BODIES_BYTES, FETCH_DELAY, PeerMessage, UIDS_MAX};
use stablechat_protocol::request::StampedRequest;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::BTreeMap;

/// The most refused requests that are remembered for an answer; the oldest are forgotten.
const REFUSED_MAX: usize = 10_000;

/// What peers hold and we do not.
#[derive(Debug)]
pub struct Missing {
    /// Those who hold it.
    pub listed_by: PeerSet,
    /// Those of them who have been asked for it.
    pub asked: PeerSet,
    /// When to ask the next of them.
    pub fetch_at: Timestamp,
}

impl Replica {
    /// Accepts a client's request, joins it to one that is held already, or refuses it.
    pub(super) fn on_request(&mut self, submission: Submission, outputs: &mut Vec<Output>) {
        let Submission { time, from, timestamp, body } = submission;
        let uid = body.uid(timestamp);
        // A repetition of what is held is no new request, whatever we would say of one now.
        if self.pending.wait_for(uid, from) {
            return;
        }
        // What is sent again, to one that was away or after others have it, says nothing of how long messages take.
        let delay = time.since(timestamp);
        let is_first = self.status == Phase::Serving && !self.recent.contains(&uid) && !self.missing.contains_key(&uid);
        if is_first && delay <= self.settings.delivery_bound {
            self.grace.observe(time, delay);
        }
        match self.refusal(time, timestamp, &body) {
            None => self.hold(uid, body, vec![from]),
            Some(reason) => {
                outputs.push(Output::Effect(Effect::Refuse { to: from, request: body.id(), timestamp, reason }));
                if matches!(body, Body::Request(_)) {
                    self.refused.entry(uid).or_default().push(from);
                    if self.refused.len() > REFUSED_MAX {
                        self.refused.pop_first();
                    }
                }
            }
        }
    }

    /// Why a client's request or query with this timestamp is not accepted, if it is not.
    fn refusal(&self, time: Timestamp, timestamp: Timestamp, body: &Body) -> Option<Refusal> {
        if self.status != Phase::Serving || self.stopping || self.is_muted() {
            Some(Refusal::NotServing)
        } else if !self.has_room && matches!(body, Body::Request(_)) {
            Some(Refusal::NoRoom)
        } else if timestamp <= self.closed.max(self.now.before(self.grace.max())) {
            // After a stall, what has closed lags behind what it should be.
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
        if uid > self.applied {
            self.unannounced.push(uid);
            self.pending.insert(uid, Pending { body: Body::Request(request), waiting, held_by });
        } else {
            // The assumption broke: this belongs before what has been applied.
            self.belated.push((StampedRequest { uid, request }, waiting));
        }
    }

    /// A peer holds these.
    pub(super) fn on_listed(&mut self, from: PeerId, uids: Vec<Uid>) {
        if self.status == Phase::CatchingUp {
            // What is new now is listed again before we are welcomed; all else is in the logs that we follow.
            return;
        }
        let is_compared = self.peers.get(&from).is_some_and(|peer| matches!(peer.log, LogSync::CaughtUp(_)));
        for uid in uids {
            if self.pending.note_holder(uid, from) || self.recent.contains(&uid) {
                continue;
            }
            if uid <= self.applied && !is_compared {
                // It comes with the peer's log, and all that belongs before it as well.
                continue;
            }
            if !self.missing.contains_key(&uid) {
                self.observe_indirect(uid);
            }
            let ripe = self.closed >= uid.timestamp || uid <= self.applied;
            let fetch_at = if ripe { self.now } else { self.now.after(FETCH_DELAY) };
            let missing = self.missing.entry(uid).or_insert(Missing {
                listed_by: PeerSet::default(),
                asked: PeerSet::default(),
                fetch_at,
            });
            missing.listed_by.insert(from);
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
    pub(super) fn on_announce(&mut self, from: PeerId, closed: Timestamp, uids: Vec<Uid>) {
        self.on_listed(from, uids);
        if let Some(peer) = self.peers.get_mut(&from)
            && peer.standing == PeerState::Linked
        {
            peer.closed = peer.closed.max(closed);
        }
    }

    /// A peer wants bodies.
    pub(super) fn on_fetch(&mut self, from: PeerId, uids: Vec<Uid>, outputs: &mut Vec<Output>) {
        let (mut pending, mut logged) = (Vec::new(), Vec::new());
        for uid in uids {
            match self.pending.get(uid).map(|pending| &pending.body) {
                Some(Body::Request(request)) => pending.push(StampedRequest { uid, request: request.clone() }),
                _ => logged.push(uid),
            }
        }
        outputs.push(Output::Effect(Effect::SendBodies { to: from, pending, logged }));
    }

    /// A peer sends bodies.
    pub(super) fn on_bodies(&mut self, from: PeerId, requests: Vec<StampedRequest>) {
        if self.status == Phase::CatchingUp {
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
        let belated = std::mem::take(&mut self.belated);
        let Some(first) = belated.iter().map(|(held, _)| held.uid).min() else { return };
        if (self.recent.range(first..).count() + belated.len()) as u64 > self.settings.depth_max {
            // They come with the logs of those who have them, when it is our turn to take those in.
            return self.compare_with_all(outputs);
        }
        for (StampedRequest { uid, .. }, _) in &belated {
            self.missing.remove(uid);
            self.recent.insert(*uid);
            self.unannounced.push(*uid);
        }
        let place = |(held, waiting): (StampedRequest, Vec<ConnectionId>)| ((held.uid, waiting), held);
        let (waiting, requests) = belated.into_iter().map(place).unzip();
        self.insert(requests, waiting, outputs);
    }

    /// Asks for what is missing, as soon as its time has come: one peer after the other, until it is here.
    pub(super) fn fetch(&mut self, outputs: &mut Vec<Output>) {
        let mut by_peer: BTreeMap<PeerId, Vec<Uid>> = BTreeMap::new();
        let connected: PeerSet = self.connected().collect();
        let again_at = self.now.after(self.settings.delivery_bound / 8);
        for (uid, missing) in &mut self.missing {
            if missing.fetch_at > self.now {
                continue;
            }
            let can_ask = missing.listed_by.both(connected);
            if can_ask.without(missing.asked).is_empty() {
                missing.asked = PeerSet::default();
            }
            let Some(from) = can_ask.without(missing.asked).iter().next() else { continue };
            missing.asked.insert(from);
            missing.fetch_at = again_at;
            by_peer.entry(from).or_default().push(*uid);
        }
        for (to, uids) in by_peer {
            for uids in uids.chunks(UIDS_MAX) {
                outputs.push(Output::send(to, PeerMessage::Fetch { uids: uids.to_vec() }));
            }
        }
    }

    /// When the next missing request is to be asked for.
    pub(super) fn fetch_deadline(&self) -> Option<Timestamp> {
        let connected: PeerSet = self.connected().collect();
        let can_ask = |missing: &&Missing| !missing.listed_by.both(connected).is_empty();
        self.missing.values().filter(can_ask).map(|missing| missing.fetch_at).min()
    }

    /// Tells all peers what is new, if there is something or if it is time to show that we live.
    pub(super) fn announce(&mut self, outputs: &mut Vec<Output>) {
        let is_new = !self.unannounced.is_empty();
        let has_closed = self.status != Phase::CatchingUp
            && self.pending.first_above(self.announced).is_some_and(|timestamp| timestamp <= self.closed);
        if !is_new && !has_closed && self.now < self.announced_at.after(self.settings.heartbeat()) {
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
                outputs.push(Output::send(to, PeerMessage::Listed { uids }));
            }
            let uids = chunks.next().unwrap_or_default().to_vec();
            outputs.push(Output::send(to, PeerMessage::Announce { closed: self.closed, uids }));
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
            outputs.push(Output::send(to, PeerMessage::Listed { uids: uids.to_vec() }));
        }
    }
}

/// The requests in messages that are not too large.
pub fn in_messages(requests: Vec<StampedRequest>) -> Vec<Vec<StampedRequest>> {
    let mut messages: Vec<Vec<StampedRequest>> = Vec::new();
    let mut bytes = usize::MAX;
    for held in requests {
        let length = stablechat_protocol::wire::to_cbor(&held).len();
        if bytes.saturating_add(length) > BODIES_BYTES {
            messages.push(Vec::new());
            bytes = 0;
        }
        bytes += length;
        if let Some(message) = messages.last_mut() {
            message.push(held);
        }
    }
    messages
}
