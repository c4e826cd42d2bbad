//! Logins that wait for their signatures to be checked.
//!
//! A check takes as long as reading tens of requests, and anybody can send logins. So they are checked at a limited rate, and in
//! turns among the sources that they come from. A connection whose login waits is not read, so it has only one here.

use super::Source;
use crate::replica::ConnectionId;
use stablechat_protocol::login::{LoginStatement, Signature};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

/// The time between two checks on average: 1,000 a second take less than a tenth of a core, and are enough to let all clients of a
/// full replica log in again within a second or so.
const INTERVAL: Duration = Duration::from_millis(1);
/// The most checks at once, after a time without any: about 1 ms.
const BURST: u32 = 32;

/// A login whose signature is to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginAttempt {
    pub statement: LoginStatement,
    pub signature: Signature,
    /// Whether messages for the account are to be pushed to the connection.
    pub receive: bool,
}

impl LoginAttempt {
    /// Whether the client holds the key that it names. Checking the signature takes almost all of the time of a login.
    pub fn is_genuine(&self) -> bool {
        self.statement.is_signed_by(&self.signature)
    }
}

/// The waiting logins, at most one for each connection.
pub struct LoginQueue {
    /// By source, none of them empty.
    waiting: BTreeMap<Source, VecDeque<(ConnectionId, LoginAttempt)>>,
    /// The source whose turn was last.
    last: Option<Source>,
    /// When the checks that were let through would be over, if they were done at the limited rate.
    paid_until: Instant,
}

impl LoginQueue {
    /// An empty queue.
    pub fn new(now: Instant) -> LoginQueue {
        LoginQueue { waiting: BTreeMap::new(), last: None, paid_until: now }
    }

    /// Adds the login of a connection that has none here.
    pub fn push(&mut self, source: Source, connection: ConnectionId, attempt: LoginAttempt) {
        self.waiting.entry(source).or_default().push_back((connection, attempt));
    }

    /// When the next one may be checked; none while none waits.
    pub fn deadline(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then(|| self.paid_until.checked_sub(INTERVAL * BURST).unwrap_or(self.paid_until))
    }

    /// The next login to be checked, if there is one and its time has come. `is_there` says whether its connection still is: one that
    /// is gone costs nothing.
    pub fn next(
        &mut self,
        now: Instant,
        is_there: impl Fn(ConnectionId) -> bool,
    ) -> Option<(ConnectionId, LoginAttempt)> {
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            let (connection, attempt) = self.pop()?;
            if is_there(connection) {
                self.paid_until = self.paid_until.max(now) + INTERVAL;
                return Some((connection, attempt));
            }
        }
        None
    }

    /// Takes the first login of the source whose turn it is.
    fn pop(&mut self) -> Option<(ConnectionId, LoginAttempt)> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.waiting.range((after, Bound::Unbounded)).next().or_else(|| self.waiting.first_key_value());
        let source = *next?.0;
        self.last = Some(source);

        let logins = self.waiting.get_mut(&source)?;
        let first = logins.pop_front();
        if logins.is_empty() {
            self.waiting.remove(&source);
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stablechat_protocol::login::{Challenge, ChannelBinding, PublicKey};
    use stablechat_protocol::name::{AccountName, ClusterId, ClusterName, ReplicaName};

    fn attempt() -> LoginAttempt {
        let statement = LoginStatement {
            cluster: ClusterName::parse("demo").expect("a name"),
            cluster_id: ClusterId::parse("1").expect("an id"),
            replica: ReplicaName::parse("a").expect("a name"),
            challenge: Challenge([0; 32]),
            account: AccountName::parse("alice").expect("a name"),
            key: PublicKey([0; 32]),
            channel: ChannelBinding([0; 32]),
        };
        LoginAttempt { statement, signature: Signature([0; 64]), receive: false }
    }

    fn source(last: u8) -> Source {
        Source::of([192, 0, 2, last].into())
    }

    #[test]
    fn sources_take_turns_and_the_rate_is_limited() {
        let now = Instant::now();
        let mut queue = LoginQueue::new(now);
        assert_eq!(queue.deadline(), None);
        (0..1000).for_each(|number| queue.push(source(1), ConnectionId(number), attempt()));
        queue.push(source(2), ConnectionId(2000), attempt());
        queue.push(source(3), ConnectionId(3000), attempt());
        let at = |queue: &mut LoginQueue, now| -> Vec<u64> {
            std::iter::from_fn(|| queue.next(now, |_| true)).map(|(connection, _)| connection.0).collect()
        };
        let first = at(&mut queue, now);
        assert_eq!((first.len(), &first[..5]), (BURST as usize + 1, &[0, 2000, 3000, 1, 2][..]));
        let later = queue.deadline().expect("many wait");
        assert!(later > now && later <= now + INTERVAL);
        assert_eq!(at(&mut queue, later).len(), 1);
        assert_eq!(at(&mut queue, later + 10 * INTERVAL).len(), 10);
    }

    #[test]
    fn logins_of_lost_connections_cost_nothing() {
        let now = Instant::now();
        let mut queue = LoginQueue::new(now);
        (0..1000).for_each(|number| queue.push(source(1), ConnectionId(number), attempt()));
        assert_eq!(queue.next(now, |connection| connection == ConnectionId(999)), Some((ConnectionId(999), attempt())));
        assert_eq!((queue.next(now, |_| true), queue.deadline()), (None, None));
    }
}
