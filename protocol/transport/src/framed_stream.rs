//! The messages of one connection.

use crate::byte_stream::{ByteStream, Read};
use mio::net::TcpStream;
use rustls::Connection;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stablechat_protocol::frame::{Decoded, FRAME_MAX, FrameBuffer, FrameError, encode};
use stablechat_protocol::login::ChannelBinding;
use std::fmt;
use std::io;

/// A connection that carries frames, with bounded buffers both ways: it holds at most one frame and the bytes of one read of
/// the incoming stream, and at most the write limit of outgoing bytes.
#[derive(Debug)]
pub struct FramedStream {
    bytes: ByteStream,
    /// Bytes that came and are not yet messages.
    incoming: FrameBuffer,
    /// The most bytes that may wait to be written.
    write_limit: usize,
}

/// More waits to be written than the limit allows: the other side does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

impl fmt::Display for Overflow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("it does not read what it is sent")
    }
}

impl FramedStream {
    /// A connection over a connected socket, of which this is the near end. Frames are at most [`FRAME_MAX`] bytes long; at most `write_limit` bytes may wait
    /// to be written.
    pub fn new(socket: TcpStream, tls: Connection, write_limit: usize) -> FramedStream {
        FramedStream { bytes: ByteStream::new(socket, tls), incoming: FrameBuffer::with_limit(FRAME_MAX), write_limit }
    }

    /// Whether the two sides have not yet agreed on keys, see [`ByteStream::is_handshaking`].
    pub fn is_handshaking(&self) -> bool {
        self.bytes.is_handshaking()
    }

    /// What identifies the connection, see [`ByteStream::channel_binding`].
    pub fn channel_binding(&self) -> Option<ChannelBinding> {
        self.bytes.channel_binding()
    }

    /// Whether the other side has a certificate for this name, see [`ByteStream::is_certified_as`].
    pub fn is_certified_as(&self, name: &str) -> bool {
        self.bytes.is_certified_as(name)
    }

    /// Sets the most bytes of a frame, for frames that are not decoded yet. Strangers get less than [`FRAME_MAX`].
    pub fn set_frame_limit(&mut self, limit: usize) {
        self.incoming.set_limit(limit);
    }

    /// Sets the most bytes that may wait to be written.
    pub fn set_write_limit(&mut self, limit: usize) {
        self.write_limit = limit;
    }

    /// Sets the most bytes that one call reads, see [`ByteStream::set_read_max`].
    pub fn set_read_max(&mut self, bytes: usize) {
        self.bytes.set_read_max(bytes);
    }

    /// How many bytes of memory the frames take that have come, in part or whole, and are not decoded.
    pub fn incoming(&self) -> usize {
        self.incoming.memory()
    }

    /// How many bytes wait to be written.
    pub fn unwritten(&self) -> usize {
        self.bytes.unwritten()
    }

    /// Reads the bytes that have arrived, see [`ByteStream::read`]. Messages come out of [`FramedStream::next_message`]; take
    /// all of them before reading again, which bounds the memory.
    pub fn read(&mut self, scratch: &mut [u8]) -> Read {
        self.bytes.read(scratch, |piece| self.incoming.push(piece))
    }

    /// Reads and drops the bytes that have arrived. For a connection that we have ended: closing a socket with unread bytes
    /// resets the connection, and the other side could lose the bytes that we have sent.
    pub fn discard(&mut self, scratch: &mut [u8]) -> Read {
        self.bytes.read(scratch, |_| {})
    }

    /// The next whole message.
    ///
    /// # Errors
    /// What came can never be a message.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Decoded<T>, FrameError> {
        self.incoming.decode()
    }

    /// Queues a message for [`FramedStream::flush`].
    ///
    /// # Errors
    /// More bytes wait than may. The message is queued all the same; the caller decides what becomes of the connection.
    ///
    /// # Panics
    /// The message is longer than [`FRAME_MAX`]: messages are bounded where they are made.
    pub fn send(&mut self, message: &impl Serialize) -> Result<(), Overflow> {
        let mut frame = Vec::new();
        encode(message, &mut frame).expect("messages are made so that they fit into a frame");
        self.send_frame(&frame)
    }

    /// Queues a message that is encoded already, as for several connections.
    ///
    /// # Errors
    /// As for [`FramedStream::send`].
    pub fn send_frame(&mut self, frame: &[u8]) -> Result<(), Overflow> {
        self.bytes.queue(frame);
        if self.unwritten() > self.write_limit { Err(Overflow) } else { Ok(()) }
    }

    /// Drops the messages of which nothing is written.
    pub fn drop_unwritten(&mut self) {
        self.bytes.drop_unwritten();
    }

    /// Closes our direction once everything is written, see [`ByteStream::finish`].
    pub fn finish(&mut self) {
        self.bytes.finish();
    }

    /// Writes what the socket takes.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self) -> io::Result<()> {
        self.bytes.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::byte_stream::ReadEnd;
    use crate::testing::{Far, pair, wait};
    use std::io::Write;

    /// The two ends of a connection, the first of which carries frames and holds at most so many bytes.
    fn framed(write_limit: usize) -> (FramedStream, Far) {
        let (bytes, far) = pair();
        (FramedStream { bytes, incoming: FrameBuffer::with_limit(FRAME_MAX), write_limit }, far)
    }

    fn messages(stream: &mut FramedStream) -> Vec<String> {
        let mut all = Vec::new();
        while let Decoded::Frame(message) = stream.next_message().expect("good frames") {
            all.push(message);
        }
        all
    }

    #[test]
    fn messages_come_out_whole_however_their_bytes_arrive() {
        let (mut stream, mut other) = framed(1024);
        let mut bytes = Vec::new();
        ["first", "second"].iter().for_each(|text| encode(text, &mut bytes).expect("short"));

        let mut got = Vec::new();
        for byte in &bytes {
            other.write_all(&[*byte]).expect("room for a byte");
            wait(|| stream.read(&mut [0; 64]).bytes == 1);
            got.extend(messages(&mut stream));
        }
        assert_eq!(got, ["first", "second"]);
    }

    #[test]
    fn a_reader_that_does_not_read_is_noticed() {
        let (mut stream, _other) = framed(100);
        assert_eq!(stream.send(&"x".repeat(90)), Ok(()));
        assert_eq!(stream.send(&"x".repeat(90)), Err(Overflow));
        stream.drop_unwritten();
        assert_eq!((stream.unwritten(), stream.send(&"short")), (0, Ok(())));
    }

    #[test]
    fn a_frame_beyond_the_limit_is_an_error() {
        let (mut stream, mut other) = framed(100);
        stream.set_frame_limit(10);
        let mut bytes = Vec::new();
        encode(&"longer than ten bytes", &mut bytes).expect("short");
        other.write_all(&bytes).expect("a small write");
        wait(|| stream.read(&mut [0; 64]).bytes > 0);
        assert!(matches!(stream.next_message::<String>(), Err(FrameError::TooLarge { limit: 10, .. })));
    }

    #[test]
    fn discarded_bytes_are_no_message() {
        let (mut stream, mut other) = framed(100);
        let mut bytes = Vec::new();
        encode(&"dropped", &mut bytes).expect("short");
        other.write_all(&bytes).expect("a small write");
        other.conn.send_close_notify();
        other.flush().expect("a small write");
        wait(|| stream.discard(&mut [0; 64]).end == ReadEnd::Closed);
        assert_eq!(stream.next_message::<String>(), Ok(Decoded::NeedMore));
    }
}
