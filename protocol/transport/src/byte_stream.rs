//! The bytes of one connection.

use crate::READ_MAX;
use crate::write_buffer::WriteBuffer;
use mio::net::TcpStream;
use std::io::{self, ErrorKind};
use std::net::Shutdown;

/// A connected, non-blocking socket, with the bytes that wait until the socket takes them.
///
/// When encryption is added, this type holds its state: [`ByteStream::read`] says [`ReadEnd::Drained`] only when the socket would
/// block and no decrypted byte is left, and the buffer holds plaintext, which is encrypted as far as the socket takes it.
#[derive(Debug)]
pub struct ByteStream {
    socket: TcpStream,
    unwritten: WriteBuffer,
    half_close: HalfClose,
    /// The most bytes that one call reads.
    read_max: usize,
}

/// How far our direction of the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HalfClose {
    Open,
    /// To be closed once everything is written.
    Wanted,
    Closed,
}

/// What a call of read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// How many bytes came.
    pub bytes: usize,
    /// Why the call read no further.
    pub end: ReadEnd,
}

/// Why a call read no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// Everything that had arrived is read.
    Drained,
    /// The call has read its share. More may be there.
    More,
    /// The other side has closed its direction.
    Closed,
    /// The connection is broken.
    Failed(ErrorKind),
}

impl ReadEnd {
    /// Whether nothing can come any more.
    pub fn is_over(self) -> bool {
        matches!(self, ReadEnd::Closed | ReadEnd::Failed(_))
    }
}

impl ByteStream {
    /// A connection over a connected socket.
    pub fn new(socket: TcpStream) -> ByteStream {
        ByteStream { socket, unwritten: WriteBuffer::default(), half_close: HalfClose::Open, read_max: READ_MAX }
    }

    /// Sets the most bytes that one call reads, [`READ_MAX`] otherwise.
    pub fn set_read_max(&mut self, bytes: usize) {
        self.read_max = bytes;
    }

    /// How many bytes wait to be written.
    pub fn unwritten(&self) -> usize {
        self.unwritten.len()
    }

    /// Reads the bytes that have arrived, at most its share, in pieces of at most the length of `scratch`, and hands each
    /// piece to `take`.
    pub fn read(&mut self, scratch: &mut [u8], mut take: impl FnMut(&[u8])) -> Read {
        let mut bytes = 0;
        let end = loop {
            let piece = scratch.len().min(self.read_max - bytes);
            if piece == 0 {
                break ReadEnd::More;
            }
            match io::Read::read(&mut self.socket, &mut scratch[..piece]) {
                Ok(0) => break ReadEnd::Closed,
                Ok(length) => {
                    bytes += length;
                    take(&scratch[..length]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break ReadEnd::Drained,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break ReadEnd::Failed(error.kind()),
            }
        };
        Read { bytes, end }
    }

    /// Queues a whole message for [`ByteStream::flush`]. The caller bounds what gathers, see [`ByteStream::unwritten`]. After
    /// [`ByteStream::finish`] nothing is queued any more.
    pub fn queue(&mut self, message: &[u8]) {
        if self.half_close == HalfClose::Open {
            self.unwritten.push(message);
        }
    }

    /// Drops the messages that wait to be written, except one of which a part is written already.
    pub fn drop_unwritten(&mut self) {
        self.unwritten.drop_unwritten();
    }

    /// Closes our direction as soon as everything that is queued is written. The other side reads all of it and then the end;
    /// dropping the socket at once could discard bytes that are still in flight.
    pub fn finish(&mut self) {
        if self.half_close == HalfClose::Open {
            self.half_close = HalfClose::Wanted;
        }
    }

    /// Writes what the socket takes.
    ///
    /// # Errors
    /// The connection is broken. What has arrived on it may still be read.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some(bytes) = self.unwritten.front() {
            match io::Write::write(&mut self.socket, bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => self.unwritten.advance(length),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }

        if self.half_close == HalfClose::Wanted {
            self.half_close = HalfClose::Closed;
            self.socket.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{pair, read_until};
    use std::io::{Read as _, Write as _};

    #[test]
    fn a_full_socket_leaves_the_rest_in_the_buffer() {
        let (mut stream, mut other) = pair();
        let message = vec![7; 1024 * 1024];
        (0..32).for_each(|_| stream.queue(&message));
        stream.flush().expect("the other side is there");
        assert!(stream.unwritten() > 0, "no socket buffer holds 32 MiB");
        stream.finish();

        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            other.read_to_end(&mut all).map(|_| all.len())
        });
        while !reader.is_finished() {
            stream.flush().expect("the other side reads");
            std::thread::yield_now();
        }
        assert_eq!(reader.join().expect("no panic").expect("the end"), 32 * message.len());
        assert_eq!(stream.unwritten(), 0);
    }

    #[test]
    fn the_end_is_seen_after_all_bytes() {
        let (mut stream, mut other) = pair();
        let mut got = Vec::new();
        assert_eq!(stream.read(&mut [0; 16], |_| {}), Read { bytes: 0, end: ReadEnd::Drained });

        other.write_all(b"some bytes, and then the end").expect("a small write");
        drop(other);
        let end = read_until(&mut stream, |piece| got.extend_from_slice(piece), ReadEnd::is_over);
        assert_eq!((end, &got[..]), (ReadEnd::Closed, &b"some bytes, and then the end"[..]));
    }

    #[test]
    fn one_call_reads_a_share_only() {
        let (mut stream, mut other) = pair();
        let writer = std::thread::spawn(move || other.write_all(&vec![1; 4 * READ_MAX]).map(|()| other));
        let mut scratch = vec![0; 64 * 1024];
        let mut total = 0;
        while total < 4 * READ_MAX {
            let Read { bytes, end } = stream.read(&mut scratch, |_| {});
            assert!(bytes <= READ_MAX && !end.is_over(), "{bytes} bytes, {end:?}");
            assert!(end != ReadEnd::More || bytes == READ_MAX);
            total += bytes;
        }
        let mut other = writer.join().expect("no panic").expect("all is written");

        stream.set_read_max(10);
        other.write_all(&[1; 25]).expect("a small write");
        let mut shares = Vec::new();
        while shares.iter().sum::<usize>() < 25 {
            shares.push(stream.read(&mut scratch, |_| {}).bytes);
        }
        assert!(shares.iter().all(|bytes| *bytes <= 10), "{shares:?}");
    }

    #[test]
    fn nothing_is_queued_after_the_finish() {
        let (mut stream, mut other) = pair();
        stream.queue(b"last");
        stream.finish();
        stream.queue(b"too late");
        stream.flush().expect("room for four bytes");
        let mut all = String::new();
        other.read_to_string(&mut all).expect("the end");
        assert_eq!(all, "last");
    }
}
