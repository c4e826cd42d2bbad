//! Dialing the replicas that the cluster file names after us, again and again until they answer.
//!
//! Nothing here blocks. Connecting is left to the poll; and since asking what a host name stands for can take as long as its
//! servers please, it is done in a thread of its own, once per attempt, whose answer wakes the loop. An address that is
//! written as a number needs no thread.

use super::ReplicaIdentity;
use super::channel::Signals;
use super::registrar::Registrar;
use crate::replica::{ConnectionId, PeerId};
use crossbeam_channel::{Receiver, Sender};
use mio::net::TcpStream;
use stablechat_protocol::cluster::REPLICAS_MAX;
use stablechat_protocol::name::ReplicaName;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest wait after the first failure; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// The longest wait between two attempts. Short, since a replica that starts waits to be dialed before it goes on alone.
const BACKOFF_MAX: Duration = Duration::from_millis(150);
/// How long connecting may take.
const CONNECT_MAX: Duration = Duration::from_millis(300);

/// What a thread found out: the addresses that a peer's host name stands for.
type Resolved = (PeerId, io::Result<Vec<SocketAddr>>);

/// The replicas to be dialed, and how far each is.
pub struct Dialer {
    dials: BTreeMap<PeerId, Dial>,
    /// Takes the answers of the threads that resolve names. Each peer has at most one, so there is room.
    report: Sender<Resolved>,
    resolved: Receiver<Resolved>,
    signals: Arc<Signals>,
}

/// One replica to be dialed.
struct Dial {
    name: ReplicaName,
    /// `HOST:PORT`.
    address: String,
    state: State,
    /// What the address stands for and has not been tried in this attempt.
    untried: VecDeque<SocketAddr>,
    backoff: Backoff,
    /// Whether it has been logged that it cannot be reached.
    failing: bool,
    /// The last reason for which it refused us, as logged.
    refusal: Option<String>,
}

/// How far an attempt is.
enum State {
    /// It begins then.
    Waiting { until: Instant },
    /// A thread finds out what the address stands for.
    Resolving,
    /// The operating system connects; by then it is given up.
    Connecting { id: ConnectionId, stream: TcpStream, until: Instant },
    /// There is a connection; the next attempt begins after it is lost.
    Connected,
}

impl Dialer {
    /// Will dial the replicas after us, at once.
    pub fn new(us: &ReplicaIdentity, signals: Arc<Signals>, now: Instant) -> Dialer {
        let (report, resolved) = crossbeam_channel::bounded(REPLICAS_MAX);
        let later = us.peers().filter(|(peer, _)| *peer > us.place);
        let dials = later.map(|(peer, entry)| {
            let dial = Dial {
                name: entry.name.clone(),
                address: entry.address.clone(),
                state: State::Waiting { until: now },
                untried: VecDeque::new(),
                backoff: Backoff::default(),
                failing: false,
                refusal: None,
            };
            (peer, dial)
        });
        Dialer { dials: dials.collect(), report, resolved, signals }
    }

    /// When there is something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        let deadline = |dial: &Dial| match dial.state {
            State::Waiting { until } | State::Connecting { until, .. } => Some(until),
            State::Resolving | State::Connected => None,
        };
        self.dials.values().filter_map(deadline).min()
    }

    /// Begins the attempts that are due, and gives up those that take too long.
    pub fn step(&mut self, registrar: &mut Registrar, now: Instant) {
        for (peer, answer) in self.resolved.try_iter() {
            let Some(dial) = self.dials.get_mut(&peer) else { continue };
            match answer {
                Ok(addresses) => dial.connect(addresses.into(), registrar, now),
                Err(error) => dial.fail(&error, now),
            }
        }
        for (peer, dial) in &mut self.dials {
            match dial.state {
                State::Connecting { until, .. } if now >= until => {
                    dial.fail(&format_args!("no answer within {CONNECT_MAX:?}"), now);
                }
                State::Waiting { until } if now >= until => {
                    let untried = std::mem::take(&mut dial.untried);
                    if !untried.is_empty() {
                        dial.connect(untried, registrar, now);
                    } else if let Ok(address) = dial.address.parse() {
                        dial.connect([address].into(), registrar, now);
                    } else {
                        dial.resolve(*peer, self.report.clone(), Arc::clone(&self.signals), now);
                    }
                }
                _ => {}
            }
        }
    }

    /// Something happened to a connection that may be one of ours. Returns the peer and the socket when it now stands.
    pub fn take_connected(&mut self, id: ConnectionId, now: Instant) -> Option<(PeerId, TcpStream)> {
        let is_this = |dial: &Dial| matches!(dial.state, State::Connecting { id: ours, .. } if ours == id);
        let (peer, dial) = self.dials.iter_mut().find(|(_, dial)| is_this(dial))?;
        let State::Connecting { stream, .. } = &dial.state else { return None };
        match is_connected(stream) {
            Ok(false) => None,
            Ok(true) => match std::mem::replace(&mut dial.state, State::Connected) {
                State::Connecting { stream, .. } => Some((*peer, stream)),
                _ => None,
            },
            Err(error) => {
                dial.fail(&error, now);
                None
            }
        }
    }

    /// The peer has greeted us.
    pub fn on_greeted(&mut self, peer: PeerId) {
        if let Some(dial) = self.dials.get_mut(&peer) {
            dial.backoff = Backoff::default();
            dial.failing = false;
            dial.refusal = None;
        }
    }

    /// The peer does not want us: there is no hurry to ask again.
    pub fn on_refused(&mut self, peer: PeerId, reason: String, now: Instant) {
        let Some(dial) = self.dials.get_mut(&peer) else { return };
        if dial.refusal.as_ref() != Some(&reason) {
            log::warn!("replica {} refuses us: {reason}", dial.name);
            dial.refusal = Some(reason);
        }
        dial.backoff = Backoff::longest();
        dial.wait(now);
    }

    /// The connection came to nothing before the peer had greeted us.
    pub fn on_failed(&mut self, peer: PeerId, why: &dyn Display, now: Instant) {
        if let Some(dial) = self.dials.get_mut(&peer) {
            dial.fail(why, now);
        }
    }

    /// The connection is lost, if it was one of ours.
    pub fn on_lost(&mut self, peer: PeerId, now: Instant) {
        if let Some(dial) = self.dials.get_mut(&peer) {
            dial.wait(now);
        }
    }
}

