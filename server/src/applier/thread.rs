//! The applier's thread. It runs the applier while there is room on the disk, and takes its place while there is none.
//!
//! A replica that cannot write behaves like one that has crashed: it sends nothing to its peers, and after the delivery bound they
//! go on without it. When there is room again it behaves like one that starts, with a new epoch, and catches up. So the protocol
//! need not know of full disks. Meanwhile its clients are refused, and their connections and logins are remembered. After each wake
//! or look at the disk the thread tells systemd's watchdog that it is alive.

use super::clients::Clients;
use super::measurements::Measurements;
use super::outbox::Outbox;
use super::scrape::metrics;
use super::stopwatch::Stopwatch;
use super::{Applier, WAKE_PART_MAX, status};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::net::{EventBatch, NetCommand, NetEvent, NetHandle, ReplicaIdentity, ScrapeReport};
use crate::replica::{Effect, Input, ProtocolSettings, Submission};
use crate::store::{ChatStore, OpenError, StoreError};
use crate::systemd::Heartbeat;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use stablechat_protocol::answer::Refusal;
use stablechat_protocol::message::ToClient;
use stablechat_protocol::status::{ReportedPhase, StatusReport};
use stablechat_protocol::time::Timestamp;
use std::time::Duration;

/// How often a replica that could not write looks whether it can.
const RETRY: Duration = Duration::from_millis(500);
/// The answer to health checks while it cannot write.
const FULL: &str = "its disk is full";

/// Why a replica has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to stop.
    Stopped,
    /// Its clock was wrong, and the wall clock has been set back: it has to be started again.
    ClockSetBack,
}

/// Runs a replica until it has ended. It waits for batches of the poll loop, or until the protocol wants a wake.
///
/// # Errors
/// Storage failed for another reason than that there is no room.
pub fn run(
    mut applier: Applier,
    batches: &Receiver<EventBatch>,
    net: &NetHandle,
    clock: Clock,
    mut disk: Disk,
    heartbeat: &Heartbeat,
) -> Result<Ended, OpenError> {
    loop {
        match run_with_room(&mut applier, batches, net, &clock, &mut disk, heartbeat) {
            Err(error) if error.is_no_room() => {
                log::error!(
                    "the disk is full: the replica refuses everything until there is room, and looks again every {} ms: {error}",
                    RETRY.as_millis()
                )
            }
            ended => return Ok(ended?),
        }
        disk.release_store();
        let mut outbox = Outbox::default();
        let mut halted = Halted::new(applier, clock.now(), &mut outbox);
        outbox.release(&mut |sent| net.post(sent));
        match halted.wait(batches, net, &clock, &mut disk, heartbeat)? {
            None => return Ok(Ended::Stopped),
            Some(store) => applier = halted.go_on(store, &clock, net)?,
        }
        log::info!("there is room on the disk again: the replica goes on as if it had been restarted");
    }
}

