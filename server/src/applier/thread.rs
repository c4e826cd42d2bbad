//! The applier's thread: around the applier while there is room for what it writes, and in its place while there is not.
//!
//! A replica that cannot write is to its peers as one that has crashed: it says nothing, and after the delivery bound they go on
//! without it. When it can, it is as one that starts, with a new epoch: it catches up. So nothing in the protocol knows of it.
//! Meanwhile its clients are refused, and who stays connected is remembered. After each wake or look at the disk the thread gives
//! its word that it is alive.

use super::audience::Audience;
use super::counters::Tally;
use super::outbox::Outbox;
use super::sessions::Sessions;
use super::watch::metrics;
use super::{Applier, ROUNDS_MAX};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::net::{EventBatch, NetCommand, NetEvent, NetHandle, ReplicaIdentity, ScrapeReport};
use crate::replica::{Effect, Input, Output, ProtocolSettings, Submission};
use crate::store::{ChatStore, OpenError, StoreError};
use crate::supervision::Pulse;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use stablechat_protocol::answer::Refusal;
use stablechat_protocol::message::ToClient;
use stablechat_protocol::status::{ReportedPhase, StatusReport};
use stablechat_protocol::time::Timestamp;
use std::time::Duration;

/// How often a replica that could not write looks whether it can.
const RETRY: Duration = Duration::from_millis(500);
/// What it says of itself until then.
const FULL: &str = "its disk is full";

/// Runs a replica until it has stopped: waits for rounds of the poll loop, or until a wake is wanted.
///
/// # Errors
/// Storage failed for another reason than that there is no room.
pub fn run(
    mut applier: Applier,
    rounds: &Receiver<EventBatch>,
    mailbox: &NetHandle,
    clock: Clock,
    mut disk: Disk,
    pulse: &Pulse,
) -> Result<(), OpenError> {
    loop {
        match run_with_room(&mut applier, rounds, mailbox, &clock, &mut disk, pulse) {
            Err(error) if error.is_no_room() => {
                log::error!("the disk is full, so the replica cannot go on for now: {error}")
            }
            ended => return Ok(ended?),
        }
        disk.release();
        let mut halted = Halted::new(applier, &clock, mailbox);
        match halted.wait(rounds, mailbox, &clock, &mut disk, pulse)? {
            None => return Ok(()),
            Some(store) => applier = halted.go_on(store, &clock, mailbox)?,
        }
        log::info!("there is room again: the replica goes on as one that starts");
    }
}

