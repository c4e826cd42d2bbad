//! The bytes of one connection.

use crate::fault::Fault;
use crate::write_buffer::WriteBuffer;
use crate::{ENCRYPTED_MAX, READ_MAX};
use mio::net::TcpStream;
use rustls::Connection;
use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;
use stablechat_protocol::login::ChannelBinding;
use std::io::{self, BufRead, ErrorKind, Write};
use std::net::Shutdown;

/// The label under which the two ends of a connection derive what identifies it (RFC 9266).
const CHANNEL_BINDING: &[u8] = b"EXPORTER-Channel-Binding";

/// A connected, non-blocking socket under TLS, with the plaintext that waits until the socket takes it. One without TLS is for the port
/// that monitoring systems read, and for nothing else.
///
/// Plaintext is encrypted a piece at a time, when the socket has taken the piece before. So waiting messages can still be dropped, and
/// are not kept twice.
#[derive(Debug)]
pub struct ByteStream {
    socket: TcpStream,
    tls: Option<Box<Connection>>,
    unwritten: WriteBuffer,
    /// How many bytes of plaintext are encrypted and not yet taken by the socket, of the last piece.
    encrypted: usize,
    half_close: HalfClose,
    /// The most bytes that one call reads from the socket.
    read_max: usize,
}

/// How far our direction of the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HalfClose {
    Open,
    /// To be closed once everything is written.
    Wanted,
    /// The word that nothing more comes is encrypted, and perhaps not yet written.
    Said,
    Closed,
}

/// What a call of read came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// How many bytes of plaintext came.
    pub bytes: usize,
    /// How many bytes the socket had for them.
    pub raw: usize,
    /// Why the call read no further.
    pub end: ReadEnd,
}

/// Why a call read no further.
#[derive(Clone, Debug, PartialEq)]
pub enum ReadEnd {
    /// Everything that had arrived is read: the socket is empty, every whole record is decrypted, and its plaintext is handed over.
    Drained,
    /// The call has read its share. More may be there.
    More,
    /// The other side has said that nothing more comes.
    Closed,
    /// The connection is broken.
    Failed(Fault),
}

impl ReadEnd {
    /// Whether nothing can come any more.
    pub fn is_over(&self) -> bool {
        matches!(self, ReadEnd::Closed | ReadEnd::Failed(_))
    }
}

impl ByteStream {
    /// A connection over a connected socket, of which this is the near end.
    pub fn new(socket: TcpStream, mut tls: Connection) -> ByteStream {
        // The limit is kept here: no more than a piece is given to it.
        tls.set_buffer_limit(None);
        ByteStream { tls: Some(Box::new(tls)), ..ByteStream::unencrypted(socket) }
    }

    /// A connection over a connected socket, without encryption.
    pub fn unencrypted(socket: TcpStream) -> ByteStream {
        ByteStream {
            socket,
            tls: None,
            unwritten: WriteBuffer::default(),
            encrypted: 0,
            half_close: HalfClose::Open,
            read_max: READ_MAX,
        }
    }

    /// Sets the most bytes that one call reads from the socket, [`READ_MAX`] otherwise.
    pub fn set_read_max(&mut self, bytes: usize) {
        self.read_max = bytes;
    }

    /// How many bytes of plaintext wait to be written.
    pub fn unwritten(&self) -> usize {
        self.unwritten.len() + self.encrypted
    }

    /// Whether the two sides have not yet agreed on keys. Until then nothing that is queued is written.
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// What identifies the connection to both of its ends and to nobody else; none while the two are not agreed on keys.
    pub fn channel_binding(&self) -> Option<ChannelBinding> {
        let tls = self.tls.as_ref().filter(|tls| !tls.is_handshaking())?;
        tls.export_keying_material([0; 32], CHANNEL_BINDING, Some(&[])).ok().map(ChannelBinding)
    }

    /// Whether the other side has shown a certificate that a trusted authority has made for this name.
    pub fn is_certified_as(&self, name: &str) -> bool {
        let certificate = self.tls.as_ref().and_then(|tls| tls.peer_certificates()?.first());
        let (Some(certificate), Ok(name)) = (certificate, ServerName::try_from(name)) else { return false };
        // It would not be kept if its signature had not been checked.
        ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
    }

