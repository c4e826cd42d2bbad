//! Making a connection to one address, again and again until it stands.

use crate::resolver::Resolver;
use mio::net::TcpStream;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Add;
use std::time::Duration;

/// How a [`Dial`] spaces its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pacing {
    /// The longest wait after the first failure. It doubles with each failure in a row.
    pub first_wait: Duration,
    /// The longest wait between two attempts.
    pub longest_wait: Duration,
    /// How long connecting to one address may take.
    pub connect_limit: Duration,
}

impl Pacing {
    /// How long to wait after this many failures in a row: between half of the longest wait, at a `jitter` of 0, and all of it, at
    /// 255. The jitter keeps many clients from returning at the same moment.
    fn wait(&self, failures: u32, jitter: u8) -> Duration {
        let doubled = 2u32.checked_pow(failures).and_then(|factor| self.first_wait.checked_mul(factor));
        let longest = doubled.unwrap_or(self.longest_wait).min(self.longest_wait);
        longest / 2 + longest / 2 * u32::from(jitter) / u32::from(u8::MAX)
    }
}

/// Registers a new socket with the caller's poll, for reading and writing.
pub type Register<'a> = &'a mut dyn FnMut(&mut TcpStream) -> io::Result<()>;

/// The making of a connection to one `HOST:PORT`. An attempt looks up the name, unless the host is a number, and then tries each
/// address until one connects.
///
/// `T` is a reading of the caller's monotonic clock. A method that returns an error has ended an attempt, for the reason in the
/// error, and has scheduled the next one.
#[derive(Debug)]
pub struct Dial<T> {
    /// Tells this dial's lookups from those of others.
    number: usize,
    address: String,
    pacing: Pacing,
    /// Addresses that every attempt tries as well.
    also: Vec<SocketAddr>,
    state: State<T>,
    /// Addresses from the last lookup that were not tried yet.
    untried: VecDeque<SocketAddr>,
    /// How many attempts in a row have failed.
    failures: u32,
    /// Whether each address that was tried in this attempt has refused the connection.
    are_all_refused: bool,
    /// Whether the last attempt has failed because each address refused the connection.
    is_refused: bool,
}

#[derive(Debug)]
enum State<T> {
    /// The next attempt, or the next address of this one, begins then.
    Waiting { until: T },
    /// A thread looks up the name.
    Resolving,
    /// The operating system connects. Given up at `until`.
    Connecting { socket: TcpStream, until: T },
    /// The caller has the connection, and says when the next attempt is wanted.
    Connected,
}

impl<T: Copy + Ord + Add<Duration, Output = T>> Dial<T> {
    /// A dial that begins its first attempt at `now`. `number` is different for each dial that shares a [`Resolver`].
    pub fn new(number: usize, address: String, pacing: Pacing, now: T) -> Dial<T> {
        let state = State::Waiting { until: now };
        Dial {
            number,
            address,
            pacing,
            also: Vec::new(),
            state,
            untried: VecDeque::new(),
            failures: 0,
            are_all_refused: true,
            is_refused: false,
        }
    }

    /// The same with addresses that every attempt tries beside those of the name.
    pub fn with_also(mut self, addresses: Vec<SocketAddr>) -> Dial<T> {
        self.also = addresses;
        self
    }

