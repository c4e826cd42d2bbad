//! Queries: asked of every replica in reach, repeated until one answers.
//!
//! This does for queries what a [`crate::session`] does for commands. It is simpler, since queries have no order among them
//! and no effect. Each attempt has an id of its own: a late answer to an earlier attempt may have been read before commands
//! that were meant to precede the query, and must not be taken for its answer.
//!
//! Pure: time is an argument and sending is a return value.

use crate::reach::LinkSet;
use crate::session::{BACKOFF_MAX, BACKOFF_MIN, REFUSED_PATIENCE};
use stablechat_protocol::command::Query;
use stablechat_protocol::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// How many queries may be open at a time: pages of answers are large.
pub const QUERIES_MAX: usize = 16;

/// A query to be sent as `ToReplica::Query`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingQuery {
    /// The id that its answers will have.
    pub id: u64,
    pub timestamp: Timestamp,
    pub query: Query,
}

/// The queries that are open: asked, and not closed yet.
#[derive(Clone, Debug)]
pub struct OpenQueries {
    /// Δ of the cluster.
    delivery_bound: Duration,
    /// The id of the next attempt; never used twice, on any connection.
    next: u64,
    /// By query number, which is the id of the first attempt.
    open: BTreeMap<u64, OpenQuery>,
    /// The links that are ready.
    reach: LinkSet,
}

#[derive(Clone, Debug)]
struct OpenQuery {
    query: Query,
    /// The id of the current attempt.
    id: u64,
    /// The timestamp of the current attempt.
    timestamp: Timestamp,
    /// When the current attempt is given up.
    until: Timestamp,
    /// The links that refused the current attempt.
    refused: LinkSet,
    /// How long to wait after all links have refused.
    backoff: Duration,
    /// Whether a link has answered, after which nothing is repeated.
    answered: bool,
}

impl OpenQueries {
    /// No queries, and no link in reach.
    pub fn new(delivery_bound: Duration) -> OpenQueries {
        OpenQueries { delivery_bound, next: 1, open: BTreeMap::new(), reach: LinkSet::EMPTY }
    }

    /// No queries, on the same links. Ids continue where these end, so that a late answer to one of these queries is not taken
    /// for an answer to one of the successor's.
    pub fn successor(&self) -> OpenQueries {
        OpenQueries { delivery_bound: self.delivery_bound, next: self.next, open: BTreeMap::new(), reach: self.reach }
    }

    /// Takes over the ids and the links of other queries, which were asked in between.
    pub fn resume_after(&mut self, other: &OpenQueries) {
        (self.next, self.reach) = (self.next.max(other.next), other.reach);
    }

    /// Whether another query may be opened.
    pub fn can_ask(&self) -> bool {
        self.open.len() < QUERIES_MAX
    }

    /// Opens a query, to be sent on every link in reach. Its number is the id of this first attempt.
    pub fn ask(&mut self, now: Timestamp, timestamp: Timestamp, query: Query) -> OutgoingQuery {
        let (id, until) = (self.next_id(), now.after(self.attempt_limit()));
        let query =
            OpenQuery { query, id, timestamp, until, refused: LinkSet::EMPTY, backoff: BACKOFF_MIN, answered: false };
        let outgoing = query.outgoing();
        self.open.insert(id, query);
        outgoing
    }

    /// Takes an answer to the attempt of this id. Returns the query's number; `None` when the query is closed, or was repeated
    /// under another id.
    pub fn on_answer(&mut self, id: u64) -> Option<u64> {
        let (&number, query) = self.open.iter_mut().find(|(_, query)| query.id == id)?;
        query.answered = true;
        Some(number)
    }

    /// A replica refused the attempt of this id. If another has accepted it, its answer comes within a delivery bound and a round trip.
    /// An answer that comes after the repetition would not be recognized.
    pub fn on_refused(&mut self, now: Timestamp, link: usize, id: u64) {
        let reach = self.reach;
        if let Some(query) = self.open.values_mut().find(|query| query.id == id) {
            query.refused.insert(link);
            query.until = query.until.min(now.after(self.delivery_bound + 3 * REFUSED_PATIENCE));
            query.retry_soon_if_refused(now, reach);
        }
    }

    /// A link became ready. Returns the queries to send on it.
    pub fn on_link_ready(&mut self, link: usize) -> Vec<OutgoingQuery> {
        self.reach.insert(link);
        let open = self.open.values_mut().filter(|query| !query.answered);
        open.map(|query| {
            query.refused.remove(link);
            query.outgoing()
        })
        .collect()
    }

