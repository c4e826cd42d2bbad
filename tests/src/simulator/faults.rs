//! Single faults: which there are, how often each occurs, and when.
//!
//! *Within bounds*, every accepted request reaches every live replica well within Δ: pauses are short, or so long that the
//! replica rejoins as after a restart; connections are made again soon; clocks agree; and at any time one replica serves that
//! no fault affects. *Beyond bounds*, none of this holds. Faults occur independently of each other, except those of a scene
//! (`scenes`), which come in a given order.
//!
//! To add a kind of fault:
//!
//! 1. Give it a variant of [`Fault`], with all that is drawn for it as fields.
//! 2. Give it a row of `TABLE`: its weight, its mode, the least number of replicas, and how its fields are drawn.
//! 3. Give it a name in [`Fault::name`]. `World::on_fault` counts it under that name whenever it takes effect.
//! 4. Give it an arm in `World::strike` (`world/trouble.rs`), with a handler that says whether it took effect: a handler
//!    must do nothing where the fault would be beyond the bounds of the mode (`World::can_spare`).
//! 5. Add the name to [`Fault::NAMES`]. The fixed set of seeds in `tests/tests/simulator.rs` then fails unless the fault
//!    takes effect often, and `simulate` reports how often it did.

use super::bounds::Bounds;
use super::node::Death;
use super::{DELIVERY_BOUND, Mode};
use fastrand::Rng;
use std::time::Duration;

/// Something that goes wrong. Replicas and clients are named by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection between a client and a replica breaks.
    BreakConnection { client: usize, node: usize },
    /// All connections of a client break.
    IsolateClient { client: usize },
    /// The connection between two replicas breaks.
    Sever { one: usize, other: usize },
    /// A client sends a request to some of the replicas, and dies.
    DeadClient,
    /// A client sends a request to one replica and dies, and soon after so does the replica.
    Ambush,
    /// Several faults in a given order.
    Scene,
    /// A replica is suspended, and resumed after a while: after a long pause it has to rejoin.
    Pause { node: usize, length: Duration, is_long: bool },
    /// A replica is killed, and started again: in the middle of a turn, or between two turns.
    Kill { node: usize, death: Option<Death> },
    /// A replica loses its process and its disk.
    Wipe { node: usize },
    /// A replica's disk has no room left but its reserve, so that it refuses clients' requests.
    AlmostFullDisk { node: usize, length: Duration },
    /// A replica's disk has no room at all. The replica is down until there is room.
    FullDisk { node: usize, length: Duration },
    /// A replica refuses all commands because they come too fast, or all replicas do if there is none.
    Throttle { node: Option<usize>, length: Duration },
    /// A replica is asked to stop, and started again.
    Stop { node: usize },
    /// Nothing gets from one replica to another, or to all others if there is no other, in one direction or in both.
    Partition { from: usize, to: Option<usize>, symmetric: bool, length: Duration },
    /// A firewall refuses connections to a replica in its name, from another replica or from all others, and ends those that
    /// there are.
    Wall { node: usize, from: Option<usize>, length: Duration },
    /// A replica takes so much longer to send another the bodies that it asks for.
    SlowBodies { from: usize, to: usize, wait: Duration, length: Duration },
    /// A machine's wall clock is set so many nanoseconds ahead of the true time, and right again after a while. With `kill`, the
    /// replica starts with the wrong clock.
    WrongClock { node: usize, skew: i64, length: Duration, kill: bool },
}

