//! One connection's bytes: what came and is not yet a message, what is to be sent and is not yet gone.

use mio::net::TcpStream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::frame::{Decoded, FRAME_MAX, FrameBuffer, FrameError, encode};
use stablechat_protocol::message::ToClient;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

/// The most bytes that wait to be sent to a client. One that does not read, and lets more gather, is disconnected: its
/// messages stay unread.
const OUTBOX_MAX: usize = 8 * 1024 * 1024;
/// The most bytes that wait to be sent to a peer. One that lets more gather is disconnected: it connects again, and the
/// replicas find out what the other lacks.
const PEER_OUTBOX_MAX: usize = 64 * 1024 * 1024;
/// The most bytes of a frame before the connection has been greeted.
const GREETING_FRAME_MAX: usize = 4096;
/// The most bytes read from one connection before others have their turn.
pub const READ_AT_A_TIME: usize = 256 * 1024;
/// How long a connection that we end has to take what it is still to get, the reason among it.
pub const FAREWELL: Duration = Duration::from_secs(2);

/// A socket with its buffers.
pub struct Connection {
    stream: TcpStream,
    /// What came and is not yet a message.
    inbox: FrameBuffer,
    /// Frames to be sent, oldest first.
    outbox: VecDeque<Vec<u8>>,
    /// How many bytes of the first frame are sent.
    sent_of_first: usize,
    /// How many bytes wait to be sent.
    outbox_bytes: usize,
    /// How many may.
    outbox_max: usize,
    /// When it was accepted, or came to stand.
    since: Instant,
    /// When something last came.
    heard: Instant,
    /// Set when we have ended the connection: nothing is taken from it any more, and by then it is dropped.
    farewell: Option<Instant>,
    /// Whether the end of what we send has been announced to the other side.
    finished: bool,
}

/// What reading gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// Everything that had come has been read.
    Drained,
    /// There may be more.
    More,
    /// The other side is gone.
    Gone,
}

impl Connection {
    /// A connection that has just been accepted, or that has just come to stand.
    pub fn new(stream: TcpStream, now: Instant) -> Connection {
        Connection {
            stream,
            inbox: FrameBuffer::with_limit(GREETING_FRAME_MAX),
            outbox: VecDeque::new(),
            sent_of_first: 0,
            outbox_bytes: 0,
            outbox_max: OUTBOX_MAX,
            since: now,
            heard: now,
            farewell: None,
            finished: false,
        }
    }

    /// When it was accepted, or came to stand.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// When something last came.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// How many bytes wait to be sent.
    pub fn outbox_bytes(&self) -> usize {
        self.outbox_bytes
    }

    /// Whether we have ended the connection.
    pub fn is_closing(&self) -> bool {
        self.farewell.is_some()
    }

    /// Whether we have ended the connection and waited long enough for the other side to take its farewell.
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.farewell.is_some_and(|until| now >= until)
    }

    /// Accepts frames of full size from here on.
    pub fn greeted(&mut self) {
        self.inbox.set_limit(FRAME_MAX);
    }

    /// Accepts frames of full size from here on, and lets more wait to be sent: the other side is a peer.
    pub fn greeted_by_peer(&mut self) {
        self.greeted();
        self.outbox_max = PEER_OUTBOX_MAX;
    }

    /// Reads some of what has come. Returns how many bytes, and whether there may be more.
    pub fn read(&mut self, scratch: &mut [u8], now: Instant) -> (usize, ReadEnd) {
        let mut total = 0;
        while total < READ_AT_A_TIME {
            match self.stream.read(scratch) {
                Ok(0) => return (total, ReadEnd::Gone),
                Ok(length) => {
                    total += length;
                    self.heard = now;
                    // What comes after we have ended the connection is read only to let the farewell through.
                    if !self.is_closing() {
                        self.inbox.push(&scratch[..length]);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (total, ReadEnd::Drained),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return (total, ReadEnd::Gone),
            }
        }
        (total, ReadEnd::More)
    }

    /// The next message that has come whole.
    ///
    /// # Errors
    /// What came can never be a message.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Decoded<T>, FrameError> {
        if self.is_closing() {
            return Ok(Decoded::NeedMore);
        }
        self.inbox.decode()
    }

    /// Queues a message. Ends the connection when too much waits to be sent.
    pub fn send(&mut self, message: &impl Serialize, now: Instant) {
        if self.is_closing() {
            return;
        }
        let mut frame = Vec::new();
        match encode(message, &mut frame) {
            Ok(()) => self.queue(frame),
            Err(error) => unreachable!("messages are made so that they fit: {error}"),
        }
        if self.outbox_bytes > self.outbox_max {
            self.drop_unsent();
            self.close(CloseReason::SlowReader, now);
        }
    }

    /// Ends the connection: the reason is the last that is sent. Clients and peers read it alike.
    pub fn close(&mut self, reason: CloseReason, now: Instant) {
        if !self.is_closing() {
            self.send(&ToClient::Closing { reason }, now);
            self.farewell = Some(now + FAREWELL);
        }
    }

    /// Sends what the socket takes. Returns whether the connection is still of use.
    pub fn flush(&mut self) -> bool {
        while let Some(first) = self.outbox.front() {
            match self.stream.write(&first[self.sent_of_first..]) {
                Ok(length) => {
                    self.sent_of_first += length;
                    self.outbox_bytes -= length;
                    if self.sent_of_first == first.len() {
                        self.outbox.pop_front();
                        self.sent_of_first = 0;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        if self.is_closing() && !self.finished {
            self.finished = true;
            return self.stream.shutdown(std::net::Shutdown::Write).is_ok();
        }
        true
    }

    /// Adds a frame to what waits.
    fn queue(&mut self, frame: Vec<u8>) {
        self.outbox_bytes += frame.len();
        self.outbox.push_back(frame);
    }

    /// Forgets the frames of which nothing has been sent.
    fn drop_unsent(&mut self) {
        self.outbox.truncate(usize::from(self.sent_of_first > 0));
        self.outbox_bytes = self.outbox.front().map_or(0, |first| first.len() - self.sent_of_first);
    }
}
