//! The applier: performs what the replication protocol wants on the store, and says what to send.
//!
//! [`Applier::wake`] is one wake: take in what the poll loop read, tell the peers what is new, apply what became stable,
//! commit it with one sync, and only then let the answers out. It has no thread and no channel, so that the simulator can
//! drive it; [`run`] is the thread around it.

mod audience;
mod boundaries;
mod counters;
mod report;
mod resubmission;
mod sessions;
mod snapshots;
mod unsent;

use crate::clock::Clock;
use crate::net::{Event, Identity, Mailbox, Round, Sent};
use crate::replica::{Body, ConnectionId, Input, Output, PeerId, Replica, Settings, Start, in_messages};
use crate::store::{Changed, ChatStore, Outcome, Parting, StoreError};
use audience::Audience;
use boundaries::{Boundaries, Comparison};
use counters::Tally;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use resubmission::Resubmission;
use sessions::Sessions;
use snapshots::{Snapshots, Taken};
use stablechat_protocol::answer::{Note, Stability};
use stablechat_protocol::message::ToClient;
use stablechat_protocol::peer::{BODIES_BYTES, BoundaryDigests, Held, Mark, PeerMessage};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeMap, BTreeSet};
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
    /// Before the store, which must not be closed while a snapshot of it is read.
    snapshots: Snapshots,
    store: ChatStore,
    audience: Audience,
    sessions: Sessions,
    boundaries: Boundaries,
    resubmission: Resubmission,
    tally: Tally,
    /// Who we are, and who the peers are.
    identity: Identity,
    /// Who has asked for the status in this wake; each gets one, however often it asks.
    asking_for_status: BTreeSet<ConnectionId>,
    /// What the replica wants done. Between wakes, what came of having done the rest.
    outputs: Vec<Output>,
    /// Whether the replica has stopped.
    stopped: bool,
}

