//! The applier: performs the outputs of the replication protocol on the store, and gathers the messages to send.
//!
//! [`Applier::wake`] is one wake: take in the events of the poll loop, announce new requests to the peers, apply the stable ones,
//! commit it with one sync, and only then let the answers out, since an answer promises durability. It has no thread and no
//! channel, so that the simulator can drive it; [`run`] is the thread around it.
//!
//! It never knows sockets: it gathers messages to connections and peers, which may be gone when the messages are sent.

mod backlog;
mod boundaries;
mod clients;
mod executor;
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
use crate::replica::{ConnectionId, Effect, Input, Output, Phase, ProtocolSettings, Replica, Start};
use crate::store::{ChatStore, StoreError};
use backlog::Backlog;
use boundaries::BoundaryExchange;
use executor::{Executor, recent};
use outbox::Outbox;
use peer_pings::PeerPings;
use progress::Progress;
use stablechat_protocol::message::ToClient;
use stablechat_protocol::status::StatusReport;
use stablechat_protocol::time::Timestamp;
use state_log::StateLog;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// About how many bytes one wake gathers before it hands them to the poll loop. It bounds the memory that many large pages take.
const SENT_MAX: usize = 2 * 1024 * 1024;
/// How long one wake takes in events, and how long it applies what is stable: 10 ms each, and at least one batch and one change.
/// The rest waits for the next wake. Before it applies, each wake sends the peers what they wait for, heartbeats among it, and
/// they expect a sign of life every 50 ms at most.
const WAKE_PART_MAX: Duration = Duration::from_millis(10);

/// The protocol, the store, and everything around the two.
pub struct Applier {
    replica: Replica,
    /// The store, and everything that its changes concern.
    executor: Executor,
    /// The outputs of the protocol that wait to be performed.
    backlog: Backlog,
    boundaries: BoundaryExchange,
    progress: Progress,
    state_log: StateLog,
    peer_pings: PeerPings,
    /// Tells how long a wake takes.
    stopwatch: Stopwatch,
    /// The names of this replica and of the peers.
    identity: ReplicaIdentity,
    /// The connections that have asked for the status in this wake. Each gets one report, however often it asks.
    asking_for_status: BTreeSet<ConnectionId>,
    /// The poll loop's measurements, if there was a scrape in this wake.
    scraped: Option<NetStats>,
    /// The events of the batch that is being taken in, until each has been. If storage fails in the middle of a wake, the rest
    /// stays here: `thread::Halted`, which takes the applier's place, needs the logins and the ends of connections among it.
    events: VecDeque<NetEvent>,
    /// The time that the clock has to show at least, if that is more than it shows.
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
        executor::audit_repair(&resumed);

