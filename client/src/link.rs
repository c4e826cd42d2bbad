//! The connection to one replica: made, greeted, kept alive, and made again when it breaks.
//!
//! A link knows the greeting, logins and pings. It passes on every other message without looking into it. Readiness of its
//! socket and time move it; it reports what happens as [`LinkEvent`]s.

use crate::greeting::Greeting;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use stablechat_protocol::answer::Refusal;
use stablechat_protocol::clock_offset::Exchange;
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::cluster::ReplicaEntry;
use stablechat_protocol::frame::Decoded;
use stablechat_protocol::login::Challenge;
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::version::Versions;
use stablechat_transport::{Dial, Fault, FramedStream, Overflow, Pacing, ReadEnd, Resolver, TlsDialer};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// The most bytes that may wait to be written, 16 MiB. Beyond it the connection is dropped and made again: the replica does not
/// read, and everything that is still unanswered is sent on the new connection.
const WRITE_MAX: usize = 16 * 1024 * 1024;
/// A client that lost its replica returns after 25 to 50 ms, and after more failures within a second of the replica's return.
const PACING: Pacing = Pacing {
    first_wait: Duration::from_millis(50),
    longest_wait: Duration::from_secs(1),
    connect_limit: Duration::from_secs(2),
};
/// How often a replica is pinged. It ends connections on which nothing came for 30 s.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// How many bytes one system call reads.
const SCRATCH: usize = 64 * 1024;

/// An event of a link. `link` is the link's number.
#[derive(Debug)]
pub enum LinkEvent {
    /// Requests may be sent: the replica has welcomed us, and a login is on its way ahead of them.
    Ready { link: usize },
    /// A link that was ready is not any more, for this reason.
    Lost { link: usize, reason: String },
    /// An attempt to make the link ready has failed, for this reason. There will be another.
    Unreachable { link: usize, reason: String },
    /// A message came.
    Message { link: usize, message: ToClient },
    /// The replica showed its clock; `exchange` is by our uncorrected clock.
    Sample { link: usize, exchange: Exchange },
    /// The replica is not the one that the cluster file names, or speaks another protocol. Reported once until the link is
    /// ready.
    Misconfigured { link: usize, fault: String },
}

/// A link to a replica.
pub struct Link {
    /// The position of the replica in the cluster file; also the token of the link's sockets.
    number: usize,
    replica: ReplicaEntry,
    /// Makes connections; has the socket until it is connected.
    dial: Dial<Timestamp>,
    /// The connection, once it stands.
    connection: Option<Connection>,
    /// Whether nothing more is wanted, and no connection will be made.
    has_ended: bool,
    /// Whether the link was ready, or its first attempt failed: callers wait for it no longer.
    is_tried: bool,
    /// Whether [`LinkEvent::Misconfigured`] was reported since the link was last ready.
    is_misconfigured: bool,
}

/// A connected socket and its state.
struct Connection {
    stream: FramedStream,
    phase: Phase,
    /// When the phase began.
    since: Timestamp,
    /// Whether [`Link::end`] was called: nothing more is sent.
    is_ending: bool,
    /// Whether more waited to be written than [`WRITE_MAX`].
    has_overflowed: bool,
    /// When the next ping is due.
    ping_at: Timestamp,
    /// Since when a ping is unanswered, and nothing else came either.
    silent_since: Option<Timestamp>,
}

/// How far a greeting is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Hello was sent.
    Greeting,
    /// Welcome came, with this challenge for logins.
    Ready(Challenge),
}

impl Link {
    /// A link that will connect at once.
    pub fn new(number: usize, replica: ReplicaEntry) -> Link {
        let dial = Dial::new(number, replica.address.clone(), PACING, Timestamp::ZERO);
        let (is_tried, is_misconfigured) = (false, false);
        Link { number, replica, dial, connection: None, has_ended: false, is_tried, is_misconfigured }
    }

