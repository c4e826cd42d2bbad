//! The applier: performs what the replication protocol wants on the store, and says what to send.
//!
//! [`Applier::wake`] is one wake: take in what the poll loop read, apply what became stable, commit it with one sync, and
//! only then let the answers out. It has no thread and no channel, so that the simulator can drive it; [`run`] is the thread
//! around it.

use crate::clock::Clock;
use crate::net::{Event, Mailbox, Round, Sent};
use crate::replica::{Body, ConnectionId, Input, Output, Replica};
use crate::store::{ChatStore, Delivery, Outcome, StoreError};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use stablechat_protocol::answer::{Message, Note, QueryAnswer, Stability};
use stablechat_protocol::message::ToClient;
use stablechat_protocol::request::Actor;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeMap, BTreeSet};

/// The most requests that one batch of the store holds, which bounds its memory.
const BATCH_MAX: usize = 4096;
/// The most bytes, roughly, that one wake gathers before it lets them out: what bounds the memory of many large pages.
const SENT_MAX: usize = 4 * 1024 * 1024;
/// The most rounds of the poll loop that one wake takes in, so that answers are not kept waiting under load.
const ROUNDS_MAX: usize = 64;

/// The protocol, the store, and who listens.
pub struct Applier {
    replica: Replica,
    store: ChatStore,
    audience: Audience,
    /// What the replica wants done; empty between wakes.
    outputs: Vec<Output>,
    /// Whether the replica has stopped.
    stopped: bool,
}

impl Applier {
    /// An applier for a replica and its store, with nobody listening.
    pub fn new(replica: Replica, store: ChatStore) -> Applier {
        Applier { replica, store, audience: Audience::default(), outputs: Vec::new(), stopped: false }
    }

    /// The protocol's state.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The chat's state.
    pub fn store(&self) -> &ChatStore {
        &self.store
    }

    /// Whether the replica has stopped, after [`Event::Stop`].
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Takes in rounds of the poll loop, in their order, and posts what is to be sent. Everything that a posted answer says
    /// is durable. `clock` reads the replica's clock, for refusals to report.
    ///
    /// # Errors
    /// Storage failed; the process has to end.
    pub fn wake(
        &mut self,
        rounds: impl IntoIterator<Item = Round>,
        clock: impl Fn() -> Timestamp,
        mut post: impl FnMut(Vec<Sent>),
    ) -> Result<(), StoreError> {
        let mut sent = Unsent::default();
        for round in rounds {
            for event in round.events {
                self.on_event(event);
                self.perform(&mut sent, &clock, &mut post)?;
            }
            if let Some(time) = round.drained {
                self.replica.step(Input::Drained { time }, &mut self.outputs);
                self.perform(&mut sent, &clock, &mut post)?;
            }
        }
        self.release(&mut sent, &mut post)
    }

    /// Makes what was applied durable, then lets the answers out.
    fn release(&mut self, sent: &mut Unsent, post: &mut impl FnMut(Vec<Sent>)) -> Result<(), StoreError> {
        self.store.commit()?;
        let Unsent { messages, .. } = std::mem::take(sent);
        if !messages.is_empty() {
            post(messages);
        }
        Ok(())
    }

    /// Passes an event on to whom it concerns.
    fn on_event(&mut self, event: Event) {
        match event {
            Event::Request { time, from, timestamp, body } => {
                self.replica.step(Input::Request { time, from, timestamp, body }, &mut self.outputs);
            }
            Event::LoggedIn { connection, actor, receive } => self.audience.set(connection, receive.then_some(actor)),
            Event::LoggedOut { connection } | Event::Closed { connection } => self.audience.set(connection, None),
            Event::Stop => self.replica.step(Input::Stop, &mut self.outputs),
        }
    }

    /// Performs what the replica wants done, and releases what has gathered when it is much.
    fn perform(
        &mut self,
        sent: &mut Unsent,
        clock: &impl Fn() -> Timestamp,
        post: &mut impl FnMut(Vec<Sent>),
    ) -> Result<(), StoreError> {
        for output in std::mem::take(&mut self.outputs) {
            match output {
                Output::Apply { uid, body, stability, copies, waiting } => {
                    let answer = self.apply(uid, body, stability, copies, sent)?;
                    waiting.into_iter().for_each(|to| sent.push(to, answer.clone()));
                }
                Output::Refuse { to, request, timestamp, reason } => {
                    sent.push(to, ToClient::Refused { request, timestamp, reason, clock: clock() });
                }
                Output::Stopped => self.stopped = true,
            }
            if self.store.uncommitted() >= BATCH_MAX || sent.bytes >= SENT_MAX {
                self.release(sent, post)?;
            }
        }
        Ok(())
    }

