//! One session of a client: commands in order, repeated until each is answered.
//!
//! The problem: every command goes to every replica in reach, any of which may refuse it, die with it, or answer late; yet
//! commands must take effect in the order in which they were issued, each at most once. Replicas see to "in order" and "at
//! most once" by the session's sequence numbers, so a command may be repeated freely under its own number. What is left to
//! do here is to decide when to repeat which commands: a command that every link in reach has refused, or that has not been
//! answered for too long, is issued again with a new timestamp. So are all commands behind it, since none of them can take
//! effect before it does.
//!
//! Pure: time is an argument, sending is a return value, and nothing is random. The driver of a session reports
//! the events of the links to it, sends the commands it returns, and calls [`Session::due`] when [`Session::deadline`] has come.
//!
//! All commands of a session must go out under one login, because replicas bind a session to the actor of its first command.
//! The actor is also part of each request's digest, by which answers are matched with commands: a client id and a number do
//! not tell which command an answer is for. A user may give another command under the same key (`send --id KEY`), in this
//! process or in another one, before the first is answered everywhere.

use crate::reach::LinkSet;
use stablechat_protocol::answer::{Answer, Rejection};
use stablechat_protocol::command::Command;
use stablechat_protocol::request::{Actor, Request};
use stablechat_protocol::session::{ClientId, WINDOW};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long to wait before repeating a command that every link refused; doubles from one repetition to the next. The first wait is
/// short: most commands that are refused came a little late, and the replicas wait longer from then on.
pub const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// Where the doubling of [`BACKOFF_MIN`] stops.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How long at least to wait for the others when some replicas have refused: longer than a busy replica takes to answer.
pub(crate) const REFUSED_PATIENCE: Duration = Duration::from_millis(100);

/// How far after our corrected clock a timestamp may lie that a replica tells us, unless the delivery bound is shorter. Replicas accept
/// nothing that is further ahead than 50 ms, and their clocks agree. Without a limit, one replica with a wrong clock could tell of a
/// time so far ahead that all others would refuse whatever comes after it.
const SEEN_AHEAD_MAX: Duration = Duration::from_secs(1);
/// The longest time that a replica can ask us to wait. One that is sick must not silence us.
const THROTTLED_MAX: Duration = Duration::from_secs(60);

/// A command to be sent as `ToReplica::Request`, in the order in which it is returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub sequence: u64,
    /// The timestamp of this attempt.
    pub timestamp: Timestamp,
    pub command: Command,
}

/// How an answer compares with the answers that came before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// The first answer to the command, which is no longer in flight.
    Answered,
    /// The same as the first answer, from another link or again.
    Repeated,
    /// The replicas disagree: the first answer was `answer`, from `link`, and this one is another.
    Differs { link: usize, answer: Answer },
    /// It says nothing about the command's effect: only that an attempt came too early, or that the replica has forgotten
    /// its answer.
    Uninformative,
    /// It is for another command under the same client id and number, and says nothing about ours.
    Foreign,
}

/// A command whose answer has changed since it was first given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub command: Command,
    /// The answer before the change.
    pub before: Answer,
}

/// Invariant: sequence numbers in flight lie within one [`WINDOW`], and their timestamps increase with them.
#[derive(Clone, Debug)]
pub struct Session {
    client: ClientId,
    /// The login under which all commands go out.
    actor: Option<Actor>,
    /// Δ of the cluster.
    delivery_bound: Duration,
    /// The sequence number of the next command.
    next: u64,
    /// How far the replicas' clocks are ahead of the one that `now` is read from, in nanoseconds.
    offset: i64,
    /// The highest timestamp that was issued here or seen in an answer or a message, and could be believed then.
    highest: Timestamp,
    in_flight: BTreeMap<u64, InFlight>,
    /// The commands that were answered last, at most [`WINDOW`]: later answers are compared with the first.
    answered: BTreeMap<u64, Answered>,
    /// The links that are ready.
    reach: LinkSet,
    /// The links whose replicas have said that they lack a command that another replica has answered. They reject every later
    /// command of this session.
    gaps: LinkSet,
    /// When a command was last answered for the first time.
    progress: Timestamp,
    /// When to repeat the commands that all links have refused; `None` while there is none.
    retry_at: Option<Timestamp>,
    /// Until when each link wants no commands, because too many came.
    throttled_until: BTreeMap<usize, Timestamp>,
    /// How long the next such repetition waits.
    backoff: Duration,
}

/// The part of a uid that all attempts at a request have in common, and no other request has: it is made from the client id, the
/// number, the actor and the command.
type RequestDigest = [u8; 16];

