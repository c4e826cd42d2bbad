//! Monitoring: an HTTP listener of its own, and short connections with one request each.
//!
//! The applier writes the report when it is asked for one, so an answer shows that both threads are at work. An applier that does
//! not answer in time is either busy with one long task or hangs. The store's count of writes tells the two apart.
//!
//! This is plain HTTP without authentication: every process that reaches the socket may read.

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

/// The most connections. Further ones wait in the listening socket.
pub const HTTP_CONNECTIONS_MAX: usize = 16;
/// How long each step may take: reading the request, waiting for the applier, writing the answer. Prometheus gives up after 10 s
/// by default.
const STEP_LIMIT: Duration = Duration::from_secs(5);

/// The connections of monitoring systems.
pub struct Monitor {
    listener: Listener,
    connections: BTreeMap<ConnectionId, HttpConnection>,
    /// Whether the applier was asked for a report and has not answered.
    has_asked: bool,
    /// How many batches the store has written.
    writes: Arc<AtomicU64>,
}

/// A connection of a monitoring system.
struct HttpConnection {
    stream: ByteStream,
    step: Step,
    /// When the step has taken too long.
    until: Instant,
    /// Whether the socket may have bytes, or take some.
    is_ready: bool,
}

/// How far a connection is.
enum Step {
    /// This much of the request has come.
    ReadingRequest(Vec<u8>),
    /// The applier is to answer. `writes` is what the store had counted when the waiting began.
    WaitingForApplier { request: HttpRequest, writes: u64 },
    /// The answer is being written, and our direction closed after it.
    WritingAnswer,
    /// The answer is written. What still comes is read to no use, since closing before that would take the answer back.
    Lingering,
}

impl Monitor {
    /// A monitor without connections. `writes` counts the batches that the store has written.
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

    /// Notes that a connection is ready. Returns whether it is one of the monitor's.
    pub fn on_event(&mut self, id: ConnectionId) -> bool {
        self.connections.get_mut(&id).map(|connection| connection.is_ready = true).is_some()
    }

    /// When [`Monitor::step`] has something to do although no socket is ready.
    pub fn deadline(&self) -> Option<Instant> {
        let accepting = self.listener.retry_at().filter(|_| self.connections.len() < HTTP_CONNECTIONS_MAX);
        self.connections.values().map(|connection| connection.until).chain(accepting).min()
    }

    /// Goes on with all connections as far as possible. Returns whether the applier is to be asked for a report.
    pub fn step(&mut self, registrar: &mut Registrar, now: Instant) -> bool {
        let writes = self.writes.load(Ordering::Relaxed);
        self.connections.retain(|_, connection| {
            let is_overdue = now >= connection.until;
            (!is_overdue || connection.answer_without_applier(writes, now))
                && (!connection.is_ready || connection.go_on(writes, now))
        });
        while self.connections.len() < HTTP_CONNECTIONS_MAX
            && let Some((mut stream, _)) = self.listener.accept(now)
        {
            match registrar.register(&mut stream) {
                Ok(id) => drop(self.connections.insert(id, HttpConnection::new(stream, now))),
                Err(error) => log::warn!("cannot take in a connection for monitoring, which is closed: {error}"),
            }
        }
        let is_wanted =
            self.connections.values().any(|connection| matches!(connection.step, Step::WaitingForApplier { .. }));
        is_wanted && !std::mem::replace(&mut self.has_asked, true)
    }

    /// The applier has answered: one report serves all connections that wait.
    pub fn on_result(&mut self, report: &ScrapeReport, now: Instant) {
        self.has_asked = false;
        for connection in self.connections.values_mut() {
            let Step::WaitingForApplier { request, .. } = connection.step else { continue };
            let (status, body) = match (request.page, &report.unready) {
                (Page::Metrics, _) => (HttpStatus::Ok, report.metrics.clone()),
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
        let stream = ByteStream::unencrypted(stream);
        HttpConnection { stream, step: Step::ReadingRequest(Vec::new()), until: now + STEP_LIMIT, is_ready: true }
    }

    /// Begins to write an answer.
    fn reply(&mut self, bytes: &[u8], now: Instant) {
        self.stream.queue(bytes);
        self.stream.finish();
        (self.step, self.until, self.is_ready) = (Step::WritingAnswer, now + STEP_LIMIT, true);
    }

    /// Answers without the applier if that is what took too long. Returns whether it was; otherwise the connection is dropped.
    fn answer_without_applier(&mut self, writes: u64, now: Instant) -> bool {
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
            && !self.read_request(writes, now)
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

    /// Reads the request as far as it has come. Returns whether the connection is still of use.
    fn read_request(&mut self, writes: u64, now: Instant) -> bool {
        let Step::ReadingRequest(head) = &mut self.step else { return true };
        let read = self.stream.read(&mut [0; HEAD_MAX], |piece| {
            let room = HEAD_MAX - head.len();
            head.extend_from_slice(&piece[..piece.len().min(room)]);
        });
        match parse(head) {
            Ok(None) => return !read.end.is_over(),
            Ok(Some(request)) => {
                (self.step, self.until) = (Step::WaitingForApplier { request, writes }, now + STEP_LIMIT)
            }
            Err((status, why)) => self.reply(&refusal(status, why), now),
        }
        true
    }
}
