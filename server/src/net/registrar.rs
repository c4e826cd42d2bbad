//! Tokens: how the poll's events are told apart.

use crate::replica::ConnectionId;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io;

/// The token of the first connection; tokens of connections are never used again.
pub const FIRST_CONNECTION: usize = 4;

/// Numbers connections, and has the poll watch them.
pub struct Registrar {
    registry: Registry,
    next: u64,
}

impl Registrar {
    /// A registrar that has registered nothing.
    pub fn new(registry: Registry) -> Registrar {
        Registrar { registry, next: 0 }
    }

    /// Which connection a token is for; none for the tokens of other sockets.
    pub fn connection(token: Token) -> Option<ConnectionId> {
        token.0.checked_sub(FIRST_CONNECTION).map(|number| ConnectionId(number as u64))
    }

    /// Gives a socket a number that is never used again.
    ///
    /// # Errors
    /// The operating system has no room for one more.
    pub fn register(&mut self, stream: &mut TcpStream) -> io::Result<ConnectionId> {
        let id = ConnectionId(self.next);
        let token = Token(FIRST_CONNECTION + usize::try_from(id.0).map_err(io::Error::other)?);
        self.registry.register(stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.next += 1;
        Ok(id)
    }
}