#[derive(Clone, Debug)]
struct Answered {
    command: Command,
    digest: RequestDigest,
    /// The link that answered first.
    link: usize,
    /// The first answer, or the latest that replaced it through [`Session::on_changed`].
    answer: Answer,
}

/// A command without an answer.
#[derive(Clone, Debug)]
struct InFlight {
    command: Command,
    digest: RequestDigest,
    /// The timestamp of the current attempt.
    timestamp: Timestamp,
    /// When the current attempt began, by the uncorrected clock.
    begun: Timestamp,
    /// The links that refused the current attempt.
    refused: LinkSet,
    /// Whether any attempt was sent on a link, so that the command may have taken effect.
    was_sent: bool,
}

impl Session {
    /// A session without commands, with no link in reach, for commands of this actor.
    pub fn new(client: ClientId, actor: Option<Actor>, delivery_bound: Duration) -> Session {
        Session {
            client,
            actor,
            delivery_bound,
            next: 1,
            offset: 0,
            highest: Timestamp::ZERO,
            in_flight: BTreeMap::new(),
            answered: BTreeMap::new(),
            reach: LinkSet::EMPTY,
            gaps: LinkSet::EMPTY,
            progress: Timestamp::ZERO,
            retry_at: None,
            throttled_until: BTreeMap::new(),
            backoff: BACKOFF_MIN,
        }
    }

    /// A session of the same actor under another client id, on the same links, whose timestamps are above all of this one's.
    pub fn successor(&self, client: ClientId) -> Session {
        self.successor_of_actor(client, self.actor.clone())
    }

    /// The same, for commands of another actor.
    pub fn successor_of_actor(&self, client: ClientId, actor: Option<Actor>) -> Session {
        let mut session = Session::new(client, actor, self.delivery_bound);
        session.resume_after(self);
        session
    }

    /// Takes over another session's links, clock offset and highest timestamp.
    ///
    /// # Panics
    /// A command is in flight here: it would never be sent on the links that became ready for the other session.
    pub fn resume_after(&mut self, other: &Session) {
        assert!(self.is_idle(), "the links must not change while commands are in flight");
        self.highest = self.highest.max(other.highest);
        (self.offset, self.reach) = (other.offset, other.reach);
    }

    pub fn client(&self) -> ClientId {
        self.client
    }

    /// The sequence number that the next command will have.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// The highest timestamp that was issued or seen. A session that follows this one should [`Session::observe`] it.
    pub fn highest(&self) -> Timestamp {
        self.highest
    }

    /// When a command was last answered for the first time.
    pub fn progress(&self) -> Timestamp {
        self.progress
    }

    /// Whether no command is in flight.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether this command is in flight and may have taken effect, because it was sent on a link.
    pub fn is_in_doubt(&self, sequence: u64) -> bool {
        self.in_flight.get(&sequence).is_some_and(|request| request.was_sent)
    }

    /// Whether a replica lacks a command of this session that others have answered, so that it rejects all later ones.
    /// Once the session is idle, a new session should replace it: that replica can take part in the new one from its start.
    pub fn has_gap(&self) -> bool {
        !self.gaps.is_empty()
    }

    /// Whether [`Session::has_gap`] holds for every replica in reach while commands are in flight: nobody will answer them.
    pub fn is_stranded(&self) -> bool {
        !self.is_idle() && !self.reach.is_empty() && self.reach.is_within(self.gaps)
    }

    /// Whether a command may be issued: the oldest one in flight is less than a window back.
    pub fn can_issue(&self) -> bool {
        self.in_flight.first_key_value().is_none_or(|(&oldest, _)| self.next - oldest < WINDOW)
    }

    /// Notes a timestamp that was seen in a message or an answer, so that all later ones are above it. One that lies too far ahead is
    /// that of a wrong clock, and is ignored.
    pub fn observe(&mut self, now: Timestamp, seen: Timestamp) {
        if seen <= self.believable(now) {
            self.highest = self.highest.max(seen);
        }
    }

    /// Sets how far the replicas' clocks are ahead of the clock that `now` is read from, in nanoseconds; 0 until then.
    /// Timestamps are corrected by it. Time limits are not: a correction must not make one longer or shorter.
    pub fn set_clock_offset(&mut self, offset: i64) {
        self.offset = offset;
    }

    /// A timestamp above all that were issued and seen, for a query, which has no place in the session.
    pub fn stamp(&mut self, now: Timestamp) -> Timestamp {
        let in_flight = self.in_flight.last_key_value().map_or(Timestamp::ZERO, |(_, last)| last.timestamp);
        self.forget_unbelievable(now, in_flight);
        self.highest = now.offset_by(self.offset).max(self.highest.next());
        self.highest
    }

