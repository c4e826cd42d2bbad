//! One session of a client: commands in order, repeated until each is answered.
//!
//! The problem: every command goes to every replica in reach, any of which may refuse it, die with it, or answer late; yet
//! commands must take effect in the order in which they were issued, each at most once. Replicas see to "in order" and "at
//! most once" by the session's sequence numbers, so a command may be repeated freely under its own number. What is left to
//! do here is to know when to repeat, and what: a command that every link in reach has refused, or that has not been
//! answered for too long, is issued again with a new timestamp, and everything behind it as well, since it cannot take
//! effect before.
//!
//! Pure: time is an argument, sending is a return value, and nothing is random. The driver of a session tells it what
//! happens on the links, sends what it returns, and calls [`Session::due`] when [`Session::deadline`] has come.
//!
//! Left out: the account that the session speaks for. All its commands must go out under one login, because replicas bind a session to
//! the actor of its first command.

use crate::reach::LinkSet;
use stablechat_protocol::answer::{Answer, Rejection};
use stablechat_protocol::command::Command;
use stablechat_protocol::session::{ClientId, WINDOW};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long to wait before repeating a command that was refused by all; doubles from one repetition to the next.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest such wait.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A command to be sent as `ToReplica::Request`, in the order in which it is returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its place in the session.
    pub sequence: u64,
    /// The timestamp of this attempt.
    pub timestamp: Timestamp,
    /// What to do.
    pub command: Command,
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// The first answer to the command, which is hereby done.
    Answered,
    /// The same as the first answer, from another link or again.
    Repeated,
    /// Another answer than the first one, which came from `link`. The replicas disagree.
    Differs {
        /// Which link gave the first answer.
        link: usize,
        /// The first answer.
        answer: Answer,
    },
    /// It says nothing about the command itself: only that an attempt came too early, or that its answer is forgotten.
    Passed,
}

/// A command whose answer has changed since it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The command.
    pub command: Command,
    /// The answer that was known until now.
    pub before: Answer,
}

/// A session. Invariant: sequence numbers in flight lie within one [`WINDOW`], and their timestamps increase with them.
#[derive(Clone, Debug)]
pub struct Session {
    /// The session's identity.
    client: ClientId,
    /// Δ of the cluster.
    delivery_bound: Duration,
    /// The sequence number of the next command.
    next: u64,
    /// How far the replicas' clocks are ahead of the one that `now` is read from, in nanoseconds.
    offset: i64,
    /// The highest timestamp that was issued or seen.
    highest: Timestamp,
    /// Commands without an answer.
    in_flight: BTreeMap<u64, InFlight>,
    /// The last commands that were answered, at most [`WINDOW`], to compare later answers with the first.
    answered: BTreeMap<u64, Answered>,
    /// The links that are ready.
    reach: LinkSet,
    /// The links whose replicas lack commands that others have answered, as far as they have said.
    lacking: LinkSet,
    /// When a command was last answered for the first time.
    progress: Timestamp,
    /// When to repeat what all links have refused; only while there is such a command.
    retry_at: Option<Timestamp>,
    /// How long to wait before the next such repetition.
    backoff: Duration,
}

/// A command with an answer.
#[derive(Clone, Debug)]
struct Answered {
    /// What to do.
    command: Command,
    /// The link that answered first.
    link: usize,
    /// What it said, or what it is since it has changed.
    answer: Answer,
}

/// A command without an answer.
#[derive(Clone, Debug)]
struct InFlight {
    /// What to do.
    command: Command,
    /// The timestamp of the current attempt.
    timestamp: Timestamp,
    /// When the current attempt began, by our clock.
    begun: Timestamp,
    /// The links that refused the current attempt.
    refused: LinkSet,
    /// Whether any attempt was given to a link, so that it may have taken effect.
    told: bool,
}

impl Session {
    /// A session that has not begun, with no link in reach.
    pub fn new(client: ClientId, delivery_bound: Duration) -> Session {
        Session {
            client,
            delivery_bound,
            next: 1,
            offset: 0,
            highest: Timestamp::ZERO,
            in_flight: BTreeMap::new(),
            answered: BTreeMap::new(),
            reach: LinkSet::EMPTY,
            lacking: LinkSet::EMPTY,
            progress: Timestamp::ZERO,
            retry_at: None,
            backoff: BACKOFF_MIN,
        }
    }

    /// A session under another client id that continues in time where this one is, on the same links.
    pub fn successor(&self, client: ClientId) -> Session {
        let mut session = Session::new(client, self.delivery_bound);
        session.resume_after(self);
        session
    }

