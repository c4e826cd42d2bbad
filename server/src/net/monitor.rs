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
use stablechat_transport::{ByteStream, ReadEnd};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The most connections. Further ones wait until there is room.
pub const HTTP_CONNECTIONS_MAX: usize = 16;
/// How long each step may take: until the request is there, until the applier answers, until the answer is taken. Less than
/// Prometheus waits by default.
const PATIENCE: Duration = Duration::from_secs(5);

/// The connections of those who watch.
pub struct Monitor {
    listener: Listener,
    connections: BTreeMap<ConnectionId, HttpConnection>,
    /// Whether the applier has been asked and has not answered.
    has_asked: bool,
    /// How often the store has written something.
    writes: Arc<AtomicU64>,
}

/// A connection.
struct HttpConnection {
    stream: ByteStream,
    step: Step,
    /// When it is dropped, or told what there is without the applier.
    until: Instant,
    /// Whether something may have come, or can be sent.
    is_ready: bool,
}

/// How far a connection is.
enum Step {
    /// This much of the request has come.
    ReadingRequest(Vec<u8>),
    /// The applier is to answer. Nothing has been heard of it since the store had written so often.
    WaitingForApplier { request: HttpRequest, writes: u64 },
    /// The answer is being written, and our direction closed after it.
    WritingAnswer,
    /// All is sent; whatever still comes is read, since closing before that would take the answer back.
    Lingering,
}

impl Monitor {
    /// Nobody watches. `writes` is how often the store has written something.
    pub fn new(listener: Listener, writes: Arc<AtomicU64>) -> Monitor {
        Monitor { listener, connections: BTreeMap::new(), has_asked: false, writes }
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
        self.connections.get_mut(&id).map(|connection| connection.is_ready = true).is_some()
    }

    /// When there is something to do without having been told to.
    pub fn deadline(&self) -> Option<Instant> {
        let accepting = self.listener.retry_at().filter(|_| self.connections.len() < HTTP_CONNECTIONS_MAX);
        self.connections.values().map(|connection| connection.until).chain(accepting).min()
    }

    /// Goes on with all connections as far as that is possible. Returns whether the applier has to be asked.
    pub fn step(&mut self, registrar: &mut Registrar, now: Instant) -> bool {
        let writes = self.writes.load(Ordering::Relaxed);
        self.connections.retain(|_, connection| {
            let is_overdue = now >= connection.until;
            (!is_overdue || connection.go_on_without_applier(writes, now))
                && (!connection.is_ready || connection.go_on(writes, now))
        });
        while self.connections.len() < HTTP_CONNECTIONS_MAX
            && let Some(mut stream) = self.listener.accept(now)
        {
            match registrar.register(&mut stream) {
                Ok(id) => drop(self.connections.insert(id, HttpConnection::new(stream, now))),
                Err(error) => log::warn!("cannot take in a connection for metrics: {error}"),
            }
        }
        let is_wanted =
            self.connections.values().any(|connection| matches!(connection.step, Step::WaitingForApplier { .. }));
        is_wanted && !std::mem::replace(&mut self.has_asked, true)
    }

    /// The applier has answered.
    pub fn on_result(&mut self, inspection: &ScrapeReport, now: Instant) {
        self.has_asked = false;
        for connection in self.connections.values_mut() {
            let Step::WaitingForApplier { request, .. } = connection.step else { continue };
            let (status, body) = match (request.page, &inspection.unready) {
                (Page::Metrics, _) => (HttpStatus::Ok, inspection.metrics.clone()),
                (Page::Health, _) => (HttpStatus::Ok, "alive\n".into()),
                (Page::Readiness, None) => (HttpStatus::Ok, "serving\n".into()),
                (Page::Readiness, Some(why)) => (HttpStatus::Unavailable, format!("{why}\n")),
            };
            connection.reply(&answer(request, status, &body), now);
        }
    }
}

impl HttpConnection {
    fn new(stream: TcpStream, now: Instant) -> HttpConnection {
        let stream = ByteStream::new(stream);
        HttpConnection { stream, step: Step::ReadingRequest(Vec::new()), until: now + PATIENCE, is_ready: true }
    }

    /// Begins to send an answer.
    fn reply(&mut self, bytes: &[u8], now: Instant) {
        self.stream.queue(bytes);
        self.stream.finish();
        (self.step, self.until, self.is_ready) = (Step::WritingAnswer, now + PATIENCE, true);
    }

    /// Says what can be said when the applier has taken too long. Returns whether that is what has taken too long.
    fn go_on_without_applier(&mut self, writes: u64, now: Instant) -> bool {
        let Step::WaitingForApplier { request, writes: before } = self.step else { return false };
        let (status, body) = match request.page == Page::Health && writes != before {
            true => (HttpStatus::Ok, "alive, and busy\n"),
            false => (HttpStatus::Unavailable, "the applier does not answer\n"),
        };
        self.reply(&answer(request, status, body), now);
        true
    }

    /// Reads and writes as far as the socket goes. Returns whether the connection is still of use.
    fn go_on(&mut self, writes: u64, now: Instant) -> bool {
        self.is_ready = false;
        if let Step::ReadingRequest(_) = self.step
            && !self.hear(writes, now)
        {
            return false;
        }
        if let Step::WritingAnswer = self.step {
            if self.stream.flush().is_err() {
                return false;
            }
            if self.stream.unwritten() > 0 {
                return true;
            }
            self.step = Step::Lingering;
        }
        match self.step {
            // What still comes is read to no use, since closing the socket before would take back the answer.
            Step::Lingering => self.stream.read(&mut [0; HEAD_MAX], |_| {}).end == ReadEnd::Drained,
            _ => true,
        }
    }

    /// Reads what has come of the request. Returns whether the connection is still of use.
    fn hear(&mut self, writes: u64, now: Instant) -> bool {
        let Step::ReadingRequest(head) = &mut self.step else { return true };
        let read = self.stream.read(&mut [0; HEAD_MAX], |piece| {
            let room = HEAD_MAX - head.len();
            head.extend_from_slice(&piece[..piece.len().min(room)]);
        });
        match parse(head) {
            Ok(None) => return !read.end.is_over(),
            Ok(Some(request)) => {
                (self.step, self.until) = (Step::WaitingForApplier { request, writes }, now + PATIENCE)
            }
            Err((status, why)) => self.reply(&refusal(status, why), now),
        }
        true
    }
}
