//! The loop itself: wait, write the messages that the applier has posted, read, and hand the events to the applier.

mod clients;
mod peers;

use super::channel::{NetHandle, connect};
use super::connection::LINGER;
use super::connections::{CLIENTS_MAX, Connections, ENDED_MAX, Remote, STRANGERS_MAX};
use super::dialer::Dialer;
use super::inquirer::Inquirer;
use super::intake::Intake;
use super::logins::LoginQueue;
use super::monitor::{HTTP_CONNECTIONS_MAX, Monitor};
use super::peer_links::PeerLinks;
use super::rates::Rates;
use super::registrar::{FIRST_CONNECTION, Registrar};
use super::tls::Expiry;
use super::{EventBatch, Listener, NetCommand, NetEvent, NetStats, ReplicaIdentity, ReplicaTls};
use crate::clock::Clock;
use crate::replica::ConnectionId;
use crossbeam_channel::{Receiver, TryRecvError};
use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Token, Waker};
use stablechat_protocol::answer::Refusal;
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::cluster::REPLICAS_MAX;
use stablechat_protocol::frame::encode;
use stablechat_protocol::frame::{Decoded, FrameError};
use stablechat_protocol::message::ToClient;
use stablechat_protocol::request::RequestId;
use stablechat_protocol::version::Versions;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::io;
use std::time::{Duration, Instant, SystemTime};

/// The most sockets at a time, so that one wait reports all of them: those of clients and monitoring systems, and for each peer its
/// connection and the one that replaces it.
const SOCKETS_MAX: usize =
    FIRST_CONNECTION + CLIENTS_MAX + STRANGERS_MAX + ENDED_MAX + HTTP_CONNECTIONS_MAX + 2 * REPLICAS_MAX;
/// How many bytes one system call reads.
const SCRATCH: usize = 64 * 1024;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const STOP: Token = Token(2);
const MONITOR: Token = Token(3);

/// The poll loop. It reads its fields from top to bottom: where sockets come from, the connections, and the way to the applier and
/// back.
pub struct PollLoop {
    poll: Poll,
    listener: Listener,
    dialer: Dialer,
    inquirer: Inquirer,
    registrar: Registrar,
    /// Serves monitoring systems, if the operator wants that.
    monitor: Option<Monitor>,
    /// Becomes readable when the process is to stop.
    stop: UnixStream,
    identity: ReplicaIdentity,
    tls: ReplicaTls,
    clock: Clock,
    /// When the loop was made.
    since: Instant,
    connections: Connections,
    peer_links: PeerLinks,
    /// Logins whose signatures are to be checked.
    logins: LoginQueue,
    rates: Rates,
    /// The version ranges of refused clients that were logged.
    logged_versions: BTreeSet<Versions>,
    intake: Intake,
    /// What the applier wants sent.
    commands: Receiver<Vec<NetCommand>>,
    scratch: Box<[u8]>,
}

impl PollLoop {
    /// A loop that serves a listening socket, and monitoring systems, until `stop` becomes readable; and the applier's side of it.
    ///
    /// # Errors
    /// The operating system cannot make a poll.
    pub fn new(
        mut listener: Listener,
        mut monitor: Option<Monitor>,
        mut stop: UnixStream,
        identity: ReplicaIdentity,
        tls: ReplicaTls,
        clock: Clock,
    ) -> io::Result<(PollLoop, Receiver<EventBatch>, NetHandle)> {
        let poll = Poll::new()?;
        poll.registry().register(listener.source(), LISTENER, Interest::READABLE)?;
        if let Some(monitor) = &mut monitor {
            poll.registry().register(monitor.source(), MONITOR, Interest::READABLE)?;
        }
        poll.registry().register(&mut stop, STOP, Interest::READABLE)?;

        let (applier, handle, batches) = connect(Waker::new(poll.registry(), WAKER)?);
        let now = Instant::now();
        let poll_loop = PollLoop {
            registrar: Registrar::new(poll.registry().try_clone()?),
            poll,
            listener,
            dialer: Dialer::new(&identity, applier.flags.clone(), now),
            inquirer: Inquirer::new(&identity, applier.flags.clone()),
            monitor,
            stop,
            clock,
            since: now,
            connections: Connections::new(now),
            peer_links: PeerLinks::new(identity.peers().map(|(peer, entry)| (peer, entry.name.clone()))),
            rates: Rates::new(now),
            identity,
            tls,
            logins: LoginQueue::new(now),
            logged_versions: BTreeSet::new(),
            intake: Intake::new(applier.batches, applier.flags),
            commands: applier.commands,
            scratch: vec![0; SCRATCH].into(),
        };
        Ok((poll_loop, batches, handle))
    }

