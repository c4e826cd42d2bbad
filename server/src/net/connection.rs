//! A connection of the poll loop: a framed stream, how long it has been silent, and how it is ended.

use mio::net::TcpStream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::frame::{Decoded, FRAME_MAX, FrameError};
use stablechat_protocol::message::ToClient;
use stablechat_transport::{FramedStream, Overflow, Read};
use std::time::{Duration, Instant};

/// The most bytes that may wait to be written to a client, 8 MiB. A client that does not read and lets more gather is
/// disconnected; its messages stay unread.
const CLIENT_WRITE_MAX: usize = 8 * 1024 * 1024;
/// The most bytes that may wait to be written to a peer, 64 MiB. A peer that lets more gather is disconnected. It connects again,
/// and the replicas compare what they hold.
const PEER_WRITE_MAX: usize = 64 * 1024 * 1024;
/// The most bytes of a frame before the greeting, so that a stranger cannot make the replica hold more.
const GREETING_FRAME_MAX: usize = 4096;
/// How long a connection that we end stays open, so that the rest of its write buffer, with the reason, is still written.
pub const LINGER: Duration = Duration::from_secs(2);

/// A connected socket and its state.
pub struct Connection {
    stream: FramedStream,
    /// When it was accepted or connected.
    since: Instant,
    /// When something last came.
    heard: Instant,
    /// Set once we have ended the connection: nothing that comes is handled any more, and it is dropped at this time.
    linger_until: Option<Instant>,
}

impl Connection {
    /// A connection that was just accepted or connected.
    pub fn new(socket: TcpStream, now: Instant) -> Connection {
        let mut stream = FramedStream::new(socket, CLIENT_WRITE_MAX);
        stream.set_frame_limit(GREETING_FRAME_MAX);
        Connection { stream, since: now, heard: now, linger_until: None }
    }

    /// When it was accepted or connected.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// When something last came.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// How many bytes wait to be written.
    pub fn unwritten(&self) -> usize {
        self.stream.unwritten()
    }

    /// Whether we have ended the connection.
    pub fn is_closing(&self) -> bool {
        self.linger_until.is_some()
    }

    /// Whether we have ended the connection, and the other side has had its time to read the reason.
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.linger_until.is_some_and(|until| now >= until)
    }

    /// Accepts frames of full size from here on: the other side has greeted.
    pub fn on_greeted(&mut self) {
        self.stream.set_frame_limit(FRAME_MAX);
    }

    /// Accepts frames of full size from here on, and lets more wait to be written: the other side is a peer.
    pub fn on_greeted_by_peer(&mut self) {
        self.on_greeted();
        self.stream.set_write_limit(PEER_WRITE_MAX);
    }

    /// Reads some of the bytes that have arrived.
    pub fn read(&mut self, scratch: &mut [u8], now: Instant) -> Read {
        // After we have ended the connection it is read only so that closing it does not take back the reason.
        let read = if self.is_closing() { self.stream.discard(scratch) } else { self.stream.read(scratch) };
        if read.bytes > 0 {
            self.heard = now;
        }
        read
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

    /// Queues a message. Ends the connection when too much waits to be written.
    pub fn send(&mut self, message: &impl Serialize, now: Instant) {
        if self.is_closing() {
            return;
        }
        if self.stream.send(message) == Err(Overflow) {
            self.stream.drop_unwritten();
            self.close(CloseReason::SlowReader, now);
        }
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
    pub fn flush(&mut self) -> bool {
        self.stream.flush().is_ok()
    }
}
