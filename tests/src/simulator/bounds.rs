//! The times that follow from the number of replicas.
//!
//! Δ ≥ N·(δ + ε): a request reaches every replica in at most N hops, so each hop may take Δ/N − ε, where ε is how far clocks
//! differ. A hop is three messages (the announcement, the fetch and the body), a turn of a replica for each, and a short
//! pause. Everything that the simulator lets happen within bounds is derived from this.

use super::DELIVERY_BOUND;
use std::time::Duration;

/// How far a replica's clock is off the true time at most, in nanoseconds: half of ε.
pub const SKEW_MAX: i64 = 8_000_000;
/// The longest that a message takes on any cluster, in nanoseconds.
const DELAY_MAX: u64 = 40_000_000;
/// The longest short pause on any cluster.
const SHORT_PAUSE_MAX: Duration = Duration::from_millis(60);

/// The times of a cluster of this many replicas.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    replicas: usize,
}

impl Bounds {
    /// The times of a cluster of so many replicas.
    pub fn of(replicas: usize) -> Bounds {
        Bounds { replicas }
    }

    /// Δ/N: what a hop takes less than, including the difference of clocks.
    pub fn hop(self) -> Duration {
        DELIVERY_BOUND / self.replicas as u32
    }

    /// What no message within bounds takes longer than, in nanoseconds. Three of them leave more than half of a hop.
    pub fn delay_max(self) -> u64 {
        DELAY_MAX.min(self.hop().as_nanos() as u64 / 8)
    }

    /// What a short pause takes less than: it fits into a hop beside its messages.
    pub fn short_pause(self) -> Duration {
        SHORT_PAUSE_MAX.min(self.hop() / 5)
    }

    /// The longest that a client's request is late and still accepted by a replica that has come to expect such, with a
    /// margin for the time that it takes to arrive.
    pub fn lateness_max(self) -> Duration {
        self.hop() - Duration::from_millis(13)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::REPLICAS_MAX;

    #[test]
    fn three_messages_and_their_turns_and_a_short_pause_fit_into_a_hop() {
        let turns = Duration::from_millis(3 * 4);
        let epsilon = Duration::from_nanos(2 * SKEW_MAX as u64);
        for replicas in 1..=REPLICAS_MAX {
            let bounds = Bounds::of(replicas);
            let messages = 3 * Duration::from_nanos(bounds.delay_max());
            assert!(messages + turns + bounds.short_pause() + epsilon < bounds.hop(), "{replicas} replicas");
        }
    }
}