    /// Whether requests may be sent.
    pub fn is_ready(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.challenge().is_some())
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
        match &self.connection {
            Some(connection) => Some(connection.deadline(limit)),
            None if self.has_ended => None,
            None => self.dial.deadline(),
        }
    }

    /// Does what is due: attempts to connect, pings, and gives up on a connection that is silent for longer than `limit`.
    pub fn on_time(
        &mut self,
        now: Timestamp,
        limit: Duration,
        resolver: &Resolver,
        registry: &Registry,
        events: &mut Vec<LinkEvent>,
    ) {
        match &mut self.connection {
            Some(connection) if connection.is_hung(now, limit) => self.fail(now, "it does not answer", events),
            Some(connection) => {
                if connection.challenge().is_some() && connection.ping_at <= now {
                    connection.ping(now);
                }
            }
            None if self.has_ended => {}
            None => {
                let attempt = self.dial.step(now, resolver, &mut register(registry, self.number));
                self.note_attempt(attempt, events);
            }
        }
    }

    /// Takes the result of looking up the replica's name.
    pub fn on_resolved(
        &mut self,
        now: Timestamp,
        addresses: io::Result<Vec<SocketAddr>>,
        registry: &Registry,
        events: &mut Vec<LinkEvent>,
    ) {
        let attempt = self.dial.on_resolved(now, addresses, &mut register(registry, self.number));
        self.note_attempt(attempt, events);
    }

    /// Handles readiness of the link's socket.
    pub fn on_ready(&mut self, now: Timestamp, greeting: &Greeting, tls: &TlsDialer, events: &mut Vec<LinkEvent>) {
        if self.connection.is_none() && !self.has_ended {
            match self.dial.on_ready(now) {
                Ok(Some(socket)) => self.begin(socket, now, greeting, tls, events),
                Ok(None) => {}
                Err(reason) => self.note_attempt(Err(reason), events),
            }
        }
        // The event that tells of the connection may tell of bytes as well, and comes once.
        if let Err(reason) = self.read(now, greeting, events) {
            self.fail(now, &reason, events);
        }
    }

    /// Begins to talk on a socket that is connected.
    fn begin(
        &mut self,
        socket: TcpStream,
        now: Timestamp,
        greeting: &Greeting,
        tls: &TlsDialer,
        events: &mut Vec<LinkEvent>,
    ) {
        match tls.dial(self.replica.name.as_str()) {
            Ok(tls) => self.connection = Some(Connection::new(socket, tls, now, greeting)),
            Err(error) => {
                let fault = self.misconfigured(error.to_string(), events);
                self.dial.retry_slowly(now);
                self.note_attempt(Err(fault), events);
            }
        }
    }

    /// Tries to connect at once instead of later.
    pub fn hurry(&mut self, now: Timestamp) {
        if self.connection.is_none() {
            self.dial.hurry(now);
        }
    }

    /// Speaks for this account, or for nobody, from here on.
    pub fn log_in(&mut self, greeting: &Greeting) {
        if let Some(connection) = &mut self.connection
            && let (Some(challenge), Some(channel)) = (connection.challenge(), connection.stream.channel_binding())
        {
            connection.send(&match &greeting.credentials {
                Some(credentials) => greeting.login(credentials, &self.replica, challenge, channel),
                None => ToReplica::Logout,
            });
        }
    }

    /// Queues an encoded message, if the link is ready.
    pub fn send(&mut self, frame: &[u8]) {
        if let Some(connection) = &mut self.connection
            && connection.challenge().is_some()
        {
            connection.send_frame(frame);
        }
    }

    /// Ends the connection once everything is written and the replica has read it. If it were closed at once, a slow replica
    /// might never read requests that the others have answered already.
    pub fn end(&mut self) {
        match &mut self.connection {
            Some(connection) if connection.challenge().is_some() => {
                connection.is_ending = true;
                connection.stream.finish();
            }
            _ => (self.connection, self.has_ended) = (None, true),
        }
    }

    /// Whether [`Link::end`] is through.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Writes as many of the queued bytes as the socket takes.
    pub fn flush(&mut self, now: Timestamp, events: &mut Vec<LinkEvent>) {
        let Some(connection) = &mut self.connection else { return };
        if connection.has_overflowed {
            self.fail(now, &Overflow.to_string(), events);
        } else if let Err(error) = connection.stream.flush() {
            self.fail(now, &error.to_string(), events);
        }
    }

    /// Reads until everything that came is read, and handles each message.
    fn read(&mut self, now: Timestamp, greeting: &Greeting, events: &mut Vec<LinkEvent>) -> Result<(), String> {
        let mut scratch = [0; SCRATCH];
        while let Some(connection) = &mut self.connection {
            let read = connection.stream.read(&mut scratch);
            if read.raw > 0 {
                connection.silent_since = None;
            }
            while let Some(connection) = &mut self.connection
                && let Decoded::Frame(message) =
                    connection.stream.next_message().map_err(|error| format!("it sent {error}"))?
            {
                self.on_message(now, message, greeting, events)?;
            }
            match read.end {
                ReadEnd::Drained => break,
                ReadEnd::More => {}
                ReadEnd::Closed => return Err("it closed the connection".into()),
                ReadEnd::Failed(fault) => return Err(self.on_fault(&fault, events)),
            }
        }
        Ok(())
    }

    /// The connection is broken. Reports the reason when trying again will not help, and returns it.
    fn on_fault(&mut self, fault: &Fault, events: &mut Vec<LinkEvent>) -> String {
        match fault.is_lasting() && !self.is_ready() {
            true => self.misconfigured(fault.to_string(), events),
            false => fault.to_string(),
        }
    }

    /// Handles a message, or says why the connection is of no use any more.
    fn on_message(
        &mut self,
        now: Timestamp,
        message: ToClient,
        greeting: &Greeting,
        events: &mut Vec<LinkEvent>,
    ) -> Result<(), String> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
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
                let exchange = Exchange { sent: connection.since, clock, received: now };
                events.push(LinkEvent::Sample { link: self.number, exchange });
                connection.phase = Phase::Ready(challenge);
                connection.since = now;
                connection.ping_at = now.after(PING_INTERVAL);
                self.is_tried = true;
                // Replicas are upgraded, and cluster files corrected, while clients run.
                self.is_misconfigured = false;
                if greeting.credentials.is_some() {
                    self.log_in(greeting);
                }
                events.push(LinkEvent::Ready { link: self.number });
                Ok(())
            }
            (Phase::Ready(_), ToClient::Pong { sent, clock }) => {
                let exchange = Exchange { sent, clock, received: now };
                events.push(LinkEvent::Sample { link: self.number, exchange });
                Ok(())
            }
            (Phase::Ready(_), message) if !matches!(message, ToClient::Welcome { .. }) => {
                if let ToClient::Refused { reason: Refusal::Late | Refusal::Ahead, .. } = message
                    && connection.silent_since.is_none()
                {
                    // The estimate of the clocks may be out of date: a refused timestamp asks for a fresh one.
                    connection.ping(now);
                }
                events.push(LinkEvent::Message { link: self.number, message });
                Ok(())
            }
            _ => Err("it sent a frame out of place".into()),
        }
    }

    /// The replica ends the connection. Reports the reason when trying again will not help, and returns it.
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

    /// Reports, once until the link is ready, that the replica is not what the cluster file says. Returns the fault.
    fn misconfigured(&mut self, fault: String, events: &mut Vec<LinkEvent>) -> String {
        if !self.is_misconfigured {
            self.is_misconfigured = true;
            events.push(LinkEvent::Misconfigured { link: self.number, fault: fault.clone() });
        }
        fault
    }

    /// Notes how an attempt to connect has gone.
    fn note_attempt(&mut self, attempt: Result<(), String>, events: &mut Vec<LinkEvent>) {
        if let Err(reason) = attempt {
            log::debug!("cannot reach replica {} at {}: {reason}", self.replica.name, self.replica.address);
            self.is_tried = true;
            events.push(LinkEvent::Unreachable { link: self.number, reason });
        }
    }

    /// Drops the connection, to make another one later unless this was the last.
    fn fail(&mut self, now: Timestamp, reason: &str, events: &mut Vec<LinkEvent>) {
        let Some(connection) = self.connection.take() else { return };
        log::debug!("lost replica {} at {}: {reason}", self.replica.name, self.replica.address);
        if connection.is_ending {
            self.has_ended = true;
            return;
        }

        let (link, reason) = (self.number, reason.to_string());
        if connection.challenge().is_none() {
            events.push(LinkEvent::Unreachable { link, reason });
        } else {
            events.push(LinkEvent::Lost { link, reason });
            // A replica that welcomes and then drops every connection does not count as well.
            if now.since(connection.since) > PACING.longest_wait {
                self.dial.on_success();
            }
        }
        self.dial.retry(now);
        self.is_tried = true;
    }
}

