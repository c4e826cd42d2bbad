//! Agreement: a request that one replica accepts reaches all.
//!
//! A replica announces to each peer which requests it holds, however it got them. A peer that lacks one fetches it, and announces
//! it in turn. So a request that was accepted anywhere is everywhere after at most N hops, whichever replicas die on the way, well
//! within the delivery bound (the hops of Cristian, Aghili, Strong and Dolev 1985). Announcements on a connection arrive in
//! order: when a closed timestamp arrives, every request up to it that its sender accepted has been listed.

use super::peers::{LogSync, PeerSet, PeerState};
use super::pending::Pending;
use super::{Body, ConnectionId, Effect, Output, PeerId, Phase, Replica, Sender, Stopping, Submission};
use stablechat_protocol::answer::Refusal;
use stablechat_protocol::peer::{BODIES_BYTES, FETCH_DELAY, PeerMessage, UIDS_MAX};
use stablechat_protocol::request::StampedRequest;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::time::Duration;

impl Replica {
    /// Accepts a client's request, joins it to one that is held already, or refuses it.
    pub(super) fn on_request(&mut self, submission: Submission, sender: &Sender, outputs: &mut Vec<Output>) {
        let Submission { time, from, timestamp, body, too_fast } = submission;
        let uid = body.uid(timestamp);

        // A repetition of a pending request is no new request, even if a new one would be refused now.
        if self.pending.wait_for(uid, from) {
            return;
        }

        let refusal = self.refusal(time, from, timestamp, &body, too_fast);

        // A request that would be accepted with the longest grace counts, or the grace would never become long enough for it.
        // What is refused for another reason does not. A retransmission after others have the request says nothing of how long
        // messages take.
        let delay = time.since(timestamp);
        let is_in_time = refusal.is_none() || refusal == Some(Refusal::Late) && delay <= self.closing.grace.max();
        if is_in_time && !self.recent.contains(uid) && !self.missing.contains(uid) {
            self.closing.grace.observe(time, sender, delay);
        }

        match refusal {
            None => self.hold(uid, body, vec![from]),
            Some(reason) => {
                outputs.push(Output::Effect(Effect::Refuse { to: from, request: body.id(), timestamp, reason }));
                if matches!(body, Body::Request(_)) {
                    self.refused.insert(uid, from);
                }
            }
        }
    }

    /// Why a client's request or query with this timestamp is refused; none when it is accepted.
    fn refusal(
        &self,
        time: Timestamp,
        from: ConnectionId,
        timestamp: Timestamp,
        body: &Body,
        too_fast: Option<Duration>,
    ) -> Option<Refusal> {
        if self.phase != Phase::Serving || self.stopping != Stopping::No || self.is_muted() {
            Some(Refusal::NotServing)
        } else if !self.has_room && matches!(body, Body::Request(_)) {
            Some(Refusal::NoRoom)
        } else if let Some(wait) = too_fast {
            // Before the timestamp is looked at, or the client would repeat it at once with another. Rounded up, so that a
            // client that waits so long is accepted.
            let wait_ms = u32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
            Some(Refusal::TooFast { wait_ms })
        } else if self.closing.is_late(timestamp, self.now) {
            Some(Refusal::Late)
        } else if timestamp > time.after(self.settings.ahead) {
            Some(Refusal::Ahead)
        } else if self.pending.is_full_for(from) {
            Some(Refusal::Overloaded)
        } else {
            None
        }
    }

    /// Holds a request or query that is neither pending nor remembered as applied.
    fn hold(&mut self, uid: Uid, body: Body, mut waiting: Vec<ConnectionId>) {
        let held_by = self.missing.remove(uid);
        let refused = self.refused.take(uid).into_iter();
        let others: Vec<ConnectionId> = refused.filter(|connection| !waiting.contains(connection)).collect();
        waiting.extend(others);

        let Body::Request(request) = body else {
            self.pending.insert(uid, Pending { body, waiting, held_by });
            return;
        };
        if uid > self.applied {
            self.announcer.add(uid);
            self.pending.insert(uid, Pending { body: Body::Request(request), waiting, held_by });
        } else {
            // The assumption broke: this belongs before requests that have been applied.
            self.late.push((StampedRequest { uid, request }, waiting));
        }
    }

    /// A peer holds these requests.
    pub(super) fn on_listed(&mut self, from: PeerId, uids: Vec<Uid>) {
        if self.phase == Phase::CatchingUp {
            // Recent requests are listed again before we are welcomed; all others are in the logs that are transferred.
            return;
        }

        let is_in_sync = self.peers.get(from).is_some_and(|peer| matches!(peer.log, LogSync::InSync(_)));
        let credible = self.latest_credible();
        for uid in uids.into_iter().filter(|uid| uid.timestamp <= credible) {
            if self.pending.note_holder(uid, from) || self.recent.contains(uid) {
                continue;
            }
            if uid <= self.applied && !is_in_sync {
                // It comes with the peer's log, as does everything that belongs before it.
                continue;
            }

            if !self.missing.contains(uid) {
                self.observe_indirect(uid);
            }
            // What holds up the closed test is fetched at once. Anything else probably comes from its client in a moment.
            let holds_up = self.closing.closed() >= uid.timestamp || uid <= self.applied;
            let fetch_at = if holds_up { self.now } else { self.now.after(FETCH_DELAY) };
            self.missing.list(uid, from, self.now, fetch_at);
        }
    }