    /// Continues in time where another session is, on the links that are in reach for that one. Nothing may be in flight here.
    pub fn resume_after(&mut self, other: &Session) {
        assert!(self.is_idle(), "what is in flight must not change its links unnoticed");
        self.observe(other.highest);
        (self.offset, self.reach) = (other.offset, other.reach);
    }

    /// The session's identity.
    pub fn client(&self) -> ClientId {
        self.client
    }

    /// The sequence number that the next command will have.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// The highest timestamp that was issued or seen: what a session that follows this one should observe.
    pub fn highest(&self) -> Timestamp {
        self.highest
    }

    /// When the session last got an answer to a command for the first time.
    pub fn progress(&self) -> Timestamp {
        self.progress
    }

    /// Whether no command is without an answer.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether this command is without an answer and may have taken effect: a link was given it.
    pub fn is_in_doubt(&self, sequence: u64) -> bool {
        self.in_flight.get(&sequence).is_some_and(|request| request.told)
    }

    /// Whether a replica in this session lacks commands that others have answered, so that it cannot take any further ones.
    /// Once the session is idle it is better continued as a new one, which that replica can follow too.
    pub fn is_torn(&self) -> bool {
        !self.lacking.is_empty()
    }

    /// Whether that holds for all replicas in reach while commands are without an answer: they will get none.
    pub fn is_stranded(&self) -> bool {
        !self.is_idle() && !self.reach.is_empty() && self.reach.is_within(self.lacking)
    }

    /// Whether a command may be issued: the oldest one in flight is less than a window back.
    pub fn can_issue(&self) -> bool {
        self.in_flight.first_key_value().is_none_or(|(&oldest, _)| self.next - oldest < WINDOW)
    }

    /// Notes a timestamp that was seen in a message or an answer, so that all later ones are above it.
    pub fn observe(&mut self, seen: Timestamp) {
        self.highest = self.highest.max(seen);
    }

    /// Sets how far the replicas' clocks are ahead of the clock that `now` is read from, in nanoseconds; 0 until then.
    /// Timestamps are corrected by it. Time limits are not, and so hold whatever becomes known of the clocks.
    pub fn set_clock_offset(&mut self, offset: i64) {
        self.offset = offset;
    }

    /// A timestamp for something outside the session that shall come after everything issued and seen: a query.
    pub fn stamp(&mut self, now: Timestamp) -> Timestamp {
        self.highest = now.offset_by(self.offset).max(self.highest.next());
        self.highest
    }

    /// Issues a command. [`Session::can_issue`] must hold.
    pub fn issue(&mut self, now: Timestamp, command: Command) -> Outgoing {
        assert!(self.can_issue(), "a full window must be waited for");
        let sequence = self.next;
        self.next += 1;
        let timestamp = self.stamp(now);
        let told = !self.reach.is_empty();
        let request = InFlight { command, timestamp, begun: now, refused: LinkSet::EMPTY, told };
        let outgoing = request.outgoing(sequence);
        self.in_flight.insert(sequence, request);
        self.check_invariants();
        outgoing
    }

    /// Takes an answer to one of the session's commands.
    pub fn on_answer(&mut self, now: Timestamp, link: usize, sequence: u64, uid: Uid, answer: &Answer) -> AnswerKind {
        self.observe(uid.timestamp);
        if let Answer::Rejected { reason: Rejection::OutOfSequence { expected } } = answer {
            // About this attempt only: a command before it did not take effect in time, at this replica. Others may have
            // it, so it counts like a refusal.
            let oldest = self.in_flight.first_key_value().map_or(self.next, |(&oldest, _)| oldest);
            if *expected < oldest {
                self.lacking.insert(link);
            }
            self.on_refused(now, link, sequence, uid.timestamp);
            return AnswerKind::Passed;
        }
        self.lacking.remove(link);
        let Some(InFlight { command, .. }) = self.in_flight.remove(&sequence) else {
            return self.compare(sequence, answer);
        };
        self.answered.insert(sequence, Answered { command, link, answer: answer.clone() });
        if self.answered.len() as u64 > WINDOW {
            self.answered.pop_first();
        }
        self.progress = now;
        self.backoff = BACKOFF_MIN;
        self.check_invariants();
        AnswerKind::Answered
    }

    /// A replica says that the answer to a command is this now. Returns what has changed, if that is news: every replica
    /// that changes its answer says so.
    pub fn on_changed(&mut self, sequence: u64, uid: Uid, answer: &Answer) -> Option<Change> {
        self.observe(uid.timestamp);
        let answered = self.answered.get_mut(&sequence)?;
        if answered.answer == *answer || is_about_session(answer) {
            return None;
        }
        let before = std::mem::replace(&mut answered.answer, answer.clone());
        Some(Change { command: answered.command.clone(), before })
    }

