//! What goes wrong, and when: chosen at random, within the bounds of a mode.
//!
//! *Within bounds*, what is accepted anywhere reaches everyone who lives well within Δ: pauses are short, or as good as a
//! restart, breaks are short, clocks agree, and at any time one replica serves that nothing happens to. *Beyond bounds*,
//! nothing of this holds. Faults fall as they like, but for those of a scene (`scenes`), which come in a given order.

use super::node::Death;
use super::{DELIVERY_BOUND, Mode, REPLICAS};
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
    /// The connection between two replicas breaks.
    Sever {
        /// One of them.
        one: usize,
        /// The other.
        other: usize,
    },
    /// A client says something to some replicas, and dies.
    Stray {
        /// Whether the only replica that hears it dies too, soon after.
        ambush: bool,
    },
    /// Several things go wrong in a given order.
    Scene,
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
        /// Whether its disk is lost too.
        wipe: bool,
    },
    /// A replica's disk has no room.
    Full {
        /// The replica.
        node: usize,
        /// For how long.
        length: Duration,
    },
    /// A replica is asked to stop.
    Stop {
        /// The replica.
        node: usize,
    },
    /// Nothing gets from one replica to another, in one direction or both.
    Partition {
        /// One of them.
        from: usize,
        /// The other; all others when it is the same.
        to: usize,
        /// Whether it is both ways.
        symmetric: bool,
        /// For how long.
        length: Duration,
    },
    /// A replica's clock is set.
    Step {
        /// The replica.
        node: usize,
        /// How far it is ahead of the true time from there on, in nanoseconds.
        skew: i64,
    },
}

/// When faults begin, after all clients have connected.
pub const BEGIN: Duration = Duration::from_millis(2000);
/// When they end.
pub const END: Duration = Duration::from_secs(12);
/// After this no scene begins, so that all are over when faults end.
pub const LAST_SCENE: Duration = Duration::from_secs(10);
/// The most milliseconds from one fault to the next.
const GAP_MAX_MS: u64 = 300;
/// The longest short pause, in milliseconds.
const SHORT_PAUSE_MS: u64 = 60;
/// How far a long pause exceeds half the bound at most, in milliseconds. Who is paused for so long begins again as after a
/// restart, so it is within bounds as a restart is.
const LONG_PAUSE_MS: u64 = 2500;

/// The time until the next fault.
pub fn gap(random: &mut Rng) -> Duration {
    Duration::from_millis(random.u64(1..GAP_MAX_MS))
}

/// Some fault. Whether it is within bounds at the time, others know.
pub fn choose(random: &mut Rng, mode: Mode, clients: usize) -> Fault {
    let node = random.usize(..REPLICAS);
    let other = (node + random.usize(1..REPLICAS)) % REPLICAS;
    let client = random.usize(..clients);
    if mode == Mode::Beyond && random.u8(..4) == 0 {
        return beyond(random, node, other);
    }
    match random.u8(..25) {
        0..2 => Fault::Break { client, node },
        2 => Fault::Isolate { client },
        3..6 => Fault::Sever { one: node, other },
        6..8 => Fault::Pause { node, pause: Duration::from_millis(random.u64(1..SHORT_PAUSE_MS)) },
        8 => Fault::Pause { node, pause: DELIVERY_BOUND / 2 + Duration::from_millis(random.u64(1..LONG_PAUSE_MS)) },
        9..11 => Fault::Stray { ambush: false },
        11..14 => Fault::Stray { ambush: true },
        14..16 => Fault::Stop { node },
        24 => Fault::Full { node, length: down_time(random) },
        16..20 => Fault::Kill { node, death: death(random), wipe: false },
        _ => Fault::Scene,
    }
}

/// A fault beyond bounds.
fn beyond(random: &mut Rng, node: usize, other: usize) -> Fault {
    let bound = DELIVERY_BOUND.as_nanos() as u64;
    let length = Duration::from_nanos(random.u64(bound / 10..5 * bound));
    match random.u8(..8) {
        0..2 => Fault::Pause { node, pause: length },
        2..6 => {
            let to = if random.bool() { node } else { other };
            Fault::Partition { from: node, to, symmetric: random.bool(), length }
        }
        6 => Fault::Kill { node, death: death(random), wipe: true },
        _ => {
            let most = if random.bool() { bound / 4 } else { 2 * bound } as i64;
            Fault::Step { node, skew: random.i64(-most..=most) }
        }
    }
}

/// In the middle of what a replica dies.
fn death(random: &mut Rng) -> Option<Death> {
    let deaths = [None, Some(Death::BeforeCommit), Some(Death::AfterRelease(1)), Some(Death::AfterRelease(2))];
    *random.choice(&deaths).expect("there are some")
}

/// How long a replica that ended stays down: often as good as not at all.
pub fn down_time(random: &mut Rng) -> Duration {
    let most = if random.bool() { 20 } else { 3000 };
    Duration::from_millis(random.u64(..most))
}
