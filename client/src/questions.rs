//! Queries: asked of every replica in reach, repeated until one answers.
//!
//! As a [`crate::session`] for commands, but simpler, since queries have no order among them and no effect. A repetition
//! gets a new id, so that an answer to the old attempt, which may have been read before commands that were meant to
//! precede it, is not taken for one.
//!
//! Pure: time is an argument and sending is a return value.

use crate::reach::LinkSet;
use crate::session::{BACKOFF_MAX, BACKOFF_MIN};
use stablechat_protocol::command::Query;
use stablechat_protocol::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// How many queries may be open at a time: pages of answers are large.
pub const QUESTIONS_MAX: usize = 16;

/// A query to be sent as `ToReplica::Query`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// The number under which it will be answered.
    pub id: u64,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// What to read.
    pub query: Query,
}

/// The queries that are open.
#[derive(Clone, Debug)]
pub struct Questions {
    /// Δ of the cluster.
    delivery_bound: Duration,
    /// The id of the next attempt; never used twice, on any connection.
    next: u64,
    /// By question number, which is the id of the first attempt.
    open: BTreeMap<u64, Question>,
    /// The links that are ready.
    reach: LinkSet,
    /// When something was last answered.
    progress: Timestamp,
}

/// An open query.
#[derive(Clone, Debug)]
struct Question {
    /// What to read.
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
    /// Whether a link has answered, so that it need not be repeated.
    answered: bool,
}

impl Questions {
    /// No queries, and no link in reach.
    pub fn new(delivery_bound: Duration) -> Questions {
        let (open, progress) = (BTreeMap::new(), Timestamp::ZERO);
        Questions { delivery_bound, next: 1, open, reach: LinkSet::EMPTY, progress }
    }

    /// Whether another query may be opened.
    pub fn can_ask(&self) -> bool {
        self.open.len() < QUESTIONS_MAX
    }

    /// When something was last answered.
    pub fn progress(&self) -> Timestamp {
        self.progress
    }

    /// Opens a query. Its number is the id of what is returned.
    pub fn ask(&mut self, now: Timestamp, timestamp: Timestamp, query: Query) -> Asking {
        let (id, until) = (self.next_id(), now.after(self.patience()));
        let question =
            Question { query, id, timestamp, until, refused: LinkSet::EMPTY, backoff: BACKOFF_MIN, answered: false };
        let asking = question.asking();
        self.open.insert(id, question);
        asking
    }

    /// Takes an answer under an id. Returns the question's number; `None` when it is closed or asked anew.
    pub fn on_answer(&mut self, now: Timestamp, id: u64) -> Option<u64> {
        let (&number, question) = self.open.iter_mut().find(|(_, question)| question.id == id)?;
        question.answered = true;
        self.progress = now;
        Some(number)
    }

    /// Takes a refusal of an attempt.
    pub fn on_refused(&mut self, now: Timestamp, link: usize, id: u64) {
        let reach = self.reach;
        if let Some(question) = self.open.values_mut().find(|question| question.id == id) {
            question.refused.insert(link);
            question.hurry_if_refused(now, reach);
        }
    }

    /// A link became ready. Returns what it has to be asked.
    pub fn on_link_ready(&mut self, link: usize) -> Vec<Asking> {
        self.reach.insert(link);
        let open = self.open.values_mut().filter(|question| !question.answered);
        open.map(|question| {
            question.refused.remove(link);
            question.asking()
        })
        .collect()
    }

    /// A link is no longer in reach.
    pub fn on_link_lost(&mut self, now: Timestamp, link: usize) {
        self.reach.remove(link);
        let reach = self.reach;
        self.open.values_mut().for_each(|question| question.hurry_if_refused(now, reach));
    }

    /// Closes a query.
    pub fn close(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// The numbers of the queries that have to be repeated now with [`Questions::ask_again`].
    pub fn due(&self, now: Timestamp) -> Vec<u64> {
        let is_due = |question: &Question| !question.answered && question.until <= now && !self.reach.is_empty();
        self.open.iter().filter(|(_, question)| is_due(question)).map(|(&number, _)| number).collect()
    }

    /// The numbers of the queries that have no answer yet: those that have to be repeated when a command was, which may
    /// have been meant to precede them.
    pub fn unanswered(&self) -> Vec<u64> {
        self.open.iter().filter(|(_, question)| !question.answered).map(|(&number, _)| number).collect()
    }

    /// Repeats a query that is open, with a new id and timestamp.
    pub fn ask_again(&mut self, now: Timestamp, timestamp: Timestamp, number: u64) -> Option<Asking> {
        let (id, until) = (self.next_id(), now.after(self.patience()));
        let question = self.open.get_mut(&number)?;
        (question.id, question.timestamp, question.until) = (id, timestamp, until);
        question.refused = LinkSet::EMPTY;
        Some(question.asking())
    }

    /// When [`Questions::due`] will name something.
    pub fn deadline(&self) -> Option<Timestamp> {
        let unanswered = self.open.values().filter(|question| !question.answered);
        unanswered.map(|question| question.until).min().filter(|_| !self.reach.is_empty())
    }

    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn patience(&self) -> Duration {
        self.delivery_bound * 2 + Duration::from_secs(1)
    }
}

impl Question {
    /// Brings the repetition forward when there is no link left that could answer.
    fn hurry_if_refused(&mut self, now: Timestamp, reach: LinkSet) {
        if !self.refused.is_empty() && reach.is_within(self.refused) {
            self.until = self.until.min(now.after(self.backoff));
            self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        }
    }

    fn asking(&self) -> Asking {
        Asking { id: self.id, timestamp: self.timestamp, query: self.query.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp(1_000_000_000_000).after(Duration::from_millis(milliseconds))
    }

    fn questions() -> (Questions, u64) {
        let mut questions = Questions::new(Duration::from_millis(1000));
        (0..2).for_each(|link| assert!(questions.on_link_ready(link).is_empty()));
        let query = Query::Unread { after: None, limit: 5 };
        let number = questions.ask(at(0), at(0), query).id;
        (questions, number)
    }

    #[test]
    fn the_first_answer_ends_repetitions_but_others_are_still_known() {
        let (mut questions, number) = questions();
        assert_eq!(questions.deadline(), Some(at(3000)));
        assert_eq!(questions.on_answer(at(1), number), Some(number));
        assert_eq!(questions.deadline(), None);
        assert_eq!(questions.on_answer(at(2), number), Some(number));
        questions.close(number);
        assert_eq!(questions.on_answer(at(3), number), None);
    }

    #[test]
    fn a_repetition_has_a_new_id_and_the_old_one_is_no_longer_known() {
        let (mut questions, number) = questions();
        assert!(questions.due(at(2999)).is_empty());
        assert_eq!(questions.due(at(3000)), [number]);
        let again = questions.ask_again(at(3000), at(3000), number).expect("it is open");
        assert_ne!(again.id, number);
        assert_eq!(questions.on_answer(at(3001), number), None);
        assert_eq!(questions.on_answer(at(3001), again.id), Some(number));
    }

    #[test]
    fn a_refusal_by_all_is_repeated_soon() {
        let (mut questions, number) = questions();
        questions.on_refused(at(1), 0, number);
        assert_eq!(questions.deadline(), Some(at(3000)));
        questions.on_link_lost(at(2), 1);
        assert_eq!(questions.deadline(), Some(at(52)));
        assert_eq!(questions.due(at(52)), [number]);
        assert_eq!(questions.unanswered(), [number]);
    }
}
