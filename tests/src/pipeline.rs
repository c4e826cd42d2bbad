//! A session with many requests in flight. It has no connection, so that it can be used over one or several, and outlive them.
//!
//! It does what `docs/PROTOCOL.md` asks of clients: timestamps increase with sequence numbers, and a repeated request is followed
//! by repetitions of all unanswered requests after it.

use crate::raw::frame;
use crate::session::{Session, stamp};
use stablechat_protocol::answer::{Answer, Rejection};
use stablechat_protocol::command::Command;
use stablechat_protocol::message::ToClient;
use stablechat_protocol::request::RequestId;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::BTreeMap;

/// A session and its unanswered requests.
#[derive(Debug, Default)]
pub struct Pipeline {
    session: Session,
    /// By sequence number: the timestamp of the last attempt, and the command.
    unanswered: BTreeMap<u64, (Timestamp, Command)>,
    /// How often a refusal made requests repeat.
    repetitions: u64,
}

/// The effect of a message on the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A request is answered for good.
    Settled(Settled),
    /// Requests have to be repeated: send these frames.
    Repeat(Vec<u8>),
    Nothing,
}

/// A request that is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    pub sequence: u64,
    /// The attempt that was answered.
    pub uid: Uid,
    /// The timestamp of the last attempt.
    pub issued: Timestamp,
    pub answer: Answer,
}

impl Pipeline {
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// How many requests are unanswered.
    pub fn in_flight(&self) -> usize {
        self.unanswered.len()
    }

    /// How often a refusal made requests repeat.
    pub fn repetitions(&self) -> u64 {
        self.repetitions
    }

    /// Issues a request, and appends its frame to `frames`.
    pub fn issue(&mut self, command: Command, frames: &mut Vec<u8>) {
        self.session.sequence += 1;
        self.attempt(self.session.sequence, command, frames);
    }

    /// The frames that repeat all unanswered requests from this sequence number on.
    pub fn repeat_from(&mut self, sequence: u64) -> Vec<u8> {
        let mut frames = Vec::new();
        for (sequence, (_, command)) in self.unanswered.split_off(&sequence) {
            self.attempt(sequence, command, &mut frames);
        }
        frames
    }

    /// Issues an attempt at a request.
    fn attempt(&mut self, sequence: u64, command: Command, frames: &mut Vec<u8>) {
        let timestamp = stamp();
        frames.extend(frame(&self.session.attempt(sequence, timestamp, command.clone())));
        self.unanswered.insert(sequence, (timestamp, command));
    }

    /// Takes a message from a replica.
    pub fn on_message(&mut self, message: &ToClient) -> Meaning {
        match message {
            ToClient::Answer { client, sequence, uid, answer, .. } if *client == self.session.client => {
                if matches!(answer, Answer::Rejected { reason: Rejection::OutOfSequence { .. } }) {
                    return self.repeat_if_last(*sequence, uid.timestamp);
                }
                match self.unanswered.remove(sequence) {
                    Some((issued, _)) => {
                        let (sequence, uid, answer) = (*sequence, *uid, answer.clone());
                        Meaning::Settled(Settled { sequence, uid, issued, answer })
                    }
                    None => Meaning::Nothing,
                }
            }
            ToClient::Refused { request: RequestId::Command { client, sequence }, timestamp, .. }
                if *client == self.session.client =>
            {
                self.repeat_if_last(*sequence, *timestamp)
            }
            _ => Meaning::Nothing,
        }
    }

    /// Repeats a request and those after it, unless this attempt has been repeated already.
    fn repeat_if_last(&mut self, sequence: u64, timestamp: Timestamp) -> Meaning {
        if self.unanswered.get(&sequence).is_none_or(|(last, _)| *last != timestamp) {
            return Meaning::Nothing;
        }
        self.repetitions += 1;
        Meaning::Repeat(self.repeat_from(sequence))
    }
}