    /// Runs until the applier has dropped its handle, and then writes the write buffers.
    ///
    /// # Errors
    /// The poll itself failed. A failure of one connection, or of accepting one, ends only that connection.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(SOCKETS_MAX);
        loop {
            // The clock is read before the wait: whatever has arrived by this reading is reported by the wait, or was before.
            self.intake.note_requested_reading();
            let before = self.clock.now();
            self.wait(&mut events)?;
            events.iter().for_each(|event| self.on_event(event));
            self.intake.begin_reading(before, |id| self.connections.is_peer(id));

            let is_open = self.take_commands();
            self.serve_monitor();
            self.dialer.step(&mut self.registrar, Instant::now());
            self.ask_addresses();
            self.accept();
            self.read_peers();
            self.check_logins();
            self.serve_clients();
            self.flush();
            self.expire();
            self.intake.hand_over();
            if !is_open {
                self.say_goodbye();
                return Ok(());
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        loop {
            match self.poll.poll(events, self.timeout()) {
                // A signal such as SIGCONT ended the wait. The sockets have not been looked at, so the loop must not go on as if
                // they had been.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// How long there is nothing to do; none for as long as no socket is ready.
    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let may_be_peer = |id| self.connections.may_be_peer(id);
        if self.listener.is_ready() || self.intake.is_busy(may_be_peer, |id| self.is_held_up(id, now)) {
            return Some(Duration::ZERO);
        }
        let deadlines = [
            self.connections.deadline(),
            self.paused_until(now),
            self.logins.deadline(),
            self.listener.retry_at(),
            self.dialer.deadline(),
            self.inquirer.deadline(),
            self.monitor.as_ref().and_then(Monitor::deadline),
        ];
        let next = deadlines.into_iter().flatten().min()?;
        Some(next.saturating_duration_since(now))
    }

    /// Notes which socket is ready.
    fn on_event(&mut self, event: &mio::event::Event) {
        match event.token() {
            LISTENER => self.listener.set_ready(),
            WAKER => {}
            STOP => self.on_stop(),
            MONITOR => self.monitor.iter_mut().for_each(Monitor::set_ready),
            token => {
                let Some(id) = Registrar::connection(token) else { return };
                if self.monitor.as_mut().is_some_and(|monitor| monitor.on_event(id)) {
                    return;
                }
                let now = Instant::now();
                if let Some((peer, socket)) = self.dialer.take_connected(id, now) {
                    self.greet(id, peer, socket, now);
                } else if self.inquirer.on_event(id, now) {
                    // Its outcome is looked at in this turn.
                } else if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.intake.set_readable(id);
                }
            }
        }
    }

    /// Tells the applier that the process is to stop.
    fn on_stop(&mut self) {
        // The bytes carry nothing. They are read because mio reports the next ones only then.
        while io::Read::read(&mut self.stop, &mut self.scratch[..16]).is_ok_and(|length| length > 0) {}
        self.intake.push(NetEvent::Stop);
    }

    /// Performs what the applier wants. Returns whether it may still want more.
    fn take_commands(&mut self) -> bool {
        let now = Instant::now();
        loop {
            match self.commands.try_recv() {
                Ok(batch) => batch.iter().for_each(|command| self.perform(command, now)),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Performs a command, as far as the connection that it is for still exists.
    fn perform(&mut self, command: &NetCommand, now: Instant) {
        match command {
            NetCommand::ToClients { to, message } => self.send_to_clients(to, message, now),
            NetCommand::ToPeer { to, message } => self.send_to_peer(*to, message, now),
            NetCommand::ScrapeResult { report } => {
                self.monitor.iter_mut().for_each(|monitor| monitor.on_result(report, now));
            }
            NetCommand::ConnectionSeen { peer } => self.peer_links.on_acknowledged(*peer),
            NetCommand::WrongKey { connection, account } => {
                if let Some((connection, _)) = self.connections.get(*connection) {
                    self.rates.on_wrong_key(now, connection.source(), account);
                }
            }
            NetCommand::Disconnect { peer } => self.disconnect(*peer, now),
            NetCommand::AskAddress { peer, number } => self.inquirer.ask(*peer, *number, now),
            NetCommand::DropQuestion { peer } => self.inquirer.forget(*peer),
        }
    }

    /// Goes on with the connections of monitoring systems, and asks the applier for a report when one of them waits for it.
    fn serve_monitor(&mut self) {
        let Some(monitor) = &mut self.monitor else { return };
        if monitor.step(&mut self.registrar, Instant::now()) {
            let Expiry { replica, authority } = self.tls.expiry();
            let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            let mut stats = NetStats {
                clock_steps: self.clock.steps(),
                certificate_until: seconds(replica),
                authority_until: seconds(authority),
                ..NetStats::default()
            };
            self.connections.note_stats(&mut stats);
            self.intake.push(NetEvent::Scrape { stats });
        }
    }

    /// Sends a message of the applier to a client, and notes what follows from it for what is read of the client.
    fn send_to_clients(&mut self, to: &[ConnectionId], message: &ToClient, now: Instant) {
        let mut frame = Vec::new();
        for id in to {
            let Some(connection) = self.connections.client_mut(*id) else { continue };
            if frame.is_empty() {
                encode(message, &mut frame).expect("messages are made so that they fit into a frame");
            }
            connection.send_frame(&frame, now);
            if let ToClient::QueryAnswer { .. } | ToClient::Refused { request: RequestId::Query { .. }, .. } = message {
                connection.on_query_done(now);
            }
            if let ToClient::Refused { reason: Refusal::Overloaded, .. } = message {
                connection.on_overload(now);
            }
        }
    }

    /// Reads from all peers that may have sent something, a limited amount from each and of all.
    fn read_peers(&mut self) {
        let now = Instant::now();
        for id in self.intake.peers(|id| self.connections.is_peer(id)) {
            if self.intake.is_full() {
                return;
            }
            let Some((connection, _)) = self.connections.get_mut(id) else { continue };
            let read = connection.read(&mut self.scratch, now);
            self.intake.on_read(id, &read);
            // Messages that came before the end of the connection count.
            self.handle_peer_messages(id, now);
            if read.end.is_over() {
                self.on_peer_broken(id, &read.end, now);
            }
        }
    }

    /// Handles the messages that have come whole on a peer's connection.
    fn handle_peer_messages(&mut self, id: ConnectionId, now: Instant) {
        while let Some((connection, Remote::Peer(_) | Remote::Dialed(_))) = self.connections.get_mut(id) {
            match connection.next_message() {
                Ok(Decoded::NeedMore) => return,
                Ok(Decoded::Frame(message)) => self.on_peer_message(id, message, now),
                Err(error) => self.on_peer_error(id, &error, now),
            }
        }
    }

    /// Ends a client's connection, with a reason.
    fn close(&mut self, id: ConnectionId, reason: CloseReason, now: Instant) {
        if let Some((connection, _)) = self.connections.get_mut(id) {
            log::debug!("ending connection {}: {reason}", id.0);
            connection.close(reason, now);
        }
    }

    /// Drops a connection, and tells the applier or the dialer that it is gone.
    fn remove(&mut self, id: ConnectionId, why: &dyn Display, now: Instant) {
        self.intake.forget(id);
        match self.connections.remove(id) {
            Some(Remote::Client(greeting)) if greeting.is_done() => {
                self.intake.push(NetEvent::Closed { connection: id });
            }
            Some(Remote::Peer(peer)) => self.end_link(peer, why, now),
            Some(Remote::Dialed(peer)) => self.dialer.on_failed(peer, why, now),
            Some(Remote::Client(_)) | None => {}
        }
    }

    /// Writes what the sockets take.
    fn flush(&mut self) {
        let now = Instant::now();
        let flushed = self.connections.flush(now);
        // A peer's last message, such as its leave, may still be there to be read; the end of the connection comes after it.
        flushed.broken_peers.into_iter().for_each(|id| self.intake.set_readable(id));
        flushed.gone.into_iter().for_each(|id| self.remove(id, &"it cannot be written to", now));
    }

    /// Ends connections that have been silent for too long, and drops those that were ended long enough ago.
    fn expire(&mut self) {
        let now = Instant::now();
        let expired = self.connections.expired(now, |id| self.intake.has_work(id));
        expired.overdue.into_iter().for_each(|id| self.remove(id, &"it was ended", now));
        for id in expired.deaf {
            if let Some((connection, _)) = self.connections.get_mut(id) {
                connection.give_up(CloseReason::SlowReader, now);
            }
        }
        for id in expired.silent {
            match self.connections.is_peer(id) {
                true => self.close_peer(id, CloseReason::Silent, &"it said nothing for too long", now),
                false => self.close(id, CloseReason::Silent, now),
            }
        }
    }

    /// Tells everybody that the replica stops, and waits a moment until the write buffers are written.
    fn say_goodbye(mut self) {
        let until = Instant::now() + LINGER;
        self.connections.stop(Instant::now());
        let mut events = Events::with_capacity(SOCKETS_MAX);
        loop {
            let now = Instant::now();
            let patience = until.saturating_duration_since(now).min(Duration::from_millis(100));
            if self.connections.finish(&mut self.scratch, now)
                || patience.is_zero()
                || self.poll.poll(&mut events, Some(patience)).is_err()
            {
                return;
            }
        }
    }
}

/// The reason that is given for bytes that are no message. Before the greeting the other side is most likely no client at all.
fn close_reason(error: FrameError, is_greeted: bool) -> CloseReason {
    match error {
        _ if !is_greeted => CloseReason::NotStablechat,
        FrameError::TooLarge { length, limit } => CloseReason::TooLarge { length: length as u64, limit: limit as u64 },
        FrameError::Malformed(detail) => CloseReason::Malformed { detail },
    }
}