/// Runs a replica until it has stopped.
///
/// At a deadline the applier does not look at the clock itself: it asks the poll loop for a reading, which comes with everything
/// that had arrived by then.
fn run_with_room(
    applier: &mut Applier,
    rounds: &Receiver<EventBatch>,
    mailbox: &NetHandle,
    clock: &Clock,
    disk: &mut Disk,
    pulse: &Pulse,
) -> Result<(), StoreError> {
    while !applier.is_stopped() {
        let received = match applier.deadline().map(|deadline| clock.instant_of(deadline)) {
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
        if let Some(has_room) = disk.look()? {
            applier.note_room(has_room);
        }
        let more = rounds.try_iter().take(ROUNDS_MAX - 1);
        applier.wake(std::iter::once(first).chain(more), || clock.now(), |sent| mailbox.post(sent))?;
        mailbox.resume();
        pulse.beat(|| applier.summary());
    }
    Ok(())
}

/// What is left of a replica that cannot write.
struct Halted {
    identity: ReplicaIdentity,
    settings: ProtocolSettings,
    audience: Audience,
    sessions: Sessions,
    tally: Tally,
    /// What it last said of itself.
    report: StatusReport,
}

impl Halted {
    /// Drops the rest, and the store with it. Whoever waits for an answer is refused.
    fn new(mut applier: Applier, clock: &Clock, mailbox: &NetHandle) -> Halted {
        let (report, settings) = (applier.report(), applier.replica.settings().clone());
        applier.outputs.clear();
        applier.replica.step(Input::Halted, &mut applier.outputs);
        let Applier { audience, sessions, mut tally, identity, outputs, watched, .. } = applier;
        tally.on_halt();
        let report =
            StatusReport { phase: ReportedPhase::CatchingUp, is_muted: true, boundaries: Vec::new(), ..report };
        let mut halted = Halted { identity, settings, audience, sessions, tally, report };
        let mut outbox = Outbox::default();
        for output in outputs {
            if let Output::Effect(Effect::Refuse { to, request, timestamp, reason }) = output {
                halted.tally.on_refusal(reason);
                outbox.for_client(to, ToClient::Refused { request, timestamp, reason, clock: clock.now() });
            }
        }
        // Whoever watches is answered once for each time that it asks, and does not ask again before.
        if let Some(traffic) = watched {
            halted.on_event(NetEvent::Scrape { traffic }, clock.now(), &mut outbox);
        }
        halted.disconnect(&mut outbox);
        outbox.release(&mut |sent| mailbox.post(sent));
        halted
    }

    /// Ends all connections to peers.
    fn disconnect(&self, outbox: &mut Outbox) {
        self.settings.peers.iter().for_each(|peer| outbox.add(NetCommand::Disconnect { peer: *peer }));
    }

    /// Waits until the store can be opened and written; none when the process is to stop before that.
    fn wait(
        &mut self,
        rounds: &Receiver<EventBatch>,
        mailbox: &NetHandle,
        clock: &Clock,
        disk: &mut Disk,
        pulse: &Pulse,
    ) -> Result<Option<ChatStore>, OpenError> {
        loop {
            match rounds.recv_timeout(RETRY) {
                Ok(round) => {
                    let mut outbox = Outbox::default();
                    let is_stop = |event: &NetEvent| matches!(event, NetEvent::Stop);
                    if round.events.iter().any(is_stop) {
                        return Ok(None);
                    }
                    round.events.into_iter().for_each(|event| self.on_event(event, clock.now(), &mut outbox));
                    outbox.release(&mut |sent| mailbox.post(sent));
                    mailbox.resume();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
            pulse.beat(|| FULL.into());
            if disk.look()? == Some(true) {
                match disk.open_store() {
                    Ok(store) => return Ok(Some(store)),
                    Err(OpenError::Store(error)) if error.is_no_room() => disk.release(),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Answers what can be answered, and remembers who listens.
    fn on_event(&mut self, event: NetEvent, now: Timestamp, outbox: &mut Outbox) {
        match event {
            NetEvent::Request(Submission { from, timestamp, body, .. }) => {
                self.tally.on_refusal(Refusal::NoRoom);
                let (request, reason) = (body.id(), Refusal::NoRoom);
                outbox.for_client(from, ToClient::Refused { request, timestamp, reason, clock: now });
            }
            NetEvent::LoggedIn { connection, actor, receive } => {
                self.audience.set(connection, receive.then_some(actor))
            }
            NetEvent::LoggedOut { connection } | NetEvent::Closed { connection } => self.audience.set(connection, None),
            NetEvent::Status { from } => {
                outbox.for_client(from, ToClient::Status { report: Box::new(self.report(now)) });
            }
            NetEvent::Scrape { traffic } => {
                let metrics = metrics(&self.identity, &self.settings, self.report(now), &self.tally, traffic, None);
                outbox
                    .add(NetCommand::ScrapeResult { inspection: ScrapeReport { unready: Some(FULL.into()), metrics } });
            }
            NetEvent::PeerConnected { peer } => outbox.add(NetCommand::ConnectionSeen { peer }),
            NetEvent::PeerDisconnected { .. } | NetEvent::Peer { .. } | NetEvent::PingPeers { .. } | NetEvent::Stop => {
            }
        }
    }

    /// What it says of itself now.
    fn report(&self, now: Timestamp) -> StatusReport {
        StatusReport { clock: now, counters: self.tally.counters(), ..self.report.clone() }
    }

    /// The replica as it starts with what its store holds. Connections to peers begin anew.
    fn go_on(self, store: ChatStore, clock: &Clock, mailbox: &NetHandle) -> Result<Applier, StoreError> {
        let mut outbox = Outbox::default();
        self.disconnect(&mut outbox);
        outbox.release(&mut |sent| mailbox.post(sent));
        let Halted { identity, settings, audience, sessions, tally, .. } = self;
        let applier = Applier::start(identity, settings, store, clock.now())?;
        Ok(Applier { audience, sessions, tally, ..applier })
    }
}
