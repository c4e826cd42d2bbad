//! Connections by the thousand, driven by one thread: they send the steps of an attack, at its rates.

use super::attack::{Attack, By, Over, Reading, Step, Then, Turn};
use super::targets::Targets;
use fastrand::Rng;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use stablechat_protocol::frame::{Decoded, FrameBuffer};
use stablechat_protocol::login::{Challenge, ChannelBinding};
use stablechat_protocol::message::ToClient;
use stablechat_protocol::name::ReplicaName;
use stablechat_transport::{ByteStream, ReadEnd};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::AddAssign;
use std::time::{Duration, Instant};

/// The address that attacks come from. It is not that of the honest people, whom it would take from what one address may send.
const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The longest wait for events: how often the rates are looked at.
const TICK: Duration = Duration::from_millis(5);
/// How much of its rates an attack may save up and spend at once.
const SAVED: Duration = Duration::from_millis(100);
/// How often a connection is read, at most, before the others have their turn.
const READS_MAX: usize = 16;

/// The cost of an attack to the attacker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// Connections opened.
    pub connections: u64,
    /// Frames sent, valid or not, as far as they can be counted.
    pub frames: u64,
    pub bytes_sent: u64,
    pub bytes_read: u64,
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Spent) {
        self.connections += other.connections;
        self.frames += other.frames;
        self.bytes_sent += other.bytes_sent;
        self.bytes_read += other.bytes_read;
    }
}

/// The connections of one attack.
pub struct Swarm<'a> {
    attack: &'static Attack,
    targets: &'a Targets,
    addresses: &'a [SocketAddr],
    random: Rng,
    poll: Poll,
    links: BTreeMap<usize, Link>,
    /// Connections that have something to do: they are to send their next step, or there is more to read.
    ready: VecDeque<usize>,
    /// The number of connections so far.
    opened: usize,
    opens: Budget,
    bytes: Budget,
    scratch: Vec<u8>,
    spent: Spent,
}

/// What a connection's bytes go over.
enum Stream {
    Bare(TcpStream),
    Tls(Box<ByteStream>),
}

/// A connection.
struct Link {
    stream: Stream,
    replica: usize,
    group: u64,
    /// Whether it reads answers.
    reads: bool,
    /// How many steps it has begun, with those of its opening.
    steps: u64,
    /// The rest of a step that the socket has not taken yet.
    rest: Vec<u8>,
    then: Then,
    /// Its input up to the welcome.
    inbox: FrameBuffer,
    welcome: Option<(ReplicaName, Challenge)>,
    /// Whether it is in the queue of ready connections.
    is_queued: bool,
    /// Whether the socket may have bytes to be read.
    is_readable: bool,
}

/// The state of a connection after its turn.
enum After {
    /// It waits for an event.
    Waits,
    /// It wants another turn.
    Again,
    /// It is to be dropped.
    Gone,
}

