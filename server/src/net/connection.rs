//! A connection of the poll loop: a framed stream, how long it has been silent, what holds it up, and how it is ended.

use super::Source;
use super::greeting::Channel;
use mio::net::TcpStream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::frame::{CLIENT_FRAME_MAX, Decoded, FRAME_MAX, FrameError};
use stablechat_protocol::login::ChannelBinding;
use stablechat_protocol::message::ToClient;
use stablechat_protocol::name::ReplicaName;
use stablechat_transport::{FramedStream, Overflow, READ_MAX, Read};
use std::time::{Duration, Instant};

/// The most bytes that may wait to be written to a client, 8 MiB. A client that does not read and lets more gather is
/// disconnected; its messages stay unread.
const CLIENT_WRITE_MAX: usize = 8 * 1024 * 1024;
/// The most bytes that may wait to be written to a peer, 64 MiB. A peer that lets more gather is disconnected. It connects again,
/// and the replicas compare what they hold.
const PEER_WRITE_MAX: usize = 64 * 1024 * 1024;
/// While more than this waits to be written to a client, 64 KiB, nothing that it sends is handled: it shall read first.
const REPLIES_MAX: usize = 64 * 1024;
/// The most queries of a client that are being answered, as many as our own client asks at a time. Further ones wait in the socket:
/// pages of answers are large.
const QUERIES_MAX: usize = 16;
/// After this time a query counts as lost, which happens when the replica starts anew.
const QUERIES_LOST: Duration = Duration::from_secs(10);
/// How long a client is not read after a request or query of it was refused as overload. Doubles from one such refusal to the next.
/// Our own client waits as long before it tries again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Where the doubling of [`PAUSE_MIN`] stops. It begins anew when nothing was refused for twice as long.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How many messages a client may send that are neither requests nor queries: 500 at once, then one in this time, 250 a second. Our
/// own clients ping every 5 s; only `probe` may send up to 200 a second. Further ones wait in the socket.
const CONTROL_INTERVAL: Duration = Duration::from_millis(4);
const CONTROL_BURST: u32 = 500;
/// The most bytes that are read from a client at a time, 16 KiB, so that what one connection can hold in memory is bounded by its
/// frames.
const CLIENT_READ_MAX: usize = 16 * 1024;
/// The most bytes of a frame before the greeting, so that a stranger cannot make the replica hold more.
const GREETING_FRAME_MAX: usize = 4096;
/// How long a connection that we end stays open, so that the rest of its write buffer, with the reason, is still written.
pub const LINGER: Duration = Duration::from_secs(2);

/// A connected socket and its state.
pub struct Connection {
    stream: FramedStream,
    source: Source,
    /// When it was accepted or connected.
    since: Instant,
    /// When something last came.
    heard: Instant,
    /// When the other side last took something of what waits to be written, or nothing waited.
    taken: Instant,
    /// How many queries are being answered, and since when their number has not changed.
    queries: usize,
    queries_since: Instant,
    /// How long nothing more is read after the last refusal as overload, and until when.
    pause: Duration,
    paused_until: Instant,
    /// When [`CONTROL_BURST`] further messages will be allowed that are neither requests nor queries.
    control_full_at: Instant,
    /// How often it was its turn lately, and in which stretch of time that is.
    turns: u32,
    stretch: u64,
    /// Whether the other side has closed its direction. What came before that is still handled.
    is_finished: bool,
    /// Set once we have ended the connection: nothing that comes is handled any more, and it is dropped at this time.
    linger_until: Option<Instant>,
}

impl Connection {
    /// A connection that was just accepted or connected, of which `tls` is the near end.
    pub fn new(socket: TcpStream, tls: rustls::Connection, source: Source, now: Instant) -> Connection {
        let mut stream = FramedStream::new(socket, tls, CLIENT_WRITE_MAX);
        stream.set_frame_limit(GREETING_FRAME_MAX);
        stream.set_read_max(CLIENT_READ_MAX);
        Connection {
            stream,
            source,
            since: now,
            heard: now,
            taken: now,
            queries: 0,
            queries_since: now,
            pause: Duration::ZERO,
            paused_until: now,
            control_full_at: now,
            turns: 0,
            stretch: 0,
            is_finished: false,
            linger_until: None,
        }
    }

    /// Where it comes from.
    pub fn source(&self) -> Source {
        self.source
    }

    /// When it was accepted or connected.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Whether the two sides have not yet agreed on keys.
    pub fn is_handshaking(&self) -> bool {
        self.stream.is_handshaking()
    }

    /// When something last came.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// When the other side last took something of what waits to be written, or nothing waited.
    pub fn taken(&self) -> Instant {
        self.taken
    }

    /// How many bytes wait to be written.
    pub fn unwritten(&self) -> usize {
        self.stream.unwritten()
    }

    /// How many bytes of memory the incoming frames take that are not handled.
    pub fn incoming(&self) -> usize {
        self.stream.incoming()
    }

    /// Whether we have ended the connection.
    pub fn is_closing(&self) -> bool {
        self.linger_until.is_some()
    }

