//! Programs of this project as processes: their paths, signals to them, and their use of processor time and memory.

use crate::wait::{SOON, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

/// A program of this workspace, built by the cargo command that built the caller.
///
/// Cargo tells a test only where the programs of its own package are, and most programs that tests start belong to other
/// packages. All programs lie in one directory, next to or one level above the caller's executable.
///
/// `cargo test --workspace` and `cargo nextest run --workspace` build each of them before the first test runs, because every
/// package with a program has an integration test (see `server/tests/usage.rs`).
///
/// # Panics
/// The program is not there, because cargo was told to build this package alone.
pub fn built(program: &str) -> PathBuf {
    let ourselves = std::env::current_exe().expect("the system knows the path of a running program");
    let found =
        ourselves.ancestors().skip(1).take(2).map(|directory| directory.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{program} is not built: build the whole workspace, with `cargo test --workspace`"))
}

/// Runs a command to its end, with nothing on standard input.
///
/// # Panics
/// The command runs for longer than [`SOON`].
pub fn run_to_end(mut command: Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = Program::spawn(command);
    let status = program.wait();
    let mut output = Output { status, stdout: Vec::new(), stderr: Vec::new() };
    // The output is read after the end: these commands print less than the 64 KiB that a pipe holds.
    let Child { stdout, stderr, .. } = &mut program.child;
    for (pipe, bytes) in [
        (stdout.as_mut().map(|pipe| pipe as &mut dyn std::io::Read), &mut output.stdout),
        (stderr.as_mut().map(|pipe| pipe as &mut dyn std::io::Read), &mut output.stderr),
    ] {
        pipe.expect("a pipe was asked for").read_to_end(bytes).expect("a pipe can be read");
    }
    output
}

/// The command `stablechatd` with these arguments.
pub fn stablechatd(arguments: &[&str]) -> Command {
    let mut command = Command::new(built("stablechatd"));
    command.args(arguments);
    command
}

/// Runs a command to its end, and checks its exit code and its output. A success prints to standard output, a failure to standard
/// error, and the other stream stays empty. Returns the output.
pub fn assert_ends(command: Command, code: i32, says: &str) -> String {
    let shown = format!("{command:?}");
    let output = run_to_end(command);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{shown}: {stdout}{stderr}");
    let (said, other) = if code == 0 { (stdout, stderr) } else { (stderr, stdout) };
    assert!(said.contains(says), "{shown} says: {said}");
    assert_eq!(other, "", "{shown}");
    said.into_owned()
}

/// A process that is killed when this is dropped.
pub struct Program {
    child: Child,
}

impl Program {
    /// Starts a program.
    pub fn spawn(mut command: Command) -> Program {
        let child = command.spawn();
        Program { child: child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")) }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input and output, which were requested as pipes.
    pub fn pipes(&mut self) -> (ChildStdin, ChildStdout) {
        let Child { stdin, stdout, .. } = &mut self.child;
        stdin.take().zip(stdout.take()).expect("pipes were asked for, and not taken before")
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process has a number");
        kill_process(pid, signal).expect("the process has not been waited for, so it is there");
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the process is ours")
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// It runs for longer than [`SOON`].
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("a process ends", SOON, || self.ended())
    }

    /// Its use of processor time and memory so far. It must still run.
    pub fn usage(&self) -> Usage {
        Usage::of(&Path::new("/proc").join(self.child.id().to_string()))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill.
        if self.child.kill().is_ok() {
            self.child.wait().expect("the process is ours");
        }
    }
}

/// The processor time and memory that a process has used.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// The time that its threads ran. Threads that have ended do not count.
    pub processor: Duration,
    /// How often its threads have been woken up: their voluntary context switches.
    pub wake_ups: u64,
    /// Its resident memory now, in bytes.
    pub resident: u64,
    /// The peak of its resident memory, in bytes.
    pub resident_peak: u64,
}

impl Usage {
    /// Reads it from a process's directory in `/proc` (Linux).
    fn of(process: &Path) -> Usage {
        let status = std::fs::read_to_string(process.join("status")).expect("the process runs");
        let kibibytes = |field: &str| -> u64 {
            let line =
                status.lines().find_map(|line| line.strip_prefix(field)).expect("Linux says so of every process");
            line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number")
        };
        let threads = std::fs::read_dir(process.join("task")).expect("the process runs");
        let (mut processor, mut wake_ups) = (Duration::ZERO, 0);
        for thread in threads.filter_map(Result::ok) {
            // A thread may end between the listing and the reading.
            if let Some((running, waits)) = thread_usage(&thread.path()) {
                processor += running;
                wake_ups += waits;
            }
        }
        Usage { processor, wake_ups, resident: kibibytes("VmRSS") * 1024, resident_peak: kibibytes("VmHWM") * 1024 }
    }
}

/// The time that a thread has run, and how often it has waited, from its directory in `/proc`.
fn thread_usage(thread: &Path) -> Option<(Duration, u64)> {
    // The first field of schedstat: nanoseconds on a processor.
    let statistics = std::fs::read_to_string(thread.join("schedstat")).ok()?;
    let nanoseconds = statistics.split_whitespace().next()?.parse().ok()?;
    let status = std::fs::read_to_string(thread.join("status")).ok()?;
    let waits = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    Some((Duration::from_nanos(nanoseconds), waits.trim().parse().ok()?))
}
