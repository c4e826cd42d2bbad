//! The connection to one replica: made, greeted, kept alive, and made again when it breaks.
//!
//! A link knows frames, the greeting and logins, and nothing of what the other frames are about. It is moved by readiness
//! events and by time; what happens is put into a list of [`LinkEvent`]s.

use crate::greeting::Greeting;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use stablechat_protocol::answer::Refusal;
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::cluster::ReplicaEntry;
use stablechat_protocol::frame::{Decoded, FrameBuffer};
use stablechat_protocol::login::Challenge;
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::version::Versions;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

/// The most bytes that wait to be sent. Beyond it the connection is dropped and made again: a replica that does not read
/// has no use for them, and everything that is still unanswered is sent on the new connection.
const OUTBOX_MAX: usize = 16 * 1024 * 1024;
/// How long to wait before connecting again; doubles with each failure.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest such wait.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// How often a replica is pinged. (It ends connections that are silent for 30 s.)
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// How many bytes are read at a time.
const CHUNK: usize = 64 * 1024;

/// What happens on links.
#[derive(Debug)]
pub enum LinkEvent {
    /// Requests may be sent: the link is greeted and logged in.
    Ready {
        /// Which link.
        link: usize,
    },
    /// A link that was ready is not any more.
    Lost {
        /// Which link.
        link: usize,
    },
    /// A frame came.
    Message {
        /// On which link.
        link: usize,
        /// The frame.
        message: ToClient,
    },
    /// A replica showed its clock.
    Sample {
        /// Which link.
        link: usize,
        /// Our clock when it was asked.
        sent: Timestamp,
        /// Its clock.
        clock: Timestamp,
        /// Our clock when it had answered.
        received: Timestamp,
    },
    /// A replica is not what the cluster file says, or speaks another protocol. Reported once until the link is ready.
    Misconfigured {
        /// Which link.
        link: usize,
        /// What is wrong with it.
        fault: String,
    },
}

/// A link to a replica. `L` below is its number.
pub struct Link {
    /// Its number: the position of the replica in the cluster file.
    number: usize,
    /// The replica.
    replica: ReplicaEntry,
    /// How far it is.
    state: State,
    /// How many connections in a row have failed, or broken soon after they were made.
    failures: u32,
    /// Whether the link was ready, or its first attempt failed: there is no point in waiting for it any longer.
    is_tried: bool,
    /// Whether a fault of configuration was reported.
    is_misconfigured: bool,
}

/// How far a link is.
enum State {
    /// Not connected, until it is time to try.
    Waiting { until: Timestamp },
    /// Another thread looks up the address.
    Resolving,
    /// There is a socket.
    Connected(Connection),
    /// There is none, and will be none.
    Ended,
}

/// A socket and what belongs to it.
struct Connection {
    /// The socket, registered under the link's number.
    stream: TcpStream,
    /// How far the greeting is.
    phase: Phase,
    /// When the phase began.
    since: Timestamp,
    /// Bytes that came.
    incoming: FrameBuffer,
    /// Bytes to be sent, at most [`OUTBOX_MAX`] after `written`.
    outgoing: Vec<u8>,
    /// How many bytes at the beginning of `outgoing` are sent already.
    written: usize,
    /// Whether the socket may take bytes.
    is_writable: bool,
    /// Whether nothing will be added to `outgoing`; and then, whether the replica was told so.
    ending: Option<bool>,
    /// When the next ping is due.
    ping_at: Timestamp,
    /// Since when a ping is unanswered and nothing else came either.
    silent_since: Option<Timestamp>,
}

/// How far a greeting is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The socket is not connected yet.
    Connecting,
    /// Hello was sent, and welcome did not come yet.
    Greeting,
    /// Welcome came, with this challenge.
    Ready(Challenge),
}

impl Link {
    /// A link that will connect at once.
    pub fn new(number: usize, replica: ReplicaEntry) -> Link {
        let state = State::Waiting { until: Timestamp::ZERO };
        Link { number, replica, state, failures: 0, is_tried: false, is_misconfigured: false }
    }