    /// Takes a refusal of an attempt.
    pub fn on_refused(&mut self, now: Timestamp, link: usize, sequence: u64, timestamp: Timestamp) {
        if let Some(request) = self.in_flight.get_mut(&sequence)
            && request.timestamp == timestamp
        {
            request.refused.insert(link);
            if self.reach.is_within(request.refused) {
                self.plan_retry(now);
            }
        }
    }

    /// Whether a command is refused by all links in reach.
    pub fn is_refused(&self) -> bool {
        self.refused_by_all().is_some()
    }

    /// A link became ready. Returns what it has to be sent: everything in flight, in order, with the timestamps it has.
    /// (Replicas recognize what they have already.)
    pub fn on_link_ready(&mut self, link: usize) -> Vec<Outgoing> {
        self.reach.insert(link);
        for request in self.in_flight.values_mut() {
            request.refused.remove(link);
            request.told = true;
        }
        self.in_flight.iter().map(|(&sequence, request)| request.outgoing(sequence)).collect()
    }

    /// A link is no longer in reach: what it would have said is not waited for.
    pub fn on_link_lost(&mut self, now: Timestamp, link: usize) {
        self.reach.remove(link);
        if self.refused_by_all().is_some() {
            self.plan_retry(now);
        }
    }

    /// What is to be repeated now, to every link in reach. Empty before [`Session::deadline`].
    pub fn due(&mut self, now: Timestamp) -> Vec<Outgoing> {
        if self.reach.is_empty() {
            return Vec::new();
        }
        let mut first = None;
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            first = self.refused_by_all();
        }
        if self.overdue_at().is_some_and(|at| at <= now) {
            first = self.in_flight.first_key_value().map(|(&oldest, _)| oldest);
        }
        let Some(first) = first else { return Vec::new() };
        let mut repeated = Vec::new();
        let clock = now.offset_by(self.offset);
        for (&sequence, request) in self.in_flight.range_mut(first..) {
            self.highest = clock.max(self.highest.next());
            request.timestamp = self.highest;
            request.begun = now;
            request.refused = LinkSet::EMPTY;
            request.told = true;
            repeated.push(request.outgoing(sequence));
        }
        self.check_invariants();
        repeated
    }

    /// When [`Session::due`] will have something to repeat; `None` while nothing is in flight or no link is in reach.
    pub fn deadline(&self) -> Option<Timestamp> {
        if self.reach.is_empty() {
            return None;
        }
        self.overdue_at().into_iter().chain(self.retry_at).min()
    }

    /// When the oldest command has been without an answer for too long: two delivery bounds and a second after it was
    /// sent, or after anything else was answered. (Replicas that are merely slow must not get everything again.)
    fn overdue_at(&self) -> Option<Timestamp> {
        let (_, oldest) = self.in_flight.first_key_value()?;
        Some(oldest.begun.max(self.progress).after(self.delivery_bound * 2 + Duration::from_secs(1)))
    }

    /// The first command that every link in reach has refused.
    fn refused_by_all(&self) -> Option<u64> {
        let refused = |request: &InFlight| !request.refused.is_empty() && self.reach.is_within(request.refused);
        self.in_flight.iter().find(|(_, request)| refused(request)).map(|(&sequence, _)| sequence)
    }

    /// Repeats what was refused by all after a while, unless that is planned already.
    fn plan_retry(&mut self, now: Timestamp) {
        if self.retry_at.is_none() {
            self.retry_at = Some(now.after(self.backoff));
            self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Compares a later answer with the first.
    fn compare(&self, sequence: u64, answer: &Answer) -> AnswerKind {
        match self.answered.get(&sequence) {
            Some(first) if first.answer == *answer => AnswerKind::Repeated,
            Some(first) if !is_about_session(&first.answer) && !is_about_session(answer) => {
                AnswerKind::Differs { link: first.link, answer: first.answer.clone() }
            }
            _ => AnswerKind::Passed,
        }
    }

    /// What must hold between any two calls.
    fn check_invariants(&self) {
        if cfg!(debug_assertions) {
            let mut before = Timestamp::ZERO;
            for (&sequence, request) in &self.in_flight {
                assert!(sequence < self.next && self.next - sequence <= WINDOW, "in the window");
                assert!(request.timestamp > before, "timestamps increase");
                before = request.timestamp;
            }
            assert!(before <= self.highest);
        }
    }
}

impl InFlight {
    /// The current attempt.
    fn outgoing(&self, sequence: u64) -> Outgoing {
        Outgoing { sequence, timestamp: self.timestamp, command: self.command.clone() }
    }
}

/// Whether an answer tells of what a replica remembers of the session, rather than of the command.
fn is_about_session(answer: &Answer) -> bool {
    matches!(answer, Answer::Rejected { reason: Rejection::AnswerForgotten | Rejection::NotYourSession })
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
