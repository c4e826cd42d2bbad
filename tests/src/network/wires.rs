//! Wires that delay frames and lose some: a program between the hosts' cables and the bridge. The queueing discipline `netem` would
//! do the same, but not every kernel has it.

use crate::process::Program;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// The program is in Python, because packet sockets are not available in safe Rust.
const PROGRAM: &str = include_str!("wires.py");

/// How a host's cable carries frames, each way. A frame between two hosts takes the cables of both.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire {
    /// How long a frame takes.
    pub delay: Duration,
    /// How much longer or shorter. Frames keep their order.
    pub jitter: Duration,
    /// The share of frames that are lost.
    pub loss: f64,
}

/// The wires of a network, while their program runs.
pub struct Wires {
    /// The program, with its standard input and output.
    program: Mutex<(Program, ChildStdin, BufReader<ChildStdout>)>,
}

impl Wires {
    /// Joins each pair of interfaces of a namespace by a wire. The first of a pair is the near end, and names the wire.
    ///
    /// # Panics
    /// The program does not run.
    pub fn lay(namespace: &str, ends: impl Iterator<Item = (String, String)>) -> Wires {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "python3", "-c", PROGRAM]);
        command.args(ends.map(|(near, far)| format!("{near}:{far}")));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = Program::spawn(command);
        let (stdin, stdout) = program.pipes();
        let mut stdout = BufReader::new(stdout);
        expect_line(&mut stdout, "ready");
        Wires { program: Mutex::new((program, stdin, stdout)) }
    }

    /// Changes a wire, from now on.
    pub fn set(&self, near: &str, wire: Wire) {
        let Wire { delay, jitter, loss } = wire;
        let order = format!("{near} {} {} {loss}\n", delay.as_secs_f64(), jitter.as_secs_f64());
        let mut program = self.program.lock().expect("nobody has panicked with it");
        program.1.write_all(order.as_bytes()).expect("the program of the wires runs");
        expect_line(&mut program.2, "changed");
    }
}

/// Waits for a line of the program.
fn expect_line(stdout: &mut BufReader<ChildStdout>, expected: &str) {
    let mut line = String::new();
    stdout.read_line(&mut line).expect("the program of the wires can be heard");
    assert_eq!(line.trim_end(), expected, "the program of the wires has ended; its error is above");
}
