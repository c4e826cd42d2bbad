//! Tokens: which connection an event of the poll is for.

use crate::replica::ConnectionId;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io;

/// The token of the first connection. Tokens of connections are never used again, so that a late event cannot hit a new one.
pub const FIRST_CONNECTION: usize = 4;

/// Numbers connections, and registers their sockets with the poll.
pub struct Registrar {
    registry: Registry,
    next: u64,
}

impl Registrar {
    pub fn new(registry: Registry) -> Registrar {
        Registrar { registry, next: 0 }
    }

    /// The connection of a token; none for the tokens of other sockets.
    pub fn connection(token: Token) -> Option<ConnectionId> {
        token.0.checked_sub(FIRST_CONNECTION).map(|number| ConnectionId(number as u64))
    }

    /// Gives a socket a number that is never used again.
    ///
    /// # Errors
    /// The operating system cannot watch one more socket.
    pub fn register(&mut self, stream: &mut TcpStream) -> io::Result<ConnectionId> {
        let id = ConnectionId(self.next);
        let token = Token(FIRST_CONNECTION + usize::try_from(id.0).map_err(io::Error::other)?);
        self.registry.register(stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.next += 1;
        Ok(id)
    }
}