    /// Applies a request or answers a question, and returns the answer for who waits.
    fn apply(
        &mut self,
        uid: Uid,
        body: Body,
        stability: Stability,
        copies: u8,
        sent: &mut Unsent,
    ) -> Result<ToClient, StoreError> {
        match body {
            Body::Request(request) => {
                let Outcome { answer, delivery } = self.store.apply(uid, &request)?;
                if let Some(delivery) = delivery {
                    self.audience.deliver(delivery, sent);
                }
                let note = self.note(stability, copies);
                Ok(ToClient::Answer { client: request.client, sequence: request.sequence, uid, answer, note })
            }
            Body::Question(question) => {
                let answer = self.store.query(&question)?;
                Ok(ToClient::QueryAnswer { id: question.id, answer, note: self.note(stability, copies) })
            }
        }
    }

    /// What is said around an answer.
    fn note(&self, stability: Stability, copies: u8) -> Note {
        let applied = self.store.applied();
        Note { position: applied.position, log_digest: applied.log_digest, stability, copies }
    }
}

/// What is to be sent once what it says is durable.
#[derive(Default)]
struct Unsent {
    messages: Vec<Sent>,
    /// About how many bytes they take.
    bytes: usize,
}

impl Unsent {
    /// Adds a message.
    fn push(&mut self, to: ConnectionId, message: ToClient) {
        const OVERHEAD: usize = 256;
        let text = |message: &Message| OVERHEAD + message.text.as_str().len();
        self.bytes += match &message {
            ToClient::QueryAnswer { answer: QueryAnswer::Messages { messages, .. }, .. } => {
                OVERHEAD + messages.iter().map(text).sum::<usize>()
            }
            ToClient::QueryAnswer { answer: QueryAnswer::Accounts { names, .. }, .. } => OVERHEAD * (1 + names.len()),
            ToClient::Delivery { message } => text(message),
            _ => OVERHEAD,
        };
        self.messages.push(Sent { to, message });
    }
}

/// Which connections get the messages to which account.
#[derive(Default)]
struct Audience {
    /// For whom a connection listens.
    accounts: BTreeMap<ConnectionId, Actor>,
    /// The inverse.
    connections: BTreeMap<Actor, BTreeSet<ConnectionId>>,
}

impl Audience {
    /// Lets a connection listen for this account and no other, or for none.
    fn set(&mut self, connection: ConnectionId, actor: Option<Actor>) {
        if let Some(before) = self.accounts.remove(&connection)
            && let Some(connections) = self.connections.get_mut(&before)
        {
            connections.remove(&connection);
            if connections.is_empty() {
                self.connections.remove(&before);
            }
        }
        if let Some(actor) = actor {
            self.connections.entry(actor.clone()).or_default().insert(connection);
            self.accounts.insert(connection, actor);
        }
    }

    /// Sends a message to all who listen for its recipient, with the recipient's key.
    fn deliver(&self, delivery: Delivery, sent: &mut Unsent) {
        for to in self.connections.get(&delivery.to).into_iter().flatten() {
            sent.push(*to, ToClient::Delivery { message: delivery.message.clone() });
        }
    }
}

/// The applier's thread: waits for rounds of the poll loop, or until something becomes stable, and ends when the replica has
/// stopped.
///
/// At a deadline it does not look at the clock itself: it asks the poll loop for a reading, which comes with everything that
/// had arrived by then.
///
/// # Errors
/// Storage failed.
pub fn run(mut applier: Applier, rounds: &Receiver<Round>, mailbox: &Mailbox, clock: Clock) -> Result<(), StoreError> {
    while !applier.is_stopped() {
        let deadline = applier.replica.deadline();
        let received = match deadline.map(|deadline| clock.instant_of(deadline)) {
            Some(deadline) => rounds.recv_deadline(deadline),
            None => rounds.recv().map_err(RecvTimeoutError::from),
        };
        let first = match received {
            Ok(round) => round,
            Err(RecvTimeoutError::Timeout) => {
                mailbox.ask_for_reading();
                match rounds.recv() {
                    Ok(round) => round,
                    Err(_) => break,
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let more = rounds.try_iter().take(ROUNDS_MAX - 1);
        applier.wake(std::iter::once(first).chain(more), || clock.now(), |sent| mailbox.post(sent))?;
        mailbox.resume();
    }
    Ok(())
}