impl Connection {
    /// A connection that has just been made: says hello.
    fn new(socket: TcpStream, tls: rustls::Connection, now: Timestamp, greeting: &Greeting) -> Connection {
        let mut connection = Connection {
            stream: FramedStream::new(socket, tls, WRITE_MAX),
            phase: Phase::Greeting,
            since: now,
            is_ending: false,
            has_overflowed: false,
            ping_at: now,
            silent_since: None,
        };
        connection.send(&greeting.hello());
        connection
    }

    /// The challenge for logins, once the replica has welcomed us.
    fn challenge(&self) -> Option<Challenge> {
        match self.phase {
            Phase::Greeting => None,
            Phase::Ready(challenge) => Some(challenge),
        }
    }

    /// When a ping is due, or the connection is given up.
    fn deadline(&self, limit: Duration) -> Timestamp {
        let given_up = self.waiting_since().map(|since| since.after(limit));
        let ping = self.challenge().map(|_| self.ping_at);
        given_up.into_iter().chain(ping).min().unwrap_or(self.ping_at)
    }

    /// Whether the replica has taken longer than `limit` to say anything that was waited for.
    fn is_hung(&self, now: Timestamp, limit: Duration) -> bool {
        self.waiting_since().is_some_and(|since| since.after(limit) <= now)
    }

    /// Since when the replica owes an answer: to the hello, or to a ping.
    fn waiting_since(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Greeting => Some(self.since),
            Phase::Ready(_) => self.silent_since,
        }
    }

    fn ping(&mut self, now: Timestamp) {
        self.ping_at = now.after(PING_INTERVAL);
        self.silent_since.get_or_insert(now);
        self.send(&ToReplica::Ping { sent: now });
    }

    fn send(&mut self, message: &ToReplica) {
        self.has_overflowed |= self.stream.send(message).is_err();
    }

    fn send_frame(&mut self, frame: &[u8]) {
        self.has_overflowed |= self.stream.send_frame(frame).is_err();
    }
}

/// Registers a link's new sockets under its number.
fn register(registry: &Registry, number: usize) -> impl FnMut(&mut TcpStream) -> io::Result<()> {
    move |socket| registry.register(socket, Token(number), Interest::READABLE | Interest::WRITABLE)
}