    /// A link is no longer in reach, so its answer is no longer waited for.
    pub fn on_link_lost(&mut self, now: Timestamp, link: usize) {
        self.reach.remove(link);
        let reach = self.reach;
        self.open.values_mut().for_each(|query| query.retry_soon_if_refused(now, reach));
    }

    /// Forgets a query: later answers to it are not known any more.
    pub fn close(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// The numbers of the queries that have to be repeated now with [`OpenQueries::ask_again`].
    pub fn due(&self, now: Timestamp) -> Vec<u64> {
        let is_due = |query: &OpenQuery| !query.answered && query.until <= now && !self.reach.is_empty();
        self.open.iter().filter(|(_, query)| is_due(query)).map(|(&number, _)| number).collect()
    }

    /// The numbers of the queries without an answer. All of them are to be repeated when a command is: it may have been meant
    /// to precede them, and its new timestamp is above theirs.
    pub fn unanswered(&self) -> Vec<u64> {
        self.open.iter().filter(|(_, query)| !query.answered).map(|(&number, _)| number).collect()
    }

    /// Repeats a query that is open, with a new id and timestamp.
    pub fn ask_again(&mut self, now: Timestamp, timestamp: Timestamp, number: u64) -> Option<OutgoingQuery> {
        let (id, until) = (self.next_id(), now.after(self.attempt_limit()));
        let query = self.open.get_mut(&number)?;
        (query.id, query.timestamp, query.until) = (id, timestamp, until);
        query.refused = LinkSet::EMPTY;
        Some(query.outgoing())
    }

    /// When [`OpenQueries::due`] will return a query; `None` while there is none to repeat or no link in reach.
    pub fn deadline(&self) -> Option<Timestamp> {
        let unanswered = self.open.values().filter(|query| !query.answered);
        unanswered.map(|query| query.until).min().filter(|_| !self.reach.is_empty())
    }

    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// How long an attempt may go unanswered that nobody has refused: the same as a command's (`Session::overdue_at`).
    fn attempt_limit(&self) -> Duration {
        self.delivery_bound * 2 + Duration::from_secs(1)
    }
}

impl OpenQuery {
    /// Brings the repetition forward when every link in reach has refused the attempt.
    fn retry_soon_if_refused(&mut self, now: Timestamp, reach: LinkSet) {
        if !self.refused.is_empty() && reach.is_within(self.refused) {
            self.until = self.until.min(now.after(self.backoff));
            self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        }
    }

    fn outgoing(&self) -> OutgoingQuery {
        OutgoingQuery { id: self.id, timestamp: self.timestamp, query: self.query.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp(1_000_000_000_000).after(Duration::from_millis(milliseconds))
    }

    fn queries() -> (OpenQueries, u64) {
        let mut queries = OpenQueries::new(Duration::from_millis(1000));
        (0..2).for_each(|link| assert!(queries.on_link_ready(link).is_empty()));
        let query = Query::Blocked;
        let number = queries.ask(at(0), at(0), query).id;
        (queries, number)
    }

    #[test]
    fn the_first_answer_ends_repetitions_and_later_ones_are_recognized_until_it_is_closed() {
        let (mut queries, number) = queries();
        assert_eq!(queries.deadline(), Some(at(3000)));
        assert_eq!(queries.on_answer(number), Some(number));
        assert_eq!(queries.deadline(), None);
        assert_eq!(queries.on_answer(number), Some(number));
        queries.close(number);
        assert_eq!(queries.on_answer(number), None);
    }

    #[test]
    fn a_repetition_has_a_new_id_and_an_answer_to_the_old_one_is_ignored() {
        let (mut queries, number) = queries();
        assert!(queries.due(at(2999)).is_empty());
        assert_eq!(queries.due(at(3000)), [number]);
        let again = queries.ask_again(at(3000), at(3000), number).expect("it is open");
        assert_ne!(again.id, number);
        assert_eq!(queries.on_answer(number), None);
        assert_eq!(queries.on_answer(again.id), Some(number));
    }

    #[test]
    fn a_query_that_all_links_refused_is_repeated_after_the_backoff() {
        let (mut queries, number) = queries();
        queries.on_refused(at(1), 0, number);
        assert_eq!(queries.deadline(), Some(at(1301)), "the other link may answer within a delivery bound");
        queries.on_link_lost(at(2), 1);
        assert_eq!(queries.deadline(), Some(at(7)));
        assert_eq!(queries.due(at(7)), [number]);
        assert_eq!(queries.unanswered(), [number]);
    }
}
