//! The loop itself: wait, send what came from the applier, read what came from the sockets, hand it over.

mod peers;

use super::channel::{NetHandle, connect};
use super::connection::{Connection, LINGER};
use super::dialer::Dialer;
use super::greeting::{Greeting, Reaction};
use super::intake::Intake;
use super::monitor::{HTTP_CONNECTIONS_MAX, Monitor};
use super::registrar::{FIRST_CONNECTION, Registrar};
use super::{EventBatch, Listener, NetCommand, NetEvent, NetStats, ReplicaIdentity};
use crate::clock::Clock;
use crate::replica::{ConnectionId, PeerId, Submission};
use crossbeam_channel::{Receiver, TryRecvError};
use mio::net::{TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};
use peers::Link;
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::cluster::REPLICAS_MAX;
use stablechat_protocol::frame::{Decoded, FrameError};
use stablechat_protocol::login::Challenge;
use stablechat_protocol::message::{Role, ToClient};
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::version::Versions;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io;
use std::time::{Duration, Instant};

/// The most connections but for those with peers. Further clients are told so and closed.
const CONNECTIONS_MAX: usize = 1024;
/// The most connections beside those that are told goodbye, or have yet to say that they are peers. Further ones are closed
/// without a word.
const LINGERING_MAX: usize = 256;
/// The most sockets at a time, so that one wait tells of all: clients', those of who watches, and for each peer its connection
/// and the next one.
const SOCKETS_MAX: usize = FIRST_CONNECTION + CONNECTIONS_MAX + LINGERING_MAX + HTTP_CONNECTIONS_MAX + 2 * REPLICAS_MAX;
/// The most bytes that wait to be sent to all clients together. The connection that adds more is closed. What waits for
/// peers is bounded for each.
const CLIENTS_WRITE_MAX: usize = 256 * 1024 * 1024;
/// How long a connection may take until both sides have greeted.
const GREETING_WAIT: Duration = Duration::from_secs(10);
/// How long a connection may be silent. Clients ping, and peers announce, more often than that.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How many ranges of versions that clients were refused for are logged. Whoever thinks up more is not.
const REFUSED_MAX: usize = 16;
/// How often connections are looked at for silence.
const SWEEP: Duration = Duration::from_secs(1);

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const STOP: Token = Token(2);
const MONITOR: Token = Token(3);

/// Everything the loop has.
pub struct PollLoop {
    poll: Poll,
    listener: Listener,
    /// Who watches, if anybody may.
    monitor: Option<Monitor>,
    /// Becomes readable when the process shall stop.
    stop: UnixStream,
    identity: ReplicaIdentity,
    clock: Clock,
    registrar: Registrar,
    connections: BTreeMap<ConnectionId, (Connection, OtherSide)>,
    /// What is known of each peer.
    links: BTreeMap<PeerId, Link>,
    dialer: Dialer,
    /// The versions of clients that were refused and logged.
    refused: BTreeSet<Versions>,
    intake: Intake,
    /// Gives what the applier wants sent.
    batches: Receiver<Vec<NetCommand>>,
    next_sweep: Instant,
    scratch: Box<[u8]>,
}

/// Who is at the other end of a connection.
enum OtherSide {
    /// A client, or one who has not said hello yet.
    Client(Greeting),
    /// A peer that we have dialed and that has not answered our hello yet.
    Dialed(PeerId),
    /// A peer. It has no other connection that is one.
    Peer(PeerId),
}

impl OtherSide {
    /// Whether it takes none of the room for clients.
    fn is_peer(&self) -> bool {
        !matches!(self, OtherSide::Client(_))
    }
}

impl PollLoop {
    /// A loop that serves a listening socket, and those who watch, until `stop` becomes readable, and the applier's side of it.
    ///
    /// # Errors
    /// The operating system has no room for a poll.
    pub fn new(
        mut listener: Listener,
        mut monitor: Option<Monitor>,
        mut stop: UnixStream,
        identity: ReplicaIdentity,
        clock: Clock,
    ) -> io::Result<(PollLoop, Receiver<EventBatch>, NetHandle)> {
        let poll = Poll::new()?;
        poll.registry().register(listener.source(), LISTENER, Interest::READABLE)?;
        if let Some(monitor) = &mut monitor {
            poll.registry().register(monitor.source(), MONITOR, Interest::READABLE)?;
        }
        poll.registry().register(&mut stop, STOP, Interest::READABLE)?;
        let (applier, mailbox, rounds) = connect(Waker::new(poll.registry(), WAKER)?);
        let now = Instant::now();
        let poll_loop = PollLoop {
            registrar: Registrar::new(poll.registry().try_clone()?),
            poll,
            listener,
            monitor,
            stop,
            clock,
            connections: BTreeMap::new(),
            links: identity.peers().map(|(peer, entry)| (peer, Link::to(entry.name.clone()))).collect(),
            dialer: Dialer::new(&identity, applier.flags.clone(), now),
            identity,
            refused: BTreeSet::new(),
            intake: Intake::new(applier.rounds, applier.flags),
            batches: applier.batches,
            next_sweep: now,
            scratch: vec![0; 64 * 1024].into(),
        };
        Ok((poll_loop, rounds, mailbox))
    }