impl<'a> Swarm<'a> {
    /// The connections of an attack, none of which is open yet.
    ///
    /// # Errors
    /// The operating system refuses to watch sockets.
    pub fn new(attack: &'static Attack, targets: &'a Targets, seed: u64) -> io::Result<Swarm<'a>> {
        Ok(Swarm {
            attack,
            targets,
            addresses: if attack.by == By::Monitor { &targets.monitors } else { &targets.replicas },
            random: Rng::with_seed(seed),
            poll: Poll::new()?,
            links: BTreeMap::new(),
            ready: VecDeque::new(),
            opened: 0,
            opens: Budget::new(attack.rates.opens),
            bytes: Budget::new(attack.rates.bytes),
            scratch: vec![0; 64 * 1024],
            spent: Spent::default(),
        })
    }

    /// Attacks until a time. Connections that fail are opened again, within the rates. In the end all are closed.
    ///
    /// # Errors
    /// The operating system refuses to watch sockets.
    pub fn attack(mut self, until: Instant) -> io::Result<Spent> {
        let mut events = Events::with_capacity(1024);
        while Instant::now() < until {
            self.open_connections()?;
            self.take_turns();
            let is_idle = self.ready.is_empty() || !self.bytes.may_spend();
            match self.poll.poll(&mut events, Some(if is_idle { TICK } else { Duration::ZERO })) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => result?,
            }
            events.iter().for_each(|event| self.on_event(event));
        }
        Ok(self.spent)
    }

    /// Notes what an event says about its connection.
    fn on_event(&mut self, event: &Event) {
        let Token(id) = event.token();
        let Some(link) = self.links.get_mut(&id) else { return };
        if event.is_error() || (event.is_read_closed() && !link.reads) {
            self.links.remove(&id);
            return;
        }
        link.is_readable |= event.is_readable();
        Swarm::queue(&mut self.ready, id, link);
    }

    /// Opens as many connections as the rates allow.
    fn open_connections(&mut self) -> io::Result<()> {
        while self.links.len() < self.attack.rates.connections && self.opens.may_spend() {
            self.opens.spend(1);
            let id = self.opened;
            self.opened += 1;
            let replica = id % self.addresses.len();
            // Without a free port or file there is nothing to open; the attack goes on with the connections that it has.
            let Ok(mut stream) = dial(self.addresses[replica]) else { return Ok(()) };
            self.poll.registry().register(&mut stream, Token(id), Interest::READABLE | Interest::WRITABLE)?;
            let reads = match self.attack.reading {
                Reading::Always => true,
                Reading::Never => false,
                Reading::Half => self.random.bool(),
            };
            let stream = match self.attack.over {
                Over::Socket => Stream::Bare(stream),
                Over::Tls => {
                    let tls = self.targets.tls.dial(&self.targets.names[replica]).map_err(io::Error::other)?;
                    Stream::Tls(Box::new(ByteStream::new(stream, tls)))
                }
            };
            let link = Link {
                stream,
                replica,
                group: (id / self.addresses.len()) as u64,
                reads,
                steps: 0,
                rest: Vec::new(),
                then: Then::Continue,
                inbox: FrameBuffer::default(),
                welcome: None,
                is_queued: false,
                is_readable: false,
            };
            self.links.insert(id, link);
            self.spent.connections += 1;
        }
        Ok(())
    }

    /// Gives each ready connection a turn, as far as the rates allow.
    fn take_turns(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { break };
            let Some(link) = self.links.get_mut(&id) else { continue };
            link.is_queued = false;
            match self.take_turn(id) {
                Ok(After::Waits) => {}
                Ok(After::Again) => {
                    if let Some(link) = self.links.get_mut(&id) {
                        Swarm::queue(&mut self.ready, id, link);
                    }
                }
                // The replica ended the connection, or there is none. Both are expected of an attack.
                Ok(After::Gone) | Err(_) => drop(self.links.remove(&id)),
            }
        }
    }

    fn queue(ready: &mut VecDeque<usize>, id: usize, link: &mut Link) {
        if !link.is_queued {
            link.is_queued = true;
            ready.push_back(id);
        }
    }

    /// Reads and writes on a connection.
    fn take_turn(&mut self, id: usize) -> io::Result<After> {
        let Swarm { links, scratch, spent, bytes, targets, random, attack, .. } = self;
        let link = links.get_mut(&id).expect("looked up before");
        let has_more = link.read(scratch, spent)?;
        if !link.write(spent, bytes)? {
            return Ok(After::Waits);
        }
        match link.then {
            Then::Close => return Ok(After::Gone),
            Then::Hold => return Ok(if has_more { After::Again } else { After::Waits }),
            Then::AwaitWelcome if link.welcome.is_none() => return Ok(After::Waits),
            Then::AwaitWelcome | Then::Continue => {}
        }

        if !bytes.may_spend() {
            return Ok(After::Again);
        }
        let (replica, number, group) = (link.replica, link.steps, link.group);
        let (welcome, channel) = (link.welcome.as_ref(), link.stream.channel_binding());
        let turn = Turn { targets, replica, number, group, welcome, channel, random };
        let Step { bytes: step, frames, then } = attack.step(turn);
        link.steps += 1;
        spent.frames += frames;
        (link.rest, link.then) = (step, then);
        Ok(match (link.write(spent, bytes)?, then) {
            (false, _) => After::Waits,
            (true, Then::Close) => After::Gone,
            (true, Then::Continue) => After::Again,
            (true, Then::Hold | Then::AwaitWelcome) => After::Waits,
        })
    }
}

impl Link {
    /// Reads the bytes that have arrived: up to the welcome to find it, after that to throw them away. Returns whether there may be more.
    fn read(&mut self, scratch: &mut [u8], spent: &mut Spent) -> io::Result<bool> {
        for _ in 0..READS_MAX {
            let awaits_welcome = self.then == Then::AwaitWelcome && self.welcome.is_none();
            if !self.is_readable || !(self.reads || awaits_welcome || self.stream.is_handshaking()) {
                return Ok(false);
            }
            let inbox = &mut self.inbox;
            let take = |piece: &[u8]| {
                if awaits_welcome {
                    inbox.push(piece);
                }
            };
            let (length, is_drained) = self.stream.read(scratch, take)?;
            spent.bytes_read += length as u64;
            self.is_readable = !is_drained;
            if awaits_welcome {
                self.take_welcome()?;
            }
        }
        Ok(self.is_readable)
    }

