//! What it costs a replica to push a message to all members of a room who are connected.

use crate::cluster::Cluster;
use crate::load::Load;
use crate::raw::create_accounts;
use crate::session::{Person, send};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{ClockId, clock_gettime};
use stablechat_protocol::answer::Answer;
use stablechat_protocol::command::Command;
use stablechat_protocol::room::{RoomAction, RoomName};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What one message costs.
#[derive(Clone, Copy, Debug)]
pub struct FanOutCost {
    /// Connections that get each message.
    pub connected: usize,
    /// Messages that were sent.
    pub messages: usize,
    /// Bytes that a connection gets for a message, TLS records included.
    pub bytes: u64,
    /// Processor time of the replica for a message.
    pub replica: Duration,
    /// Processor time of writing so many bytes to so many sockets, and nothing else.
    pub writes: Duration,
    /// The median time from a message's timestamp to its answer.
    pub median: Duration,
}

/// Members from one address: replicas limit how many accounts one creates.
pub const PER_ADDRESS: usize = 100;
/// Rounds over which the cost of the writes alone is averaged.
const ROUNDS: u32 = 100;

/// A room, and how many of its members are connected.
#[derive(Clone, Copy, Debug)]
pub struct Audience {
    /// The members, besides the one that sends.
    pub members: usize,
    /// The members, among these, that are connected to the replica.
    pub connected: usize,
}

/// Measures messages with texts of so many bytes to a room with this audience at the replica `name`, one message after the other
/// for `time`.
///
/// # Errors
/// A connection broke, or the replica ended one.
pub fn measure(
    cluster: &Cluster,
    name: &str,
    Audience { members, connected }: Audience,
    text_bytes: usize,
    time: Duration,
) -> io::Result<FanOutCost> {
    let room = RoomName::parse(format!("#fan-out-{members}")).expect("a name by the rules");
    let act = |action| Command::Room { room: room.clone(), action };
    let owner = Person::new(&format!("owner-of-{members}"));
    let members: Vec<Person> =
        (0..members).map(|number| Person::new(&format!("member-{number}-of-{members}"))).collect();
    let mut client = cluster.greet(name);
    create_accounts(&mut client, &[&owner]);
    client.login(&owner, false);
    assert_eq!(client.call(act(RoomAction::Create { is_private: false })), Answer::Done);
    for (number, some) in members.chunks(PER_ADDRESS).enumerate() {
        let mut client = cluster.greet_from(name, address(number));
        create_accounts(&mut client, &some.iter().collect::<Vec<&Person>>());
        for member in some {
            client.login(member, false);
            assert_eq!(client.call(act(RoomAction::Join)), Answer::Done);
        }
    }

    let mut sockets = Vec::new();
    for (number, member) in members.iter().take(connected).enumerate() {
        let mut client = cluster.greet_from(name, address(number / PER_ADDRESS));
        client.login(member, true);
        sockets.push(TcpStream::from_std(client.into_stream()?.into_parts().1));
    }
    let drain = Drain::start(sockets)?;
    client.login(&owner, false);
    let commands = vec![send(room.as_str(), "x".repeat(text_bytes))];
    let mut load = Load::new(vec![vec![client]], commands, 1)?;
    let (usage, read) = (cluster.usage(name).processor, drain.bytes());
    let measured = load.run(time)?;
    let replica = cluster.usage(name).processor - usage;
    let messages = measured.latencies.len().max(1);
    let bytes = (drain.finish()? - read) / (messages * connected.max(1)) as u64;
    let replica = replica.div_f64(messages as f64);
    Ok(FanOutCost {
        connected,
        messages,
        bytes,
        replica,
        writes: writes(connected, bytes)?,
        median: measured.quantile(0.5),
    })
}

/// An address of this machine, up to 254.
pub fn address(number: usize) -> [u8; 4] {
    [127, 1, 1, u8::try_from(number + 1).expect("there are few addresses")]
}

/// The processor time of writing so many bytes to each of so many sockets.
fn writes(count: usize, bytes: u64) -> io::Result<Duration> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..count {
        theirs.push(std::net::TcpStream::connect(listener.local_addr()?)?);
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        ours.push(socket);
    }
    theirs.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
    let drain = Drain::start(theirs.into_iter().map(TcpStream::from_std).collect())?;
    let content = vec![b'x'; bytes as usize];
    let before = thread_time();
    for _ in 0..ROUNDS {
        for socket in &mut ours {
            socket.write_all(&content)?;
        }
    }
    let took = thread_time() - before;
    drain.finish()?;
    Ok(took / ROUNDS)
}

/// The processor time of this thread so far.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// A thread that reads all that comes over some connections, and drops it.
struct Drain {
    bytes: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    /// Fails when a connection ends before the thread does.
    thread: JoinHandle<io::Result<()>>,
}

impl Drain {
    fn start(mut sockets: Vec<TcpStream>) -> io::Result<Drain> {
        let mut poll = Poll::new()?;
        for (number, socket) in sockets.iter_mut().enumerate() {
            poll.registry().register(socket, Token(number), Interest::READABLE)?;
        }
        let (bytes, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, ends) = (Arc::clone(&bytes), Arc::clone(&is_over));
        let run = move || -> io::Result<()> {
            let (mut events, mut scratch) = (Events::with_capacity(1024), vec![0; 64 * 1024]);
            loop {
                poll.poll(&mut events, Some(Duration::from_millis(50)))?;
                if events.is_empty() && ends.load(Ordering::Relaxed) {
                    return Ok(());
                }
                for event in &events {
                    drain(&mut sockets[event.token().0], &mut scratch, &counted)?;
                }
            }
        };
        Ok(Drain { bytes, is_over, thread: std::thread::spawn(run) })
    }

    /// How many bytes have come so far.
    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ends once nothing more comes. Returns how many bytes have come.
    fn finish(self) -> io::Result<u64> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("the thread does not panic")?;
        Ok(self.bytes.load(Ordering::Relaxed))
    }
}

/// Reads all that has come on a connection, and adds up its bytes.
fn drain(socket: &mut TcpStream, scratch: &mut [u8], bytes: &AtomicU64) -> io::Result<()> {
    loop {
        match socket.read(scratch) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection of a member was ended")),
            Ok(length) => bytes.fetch_add(length as u64, Ordering::Relaxed),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
    }
}