    /// A peer takes back that it holds these requests: it cannot send them to anybody.
    pub(super) fn on_not_held(&mut self, from: PeerId, uids: Vec<Uid>) {
        for uid in uids {
            self.missing.unlist(uid, from);
            self.pending.note_not_held(uid, from);
        }
    }

    /// Lets the grace follow requests that we first hear of from a peer, in case no client speaks to us.
    fn observe_indirect(&mut self, uid: Uid) {
        let delay = self.now.since(uid.timestamp);
        if delay <= self.settings.delivery_bound {
            self.closing.grace.observe_indirect(self.now, delay);
        }
    }

    /// A peer closes up to here, and holds these requests.
    pub(super) fn on_announce(&mut self, from: PeerId, closed: Timestamp, uids: Vec<Uid>) {
        // First: its promise counts only once everything below it that it accepted is known to be missing.
        self.on_listed(from, uids);

        let credible = self.latest_credible();
        if let Some(peer) = self.peers.get_mut(from)
            && peer.state == PeerState::Linked
        {
            peer.closed = peer.closed.max(closed.min(credible));
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
        if !self.takes_in() {
            return;
        }
        let credible = self.latest_credible();
        for held in requests.into_iter().filter(|held| held.uid.timestamp <= credible) {
            self.missing.on_sent(held.uid, from, self.now);
            let known = self.pending.note_holder(held.uid, from) || self.recent.contains(held.uid);
            if !known && held.is_genuine() {
                self.hold(held.uid, Body::Request(held.request), Vec::new());
            }
        }
    }

    /// Inserts the requests of this wake that belong before the last applied one. All at once: each repair undoes and applies again
    /// everything that follows.
    pub(super) fn insert_late(&mut self, outputs: &mut Vec<Output>) {
        let late = std::mem::take(&mut self.late);
        let Some(first) = late.iter().map(|(held, _)| held.uid).min() else { return };

        if (self.recent.count_from(first) + late.len()) as u64 > self.settings.depth_max {
            // They come with the logs of the peers that have them, when it is our turn to take those in.
            return self.compare_with_all(outputs);
        }

        for (StampedRequest { uid, .. }, _) in &late {
            self.missing.remove(*uid);
            self.recent.insert(*uid);
            self.announcer.add(*uid);
        }
        let place = |(held, waiting): (StampedRequest, Vec<ConnectionId>)| ((held.uid, waiting), held);
        let (waiting, requests) = late.into_iter().map(place).unzip();
        self.insert(requests, waiting, outputs);
    }

    /// Asks for missing requests whose time has come, and gives up those that are overdue.
    pub(super) fn fetch(&mut self, outputs: &mut Vec<Output>) {
        if !self.takes_in() {
            return;
        }
        let again_at = self.now.after(self.settings.delivery_bound / 8);
        let due = self.missing.take_due(self.now, again_at, self.drained, self.settings.patience());
        if !due.overdue.is_empty() {
            return self.give_up_on(due.overdue, outputs);
        }
        for (to, uids) in due.fetches() {
            for uids in uids.chunks(UIDS_MAX) {
                outputs.push(Output::send(to, PeerMessage::Fetch { uids: uids.to_vec() }));
            }
        }
    }

    /// Goes on without a request that these peers list and do not send. If one alone lists it, that peer or the way from it is
    /// sick, and the peer has to rejoin. If several do, the one thing that they have in common is us.
    pub(super) fn give_up_on(&mut self, listed_by: PeerSet, outputs: &mut Vec<Output>) {
        if listed_by.len() > 1 {
            return self.rejoin(outputs);
        }
        for id in listed_by.iter() {
            self.exclude(id, outputs);
        }
    }

    /// Announces new requests and timestamps to all peers, if there are any or if it is time to show that we live.
    pub(super) fn announce(&mut self, outputs: &mut Vec<Output>) {
        // Closing alone is no news, unless a pending request waits for it.
        let first_unclosed = self.pending.first_above(self.announcer.closed());
        let reaches_a_request = self.phase != Phase::CatchingUp
            && first_unclosed.is_some_and(|timestamp| timestamp <= self.closing.closed());
        let is_due = self.now >= self.announcer.heartbeat_at(self.settings.heartbeat());
        if !self.announcer.has_news() && !reaches_a_request && !is_due {
            return;
        }

        self.check_announced();
        let messages = self.announcer.announce(self.now, self.closing.closed());
        for to in self.peers.connected().iter() {
            outputs.extend(messages.iter().map(|message| Output::send(to, message.clone())));
        }
    }

    /// Whether messages of a peer are taken: it is connected, as an incarnation that is not fenced.
    pub fn hears(&self, peer: PeerId) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.is_connected && peer.is_met)
    }

    /// The peers that messages can be sent to.
    pub fn connected(&self) -> impl Iterator<Item = PeerId> + use<> {
        self.peers.connected().iter()
    }

    /// Lists to a peer the requests of the recent past that we hold.
    pub(super) fn list_recent(&self, to: PeerId, outputs: &mut Vec<Output>) {
        let pending = self.pending.iter().filter(|(_, pending)| matches!(pending.body, Body::Request(_)));
        let uids: Vec<Uid> = self.recent.iter().chain(pending.map(|(uid, _)| uid)).collect();
        for uids in uids.chunks(UIDS_MAX) {
            outputs.push(Output::send(to, PeerMessage::Listed { uids: uids.to_vec() }));
        }
    }
}

/// The requests in messages of at most [`BODIES_BYTES`], or of a single request.
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
