//! The loop itself: wait, send what came from the applier, read what came from the sockets, hand it over.

use super::channel::{Mailbox, ToApplier, connect};
use super::connection::{Connection, ReadEnd};
use super::greeting::{Greeting, Reaction};
use super::{Event, Identity, Listener, Round, Sent};
use crate::clock::Clock;
use crate::replica::ConnectionId;
use crossbeam_channel::{Receiver, TryRecvError, TrySendError};
use mio::net::{TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};
use stablechat_protocol::frame::{Decoded, FrameError};
use stablechat_protocol::id::Challenge;
use stablechat_protocol::message::{CloseReason, ToClient};
use stablechat_protocol::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

/// The most connections. Further ones are told so and closed.
const CONNECTIONS_MAX: usize = 1024;
/// The most connections that are being told goodbye beside those. Further ones are closed without a word.
const FAREWELLS_MAX: usize = 256;
/// The most bytes that wait to be sent on all connections together. The connection that adds more is closed.
const OUTBOXES_MAX: usize = 256 * 1024 * 1024;
/// The most bytes that a round is made of. What is beyond waits in the sockets.
const ROUND_BYTES_MAX: usize = 4 * 1024 * 1024;
/// More than the receive buffer of a socket holds (Linux: `tcp_rmem`, 6 MiB): who has been read this far since some moment
/// has nothing left from before it, even if it sends faster than we read.
const RECEIVE_BUFFER_MAX: usize = 8 * 1024 * 1024;
/// How long a connection may take to say hello.
const GREETING_WAIT: Duration = Duration::from_secs(10);
/// How long a connection may be silent. Clients ping more often than that.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How often connections are looked at for silence.
const SWEEP: Duration = Duration::from_secs(1);

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const STOP: Token = Token(2);
/// The token of the first connection; tokens of connections are never used again.
const FIRST_CONNECTION: usize = 3;

/// Everything the loop has.
pub struct PollLoop {
    poll: Poll,
    listener: Listener,
    /// Becomes readable when the process shall stop.
    stop: UnixStream,
    identity: Identity,
    clock: Clock,
    connections: BTreeMap<ConnectionId, (Connection, Greeting)>,
    next_connection: u64,
    /// Connections from which there may be something to read.
    readable: BTreeSet<ConnectionId>,
    /// The reading of the clock that the next round may report, once all of `owed` is read.
    reading: Option<Timestamp>,
    /// The connections that may hold something from before `reading`, and how much of them has been read since.
    owed: BTreeMap<ConnectionId, usize>,
    /// What has been read and not yet handed over.
    round: Round,
    /// How many bytes were read for it.
    round_bytes: usize,
    /// Whether the applier waits for a reading.
    reading_wanted: bool,
    /// Whether the channel to the applier was full.
    stalled: bool,
    applier: ToApplier,
    next_sweep: Instant,
    scratch: Box<[u8]>,
}

impl PollLoop {
    /// A loop that serves a listening socket until `stop` becomes readable, and the applier's side of it.
    ///
    /// # Errors
    /// The operating system has no room for a poll.
    pub fn new(
        mut listener: Listener,
        mut stop: UnixStream,
        identity: Identity,
        clock: Clock,
    ) -> io::Result<(PollLoop, Receiver<Round>, Mailbox)> {
        let poll = Poll::new()?;
        poll.registry().register(listener.source(), LISTENER, Interest::READABLE)?;
        poll.registry().register(&mut stop, STOP, Interest::READABLE)?;
        let (applier, mailbox, rounds) = connect(Waker::new(poll.registry(), WAKER)?);
        let poll_loop = PollLoop {
            poll,
            listener,
            stop,
            identity,
            clock,
            connections: BTreeMap::new(),
            next_connection: 0,
            readable: BTreeSet::new(),
            reading: None,
            owed: BTreeMap::new(),
            round: Round::default(),
            round_bytes: 0,
            reading_wanted: false,
            stalled: false,
            applier,
            next_sweep: Instant::now(),
            scratch: vec![0; 64 * 1024].into(),
        };
        Ok((poll_loop, rounds, mailbox))
    }

