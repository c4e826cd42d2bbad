//! The one transport: non-blocking connections over TLS, for clients and replicas alike.
//!
//! - [`TlsDialer`] and [`TlsAcceptor`] make the near ends of connections: they know the trusted authorities and a replica's certificate.
//! - [`ByteStream`] reads and writes the bytes of a connection. Everything above it sees plaintext only, which waits in a bounded
//!   buffer until it is encrypted for the socket. [`Fault`] says why a connection is broken.
//! - [`FramedStream`] adds frames: it turns bytes into messages and messages into bytes.
//! - [`Dial`] makes a connection to an address, and makes it again after a failure. [`Resolver`] looks up host names for it, in
//!   threads, because a lookup can block for as long as the name servers please.
//!
//! Nothing here waits. A caller owns the mio poll, registers sockets with it, and calls in when a socket is ready or a
//! deadline has come. The crate knows neither chat nor which messages may follow each other.

#![deny(missing_docs)]

mod byte_stream;
mod dial;
mod fault;
mod framed_stream;
mod resolver;
#[cfg(test)]
mod testing;
mod tls;
mod write_buffer;

pub use byte_stream::{ByteStream, Read, ReadEnd};
pub use dial::{Dial, Pacing, Register};
pub use fault::Fault;
pub use framed_stream::{FramedStream, Overflow};
pub use resolver::{Resolved, Resolver};
pub use tls::{Identity, TlsAcceptor, TlsDialer, TlsError};

/// The most bytes that one call reads from a connection's socket, 256 KiB unless set to less, so that one busy connection does not keep the
/// others waiting.
pub const READ_MAX: usize = 256 * 1024;
/// The most bytes of plaintext that are encrypted at a time, 16 KiB: the content of one record (RFC 8446).
const ENCRYPTED_MAX: usize = 16 * 1024;
