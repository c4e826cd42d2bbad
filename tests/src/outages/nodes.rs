//! The three processes of a service that is not ours, and what is done to them.

use super::Fault;
use crate::process::Program;
use rustix::process::Signal;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The faults that a service with a quorum survives.
pub const FAULTS: [Fault; 5] = [Fault::Nothing, Fault::Kill, Fault::KillAndStart, Fault::Stop, Fault::Pause];

/// How long the effects of a fault are watched: longer than an election takes that succeeds at the second or third attempt.
pub const WATCH: Duration = Duration::from_secs(6);

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

/// Addresses at which nobody listens, one for each node.
pub fn free_addresses() -> [SocketAddr; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("a listener has an address"))
}
