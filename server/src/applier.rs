//! The applier: performs what the replication protocol wants on the store, and says what to send.
//!
//! [`Applier::wake`] is one wake: take in what the poll loop read, tell the peers what is new, apply what became stable,
//! commit it with one sync, and only then let the answers out. It has no thread and no channel, so that the simulator can
//! drive it; [`run`] is the thread around it.

mod audience;
mod boundaries;
mod counters;
mod insertion;
mod journal;
mod logs;
mod outbox;
mod peer_pings;
mod progress;
mod report;
mod resubmission;
mod sessions;
mod snapshots;
mod thread;
mod watch;

pub use thread::run;

use crate::net::{EventBatch, NetCommand, NetEvent, NetStats, ReplicaIdentity};
use crate::replica::{
    Body, ConnectionId, Effect, Input, LogRead, Output, PeerId, Phase, ProtocolSettings, Replica, Start, StoreChange,
};
use crate::store::{ChatStore, Outcome, StoreError};
use audience::Audience;
use boundaries::BoundaryExchange;
use counters::Tally;
use insertion::RunningInsertion;
use journal::Journal;
use outbox::Outbox;
use peer_pings::PeerPings;
use progress::Progress;
use resubmission::Resubmission;
use sessions::Sessions;
use snapshots::{Snapshots, Taken};
use stablechat_protocol::answer::{AnswerMetadata, Stability};
use stablechat_protocol::message::ToClient;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeSet, VecDeque};

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
    boundaries: BoundaryExchange,
    resubmission: Resubmission,
    progress: Progress,
    journal: Journal,
    peer_pings: PeerPings,
    tally: Tally,
    /// Who we are, and who the peers are.
    identity: ReplicaIdentity,
    /// Who has asked for the status in this wake; each gets one, however often it asks.
    asking_for_status: BTreeSet<ConnectionId>,
    /// What the poll loop knows, if somebody has asked for the metrics in this wake.
    watched: Option<NetStats>,
    /// What the replica wants done. Between wakes, what came of having done the rest.
    outputs: Vec<Output>,
    /// What of it changes the store and is not done: it waits for an insertion to be through. While the replica catches up these are
    /// the next insertions, as many as the protocol allows at a time, and parts of a snapshot, of which one is asked for at a time.
    changes: VecDeque<StoreChange>,
    /// What of it reads the log as a whole and is not done, for the same reason: what a peer asks for on one connection without
    /// having been answered, which is little.
    reads: VecDeque<LogRead>,
    /// The insertion that is under way.
    insertion: Option<RunningInsertion>,
    /// Whether the replica has stopped.
    stopped: bool,
}

impl Applier {
    /// The replica `identity` that starts at `now`, by its clock, with what its store holds, and with nobody listening.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn start(
        identity: ReplicaIdentity,
        settings: ProtocolSettings,
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
            boundaries: BoundaryExchange::default(),
            resubmission: Resubmission::default(),
            progress: Progress::default(),
            journal: Journal::default(),
            peer_pings: PeerPings::default(),
            tally: Tally::default(),
            identity,
            asking_for_status: BTreeSet::new(),
            watched: None,
            outputs: Vec::new(),
            changes: VecDeque::new(),
            reads: VecDeque::new(),
            insertion: None,
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

