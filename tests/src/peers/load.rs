//! Load on a peer: connections that keep a number of requests in flight together, driven by one thread.

use super::{Dialect, Peer};
use crate::load::LoadResult;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

/// The most connections, where one can have several requests in flight.
const CONNECTIONS_MAX: usize = 16;
/// How many bytes one system call reads.
const READ: usize = 64 * 1024;

/// Keeps so many requests in flight for a time, and then waits until everything is answered.
///
/// # Errors
/// A connection broke, or a request was refused.
pub fn run(peer: &dyn Peer, in_flight: usize, text: &str, time: Duration) -> io::Result<LoadResult> {
    let connections = if peer.window() == 1 { in_flight } else { connections(in_flight) };
    let mut poll = Poll::new()?;
    let mut links = (0..connections)
        .map(|number| Link::new(peer, number, in_flight / connections, &poll))
        .collect::<io::Result<Vec<Link>>>()?;
    let mut events = Events::with_capacity(1024);
    let (start, mut scratch, mut measured) = (Instant::now(), vec![0; READ], LoadResult::default());
    loop {
        let elapsed = start.elapsed();
        if elapsed < time {
            links.iter_mut().for_each(|link| link.fill(text));
        } else if links.iter().all(|link| link.waiting.is_empty()) {
            break;
        }
        links.iter_mut().try_for_each(Link::flush)?;
        poll.poll(&mut events, Some(Duration::from_millis(10)))?;
        for event in &events {
            links[event.token().0].read(&mut scratch, &mut measured.latencies)?;
        }
        measured.elapsed = start.elapsed();
    }
    measured.latencies.sort_unstable();
    Ok(measured)
}

/// On how many connections so many requests are in flight, at least one: as many on each.
pub(super) fn connections(in_flight: usize) -> usize {
    (1..=CONNECTIONS_MAX).rev().find(|count| in_flight.is_multiple_of(*count)).unwrap_or(1)
}

/// A connection.
struct Link {
    socket: TcpStream,
    dialect: Box<dyn Dialect>,
    /// How many requests it has in flight.
    window: usize,
    /// When each request without an answer was issued.
    waiting: BTreeMap<u64, Instant>,
    /// The number of the next request.
    next: u64,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

impl Link {
    fn new(peer: &dyn Peer, number: usize, window: usize, poll: &Poll) -> io::Result<Link> {
        let socket = std::net::TcpStream::connect(peer.address())?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(socket);
        poll.registry().register(&mut socket, Token(number), Interest::READABLE | Interest::WRITABLE)?;
        let dialect = peer.dialect(number);
        let outgoing = dialect.greeting();
        let (waiting, incoming) = Default::default();
        Ok(Link { socket, dialect, window, waiting, next: 0, incoming, outgoing })
    }

    /// Issues requests until the window is full.
    fn fill(&mut self, text: &str) {
        while self.waiting.len() < self.window {
            self.dialect.request(self.next, text, &mut self.outgoing);
            self.waiting.insert(self.next, Instant::now());
            self.next += 1;
        }
    }

    /// Writes as much as the socket takes.
    fn flush(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            match self.socket.write(&self.outgoing) {
                Ok(written) => drop(self.outgoing.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads everything that has arrived, and notes how long the answered requests took.
    fn read(&mut self, scratch: &mut [u8], latencies: &mut Vec<Duration>) -> io::Result<()> {
        loop {
            match self.socket.read(scratch) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.incoming.extend(&scratch[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let mut answered = Vec::new();
        let taken = self.dialect.take(&self.incoming, &mut self.outgoing, &mut answered)?;
        self.incoming.drain(..taken);
        let issued = answered.into_iter().filter_map(|number| self.waiting.remove(&number));
        latencies.extend(issued.map(|issued| issued.elapsed()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::connections;

    #[test]
    fn each_connection_has_as_many_requests_in_flight() {
        assert_eq!([1, 16, 20, 64, 17].map(connections), [1, 16, 10, 16, 1]);
    }
}