    /// The replica.
    pub fn replica(&self) -> &ReplicaEntry {
        &self.replica
    }

    /// Whether requests may be sent.
    pub fn is_ready(&self) -> bool {
        matches!(&self.state, State::Connected(Connection { phase: Phase::Ready(_), .. }))
    }

    /// Whether the link was ready or has failed at least once.
    pub fn is_tried(&self) -> bool {
        self.is_tried
    }

    /// Whether the replica was found to be another than the cluster file says.
    pub fn is_misconfigured(&self) -> bool {
        self.is_misconfigured
    }

    /// When [`Link::on_time`] will have something to do; `limit` as there.
    pub fn deadline(&self, limit: Duration) -> Option<Timestamp> {
        match &self.state {
            State::Waiting { until } => Some(*until),
            State::Resolving | State::Ended => None,
            State::Connected(connection) => Some(connection.deadline(limit)),
        }
    }

    /// Does what is due: pings, gives up on a connection that is silent for longer than `limit`. Returns whether the
    /// replica's address is to be looked up now.
    pub fn on_time(&mut self, now: Timestamp, limit: Duration, events: &mut Vec<LinkEvent>) -> bool {
        match &mut self.state {
            State::Waiting { until } if *until <= now => {
                self.state = State::Resolving;
                return true;
            }
            State::Waiting { .. } | State::Resolving | State::Ended => {}
            State::Connected(connection) => {
                if connection.is_hung(now, limit) {
                    self.fail(now, "it does not answer", events);
                } else if matches!(connection.phase, Phase::Ready(_)) && connection.ping_at <= now {
                    connection.ping(now);
                }
            }
        }
        false
    }