    /// Issues a command, to be sent on every link in reach.
    ///
    /// # Panics
    /// [`Session::can_issue`] does not hold.
    pub fn issue(&mut self, now: Timestamp, command: Command) -> Outgoing {
        assert!(self.can_issue(), "a full window takes no commands");
        let sequence = self.next;
        self.next += 1;
        let timestamp = self.stamp(now);
        let was_sent = !self.reach.is_empty();
        let digest = self.digest_of(sequence, &command);
        let request = InFlight { command, digest, timestamp, begun: now, refused: LinkSet::EMPTY, was_sent };
        let outgoing = request.outgoing(sequence);
        self.in_flight.insert(sequence, request);
        self.check_invariants();
        outgoing
    }

    /// Takes an answer to the request with this number and uid, which may be another command than ours.
    pub fn on_answer(&mut self, now: Timestamp, link: usize, sequence: u64, uid: Uid, answer: &Answer) -> AnswerKind {
        self.observe(now, uid.timestamp);
        if self.digest(sequence).is_some_and(|digest| digest != uid.digest) {
            return AnswerKind::Foreign;
        }
        if let Answer::Rejected { reason: Rejection::OutOfSequence { expected } } = answer {
            // This says something about this attempt only: at this replica, an earlier command has not taken effect yet.
            // Other replicas may have it, so the answer counts as a refusal.
            let oldest = self.in_flight.first_key_value().map_or(self.next, |(&oldest, _)| oldest);
            if *expected < oldest {
                self.gaps.insert(link);
            }
            self.on_refused(now, link, sequence, uid.timestamp, Duration::ZERO);
            return AnswerKind::Uninformative;
        }

        self.gaps.remove(link);
        let Some(InFlight { command, digest, .. }) = self.in_flight.remove(&sequence) else {
            return self.compare(sequence, answer);
        };
        self.answered.insert(sequence, Answered { command, digest, link, answer: answer.clone() });
        if self.answered.len() as u64 > WINDOW {
            self.answered.pop_first();
        }

        self.progress = now;
        self.backoff = BACKOFF_MIN;
        self.check_invariants();
        AnswerKind::Answered
    }

    /// A replica says that the answer to the request with this number and uid is now `answer`. Returns the change on its first
    /// report only: every replica that changes its answer reports it. It reports it to the connection that used the session last,
    /// whichever process issued the command.
    pub fn on_changed(&mut self, now: Timestamp, sequence: u64, uid: Uid, answer: &Answer) -> Option<Change> {
        self.observe(now, uid.timestamp);
        let answered = self.answered.get_mut(&sequence)?;
        if answered.digest != uid.digest || answered.answer == *answer || is_about_session(answer) {
            return None;
        }
        let before = std::mem::replace(&mut answered.answer, answer.clone());
        Some(Change { command: answered.command.clone(), before })
    }

    /// A replica refused the attempt with this timestamp, and wants no more for `wait`. Refusals of earlier attempts are ignored.
    pub fn on_refused(&mut self, now: Timestamp, link: usize, sequence: u64, timestamp: Timestamp, wait: Duration) {
        if let Some(request) = self.in_flight.get_mut(&sequence)
            && request.timestamp == timestamp
        {
            self.throttled_until.insert(link, now.after(wait.min(THROTTLED_MAX)));
            request.refused.insert(link);
            if self.reach.is_within(request.refused) {
                self.plan_retry(now);
            }
        }
    }

    /// Whether every link in reach has refused some command.
    pub fn is_refused(&self) -> bool {
        self.refused_by_all().is_some()
    }

    /// A link became ready. Returns the commands to send on it: all in flight, in order, with the timestamps they have, so
    /// that replicas recognize those that they hold already.
    pub fn on_link_ready(&mut self, link: usize) -> Vec<Outgoing> {
        self.reach.insert(link);
        for request in self.in_flight.values_mut() {
            request.refused.remove(link);
            request.was_sent = true;
        }
        self.in_flight.iter().map(|(&sequence, request)| request.outgoing(sequence)).collect()
    }

    /// A link is no longer in reach, so its answer is no longer waited for: if all others have refused, a retry is due.
    pub fn on_link_lost(&mut self, now: Timestamp, link: usize) {
        self.reach.remove(link);
        if self.refused_by_all().is_some() {
            self.plan_retry(now);
        }
    }

    /// The commands to repeat now on every link in reach, with new timestamps. Empty before [`Session::deadline`].
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