    /// Reads the bytes that have arrived, at most its share, in pieces of at most the length of `scratch`, and hands their plaintext
    /// to `take`.
    pub fn read(&mut self, scratch: &mut [u8], mut take: impl FnMut(&[u8])) -> Read {
        let (mut bytes, mut raw) = (0, 0);
        let end = loop {
            let piece = scratch.len().min(self.read_max - raw);
            if piece == 0 {
                break ReadEnd::More;
            }
            match io::Read::read(&mut self.socket, &mut scratch[..piece]) {
                Ok(0) if self.tls.is_none() => break ReadEnd::Closed,
                Ok(0) => break ReadEnd::Failed(Fault::CutOff),
                Ok(length) => {
                    raw += length;
                    match self.decrypt(&scratch[..length], &mut take) {
                        Ok((taken, is_closed)) => {
                            bytes += taken;
                            if is_closed {
                                break ReadEnd::Closed;
                            }
                        }
                        Err(error) => {
                            // The other side is told why, if it still reads.
                            drop(self.write_encrypted());
                            break ReadEnd::Failed(Fault::Tls(error));
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break ReadEnd::Drained,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break ReadEnd::Failed(Fault::Socket(error.kind())),
            }
        };
        Read { bytes, raw, end }
    }

    /// Takes in bytes of the socket, and hands over the plaintext of all records that are whole by now. Returns how many bytes of
    /// plaintext there were, and whether the other side has said that nothing more comes.
    fn decrypt(&mut self, mut raw: &[u8], take: &mut impl FnMut(&[u8])) -> Result<(usize, bool), rustls::Error> {
        let Some(tls) = &mut self.tls else {
            take(raw);
            return Ok((raw.len(), false));
        };
        let mut bytes = 0;
        while !raw.is_empty() {
            // It takes some of it at a time, a few KiB, and refuses more while plaintext is left.
            let taken = tls.read_tls(&mut raw).map_err(|error| rustls::Error::General(error.to_string()))?;
            let state = tls.process_new_packets()?;
            let mut reader = tls.reader();
            while state.plaintext_bytes_to_read() > 0
                && let Ok(plaintext @ [_, ..]) = reader.fill_buf()
            {
                let length = plaintext.len();
                take(plaintext);
                reader.consume(length);
                bytes += length;
            }
            if state.peer_has_closed() || taken == 0 {
                return Ok((bytes, true));
            }
        }
        Ok((bytes, false))
    }

    /// Queues a whole message for [`ByteStream::flush`]. The caller bounds what gathers, see [`ByteStream::unwritten`]. After
    /// [`ByteStream::finish`] nothing is queued any more.
    pub fn queue(&mut self, message: &[u8]) {
        if self.half_close == HalfClose::Open {
            self.unwritten.push(message);
        }
    }

    /// Drops the messages that wait to be written, except one of which a part is encrypted already.
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

    /// Encrypts and writes what the socket takes; during the handshake, only what belongs to that.
    ///
    /// # Errors
    /// The connection is broken. What has arrived on it may still be read.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.write_encrypted()? {
            if self.is_handshaking() {
                return Ok(());
            }
            if self.unwritten.front().is_some() {
                if !self.encrypt()? {
                    return Ok(());
                }
                continue;
            }
            match self.half_close {
                HalfClose::Open | HalfClose::Closed => return Ok(()),
                HalfClose::Wanted => {
                    self.tls.iter_mut().for_each(|tls| tls.send_close_notify());
                    self.half_close = HalfClose::Said;
                }
                HalfClose::Said => {
                    self.half_close = HalfClose::Closed;
                    return self.socket.shutdown(Shutdown::Write);
                }
            }
        }
        Ok(())
    }

    /// Encrypts the next piece of the waiting plaintext; without TLS, writes it. Returns whether there may be more to do at once.
    fn encrypt(&mut self) -> io::Result<bool> {
        let Some(bytes) = self.unwritten.front() else { return Ok(true) };
        let length = match &mut self.tls {
            Some(tls) => {
                self.encrypted = tls.writer().write(&bytes[..bytes.len().min(ENCRYPTED_MAX)])?;
                self.encrypted
            }
            None => match self.socket.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                Err(error) => return Err(error),
            },
        };
        self.unwritten.advance(length);
        Ok(true)
    }

    /// Writes the encrypted bytes. Returns whether the socket has taken all of it.
    fn write_encrypted(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        while tls.wants_write() {
            match tls.write_tls(&mut self.socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.encrypted = 0;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
