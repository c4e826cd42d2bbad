//! The applier: performs the outputs of the replication protocol on the store, and gathers the messages to send.
//!
//! [`Applier::wake`] is one wake: take in the events of the poll loop, announce new requests to the peers, apply the stable ones,
//! commit it with one sync, and only then let the answers out, since an answer promises durability. It has no thread and no
//! channel, so that the simulator can drive it; [`run`] is the thread around it.
//!
//! It never knows sockets: what it sends are messages to connections and peers, which may be gone by then.

mod backlog;
mod boundaries;
mod clients;
mod insertion;
mod logs;
mod measurements;
mod outbox;
mod peer_pings;
mod progress;
mod report;
mod resubmission;
mod scrape;
mod snapshots;
mod state_log;
mod stopwatch;
mod thread;

pub use stopwatch::Stopwatch;
pub use thread::{Ended, run};

use crate::net::{EventBatch, NetCommand, NetEvent, NetStats, ReplicaIdentity};
use crate::replica::{
    Body, ConnectionId, Effect, Input, Output, Phase, ProtocolSettings, Replica, Start, StoreChange,
    Submission,
};
use crate::store::{ChatStore, Outcome, StoreError};
use backlog::Backlog;
use boundaries::BoundaryExchange;
use clients::Clients;
use insertion::RunningInsertion;
use measurements::Measurements;
use outbox::Outbox;
use peer_pings::PeerPings;
use progress::Progress;
use resubmission::Resubmission;
use snapshots::{Snapshots, Taken};
use stablechat_protocol::answer::{AnswerMetadata, Refusal, Stability};
use stablechat_protocol::message::ToClient;
use stablechat_protocol::request::{QueryRequest, Request};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use state_log::StateLog;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// About how many bytes one wake gathers before it hands them to the poll loop. It bounds the memory that many large pages take.
const SENT_MAX: usize = 2 * 1024 * 1024;
/// How long one wake takes in events, and how long it applies what is stable: 10 ms each, and at least one batch and one change. The
/// rest waits for the next wake. Before it applies, each wake sends the peers what they wait for, heartbeats among it, and they
/// expect a sign of life every 50 ms at most.
const WAKE_PART_MAX: Duration = Duration::from_millis(10);

/// The protocol, the store, and everything around the two.
pub struct Applier {
    replica: Replica,
    /// Declared before the store, so dropped before it: the store must not be closed while a snapshot of it is read.
    snapshots: Snapshots,
    store: ChatStore,
    clients: Clients,
    boundaries: BoundaryExchange,
    resubmission: Resubmission,
    progress: Progress,
    state_log: StateLog,
    peer_pings: PeerPings,
    measurements: Measurements,
    /// Tells how long a wake and each query take.
    stopwatch: Stopwatch,
    /// The names of this replica and of the peers.
    identity: ReplicaIdentity,
    /// The connections that have asked for the status in this wake. Each gets one report, however often it asks.
    asking_for_status: BTreeSet<ConnectionId>,
    /// What the poll loop has measured, if there was a scrape in this wake.
    scraped: Option<NetStats>,
    /// The events of the batch that is being taken in, until each has been. If storage fails in the middle of a wake, the rest
    /// stays here: logins and ends of connections concern whoever goes on in the applier's place.
    events: VecDeque<NetEvent>,
    /// What the protocol wants done and has not been done yet.
    backlog: Backlog,
    /// The insertion that is under way. While there is one, the store is between two states of the log.
    insertion: Option<RunningInsertion>,
    /// What the clock has to show at least, if that is more than it shows.
    clock_floor: Option<Timestamp>,
    stopped: bool,
}