    /// Runs until the applier has dropped its mailbox, and then sends what is left.
    ///
    /// # Errors
    /// The poll itself failed. What happens to a connection or to accepting one is no error.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(FIRST_CONNECTION + CONNECTIONS_MAX + FAREWELLS_MAX);
        loop {
            self.reading_wanted |= self.applier.signals.take_reading_wanted();
            let before = self.clock.now();
            self.wait(&mut events)?;
            events.iter().for_each(|event| self.on_event(event));
            self.begin_reading(before);
            let open = self.take_messages();
            self.accept();
            self.read();
            self.flush();
            self.sweep();
            self.hand_over();
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
        if !self.stalled && (self.reading_wanted || !self.readable.is_empty()) {
            return Some(Duration::ZERO);
        }
        let sweep = (!self.connections.is_empty()).then_some(self.next_sweep);
        let next = sweep.into_iter().chain(self.listener.retry_at()).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Notes what may be done.
    fn on_event(&mut self, event: &mio::event::Event) {
        match event.token() {
            LISTENER => self.listener.set_ready(),
            WAKER => {}
            STOP => self.on_stop(),
            Token(token) => {
                let id = ConnectionId((token - FIRST_CONNECTION) as u64);
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.readable.insert(id);
                }
            }
        }
    }

    /// Passes on that the process shall stop.
    fn on_stop(&mut self) {
        // The bytes say nothing; reading them arms the next event.
        while io::Read::read(&mut self.stop, &mut self.scratch[..16]).is_ok_and(|length| length > 0) {}
        self.round.events.push(Event::Stop);
    }

    /// Remembers a reading of the clock that was taken before the last wait: whatever had arrived by then is in the sockets
    /// that are known to be readable now.
    fn begin_reading(&mut self, before: Timestamp) {
        if self.reading.is_none() {
            self.reading = Some(before);
            self.owed = self.readable.iter().map(|id| (*id, 0)).collect();
        }
    }