    /// Whether a socket of this dial waits to be connected, and [`Dial::on_ready`] is to be called when it is ready.
    pub fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting { .. })
    }

    /// Whether the last attempt has failed because nobody listens: each address has refused the connection.
    pub fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// When [`Dial::step`] will have something to do.
    pub fn deadline(&self) -> Option<T> {
        match self.state {
            State::Waiting { until } | State::Connecting { until, .. } => Some(until),
            State::Resolving | State::Connected => None,
        }
    }

    /// Begins the next attempt if it is due, or gives up on an address that takes too long.
    ///
    /// # Errors
    /// The attempt has failed.
    pub fn step(&mut self, now: T, resolver: &Resolver, register: Register) -> Result<(), String> {
        match self.state {
            State::Connecting { until, .. } if now >= until => {
                let limit = self.pacing.connect_limit;
                self.fail(&io::Error::other(format!("no answer within {limit:?}")), now)
            }
            State::Waiting { until } if now >= until => {
                if !self.untried.is_empty() {
                    return self.connect(now, register);
                }
                // A number needs no lookup, and so no thread.
                if let Ok(address) = self.address.parse() {
                    self.begin_attempt(vec![address]);
                    return self.connect(now, register);
                }
                match resolver.resolve(self.number, &self.address) {
                    Ok(()) => self.state = State::Resolving,
                    Err(error) => return self.fail(&error, now),
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Takes the result of this dial's lookup, and connects to the first address.
    ///
    /// # Errors
    /// The attempt has failed.
    pub fn on_resolved(
        &mut self,
        now: T,
        addresses: io::Result<Vec<SocketAddr>>,
        register: Register,
    ) -> Result<(), String> {
        if !matches!(self.state, State::Resolving) {
            return Ok(());
        }
        match addresses {
            Ok(addresses) if addresses.is_empty() => self.fail(&io::Error::other("its name has no address"), now),
            Ok(addresses) => {
                self.begin_attempt(addresses);
                self.connect(now, register)
            }
            Err(error) => self.fail(&error, now),
        }
    }

    /// The connecting socket is ready. Returns it when it is connected; the caller has it from then on.
    ///
    /// # Errors
    /// The attempt has failed.
    pub fn on_ready(&mut self, now: T) -> Result<Option<TcpStream>, String> {
        let State::Connecting { socket, .. } = &self.state else { return Ok(None) };
        match is_connected(socket) {
            Ok(false) => Ok(None),
            Ok(true) => match std::mem::replace(&mut self.state, State::Connected) {
                State::Connecting { socket, .. } => {
                    self.are_all_refused = false;
                    Ok(Some(socket))
                }
                _ => Ok(None),
            },
            Err(error) => self.fail(&error, now).map(|()| None),
        }
    }

    /// The connection has proved to be of use: the next failure is the first in a row, and the next attempt looks up the name anew.
    pub fn on_success(&mut self) {
        self.failures = 0;
        self.untried.clear();
    }

    /// The caller's connection is lost, or came to nothing: schedules the next attempt. Unless [`Dial::on_success`] was called, it
    /// begins with the address after the one that was connected to. Otherwise an address where something else answers, or where
    /// nothing answers although it connects, would keep the others from ever being tried.
    pub fn retry(&mut self, now: T) {
        let mut random = [0];
        // Without a random number the wait is the shortest. It is still long enough to be polite.
        let jitter = getrandom::fill(&mut random).map_or(0, |()| random[0]);
        self.state = State::Waiting { until: now + self.pacing.wait(self.failures, jitter) };
        self.failures = self.failures.saturating_add(1);
    }

    /// Begins the next attempt, or goes on with this one, at once instead of later: there is a reason to believe that it succeeds.
    pub fn hurry(&mut self, now: T) {
        if let State::Waiting { until } = &mut self.state {
            *until = now.min(*until);
        }
    }

    /// Schedules the next attempt as after many failures: the other side has said that it does not want us.
    pub fn retry_slowly(&mut self, now: T) {
        self.untried.clear();
        self.failures = u32::MAX;
        self.retry(now);
    }

    /// Begins an attempt that is to try these addresses.
    fn begin_attempt(&mut self, addresses: Vec<SocketAddr>) {
        self.are_all_refused = true;
        let also = self.also.iter().copied().filter(|address| !addresses.contains(address)).collect::<Vec<_>>();
        self.untried = addresses.into_iter().chain(also).collect();
    }

    /// Connects to the next address of this attempt.
    fn connect(&mut self, now: T, register: Register) -> Result<(), String> {
        let Some(address) = self.untried.pop_front() else {
            return self.fail(&io::Error::other("its name has no address"), now);
        };
        let connecting = TcpStream::connect(address).and_then(|mut socket| register(&mut socket).map(|()| socket));
        match connecting {
            Ok(socket) => {
                self.state = State::Connecting { socket, until: now + self.pacing.connect_limit };
                Ok(())
            }
            Err(error) => self.fail(&error, now),
        }
    }

    /// Goes on with the next address, at once. After the last one the attempt has failed.
    fn fail(&mut self, error: &io::Error, now: T) -> Result<(), String> {
        self.are_all_refused &= error.kind() == io::ErrorKind::ConnectionRefused;
        if !self.untried.is_empty() {
            self.state = State::Waiting { until: now };
            return Ok(());
        }
        self.is_refused = self.are_all_refused;
        self.retry(now);
        Err(in_words(error))
    }
}

/// What an error is, for a sentence: of the usual ones the name alone, without its number.
fn in_words(error: &io::Error) -> String {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut};
    match error.kind() {
        kind @ (ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable | TimedOut) => {
            kind.to_string()
        }
        _ => error.to_string(),
    }
}

/// Whether the operating system has connected a socket. Not an error: it is still trying.
fn is_connected(socket: &TcpStream) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        // A socket that dials a port of its own machine on which nobody listens may be given that very port as its own. TCP then
        // connects it to itself, and it would hear its own hello.
        Ok(address) if socket.local_addr()? == address => Err(io::ErrorKind::ConnectionRefused.into()),
        // Messages are short, and an answer is waited for: sending them late to fill packets would add up to 40 ms.
        Ok(_) => socket.set_nodelay(true).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
