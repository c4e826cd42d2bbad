//! A service of three nodes that is not ours: its processes, its clients, and the harm that is done to it.

use super::calls::{Call, Caller, Clients, Pace};
use super::{Fault, Service};
use crate::process::Program;
use rustix::process::Signal;
use std::io::{self, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The faults that a service with a quorum survives.
const FAULTS: [Fault; 5] = [Fault::Nothing, Fault::Kill, Fault::KillAndStart, Fault::Stop, Fault::Pause];

/// How long the effects of a fault are watched: longer than an election takes that succeeds at the second or third attempt.
const WATCH: Duration = Duration::from_secs(6);

/// How long a client waits for a connection, and for an answer. A request that a member has passed on to a leader that then died is
/// answered after seconds, with an error; a client that waited for that would lose more than by trying again.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// A product that such a service runs on.
pub trait Product {
    /// Its name and version.
    fn name(&self) -> String;

    /// A client of this number, with a connection to the first of these nodes, and after failures to the next.
    fn caller(&self, addresses: Vec<SocketAddr>, number: usize) -> Box<dyn Caller>;

    /// Waits until all nodes work together and are called with success. Returns the number of the leader.
    fn wait_until_whole(&self, addresses: &[SocketAddr; 3]) -> usize;
}

/// A service on a product.
pub struct Foreign<P> {
    product: P,
    nodes: Nodes,
    /// Where clients reach each node.
    addresses: [SocketAddr; 3],
    clients: Option<Clients>,
    leader: usize,
}

impl<P: Product> Foreign<P> {
    /// A service whose nodes have been started. Waits until it is whole.
    pub fn new(product: P, nodes: Nodes, addresses: [SocketAddr; 3]) -> Foreign<P> {
        let leader = product.wait_until_whole(&addresses);
        Foreign { product, nodes, addresses, clients: None, leader }
    }

    /// Where clients reach the leader.
    pub fn leader_address(&self) -> SocketAddr {
        self.addresses[self.leader]
    }
}

impl<P: Product> Service for Foreign<P> {
    fn name(&self) -> String {
        self.product.name()
    }

    fn faults(&self) -> Vec<Fault> {
        FAULTS.to_vec()
    }

    fn watch(&self) -> Duration {
        WATCH
    }

    fn start_clients(&mut self, paces: Vec<Pace>) {
        let callers = paces.into_iter().enumerate().map(|(number, pace)| {
            let mut addresses = self.addresses.to_vec();
            addresses.rotate_left(number % 3);
            (self.product.caller(addresses, number), pace)
        });
        self.clients = Some(Clients::start(callers.collect()));
    }

    fn stop_clients(&mut self) -> Vec<Call> {
        self.clients.take().map(Clients::stop).unwrap_or_default()
    }

    fn hurt(&mut self, fault: Fault) {
        self.nodes.hurt(self.leader, fault);
    }

    fn mend(&mut self) {
        self.nodes.mend();
        self.leader = self.product.wait_until_whole(&self.addresses);
    }
}

/// How to start the node of a number, with its data in a directory.
type Start = Box<dyn Fn(usize, &Path) -> Command>;

/// Nodes that run, or are hurt.
pub struct Nodes {
    programs: [Option<Program>; 3],
    start: Start,
    directory: TempDir,
    hurt: Vec<(usize, Fault)>,
}

impl Nodes {
    /// Starts all three.
    pub fn start(start: impl Fn(usize, &Path) -> Command + 'static) -> Nodes {
        let directory = tempfile::Builder::new().prefix("stablechat-peers-").tempdir();
        let mut nodes = Nodes {
            programs: [None, None, None],
            start: Box::new(start),
            directory: directory.expect("temporary files can be made"),
            hurt: Vec::new(),
        };
        (0..3).for_each(|number| nodes.spawn(number));
        nodes
    }

    fn spawn(&mut self, number: usize) {
        let directory = self.directory.path().join(number.to_string());
        std::fs::create_dir_all(&directory).expect("temporary files can be made");
        let mut command = (self.start)(number, &directory);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.programs[number] = Some(Program::spawn(command));
    }

    fn program(&mut self, number: usize) -> &mut Program {
        self.programs[number].as_mut().expect("a node that was started")
    }

    /// Does the harm to a node.
    pub fn hurt(&mut self, number: usize, fault: Fault) {
        self.hurt.push((number, fault));
        match fault {
            Fault::Kill | Fault::KillAndStart => self.program(number).signal(Signal::KILL),
            Fault::Stop => self.program(number).signal(Signal::TERM),
            Fault::Pause => self.program(number).signal(Signal::STOP),
            _ => {}
        }
        if fault == Fault::KillAndStart {
            self.program(number).wait();
            self.spawn(number);
        }
    }

    /// Starts what is down, and lets go on what is suspended.
    pub fn mend(&mut self) {
        for (number, fault) in std::mem::take(&mut self.hurt) {
            match fault {
                Fault::Kill | Fault::Stop => {
                    self.program(number).wait();
                    self.spawn(number);
                }
                Fault::Pause => self.program(number).signal(Signal::CONT),
                _ => {}
            }
        }
    }
}

/// A connection with a node.
///
/// # Errors
/// The node does not listen, or does not answer.
pub fn connect(address: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    Ok(BufReader::new(stream))
}

/// Addresses at which nobody listens, one for each node.
pub fn free_addresses() -> [SocketAddr; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("a listener has an address"))
}