impl Fault {
    /// All names that faults are counted under.
    pub const NAMES: &[(Mode, &str)] = &[
        (Mode::Bounds, "clients dead half-way"),
        (Mode::Bounds, "clients dead whose only replica dies"),
        (Mode::Bounds, "clients isolated"),
        (Mode::Bounds, "clocks stepped back"),
        (Mode::Bounds, "clocks stepped forward"),
        (Mode::Bounds, "clocks wrong at a start"),
        (Mode::Bounds, "connections between replicas broken"),
        (Mode::Bounds, "connections broken"),
        (Mode::Bounds, "disks almost full"),
        (Mode::Bounds, "disks full"),
        (Mode::Bounds, "kills after something was let out"),
        (Mode::Bounds, "kills before a commit"),
        (Mode::Bounds, "kills between turns"),
        (Mode::Bounds, "pauses"),
        (Mode::Bounds, "pauses longer than a hop"),
        (Mode::Bounds, "pauses longer than the bound"),
        (Mode::Bounds, "replicas stopped"),
        (Mode::Bounds, "replicas throttled"),
        (Mode::Bounds, "scenes"),
        (Mode::Beyond, "bodies slow"),
        (Mode::Beyond, "disks lost"),
        (Mode::Beyond, "partitions"),
        (Mode::Beyond, "partitions one way"),
        (Mode::Beyond, "replicas walled off"),
    ];

    /// What the fault is counted as.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::BreakConnection { .. } => "connections broken",
            Fault::IsolateClient { .. } => "clients isolated",
            Fault::Sever { .. } => "connections between replicas broken",
            Fault::DeadClient => "clients dead half-way",
            Fault::Ambush => "clients dead whose only replica dies",
            Fault::Scene => "scenes",
            Fault::Pause { length, .. } if *length > DELIVERY_BOUND => "pauses longer than the bound",
            Fault::Pause { is_long: true, .. } => "pauses longer than a hop",
            Fault::Pause { .. } => "pauses",
            Fault::Kill { death: Some(Death::BeforeCommit), .. } => "kills before a commit",
            Fault::Kill { death: Some(Death::AfterRelease(_)), .. } => "kills after something was let out",
            Fault::Kill { death: None, .. } => "kills between turns",
            Fault::Wipe { .. } => "disks lost",
            Fault::AlmostFullDisk { .. } => "disks almost full",
            Fault::FullDisk { .. } => "disks full",
            Fault::Throttle { .. } => "replicas throttled",
            Fault::Stop { .. } => "replicas stopped",
            Fault::Partition { symmetric: true, .. } => "partitions",
            Fault::Partition { symmetric: false, .. } => "partitions one way",
            Fault::Wall { .. } => "replicas walled off",
            Fault::SlowBodies { .. } => "bodies slow",
            Fault::WrongClock { kill: true, .. } => "clocks wrong at a start",
            Fault::WrongClock { skew: ..0, .. } => "clocks stepped back",
            Fault::WrongClock { .. } => "clocks stepped forward",
        }
    }
}

/// When faults begin, after all clients have connected.
pub const BEGIN: Duration = Duration::from_millis(2000);
/// When they end.
pub const END: Duration = Duration::from_secs(12);
/// The most milliseconds from one fault to the next.
const GAP_MAX_MS: u64 = 300;
/// How far a long pause exceeds a hop at most, in milliseconds. A replica that was paused for so long
/// rejoins as after a restart, so such a pause is within bounds as a restart is.
const LONG_PAUSE_MS: u64 = 2600;

/// The most milliseconds for which commands are refused because they come too fast.
const THROTTLED_MAX_MS: u64 = 1000;

/// How a kind of fault is drawn.
struct Row {
    /// How often it is drawn: the share of this in the sum of all weights of the mode.
    weight: u32,
    /// Whether it is drawn beyond bounds only.
    mode: Mode,
    /// The least number of replicas at which it means something.
    replicas: usize,
    draw: fn(&mut Dice) -> Fault,
}

