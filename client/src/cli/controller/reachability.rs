//! Which replicas can be reached, and when to tell the user that none can.
//!
//! As long as one replica can be reached, the state of the others does not matter to the user. When none can, a user who waits
//! gets one line, and another line when a replica can be reached again.

use crate::reach::{LinkFaults, LinkSet};
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::time::Timestamp;
use std::time::Duration;

/// How long no replica may be in reach before the user is told. Reconnecting to a replica that restarts takes less.
const UNREACHABLE_TOLD_AFTER: Duration = Duration::from_secs(1);

/// A change that the user is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReachNews {
    Lost,
    Regained,
}

pub(super) struct Reachability {
    /// The links that are ready.
    ready: LinkSet,
    /// Why the others are not.
    faults: LinkFaults,
    /// Whether all links have been ready or failed once.
    all_tried: bool,
    /// Whether requests may be sent: the links had their chance to become ready, so that all replicas see the same requests.
    is_open: bool,
    /// When the last replica went out of reach, while none is in reach.
    lost_since: Option<Timestamp>,
    /// Whether that was told.
    is_told: bool,
}

impl Reachability {
    pub fn new(now: Timestamp) -> Reachability {
        Reachability {
            ready: LinkSet::EMPTY,
            faults: LinkFaults::default(),
            all_tried: false,
            is_open: false,
            lost_since: Some(now),
            is_told: false,
        }
    }

    /// A link became ready.
    pub fn on_ready(&mut self, link: usize) {
        self.ready.insert(link);
        self.faults.on_ready(link);
        self.lost_since = None;
    }

    /// An attempt to make a link ready has failed.
    pub fn on_unreachable(&mut self, link: usize, reason: String) {
        self.faults.on_fault(link, reason);
    }

    /// That no replica can be reached, with the reason for each.
    pub fn unreachable(&self, cluster: &Cluster) -> String {
        self.faults.unreachable(cluster)
    }

    pub fn on_lost(&mut self, now: Timestamp, link: usize, reason: String) {
        self.ready.remove(link);
        self.faults.on_fault(link, reason);
        if self.ready.is_empty() {
            self.lost_since.get_or_insert(now);
        }
    }

    pub fn on_all_tried(&mut self) {
        self.all_tried = true;
    }

    pub fn open(&mut self) {
        self.is_open = true;
    }

    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether no replica is in reach.
    pub fn is_lost(&self) -> bool {
        self.ready.is_empty()
    }

    pub fn is_ready(&self, link: usize) -> bool {
        self.ready.contains(link)
    }

    /// Whether requests can be sent now.
    pub fn can_send(&self) -> bool {
        self.is_open && !self.is_lost()
    }

    /// Whether an answer may still come on a link: it is ready, or was not tried yet.
    pub fn may_answer(&self, link: usize) -> bool {
        !self.all_tried || self.ready.contains(link)
    }

    /// Returns the change that the user has to be told now, once.
    pub fn news(&mut self, now: Timestamp) -> Option<ReachNews> {
        if self.is_told && !self.is_lost() {
            self.is_told = false;
            return Some(ReachNews::Regained);
        }
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.is_told = true;
            return Some(ReachNews::Lost);
        }
        None
    }

    /// When [`Reachability::news`] will have something to tell if no link becomes ready.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.lost_since.filter(|_| !self.is_told).map(|since| since.after(UNREACHABLE_TOLD_AFTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp(1_000_000_000_000).after(Duration::from_millis(milliseconds))
    }

    #[test]
    fn losing_and_regaining_all_replicas_is_told_once_each() {
        let mut reach = Reachability::new(at(0));
        reach.on_ready(0);
        reach.on_ready(1);
        reach.on_lost(at(10), 0, "it hangs".into());
        assert_eq!((reach.news(at(5000)), reach.deadline()), (None, None), "one is in reach");
        reach.on_lost(at(20), 1, "it hangs".into());
        assert_eq!((reach.news(at(1019)), reach.deadline()), (None, Some(at(1020))));
        assert_eq!(reach.news(at(1020)), Some(ReachNews::Lost));
        assert_eq!((reach.news(at(9000)), reach.deadline()), (None, None));
        reach.on_ready(1);
        assert_eq!(reach.news(at(9001)), Some(ReachNews::Regained));
        assert_eq!(reach.news(at(9002)), None);
    }

    #[test]
    fn a_short_loss_is_not_told() {
        let mut reach = Reachability::new(at(0));
        reach.on_ready(0);
        reach.on_lost(at(10), 0, "it hangs".into());
        reach.on_ready(0);
        assert_eq!(reach.news(at(5000)), None);
    }
}