    /// Whether we have ended the connection, and the other side has had its time to read the reason.
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.linger_until.is_some_and(|until| now >= until)
    }

    /// Accepts frames of a client's full size from here on: the other side has greeted.
    pub fn on_greeted(&mut self) {
        self.stream.set_frame_limit(CLIENT_FRAME_MAX);
    }

    /// Accepts frames of full size from here on, reads more at a time, and lets more wait to be written: the other side is a peer.
    pub fn on_greeted_by_peer(&mut self) {
        self.stream.set_frame_limit(FRAME_MAX);
        self.stream.set_write_limit(PEER_WRITE_MAX);
        self.stream.set_read_max(READ_MAX);
    }

    /// Reads some of the bytes that have arrived.
    pub fn read(&mut self, scratch: &mut [u8], now: Instant) -> Read {
        // After we have ended the connection it is read only so that closing it does not take back the reason.
        let read = match self.is_closing() {
            true => self.stream.discard(scratch),
            false => self.stream.read(scratch),
        };
        if read.raw > 0 {
            self.heard = now;
        }
        read
    }

    /// The other side has closed its direction.
    pub fn on_finished(&mut self) {
        self.is_finished = true;
    }

    /// Whether the other side has closed its direction.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// The next whole message.
    ///
    /// # Errors
    /// What came can never be a message.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Decoded<T>, FrameError> {
        match self.is_closing() {
            true => Ok(Decoded::NeedMore),
            false => self.stream.next_message(),
        }
    }

    /// Whether nothing that a client sends is handled for now: too much waits to be written to it or to be answered, it has been
    /// refused a moment ago, or it sends too many messages that are neither requests nor queries.
    pub fn is_held_up(&self, now: Instant) -> bool {
        let has_too_much = self.unwritten() > REPLIES_MAX || self.queries >= QUERIES_MAX;
        !self.is_closing() && (has_too_much || self.paused_until(now).is_some())
    }

    /// When it is no longer held up by a refusal, or by the rate of its messages; none if it is not.
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        let allowed_at = self.control_full_at.checked_sub(CONTROL_INTERVAL * (CONTROL_BURST - 1)).unwrap_or(now);
        Some(self.paused_until.max(allowed_at)).filter(|until| now < *until)
    }

    /// It has sent a message that is neither a request nor a query.
    pub fn on_control_message(&mut self, now: Instant) {
        self.control_full_at = self.control_full_at.max(now) + CONTROL_INTERVAL;
    }

    /// A query was passed on.
    pub fn on_query(&mut self, now: Instant) {
        self.queries += 1;
        self.queries_since = now;
    }

    /// Forgets queries that will not be answered any more.
    pub fn forget_lost_queries(&mut self, now: Instant) {
        if now.saturating_duration_since(self.queries_since) > QUERIES_LOST {
            self.queries = 0;
        }
    }

    /// A query is answered or refused.
    pub fn on_query_done(&mut self, now: Instant) {
        self.queries = self.queries.saturating_sub(1);
        self.queries_since = now;
    }

    /// Something that the client sent is refused as overload: reads no more of it for a while.
    pub fn on_overload(&mut self, now: Instant) {
        if now < self.paused_until {
            return;
        }
        let is_new = now.saturating_duration_since(self.paused_until) > 2 * PAUSE_MAX;
        self.pause = if is_new { PAUSE_MIN } else { (2 * self.pause).clamp(PAUSE_MIN, PAUSE_MAX) };
        self.paused_until = now + self.pause;
    }

    /// How many turns it has had in this stretch of time.
    pub fn turns(&self, stretch: u64) -> u32 {
        if self.stretch == stretch { self.turns } else { 0 }
    }

    /// It has its turn.
    pub fn on_turn(&mut self, stretch: u64) {
        self.turns = self.turns(stretch) + 1;
        self.stretch = stretch;
    }

    /// Queues a message. Ends the connection when too much waits to be written.
    pub fn send(&mut self, message: &impl Serialize, now: Instant) {
        self.queue(now, |stream| stream.send(message));
    }

    /// Queues a message that is encoded already, as one for many connections is. Otherwise as [`Connection::send`].
    pub fn send_frame(&mut self, frame: &[u8], now: Instant) {
        self.queue(now, |stream| stream.send_frame(frame));
    }

    fn queue(&mut self, now: Instant, send: impl FnOnce(&mut FramedStream) -> Result<(), Overflow>) {
        if self.is_closing() {
            return;
        }
        if self.unwritten() == 0 {
            self.taken = now;
        }
        if send(&mut self.stream) == Err(Overflow) {
            self.stream.drop_unwritten();
            self.close(CloseReason::SlowReader, now);
        }
    }

    /// Drops what waits to be written, and ends the connection.
    pub fn give_up(&mut self, reason: CloseReason, now: Instant) {
        self.stream.drop_unwritten();
        self.close(reason, now);
    }

    /// Ends the connection: the reason is the last message that is written. Clients and peers read it alike.
    pub fn close(&mut self, reason: CloseReason, now: Instant) {
        if !self.is_closing() {
            self.send(&ToClient::Closing { reason }, now);
            self.linger_until = Some(now + LINGER);
            self.stream.finish();
        }
    }

    /// Writes what the socket takes. Returns whether the connection is still of use.
    pub fn flush(&mut self, now: Instant) -> bool {
        let before = self.unwritten();
        let is_sound = self.stream.flush().is_ok();
        if self.unwritten() < before {
            self.taken = now;
        }
        is_sound
    }
}

impl Channel for Connection {
    fn binding(&self) -> Option<ChannelBinding> {
        self.stream.channel_binding()
    }

    fn is_certified_as(&self, name: &ReplicaName) -> bool {
        self.stream.is_certified_as(name.as_str())
    }
}
