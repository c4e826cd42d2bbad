//! The simulator: whole runs of one to nine replicas and their clients in virtual time, each reproduced exactly by its seed.
//!
//! The replication protocol and the store are the real ones, behind [`stablechat_server::applier::Applier`], with RocksDB in
//! memory; so are the client's session, queries, inbox and clock correction. Everything around them is simulated: clocks
//! that differ, links with delays, connections that break, and replicas that are paused, killed, stopped and started.
//!
//! - `scenario` says what a run is: its mode, its seed, and the number of replicas; `bounds` has the times that follow from
//!   that number.
//! - `world` has the virtual time and the queue of events, and passes each event to the part that it concerns.
//! - `faults` draws single faults at random; its documentation says how to add one. `scenes` are faults in a given order,
//!   each made to test one rule of the protocol; `situations`
//!   recognizes what must keep occurring in them.
//! - `network` has the connections of clients, `links` those between replicas: first in, first out, until they break.
//! - `node` is a replica's process: the applier, and the part of the poll loop in front of it. `disk` outlives processes.
//! - `client` is a user's program, which works off a plan.
//! - `checks` examines everything that replicas do, after every step; `verdict` examines the final state.
//! - `history` compares all answers with those of `specification`, a second and simpler implementation of the service, and
//!   so proves each run linearizable.
//!
//! There are two modes. Each makes claims of its own, and they must not be confused. *Within bounds* ([`Mode::Bounds`]) the
//! delivery bound holds: all replicas apply the same requests in the same order, none ever repairs its log, and answers are
//! the same everywhere and linearizable. *Beyond bounds* ([`Mode::Beyond`]) it does not hold: no answered request is lost,
//! and when the faults have ended the replicas become equal. In both modes, answers come by the closed test once the faults
//! have ended.

mod bounds;
mod checks;
mod client;
mod clock;
mod disk;
mod faults;
mod history;
mod label;
mod links;
mod network;
mod node;
mod peer_links;
mod plan;
mod scenario;
mod scenes;
mod setup;
mod situations;
mod specification;
mod stopwatch;
mod tally;
mod trace;
mod verdict;
mod world;

pub use faults::Fault;
pub use scenario::{Mode, REPLICAS_MAX, REPLICAS_USUAL, Scenario};
pub use scenes::SceneKind;
pub use situations::{
    CUT_SHORT, ENDED_FOR_ITS_CLOCK, FOREIGN_ANSWER, OTHER_COMMAND, RAISED_ITS_CLOCK, STOOD_DOWN, TOLD_TOO_SLOW,
    TWO_SLOW_LOGS, UNPLACEABLE,
};
pub use tally::{Latencies, Tally};
pub use trace::Trace;

use stablechat_protocol::time::Timestamp;
use std::fmt;
use std::time::Duration;
use world::World;

/// Δ, the delivery bound of the simulated cluster: the default of real ones, whatever the number of replicas.
const DELIVERY_BOUND: Duration = Duration::from_millis(1000);
/// The true time at which every run begins.
const START: Timestamp = Timestamp(1_700_000_000_000_000_000);

/// The outcome of a run without a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Everything that was counted.
    pub tally: Tally,
    /// How long answers took.
    pub latencies: Latencies,
    /// How long answers took after the faults had ended.
    pub calm_latencies: Latencies,
    /// The log and state digests of all replicas at the end, as text: equal for equal runs.
    pub fingerprint: String,
}

/// A claim of the mode that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The run that failed.
    pub scenario: Scenario,
    /// The number of events before the failure.
    pub step: u64,
    /// The virtual time of the failure, since the start of the run.
    pub after: Duration,
    /// What did not hold.
    pub what: String,
    /// The last events at the replicas concerned.
    pub events: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { scenario, step, after, what, events } = self;
        write!(formatter, "{scenario}, step {step}, after {:.6} s: {what}", after.as_secs_f64())?;
        events.iter().try_for_each(|event| write!(formatter, "\n  {event}"))
    }
}

impl std::error::Error for Failure {}

/// A claim that did not hold, and the replica at which it did not; none when it concerns several, or the run as a whole.
#[derive(Clone, Debug)]
struct Violation {
    what: String,
    replica: Option<usize>,
}

/// Either the claims hold, or one that does not.
type Check<T = ()> = Result<T, Violation>;

impl Violation {
    /// A claim that does not hold at one replica.
    fn at(replica: usize, what: impl Into<String>) -> Violation {
        Violation { what: format!("replica {}: {}", node::name(replica), what.into()), replica: Some(replica) }
    }

    /// A claim that does not hold between replicas, or for the run as a whole.
    fn among_all(what: impl Into<String>) -> Violation {
        Violation { what: what.into(), replica: None }
    }
}

/// Runs a scenario. One that fails is run again with a trace, for the last events before the failure.
///
/// # Errors
/// A claim of the mode did not hold.
pub fn run(scenario: Scenario) -> Result<Run, Failure> {
    trace_run(scenario, Trace::Off).or_else(|_| trace_run(scenario, Trace::recent()))
}

/// Runs a scenario, and records its events in `trace`.
///
/// # Errors
/// A claim of the mode did not hold.
pub fn trace_run(scenario: Scenario, trace: Trace) -> Result<Run, Failure> {
    let mut world = World::new(scenario, trace);
    world.run().map_err(|violation| Failure {
        scenario,
        step: world.step(),
        after: world.now().since(START),
        what: violation.what,
        events: world.trace().last_of(violation.replica),
    })
}
