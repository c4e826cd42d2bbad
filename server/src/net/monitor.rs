//! Who watches the replica: a listening socket for HTTP of its own, and short connections with one request each.
//!
//! What there is to see, the applier says when it is asked: so an answer shows that both threads are at work. One that does
//! not answer in time has a thing to do that takes long, or hangs. Which of the two, the store's count of what it has written
//! tells.
//!
//! It is plain HTTP, and everybody who reaches the socket may read.

use super::http::{HEAD_MAX, HttpRequest, HttpStatus, Page, answer, parse, refusal};
use super::registrar::Registrar;
use super::{Listener, ScrapeReport};
use crate::replica::ConnectionId;
use mio::net::{TcpListener, TcpStream};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The most connections. Further ones wait until there is room.
pub const VISITORS_MAX: usize = 16;
/// How long each step may take: until the request is there, until the applier answers, until the answer is taken. Less than
/// Prometheus waits by default.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often something may be read that comes after a request.
const DISCARDS_MAX: usize = 16;

/// The connections of those who watch.
pub struct Monitor {
    listener: Listener,
    visitors: BTreeMap<ConnectionId, Visitor>,
    /// Whether the applier has been asked and has not answered.
    has_asked: bool,
    /// How often the store has written something.
    writes: Arc<AtomicU64>,
}

/// A connection.
struct Visitor {
    stream: TcpStream,
    step: Step,
    /// When it is dropped, or told what there is without the applier.
    until: Instant,
    /// Whether something may have come, or can be sent.
    is_ready: bool,
}

/// How far a connection is.
enum Step {
    /// This much of the request has come.
    Asks(Vec<u8>),
    /// The applier is to answer. Nothing has been heard of it since the store had written so often.
    Waits { wish: HttpRequest, writes: u64 },
    /// This is to be sent.
    Takes(Vec<u8>),
    /// All is sent; whatever still comes is read, since closing before that would take the answer back.
    Leaves,
}

impl Monitor {
    /// Nobody watches. `writes` is how often the store has written something.
    pub fn new(listener: Listener, writes: Arc<AtomicU64>) -> Monitor {
        Monitor { listener, visitors: BTreeMap::new(), has_asked: false, writes }
    }

    /// The listening socket, for the poll to watch.
    pub fn source(&mut self) -> &mut TcpListener {
        self.listener.source()
    }

    /// There may be connections to accept.
    pub fn set_ready(&mut self) {
        self.listener.set_ready();
    }

    /// Notes that something can be done on a connection. Returns whether it is one of those who watch.
    pub fn on_event(&mut self, id: ConnectionId) -> bool {
        self.visitors.get_mut(&id).map(|visitor| visitor.is_ready = true).is_some()
    }

    /// When there is something to do without having been told to.
    pub fn deadline(&self) -> Option<Instant> {
        let accepting = self.listener.retry_at().filter(|_| self.visitors.len() < VISITORS_MAX);
        self.visitors.values().map(|visitor| visitor.until).chain(accepting).min()
    }

    /// Goes on with all connections as far as that is possible. Returns whether the applier has to be asked.
    pub fn step(&mut self, registrar: &mut Registrar, now: Instant) -> bool {
        let writes = self.writes.load(Ordering::Relaxed);
        self.visitors.retain(|_, visitor| {
            let is_overdue = now >= visitor.until;
            (!is_overdue || visitor.go_on_without_applier(writes, now))
                && (!visitor.is_ready || visitor.go_on(writes, now))
        });
        while self.visitors.len() < VISITORS_MAX
            && let Some(mut stream) = self.listener.accept(now)
        {
            match registrar.register(&mut stream) {
                Ok(id) => drop(self.visitors.insert(id, Visitor::new(stream, now))),
                Err(error) => log::warn!("cannot take in a connection for metrics: {error}"),
            }
        }
        let is_wanted = self.visitors.values().any(|visitor| matches!(visitor.step, Step::Waits { .. }));
        is_wanted && !std::mem::replace(&mut self.has_asked, true)
    }

    /// The applier has answered.
    pub fn on_inspected(&mut self, inspection: &ScrapeReport, now: Instant) {
        self.has_asked = false;
        for visitor in self.visitors.values_mut() {
            let Step::Waits { wish, .. } = visitor.step else { continue };
            let (status, body) = match (wish.page, &inspection.unready) {
                (Page::Metrics, _) => (HttpStatus::Ok, inspection.metrics.clone()),
                (Page::Health, _) => (HttpStatus::Ok, "alive\n".into()),
                (Page::Readiness, None) => (HttpStatus::Ok, "serving\n".into()),
                (Page::Readiness, Some(why)) => (HttpStatus::Unavailable, format!("{why}\n")),
            };
            visitor.reply(answer(wish, status, &body), now);
        }
    }
}

impl Visitor {
    fn new(stream: TcpStream, now: Instant) -> Visitor {
        Visitor { stream, step: Step::Asks(Vec::new()), until: now + PATIENCE, is_ready: true }
    }

    /// Begins to send an answer.
    fn reply(&mut self, bytes: Vec<u8>, now: Instant) {
        (self.step, self.until, self.is_ready) = (Step::Takes(bytes), now + PATIENCE, true);
    }

    /// Says what can be said when the applier has taken too long. Returns whether that is what has taken too long.
    fn go_on_without_applier(&mut self, writes: u64, now: Instant) -> bool {
        let Step::Waits { wish, writes: before } = self.step else { return false };
        let (status, body) = match wish.page == Page::Health && writes != before {
            true => (HttpStatus::Ok, "alive, and busy\n"),
            false => (HttpStatus::Unavailable, "the applier does not answer\n"),
        };
        self.reply(answer(wish, status, body), now);
        true
    }

    /// Reads and sends what there is. Returns whether the connection is still of use.
    fn go_on(&mut self, writes: u64, now: Instant) -> bool {
        self.is_ready = false;
        if let Step::Asks(_) = self.step
            && !self.hear(writes, now)
        {
            return false;
        }
        if let Step::Takes(bytes) = &mut self.step {
            match send(&mut self.stream, bytes) {
                Ok(()) if !bytes.is_empty() => return true,
                Ok(()) if self.stream.shutdown(std::net::Shutdown::Write).is_ok() => self.step = Step::Leaves,
                Ok(()) | Err(_) => return false,
            }
        }
        match self.step {
            Step::Leaves => discard(&mut self.stream),
            _ => true,
        }
    }

    /// Reads what has come of the request. Returns whether the connection is still of use.
    fn hear(&mut self, writes: u64, now: Instant) -> bool {
        let Step::Asks(head) = &mut self.step else { return true };
        let room = (HEAD_MAX - head.len()) as u64;
        let is_open = match (&self.stream).take(room).read_to_end(head) {
            Ok(length) => length as u64 == room,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        match parse(head) {
            Ok(None) => return is_open,
            Ok(Some(wish)) => (self.step, self.until) = (Step::Waits { wish, writes }, now + PATIENCE),
            Err((status, why)) => self.reply(refusal(status, why), now),
        }
        true
    }
}

/// Sends what the socket takes, and leaves the rest.
fn send(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(length) => drop(bytes.drain(..length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what has come, to no use. Returns whether more can come and is to be waited for.
fn discard(stream: &mut TcpStream) -> bool {
    let mut scratch = [0; HEAD_MAX];
    for _ in 0..DISCARDS_MAX {
        match stream.read(&mut scratch) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    false
}
