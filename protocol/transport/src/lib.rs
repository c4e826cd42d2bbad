//! The one transport: non-blocking TCP connections, for clients and replicas alike.
//!
//! - [`ByteStream`] reads and writes the bytes of a connection. Written bytes wait in a bounded buffer until the socket takes
//!   them. Encryption belongs here: everything above sees plaintext only.
//! - [`FramedStream`] adds frames: it turns bytes into messages and messages into bytes.
//! - [`Dial`] makes a connection to an address, and makes it again after a failure. [`Resolver`] looks up host names for it, in
//!   threads, because a lookup can block for as long as the name servers please.
//!
//! Nothing here waits. A caller owns the mio poll, registers sockets with it, and calls in when a socket is ready or a
//! deadline has come. The crate knows neither chat nor which messages may follow each other.

#![deny(missing_docs)]

mod byte_stream;
mod dial;
mod framed_stream;
mod resolver;
#[cfg(test)]
mod testing;
mod write_buffer;

pub use byte_stream::{ByteStream, Read, ReadEnd};
pub use dial::{Dial, Pacing, Register};
pub use framed_stream::{FramedStream, Overflow};
pub use resolver::{Resolved, Resolver};

/// The most bytes that one call reads from a connection, 256 KiB unless set to less, so that one busy connection does not keep the
/// others waiting.
pub const READ_MAX: usize = 256 * 1024;
