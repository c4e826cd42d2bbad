//! What was applied lately. A peer may list a request that is in our log: it must be known without reading the log.

use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::BTreeSet;

/// The applied requests with timestamps from a horizon on.
#[derive(Debug)]
pub struct RecentlyApplied {
    /// Never moves back.
    horizon: Timestamp,
    /// All applied requests from the horizon on. Those before it may be in it until it moves next.
    uids: BTreeSet<Uid>,
}

impl RecentlyApplied {
    pub fn new(horizon: Timestamp, uids: BTreeSet<Uid>) -> RecentlyApplied {
        RecentlyApplied { horizon, uids }
    }

    pub fn horizon(&self) -> Timestamp {
        self.horizon
    }

    /// The first uid that would not be forgotten.
    pub fn first_remembered(&self) -> Uid {
        Uid { timestamp: self.horizon, digest: [0; 16] }
    }

    pub fn contains(&self, uid: Uid) -> bool {
        self.uids.contains(&uid)
    }

    pub fn insert(&mut self, uid: Uid) {
        self.uids.insert(uid);
    }

    /// How many are remembered from this one on.
    pub fn count_from(&self, first: Uid) -> usize {
        self.uids.range(first..).count()
    }

    pub fn iter(&self) -> impl Iterator<Item = Uid> {
        self.uids.iter().copied()
    }

    pub fn last(&self) -> Option<Uid> {
        self.uids.last().copied()
    }

    /// Moves the horizon, and forgets what lies before it.
    pub fn forget_before(&mut self, horizon: Timestamp) {
        self.horizon = self.horizon.max(horizon);
        let first = self.first_remembered();
        while self.uids.first().is_some_and(|uid| *uid < first) {
            self.uids.pop_first();
        }
    }

    /// The log is another one: it has these from the horizon on.
    pub fn replace(&mut self, uids: BTreeSet<Uid>) {
        self.uids = uids;
    }
}
