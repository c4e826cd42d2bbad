//! The simulator: whole runs of three replicas and their clients in virtual time, each reproduced exactly by its seed.
//!
//! What runs is real: the replication protocol and the store behind [`stablechat_server::applier::Applier`], with RocksDB in
//! memory, and the client's session, queries, inbox and clock correction. What stands around them is made up here: clocks
//! that differ, links with delays, connections that break, replicas that are paused, killed at the worst moments, stopped
//! and started again (`faults`).
//!
//! - `world` has the time, the queue of what happens next, and passes each event to whom it concerns.
//! - `scenes` are faults in a given order, each to put one rule of the protocol to the test.
//! - `network` is the clients' connections, `links` those between replicas: first in, first out, and possibly cut.
//! - `node` is a replica's process: the applier, and the poll loop's part in front of it; `disk` outlives both.
//! - `client` is a user's program, which works off a plan.
//! - `checks` looks at everything that replicas do, after every step; `verdict` at what is left in the end.
//! - `history` compares all answers with those of `specification`, the service said a second time, and so proves each run
//!   linearizable.
//!
//! There are two modes with claims of their own, and never are they mixed. *Within bounds* ([`Mode::Bounds`]) the delivery
//! bound holds: all replicas apply the same in the same order, none ever repairs its log, answers are the same everywhere and
//! linearizable. *Beyond bounds* ([`Mode::Beyond`]) it does not: what was answered is not lost, and when all is well again
//! the replicas become equal. In both, when nothing goes wrong any more, answers come by the closed test.

mod checks;
mod client;
mod clock;
mod disk;
mod faults;
mod history;
mod links;
mod network;
mod node;
mod scenes;
mod specification;
mod tally;
mod trace;
mod verdict;
mod world;

pub use tally::{Latencies, Tally};
pub use trace::Trace;

use stablechat_protocol::time::Timestamp;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use world::World;

/// Δ: the delivery bound of the simulated cluster.
const DELIVERY_BOUND: Duration = Duration::from_millis(1000);
/// How many replicas a cluster has.
const REPLICAS: usize = 3;
/// When every run begins.
const START: Timestamp = Timestamp(1_700_000_000_000_000_000);

/// What may go wrong, and what has to hold nevertheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The delivery bound holds.
    Bounds,
    /// It does not.
    Beyond,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        match text {
            "bounds" => Ok(Mode::Bounds),
            "beyond" => Ok(Mode::Beyond),
            _ => Err("the modes are `bounds` and `beyond`".into()),
        }
    }
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What happened, and how often.
    pub tally: Tally,
    /// How long answers took.
    pub latencies: Latencies,
    /// How long they took when nothing went wrong any more.
    pub calm_latencies: Latencies,
    /// The log and state digests of all replicas in the end, as text: equal for equal runs.
    pub fingerprint: String,
}

/// Something that must not be.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The run.
    pub seed: u64,
    /// After how many steps.
    pub step: u64,
    /// When, since the start of the run.
    pub after: Duration,
    /// What is wrong.
    pub what: String,
    /// The last that happened to the replicas concerned.
    pub events: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, step, after, what, events } = self;
        write!(formatter, "seed {seed}, step {step}, after {:.6} s: {what}", after.as_secs_f64())?;
        events.iter().try_for_each(|event| write!(formatter, "\n  {event}"))
    }
}

impl std::error::Error for Failure {}

/// Something that must not be, and the replicas that it concerns.
#[derive(Clone, Debug)]
struct Violation {
    what: String,
    replicas: Vec<usize>,
}

/// Whether all is as it must be.
type Check<T = ()> = Result<T, Violation>;

impl Violation {
    /// Says what is wrong with one replica.
    fn at(replica: usize, what: impl Into<String>) -> Violation {
        Violation { what: format!("replica {}: {}", node::name(replica), what.into()), replicas: vec![replica] }
    }

    /// Says what is wrong between replicas, or with the run as a whole.
    fn among_all(what: impl Into<String>) -> Violation {
        Violation { what: what.into(), replicas: (0..REPLICAS).collect() }
    }
}

/// Runs a seed. A run that fails is run again to tell what led to it.
///
/// # Errors
/// An invariant did not hold.
pub fn run(mode: Mode, seed: u64) -> Result<Run, Failure> {
    trace_run(mode, seed, Trace::Off).or_else(|_| trace_run(mode, seed, Trace::recent()))
}

/// Runs a seed, and lets `trace` take down what happens.
///
/// # Errors
/// An invariant did not hold.
pub fn trace_run(mode: Mode, seed: u64, trace: Trace) -> Result<Run, Failure> {
    let mut world = World::new(mode, seed, trace);
    world.run().map_err(|violation| Failure {
        seed,
        step: world.step(),
        after: world.now().since(START),
        what: violation.what,
        events: world.trace().last_of(&violation.replicas),
    })
}