    /// Looks for the welcome in the bytes that have arrived.
    fn take_welcome(&mut self) -> io::Result<()> {
        match self.inbox.decode() {
            Ok(Decoded::Frame(ToClient::Welcome { replica, challenge, .. })) => {
                self.welcome = Some((replica, challenge));
                Ok(())
            }
            Ok(Decoded::NeedMore) => Ok(()),
            Ok(Decoded::Frame(_)) | Err(_) => Err(ErrorKind::ConnectionRefused.into()),
        }
    }

    /// Writes the rest of the step. Returns whether the socket has taken all of it.
    fn write(&mut self, spent: &mut Spent, budget: &mut Budget) -> io::Result<bool> {
        let before = self.rest.len();
        let result = self.stream.write(&mut self.rest);
        let written = (before - self.rest.len()) as u64;
        spent.bytes_sent += written;
        budget.spend(written);
        result
    }
}

impl Stream {
    fn is_handshaking(&self) -> bool {
        matches!(self, Stream::Tls(stream) if stream.is_handshaking())
    }

    fn channel_binding(&self) -> Option<ChannelBinding> {
        match self {
            Stream::Bare(_) => None,
            Stream::Tls(stream) => stream.channel_binding(),
        }
    }

    /// Reads once. Returns how many bytes came, and whether nothing is left.
    fn read(&mut self, scratch: &mut [u8], mut take: impl FnMut(&[u8])) -> io::Result<(usize, bool)> {
        match self {
            Stream::Bare(socket) => match socket.read(scratch) {
                Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    take(&scratch[..length]);
                    Ok((length, false))
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok((0, true)),
                Err(error) => Err(error),
            },
            Stream::Tls(stream) => {
                let read = stream.read(scratch, take);
                match read.end {
                    ReadEnd::Drained => Ok((read.bytes, true)),
                    ReadEnd::More => Ok((read.bytes, false)),
                    ReadEnd::Closed | ReadEnd::Failed(_) => Err(ErrorKind::UnexpectedEof.into()),
                }
            }
        }
    }

    /// Writes what is taken of these bytes, and drops it from them. Returns whether the socket has taken everything.
    fn write(&mut self, rest: &mut Vec<u8>) -> io::Result<bool> {
        // Not connected yet, or the socket's buffer is full.
        let is_early = |error: &io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected);
        match self {
            Stream::Bare(socket) => {
                while !rest.is_empty() {
                    match socket.write(rest) {
                        Ok(length) => drop(rest.drain(..length)),
                        Err(error) if is_early(&error) => return Ok(false),
                        Err(error) => return Err(error),
                    }
                }
                Ok(true)
            }
            Stream::Tls(stream) => {
                let flush = |stream: &mut ByteStream| match stream.flush() {
                    Err(error) if is_early(&error) => Ok(false),
                    result => result.map(|()| stream.unwritten() == 0 && !stream.is_handshaking()),
                };
                if !flush(stream)? {
                    return Ok(false);
                }
                stream.queue(rest);
                rest.clear();
                flush(stream)
            }
        }
    }
}

/// A rate, as a bucket that fills with time. It may be overdrawn once, and must fill up again then.
struct Budget {
    per_second: f64,
    saved: f64,
    filled: Instant,
}

impl Budget {
    fn new(per_second: u32) -> Budget {
        Budget { per_second: per_second.into(), saved: 1.0, filled: Instant::now() }
    }

    /// Whether something is saved.
    fn may_spend(&mut self) -> bool {
        let elapsed = self.filled.elapsed();
        self.filled += elapsed;
        let most = (self.per_second * SAVED.as_secs_f64()).max(1.0);
        self.saved = (self.saved + self.per_second * elapsed.as_secs_f64()).min(most);
        self.saved > 0.0
    }

    fn spend(&mut self, amount: u64) {
        self.saved -= amount as f64;
    }
}

/// Begins to connect to a replica from [`SOURCE`].
fn dial(replica: SocketAddr) -> io::Result<TcpStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddr::from((SOURCE, 0)))?;
    match connect(&socket, &replica) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from_std(socket.into())),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_that_is_overdrawn_has_to_fill_up_again() {
        let mut budget = Budget::new(1000);
        assert!(budget.may_spend());
        budget.spend(1_000_000);
        assert!(!budget.may_spend(), "a thousand seconds' worth is missing");
    }
}
