//! The replication protocol, as a pure state machine.
//!
//! The problem: requests reach the replicas in different orders, and every replica has to apply the same ones in the same
//! order. Schneider's answer (1990): order them by the timestamps that their clients gave them, and apply a request when it
//! is *stable*, that is, when nothing can come any more that is to be applied before it. No leader, and no quorum.
//!
//! [`Replica::step`] takes one [`Input`] and appends [`Output`]s for whoever drives it to perform. There is no socket, disk,
//! clock or randomness in here: time comes with the inputs, and [`Replica::deadline`] says when a reading of the clock will
//! be wanted next. The simulator drives this very type.
//!
//! **Time is an input.** Two readings of the clock come in, and they differ. That of a [`Input::Request`] was taken when the
//! request was read, and decides only whether its timestamp is too far ahead. That of [`Input::Drained`] was taken *before*
//! the sockets were last read until empty: everything that had arrived by then has been put in before. Only this one makes
//! requests stable. A replica that was suspended thereby reads what came meanwhile before it believes that time has passed.
//!
//! Left out so far: other replicas. Stability is decided by the real-time test alone, and the closed timestamp follows the
//! clock at the distance of the delivery bound.

mod pending;

use pending::{Pending, PendingRequests};
use stablechat_protocol::answer::{Refusal, Stability};
use stablechat_protocol::message::RequestId;
use stablechat_protocol::request::{Question, Request};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::time::Duration;

/// A connection, by a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Another replica, by its place in the cluster file, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u8);

/// What happens to a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A client issued a request or a question.
    Request {
        /// The replica's clock when it was read.
        time: Timestamp,
        /// Who gets the answer.
        from: ConnectionId,
        /// When its client issued it.
        timestamp: Timestamp,
        /// What is asked for.
        body: Body,
    },
    /// Everything that had arrived at this time, by the replica's clock, has been put in.
    Drained {
        /// The reading, taken before the sockets were read until empty.
        time: Timestamp,
    },
    /// The replica shall stop once what it has accepted is applied.
    Stop,
}

/// What a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A command in a session: held until it is stable, then applied and logged.
    Request(Request),
    /// A question: held until it is stable, then answered from the state at its place in the order.
    Question(Question),
}

impl Body {
    /// The identity of this body when it is issued at `timestamp`.
    pub fn uid(&self, timestamp: Timestamp) -> Uid {
        match self {
            Body::Request(request) => request.uid(timestamp),
            Body::Question(question) => question.uid(timestamp),
        }
    }

    /// What its client calls it.
    pub fn id(&self) -> RequestId {
        match self {
            Body::Request(request) => RequestId::Command { client: request.client, sequence: request.sequence },
            Body::Question(question) => RequestId::Query { id: question.id },
        }
    }
}

/// What a replica wants done, in the order in which it says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// This is next in the order: apply it, and give the answer to all who wait for it once it is durable.
    Apply {
        /// Its place in the order.
        uid: Uid,
        /// What to apply, or to answer.
        body: Body,
        /// By which test it is stable.
        stability: Stability,
        /// How many replicas, this one included, are known to hold it.
        copies: u8,
        /// The connections that it came on.
        waiting: Vec<ConnectionId>,
    },
    /// This was not accepted.
    Refuse {
        /// Who asked.
        to: ConnectionId,
        /// For what.
        request: RequestId,
        /// With which timestamp.
        timestamp: Timestamp,
        /// Why.
        reason: Refusal,
    },
    /// After [`Input::Stop`]: everything that was accepted has been applied.
    Stopped,
}

/// One replica's part in the protocol.
#[derive(Debug)]
pub struct Replica {
    /// Δ: nothing arrives later than this after its timestamp, and clock skew is within it.
    delivery_bound: Duration,
    /// How far an accepted timestamp may be ahead of the clock.
    ahead: Duration,
    /// The closed timestamp: no request with a timestamp up to it is accepted. Never moves back, and is never below the
    /// timestamp of an applied request.
    closed: Timestamp,
    /// The latest reading before which everything that had arrived has been put in. Never moves back.
    drained: Timestamp,
    /// What is accepted and not yet stable; all of it above `closed`.
    pending: PendingRequests,
    /// Whether [`Input::Stop`] has come.
    stopping: bool,
}