impl Applier {
    /// The replica `identity` that starts at `now`, by its clock, with what its store holds, and with nobody listening.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn start(
        identity: Identity,
        settings: Settings,
        mut store: ChatStore,
        now: Timestamp,
    ) -> Result<Applier, StoreError> {
        // An incarnation on a disk that was wiped must not have the number of one before.
        let seconds = now.0 / 1_000_000_000;
        if store.epoch() < seconds {
            store.begin_epoch(seconds)?;
        }
        let resumed = store.take_resumed_repair();
        if resumed.undone > 0 {
            log::warn!("completed a repair that a crash had interrupted: {} requests applied again", resumed.undone);
        }
        let recent = recent(&settings, &store, now)?;
        let start = Start { epoch: store.epoch(), applied: store.applied().uid, recent, now };
        Ok(Applier {
            replica: Replica::new(settings, start),
            snapshots: Snapshots::default(),
            store,
            audience: Audience::default(),
            sessions: Sessions::default(),
            boundaries: Boundaries::default(),
            resubmission: Resubmission::default(),
            tally: Tally::default(),
            identity,
            asking_for_status: BTreeSet::new(),
            outputs: Vec::new(),
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
        self.tally.counters().undone
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
                self.on_event(event)?;
            }
            if let Some(time) = round.drained {
                self.replica.step(Input::Drained { time }, &mut self.outputs);
            }
        }
        let now = clock();
        self.resubmission.go_on(now, &mut self.replica, &mut self.store, &mut self.outputs)?;
        self.replica.step(Input::Handled { time: now }, &mut self.outputs);
        self.boundaries.exchange(now, &self.replica, &self.store, &mut unsent);
        self.boundaries.settle(&self.replica, &mut self.store);
        self.snapshots.expire(now);
        if !self.snapshots.is_sending() {
            self.store.truncate()?;
        }
        self.perform(&clock, now, &mut unsent, &mut post)?;
        self.report_to_all_who_ask(&mut unsent);
        unsent.release(&mut post);
        Ok(())
    }

    /// Passes an event on to whom it concerns.
    fn on_event(&mut self, event: Event) -> Result<(), StoreError> {
        let input = match event {
            Event::Request { time, from, timestamp, body } => {
                if let Body::Request(request) = &body {
                    self.sessions.on_heard(request.client, from);
                }
                Input::Request { time, from, timestamp, body }
            }
            Event::LoggedIn { connection, actor, receive } => {
                self.audience.set(connection, receive.then_some(actor));
                return Ok(());
            }
            Event::LoggedOut { connection } | Event::Closed { connection } => {
                self.audience.set(connection, None);
                return Ok(());
            }
            Event::PeerConnected { peer } => Input::PeerConnected { peer },
            Event::PeerDisconnected { peer } => {
                self.snapshots.on_disconnected(peer);
                Input::PeerDisconnected { peer }
            }
            Event::Peer { peer, message: PeerMessage::Boundary { digests }, .. } => {
                self.compare(peer, &digests);
                return Ok(());
            }
            Event::Peer { time, peer, message: PeerMessage::Prefix { common, last, base, settled } } => {
                let prefix = |common| PeerMessage::Prefix { common, last, base, settled };
                match self.store.parting(common, base, settled)? {
                    Parting::GiveWay => Input::Outdated { peer },
                    Parting::Follow => Input::Peer { time, peer, message: prefix(common) },
                    // Nothing is to be had from it; what only it has, it will submit again.
                    Parting::TheyGiveWay => Input::Peer { time, peer, message: prefix(Some(last)) },
                }
            }
            Event::Peer { time, peer, message } => Input::Peer { time, peer, message },
            Event::Status { from } => {
                self.asking_for_status.insert(from);
                return Ok(());
            }
            Event::Stop => Input::Stop,
        };
        self.replica.step(input, &mut self.outputs);
        Ok(())
    }

    /// Compares a peer's log and state as of a boundary with ours.
    fn compare(&mut self, peer: PeerId, theirs: &BoundaryDigests) {
        match self.boundaries.compare(peer, theirs, &self.replica, &self.store) {
            Comparison::Same | Comparison::Unknown => {}
            Comparison::LogsDiffer => self.replica.step(Input::LogsDiffer { peer }, &mut self.outputs),
            Comparison::StatesDiffer => {
                let PeerId(peer) = peer;
                log::error!("BUG: the state at position {} differs from that of replica {peer}", theirs.position);
                self.tally.on_state_disagreement();
            }
        }
    }

    /// Performs what the replica wants done: first what may be said at once, then what has to be durable first, then what
    /// is read from the log. Releases what has gathered when it is much.
    fn perform(
        &mut self,
        clock: &impl Fn() -> Timestamp,
        now: Timestamp,
        unsent: &mut Unsent,
        post: &mut impl FnMut(Vec<Sent>),
    ) -> Result<(), StoreError> {
        let mut changes = Vec::new();
        let mut reads = Vec::new();
        for output in std::mem::take(&mut self.outputs) {
            match output {
                Output::Send { to, message } => unsent.for_peer(to, message),
                Output::Refuse { to, request, timestamp, reason } => {
                    self.tally.on_refusal(reason);
                    unsent.for_client(to, ToClient::Refused { request, timestamp, reason, clock: now });
                }
                Output::PeerSeen { peer } => unsent.add(Sent::PeerSeen { peer }),
                Output::Disconnect { peer } => unsent.add(Sent::Disconnect { peer }),
                Output::NewEpoch { epoch } => {
                    self.tally.on_rejoin();
                    self.store.begin_epoch(epoch)?;
                }
                Output::Apply { .. } | Output::Insert { .. } | Output::TakeSnapshotPart { .. } => changes.push(output),
                Output::Stopped => self.stopped = true,
                Output::SendBodies { .. }
                | Output::FetchMissing { .. }
                | Output::SendProbe { .. }
                | Output::SendPrefix { .. }
                | Output::SendTail { .. }
                | Output::SendSnapshotPart { .. } => reads.push(output),
            }
        }
        unsent.release(post);
        for output in changes {
            self.change(output, clock, now, unsent)?;
            if self.store.uncommitted() >= BATCH_MAX || unsent.bytes() >= SENT_MAX {
                self.store.commit()?;
                unsent.release(post);
            }
        }
        self.store.commit()?;
        for output in reads {
            self.read(now, output, unsent)?;
            if unsent.bytes() >= SENT_MAX {
                unsent.release(post);
            }
        }
        unsent.release(post);
        Ok(())
    }

    /// Changes the state, and gathers the answers.
    fn change(
        &mut self,
        output: Output,
        clock: &impl Fn() -> Timestamp,
        now: Timestamp,
        unsent: &mut Unsent,
    ) -> Result<(), StoreError> {
        match output {
            Output::Apply { uid, body, stability, copies, waiting } => {
                let answer = self.apply(uid, body, stability, copies, unsent)?;
                waiting.into_iter().for_each(|to| unsent.for_client(to, answer.clone()));
                Ok(())
            }
            Output::Insert { requests, waiting } => {
                let began = clock();
                let undone = self.insert(requests, waiting, unsent)?;
                if undone > 0 {
                    self.tally.on_repair(undone, clock().since(began));
                }
                Ok(())
            }
            Output::TakeSnapshotPart { from, part, rows, end } => {
                let input = match self.snapshots.take(now, from, part, (rows, end), &mut self.store, unsent)? {
                    Taken::More => return Ok(()),
                    Taken::Not => Input::NotInstalled { peer: from },
                    Taken::Installed => {
                        self.resubmission.begin();
                        let applied = self.store.applied().uid;
                        Input::Installed { applied, recent: recent(self.replica.settings(), &self.store, now)? }
                    }
                };
                self.replica.step(input, &mut self.outputs);
                Ok(())
            }
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
                self.tally.on_request(stability);
                let Outcome { answer, delivery } = self.store.apply(uid, &request)?;
                if let Some(delivery) = delivery {
                    self.audience.deliver(delivery, unsent);
                }
                let note = self.note(stability, copies);
                Ok(ToClient::Answer { client: request.client, sequence: request.sequence, uid, answer, note })
            }
            Body::Question(question) => {
                self.tally.on_question(stability);
                let answer = self.store.query(&question)?;
                Ok(ToClient::QueryAnswer { id: question.id, answer, note: self.note(stability, copies) })
            }
        }
    }

    /// Inserts requests where they belong, which undoes and applies again what follows them. Returns how many that were.
    fn insert(
        &mut self,
        requests: Vec<Held>,
        waiting: Vec<(Uid, Vec<ConnectionId>)>,
        unsent: &mut Unsent,
    ) -> Result<u64, StoreError> {
        let repair = self.store.insert(requests)?;
        if repair.undone > 0 {
            log::warn!(
                "repaired the log: {} requests inserted, {} applied again",
                repair.inserted.len(),
                repair.undone
            );
        }
        let waiting: BTreeMap<Uid, Vec<ConnectionId>> = waiting.into_iter().collect();
        for (Held { uid, request }, Outcome { answer, delivery }) in repair.inserted {
            let note = self.note(Stability::RealTime, 1);
            let answer = ToClient::Answer { client: request.client, sequence: request.sequence, uid, answer, note };
            waiting.get(&uid).into_iter().flatten().for_each(|to| unsent.for_client(*to, answer.clone()));
            delivery.into_iter().for_each(|delivery| self.audience.deliver(delivery, unsent));
        }
        if !repair.changed.is_empty() {
            log::warn!("the repair has changed {} answers", repair.changed.len());
        }
        for Changed { client, sequence, uid, answer, delivery } in repair.changed {
            log::debug!("the answer to request {sequence} of session {client} has changed");
            delivery.into_iter().for_each(|delivery| self.audience.deliver(delivery, unsent));
            if let Some(to) = self.sessions.connection(client) {
                unsent.for_client(to, ToClient::Changed { client, sequence, uid, answer });
            }
        }
        Ok(repair.undone)
    }

    /// Gathers a report for each who has asked for one.
    fn report_to_all_who_ask(&mut self, unsent: &mut Unsent) {
        if self.asking_for_status.is_empty() {
            return;
        }
        let report = Box::new(self.report());
        for to in std::mem::take(&mut self.asking_for_status) {
            unsent.for_client(to, ToClient::Status { report: report.clone() });
        }
    }

    /// Reads the log for a peer, and gathers what to send it.
    fn read(&mut self, now: Timestamp, output: Output, unsent: &mut Unsent) -> Result<(), StoreError> {
        match output {
            Output::SendBodies { to, mut held, uids } => {
                held.extend(self.store.bodies(&uids, SENT_MAX)?);
                for requests in in_messages(held) {
                    unsent.for_peer(to, PeerMessage::Bodies { requests });
                }
            }
            Output::FetchMissing { from, mut uids } => {
                let mut failure = None;
                // What is not in the log by now and settled can no longer be put there.
                let settled = self.store.settled();
                uids.retain(|uid| *uid > settled);
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
                    unsent.for_peer(from, PeerMessage::Fetch { uids });
                }
            }
            Output::SendProbe { to } => unsent.for_peer(to, PeerMessage::Probe { marks: self.store.marks()? }),
            Output::SendPrefix { to, marks } => {
                let common = self.store.common(&marks)?;
                unsent.for_peer(to, self.prefix(common)?);
            }
            Output::SendTail { to, after } => {
                if after < self.store.base().uid {
                    // What would come next has been truncated meanwhile.
                    unsent.for_peer(to, self.prefix(None)?);
                    return Ok(());
                }
                let (requests, is_end) = self.store.tail(after, BODIES_BYTES)?;
                unsent.for_peer(to, PeerMessage::Entries { after, requests, is_end });
            }
            Output::SendSnapshotPart { to, part } => self.snapshots.send(now, to, part, &self.store, unsent)?,
            _ => {}
        }
        Ok(())
    }

    /// What a peer has to know about our log, of which it has the part up to `common`.
    fn prefix(&self, common: Option<Mark>) -> Result<PeerMessage, StoreError> {
        let (last, base, settled) = (self.store.last_mark(), self.store.base(), self.store.settled_mark()?);
        Ok(PeerMessage::Prefix { common, last, base, settled })
    }

    /// What is said around an answer.
    fn note(&self, stability: Stability, copies: u8) -> Note {
        let applied = self.store.applied();
        Note { position: applied.position, log_digest: applied.log_digest, stability, copies }
    }
}

/// The applied requests of the last [`Settings::memory`].
fn recent(settings: &Settings, store: &ChatStore, now: Timestamp) -> Result<BTreeSet<Uid>, StoreError> {
    let horizon = Uid { timestamp: now.before(settings.memory()), digest: [0; 16] };
    store.log(horizon).map(|entry| entry.map(|(uid, _)| uid)).collect()
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

#[cfg(test)]
mod tests;
