//! Uids that peers have listed and whose requests are not here yet.
//!
//! Each of them is fetched again and again, from its peers in turn: those that list it. That ends in one of these ways: a peer sends
//! the request; each of them takes its listing back, since it does not hold the request any more, or is forgotten; or all of them are
//! *overdue* ([`Due::overdue`]), and the replica goes on without them.
//!
//! There may be as many as the peers have pending, and several inputs a millisecond. So an operation takes time for the uids
//! that it names or that have changed, and not for all; except when a peer is connected, lost or met, which is rare.

use super::PeerId;
use super::peers::PeerSet;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

/// The requests that are to be fetched. None of them is pending, nor remembered as applied.
#[derive(Debug, Default)]
pub struct MissingRequests {
    /// Listed by at least one connected peer.
    reachable: BTreeMap<Uid, Missing>,
    /// Listed by peers that are not connected, and by no other.
    unreachable: BTreeMap<Uid, Missing>,
    /// The reachable ones, by when to ask the next peer for them.
    schedule: BTreeSet<(Timestamp, Uid)>,
    /// The connected peers, and since when each has owed us the requests that it lists: since it was connected, or last sent one of
    /// them.
    connected: BTreeMap<PeerId, Timestamp>,
}

/// A request that peers hold and we do not.
#[derive(Debug)]
struct Missing {
    /// The peers that hold it; never empty.
    listed_by: PeerSet,
    /// Those of them that have been asked for it since all were last asked.
    asked: PeerSet,
    /// When the last of the peers first listed it.
    listed_at: Timestamp,
    /// When to ask the next of them, if one is connected.
    fetch_at: Timestamp,
}

/// The fetches that are due.
#[derive(Debug, Default)]
pub struct Due {
    /// The uids to ask each peer for.
    by_peer: BTreeMap<PeerId, Vec<Uid>>,
    /// The peers that list a request that none of them has sent for too long, though each has been asked; empty when there are
    /// none. They have sent nothing else that was missing either.
    pub overdue: PeerSet,
}

impl Due {
    /// The uids to ask each peer for.
    pub fn fetches(self) -> impl Iterator<Item = (PeerId, Vec<Uid>)> {
        self.by_peer.into_iter()
    }
}

impl MissingRequests {
    pub fn contains(&self, uid: Uid) -> bool {
        self.reachable.contains_key(&uid) || self.unreachable.contains_key(&uid)
    }

    /// The first in the order of application.
    pub fn first(&self) -> Option<Uid> {
        let first = |of: &BTreeMap<Uid, Missing>| of.first_key_value().map(|(uid, _)| *uid);
        first(&self.reachable).into_iter().chain(first(&self.unreachable)).min()
    }

    /// The first after this one that a connected peer lists, with the connected peers that do.
    pub fn first_reachable_after(&self, uid: Uid) -> Option<(Uid, PeerSet)> {
        let (uid, missing) = self.reachable.range((Bound::Excluded(uid), Bound::Unbounded)).next()?;
        Some((*uid, missing.listed_by.both(self.connected())))
    }

    /// Whether nothing with a timestamp up to this one is missing.
    pub fn is_empty_up_to(&self, timestamp: Timestamp) -> bool {
        self.first().is_none_or(|uid| uid.timestamp > timestamp)
    }

    /// A connected peer holds this as of `now`; it is to be fetched at this time, unless an earlier time is set already.
    pub fn list(&mut self, uid: Uid, peer: PeerId, now: Timestamp, fetch_at: Timestamp) {
        let (listed_by, asked) = (PeerSet::default(), PeerSet::default());
        let new = || Missing { listed_by, asked, listed_at: now, fetch_at };
        let mut missing = self.take(uid).unwrap_or_else(new);
        if !missing.listed_by.contains(peer) {
            missing.listed_by.insert(peer);
            missing.listed_at = now;
        }
        self.put(uid, missing);
    }

    /// A peer does not hold this, or not any more. Nobody does if it was the last one to list it.
    pub fn unlist(&mut self, uid: Uid, peer: PeerId) {
        if let Some(missing) = self.take(uid) {
            self.put_without(uid, missing, peer);
        }
    }

    /// A peer has sent the request. It is not missing any more.
    pub fn on_sent(&mut self, uid: Uid, peer: PeerId, now: Timestamp) {
        if self.contains(uid)
            && let Some(owing_since) = self.connected.get_mut(&peer)
        {
            *owing_since = now;
        }
    }

    /// It is not missing any more. Returns the peers that hold it.
    pub fn remove(&mut self, uid: Uid) -> PeerSet {
        self.take(uid).map_or(PeerSet::default(), |missing| missing.listed_by)
    }

    /// Drops the requests that only this peer has listed, and returns them: nobody else can send them.
    pub fn forget_peer(&mut self, peer: PeerId) -> Vec<Uid> {
        self.schedule.clear();
        let mut dropped = Vec::new();
        for (uid, missing) in self.take_all() {
            if !self.put_without(uid, missing, peer) {
                dropped.push(uid);
            }
        }
        dropped
    }

