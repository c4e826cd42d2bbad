//! The time by the replicas' clocks.
//!
//! Requests are ordered by their timestamps, and replicas refuse timestamps that are far from their own clocks. So that a
//! machine whose clock is wrong can still chat, the client corrects its clock. Each exchange with a replica that shows the
//! replica's clock estimates how far that is ahead, and the median over the replicas is the correction.

use stablechat_protocol::answer::Refusal;
use stablechat_protocol::clock_offset::{ClockOffset, Exchange, signed_difference};
use stablechat_protocol::message::ToClient;
use stablechat_protocol::time::Timestamp;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Clocks that are further apart are not both right: no delivery bound has room for it.
const APART: Duration = Duration::from_secs(1);

/// A clock that never steps: wall time at its start, plus the time that has passed since.
#[derive(Debug)]
pub struct LocalClock {
    /// Wall time at the start.
    base: Timestamp,
    /// The start.
    started: Instant,
}

impl LocalClock {
    /// Starts a clock.
    pub fn start() -> LocalClock {
        // A clock that shows a time before 1970 is corrected like any other wrong clock.
        let base = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        LocalClock { base: Timestamp::ZERO.after(base), started: Instant::now() }
    }

    /// The time, not corrected.
    pub fn now(&self) -> Timestamp {
        self.base.after(self.started.elapsed())
    }
}

/// The estimated offsets of the replicas' clocks from ours.
///
/// A replica with a wrong clock does not serve, and says so when it refuses. So the replicas that are known to serve count, if
/// there are any.
#[derive(Clone, Debug)]
pub struct Offsets {
    /// By link.
    replicas: Vec<Replica>,
}

/// The clock of the replica on a link, as far as it is known.
#[derive(Clone, Debug, Default)]
struct Replica {
    clock: ClockOffset,
    /// Whether it accepts requests; none while it has not been heard to answer or refuse any.
    serves: Option<bool>,
}

impl Replica {
    /// Takes in a reading of the replica's clock from some time before `received`. It shows if the clock was set far forward since the
    /// last exchange. Returns whether that is so: then the reading counts until the next exchange, which may be seconds away, and
    /// timestamps until then are not refused.
    fn note_reading(&mut self, clock: Timestamp, received: Timestamp) -> bool {
        let at_least = signed_difference(clock.0, received.0);
        let is_set =
            self.clock.estimate_ns().is_some_and(|estimate| at_least > estimate && are_apart(at_least, estimate));
        if is_set {
            self.clock.observe(Exchange { sent: received, clock, received });
        }
        is_set
    }
}

impl Offsets {
    /// No exchanges yet, on this many links.
    pub fn new(links: usize) -> Offsets {
        Offsets { replicas: vec![Replica::default(); links] }
    }

    /// Takes in an exchange on a link, by our uncorrected clock.
    pub fn observe(&mut self, link: usize, exchange: Exchange) {
        self.replicas[link].clock.observe(exchange);
    }

    /// Learns from a message on a link, which came at `received` by our uncorrected clock, whether the replica serves and whether its
    /// clock was set far forward. Returns whether there is any news.
    pub fn on_message(&mut self, link: usize, message: &ToClient, received: Timestamp) -> bool {
        let replica = &mut self.replicas[link];
        let (serves, is_set) = match message {
            ToClient::Refused { reason, clock, .. } => {
                (*reason != Refusal::NotServing, replica.note_reading(*clock, received))
            }
            ToClient::Answer { .. } | ToClient::QueryAnswer { .. } => (true, false),
            _ => return false,
        };
        replica.serves.replace(serves) != Some(serves) || is_set
    }

    /// A link is lost. It is not known what the replica will do when it comes back.
    pub fn on_lost(&mut self, link: usize) {
        self.replicas[link].serves = None;
    }

    /// How far the replicas' clocks are ahead of ours, in nanoseconds: the median of those that agree with the replicas that are
    /// known to serve. 0 before the first exchange.
    pub fn offset(&self) -> i64 {
        let serving = self.replicas.iter().filter(|replica| replica.serves == Some(true));
        let serving = median(serving.filter_map(|replica| replica.clock.estimate_ns()));
        let is_near = |offset: &i64| serving.is_none_or(|serving| !are_apart(*offset, serving));
        let all = self.replicas.iter().filter_map(|replica| replica.clock.estimate_ns());
        median(all.filter(is_near)).unwrap_or(0)
    }
}