        // Everything behind the first as well, or its timestamp would be above theirs.
        let before = self.in_flight.range(..first).next_back().map_or(Timestamp::ZERO, |(_, before)| before.timestamp);
        self.forget_unbelievable(now, before);
        let mut repeated = Vec::new();
        let clock = now.offset_by(self.offset);
        for (&sequence, request) in self.in_flight.range_mut(first..) {
            self.highest = clock.max(self.highest.next());
            request.timestamp = self.highest;
            request.begun = now;
            request.refused = LinkSet::EMPTY;
            request.was_sent = true;
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

    /// When the oldest command has been in flight for too long, see [`patience`], since it was sent, or since any other was
    /// answered. (Replicas that answer slowly but steadily must not be sent everything again.)
    fn overdue_at(&self) -> Option<Timestamp> {
        let (_, oldest) = self.in_flight.first_key_value()?;
        let overdue = oldest.begun.max(self.progress).after(patience(self.delivery_bound, oldest.refused));
        // While replicas want no commands, repeating them would only be refused.
        Some(self.retry_at.map_or(overdue, |retry_at| retry_at.max(overdue)))
    }

    /// The highest timestamp that a replica can have accepted by now.
    fn believable(&self, now: Timestamp) -> Timestamp {
        now.offset_by(self.offset).after(SEEN_AHEAD_MAX.min(self.delivery_bound))
    }

    /// Forgets the highest timestamp if it cannot be right, as when our clock was corrected by that of a replica whose own is wrong,
    /// and is now corrected by others. What is issued next only has to come after `in_flight`.
    fn forget_unbelievable(&mut self, now: Timestamp, in_flight: Timestamp) {
        if self.highest > self.believable(now) {
            self.highest = in_flight;
        }
    }

    /// The first command that every link in reach has refused.
    fn refused_by_all(&self) -> Option<u64> {
        let refused = |request: &InFlight| !request.refused.is_empty() && self.reach.is_within(request.refused);
        self.in_flight.iter().find(|(_, request)| refused(request)).map(|(&sequence, _)| sequence)
    }

    /// Has the refused commands repeated after the backoff, unless that is planned already, and not before the first of the links
    /// wants commands again.
    fn plan_retry(&mut self, now: Timestamp) {
        if self.retry_at.is_none() {
            let until =
                self.throttled_until.iter().filter(|(link, _)| self.reach.contains(**link)).map(|(_, until)| *until);
            let until = until.min().unwrap_or(now);
            self.retry_at = Some(now.after(self.backoff).max(until));
            self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// The digest of our request with this number, if it is in flight or among the last that were answered.
    pub fn digest(&self, sequence: u64) -> Option<RequestDigest> {
        let in_flight = self.in_flight.get(&sequence).map(|request| request.digest);
        in_flight.or_else(|| self.answered.get(&sequence).map(|answered| answered.digest))
    }

    fn digest_of(&self, sequence: u64, command: &Command) -> RequestDigest {
        let (client, actor, command) = (self.client, self.actor.clone(), command.clone());
        Request { client, sequence, actor, command }.uid(Timestamp::ZERO).digest
    }

    /// Compares a later answer with the first.
    fn compare(&self, sequence: u64, answer: &Answer) -> AnswerKind {
        match self.answered.get(&sequence) {
            Some(first) if first.answer == *answer => AnswerKind::Repeated,
            Some(first) if !is_about_session(&first.answer) && !is_about_session(answer) => {
                AnswerKind::Differs { link: first.link, answer: first.answer.clone() }
            }
            _ => AnswerKind::Uninformative,
        }
    }

    /// Asserts what must hold between any two calls.
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

/// How long an attempt may go unanswered that these links have refused: two delivery bounds and a second, within which the replicas
/// answer what any of them has accepted. If some have refused it and the others say nothing, most likely these hang and have not
/// accepted it either, so it is half a delivery bound and [`REFUSED_PATIENCE`] then. If one of them has, its answer to the first attempt is as good.
fn patience(delivery_bound: Duration, refused: LinkSet) -> Duration {
    match refused.is_empty() {
        true => delivery_bound * 2 + Duration::from_secs(1),
        false => delivery_bound / 2 + REFUSED_PATIENCE,
    }
}

impl InFlight {
    fn outgoing(&self, sequence: u64) -> Outgoing {
        Outgoing { sequence, timestamp: self.timestamp, command: self.command.clone() }
    }
}

/// Whether an answer describes what a replica remembers of the session, rather than the command's effect.
fn is_about_session(answer: &Answer) -> bool {
    matches!(answer, Answer::Rejected { reason: Rejection::AnswerForgotten | Rejection::NotYourSession })
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