        let recent = recent(&store, now.before(settings.memory()))?;
        let closed = first_closed(&settings, is_restart, now);
        let (epoch, restarts) = (store.epoch(), store.restarts());
        let start = Start { epoch, restarts, applied: store.applied().uid, recent, closed, now };
        Ok(Applier {
            replica: Replica::new(settings, start),
            executor: Executor::new(store, Stopwatch::MONOTONIC),
            backlog: Backlog::default(),
            boundaries: BoundaryExchange::default(),
            progress: Progress::default(),
            state_log: StateLog::default(),
            peer_pings: PeerPings::default(),
            stopwatch: Stopwatch::MONOTONIC,
            identity,
            asking_for_status: BTreeSet::new(),
            scraped: None,
            events: VecDeque::new(),
            clock_floor: None,
            stopped: false,
        })
    }

    /// The same with another stopwatch.
    pub fn timed_by(self, stopwatch: Stopwatch) -> Applier {
        Applier { executor: self.executor.timed_by(stopwatch), stopwatch, ..self }
    }

    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    pub fn store(&self) -> &ChatStore {
        &self.executor.store
    }

    /// When the next wake is wanted: at once while something is half done.
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.executor.is_inserting() || self.backlog.wants_wake() {
            true => Some(Timestamp::ZERO),
            false => self.replica.deadline(),
        }
    }

    /// Notes whether there is room on the disk for what clients want to write.
    pub fn note_room(&mut self, has_room: bool) {
        self.step(Input::Room { has_room });
    }

    /// How many requests have been undone and applied again since the start: none while the assumption holds.
    pub fn undone(&self) -> u64 {
        self.executor.measurements.counters().undone
    }

    /// Notes how far the wall clock is ahead, in nanoseconds, if it is so far behind that our clock does not follow.
    pub fn note_wall_clock(&mut self, unfollowed_ns: Option<i64>) {
        self.replica.step(Input::WallClock { unfollowed_ns }, self.backlog.outputs());
    }

    /// Whether the process has to begin anew with the wall clock's time.
    pub fn has_to_start_again(&self) -> bool {
        self.replica.has_to_start_again()
    }

    /// The time that the clock is to be raised to. Returned once.
    pub fn take_clock_floor(&mut self) -> Option<Timestamp> {
        self.clock_floor.take()
    }

    /// How many snapshots of peers have replaced log and state since the start.
    pub fn snapshots_installed(&self) -> u64 {
        self.executor.measurements.snapshots_installed()
    }

    /// Whether everything that the protocol takes for applied has been written. While it catches up, much of that may be still to
    /// be written.
    pub fn has_written_all(&self) -> bool {
        !self.executor.is_inserting() && !self.backlog.has_changes()
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
        self.step(Input::Woken { time: clock() });
        for batch in batches {
            self.events.extend(batch.events);
            while let Some(event) = self.events.pop_front() {
                self.on_event(event)?;
            }
            if let Some(time) = batch.drained {
                self.step(Input::Drained { time });
            }
        }

        for (connection, account) in self.executor.clients.take_wrong_keys() {
            outbox.add(NetCommand::WrongKey { connection, account });
        }
        let now = clock();
        self.executor.resubmit(now, &mut self.replica, self.backlog.outputs())?;
        self.step(Input::Handled { time: now });

        self.boundaries.exchange(now, &self.replica, &self.executor.store, outbox);
        self.turn_down_strangers(now, outbox)?;
        self.peer_pings.go_on(now, &self.replica, &self.identity, outbox);
        self.settle();

        self.state_log.note(&self.replica, &self.identity, self.executor.store.applied().position);
        self.state_log.note_clocks(&self.replica.overview(), &self.identity);
        self.executor.snapshots.expire(now);
        if self.replica.phase() != Phase::CatchingUp {
            self.progress.end();
        }
        if let Some(text) = self.progress.next_line(now, |peer| self.identity.name_of(peer)) {
            log::info!("{text}");
        }
        // A peer that installs a snapshot goes on with the log from there, so this part of it has to stay.
        if !self.executor.snapshots.is_sending() {
            self.executor.store.truncate()?;
        }

        self.perform(&clock, now, outbox, post)?;
        if !self.executor.is_inserting() && self.replica.phase() != Phase::CatchingUp {
            self.executor.clients.tell_outdated(outbox);
        }
        self.report_status(outbox)?;
        self.answer_scrape(outbox);
        outbox.release(post);
        Ok(())
    }

    /// Takes in an event of the poll loop: an input for the protocol, or for one of the objects here.
    fn on_event(&mut self, event: NetEvent) -> Result<(), StoreError> {
        let clients = &mut self.executor.clients;
        match event {
            NetEvent::Request(submission) => {
                match clients.admit(submission, self.replica.pending_queries(), &self.executor.store)? {
                    Ok(input) => self.step(input),
                    Err(refusal) => self.backlog.outputs().push(Output::Effect(refusal)),
                }
            }
            NetEvent::Greeted { connection } => clients.on_greeted(connection),
            NetEvent::LoggedIn { connection, actor, receive } => {
                // A replica that catches up may not know the account yet.
                let is_serving = self.replica.phase() == Phase::Serving;
                self.executor.on_logged_in(connection, actor, receive, is_serving)?;
            }
            NetEvent::LoggedOut { connection } => clients.on_logged_out(connection),
            NetEvent::Closed { connection } => clients.on_closed(connection),
            NetEvent::PeerConnected { peer } => self.step(Input::PeerConnected { peer }),
            NetEvent::PeerDisconnected { peer } => {
                self.end_transfers_with(peer);
                self.step(Input::PeerDisconnected { peer });
            }
            NetEvent::AddressRefused { peer, number } => self.step(Input::AddressRefused { peer, number }),
            NetEvent::Peer { time, peer, message } => {
                if let Some(input) = self.input_from(time, peer, message)? {
                    self.step(input);
                }
            }
            NetEvent::Status { from } => {
                self.asking_for_status.insert(from);
            }
            NetEvent::Scrape { stats } => self.scraped = Some(stats),
            NetEvent::PingPeers { from } => self.peer_pings.ask(from),
            NetEvent::Stop => {
                log::info!("asked to stop: handing over to the others");
                self.step(Input::Stop);
            }
        }
        Ok(())
    }

    /// Gives the protocol an input. Its outputs go to the backlog.
    fn step(&mut self, input: Input) {
        self.replica.step(input, self.backlog.outputs());
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
        self.step(Input::Applied);
        self.perform_effects(clock(), outbox)?;
        while !self.executor.is_inserting()
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

    /// Performs an effect: it needs no change of the state or the log.
    fn effect(&mut self, effect: Effect, now: Timestamp, outbox: &mut Outbox) -> Result<(), StoreError> {
        match effect {
            Effect::Send { to, message } => outbox.for_peer(to, message),
            Effect::SendBodies { to, pending, logged } => self.send_bodies(to, pending, &logged, outbox)?,
            Effect::Refuse { to, request, timestamp, reason } => {
                self.executor.measurements.on_refusal(reason);
                outbox.for_client(to, ToClient::Refused { request, timestamp, reason, clock: now });
            }
            Effect::ConnectionSeen { peer } => outbox.add(NetCommand::ConnectionSeen { peer }),
            Effect::Disconnect { peer } => {
                self.end_transfers_with(peer);
                outbox.add(NetCommand::Disconnect { peer });
            }
            Effect::PeerLost { peer, loss } => {
                self.executor.measurements.on_peer_lost(loss);
                state_log::log_loss(&self.identity.name_of(peer), loss);
                outbox.add(NetCommand::DropQuestion { peer });
            }
            Effect::Incomplete { peer, lacking } => state_log::log_incomplete(&self.identity.name_of(peer), lacking),
            Effect::AskAddress { peer, number } => outbox.add(NetCommand::AskAddress { peer, number }),
            Effect::NewEpoch { epoch, restarts } => {
                log::warn!(
                    "this replica has not run or not kept up for too long, or was taken for dead: beginning again in epoch {epoch}"
                );
                self.executor.measurements.on_rejoin();
                self.executor.store.begin_epoch(epoch, restarts)?;
            }
            Effect::Stable => self.executor.store.note_stable()?,
            Effect::Stopped => {
                self.executor.store.note_left()?;
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
            Effect::LogUnmendable => log::error!(
                "the log ends in the future, other replicas serve with logs that lack requests of it, and nothing says which are \
                 right: this replica waits; to go on with what the others have, stop this replica, move its data away, and start \
                 it again; to go on with what this one has, do the same with the others"
            ),
        }
        Ok(())
    }

    /// Changes the store as far as this wake gets: first the changes that the last wake left, then the stable requests, for
    /// [`WAKE_PART_MAX`]. While we catch up, a wake does one batch of an insertion, so that other requests are answered in between;
    /// and between two insertions, peers that have asked for our log are served first. Everything that was done is committed when
    /// it returns.
    fn make_changes(
        &mut self,
        clock: &impl Fn() -> Timestamp,
        outbox: &mut Outbox,
        post: &mut impl FnMut(Vec<NetCommand>),
    ) -> Result<(), StoreError> {
        let until = self.stopwatch.read() + WAKE_PART_MAX;
        loop {
            if self.executor.is_inserting() {
                if let Some(inserted) = self.executor.go_on_inserting(clock, outbox)? {
                    self.step(inserted);
                }
                let has_to_wait = self.executor.is_inserting() || self.backlog.has_reads();
                if has_to_wait && self.replica.phase() == Phase::CatchingUp {
                    return Ok(());
                }
            } else if let Some(change) = self.backlog.next_change() {
                if let Some(result) = self.executor.execute(change, self.replica.horizon(), clock, outbox)? {
                    self.step(result);
                }
            } else if self.backlog.is_sorted() && self.replica.has_stable() && self.stopwatch.read() < until {
                self.step(Input::ApplyNext);
                self.perform_effects(clock(), outbox)?;
            } else {
                return self.executor.commit(clock);
            }
            if self.executor.store.is_batch_full() || outbox.bytes() >= SENT_MAX {
                self.executor.commit(clock)?;
                outbox.release(post);
            }
        }
    }

    /// Answers the strangers among those that have asked for pings of the peers.
    fn turn_down_strangers(&mut self, now: Timestamp, outbox: &mut Outbox) -> Result<(), StoreError> {
        for from in self.peer_pings.asking().collect::<Vec<ConnectionId>>() {
            if !self.executor.clients.is_known(from, &self.executor.store)? {
                self.peer_pings.turn_down(now, from, outbox);
            }
        }
        Ok(())
    }

    /// Gathers a report for each connection that has asked for one.
    fn report_status(&mut self, outbox: &mut Outbox) -> Result<(), StoreError> {
        if self.asking_for_status.is_empty() {
            return Ok(());
        }
        let report = self.report();
        for to in std::mem::take(&mut self.asking_for_status) {
            let is_known = self.executor.clients.is_known(to, &self.executor.store)?;
            outbox.for_client(to, status(&report, is_known));
        }
        Ok(())
    }
}

/// The answer to a client that asks for the status: all of it, or as much as a stranger is told.
fn status(report: &StatusReport, is_known: bool) -> ToClient {
    match is_known {
        true => ToClient::Status { report: Box::new(report.clone()) },
        false => ToClient::PublicStatus { status: report.public() },
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

#[cfg(test)]
mod tests;