    /// Runs until the applier has dropped its mailbox, and then sends what is left.
    ///
    /// # Errors
    /// The poll itself failed. What happens to a connection or to accepting one is no error.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(SOCKETS_MAX);
        loop {
            self.intake.take_requests_for_reading();
            let before = self.clock.now();
            self.wait(&mut events)?;
            events.iter().for_each(|event| self.on_event(event));
            self.intake.begin_reading(before);
            let open = self.take_messages();
            self.show();
            self.dialer.step(&mut self.registrar, Instant::now());
            self.accept();
            self.read();
            self.flush();
            self.sweep();
            self.intake.hand_over();
            if !open {
                self.say_goodbye();
                return Ok(());
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        loop {
            match self.poll.poll(events, self.timeout()) {
                // A signal came (SIGCONT, say): what is readable has not been looked at.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// How long there is nothing to do.
    fn timeout(&self) -> Option<Duration> {
        if self.intake.is_busy() {
            return Some(Duration::ZERO);
        }
        let sweep = (!self.connections.is_empty()).then_some(self.next_sweep);
        let watched = self.monitor.as_ref().and_then(Monitor::deadline);
        let next =
            sweep.into_iter().chain(self.listener.retry_at()).chain(self.dialer.deadline()).chain(watched).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Notes what may be done.
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
                if let Some((peer, stream)) = self.dialer.take_connected(id, now) {
                    self.greet(id, peer, stream, now);
                } else if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.intake.set_readable(id);
                }
            }
        }
    }

    /// Passes on that the process shall stop.
    fn on_stop(&mut self) {
        // The bytes say nothing; reading them arms the next event.
        while io::Read::read(&mut self.stop, &mut self.scratch[..16]).is_ok_and(|length| length > 0) {}
        self.intake.push(NetEvent::Stop);
    }

    /// Queues what the applier wants sent. Returns whether it may still want more.
    fn take_messages(&mut self) -> bool {
        let now = Instant::now();
        loop {
            match self.batches.try_recv() {
                Ok(batch) => batch.iter().for_each(|sent| self.send(sent, now)),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Queues a message, if whom it is for is still there.
    fn send(&mut self, sent: &NetCommand, now: Instant) {
        match sent {
            NetCommand::ToClient { to, message } => {
                if let Some((connection, OtherSide::Client(_))) = self.connections.get_mut(to) {
                    connection.send(message, now);
                }
            }
            NetCommand::ToPeer { to, message } => self.send_to_peer(*to, message, now),
            NetCommand::ScrapeResult { inspection } => {
                self.monitor.iter_mut().for_each(|monitor| monitor.on_inspected(inspection, now));
            }
            NetCommand::ConnectionSeen { peer } => self.on_connection_seen(*peer),
            NetCommand::Disconnect { peer } => self.disconnect(*peer, now),
        }
    }

    /// Goes on with those who watch, and asks the applier for what they want to see.
    fn show(&mut self) {
        let Some(monitor) = &mut self.monitor else { return };
        if monitor.step(&mut self.registrar, Instant::now()) {
            let clients = self.connections.values().filter(|(_, other_side)| !other_side.is_peer()).count();
            let outbox_bytes = self.connections.values().map(|(connection, _)| connection.unwritten()).sum();
            let traffic = NetStats { clients, outbox_bytes, clock_steps: self.clock.steps() };
            self.intake.push(NetEvent::Scrape { traffic });
        }
    }

    /// Takes in new connections.
    fn accept(&mut self) {
        let now = Instant::now();
        while let Some(stream) = self.listener.accept(now) {
            let clients = self.connections.values().filter(|(_, other_side)| !other_side.is_peer());
            if clients.clone().count() >= CONNECTIONS_MAX + LINGERING_MAX {
                continue;
            }
            let full = clients.filter(|(connection, _)| !connection.is_closing()).count() >= CONNECTIONS_MAX;
            if let Err(error) = self.admit(stream, full, now) {
                log::warn!("cannot take in a connection: {error}");
            }
        }
    }

    /// Gives a new connection its place.
    fn admit(&mut self, mut stream: TcpStream, full: bool, now: Instant) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut challenge = [0; 32];
        getrandom::fill(&mut challenge).map_err(|error| io::Error::other(error.to_string()))?;
        let id = self.registrar.register(&mut stream)?;
        let greeting = Greeting::new(Challenge(challenge), full);
        self.connections.insert(id, (Connection::new(stream, now), OtherSide::Client(greeting)));
        Ok(())
    }

    /// Reads from all connections that may have something, a limited amount from each and of all.
    fn read(&mut self) {
        let now = Instant::now();
        let connections = &self.connections;
        for id in self.intake.turns(|id| connections.get(&id).is_some_and(|(_, other_side)| other_side.is_peer())) {
            if self.intake.is_full() {
                return;
            }
            let Some((connection, _)) = self.connections.get_mut(&id) else {
                self.intake.forget(id);
                continue;
            };
            let read = connection.read(&mut self.scratch, now);
            self.intake.on_read(id, read);
            self.take_apart(id, now);
            if read.end.is_over() {
                self.remove(id, &"the connection is broken", now);
            }
        }
    }

    /// Handles the messages that have come whole on a connection.
    fn take_apart(&mut self, id: ConnectionId, now: Instant) {
        while let Some((connection, other_side)) = self.connections.get_mut(&id) {
            let OtherSide::Client(greeting) = other_side else {
                match connection.next_message() {
                    Ok(Decoded::NeedMore) => return,
                    Ok(Decoded::Frame(message)) => self.on_peer_message(id, message, now),
                    Err(error) => self.on_peer_error(id, &error, now),
                }
                continue;
            };
            let reaction = match connection.next_message() {
                Ok(Decoded::NeedMore) => return,
                Ok(Decoded::Frame(message)) => greeting.on_message(message, &self.identity, self.clock.now()),
                Err(error) => Reaction::Close(close_reason(error, greeting.is_done())),
            };
            self.react(id, reaction, now);
        }
    }

    /// Does what a message asks for.
    fn react(&mut self, id: ConnectionId, reaction: Reaction, now: Instant) {
        let Some((connection, _)) = self.connections.get_mut(&id) else { return };
        match reaction {
            Reaction::Reply(message) => connection.send(&message, now),
            Reaction::Welcome(message) => {
                connection.on_greeted();
                connection.send(&message, now);
            }
            Reaction::Peer(peer, version) => {
                connection.send(&PeerMessage::Greeting { version, replica: self.identity.replica.clone() }, now);
                self.begin_link(id, peer, version, now);
            }
            Reaction::RefusePeer(name, reason) => {
                self.on_peer_refused(&name, &reason);
                self.close(id, reason, now);
            }
            Reaction::RefuseVersions(role, theirs) => {
                self.on_versions_refused(&role, theirs);
                self.close(id, CloseReason::no_common_version(self.identity.versions), now);
            }
            Reaction::LoggedIn(actor, receive) => {
                connection.send(&ToClient::LoggedIn { account: actor.account.clone() }, now);
                self.intake.push(NetEvent::LoggedIn { connection: id, actor, receive });
            }
            Reaction::LoggedOut(message) => {
                message.iter().for_each(|message| connection.send(message, now));
                self.intake.push(NetEvent::LoggedOut { connection: id });
            }
            Reaction::Request(timestamp, body) => {
                let time = self.clock.now();
                self.intake.push(NetEvent::Request(Submission { time, from: id, timestamp, body }));
            }
            Reaction::Status => self.intake.push(NetEvent::Status { from: id }),
            Reaction::PingPeers => self.intake.push(NetEvent::PingPeers { from: id }),
            Reaction::Close(reason) => self.close(id, reason, now),
        }
    }

    /// Logs that we refuse one who speaks none of our versions: once for each replica, and for clients once for each range.
    fn on_versions_refused(&mut self, role: &Role, theirs: Versions) {
        let why = self.identity.versions.mismatch(theirs);
        match role {
            Role::Replica { name, .. } => self.on_peer_refused(name, &why),
            Role::Client if self.refused.len() < REFUSED_MAX && self.refused.insert(theirs) => {
                log::warn!("refusing a client (others like it are not logged): {why}");
            }
            Role::Client => log::debug!("refusing a client: {why}"),
        }
    }

    /// Ends a client's connection, with a reason.
    fn close(&mut self, id: ConnectionId, reason: CloseReason, now: Instant) {
        if let Some((connection, _)) = self.connections.get_mut(&id) {
            log::debug!("ending connection {}: {reason}", id.0);
            connection.close(reason, now);
        }
    }

    /// Drops a connection.
    fn remove(&mut self, id: ConnectionId, why: &dyn Display, now: Instant) {
        self.intake.forget(id);
        match self.connections.remove(&id) {
            Some((_, OtherSide::Client(greeting))) if greeting.is_done() => {
                self.intake.push(NetEvent::Closed { connection: id });
            }
            Some((_, OtherSide::Peer(peer))) => self.end_link(peer, why, now),
            Some((_, OtherSide::Dialed(peer))) => self.dialer.on_failed(peer, why, now),
            Some((_, OtherSide::Client(_))) | None => {}
        }
    }

    /// Sends what the sockets take, and ends the client's connection that makes too much wait.
    fn flush(&mut self) {
        let now = Instant::now();
        let mut gone = Vec::new();
        let mut waiting = 0;
        for (id, (connection, other_side)) in &mut self.connections {
            let sound = connection.flush();
            if other_side.is_peer() {
                if !sound {
                    // What it said last, such as that it leaves, may still be there to be read, and then comes the end.
                    self.intake.set_readable(*id);
                }
                continue;
            }
            if !sound {
                gone.push(*id);
            }
            waiting += connection.unwritten();
            if waiting > CLIENTS_WRITE_MAX {
                waiting -= connection.unwritten();
                connection.close(CloseReason::SlowReader, now);
                gone.push(*id);
            }
        }
        gone.into_iter().for_each(|id| self.remove(id, &"it cannot be written to", now));
    }

    /// Ends connections that have been silent for too long, and drops those that were ended long enough ago.
    fn sweep(&mut self) {
        let now = Instant::now();
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP;
        let mut overdue = Vec::new();
        let mut silent = Vec::new();
        for (id, (connection, other_side)) in &self.connections {
            let patience_ends = match other_side {
                OtherSide::Client(greeting) if !greeting.is_done() => connection.since() + GREETING_WAIT,
                OtherSide::Dialed(_) => connection.since() + GREETING_WAIT,
                OtherSide::Client(_) | OtherSide::Peer(_) => connection.heard() + SILENCE_MAX,
            };
            // Who has said something that we have not come to read yet is not silent.
            if connection.is_overdue(now) {
                overdue.push(*id);
            } else if now > patience_ends && !self.intake.is_readable(*id) {
                silent.push((*id, other_side.is_peer()));
            }
        }
        overdue.into_iter().for_each(|id| self.remove(id, &"it was ended", now));
        for (id, is_peer) in silent {
            if is_peer {
                self.close_peer(id, CloseReason::Silent, &"it said nothing for too long", now);
            } else {
                self.close(id, CloseReason::Silent, now);
            }
        }
    }

    /// Tells all connections that the replica stops, and gives them a moment to take what they are still to get. Peers shall
    /// get it for certain: their connections are kept until they have ended them, since dropping one with something unread
    /// would take back what is under way.
    fn say_goodbye(mut self) {
        let until = Instant::now() + LINGER;
        self.connections.retain(|_, (_, other_side)| !matches!(other_side, OtherSide::Dialed(_)));
        for (connection, _) in self.connections.values_mut() {
            connection.close(CloseReason::Stopping, Instant::now());
        }
        let mut events = Events::with_capacity(SOCKETS_MAX);
        loop {
            let now = Instant::now();
            self.connections.retain(|_, (connection, other_side)| {
                connection.flush()
                    && (connection.unwritten() > 0
                        || other_side.is_peer() && !connection.read(&mut self.scratch, now).end.is_over())
            });
            let patience = until.saturating_duration_since(now).min(Duration::from_millis(100));
            if self.connections.is_empty() || patience.is_zero() || self.poll.poll(&mut events, Some(patience)).is_err()
            {
                return;
            }
        }
    }
}

/// What a client is told about a frame that is none. Before the greeting it is most likely not a client at all.
fn close_reason(error: FrameError, greeted: bool) -> CloseReason {
    match error {
        _ if !greeted => CloseReason::NotStablechat,
        FrameError::TooLarge { length, limit } => CloseReason::TooLarge { length: length as u64, limit: limit as u64 },
        FrameError::Malformed(detail) => CloseReason::Malformed { detail },
    }
}
