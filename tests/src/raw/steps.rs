//! The usual steps of a client that keeps to the protocol: commands and queries with their answers, and pushed messages.

use super::{Answered, RawClient, Received};
use crate::pipeline::{Meaning, Pipeline, Settled};
use crate::session::{self, Session, stamp, timeline, unread};
use stablechat_client::session::BACKOFF_MIN;
use stablechat_protocol::answer::{Answer, QueryAnswer, Refusal};
use stablechat_protocol::command::{Command, Query};
use stablechat_protocol::conversation::Message;
use stablechat_protocol::digest::Digest;
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::name::Pattern;
use stablechat_protocol::request::RequestId;
use stablechat_protocol::room::RoomNews;
use stablechat_protocol::time::Timestamp;
use std::io;
use std::thread;
use std::time::Duration;

/// How long to wait for the answer to a query for the position. Shorter than the limits of the tests, which ask again.
const POSITION_LIMIT: Duration = Duration::from_secs(20);

impl RawClient {
    /// Sends a command, and returns the answer.
    pub fn call(&mut self, command: Command) -> Answer {
        self.call_at_length(command).answer
    }

    /// Sends a command, again after each refusal that passes, and returns the answer with its uid and metadata.
    pub fn call_at_length(&mut self, command: Command) -> Answered {
        let request = self.session.next(command.clone());
        self.send(&request).expect("the connection stands");
        loop {
            match self.answer_or_refusal() {
                Ok(answered) => return answered,
                // The machine is busy: it took longer than the delivery bound to get the request through.
                // Or the replica is still finding its peers.
                Err(Refusal::Late | Refusal::NotServing) => {
                    // As a client does. Replicas count repetitions, and refuse them when they come too fast.
                    thread::sleep(BACKOFF_MIN);
                    let again = self.session.attempt(self.session.sequence, stamp(), command.clone());
                    self.send(&again).expect("the connection stands");
                }
                Err(refusal) => panic!("{command:?} is refused: {refusal}"),
            }
        }
    }

    /// Sends a command with this sequence number, again while attempts are refused as late, and returns the answer.
    pub fn attempt(&mut self, session: &Session, sequence: u64, command: &Command) -> Answer {
        loop {
            self.send(&session.attempt(sequence, stamp(), command.clone())).expect("the connection stands");
            match self.answer_or_refusal() {
                Ok(answered) => return answered.answer,
                Err(Refusal::Late) => {}
                Err(refusal) => panic!("{command:?} is refused: {refusal}"),
            }
        }
    }

    /// Sends commands that are all in flight at the same time, and returns their answers in order. After a refusal it repeats the
    /// refused request and those after it.
    pub fn call_all(&mut self, commands: impl IntoIterator<Item = Command>) -> Vec<Settled> {
        let (mut pipeline, mut frames) = (Pipeline::default(), Vec::new());
        commands.into_iter().for_each(|command| pipeline.issue(command, &mut frames));
        self.settle(&mut pipeline, &frames)
    }

    /// Sends frames of a session, waits until nothing of it is in flight, and returns the answers in order.
    pub fn settle(&mut self, pipeline: &mut Pipeline, frames: &[u8]) -> Vec<Settled> {
        self.send_bytes(frames).expect("the connection stands");
        let mut answered = Vec::new();
        while pipeline.in_flight() > 0 {
            match pipeline.on_message(&self.receive_other()) {
                Meaning::Settled(settled) => answered.push(settled),
                Meaning::Repeat(frames) => self.send_bytes(&frames).expect("the connection stands"),
                Meaning::Nothing => {}
            }
        }
        answered.sort_by_key(|settled| settled.sequence);
        answered
    }

    /// The next answer to a command, or the refusal of one.
    ///
    /// # Errors
    /// The refusal.
    pub fn answer_or_refusal(&mut self) -> Result<Answered, Refusal> {
        match self.receive_other() {
            ToClient::Answer { uid, answer, metadata, .. } => Ok(Answered { answer, uid, metadata }),
            ToClient::Refused { request: RequestId::Command { .. }, reason, .. } => Err(reason),
            other => panic!("waited for an answer, but got {other:?}"),
        }
    }