    /// Drops the requests below the horizon that no connected peer has listed. A peer that still has one has it in its log, and logs
    /// are compared.
    pub fn forget_unreachable(&mut self, horizon: Uid) {
        while self.unreachable.first_key_value().is_some_and(|(uid, _)| *uid < horizon) {
            self.unreachable.pop_first();
        }
    }

    /// Drops everything up to this uid.
    pub fn forget_up_to(&mut self, uid: Uid) {
        while let Some(first) = self.first().filter(|first| *first <= uid) {
            self.take(first);
        }
    }

    pub fn clear(&mut self) {
        *self = MissingRequests::default();
    }

    /// There is a new connection with a peer. Everything is fetched again at once: the answers to fetches on a connection that
    /// has ended may never come.
    pub fn on_connected(&mut self, peer: PeerId, now: Timestamp) {
        self.connected.insert(peer, now);
        self.fetch_all_at(now);
    }

    /// There is no connection with a peer any more. Everything is fetched again at once, of the others.
    pub fn on_disconnected(&mut self, peer: PeerId, now: Timestamp) {
        self.connected.remove(&peer);
        self.fetch_all_at(now);
    }

    /// The peers that can be asked.
    pub fn connected(&self) -> PeerSet {
        self.connected.keys().copied().collect()
    }

    /// Takes out the fetches that are due now, of one peer after the other; the next are due at `again_at`. Peers are overdue
    /// when they owed us something all through `patience` before `drained`.
    pub fn take_due(&mut self, now: Timestamp, again_at: Timestamp, drained: Timestamp, patience: Duration) -> Due {
        let mut due = Due::default();
        let connected = self.connected();

        while self.schedule.first().is_some_and(|(fetch_at, _)| *fetch_at <= now)
            && let Some((_, uid)) = self.schedule.pop_first()
        {
            let Some(missing) = self.reachable.get_mut(&uid) else { continue };
            let can_ask = missing.listed_by.both(connected);
            let owing_since = can_ask.iter().filter_map(|peer| self.connected.get(&peer)).max();
            if due.overdue.is_empty()
                && owing_since.is_some_and(|since| drained > missing.listed_at.max(*since).after(patience))
            {
                due.overdue = can_ask;
            }

            if can_ask.without(missing.asked).is_empty() {
                missing.asked = PeerSet::default();
            }
            if let Some(from) = can_ask.without(missing.asked).iter().next() {
                missing.asked.insert(from);
                due.by_peer.entry(from).or_default().push(uid);
            }
            missing.fetch_at = again_at;
            self.schedule.insert((again_at, uid));
        }

        due
    }

    /// When the next of them is to be asked for; none while no connected peer has any.
    pub fn fetch_deadline(&self) -> Option<Timestamp> {
        self.schedule.first().map(|(fetch_at, _)| *fetch_at)
    }

    pub fn iter(&self) -> impl Iterator<Item = Uid> {
        self.reachable.keys().chain(self.unreachable.keys()).copied()
    }

    /// Whether each is listed by a peer, only those that listed it have been asked for it, and it is to be fetched if and only if
    /// one of them is connected.
    pub fn is_sound(&self) -> bool {
        let connected = self.connected();
        let is_listed =
            |missing: &Missing| !missing.listed_by.is_empty() && missing.asked.without(missing.listed_by).is_empty();
        let is_reachable = |missing: &Missing| !missing.listed_by.both(connected).is_empty();
        let is_scheduled = |(uid, missing): (&Uid, &Missing)| self.schedule.contains(&(missing.fetch_at, *uid));
        self.reachable.values().all(|missing| is_listed(missing) && is_reachable(missing))
            && self.unreachable.values().all(|missing| is_listed(missing) && !is_reachable(missing))
            && self.reachable.len() == self.schedule.len()
            && self.reachable.iter().all(is_scheduled)
    }

    /// Plans to fetch every missing request at this time, if a connected peer lists it.
    fn fetch_all_at(&mut self, now: Timestamp) {
        self.schedule.clear();
        for (uid, mut missing) in self.take_all() {
            missing.fetch_at = missing.fetch_at.min(now);
            self.put(uid, missing);
        }
    }

    /// Takes a request out.
    fn take(&mut self, uid: Uid) -> Option<Missing> {
        let Some(missing) = self.reachable.remove(&uid) else { return self.unreachable.remove(&uid) };
        self.schedule.remove(&(missing.fetch_at, uid));
        Some(missing)
    }

    /// Takes all out. The schedule must be empty.
    fn take_all(&mut self) -> BTreeMap<Uid, Missing> {
        let mut all = std::mem::take(&mut self.reachable);
        all.append(&mut self.unreachable);
        all
    }

    /// Puts a request in its place.
    fn put(&mut self, uid: Uid, missing: Missing) {
        if missing.listed_by.iter().any(|peer| self.connected.contains_key(&peer)) {
            self.schedule.insert((missing.fetch_at, uid));
            self.reachable.insert(uid, missing);
        } else {
            self.unreachable.insert(uid, missing);
        }
    }

