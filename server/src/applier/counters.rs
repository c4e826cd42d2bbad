//! What a replica counts, for who asks about it.

use stablechat_protocol::answer::{Refusal, Stability};
use stablechat_protocol::status::Counters;
use std::time::Duration;

/// What has been counted since the start.
#[derive(Default)]
pub struct Tally(Counters);

impl Tally {
    /// A request was applied.
    pub fn on_request(&mut self, stability: Stability) {
        match stability {
            Stability::Closed => self.0.closed += 1,
            Stability::RealTime => self.0.real_time += 1,
        }
    }

    /// A question was answered.
    pub fn on_question(&mut self, stability: Stability) {
        self.on_request(stability);
        self.0.questions += 1;
    }

    /// A request or question was refused.
    pub fn on_refusal(&mut self, reason: Refusal) {
        let refused = &mut self.0.refused;
        *match reason {
            Refusal::Late => &mut refused.late,
            Refusal::Ahead => &mut refused.ahead,
            Refusal::NotServing => &mut refused.not_serving,
            Refusal::Overloaded => &mut refused.overloaded,
            Refusal::NoRoom => &mut refused.no_room,
        } += 1;
    }

    /// So many requests were undone and applied again.
    pub fn on_repair(&mut self, undone: u64, took: Duration) {
        self.0.repairs += 1;
        self.0.undone += undone;
        self.0.longest_repair_ns = self.0.longest_repair_ns.max(nanoseconds(took));
    }

    /// Another incarnation began.
    pub fn on_rejoin(&mut self) {
        self.0.rejoins += 1;
    }

    /// A peer's state differs after the same log.
    pub fn on_state_disagreement(&mut self) {
        self.0.state_disagreements += 1;
    }

    /// All of it.
    pub fn counters(&self) -> Counters {
        self.0
    }
}

/// A duration's nanoseconds, or as many as fit.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_its_place() {
        let mut tally = Tally::default();
        tally.on_request(Stability::Closed);
        tally.on_request(Stability::Closed);
        tally.on_request(Stability::RealTime);
        tally.on_question(Stability::Closed);
        for reason in
            [Refusal::Late, Refusal::Ahead, Refusal::NotServing, Refusal::Overloaded, Refusal::NoRoom, Refusal::Late]
        {
            tally.on_refusal(reason);
        }
        tally.on_repair(3, Duration::from_millis(7));
        tally.on_repair(2, Duration::from_millis(5));
        let counters = tally.counters();
        assert_eq!((counters.closed, counters.real_time, counters.questions), (3, 1, 1));
        assert_eq!((counters.refused.late, counters.refused.total()), (2, 6));
        assert_eq!((counters.repairs, counters.undone, counters.longest_repair_ns), (2, 5, 7_000_000));
    }
}