    /// Connects to one of the addresses that were looked up: to each in turn, from one attempt to the next.
    pub fn on_addresses(
        &mut self,
        now: Timestamp,
        addresses: io::Result<Vec<SocketAddr>>,
        registry: &Registry,
        events: &mut Vec<LinkEvent>,
    ) {
        let connected = addresses.and_then(|addresses| {
            let turn = self.failures as usize % addresses.len().max(1);
            let address = addresses.get(turn).ok_or_else(|| io::Error::other("its name has no address"))?;
            let mut stream = TcpStream::connect(*address)?;
            registry.register(&mut stream, Token(self.number), Interest::READABLE | Interest::WRITABLE)?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => self.state = State::Connected(Connection::new(stream, now)),
            Err(error) => self.fail(now, &error.to_string(), events),
        }
    }

    /// Handles readiness of the socket.
    pub fn on_ready(
        &mut self,
        now: Timestamp,
        is_readable: bool,
        is_writable: bool,
        greeting: &Greeting,
        events: &mut Vec<LinkEvent>,
    ) {
        let State::Connected(connection) = &mut self.state else { return };
        let mut result = Ok(());
        if is_writable {
            connection.is_writable = true;
            result = connection.finish_connecting(now, greeting).map_err(|error| error.to_string());
        }
        if result.is_ok() && is_readable {
            result = self.read(now, greeting, events);
        }
        if let Err(reason) = result {
            self.fail(now, &reason, events);
        }
    }

    /// Speaks for this account, or for nobody, from here on.
    pub fn log_in(&mut self, greeting: &Greeting) {
        if let State::Connected(connection) = &mut self.state
            && let Phase::Ready(challenge) = connection.phase
        {
            connection.send(&match &greeting.identity {
                Some(identity) => greeting.login(identity, &self.replica, challenge),
                None => ToReplica::Logout,
            });
        }
    }

    /// Queues a frame's bytes, if the link is ready.
    pub fn send(&mut self, frame: &[u8]) {
        if let State::Connected(connection) = &mut self.state
            && matches!(connection.phase, Phase::Ready(_))
            && connection.ending.is_none()
        {
            connection.outgoing.extend_from_slice(frame);
        }
    }

    /// Ends the connection once everything is written and the replica has read it. (Closing it at once could take from a
    /// slow replica what others have answered already.)
    pub fn end(&mut self) {
        match &mut self.state {
            State::Connected(connection) if matches!(connection.phase, Phase::Ready(_)) => {
                connection.ending.get_or_insert(false);
            }
            state => *state = State::Ended,
        }
    }

    /// Whether [`Link::end`] is through.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Writes what the socket takes of what is queued.
    pub fn flush(&mut self, now: Timestamp, events: &mut Vec<LinkEvent>) {
        let State::Connected(connection) = &mut self.state else { return };
        if let Err(reason) = connection.write() {
            self.fail(now, &reason, events);
        }
    }

    /// Reads until there is nothing left, and handles each frame.
    fn read(&mut self, now: Timestamp, greeting: &Greeting, events: &mut Vec<LinkEvent>) -> Result<(), String> {
        let mut chunk = [0; CHUNK];
        loop {
            let State::Connected(connection) = &mut self.state else { return Ok(()) };
            match connection.stream.read(&mut chunk) {
                Ok(0) => return Err("it closed the connection".into()),
                Ok(length) => {
                    connection.silent_since = None;
                    connection.incoming.push(&chunk[..length]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.to_string()),
            }
            while let State::Connected(connection) = &mut self.state
                && let Decoded::Frame(message) = connection.incoming.decode().map_err(|error| error.to_string())?
            {
                self.on_message(now, message, greeting, events)?;
            }
        }
    }

    fn on_message(
        &mut self,
        now: Timestamp,
        message: ToClient,
        greeting: &Greeting,
        events: &mut Vec<LinkEvent>,
    ) -> Result<(), String> {
        let State::Connected(connection) = &mut self.state else { return Ok(()) };
        match (connection.phase, message) {
            (_, ToClient::Closing { reason }) => Err(self.on_closing(reason, greeting.versions, events)),
            (Phase::Greeting, ToClient::Welcome { version, replica, clock, challenge }) => {
                if replica != self.replica.name || !greeting.versions.contains(version) {
                    let fault = match replica == self.replica.name {
                        true => format!("it wants to speak version {version} of the protocol"),
                        false => format!("it is the replica {replica}"),
                    };
                    return Err(self.misconfigured(fault, events));
                }
                events.push(LinkEvent::Sample { link: self.number, sent: connection.since, clock, received: now });
                connection.phase = Phase::Ready(challenge);
                connection.since = now;
                connection.ping_at = now.after(PING_INTERVAL);
                self.is_tried = true;
                // Replicas are upgraded and clusters put right while clients run.
                self.is_misconfigured = false;
                if greeting.identity.is_some() {
                    self.log_in(greeting);
                }
                events.push(LinkEvent::Ready { link: self.number });
                Ok(())
            }
            (Phase::Ready(_), ToClient::Pong { sent, clock }) => {
                events.push(LinkEvent::Sample { link: self.number, sent, clock, received: now });
                Ok(())
            }
            (Phase::Ready(_), message) if !matches!(message, ToClient::Welcome { .. }) => {
                if let ToClient::Refused { reason: Refusal::Late | Refusal::Ahead, .. } = message
                    && connection.silent_since.is_none()
                {
                    // What is known of the clocks may be out of date.
                    connection.ping(now);
                }
                events.push(LinkEvent::Message { link: self.number, message });
                Ok(())
            }
            _ => Err("it sent a frame out of place".into()),
        }
    }

    /// The replica ends the connection: remembers it when trying again will not help. Returns the reason.
    fn on_closing(&mut self, reason: CloseReason, ours: Versions, events: &mut Vec<LinkEvent>) -> String {
        match reason {
            CloseReason::Version { version_min: min, version_max: max } => {
                self.misconfigured(ours.mismatch(Versions { min, max }), events)
            }
            CloseReason::NotStablechat | CloseReason::WrongCluster { .. } => {
                self.misconfigured(reason.to_string(), events)
            }
            _ => reason.to_string(),
        }
    }

    /// Reports, once, that the replica is not what the cluster file says. Returns the fault.
    fn misconfigured(&mut self, fault: String, events: &mut Vec<LinkEvent>) -> String {
        if !self.is_misconfigured {
            self.is_misconfigured = true;
            events.push(LinkEvent::Misconfigured { link: self.number, fault: fault.clone() });
        }
        fault
    }

    /// Drops the connection, to try again later.
    fn fail(&mut self, now: Timestamp, reason: &str, events: &mut Vec<LinkEvent>) {
        log::debug!("replica {} at {}: {reason}", self.replica.name, self.replica.address);
        if matches!(&self.state, State::Connected(Connection { ending: Some(_), .. })) {
            self.state = State::Ended;
            return;
        }
        if let State::Connected(Connection { phase: Phase::Ready(_), since, .. }) = &self.state {
            events.push(LinkEvent::Lost { link: self.number });
            if now.since(*since) > BACKOFF_MAX {
                self.failures = 0;
            }
        }
        let longest = BACKOFF_MIN.saturating_mul(1 << self.failures.min(10)).min(BACKOFF_MAX);
        // Between half and all of it, so that clients do not come back all at once. Without randomness, half.
        let jitter = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
        self.state = State::Waiting { until: now.after(longest.mul_f64((1.0 + jitter) / 2.0)) };
        self.failures = self.failures.saturating_add(1);
        self.is_tried = true;
    }
}

impl Connection {
    fn new(stream: TcpStream, now: Timestamp) -> Connection {
        Connection {
            stream,
            phase: Phase::Connecting,
            since: now,
            incoming: FrameBuffer::default(),
            outgoing: Vec::new(),
            written: 0,
            is_writable: false,
            ending: None,
            ping_at: now,
            silent_since: None,
        }
    }

    fn deadline(&self, limit: Duration) -> Timestamp {
        match self.phase {
            Phase::Connecting | Phase::Greeting => self.since.after(limit),
            Phase::Ready(_) => match self.silent_since {
                Some(since) => since.after(limit).min(self.ping_at),
                None => self.ping_at,
            },
        }
    }

    fn is_hung(&self, now: Timestamp, limit: Duration) -> bool {
        let since = match self.phase {
            Phase::Connecting | Phase::Greeting => Some(self.since),
            Phase::Ready(_) => self.silent_since,
        };
        since.is_some_and(|since| since.after(limit) <= now)
    }

    /// Says hello when the socket turns out to be connected.
    fn finish_connecting(&mut self, now: Timestamp, greeting: &Greeting) -> io::Result<()> {
        if self.phase != Phase::Connecting {
            return Ok(());
        }
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
            Err(error) => return Err(error),
        }
        self.stream.set_nodelay(true)?;
        (self.phase, self.since) = (Phase::Greeting, now);
        self.send(&greeting.hello());
        Ok(())
    }

    fn ping(&mut self, now: Timestamp) {
        self.ping_at = now.after(PING_INTERVAL);
        self.silent_since.get_or_insert(now);
        self.send(&ToReplica::Ping { sent: now });
    }

    /// Queues one of the frames that links send by themselves.
    fn send(&mut self, message: &ToReplica) {
        stablechat_protocol::frame::encode(message, &mut self.outgoing).expect("such frames are short");
    }

    fn write(&mut self) -> Result<(), String> {
        while self.is_writable && self.written < self.outgoing.len() {
            match self.stream.write(&self.outgoing[self.written..]) {
                Ok(0) => return Err("it takes nothing more".into()),
                Ok(length) => self.written += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        if self.ending == Some(false) && self.written == self.outgoing.len() {
            self.stream.shutdown(Shutdown::Write).map_err(|error| error.to_string())?;
            self.ending = Some(true);
        }
        if self.written == self.outgoing.len() || self.written > OUTBOX_MAX / 16 {
            self.outgoing.drain(..self.written);
            self.written = 0;
        }
        match self.outgoing.len() - self.written > OUTBOX_MAX {
            true => Err("it does not read".into()),
            false => Ok(()),
        }
    }
}