/// Runs a replica until it has ended.
///
/// At a deadline the applier does not look at the clock itself: it asks the poll loop for a reading, which comes with everything
/// that had arrived by then.
fn run_with_room(
    applier: &mut Applier,
    batches: &Receiver<EventBatch>,
    net: &NetHandle,
    clock: &Clock,
    disk: &mut Disk,
    heartbeat: &Heartbeat,
) -> Result<Ended, StoreError> {
    while !applier.is_stopped() {
        let received = match applier.deadline().map(|deadline| clock.instant_of(deadline)) {
            Some(deadline) => batches.recv_deadline(deadline),
            None => batches.recv().map_err(RecvTimeoutError::from),
        };
        let first = match received {
            Ok(batch) => batch,
            Err(RecvTimeoutError::Timeout) => {
                net.ask_for_reading();
                match batches.recv() {
                    Ok(batch) => batch,
                    Err(_) => break,
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if let Some(has_room) = disk.check_room()? {
            applier.note_room(has_room);
        }
        applier.note_wall_clock(clock.unfollowed_ns());
        let until = Stopwatch::MONOTONIC.read() + WAKE_PART_MAX;
        let next = || (Stopwatch::MONOTONIC.read() < until).then(|| batches.try_recv().ok()).flatten();
        let read = std::iter::once(first).chain(std::iter::from_fn(next)).inspect(|batch| net.note_taken(batch));
        applier.wake(read, || clock.now(), |sent| net.post(sent))?;
        if let Some(floor) = applier.take_clock_floor() {
            clock.raise(floor);
        }
        net.resume();
        heartbeat.beat(|| applier.summary());

        // Its clock cannot be set back while it runs: other parts rely on that. A new process begins with the right one.
        if applier.has_to_start_again() {
            return Ok(Ended::ClockSetBack);
        }
    }
    Ok(Ended::Stopped)
}

/// The remains of a replica that cannot write: everything that needs no store.
struct Halted {
    identity: ReplicaIdentity,
    settings: ProtocolSettings,
    clients: Clients,
    measurements: Measurements,
    /// Its last status report.
    report: StatusReport,
    /// Whether the process is to stop. Nothing that was accepted is left to hand over, so it stops at once.
    is_stopping: bool,
}

impl Halted {
    /// Drops the rest, and the store with it. Connections that wait for an answer are refused. The events that the failed wake had
    /// not taken in are taken in here.
    fn new(mut applier: Applier, now: Timestamp, outbox: &mut Outbox) -> Halted {
        let (report, settings) = (applier.report(), applier.replica.settings().clone());
        let is_stopping = applier.replica.overview().is_stopping;
        applier.step(Input::Halted);
        let Applier { executor, backlog, identity, scraped, asking_for_status, events, .. } = applier;
        let (clients, measurements) = executor.close();
        let report =
            StatusReport { phase: ReportedPhase::CatchingUp, is_muted: true, boundaries: Vec::new(), ..report };
        let mut halted = Halted { identity, settings, clients, measurements, report, is_stopping };

        for effect in backlog.into_effects() {
            match effect {
                Effect::Refuse { to, request, timestamp, reason } => {
                    halted.measurements.on_refusal(reason);
                    outbox.for_client(to, ToClient::Refused { request, timestamp, reason, clock: now });
                }
                // The poll loop counts these.
                Effect::ConnectionSeen { peer } => outbox.add(NetCommand::ConnectionSeen { peer }),
                _ => {}
            }
        }
        // The monitor waits for an answer to each scrape before the next, and a client for its status.
        let scrape = scraped.map(|stats| NetEvent::Scrape { stats });
        let status = asking_for_status.into_iter().map(|from| NetEvent::Status { from });
        let unanswered = scrape.into_iter().chain(status).chain(events);
        unanswered.for_each(|event| halted.on_event(event, now, outbox));
        halted.disconnect(outbox);
        halted
    }

    /// Ends all connections to peers.
    fn disconnect(&self, outbox: &mut Outbox) {
        self.settings.peers.iter().for_each(|peer| outbox.add(NetCommand::Disconnect { peer: *peer }));
    }

    /// Waits until the store can be opened and written; none when the process is to stop before that.
    fn wait(
        &mut self,
        batches: &Receiver<EventBatch>,
        net: &NetHandle,
        clock: &Clock,
        disk: &mut Disk,
        heartbeat: &Heartbeat,
    ) -> Result<Option<ChatStore>, OpenError> {
        while !self.is_stopping {
            match batches.recv_timeout(RETRY) {
                Ok(batch) => {
                    net.note_taken(&batch);
                    let mut outbox = Outbox::default();
                    batch.events.into_iter().for_each(|event| self.on_event(event, clock.now(), &mut outbox));
                    outbox.release(&mut |sent| net.post(sent));
                    net.resume();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
            heartbeat.beat(|| FULL.into());
            if disk.check_room()? == Some(true) {
                match disk.open_store() {
                    Ok(store) => return Ok(Some(store)),
                    Err(error) if error.is_no_room() => disk.release_store(),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(None)
    }

    /// Takes in an event as far as that needs no store: refuses requests, answers questions, and remembers logins.
    fn on_event(&mut self, event: NetEvent, now: Timestamp, outbox: &mut Outbox) {
        match event {
            NetEvent::Request(Submission { from, timestamp, body, .. }) => {
                self.measurements.on_refusal(Refusal::NoRoom);
                let (request, reason) = (body.id(), Refusal::NoRoom);
                outbox.for_client(from, ToClient::Refused { request, timestamp, reason, clock: now });
            }
            NetEvent::Greeted { connection } => self.clients.on_greeted(connection),
            NetEvent::LoggedIn { connection, actor, receive } => {
                let logged_in = self.clients.on_logged_in(connection, actor, receive, false, None);
                logged_in.expect("it fails only if the store does");
            }
            NetEvent::LoggedOut { connection } => self.clients.on_logged_out(connection),
            NetEvent::Closed { connection } => self.clients.on_closed(connection),
            NetEvent::Status { from } => {
                // Without the store nobody knows which accounts exist.
                outbox.for_client(from, status(&self.report(now), self.clients.is_operator(from)));
            }
            NetEvent::Scrape { stats } => {
                let metrics =
                    metrics(&self.identity, &self.settings, self.report(now), &self.measurements, stats, None);
                outbox.add(NetCommand::ScrapeResult { report: ScrapeReport { unready: Some(FULL.into()), metrics } });
            }
            NetEvent::PeerConnected { peer } => outbox.add(NetCommand::ConnectionSeen { peer }),
            NetEvent::Stop => self.is_stopping = true,
            NetEvent::PeerDisconnected { .. }
            | NetEvent::AddressRefused { .. }
            | NetEvent::Peer { .. }
            | NetEvent::PingPeers { .. } => {}
        }
    }

    /// Its status report as of now.
    fn report(&self, now: Timestamp) -> StatusReport {
        StatusReport { clock: now, counters: self.measurements.counters(), ..self.report.clone() }
    }

    /// The replica as it starts with what its store holds. Connections to peers begin anew.
    fn go_on(self, store: ChatStore, clock: &Clock, net: &NetHandle) -> Result<Applier, StoreError> {
        let mut outbox = Outbox::default();
        self.disconnect(&mut outbox);
        outbox.release(&mut |sent| net.post(sent));
        let Halted { identity, settings, clients, measurements, .. } = self;
        let applier = Applier::start(identity, settings, store, clock.now())?;
        Ok(Applier { executor: applier.executor.with(clients, measurements)?, ..applier })
    }
}

#[cfg(test)]
mod tests;