/// All kinds of faults.
const TABLE: &[Row] = &[
    Row { weight: 6, mode: Mode::Bounds, replicas: 1, draw: |dice| dice.break_connection() },
    Row { weight: 3, mode: Mode::Bounds, replicas: 1, draw: |dice| Fault::IsolateClient { client: dice.client } },
    Row { weight: 9, mode: Mode::Bounds, replicas: 2, draw: |dice| Fault::Sever { one: dice.node, other: dice.other } },
    Row { weight: 6, mode: Mode::Bounds, replicas: 1, draw: |dice| dice.short_pause() },
    Row { weight: 4, mode: Mode::Bounds, replicas: 1, draw: |dice| dice.long_pause() },
    Row { weight: 6, mode: Mode::Bounds, replicas: 1, draw: |_| Fault::DeadClient },
    Row { weight: 9, mode: Mode::Bounds, replicas: 1, draw: |_| Fault::Ambush },
    Row { weight: 6, mode: Mode::Bounds, replicas: 1, draw: |dice| Fault::Stop { node: dice.node } },
    Row { weight: 2, mode: Mode::Bounds, replicas: 1, draw: |dice| dice.almost_full_disk() },
    Row { weight: 2, mode: Mode::Bounds, replicas: 1, draw: |dice| dice.full_disk() },
    Row { weight: 3, mode: Mode::Bounds, replicas: 1, draw: |dice| dice.throttle() },
    Row { weight: 12, mode: Mode::Bounds, replicas: 1, draw: |dice| dice.kill() },
    Row { weight: 7, mode: Mode::Bounds, replicas: 2, draw: |dice| dice.wrong_clock() },
    Row { weight: 12, mode: Mode::Bounds, replicas: 2, draw: |_| Fault::Scene },
    Row { weight: 6, mode: Mode::Beyond, replicas: 1, draw: |dice| dice.any_pause() },
    Row { weight: 12, mode: Mode::Beyond, replicas: 2, draw: |dice| dice.partition() },
    Row { weight: 3, mode: Mode::Beyond, replicas: 2, draw: |dice| Fault::Wipe { node: dice.node } },
    Row { weight: 6, mode: Mode::Beyond, replicas: 2, draw: |dice| dice.wall() },
    Row { weight: 4, mode: Mode::Beyond, replicas: 2, draw: |dice| dice.slow_bodies() },
    Row { weight: 3, mode: Mode::Beyond, replicas: 1, draw: |dice| dice.slightly_wrong_clock() },
];

/// Draws a fault. Its handler decides whether it is within bounds at the time.
pub fn draw(random: &mut Rng, mode: Mode, bounds: Bounds, replicas: usize, clients: usize) -> Fault {
    let rows =
        TABLE.iter().filter(|row| row.replicas <= replicas && (row.mode == Mode::Bounds || mode == Mode::Beyond));
    let sum: u32 = rows.clone().map(|row| row.weight).sum();
    let mut ticket = random.u32(..sum);
    let mut dice = Dice::throw(random, bounds, replicas, clients);
    for row in rows {
        match ticket.checked_sub(row.weight) {
            Some(rest) => ticket = rest,
            None => return (row.draw)(&mut dice),
        }
    }
    unreachable!("the ticket is less than the sum of all weights")
}

/// The time until the next fault.
pub fn gap(random: &mut Rng) -> Duration {
    Duration::from_millis(random.u64(1..GAP_MAX_MS))
}

/// How long a replica that ended stays down: in half of all cases hardly at all.
pub fn down_time(random: &mut Rng) -> Duration {
    let most = if random.bool() { 20 } else { 3000 };
    Duration::from_millis(random.u64(..most))
}

/// How far a clock is ahead that is wrong, in nanoseconds: seconds, minutes, days or years, either way.
pub fn wrong_skew(random: &mut Rng) -> i64 {
    let orders = [(1, 10), (10, 3600), (3600, 86_400), (86_400, 40 * 365 * 86_400)];
    let (least, most) = random.choice(orders).expect("there are some");
    let nanoseconds = random.i64(least * 1_000_000_000..most * 1_000_000_000);
    if random.bool() { nanoseconds } else { -nanoseconds }
}

/// What faults are drawn from.
struct Dice<'a> {
    random: &'a mut Rng,
    bounds: Bounds,
    client: usize,
    node: usize,
    /// Another replica than `node`, if there are several.
    other: usize,
}