    /// Queues what the applier wants sent. Returns whether it may still want more.
    fn take_messages(&mut self) -> bool {
        let now = Instant::now();
        loop {
            match self.applier.batches.try_recv() {
                Ok(batch) => batch.iter().for_each(|Sent { to, message }| self.send(*to, message, now)),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Queues a message for a connection, if it is still there.
    fn send(&mut self, to: ConnectionId, message: &ToClient, now: Instant) {
        if let Some((connection, _)) = self.connections.get_mut(&to) {
            connection.send(message, now);
        }
    }

    /// Takes in new connections.
    fn accept(&mut self) {
        let now = Instant::now();
        while let Some(stream) = self.listener.accept(now) {
            if self.connections.len() >= CONNECTIONS_MAX + FAREWELLS_MAX {
                continue;
            }
            let full =
                self.connections.values().filter(|(connection, _)| !connection.is_closing()).count() >= CONNECTIONS_MAX;
            match self.admit(stream, now) {
                Ok(id) if full => self.close(id, CloseReason::Full, now),
                Ok(_) => {}
                Err(error) => log::warn!("cannot take in a connection: {error}"),
            }
        }
    }

    /// Gives a new connection its place.
    fn admit(&mut self, mut stream: TcpStream, now: Instant) -> io::Result<ConnectionId> {
        stream.set_nodelay(true)?;
        let mut challenge = [0; 32];
        getrandom::fill(&mut challenge).map_err(|error| io::Error::other(error.to_string()))?;
        let id = ConnectionId(self.next_connection);
        let token = Token(FIRST_CONNECTION + usize::try_from(id.0).map_err(io::Error::other)?);
        self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.next_connection += 1;
        self.connections.insert(id, (Connection::new(stream, now), Greeting::new(Challenge(challenge))));
        Ok(id)
    }

    /// Reads from all connections that may have something, a limited amount from each and of all.
    fn read(&mut self) {
        let now = Instant::now();
        let mut turns: Vec<ConnectionId> = self.readable.iter().copied().collect();
        // The connections that a reading of the clock waits for come first.
        turns.sort_by_key(|id| !self.owed.contains_key(id));
        for id in turns {
            if self.stalled || self.round_bytes >= ROUND_BYTES_MAX {
                return;
            }
            let Some((connection, _)) = self.connections.get_mut(&id) else {
                self.forget_readable(id);
                continue;
            };
            let (bytes, end) = connection.read(&mut self.scratch, now);
            self.round_bytes += bytes;
            let owed = self.owed.get_mut(&id).map(|read| {
                *read += bytes;
                *read
            });
            self.take_apart(id, now);
            match end {
                ReadEnd::Drained => self.forget_readable(id),
                ReadEnd::More if owed.is_some_and(|read| read >= RECEIVE_BUFFER_MAX) => {
                    self.owed.remove(&id);
                }
                ReadEnd::More => {}
                ReadEnd::Gone => self.remove(id),
            }
        }
    }

    /// Notes that everything from a connection has been read.
    fn forget_readable(&mut self, id: ConnectionId) {
        self.readable.remove(&id);
        self.owed.remove(&id);
    }

    /// Handles the messages that have come whole on a connection.
    fn take_apart(&mut self, id: ConnectionId, now: Instant) {
        while let Some((connection, greeting)) = self.connections.get_mut(&id) {
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
                connection.greeted();
                connection.send(&message, now);
            }
            Reaction::LoggedIn(actor, receive) => {
                connection.send(&ToClient::LoggedIn { account: actor.account.clone() }, now);
                self.round.events.push(Event::LoggedIn { connection: id, actor, receive });
            }
            Reaction::LoggedOut(message) => {
                message.iter().for_each(|message| connection.send(message, now));
                self.round.events.push(Event::LoggedOut { connection: id });
            }
            Reaction::Request(timestamp, body) => {
                let time = self.clock.now();
                self.round.events.push(Event::Request { time, from: id, timestamp, body });
            }
            Reaction::Close(reason) => self.close(id, reason, now),
        }
    }

    /// Ends a connection, with a reason.
    fn close(&mut self, id: ConnectionId, reason: CloseReason, now: Instant) {
        if let Some((connection, _)) = self.connections.get_mut(&id) {
            log::debug!("ending connection {}: {reason}", id.0);
            connection.close(reason, now);
        }
    }

    /// Drops a connection.
    fn remove(&mut self, id: ConnectionId) {
        self.forget_readable(id);
        if let Some((_, greeting)) = self.connections.remove(&id)
            && greeting.is_done()
        {
            self.round.events.push(Event::Closed { connection: id });
        }
    }

    /// Sends what the sockets take, and ends the connection that makes too much wait.
    fn flush(&mut self) {
        let now = Instant::now();
        let mut gone = Vec::new();
        let mut waiting = 0;
        for (id, (connection, _)) in &mut self.connections {
            if !connection.flush() {
                gone.push(*id);
            }
            waiting += connection.outbox_bytes();
            if waiting > OUTBOXES_MAX {
                waiting -= connection.outbox_bytes();
                connection.close(CloseReason::SlowReader, now);
                gone.push(*id);
            }
        }
        gone.into_iter().for_each(|id| self.remove(id));
    }

    /// Ends connections that have been silent for too long, and drops those that were ended long enough ago.
    fn sweep(&mut self) {
        let now = Instant::now();
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP;
        let mut overdue = Vec::new();
        for (id, (connection, greeting)) in &mut self.connections {
            let patience_ends =
                if greeting.is_done() { connection.heard() + SILENCE_MAX } else { connection.since() + GREETING_WAIT };
            if connection.is_overdue(now) {
                overdue.push(*id);
            } else if now > patience_ends {
                connection.close(CloseReason::Silent, now);
            }
        }
        overdue.into_iter().for_each(|id| self.remove(id));
    }

    /// Hands what was read over to the applier. When the applier is behind, it stays here, and nothing more is read.
    fn hand_over(&mut self) {
        if self.owed.is_empty() && !self.stalled {
            self.round.drained = self.reading.take();
        }
        if self.round.events.is_empty() && !(self.reading_wanted && self.round.drained.is_some()) {
            self.round_bytes = 0;
            return;
        }
        if !self.try_hand_over() {
            self.applier.signals.set_stalled();
            self.try_hand_over();
        }
    }

    /// Tries once to hand over what was read.
    fn try_hand_over(&mut self) -> bool {
        let drained = self.round.drained.is_some();
        match self.applier.rounds.try_send(std::mem::take(&mut self.round)) {
            Ok(()) => {
                self.reading_wanted &= !drained;
                self.round_bytes = 0;
                self.stalled = false;
            }
            Err(TrySendError::Full(round)) => {
                self.round = round;
                self.stalled = true;
            }
            // The applier is gone; the loop learns it from its other channel.
            Err(TrySendError::Disconnected(_)) => {}
        }
        !self.stalled
    }

    /// Tells all connections that the replica stops, and gives them a moment to take what they are still to get.
    fn say_goodbye(mut self) {
        let now = Instant::now();
        self.connections.values_mut().for_each(|(connection, _)| connection.close(CloseReason::Stopping, now));
        let mut events = Events::with_capacity(CONNECTIONS_MAX);
        while !self.connections.is_empty()
            && !self.connections.values().any(|(connection, _)| connection.is_overdue(Instant::now()))
        {
            self.flush();
            self.connections.retain(|_, (connection, _)| connection.outbox_bytes() > 0);
            if self.connections.is_empty() || self.poll.poll(&mut events, Some(Duration::from_millis(100))).is_err() {
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