    /// Puts back a request that this peer does not list any more, if another peer does.
    fn put_without(&mut self, uid: Uid, mut missing: Missing, peer: PeerId) -> bool {
        missing.listed_by.remove(peer);
        // Its next incarnation has not been asked, if that lists the request again.
        missing.asked.remove(peer);
        let is_listed = !missing.listed_by.is_empty();
        if is_listed {
            self.put(uid, missing);
        }
        is_listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const PATIENCE: Duration = Duration::from_nanos(100);

    fn uid(number: u64) -> Uid {
        Uid::new(Timestamp(number), b"")
    }

    /// A random sequence of operations, compared with plain sets: the peers that list each uid, and the connected peers.
    #[test]
    fn the_schedule_has_exactly_what_can_be_fetched() {
        let random = &mut Random(1);
        let mut missing = MissingRequests::default();
        let mut listed: BTreeMap<Uid, PeerSet> = BTreeMap::new();
        let mut connected = PeerSet::default();
        let mut fetched = 0;
        for step in 0..20_000 {
            let (peer, named, now) = (PeerId(random.below(4) as u8), uid(random.below(50) as u64), Timestamp(step));
            match random.below(100) {
                0..50 if connected.contains(peer) => {
                    missing.list(named, peer, now, now.after(Duration::from_nanos(random.below(9) as u64)));
                    listed.entry(named).or_default().insert(peer);
                }
                50..60 => {
                    missing.unlist(named, peer);
                    listed.get_mut(&named).into_iter().for_each(|by| by.remove(peer));
                }
                60..70 => assert_eq!(missing.remove(named), listed.remove(&named).unwrap_or_default()),
                70..74 => {
                    missing.on_connected(peer, now);
                    connected.insert(peer);
                }
                74..78 => {
                    missing.on_disconnected(peer, now);
                    connected.remove(peer);
                }
                78..80 => {
                    missing.forget_peer(peer);
                    listed.values_mut().for_each(|by| by.remove(peer));
                }
                80..82 => {
                    missing.forget_unreachable(named);
                    listed.retain(|uid, by| *uid >= named || !by.both(connected).is_empty());
                }
                82 => {
                    missing.forget_up_to(named);
                    listed.retain(|uid, _| *uid > named);
                }
                _ => {
                    let due = missing.take_due(now, now.after(Duration::from_nanos(5)), now, PATIENCE);
                    for (from, uids) in due.fetches() {
                        fetched += uids.len();
                        assert!(uids.iter().all(|uid| connected.contains(from) && listed[uid].contains(from)));
                    }
                    assert!(missing.fetch_deadline().is_none_or(|next| next > now));
                }
            }
            listed.retain(|_, by| !by.is_empty());
            assert!(missing.is_sound(), "step {step}");
            assert!(missing.iter().collect::<BTreeSet<_>>().into_iter().eq(listed.keys().copied()), "step {step}");
            assert_eq!(missing.first(), listed.keys().next().copied(), "step {step}");
            let reachable = listed.iter().find(|(uid, by)| **uid > named && !by.both(connected).is_empty());
            let reachable = reachable.map(|(uid, by)| (*uid, by.both(connected)));
            assert_eq!(missing.first_reachable_after(named), reachable, "step {step}");
        }
        assert!(fetched > 1000, "a weak test: {fetched} fetches");
    }

    /// As long as a peer sends something that is missing, it is not overdue with the rest: a long list takes its time.
    #[test]
    fn peers_are_overdue_that_send_nothing() {
        let mut missing = MissingRequests::default();
        let [one, other] = [PeerId(1), PeerId(2)];
        let overdue_at = |missing: &mut MissingRequests, at: u64| {
            let (now, again_at) = (Timestamp(at), Timestamp(at + 1));
            missing.take_due(now, again_at, now, PATIENCE).overdue.iter().collect::<Vec<_>>()
        };
        [one, other].into_iter().for_each(|peer| missing.on_connected(peer, Timestamp(0)));
        (1..=3).for_each(|number| missing.list(uid(number), one, Timestamp(1000), Timestamp(1000)));
        missing.list(uid(4), other, Timestamp(1000), Timestamp(1000));
        assert_eq!(overdue_at(&mut missing, 1100), []);

        missing.on_sent(uid(1), one, Timestamp(1090));
        missing.remove(uid(1));
        assert_eq!(overdue_at(&mut missing, 1101), [other]);
        missing.forget_peer(other);
        assert_eq!(overdue_at(&mut missing, 1190), []);
        missing.list(uid(3), other, Timestamp(1190), Timestamp(1190));
        assert_eq!(overdue_at(&mut missing, 1191), [one], "one alone lists the second");
        missing.unlist(uid(2), one);
        assert_eq!(overdue_at(&mut missing, 1290), [], "the other has not listed the third for long");
        assert_eq!(overdue_at(&mut missing, 1291), [one, other]);

        // It owes nothing from before its connection.
        missing.on_disconnected(other, Timestamp(1293));
        missing.on_connected(other, Timestamp(1293));
        assert_eq!(overdue_at(&mut missing, 1393), []);
        assert_eq!(overdue_at(&mut missing, 1394), [one, other]);
    }
}