    /// Sends a query, again while it is refused as late or for lack of time, and returns the answer.
    pub fn ask(&mut self, query: Query) -> QueryAnswer {
        loop {
            self.query += 1;
            let query = ToReplica::Query { id: self.query, timestamp: stamp(), query: query.clone() };
            self.send(&query).expect("the connection stands");
            match self.receive_other() {
                ToClient::QueryAnswer { id, answer, .. } => {
                    assert_eq!(id, self.query);
                    return answer;
                }
                ToClient::Refused { reason: Refusal::Late | Refusal::Overloaded, .. } => {}
                other => panic!("waited for the answer to {query:?}, but got {other:?}"),
            }
        }
    }

    /// Sends a query of which only the answer's metadata matters; see [`RawClient::position`].
    ///
    /// # Errors
    /// The connection is gone.
    pub fn ask_for_position(&mut self, timestamp: Timestamp) -> io::Result<()> {
        let query = Query::List { pattern: Pattern::parse("nobody").expect("a pattern"), after: None, limit: 1 };
        self.send(&ToReplica::Query { id: timestamp.0, timestamp, query })
    }

    /// The length and the digest of the log at the place of the query that was sent before; none when the replica refuses to
    /// answer, hangs, or the connection is gone.
    pub fn position(&mut self, asked: Timestamp) -> Option<(u64, Digest)> {
        loop {
            match self.receive_within(POSITION_LIMIT) {
                Received::Message(ToClient::QueryAnswer { id, metadata, .. }) if id == asked.0 => {
                    return Some((metadata.position, metadata.log_digest));
                }
                Received::Message(ToClient::Delivery { .. }) => {}
                _ => return None,
            }
        }
    }

    /// All unread messages, oldest first.
    pub fn unread(&mut self) -> Vec<Message> {
        unread(|query| self.ask(query))
    }

    /// All messages of a conversation, oldest first.
    pub fn timeline(&mut self, conversation: &str) -> Vec<Message> {
        timeline(&session::conversation(conversation), |query| self.ask(query))
    }

    /// Checks that the replica serves this connection: pings, and waits for the pong.
    pub fn ping(&mut self) {
        let sent = Timestamp(fastrand::u64(..));
        self.send(&ToReplica::Ping { sent }).expect("the connection stands");
        let ToClient::Pong { sent: returned, .. } = self.receive_other() else { panic!("not a pong") };
        assert_eq!(returned, sent);
    }

    /// The next message that was delivered.
    pub fn delivery(&mut self) -> Message {
        if let Some(message) = self.deliveries.pop_front() {
            return message;
        }
        loop {
            match self.receive() {
                ToClient::Delivery { message } => return message,
                ToClient::RoomNews { news } => self.news.push_back(news),
                ToClient::InboxChanged => {}
                other => panic!("waited for a delivery, but got {other:?}"),
            }
        }
    }

    /// The number of deliveries that came and were not taken with [`RawClient::delivery`].
    pub fn delivered(&self) -> usize {
        self.deliveries.len()
    }

    /// The next message that is not a delivery.
    pub fn receive_other(&mut self) -> ToClient {
        loop {
            match self.receive() {
                ToClient::Delivery { message } => self.deliveries.push_back(message),
                ToClient::RoomNews { news } => self.news.push_back(news),
                other => return other,
            }
        }
    }

    /// The next thing that has happened in a room.
    pub fn news(&mut self) -> RoomNews {
        if let Some(news) = self.news.pop_front() {
            return news;
        }
        match self.receive() {
            ToClient::RoomNews { news } => news,
            other => panic!("waited for news of a room, but got {other:?}"),
        }
    }

    /// The number of news that came and were not taken with [`RawClient::news`].
    pub fn news_left(&self) -> usize {
        self.news.len()
    }
}
