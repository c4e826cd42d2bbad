//! The applier: performs what the replication protocol wants on the store, and says what to send.
//!
//! [`Applier::wake`] is one wake: take in what the poll loop read, tell the peers what is new, apply what became stable,
//! commit it with one sync, and only then let the answers out. It has no thread and no channel, so that the simulator can
//! drive it; [`run`] is the thread around it.

mod audience;
mod boundaries;
mod unsent;

use crate::clock::Clock;
use crate::net::{Event, Mailbox, Round, Sent};
use crate::replica::{Body, ConnectionId, Input, Output, Replica, Settings, Start, in_messages};
use crate::store::{ChatStore, Outcome, StoreError};
use audience::Audience;
use boundaries::Boundaries;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use stablechat_protocol::answer::{Note, Stability};
use stablechat_protocol::message::ToClient;
use stablechat_protocol::peer::{BODIES_BYTES, Held, PeerMessage};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::BTreeMap;
use unsent::Unsent;

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
    boundaries: Boundaries,
    /// What the replica wants done; empty between wakes.
    outputs: Vec<Output>,
    /// How many requests have been undone and applied again since the start.
    undone: u64,
    /// Whether the replica has stopped.
    stopped: bool,
}

impl Applier {
    /// A replica that starts at `now`, by its clock, with what its store holds, and with nobody listening.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn start(settings: Settings, store: ChatStore, now: Timestamp) -> Result<Applier, StoreError> {
        let horizon = Uid { timestamp: now.before(settings.memory()), digest: [0; 16] };
        let recent = store.log(horizon).map(|entry| entry.map(|(uid, _)| uid)).collect::<Result<_, _>>()?;
        let start = Start { epoch: store.epoch(), applied: store.applied().uid, recent, now };
        Ok(Applier {
            replica: Replica::new(settings, start),
            store,
            audience: Audience::default(),
            boundaries: Boundaries::default(),
            outputs: Vec::new(),
            undone: 0,
            stopped: false,
        })
    }

    /// The protocol's state.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The chat's state.
    pub fn store(&self) -> &ChatStore {
        &self.store
    }

    /// How many requests have been undone and applied again since the start: none while the assumption holds.
    pub fn undone(&self) -> u64 {
        self.undone
    }

    /// Whether the replica has stopped, after [`Event::Stop`].
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Takes in rounds of the poll loop, in their order, and posts what is to be sent. Everything that a posted answer says
    /// is durable. `clock` reads the replica's clock.
    ///
    /// # Errors
    /// Storage failed; the process has to end.
    pub fn wake(
        &mut self,
        rounds: impl IntoIterator<Item = Round>,
        clock: impl Fn() -> Timestamp,
        mut post: impl FnMut(Vec<Sent>),
    ) -> Result<(), StoreError> {
        let mut unsent = Unsent::default();
        self.replica.step(Input::Woken { time: clock() }, &mut self.outputs);
        for round in rounds {
            for event in round.events {
                self.on_event(event);
            }
            if let Some(time) = round.drained {
                self.replica.step(Input::Drained { time }, &mut self.outputs);
            }
        }
        let now = clock();
        self.replica.step(Input::Handled { time: now }, &mut self.outputs);
        self.boundaries.exchange(now, &self.replica, &self.store, &mut unsent);
        self.perform(now, &mut unsent, &mut post)
    }

    /// Passes an event on to whom it concerns.
    fn on_event(&mut self, event: Event) {
        let input = match event {
            Event::Request { time, from, timestamp, body } => Input::Request { time, from, timestamp, body },
            Event::LoggedIn { connection, actor, receive } => {
                return self.audience.set(connection, receive.then_some(actor));
            }
            Event::LoggedOut { connection } | Event::Closed { connection } => {
                return self.audience.set(connection, None);
            }
            Event::PeerConnected { peer } => Input::PeerConnected { peer },
            Event::PeerDisconnected { peer } => Input::PeerDisconnected { peer },
            Event::Peer { peer, message: PeerMessage::Boundary { digests }, .. } => {
                if !self.boundaries.agree(peer, &digests, &self.replica, &self.store) {
                    self.replica.step(Input::LogsDiffer { peer }, &mut self.outputs);
                }
                return;
            }
            Event::Peer { time, peer, message } => Input::Peer { time, peer, message },
            Event::Stop => Input::Stop,
        };
        self.replica.step(input, &mut self.outputs);
    }

    /// Performs what the replica wants done: first what may be said at once, then what has to be durable first, then what
    /// is read from the log. Releases what has gathered when it is much.
    fn perform(
        &mut self,
        now: Timestamp,
        unsent: &mut Unsent,
        post: &mut impl FnMut(Vec<Sent>),
    ) -> Result<(), StoreError> {
        let mut changes = Vec::new();
        let mut reads = Vec::new();
        for output in std::mem::take(&mut self.outputs) {
            match output {
                Output::Send { to, message } => unsent.to_peer(to, message),
                Output::Refuse { to, request, timestamp, reason } => {
                    unsent.to_client(to, ToClient::Refused { request, timestamp, reason, clock: now });
                }
                Output::PeerSeen { peer } => unsent.add(Sent::PeerSeen { peer }),
                Output::Disconnect { peer } => unsent.add(Sent::Disconnect { peer }),
                Output::NewEpoch { epoch } => self.store.begin_epoch(epoch)?,
                Output::Apply { .. } | Output::Insert { .. } => changes.push(output),
                Output::Stopped => self.stopped = true,
                Output::SendBodies { .. }
                | Output::FetchMissing { .. }
                | Output::SendProbe { .. }
                | Output::SendPrefix { .. }
                | Output::SendTail { .. } => reads.push(output),
            }
        }
        unsent.release(post);
        for output in changes {
            self.change(output, unsent)?;
            if self.store.uncommitted() >= BATCH_MAX || unsent.bytes() >= SENT_MAX {
                self.store.commit()?;
                unsent.release(post);
            }
        }
        self.store.commit()?;
        for output in reads {
            self.read(output, unsent)?;
            if unsent.bytes() >= SENT_MAX {
                unsent.release(post);
            }
        }
        unsent.release(post);
        Ok(())
    }

    /// Changes the state, and gathers the answers.
    fn change(&mut self, output: Output, unsent: &mut Unsent) -> Result<(), StoreError> {
        match output {
            Output::Apply { uid, body, stability, copies, waiting } => {
                let answer = self.apply(uid, body, stability, copies, unsent)?;
                waiting.into_iter().for_each(|to| unsent.to_client(to, answer.clone()));
                Ok(())
            }
            Output::Insert { requests, waiting } => self.insert(requests, waiting, unsent),
            _ => Ok(()),
        }
    }

    /// Applies a request or answers a question, and returns the answer for who waits.
    fn apply(
        &mut self,
        uid: Uid,
        body: Body,
        stability: Stability,
        copies: u8,
        unsent: &mut Unsent,
    ) -> Result<ToClient, StoreError> {
        match body {
            Body::Request(request) => {
                let Outcome { answer, delivery } = self.store.apply(uid, &request)?;
                if let Some(delivery) = delivery {
                    self.audience.deliver(delivery, unsent);
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

    /// Inserts requests where they belong, which undoes and applies again what follows them.
    fn insert(
        &mut self,
        requests: Vec<Held>,
        waiting: Vec<(Uid, Vec<ConnectionId>)>,
        unsent: &mut Unsent,
    ) -> Result<(), StoreError> {
        let repair = self.store.insert(requests)?;
        if repair.undone > 0 {
            log::warn!(
                "repaired the log: {} requests inserted, {} applied again",
                repair.inserted.len(),
                repair.undone
            );
            self.undone += repair.undone;
        }
        let waiting: BTreeMap<Uid, Vec<ConnectionId>> = waiting.into_iter().collect();
        for (Held { uid, request }, Outcome { answer, delivery }) in repair.inserted {
            let note = self.note(Stability::RealTime, 1);
            let answer = ToClient::Answer { client: request.client, sequence: request.sequence, uid, answer, note };
            waiting.get(&uid).into_iter().flatten().for_each(|to| unsent.to_client(*to, answer.clone()));
            delivery.into_iter().for_each(|delivery| self.audience.deliver(delivery, unsent));
        }
        if !repair.changed.is_empty() {
            log::warn!("the repair has changed {} answers", repair.changed.len());
        }
        for changed in repair.changed {
            log::debug!("the answer to request {} of session {} has changed", changed.sequence, changed.client);
            changed.delivery.into_iter().for_each(|delivery| self.audience.deliver(delivery, unsent));
        }
        Ok(())
    }

    /// Reads the log for a peer, and gathers what to send it.
    fn read(&mut self, output: Output, unsent: &mut Unsent) -> Result<(), StoreError> {
        match output {
            Output::SendBodies { to, mut held, uids } => {
                held.extend(self.store.bodies(&uids, SENT_MAX)?);
                for requests in in_messages(held) {
                    unsent.to_peer(to, PeerMessage::Bodies { requests });
                }
            }
            Output::FetchMissing { from, mut uids } => {
                let mut failure = None;
                uids.retain(|uid| match self.store.contains(*uid) {
                    Ok(is_there) => !is_there,
                    Err(error) => {
                        failure = Some(error);
                        false
                    }
                });
                if let Some(error) = failure {
                    return Err(error);
                }
                if !uids.is_empty() {
                    unsent.to_peer(from, PeerMessage::Fetch { uids });
                }
            }
            Output::SendProbe { to } => unsent.to_peer(to, PeerMessage::Probe { marks: self.store.marks()? }),
            Output::SendPrefix { to, marks } => {
                let (common, last) = (self.store.common(&marks)?, self.store.last_mark());
                unsent.to_peer(to, PeerMessage::Prefix { common, last });
            }
            Output::SendTail { to, after } => {
                let (requests, is_end) = self.store.tail(after, BODIES_BYTES)?;
                unsent.to_peer(to, PeerMessage::Entries { after, requests, is_end });
            }
            _ => {}
        }
        Ok(())
    }

    /// What is said around an answer.
    fn note(&self, stability: Stability, copies: u8) -> Note {
        let applied = self.store.applied();
        Note { position: applied.position, log_digest: applied.log_digest, stability, copies }
    }
}

/// The applier's thread: waits for rounds of the poll loop, or until a wake is wanted, and ends when the replica has stopped.
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
