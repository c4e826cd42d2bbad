//! Uids that peers have listed and whose requests are not here yet.

use super::PeerId;
use super::peers::PeerSet;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::BTreeMap;

/// The requests that are to be fetched. None of them is pending, nor remembered as applied.
#[derive(Debug, Default)]
pub struct MissingRequests(BTreeMap<Uid, Missing>);

/// A request that peers hold and we do not.
#[derive(Debug)]
struct Missing {
    /// The peers that hold it; never empty.
    listed_by: PeerSet,
    /// Those of them that have been asked for it since all were last asked.
    asked: PeerSet,
    /// When to ask the next of them.
    fetch_at: Timestamp,
}

impl MissingRequests {
    pub fn contains(&self, uid: Uid) -> bool {
        self.0.contains_key(&uid)
    }

    /// The first in the order of application.
    pub fn first(&self) -> Option<Uid> {
        self.0.first_key_value().map(|(uid, _)| *uid)
    }

    /// Whether nothing with a timestamp up to this one is missing.
    pub fn is_empty_up_to(&self, timestamp: Timestamp) -> bool {
        self.first().is_none_or(|uid| uid.timestamp > timestamp)
    }

    /// A peer holds this; it is to be fetched at this time, unless an earlier one is set already.
    pub fn list(&mut self, uid: Uid, peer: PeerId, fetch_at: Timestamp) {
        let new = Missing { listed_by: PeerSet::default(), asked: PeerSet::default(), fetch_at };
        self.0.entry(uid).or_insert(new).listed_by.insert(peer);
    }

    /// It is not missing any more. Returns the peers that hold it.
    pub fn remove(&mut self, uid: Uid) -> PeerSet {
        self.0.remove(&uid).map_or(PeerSet::default(), |missing| missing.listed_by)
    }

    /// Drops what only this peer has listed: nobody else can send it.
    pub fn forget_peer(&mut self, peer: PeerId) {
        self.0.retain(|_, missing| {
            missing.listed_by.remove(peer);
            // Its next incarnation has not been asked, if that lists the request again.
            missing.asked.remove(peer);
            !missing.listed_by.is_empty()
        });
    }

    /// Drops what lies below the horizon and no connected peer has listed. No peer has it any more that could be asked for it, or
    /// only in a log, which is compared with ours.
    pub fn forget_unreachable(&mut self, horizon: Uid, connected: PeerSet) {
        self.0.retain(|uid, missing| *uid >= horizon || !missing.listed_by.both(connected).is_empty());
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Fetches every missing request again at once: the answers to fetches on a connection that has ended may never come.
    pub fn fetch_all_at(&mut self, now: Timestamp) {
        self.0.values_mut().for_each(|missing| missing.fetch_at = missing.fetch_at.min(now));
    }

    /// What is to be asked for now, and of which peer: one peer after the other, and at `again_at` the next.
    pub fn fetch(&mut self, now: Timestamp, again_at: Timestamp, connected: PeerSet) -> BTreeMap<PeerId, Vec<Uid>> {
        let mut by_peer: BTreeMap<PeerId, Vec<Uid>> = BTreeMap::new();

        for (uid, missing) in self.0.iter_mut().filter(|(_, missing)| missing.fetch_at <= now) {
            let can_ask = missing.listed_by.both(connected);
            if can_ask.without(missing.asked).is_empty() {
                missing.asked = PeerSet::default();
            }

            let Some(from) = can_ask.without(missing.asked).iter().next() else { continue };
            missing.asked.insert(from);
            missing.fetch_at = again_at;
            by_peer.entry(from).or_default().push(*uid);
        }

        by_peer
    }

    /// When the next of them is to be asked for; none while no connected peer has any.
    pub fn fetch_deadline(&self, connected: PeerSet) -> Option<Timestamp> {
        let can_ask = |missing: &&Missing| !missing.listed_by.both(connected).is_empty();
        self.0.values().filter(can_ask).map(|missing| missing.fetch_at).min()
    }

    pub fn iter(&self) -> impl Iterator<Item = Uid> {
        self.0.keys().copied()
    }

    /// Whether each is listed by a peer, and only those that listed it have been asked for it.
    pub fn is_sound(&self) -> bool {
        let is_sound =
            |missing: &Missing| !missing.listed_by.is_empty() && missing.asked.without(missing.listed_by).is_empty();
        self.0.values().all(is_sound)
    }
}