impl Dial {
    /// Has a thread find out what the address stands for.
    fn resolve(&mut self, peer: PeerId, report: Sender<Resolved>, signals: Arc<Signals>, now: Instant) {
        let address = self.address.clone();
        let thread = std::thread::Builder::new().name("resolver".into()).spawn(move || {
            let addresses = address.to_socket_addrs().map(Iterator::collect);
            if report.send((peer, addresses)).is_ok() {
                signals.wake();
            }
        });
        match thread {
            Ok(_) => self.state = State::Resolving,
            Err(error) => self.fail(&error, now),
        }
    }

    /// Connects to the first of these addresses.
    fn connect(&mut self, mut addresses: VecDeque<SocketAddr>, registrar: &mut Registrar, now: Instant) {
        let Some(address) = addresses.pop_front() else { return self.fail(&"its address stands for nothing", now) };
        self.untried = addresses;
        let connecting =
            TcpStream::connect(address).and_then(|mut stream| Ok((registrar.register(&mut stream)?, stream)));
        match connecting {
            Ok((id, stream)) => self.state = State::Connecting { id, stream, until: now + CONNECT_MAX },
            Err(error) => self.fail(&error, now),
        }
    }

    /// Ends an attempt that came to nothing. It goes on at once with the next address, if there is one.
    fn fail(&mut self, why: &dyn Display, now: Instant) {
        if !self.untried.is_empty() {
            self.state = State::Waiting { until: now };
            return;
        }
        if !self.failing {
            log::info!("cannot reach replica {} at {}, will go on trying: {why}", self.name, self.address);
            self.failing = true;
        }
        self.wait(now);
    }

    /// Lets some time pass until the next attempt.
    fn wait(&mut self, now: Instant) {
        let mut random = [0];
        // Without a random number the wait is the shortest, which is as good as any.
        let jitter = getrandom::fill(&mut random).map_or(0, |()| random[0]);
        self.untried.clear();
        self.state = State::Waiting { until: now + self.backoff.next(jitter) };
    }
}

/// Whether connecting has succeeded; when not, it is still under way.
fn is_connected(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        // A socket that dials a port of its own machine on which nobody listens may be given that very port, and then
        // meets itself.
        Ok(address) if stream.local_addr()? == address => Err(io::ErrorKind::ConnectionRefused.into()),
        Ok(_) => stream.set_nodelay(true).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// How long to wait after failures: longer after each, and never exactly as long as others do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Backoff {
    /// How many failures there were in a row.
    failures: u32,
}

impl Backoff {
    /// As after many failures.
    fn longest() -> Backoff {
        Backoff { failures: u32::MAX }
    }

    /// How long to wait after one more failure: between half of the longest wait, for the least `jitter`, and all of it.
    fn next(&mut self, jitter: u8) -> Duration {
        let doubled = 2u32.checked_pow(self.failures).and_then(|factor| BACKOFF_FIRST.checked_mul(factor));
        self.failures = self.failures.saturating_add(1);
        let longest = doubled.unwrap_or(BACKOFF_MAX).min(BACKOFF_MAX);
        longest / 2 + longest / 2 * u32::from(jitter) / u32::from(u8::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits =
            |mut backoff: Backoff, jitter| -> Vec<u128> { (0..6).map(|_| backoff.next(jitter).as_millis()).collect() };
        assert_eq!(waits(Backoff::default(), 0), [25, 50, 75, 75, 75, 75]);
        assert_eq!(waits(Backoff::default(), u8::MAX), [50, 100, 150, 150, 150, 150]);
        assert_eq!(waits(Backoff::longest(), u8::MAX), [150; 6]);
        assert_eq!(Backoff { failures: 1000 }.next(u8::MAX), BACKOFF_MAX);
    }
}
