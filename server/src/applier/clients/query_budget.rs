//! The time that the queries of clients may take, and the share of each connection in it.
//!
//! Reading for queries takes the applier's time, which everybody shares: requests, peers and the queries of others. So there is a
//! budget of time for all queries together, and each connection has a share of it. A query beyond either is refused as overload
//! when it arrives. It is not put off, because a query is answered from the state at its place in the order, the same at every
//! replica, and everything behind it would have to wait. Shares, rather than first come, first served: otherwise the connection that
//! asks most often would get the whole budget.
//!
//! The budget is measured by the clock, since the cost of a query depends on what is stored and on the disk. Sending the answer, which
//! the poll loop does, is estimated from its size.

use crate::applier::stopwatch::Stopwatch;
use crate::replica::ConnectionId;
use std::collections::BTreeMap;
use std::time::Duration;

/// All queries together may take a quarter of the time.
const TOTAL: Rate = Rate { parts: 1, of: 4, burst: Duration::from_millis(100) };
/// Connections are promised four fifths of that, in equal shares.
const PROMISED: Rate = Rate { parts: 1, of: 5, burst: SAVED_MAX };
/// The time to encode, copy and write a byte of an answer, in nanoseconds: 200 MB are sent in a second.
const SENDING_NS: u64 = 5;
/// The most that a connection can save up of its share.
const SAVED_MAX: Duration = Duration::from_millis(50);
/// The time that a new connection may take at once: about one of the largest pages. Little, since anybody can make connections.
const FIRST: Duration = Duration::from_millis(1);
/// Connections that asked in this stretch of time, or the one before, share the budget.
const STRETCH: Duration = Duration::from_secs(1);
/// The time that a query is assumed to take until some have been measured.
const USUAL: Duration = Duration::from_micros(200);

/// The budget of all queries, and the shares of the connections that have been greeted.
pub struct QueryBudget {
    shares: BTreeMap<ConnectionId, Share>,
    /// The time that all queries together may still take.
    total: Allowance,
    /// The time that a query has taken lately, on average.
    usual: Duration,
    /// The number of the current stretch, and how many connections have asked in it and in the one before.
    stretch: u64,
    asking: usize,
    asked_before: usize,
}

/// The share of a connection.
struct Share {
    /// The time that its queries may still take.
    allowance: Allowance,
    /// The number of the last stretch in which it asked.
    asked_in: u64,
}

/// How fast an allowance grows: `parts` out of `of` of the time that passes are credited to it, until it has reached `burst`.
#[derive(Clone, Copy)]
struct Rate {
    parts: u32,
    of: u32,
    burst: Duration,
}

/// Time that may be spent. It may be overdrawn, by a query that took longer than expected.
#[derive(Clone, Copy)]
struct Allowance {
    left_ns: i64,
    /// When it was last credited.
    at: Duration,
}

impl Allowance {
    fn new(left: Duration, at: Duration) -> Allowance {
        Allowance { left_ns: nanoseconds(left), at }
    }

    /// Credits the time that has passed.
    fn credit(&mut self, now: Duration, rate: Rate) {
        let earned = nanoseconds(now.saturating_sub(self.at) * rate.parts / rate.of);
        self.left_ns = self.left_ns.saturating_add(earned).min(nanoseconds(rate.burst));
        self.at = self.at.max(now);
    }

    fn spend(&mut self, took: Duration) {
        self.left_ns = self.left_ns.saturating_sub(nanoseconds(took));
    }
}

impl QueryBudget {
    /// No connections.
    pub fn new(stopwatch: Stopwatch) -> QueryBudget {
        QueryBudget {
            shares: BTreeMap::new(),
            total: Allowance::new(TOTAL.burst, stopwatch.read()),
            usual: USUAL,
            stretch: 0,
            asking: 0,
            asked_before: 0,
        }
    }

    /// A connection has been greeted.
    pub fn on_greeted(&mut self, connection: ConnectionId, now: Duration) {
        self.shares.insert(connection, Share { allowance: Allowance::new(FIRST, now), asked_in: 0 });
    }

    /// A connection is gone.
    pub fn on_closed(&mut self, connection: ConnectionId) {
        self.shares.remove(&connection);
    }

    /// Whether a connection is still there. There is no use in answering one that is gone.
    pub fn is_there(&self, connection: ConnectionId) -> bool {
        self.shares.contains_key(&connection)
    }

