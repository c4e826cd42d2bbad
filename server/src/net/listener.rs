//! The listening socket.

use super::Source;
use mio::net::{TcpListener, TcpStream};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

/// How long accepting rests after a failure such as a lack of file descriptors: to try again at once would fail again.
const PAUSE: Duration = Duration::from_secs(1);

/// Accepts connections. A failure to accept one is logged and never ends the replica.
pub struct Listener {
    socket: TcpListener,
    /// Whether connections may be waiting.
    ready: bool,
    /// When to try again after a failure.
    paused_until: Option<Instant>,
}

impl Listener {
    /// Listens on the first usable address that `address` (`HOST:PORT`) resolves to. The port of a process that was killed can be
    /// taken over at once (`SO_REUSEADDR`).
    ///
    /// # Errors
    /// The name does not resolve, or its addresses are in use or not of this machine.
    pub fn bind(address: &str) -> io::Result<Listener> {
        let mut failure = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
        for address in address.to_socket_addrs()? {
            match TcpListener::bind(address) {
                Ok(socket) => return Ok(Listener { socket, ready: true, paused_until: None }),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The socket, for the poll to watch.
    pub(super) fn source(&mut self) -> &mut TcpListener {
        &mut self.socket
    }

    /// Connections may be waiting.
    pub(super) fn set_ready(&mut self) {
        self.ready = true;
    }

    /// When to try again after a failure.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.paused_until
    }

    /// Whether there may be a connection that can be accepted now.
    pub(super) fn is_ready(&self) -> bool {
        self.ready && self.paused_until.is_none()
    }

    /// The next connection and where it comes from, if there is one.
    pub(super) fn accept(&mut self, now: Instant) -> Option<(TcpStream, Source)> {
        if self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        self.paused_until = None;
        while self.ready {
            match self.socket.accept() {
                Ok((stream, address)) => return Some((stream, Source::of(address.ip()))),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.ready = false,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        log::warn!("cannot accept connections, will try again in {PAUSE:?}: {error}");
                        self.paused_until = Some(now + PAUSE);
                        return None;
                    }
                },
            }
        }
        None
    }
}