impl Dice<'_> {
    /// Draws whom the fault concerns.
    fn throw(random: &mut Rng, bounds: Bounds, replicas: usize, clients: usize) -> Dice<'_> {
        let node = random.usize(..replicas);
        let other = if replicas > 1 { (node + random.usize(1..replicas)) % replicas } else { node };
        let client = random.usize(..clients);
        Dice { random, bounds, client, node, other }
    }

    fn break_connection(&mut self) -> Fault {
        Fault::BreakConnection { client: self.client, node: self.node }
    }

    fn short_pause(&mut self) -> Fault {
        let length = self.random.u64(1..self.bounds.short_pause().as_millis() as u64);
        Fault::Pause { node: self.node, length: Duration::from_millis(length), is_long: false }
    }

    fn long_pause(&mut self) -> Fault {
        let to_bound_ms = (DELIVERY_BOUND - self.bounds.hop()).as_millis() as u64;
        let most_ms = if self.random.bool() && to_bound_ms > 1 { to_bound_ms } else { LONG_PAUSE_MS };
        let longer = Duration::from_millis(self.random.u64(1..most_ms));
        Fault::Pause { node: self.node, length: self.bounds.hop() + longer, is_long: true }
    }

    /// A pause of any length up to 5 Δ.
    fn any_pause(&mut self) -> Fault {
        let length = self.length();
        Fault::Pause { node: self.node, length, is_long: length > self.bounds.hop() }
    }

    fn almost_full_disk(&mut self) -> Fault {
        Fault::AlmostFullDisk { node: self.node, length: down_time(self.random) }
    }

    fn full_disk(&mut self) -> Fault {
        Fault::FullDisk { node: self.node, length: down_time(self.random) }
    }

    fn throttle(&mut self) -> Fault {
        let node = Some(self.node).filter(|_| self.random.bool());
        Fault::Throttle { node, length: Duration::from_millis(self.random.u64(1..THROTTLED_MAX_MS)) }
    }

    fn kill(&mut self) -> Fault {
        let deaths = [None, Some(Death::BeforeCommit), Some(Death::AfterRelease(1)), Some(Death::AfterRelease(2))];
        let death = self.random.choice(deaths).expect("there are some");
        Fault::Kill { node: self.node, death }
    }

    fn partition(&mut self) -> Fault {
        let to = Some(self.other).filter(|_| self.random.bool());
        Fault::Partition { from: self.node, to, symmetric: self.random.bool(), length: self.length() }
    }

    /// A firewall that stands for longer or shorter than Δ.
    fn wall(&mut self) -> Fault {
        let from = Some(self.other).filter(|_| self.random.bool());
        Fault::Wall { node: self.node, from, length: self.length() }
    }

    /// Bodies that take so long that they come within Δ, later, or not while anybody waits for them.
    fn slow_bodies(&mut self) -> Fault {
        let (wait, length) = (self.length(), self.length());
        Fault::SlowBodies { from: self.node, to: self.other, wait, length }
    }

    /// A clock that is wrong by seconds to years.
    fn wrong_clock(&mut self) -> Fault {
        let skew = wrong_skew(self.random);
        Fault::WrongClock { node: self.node, skew, length: self.length(), kill: self.random.bool() }
    }

    /// A clock that is wrong by up to 2 Δ, which replicas may or may not notice.
    fn slightly_wrong_clock(&mut self) -> Fault {
        let most = 2 * DELIVERY_BOUND.as_nanos() as i64;
        let skew = self.random.i64(-most..=most);
        Fault::WrongClock { node: self.node, skew, length: self.length(), kill: self.random.bool() }
    }

    /// From a tenth of Δ to 5 Δ.
    fn length(&mut self) -> Duration {
        let bound = DELIVERY_BOUND.as_nanos() as u64;
        Duration::from_nanos(self.random.u64(bound / 10..5 * bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_mode_draws_only_its_own_faults() {
        let mut random = Rng::with_seed(1);
        for mode in [Mode::Bounds, Mode::Beyond] {
            let named = Fault::NAMES.iter().filter(|(of, _)| *of == Mode::Bounds || mode == Mode::Beyond);
            let named: BTreeSet<&str> = named.map(|(_, name)| *name).collect();
            let drawn = (0..20_000).map(|_| draw(&mut random, mode, Bounds::of(3), 3, 2).name());
            assert_eq!(drawn.collect::<BTreeSet<&str>>(), named);
        }
    }
}