    /// Whether there is time for one more query of a connection, while `pending` queries wait already.
    pub fn may_ask(&mut self, connection: ConnectionId, pending: usize, now: Duration) -> bool {
        self.count_asking(connection, now);
        self.total.credit(now, TOTAL);
        let sharing = u32::try_from(self.asking.max(self.asked_before)).unwrap_or(u32::MAX).max(1);
        let Some(share) = self.shares.get_mut(&connection) else { return false };
        share.allowance.credit(now, Rate { of: PROMISED.of.saturating_mul(sharing), ..PROMISED });

        // A connection that has saved up has asked less than its share. It may ask although others have used up the total: otherwise
        // the many that ask again as soon as there is time would leave it nothing.
        let reserved = nanoseconds(self.usual * u32::try_from(pending).unwrap_or(u32::MAX));
        let overdraft =
            if share.allowance.left_ns > 2 * nanoseconds(self.usual) { nanoseconds(TOTAL.burst) } else { 0 };
        share.allowance.left_ns > 0 && self.total.left_ns + overdraft > reserved
    }

    /// A query has been answered. `reading` is how long the store was read for it, `bytes` the size of the answer.
    pub fn on_read(&mut self, connection: ConnectionId, reading: Duration, bytes: usize) {
        let took = reading + Duration::from_nanos(bytes as u64 * SENDING_NS);
        self.usual = (self.usual * 15 + took) / 16;
        self.total.spend(took);
        if let Some(share) = self.shares.get_mut(&connection) {
            share.allowance.spend(took);
        }
    }

    /// Counts the connections that ask, each once in a stretch.
    fn count_asking(&mut self, connection: ConnectionId, now: Duration) {
        let stretch = 1 + (now.as_nanos() / STRETCH.as_nanos()) as u64;
        if stretch > self.stretch {
            self.asked_before = if stretch == self.stretch + 1 { self.asking } else { 0 };
            (self.stretch, self.asking) = (stretch, 0);
        }
        if let Some(share) = self.shares.get_mut(&connection)
            && share.asked_in != stretch
        {
            share.asked_in = stretch;
            self.asking += 1;
        }
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Duration = Duration::from_millis(1);

    /// The budget of a number of connections.
    fn budget(count: u64) -> QueryBudget {
        let mut budget = QueryBudget::new(Stopwatch::STOPPED);
        (0..count).for_each(|number| budget.on_greeted(ConnectionId(number), Duration::ZERO));
        budget
    }

    /// Lets a connection ask once. Returns whether it was answered.
    fn ask(budget: &mut QueryBudget, connection: u64, now: Duration) -> bool {
        let connection = ConnectionId(connection);
        let may = budget.may_ask(connection, 0, now);
        if may {
            budget.on_read(connection, PAGE / 2, 100_000);
        }
        may
    }

    #[test]
    fn a_connection_within_its_share_is_answered_whatever_others_ask() {
        let mut budget = budget(1001);
        let (mut answered, mut refused, mut reading) = (0, 0, Duration::ZERO);
        // A thousand ask all the time, and one every eight seconds.
        for millisecond in 0..200_000 {
            let now = Duration::from_millis(millisecond);
            for greedy in 0..10 {
                reading += PAGE * u32::from(ask(&mut budget, (millisecond * 10 + greedy) % 1000, now));
            }
            // The first seconds belong to those that came first.
            if millisecond % 8000 == 0 && millisecond > 10_000 {
                let is_answered = ask(&mut budget, 1000, now);
                answered += u32::from(is_answered);
                refused += u32::from(!is_answered);
            }
        }
        assert!(refused == 0 && answered > 20, "{answered} answered, {refused} refused");
        assert!(reading <= Duration::from_secs(51), "a quarter of 200 s, and the burst: {reading:?}");
        assert!(reading >= Duration::from_secs(30), "most of what is promised is given: {reading:?}");
    }

    #[test]
    fn one_connection_alone_has_most_of_the_budget() {
        let mut budget = budget(1);
        let answered =
            (0..10_000).filter(|millisecond| ask(&mut budget, 0, Duration::from_millis(*millisecond))).count();
        assert!((1900..2200).contains(&answered), "{answered} ms of 10 s");
    }

    #[test]
    fn pending_queries_count_before_they_are_answered() {
        let mut budget = budget(1);
        assert!(budget.may_ask(ConnectionId(0), 10, Duration::ZERO));
        assert!(!budget.may_ask(ConnectionId(0), 1000, Duration::ZERO));
        assert!(!budget.may_ask(ConnectionId(7), 0, Duration::ZERO), "it is not there");
        budget.on_closed(ConnectionId(0));
        assert!(!budget.is_there(ConnectionId(0)));
    }
}
