//! What goes wrong, and when: chosen at random, within the bounds under which steady replicas have to agree.
//!
//! The bounds are those of a run in which replicas do not talk to each other: everything that is not lost for all must reach
//! every steady replica within Δ. So connections to steady replicas break one at a time and not in quick succession, they
//! are made again soon, and a steady replica is not paused while one of its connections is being made.

use super::REPLICAS;
use super::node::Death;
use fastrand::Rng;
use std::time::Duration;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection between a client and a replica breaks.
    Break {
        /// The client.
        client: usize,
        /// The replica.
        node: usize,
    },
    /// All connections of a client break.
    Isolate {
        /// The client.
        client: usize,
    },
    /// A replica is suspended, and resumed.
    Pause {
        /// The replica.
        node: usize,
        /// For how long.
        pause: Duration,
    },
    /// A replica is killed, and started again.
    Kill {
        /// The replica.
        node: usize,
        /// In the middle of what; between two turns when of none.
        death: Option<Death>,
    },
    /// A replica is asked to stop.
    Stop {
        /// The replica.
        node: usize,
    },
}

/// When faults begin, after all clients have connected.
pub const BEGIN: Duration = Duration::from_millis(1000);
/// When they end.
pub const END: Duration = Duration::from_secs(12);
/// The most milliseconds from one fault to the next.
const GAP_MAX_MS: u64 = 400;

/// Which replicas are steady: one at least.
pub fn steady(random: &mut Rng) -> [bool; REPLICAS] {
    let mut steady = [true; REPLICAS];
    for _ in 0..random.usize(0..REPLICAS) {
        steady[random.usize(..REPLICAS)] = false;
    }
    steady
}

/// The time until the next fault.
pub fn gap(random: &mut Rng) -> Duration {
    Duration::from_millis(random.u64(1..GAP_MAX_MS))
}

/// Some fault. Replicas that are steady are neither killed nor stopped.
pub fn choose(random: &mut Rng, steady: [bool; REPLICAS], clients: usize) -> Fault {
    let node = random.usize(..REPLICAS);
    let client = random.usize(..clients);
    match random.u8(..10) {
        0..3 => Fault::Break { client, node },
        3 => Fault::Isolate { client },
        4..6 => {
            let most = if random.u8(..4) == 0 { 4000 } else { 200 };
            Fault::Pause { node, pause: Duration::from_millis(random.u64(1..most)) }
        }
        _ if steady[node] => Fault::Break { client, node },
        6 => Fault::Stop { node },
        _ => {
            let deaths = [None, Some(Death::BeforeCommit), Some(Death::AfterRelease)];
            Fault::Kill { node, death: *random.choice(&deaths).expect("there are some") }
        }
    }
}

/// How long a replica that ended stays down: often as good as not at all.
pub fn down_time(random: &mut Rng) -> Duration {
    let most = if random.bool() { 20 } else { 4000 };
    Duration::from_millis(random.u64(..most))
}