/// The median of offsets. If there are two in the middle of which one must be that of a wrong clock, it is the lesser one, since our
/// own clock is probably right.
fn median(offsets: impl Iterator<Item = i64>) -> Option<i64> {
    let mut offsets: Vec<i64> = offsets.collect();
    offsets.sort_unstable();
    let (&above, &below) = (offsets.get(offsets.len() / 2)?, offsets.get((offsets.len() - 1) / 2)?);
    Some(match are_apart(below, above) {
        true if below.unsigned_abs() <= above.unsigned_abs() => below,
        true => above,
        false => below.midpoint(above),
    })
}

/// Whether two clocks cannot both be right.
fn are_apart(one: i64, other: i64) -> bool {
    Duration::from_nanos(one.abs_diff(other)) > APART
}

#[cfg(test)]
mod tests {
    use super::*;
    use stablechat_protocol::request::RequestId;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_median_replica_counts() {
        let instant =
            |clock| Exchange { sent: Timestamp(SECOND), clock: Timestamp(clock), received: Timestamp(SECOND) };
        let mut offsets = Offsets::new(3);
        assert_eq!(offsets.offset(), 0);
        offsets.observe(0, instant(0));
        assert_eq!(offsets.offset(), -(SECOND as i64));
        offsets.observe(1, instant(SECOND + 40));
        assert_eq!(offsets.offset(), 40, "the two are too far apart for both to be right");
        offsets.observe(2, instant(SECOND + 50));
        assert_eq!(offsets.offset(), 40);
    }

    #[test]
    fn replicas_that_serve_count_before_others() {
        let instant =
            |clock| Exchange { sent: Timestamp(SECOND), clock: Timestamp(clock), received: Timestamp(SECOND) };
        let refused = |reason| ToClient::Refused {
            request: RequestId::Query { id: 1 },
            timestamp: Timestamp(1),
            reason,
            clock: Timestamp(SECOND),
        };
        let mut offsets = Offsets::new(3);
        offsets.observe(0, instant(SECOND + 10));
        offsets.observe(1, instant(3601 * SECOND));
        assert_eq!(offsets.offset(), 10);
        assert!(offsets.on_message(1, &refused(Refusal::Late), Timestamp(SECOND)));
        assert!(!offsets.on_message(1, &refused(Refusal::Ahead), Timestamp(SECOND)));
        assert_eq!(offsets.offset(), 3600 * SECOND as i64);
        offsets.observe(2, instant(3601 * SECOND + 20));
        assert_eq!(offsets.offset(), 3600 * SECOND as i64 + 10, "a clock that agrees with it counts too");
        assert!(offsets.on_message(1, &refused(Refusal::NotServing), Timestamp(SECOND)));
        assert!(offsets.on_message(0, &refused(Refusal::Ahead), Timestamp(SECOND)));
        assert_eq!(offsets.offset(), 10);
        offsets.on_lost(0);
        assert_eq!(offsets.offset(), 3600 * SECOND as i64, "none is known to serve");
    }

    #[test]
    fn a_refusal_shows_that_a_clock_was_set_forward() {
        let refused = |clock| ToClient::Refused {
            request: RequestId::Query { id: 1 },
            timestamp: Timestamp(1),
            reason: Refusal::Late,
            clock: Timestamp(clock),
        };
        let mut offsets = Offsets::new(1);
        let (sent, received) = (Timestamp(SECOND), Timestamp(2 * SECOND));
        offsets.observe(0, Exchange { sent, clock: Timestamp(SECOND + 500), received: Timestamp(SECOND + 1000) });
        offsets.on_message(0, &refused(SECOND), received);
        assert_eq!(offsets.offset(), 0, "the refusal was under way for a second");
        assert!(offsets.on_message(0, &refused(3602 * SECOND), received));
        assert_eq!(offsets.offset(), 3600 * SECOND as i64);
        let clock = Timestamp(3603 * SECOND);
        offsets.observe(0, Exchange { sent: received, clock, received: Timestamp(2 * SECOND + 40) });
        assert_eq!(offsets.offset(), 3601 * SECOND as i64 - 20, "an exchange says it more exactly");
    }

    #[test]
    fn the_local_clock_moves_forward() {
        let clock = LocalClock::start();
        let first = clock.now();
        assert!(clock.now() >= first && first > Timestamp::ZERO);
    }
}
