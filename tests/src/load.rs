//! Load: sessions that keep a number of requests in flight at one or several replicas, driven by one thread.
//!
//! A session sends every request to every replica, as clients do, and counts the first answer.

use crate::pipeline::{Meaning, Pipeline};
use crate::raw::RawClient;
use crate::session::wall_clock;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use stablechat_protocol::answer::Answer;
use stablechat_protocol::command::Command;
use stablechat_protocol::frame::Decoded;
use stablechat_protocol::message::ToClient;
use stablechat_transport::{FramedStream, ReadEnd};
use std::io;
use std::time::{Duration, Instant};

/// Sessions under way.
pub struct Load {
    poll: Poll,
    links: Vec<Link>,
    sessions: Vec<Pipeline>,
    /// The commands that each session issues in turn, over and over.
    commands: Vec<Command>,
    /// The number of requests that each session has in flight.
    window: usize,
    scratch: Vec<u8>,
}

/// A connection of a session.
struct Link {
    stream: FramedStream,
    /// The index of its session.
    session: usize,
}

/// The measurements of a time under load.
#[derive(Clone, Debug, Default)]
pub struct LoadResult {
    /// How long it was.
    pub elapsed: Duration,
    /// From the timestamp of each answered request to its first answer, sorted.
    pub latencies: Vec<Duration>,
    /// How often a refusal made a session repeat requests.
    pub repetitions: u64,
}

impl LoadResult {
    /// Requests answered per second.
    pub fn throughput(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that this share of the requests did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * share) as usize).copied().unwrap_or_default()
    }
}

impl Load {
    /// Sessions that issue these commands, at least one, with `window` requests in flight each. Every session has connections of
    /// its own, which have logged in and received nothing since.
    ///
    /// # Errors
    /// The operating system refuses to watch the connections.
    pub fn new(connections: Vec<Vec<RawClient>>, commands: Vec<Command>, window: usize) -> io::Result<Load> {
        let poll = Poll::new()?;
        let sessions: Vec<Pipeline> = connections.iter().map(|_| Pipeline::default()).collect();
        let mut links: Vec<Link> = Vec::new();
        for (session, clients) in connections.into_iter().enumerate() {
            for client in clients {
                let (tls, socket) = client.into_stream()?.into_parts();
                let mut socket = TcpStream::from_std(socket);
                let interest = Interest::READABLE | Interest::WRITABLE;
                poll.registry().register(&mut socket, Token(links.len()), interest)?;
                links.push(Link { stream: FramedStream::new(socket, tls.into(), usize::MAX), session });
            }
        }
        Ok(Load { poll, links, sessions, commands, window, scratch: vec![0; 256 * 1024] })
    }

    /// Keeps the windows full for a time, and then waits until everything is answered.
    ///
    /// # Errors
    /// A connection broke.
    pub fn run(&mut self, time: Duration) -> io::Result<LoadResult> {
        let start = Instant::now();
        let mut measured = LoadResult::default();
        let before: u64 = self.sessions.iter().map(Pipeline::repetitions).sum();
        let mut events = Events::with_capacity(1024);
        loop {
            let elapsed = start.elapsed();
            if elapsed < time {
                self.fill();
                measured.elapsed = elapsed;
            } else if self.sessions.iter().all(|session| session.in_flight() == 0) {
                break;
            }
            for link in 0..self.links.len() {
                self.flush(link)?;
            }
            self.poll.poll(&mut events, Some(Duration::from_millis(10)))?;
            let readable: Vec<usize> = events.iter().map(|event| event.token().0).collect();
            for link in readable {
                self.read(link, &mut measured.latencies)?;
            }
            measured.elapsed = start.elapsed();
        }
        measured.repetitions = self.sessions.iter().map(Pipeline::repetitions).sum::<u64>() - before;
        measured.latencies.sort_unstable();
        Ok(measured)
    }

    /// Issues requests until the window of every session is full.
    fn fill(&mut self) {
        for index in 0..self.sessions.len() {
            let mut frames = Vec::new();
            while self.sessions[index].in_flight() < self.window {
                let next = self.sessions[index].session().sequence as usize % self.commands.len();
                self.sessions[index].issue(self.commands[next].clone(), &mut frames);
            }
            self.queue(index, &frames);
        }
    }

    /// Queues frames on all connections of a session.
    fn queue(&mut self, session: usize, frames: &[u8]) {
        let links = self.links.iter_mut().filter(|link| link.session == session);
        links.for_each(|link| link.stream.send_frame(frames).expect("as much as there is may wait"));
    }

    /// Writes as much as the connection's socket takes.
    fn flush(&mut self, link: usize) -> io::Result<()> {
        self.links[link].stream.flush()
    }

    /// Reads everything that has arrived on a connection.
    fn read(&mut self, link: usize, latencies: &mut Vec<Duration>) -> io::Result<()> {
        loop {
            let Link { stream, session } = &mut self.links[link];
            let session = *session;
            let end = stream.read(&mut self.scratch).end;
            let now = wall_clock();
            while let Decoded::Frame(message) =
                self.links[link].stream.next_message::<ToClient>().map_err(io::Error::other)?
            {
                match self.sessions[session].on_message(&message) {
                    Meaning::Settled(settled) => {
                        assert_eq!(settled.answer, Answer::Done, "the commands of a load are never rejected");
                        latencies.push(now.since(settled.issued));
                    }
                    Meaning::Repeat(frames) => self.queue(session, &frames),
                    Meaning::Nothing => {}
                }
            }
            match end {
                ReadEnd::Drained => return Ok(()),
                ReadEnd::More => {}
                ReadEnd::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
                ReadEnd::Failed(fault) => return Err(io::Error::other(fault.to_string())),
            }
        }
    }
}
