//! Digests at whole seconds of log time, by which replicas compare their logs and states while both grow.
//!
//! They are kept in memory, for the seconds since the start in which requests were applied. A second that is not known is
//! reported as unknown: a comparison that cannot be made says nothing about the state.

use crate::store::schema::Applied;
use crate::store::state::second_of;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::VecDeque;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;
/// The most seconds that are remembered, of those in which requests were applied; the oldest are forgotten. Replicas compare
/// seconds a few seconds old, so two minutes are plenty.
const SECONDS_MAX: usize = 120;

/// The uid that lies before all requests of a second.
pub fn begin_of(second: u64) -> Uid {
    Uid { timestamp: Timestamp(second.saturating_mul(SECOND)), digest: [0; 16] }
}

/// How far the log had been applied each time that it went on to a later second.
#[derive(Default)]
pub struct BoundaryHistory {
    /// The state after the last request of each second, oldest first. All are below the last applied request.
    ends: VecDeque<Applied>,
}

impl BoundaryHistory {
    /// Records that the request after `applied` has timestamp `next`.
    pub fn go_on(&mut self, applied: &Applied, next: Timestamp) {
        if second_of(applied.uid.timestamp) == second_of(next) {
            return;
        }
        if self.ends.len() == SECONDS_MAX {
            self.ends.pop_front();
        }
        self.ends.push_back(applied.clone());
    }

    /// Forgets the seconds that may end differently now that `applied` is the last applied request again.
    pub fn go_back(&mut self, applied: Uid) {
        self.ends.retain(|end| end.uid < applied);
    }

    /// How far the log had been applied before `second`; `applied` is how far it has been applied by now.
    pub fn at<'a>(&'a self, second: u64, applied: &'a Applied) -> Option<&'a Applied> {
        let begin = begin_of(second);
        let mut newest_first = std::iter::once(applied).chain(self.ends.iter().rev());
        newest_first.find(|known| known.uid < begin)
    }

    /// The ends of the remembered seconds, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Applied> {
        self.ends.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stablechat_protocol::digest::Digest;

    /// The state after request number `position`, at this many tenths of a second.
    fn applied(position: u64, tenths: u64) -> Applied {
        let uid = Uid { timestamp: Timestamp(tenths * SECOND / 10), digest: [position as u8; 16] };
        Applied { uid, position, log_digest: Digest([1; 32]), state_digest: Digest([2; 32]) }
    }

    /// The history after requests at these tenths of a second, and how far they have been applied.
    fn after(tenths: &[u64]) -> (BoundaryHistory, Applied) {
        let mut boundaries = BoundaryHistory::default();
        let mut last = Applied::NOTHING;
        for (number, tenths) in tenths.iter().enumerate() {
            let next = applied(number as u64 + 1, *tenths);
            boundaries.go_on(&last, next.uid.timestamp);
            last = next;
        }
        (boundaries, last)
    }

    #[test]
    fn a_boundary_is_after_all_requests_before_its_second() {
        let (boundaries, last) = after(&[11, 19, 20, 52, 53]);
        let position = |second| boundaries.at(second, &last).map(|known| known.position);
        assert_eq!(position(0), None);
        assert_eq!(position(1), Some(0));
        assert_eq!(position(2), Some(2), "a request at the boundary is after it");
        assert_eq!(position(3), Some(3));
        assert_eq!(position(5), Some(3), "seconds without requests are like the one before");
        assert_eq!(position(6), Some(5));
        assert_eq!(position(u64::MAX), Some(5));
    }

    #[test]
    fn boundaries_before_the_first_known_request_are_unknown() {
        let mut boundaries = BoundaryHistory::default();
        boundaries.go_on(&applied(7, 35), Timestamp(4 * SECOND));
        let last = applied(8, 40);
        assert_eq!(boundaries.at(3, &last), None);
        assert_eq!(boundaries.at(4, &last).map(|known| known.position), Some(7));
    }

    #[test]
    fn the_oldest_seconds_are_forgotten() {
        let tenths: Vec<u64> = (1..=SECONDS_MAX as u64 + 10).map(|second| 10 * second).collect();
        let (boundaries, last) = after(&tenths);
        assert_eq!(boundaries.iter().count(), SECONDS_MAX);
        assert_eq!(boundaries.at(10, &last), None);
        assert_eq!(boundaries.at(11, &last).map(|known| known.position), Some(10));
    }

    #[test]
    fn going_back_forgets_what_may_change() {
        let (mut boundaries, _) = after(&[11, 19, 20, 52]);
        let back = applied(2, 19);
        boundaries.go_back(back.uid);
        let position = |second| boundaries.at(second, &back).map(|known| known.position);
        assert_eq!((position(1), position(2), position(3)), (Some(0), Some(2), Some(2)));
        assert_eq!(boundaries.iter().count(), 1, "another request may follow in the second of the last one");
    }
}