impl Replica {
    /// A replica that starts at `now`, by its clock, having applied everything up to `applied`.
    ///
    /// `delivery_bound` is Δ, and `ahead` how far an accepted timestamp may be ahead of the clock. What was accepted and not
    /// applied before a restart is gone; its clients have no answer, and the other replicas have their copies.
    pub fn new(delivery_bound: Duration, ahead: Duration, applied: Uid, now: Timestamp) -> Replica {
        let replica = Replica {
            delivery_bound,
            ahead,
            closed: applied.timestamp.max(now.before(delivery_bound)),
            drained: now,
            pending: PendingRequests::default(),
            stopping: false,
        };
        replica.check_invariants();
        replica
    }

    /// Takes one input, and appends what is to be done about it.
    pub fn step(&mut self, input: Input, outputs: &mut Vec<Output>) {
        match input {
            Input::Request { time, from, timestamp, body } => self.on_request(time, from, timestamp, body, outputs),
            Input::Drained { time } => self.on_drained(time, outputs),
            Input::Stop => self.stopping = true,
        }
        if self.stopping && self.pending.is_empty() {
            outputs.push(Output::Stopped);
        }
        self.check_invariants();
    }

    /// The reading of the clock at which something becomes stable that is not yet; none while nothing is pending.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.pending.first().map(|uid| uid.timestamp.after(self.delivery_bound).next())
    }

    /// How many requests and questions are pending.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Accepts a request, joins it to one that is held already, or refuses it.
    fn on_request(
        &mut self,
        time: Timestamp,
        from: ConnectionId,
        timestamp: Timestamp,
        body: Body,
        outputs: &mut Vec<Output>,
    ) {
        let uid = body.uid(timestamp);
        // A repetition of what is held is no new request, whatever we would say of one now.
        if self.pending.wait_for(uid, from) {
            return;
        }
        let refusal = if self.stopping {
            Some(Refusal::NotServing)
        } else if timestamp <= self.closed {
            Some(Refusal::Late)
        } else if timestamp > time.after(self.ahead) {
            Some(Refusal::Ahead)
        } else if self.pending.is_full() {
            Some(Refusal::Overloaded)
        } else {
            None
        };
        match refusal {
            Some(reason) => outputs.push(Output::Refuse { to: from, request: body.id(), timestamp, reason }),
            None => self.pending.insert(uid, body, from),
        }
    }

    /// Closes what lies more than the delivery bound back, and applies it: the real-time test (Schneider 1990, section 4.2).
    fn on_drained(&mut self, time: Timestamp, outputs: &mut Vec<Output>) {
        self.drained = self.drained.max(time);
        self.closed = self.closed.max(self.drained.before(self.delivery_bound));
        while self.pending.first().is_some_and(|uid| self.is_stable(uid)) {
            let Some(Pending { uid, body, waiting }) = self.pending.pop() else { break };
            outputs.push(Output::Apply { uid, body, stability: Stability::RealTime, copies: 1, waiting });
        }
    }

    /// Whether nothing can come any more that is to be applied before this one.
    fn is_stable(&self, uid: Uid) -> bool {
        self.drained > uid.timestamp.after(self.delivery_bound)
    }

    /// What holds between any two inputs.
    fn check_invariants(&self) {
        debug_assert!(
            self.pending.first().is_none_or(|uid| uid.timestamp > self.closed.before(Duration::from_nanos(1))),
            "nothing pending is below the closed timestamp"
        );
        debug_assert!(self.pending.first().is_none_or(|uid| !self.is_stable(uid)), "nothing pending is stable");
    }
}

#[cfg(test)]
mod tests;
