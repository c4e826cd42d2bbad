//! The honest people: a pair who write to each other without a break, and a visitor who connects anew for each message.

use crate::cluster::Cluster;
use crate::session::{Person, send};
use crate::talker::{Plan, Talker, Transcript};
use crate::wait::SOON;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The time from one message to the next. In an hour, the pair sends fewer messages than half of a mailbox holds.
const PACE: Duration = Duration::from_millis(50);
/// How many messages may be unanswered before the pair waits: 25 s of them. So a message is sent, and its latency counts, also
/// while the replicas do not answer.
const WINDOW: usize = 512;
/// The time from one visit to the next.
const VISITS: Duration = Duration::from_secs(2);

/// Two people who write to each other.
pub struct Pair {
    talkers: [Talker; 2],
}

impl Pair {
    /// Starts to send messages from each of the two to the other.
    pub fn start(cluster: &Cluster, [alice, bob]: [&Person; 2]) -> Pair {
        let plan = |person| Plan { window: WINDOW, pace: PACE, ..Plan::new(cluster, person) };
        let to_alice = Plan { command: |account, number| send("alice", format!("{account} {number}")), ..plan(bob) };
        Pair { talkers: [plan(alice).start(), to_alice.start()] }
    }

    /// How many messages each of them has sent so far.
    pub fn issued(&self) -> [u64; 2] {
        self.talkers.each_ref().map(Talker::issued)
    }

    /// Whether so many messages of each are answered.
    pub fn are_answered(&self, issued: [u64; 2]) -> bool {
        self.talkers.iter().zip(issued).all(|(talker, issued)| talker.answered() >= issued)
    }

    /// Whether one of them has given up.
    pub fn has_ended(&self) -> bool {
        self.talkers.iter().any(Talker::has_ended)
    }

    /// Waits until all that is sent is answered, and returns the outcome.
    pub fn finish(self) -> [Transcript; 2] {
        self.talkers.map(Talker::finish)
    }
}

/// The visits that one person made.
#[derive(Debug, Default)]
pub struct Visits {
    /// The duration of each, from the first attempt to the answer.
    pub latencies: Vec<Duration>,
    /// Visits that came to nothing.
    pub faults: Vec<String>,
}

/// Sends numbered messages to bob until `is_enough`: each with a process of its own, which has to find a place among the
/// connections of the replicas.
pub fn visit(cluster: &Cluster, is_enough: &AtomicBool) -> Visits {
    let mut visits = Visits::default();
    let mut next = Instant::now();
    while !is_enough.load(Ordering::Relaxed) {
        // Time has to pass between two visits. It passes in small pieces, so that the visits end soon after the battle.
        if Instant::now() < next {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        next = Instant::now() + VISITS;
        let number = visits.latencies.len() as u64 + 1;
        match visit_once(cluster, number) {
            Ok(latency) => visits.latencies.push(latency),
            Err(fault) => {
                visits.faults.push(fault);
                return visits;
            }
        }
    }
    visits
}

/// Sends one message, again under the same id if that fails.
fn visit_once(cluster: &Cluster, number: u64) -> Result<Duration, String> {
    let (begin, id, text) = (Instant::now(), format!("visit-{number}"), format!("carol {number}"));
    loop {
        let mut command = cluster.client(&["send", "--as", "carol", "--id", &id, "bob", &text]);
        let output =
            command.stdin(Stdio::null()).output().map_err(|error| format!("cannot run the client: {error}"))?;
        if output.status.success() {
            return Ok(begin.elapsed());
        }
        if begin.elapsed() > SOON {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("visit {number} came to nothing within {SOON:?}: {}, {said}", output.status));
        }
    }
}