    /// When the next wake is wanted.
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.insertion.is_some() || !self.outputs.is_empty() || !self.changes.is_empty() {
            true => Some(Timestamp::ZERO),
            false => self.replica.deadline(),
        }
    }

    /// Whether there is room on the disk for what clients want to write.
    pub fn note_room(&mut self, has_room: bool) {
        self.replica.step(Input::Room { has_room }, &mut self.outputs);
    }

    /// How many requests have been undone and applied again since the start: none while the assumption holds.
    pub fn undone(&self) -> u64 {
        self.tally.counters().undone
    }

    /// Whether the replica has stopped, after [`NetEvent::Stop`].
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
        rounds: impl IntoIterator<Item = EventBatch>,
        clock: impl Fn() -> Timestamp,
        mut post: impl FnMut(Vec<NetCommand>),
    ) -> Result<(), StoreError> {
        let mut outbox = Outbox::default();
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
        self.boundaries.exchange(now, &self.replica, &self.store, &mut outbox);
        self.peer_pings.go_on(now, &self.replica, &self.identity, &mut outbox);
        // What is yet to be inserted must not lose its place.
        if self.insertion.is_none() && self.changes.is_empty() {
            self.boundaries.settle(&self.replica, &mut self.store);
        }
        self.journal.note(&self.replica, &self.identity, self.store.applied().position);
        self.snapshots.expire(now);
        if self.replica.phase() != Phase::CatchingUp {
            self.progress.end();
        }
        if let Some(text) = self.progress.next_line(now, |peer| self.identity.name_of(peer)) {
            log::info!("{text}");
        }
        if !self.snapshots.is_sending() {
            self.store.truncate()?;
        }
        self.perform(&clock, now, &mut outbox, &mut post)?;
        self.report_to_all_who_ask(&mut outbox);
        self.show_to_who_watches(&mut outbox);
        outbox.release(&mut post);
        Ok(())
    }

    /// Passes an event on to whom it concerns.
    fn on_event(&mut self, event: NetEvent) -> Result<(), StoreError> {
        let input = match event {
            NetEvent::Request(submission) => {
                if let Body::Request(request) = &submission.body {
                    self.sessions.on_heard(request.client, submission.from);
                }
                Input::Request(submission)
            }
            NetEvent::LoggedIn { connection, actor, receive } => {
                self.audience.set(connection, receive.then_some(actor));
                return Ok(());
            }
            NetEvent::LoggedOut { connection } | NetEvent::Closed { connection } => {
                self.audience.set(connection, None);
                return Ok(());
            }
            NetEvent::PeerConnected { peer } => Input::PeerConnected { peer },
            NetEvent::PeerDisconnected { peer } => {
                self.snapshots.on_disconnected(peer);
                self.progress.on_disconnected(peer);
                self.drop_stale(peer);
                Input::PeerDisconnected { peer }
            }
            NetEvent::Peer { time, peer, message } => match self.input_from(time, peer, message)? {
                Some(input) => input,
                None => return Ok(()),
            },
            NetEvent::Status { from } => {
                self.asking_for_status.insert(from);
                return Ok(());
            }
            NetEvent::Scrape { traffic } => {
                self.watched = Some(traffic);
                return Ok(());
            }
            NetEvent::PingPeers { from } => {
                self.peer_pings.ask(from);
                return Ok(());
            }
            NetEvent::Stop => {
                log::info!("asked to stop: handing over to the others");
                Input::Stop
            }
        };
        self.replica.step(input, &mut self.outputs);
        Ok(())
    }

    /// Drops what is still to be done for a connection to a peer that is gone. The peer asks again on the next one.
    fn drop_stale(&mut self, peer: PeerId) {
        let is_stale = |change: &StoreChange| match change {
            StoreChange::TakeSnapshotPart { from, .. } => *from == peer,
            StoreChange::Apply { .. } | StoreChange::Insert { .. } => false,
        };
        self.reads.retain(|read| read.to != peer);
        self.changes.retain(|change| !is_stale(change));
        self.outputs.retain(|output| !matches!(output, Output::Change(change) if is_stale(change)));
    }

    /// Performs what the replica wants done: first what may be said at once, then what has to be durable first, then what
    /// is read from the log. Releases what has gathered when it is much.
    fn perform(
        &mut self,
        clock: &impl Fn() -> Timestamp,
        now: Timestamp,
        outbox: &mut Outbox,
        post: &mut impl FnMut(Vec<NetCommand>),
    ) -> Result<(), StoreError> {
        for output in std::mem::take(&mut self.outputs) {
            match output {
                Output::Effect(effect) => self.effect(effect, now, outbox)?,
                Output::Change(change) => self.changes.push_back(change),
                Output::Read(read) => self.reads.push_back(read),
            }
        }
        outbox.release(post);
        self.make_changes(clock, now, outbox, post)?;
        while self.insertion.is_none()
            && let Some(read) = self.reads.pop_front()
        {
            self.read(now, read, outbox)?;
            if outbox.bytes() >= SENT_MAX {
                outbox.release(post);
            }
        }
        outbox.release(post);
        Ok(())
    }

    /// Performs what needs no change of the store.
    fn effect(&mut self, effect: Effect, now: Timestamp, outbox: &mut Outbox) -> Result<(), StoreError> {
        match effect {
            Effect::Send { to, message } => outbox.for_peer(to, message),
            Effect::SendBodies { to, pending, logged } => self.send_bodies(to, pending, &logged, outbox)?,
            Effect::Refuse { to, request, timestamp, reason } => {
                self.tally.on_refusal(reason);
                outbox.for_client(to, ToClient::Refused { request, timestamp, reason, clock: now });
            }
            Effect::ConnectionSeen { peer } => outbox.add(NetCommand::ConnectionSeen { peer }),
            Effect::Disconnect { peer } => outbox.add(NetCommand::Disconnect { peer }),
            Effect::NewEpoch { epoch } => {
                log::warn!("this replica has not run, or not kept up, for too long: beginning again in epoch {epoch}");
                self.tally.on_rejoin();
                self.store.begin_epoch(epoch)?;
            }
            Effect::Stopped => self.stopped = true,
        }
        Ok(())
    }

    /// Changes the store as far as this wake gets: while we catch up, one batch of an insertion is enough, so that who asks for
    /// something else need not wait; and between two insertions, those come first who have asked for our log. Everything that was
    /// done is committed when it returns.
    fn make_changes(
        &mut self,
        clock: &impl Fn() -> Timestamp,
        now: Timestamp,
        outbox: &mut Outbox,
        post: &mut impl FnMut(Vec<NetCommand>),
    ) -> Result<(), StoreError> {
        loop {
            if self.insertion.is_some() {
                self.go_on_inserting(clock, outbox)?;
                let has_to_wait = self.insertion.is_some() || !self.reads.is_empty();
                if has_to_wait && self.replica.phase() == Phase::CatchingUp {
                    return Ok(());
                }
            } else if let Some(change) = self.changes.pop_front() {
                self.change(change, clock, now, outbox)?;
            } else {
                return self.commit(clock);
            }
            if self.store.is_batch_full() || outbox.bytes() >= SENT_MAX {
                self.commit(clock)?;
                outbox.release(post);
            }
        }
    }

    /// Makes what was applied durable.
    fn commit(&mut self, clock: &impl Fn() -> Timestamp) -> Result<(), StoreError> {
        let began = (self.store.uncommitted_bytes() > 0).then(clock);
        self.store.commit()?;
        let now = clock();
        self.tally.on_commit(now, began.map(|began| now.since(began)));
        Ok(())
    }

    /// Changes the state, and gathers the answers.
    fn change(
        &mut self,
        change: StoreChange,
        clock: &impl Fn() -> Timestamp,
        now: Timestamp,
        outbox: &mut Outbox,
    ) -> Result<(), StoreError> {
        match change {
            StoreChange::Apply { uid, body, stability, copies, waiting } => {
                let answer = self.apply(uid, body, stability, copies, outbox)?;
                waiting.into_iter().for_each(|to| outbox.for_client(to, answer.clone()));
                Ok(())
            }
            StoreChange::Insert { requests, waiting } => self.begin_inserting(clock(), requests, waiting),
            StoreChange::TakeSnapshotPart { from, part, rows, end } => {
                let input = match self.snapshots.take(from, part, (rows, end), &mut self.store, outbox)? {
                    Taken::More => return Ok(()),
                    Taken::Not => Input::NotInstalled { peer: from },
                    Taken::Installed => {
                        self.tally.on_snapshot_installed();
                        self.resubmission.begin();
                        let applied = self.store.applied().uid;
                        Input::Installed { applied, recent: recent(self.replica.settings(), &self.store, now)? }
                    }
                };
                self.replica.step(input, &mut self.outputs);
                Ok(())
            }
        }
    }

    /// Applies a request or answers a query, and returns the answer for who waits.
    fn apply(
        &mut self,
        uid: Uid,
        body: Body,
        stability: Stability,
        copies: u8,
        outbox: &mut Outbox,
    ) -> Result<ToClient, StoreError> {
        match body {
            Body::Request(request) => {
                self.tally.on_request(uid.timestamp, stability);
                let Outcome { answer, delivery } = self.store.apply(uid, &request)?;
                if let Some(delivery) = delivery {
                    self.audience.deliver(delivery, outbox);
                }
                let metadata = self.metadata(stability, copies);
                Ok(ToClient::Answer { client: request.client, sequence: request.sequence, uid, answer, metadata })
            }
            Body::Query(query) => {
                self.tally.on_query(uid.timestamp, stability);
                let answer = self.store.query(&query)?;
                Ok(ToClient::QueryAnswer { id: query.id, answer, metadata: self.metadata(stability, copies) })
            }
        }
    }

    /// Gathers a report for each who has asked for one.
    fn report_to_all_who_ask(&mut self, outbox: &mut Outbox) {
        if self.asking_for_status.is_empty() {
            return;
        }
        let report = Box::new(self.report());
        for to in std::mem::take(&mut self.asking_for_status) {
            outbox.for_client(to, ToClient::Status { report: report.clone() });
        }
    }

    /// What is said around an answer.
    fn metadata(&self, stability: Stability, copies: u8) -> AnswerMetadata {
        let applied = self.store.applied();
        AnswerMetadata { position: applied.position, log_digest: applied.log_digest, stability, copies }
    }
}

/// The applied requests of the last [`ProtocolSettings::memory`].
fn recent(settings: &ProtocolSettings, store: &ChatStore, now: Timestamp) -> Result<BTreeSet<Uid>, StoreError> {
    let horizon = Uid { timestamp: now.before(settings.memory()), digest: [0; 16] };
    store.log().entries(horizon).map(|entry| entry.map(|(uid, _)| uid)).collect()
}

#[cfg(test)]
mod tests;