impl Applier {
    /// The replica `identity` that starts at `now`, by its clock, with what its store holds and without any connections.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn start(
        identity: ReplicaIdentity,
        settings: ProtocolSettings,
        mut store: ChatStore,
        now: Timestamp,
    ) -> Result<Applier, StoreError> {
        // Epochs begin at the clock's seconds, so that an incarnation on a disk that was wiped has a new number as well.
        let seconds = now.0 / 1_000_000_000;
        let is_restart = store.epoch() > 1;
        if store.epoch() < seconds {
            store.begin_epoch(seconds, store.restarts())?;
        }
        let resumed = store.take_resumed_repair();
        if resumed.undone > 0 {
            log::warn!("completed a repair that a crash had interrupted: {} requests applied again", resumed.undone);
        }

        let recent = recent(&store, now.before(settings.memory()))?;
        let closed = first_closed(&settings, is_restart, now);
        let (epoch, restarts) = (store.epoch(), store.restarts());
        let start = Start { epoch, restarts, applied: store.applied().uid, recent, closed, now };
        Ok(Applier {
            replica: Replica::new(settings, start),
            snapshots: Snapshots::default(),
            store,
            clients: Clients::new(Stopwatch::MONOTONIC),
            boundaries: BoundaryExchange::default(),
            resubmission: Resubmission::default(),
            progress: Progress::default(),
            state_log: StateLog::default(),
            peer_pings: PeerPings::default(),
            measurements: Measurements::default(),
            stopwatch: Stopwatch::MONOTONIC,
            identity,
            asking_for_status: BTreeSet::new(),
            scraped: None,
            events: VecDeque::new(),
            backlog: Backlog::default(),
            insertion: None,
            clock_floor: None,
            stopped: false,
        })
    }

    /// The same with another stopwatch.
    pub fn timed_by(self, stopwatch: Stopwatch) -> Applier {
        Applier { clients: Clients::new(stopwatch), stopwatch, ..self }
    }

    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    pub fn store(&self) -> &ChatStore {
        &self.store
    }

    /// When the next wake is wanted: at once while something is half done.
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.insertion.is_some() || self.backlog.wants_wake() {
            true => Some(Timestamp::ZERO),
            false => self.replica.deadline(),
        }
    }

    /// Notes whether there is room on the disk for what clients want to write.
    pub fn note_room(&mut self, has_room: bool) {
        self.replica.step(Input::Room { has_room }, self.backlog.outputs());
    }

    /// How many requests have been undone and applied again since the start: none while the assumption holds.
    pub fn undone(&self) -> u64 {
        self.measurements.counters().undone
    }

    /// Notes how far the wall clock is ahead, in nanoseconds, if it is so far behind that our clock does not follow.
    pub fn note_wall_clock(&mut self, unfollowed_ns: Option<i64>) {
        self.replica.step(Input::WallClock { unfollowed_ns }, self.backlog.outputs());
    }

    /// Whether the process has to begin anew with the wall clock's time.
    pub fn has_to_start_again(&self) -> bool {
        self.replica.has_to_start_again()
    }

    /// What the clock is to be raised to, if it is; says so once.
    pub fn take_clock_floor(&mut self) -> Option<Timestamp> {
        self.clock_floor.take()
    }

    /// How many snapshots of peers have replaced log and state since the start.
    pub fn snapshots_installed(&self) -> u64 {
        self.measurements.snapshots_installed()
    }

    /// Whether everything that the protocol takes for applied has been written. While it catches up, much of that may be still to
    /// be written.
    pub fn has_written_all(&self) -> bool {
        self.insertion.is_none() && !self.backlog.has_changes()
    }

    /// Whether the replica has stopped, after [`NetEvent::Stop`].
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Takes in batches of the poll loop, in their order, and posts the messages to send. Everything that a posted answer says
    /// is durable. `clock` reads the replica's clock.
    ///
    /// # Errors
    /// Storage failed; the applier must not be woken again.
    pub fn wake(
        &mut self,
        batches: impl IntoIterator<Item = EventBatch>,
        clock: impl Fn() -> Timestamp,
        mut post: impl FnMut(Vec<NetCommand>),
    ) -> Result<(), StoreError> {
        let mut outbox = Outbox::default();
        let woken = self.wake_with(batches, clock, &mut outbox, &mut post);
        if woken.is_err() {
            // Answers that are not durable must not leave. But the poll loop counts these: without them it would take all that
            // is sent to the peer from now on for messages to an earlier connection.
            let seen = outbox.connections_seen().map(|peer| Output::Effect(Effect::ConnectionSeen { peer }));
            self.backlog.outputs().extend(seen);
        }
        woken
    }

    fn wake_with(
        &mut self,
        batches: impl IntoIterator<Item = EventBatch>,
        clock: impl Fn() -> Timestamp,
        outbox: &mut Outbox,
        post: &mut impl FnMut(Vec<NetCommand>),
    ) -> Result<(), StoreError> {
        self.replica.step(Input::Woken { time: clock() }, self.backlog.outputs());
        for batch in batches {
            self.events.extend(batch.events);
            while let Some(event) = self.events.pop_front() {
                self.on_event(event)?;
            }
            if let Some(time) = batch.drained {
                self.replica.step(Input::Drained { time }, self.backlog.outputs());
            }
        }

        let now = clock();
        let is_connected = |client| self.clients.is_connected(client);
        self.resubmission.go_on(now, &mut self.replica, &mut self.store, is_connected, self.backlog.outputs())?;
        self.replica.step(Input::Handled { time: now }, self.backlog.outputs());

        self.boundaries.exchange(now, &self.replica, &self.store, outbox);
        self.peer_pings.go_on(now, &self.replica, &self.identity, outbox);
        self.settle();

        self.state_log.note(&self.replica, &self.identity, self.store.applied().position);
        self.state_log.note_clocks(&self.replica.overview(), &self.identity);
        self.snapshots.expire(now);
        if self.replica.phase() != Phase::CatchingUp {
            self.progress.end();
        }
        if let Some(text) = self.progress.next_line(now, |peer| self.identity.name_of(peer)) {
            log::info!("{text}");
        }
        // A peer that installs a snapshot goes on with the log from there, so this part of it has to stay.
        if !self.snapshots.is_sending() {
            self.store.truncate()?;
        }

        self.perform(&clock, now, outbox, post)?;
        self.report_status(outbox);
        self.answer_scrape(outbox);
        outbox.release(post);
        Ok(())
    }

    /// What each event of the poll loop leads to.
    fn on_event(&mut self, event: NetEvent) -> Result<(), StoreError> {
        let input = match event {
            NetEvent::Request(submission) => {
                match self.clients.admit(submission, self.replica.pending_queries(), &self.store)? {
                    Ok(input) => input,
                    Err(refusal) => {
                        self.backlog.outputs().push(Output::Effect(refusal));
                        return Ok(());
                    }
                }
            }
            NetEvent::Greeted { connection } => {
                self.clients.on_greeted(connection);
                return Ok(());
            }
            NetEvent::LoggedIn { connection, actor, receive } => {
                self.clients.on_logged_in(connection, actor, receive);
                return Ok(());
            }
            NetEvent::LoggedOut { connection } => {
                self.clients.on_logged_out(connection);
                return Ok(());
            }
            NetEvent::Closed { connection } => {
                self.clients.on_closed(connection);
                return Ok(());
            }
            NetEvent::PeerConnected { peer } => Input::PeerConnected { peer },
            NetEvent::PeerDisconnected { peer } => {
                self.end_transfers_with(peer);
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
            NetEvent::Scrape { stats } => {
                self.scraped = Some(stats);
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
        self.replica.step(input, self.backlog.outputs());
        Ok(())
    }

    /// Performs the outputs of the protocol: effects at once, then the changes, then the reads of the log. Hands over the
    /// gathered messages when they are many.
    fn perform(
        &mut self,
        clock: &impl Fn() -> Timestamp,
        now: Timestamp,
        outbox: &mut Outbox,
        post: &mut impl FnMut(Vec<NetCommand>),
    ) -> Result<(), StoreError> {
        self.perform_effects(now, outbox)?;
        outbox.release(post);
        self.make_changes(clock, outbox, post)?;
        self.replica.step(Input::Applied, self.backlog.outputs());
        self.perform_effects(clock(), outbox)?;
        while self.insertion.is_none()
            && let Some(read) = self.backlog.next_read()
        {
            self.read(now, read, outbox)?;
            if outbox.bytes() >= SENT_MAX {
                outbox.release(post);
            }
        }
        outbox.release(post);
        Ok(())
    }

    /// Performs the effects among the outputs.
    fn perform_effects(&mut self, now: Timestamp, outbox: &mut Outbox) -> Result<(), StoreError> {
        while let Some(effect) = self.backlog.next_effect() {
            self.effect(effect, now, outbox)?;
        }
        Ok(())
    }

    /// Performs what needs no change of the store.
    fn effect(&mut self, effect: Effect, now: Timestamp, outbox: &mut Outbox) -> Result<(), StoreError> {
        match effect {
            Effect::Send { to, message } => outbox.for_peer(to, message),
            Effect::SendBodies { to, pending, logged } => self.send_bodies(to, pending, &logged, outbox)?,
            Effect::Refuse { to, request, timestamp, reason } => {
                self.measurements.on_refusal(reason);
                outbox.for_client(to, ToClient::Refused { request, timestamp, reason, clock: now });
            }
            Effect::ConnectionSeen { peer } => outbox.add(NetCommand::ConnectionSeen { peer }),
            Effect::Disconnect { peer } => {
                self.end_transfers_with(peer);
                outbox.add(NetCommand::Disconnect { peer });
            }
            Effect::NewEpoch { epoch, restarts } => {
                log::warn!("this replica has not run, or not kept up, for too long: beginning again in epoch {epoch}");
                self.measurements.on_rejoin();
                self.store.begin_epoch(epoch, restarts)?;
            }
            Effect::Stable => self.store.note_stable()?,
            Effect::Stopped => {
                self.store.note_left()?;
                self.stopped = true;
            }
            Effect::RaiseClock { to } => {
                log::error!(
                    "the log ends in the future by this machine's clock, and no other replica can say that the log is wrong: going on \
                     with a clock that is {:.3} s further ahead; if the machine's clock is wrong, set it right",
                    to.since(now).as_secs_f64()
                );
                self.clock_floor = Some(to);
            }
        }
        Ok(())
    }

    /// Changes the store as far as this wake gets: first what is left of the last one, then what is stable, for
    /// [`WAKE_PART_MAX`]. While we catch up, a wake does one batch of an insertion, so that other requests are answered in between;
    /// and between two insertions, peers that have asked for our log are served first. Everything that was done is committed when it
    /// returns.
    fn make_changes(
        &mut self,
        clock: &impl Fn() -> Timestamp,
        outbox: &mut Outbox,
        post: &mut impl FnMut(Vec<NetCommand>),
    ) -> Result<(), StoreError> {
        let until = self.stopwatch.read() + WAKE_PART_MAX;
        loop {
            if self.insertion.is_some() {
                self.go_on_inserting(clock, outbox)?;
                let has_to_wait = self.insertion.is_some() || self.backlog.has_reads();
                if has_to_wait && self.replica.phase() == Phase::CatchingUp {
                    return Ok(());
                }
            } else if let Some(change) = self.backlog.next_change() {
                self.change(change, clock, outbox)?;
            } else if self.backlog.is_sorted() && self.replica.has_stable() && self.stopwatch.read() < until {
                self.replica.step(Input::ApplyNext, self.backlog.outputs());
                self.perform_effects(clock(), outbox)?;
            } else {
                return self.commit(clock);
            }
            if self.store.is_batch_full() || outbox.bytes() >= SENT_MAX {
                self.commit(clock)?;
                outbox.release(post);
            }
        }
    }

    /// Makes everything that was applied durable, with one sync.
    fn commit(&mut self, clock: &impl Fn() -> Timestamp) -> Result<(), StoreError> {
        let began = (self.store.uncommitted_bytes() > 0).then(clock);
        self.store.commit()?;
        let now = clock();
        self.measurements.on_commit(now, began.map(|began| now.since(began)));
        Ok(())
    }

    /// Performs one change of the store, and gathers the answers.
    fn change(
        &mut self,
        change: StoreChange,
        clock: &impl Fn() -> Timestamp,
        outbox: &mut Outbox,
    ) -> Result<(), StoreError> {
        match change {
            StoreChange::Apply { uid, body: Body::Request(request), stability, copies, waiting } => {
                let answer = self.apply(uid, &request, stability, copies, outbox)?;
                outbox.for_clients(waiting, &answer);
                Ok(())
            }
            StoreChange::Apply { uid, body: Body::Query(query), stability, copies, waiting } => {
                self.answer(uid, &query, (stability, copies), waiting, outbox)
            }
            StoreChange::Insert { requests, waiting } => self.begin_inserting(clock(), requests, waiting),
            StoreChange::TakeSnapshotPart { from, part, rows, end } => {
                let input = match self.snapshots.take(from, part, (rows, end), &mut self.store, outbox)? {
                    Taken::More => return Ok(()),
                    Taken::Not => Input::NotInstalled { peer: from },
                    Taken::Installed => {
                        self.measurements.on_snapshot_installed();
                        self.resubmission.begin();
                        let applied = self.store.applied().uid;
                        Input::Installed { applied, recent: recent(&self.store, self.replica.horizon())? }
                    }
                };
                self.replica.step(input, self.backlog.outputs());
                Ok(())
            }
        }
    }

    /// Applies a request, and returns the answer for the connections that wait.
    fn apply(
        &mut self,
        uid: Uid,
        request: &Request,
        stability: Stability,
        copies: u8,
        outbox: &mut Outbox,
    ) -> Result<ToClient, StoreError> {
        self.measurements.on_request(uid.timestamp, stability);
        let Outcome { answer, delivery } = self.store.apply(uid, request)?;
        self.clients.deliver(delivery, outbox);
        let metadata = self.metadata(stability, copies);
        Ok(ToClient::Answer { client: request.client, sequence: request.sequence, uid, answer, metadata })
    }

    /// Answers a query for the connections that wait, unless all of them are gone.
    fn answer(
        &mut self,
        uid: Uid,
        query: &QueryRequest,
        (stability, copies): (Stability, u8),
        waiting: Vec<ConnectionId>,
        outbox: &mut Outbox,
    ) -> Result<(), StoreError> {
        let waiting = self.clients.present(waiting);
        let Some(first) = waiting.first() else { return Ok(()) };

        let (first, began, bytes) = (*first, self.stopwatch.read(), outbox.bytes());
        let answer = self.store.query(query)?;
        let took = self.stopwatch.read().saturating_sub(began);
        self.measurements.on_query(uid.timestamp, stability);

        let answer = ToClient::QueryAnswer { id: query.id, answer, metadata: self.metadata(stability, copies) };
        outbox.for_clients(waiting, &answer);
        self.clients.on_query_answered(first, took, outbox.bytes() - bytes);
        Ok(())
    }

    /// Gathers a report for each connection that has asked for one.
    fn report_status(&mut self, outbox: &mut Outbox) {
        if self.asking_for_status.is_empty() {
            return;
        }
        let report = Box::new(self.report());
        for to in std::mem::take(&mut self.asking_for_status) {
            outbox.for_client(to, ToClient::Status { report: report.clone() });
        }
    }

    /// The facts that go with an answer. They may differ between replicas, so they are no part of it.
    fn metadata(&self, stability: Stability, copies: u8) -> AnswerMetadata {
        let applied = self.store.applied();
        AnswerMetadata { position: applied.position, log_digest: applied.log_digest, stability, copies }
    }
}

/// Up to where a replica accepts nothing when it starts. Its last incarnation may have answered queries as of any time before
/// its end, and no log shows them. A welcome, or the wait for one, keeps it from accepting requests below those. A replica
/// without peers serves at once, so its clock has to, which may have been set back a little since.
fn first_closed(settings: &ProtocolSettings, is_restart: bool, now: Timestamp) -> Timestamp {
    match is_restart && settings.peers.is_empty() {
        true => now.after(settings.ahead),
        false => Timestamp::ZERO,
    }
}

/// The requests in the log from a horizon on.
fn recent(store: &ChatStore, horizon: Timestamp) -> Result<BTreeSet<Uid>, StoreError> {
    let first = Uid { timestamp: horizon, digest: [0; 16] };
    store.log().entries(first).map(|entry| entry.map(|(uid, _)| uid)).collect()
}

#[cfg(test)]
mod tests;
