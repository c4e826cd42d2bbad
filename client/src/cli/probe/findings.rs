//! What the measured delays and clocks mean for the delivery bound.
//!
//! The assumption is Δ ≥ N·(δ+ε). δ is the longest that it takes for a request to get from one live process to the next. Among
//! replicas that is a hop: an announcement, a fetch and a body, hence three messages one after the other, and the moment for
//! which a replica waits before it fetches. From a client it is one message. ε is the most by which the clocks of two replicas
//! differ; a client's clock is corrected, so it does not matter. Both are taken at p99.9, and what cannot be told of the clocks is
//! added to ε.

use super::delays::{Delay, hops, measure, quantile};
use super::paths::{Path, Place};
use stablechat_protocol::cluster::{Cluster, DELIVERY_BOUND_MAX_MS};
use stablechat_protocol::peer::FETCH_DELAY;
use stablechat_protocol::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// The share of delays and distances that are within what is taken for the longest.
const HIGH: f64 = 0.999;
/// How many times what is needed is recommended: what was not seen while measuring may be worse than what was.
pub const HEADROOM: u32 = 2;
/// The least that is recommended. A replica that is suspended for half of the bound has to begin again, and machines that are busy
/// do not run a process for tens of milliseconds, once in a while.
pub const RECOMMENDED_MIN: Duration = Duration::from_millis(200);
/// What a person would write, in tens of the leading digit.
const ROUND: [u64; 10] = [10, 15, 20, 25, 30, 40, 50, 60, 80, 100];

/// What was found.
pub struct Findings {
    /// The names of the replicas.
    names: Vec<String>,
    /// Δ.
    pub bound: Duration,
    /// What was measured, for each two places.
    pub legs: Vec<Leg>,
    /// The delays of all messages, sorted, in nanoseconds.
    pub delays: Vec<u64>,
}

/// What was measured between two places.
pub struct Leg {
    /// Where its pings began; on a leg between replicas, some began at the other end.
    pub from: Place,
    /// Where they were answered.
    pub to: Place,
    /// How many were answered.
    pub pings: usize,
    /// What the answers say, if there are any.
    pub figures: Option<Figures>,
    /// How long the oldest ping that was never answered has been waited for.
    pub waited: Duration,
    /// Whether it was measured all the time.
    pub is_whole: bool,
}

/// Figures of a leg, in nanoseconds.
pub struct Figures {
    /// Delays of messages to its end.
    pub there: Spread,
    /// Delays of messages to its beginning.
    pub back: Spread,
    /// How far the clock at its end is ahead: half of the time by less, half by more.
    pub ahead: i64,
    /// By how much that may be wrong, half of the time.
    pub error: u64,
    /// By how much the two clocks differ at most at p99.9, error included.
    pub skew: u64,
    /// How long three messages one after the other take at p99.9.
    pub three: u64,
}

/// Delays, in nanoseconds.
pub struct Spread {
    /// Half of them are shorter.
    pub median: u64,
    /// All but one in a thousand are within this.
    pub high: u64,
    /// The longest.
    pub longest: u64,
}

/// The largest of some figures, and between which places it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Largest {
    /// The figure.
    pub size: Duration,
    /// From where.
    pub from: Place,
    /// To where.
    pub to: Place,
}

/// Whether Δ ≥ N·(δ+ε).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Holds,
    /// It does not.
    Fails,
    /// It holds for what was measured, and that is not all.
    Unknown,
}

impl Findings {
    /// What follows from these paths; what is open at `now` was not answered in time.
    pub fn of(cluster: &Cluster, paths: &BTreeMap<(Place, Place), Path>, now: Timestamp) -> Findings {
        let mut delays = Vec::new();
        let mut legs = Vec::new();
        let places = 0..cluster.replicas.len();
        for end in places {
            let end = Place::Replica(end);
            let before = std::iter::once(Place::Here).chain((0..cluster.replicas.len()).map(Place::Replica));
            for begin in before.take_while(|begin| *begin < end) {
                legs.push(leg(paths.get(&(begin, end)), paths.get(&(end, begin)), (begin, end), now, &mut delays));
            }
        }
        legs.sort_by_key(|leg| (leg.from, leg.to));
        delays.sort_unstable();
        let names = cluster.replicas.iter().map(|replica| replica.name.to_string()).collect();
        Findings { names, bound: cluster.delivery_bound, legs, delays }
    }

    /// What a place is called.
    pub fn name(&self, place: Place) -> &str {
        match place {
            Place::Here => "here",
            Place::Replica(number) => &self.names[number],
        }
    }

    /// N.
    pub fn replicas(&self) -> u32 {
        u32::try_from(self.names.len()).expect("a cluster has few replicas")
    }

    /// The longest delay of a message from here to a replica or back.
    pub fn client_message(&self) -> Option<Largest> {
        self.largest(|leg| leg.from == Place::Here, |figures| figures.there.high.max(figures.back.high))
    }

    /// The longest hop between replicas.
    pub fn hop(&self) -> Option<Largest> {
        let three = self.largest(|leg| leg.from != Place::Here, |figures| figures.three);
        three.map(|largest| Largest { size: largest.size + FETCH_DELAY, ..largest })
    }

    /// δ: the longer of a hop and of a client's message.
    pub fn delta(&self) -> Duration {
        self.hop().max(self.client_message()).map(|largest| largest.size).unwrap_or_default()
    }

    /// ε, and where; none when no two clocks of replicas were compared.
    pub fn epsilon(&self) -> Option<Largest> {
        let of = |leg: &Leg| {
            let size = Duration::from_nanos(leg.figures.as_ref()?.skew);
            (leg.from != Place::Here).then_some(Largest { size, from: leg.from, to: leg.to })
        };
        self.legs.iter().filter_map(of).max()
    }

    /// Whether a ping was never answered, so that δ is not known but that it is at least so long.
    pub fn is_waiting(&self) -> bool {
        self.legs.iter().any(|leg| !leg.waited.is_zero())
    }

    /// N·(δ+ε).
    pub fn needed(&self) -> Duration {
        let epsilon = self.epsilon().map_or(Duration::ZERO, |largest| largest.size);
        (self.delta() + epsilon) * self.replicas()
    }

    /// Whether Δ is enough.
    pub fn verdict(&self) -> Verdict {
        match self.needed() <= self.bound {
            false => Verdict::Fails,
            true if self.legs.iter().all(|leg| leg.is_whole) => Verdict::Holds,
            true => Verdict::Unknown,
        }
    }

    /// The Δ to be recommended; none when a cluster file cannot have one so long, or δ is not known.
    pub fn recommended(&self) -> Option<Duration> {
        if self.is_waiting() {
            return None;
        }
        let wanted = (self.needed() * HEADROOM).max(RECOMMENDED_MIN);
        let milliseconds = round_up(u64::try_from(wanted.as_nanos().div_ceil(1_000_000)).ok()?);
        (milliseconds <= DELIVERY_BOUND_MAX_MS).then(|| Duration::from_millis(milliseconds))
    }

    /// The largest of a figure that is a time, on these legs.
    fn largest(&self, is_meant: impl Fn(&Leg) -> bool, figure: impl Fn(&Figures) -> u64) -> Option<Largest> {
        let of = |leg: &Leg| {
            let measured = leg.figures.as_ref().map(|figures| Duration::from_nanos(figure(figures)));
            // What has not come takes at least as long as it has been waited for.
            let size = measured.max((!leg.waited.is_zero()).then_some(leg.waited))?;
            Some(Largest { size, from: leg.from, to: leg.to })
        };
        self.legs.iter().filter(|leg| is_meant(leg)).filter_map(of).max()
    }
}

/// What was measured between two places from either end. Adds the delays of all messages to `delays`.
fn leg(
    forth: Option<&Path>,
    back: Option<&Path>,
    (from, to): (Place, Place),
    now: Timestamp,
    delays: &mut Vec<u64>,
) -> Leg {
    let turned = |delay: Delay| Delay { there: delay.back, back: delay.there, offset: -delay.offset, ..delay };
    let (mut measured, mut three) = (Vec::new(), Vec::new());
    for (path, is_forth) in [(forth, true), (back, false)] {
        let Some(exchanges) = path.map(Path::exchanges) else { continue };
        let delays = measure(exchanges);
        three.extend(hops(exchanges, &delays));
        measured.extend(delays.into_iter().map(|delay| if is_forth { delay } else { turned(delay) }));
    }
    three.sort_unstable();
    measured.iter().for_each(|delay| delays.extend([delay.there, delay.back]));
    let paths = || [forth, back].into_iter().flatten();
    Leg {
        from,
        to,
        pings: measured.len(),
        figures: (!measured.is_empty()).then(|| figures(&measured, &three)),
        waited: paths().filter_map(|path| path.waited(now)).max().unwrap_or_default(),
        is_whole: paths().any(Path::is_whole),
    }
}

/// The figures of a leg with something measured; `three` are its hops, sorted.
fn figures(measured: &[Delay], three: &[u64]) -> Figures {
    let sorted = |of: fn(&Delay) -> u64| {
        let mut all: Vec<u64> = measured.iter().map(of).collect();
        all.sort_unstable();
        all
    };
    let spread = |all: Vec<u64>| Spread {
        median: quantile(&all, 0.5),
        high: quantile(&all, HIGH),
        longest: quantile(&all, 1.0),
    };
    let mut offsets: Vec<i64> = measured.iter().map(|delay| delay.offset).collect();
    offsets.sort_unstable();
    Figures {
        there: spread(sorted(|delay| delay.there)),
        back: spread(sorted(|delay| delay.back)),
        ahead: quantile(&offsets, 0.5),
        error: quantile(&sorted(|delay| delay.error), 0.5),
        skew: quantile(&sorted(|delay| delay.offset.unsigned_abs().saturating_add(delay.error)), HIGH),
        three: quantile(three, HIGH),
    }
}

/// The next number that a person would write.
fn round_up(number: u64) -> u64 {
    let mut unit = 1;
    loop {
        // Tens of the leading digit, so that ten units are the least.
        if let Some(round) = ROUND.iter().map(|tens| tens * unit).find(|round| *round >= number) {
            return round;
        }
        unit *= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stablechat_protocol::clock_offset::Exchange;

    const MS: u64 = 1_000_000;
    const START: Timestamp = Timestamp(1_700_000_000_000_000_000);
    const HERE: Place = Place::Here;
    const A: Place = Place::Replica(0);
    const B: Place = Place::Replica(1);

    fn cluster(replicas: usize, bound_ms: u64) -> Cluster {
        let names = ["a", "b", "c"];
        let entry = |name: &&str| format!("[[replica]]\nname = '{name}'\naddress = '{name}:1'\n");
        let entries: String = names[..replicas].iter().map(entry).collect();
        Cluster::parse(&format!("name = 'demo'\ndelivery_bound_ms = {bound_ms}\n{entries}")).expect("a good file")
    }

    /// 1,000 exchanges on a path: with these delays and a clock that is ahead, and the last ten with another delay there.
    fn path(there: u64, back: u64, ahead: i64, late: u64) -> Path {
        let mut path = Path::new(true);
        for number in 0..1000 {
            let sent = START.after(Duration::from_millis(10 * number));
            let there = if number >= 990 { late } else { there };
            let clock = Timestamp(sent.0 + there).offset_by(ahead);
            path.on_ping(sent, sent);
            path.on_pong(Exchange { sent, clock, received: Timestamp(sent.0 + there + back) });
        }
        path
    }

    /// Two replicas: 1 ms from here to each, 4 ms between them but for late ones, and clocks that differ by 2 ms.
    fn two(late: u64) -> BTreeMap<(Place, Place), Path> {
        let near = || path(MS, MS, 0, MS);
        [((HERE, A), near()), ((HERE, B), near()), ((A, B), path(4 * MS, 4 * MS, 2 * MS as i64, late))].into()
    }

    #[test]
    fn a_hop_is_three_messages_and_the_clocks_are_as_far_apart_as_they_may_be() {
        let findings = Findings::of(&cluster(2, 100), &two(4 * MS), START);
        let ms = Duration::from_millis;
        assert_eq!(findings.client_message().map(|largest| largest.size), Some(ms(1)));
        assert_eq!(findings.hop(), Some(Largest { size: ms(14), from: A, to: B }));
        assert_eq!(findings.delta(), ms(14));
        // 2 ms, and half of the round trip of 8 ms.
        assert_eq!(findings.epsilon(), Some(Largest { size: ms(6), from: A, to: B }));
        assert_eq!((findings.needed(), findings.verdict()), (ms(40), Verdict::Holds));
        assert_eq!(findings.recommended(), Some(ms(200)));
        assert_eq!((findings.delays.len(), findings.legs.len()), (6000, 3));
        let figures = findings.legs[2].figures.as_ref().expect("measured");
        assert_eq!((figures.ahead, figures.there.median, figures.back.longest), (2 * MS as i64, 4 * MS, 4 * MS));
    }

    #[test]
    fn late_messages_count_and_may_break_the_bound() {
        let late = Findings::of(&cluster(2, 100), &two(60 * MS), START);
        let ms = Duration::from_millis;
        let figures = late.legs[2].figures.as_ref().expect("measured");
        assert_eq!((figures.there.median, figures.there.high, figures.back.high), (4 * MS, 60 * MS, 4 * MS));
        // The late ones come one after the other, so a hop meets two.
        assert_eq!(late.hop().map(|hop| hop.size), Some(ms(60 + 4 + 60 + 2)));
        assert_eq!((late.verdict(), late.recommended()), (Verdict::Fails, Some(ms(600))));
        let far = Findings::of(&cluster(2, 100), &two(20_000 * MS), START);
        assert_eq!((far.verdict(), far.recommended()), (Verdict::Fails, None));
    }

    #[test]
    fn pings_from_both_ends_are_of_one_leg() {
        let mut paths = two(4 * MS);
        // The same two clocks, seen from the other end, and another delay.
        paths.insert((B, A), path(7 * MS, 4 * MS, -2 * MS as i64, 7 * MS));
        let findings = Findings::of(&cluster(2, 100), &paths, START);
        let leg = &findings.legs[2];
        let figures = leg.figures.as_ref().expect("measured");
        assert_eq!((leg.from, leg.to, leg.pings), (A, B, 2000));
        // The ways of the second are not equal, so half of the difference is taken for the clocks'.
        assert_eq!((figures.there.longest, figures.back.longest), (5 * MS + MS / 2, 5 * MS + MS / 2));
        assert!((500_000..=2_000_000).contains(&figures.ahead), "{}", figures.ahead);
    }

    #[test]
    fn what_was_not_measured_is_not_known_and_what_is_not_answered_is_late() {
        let mut paths = two(4 * MS);
        paths.remove(&(A, B));
        let findings = Findings::of(&cluster(2, 100), &paths, START);
        assert_eq!((findings.verdict(), findings.hop(), findings.epsilon()), (Verdict::Unknown, None, None));
        let mut paths = two(4 * MS);
        paths.get_mut(&(HERE, B)).expect("it is there").interrupt();
        assert_eq!(Findings::of(&cluster(2, 100), &paths, START).verdict(), Verdict::Unknown);
        let mut paths = two(4 * MS);
        paths.get_mut(&(HERE, B)).expect("it is there").on_ping(START.next(), START);
        let late = Findings::of(&cluster(2, 100), &paths, START.after(Duration::from_secs(2)));
        assert_eq!((late.verdict(), late.delta()), (Verdict::Fails, Duration::from_secs(2)));
        assert_eq!(late.recommended(), None, "nobody knows how long it takes");
        assert_eq!(Findings::of(&cluster(2, 100), &BTreeMap::new(), START).verdict(), Verdict::Unknown);
    }

    #[test]
    fn one_replica_needs_no_hop() {
        let paths = [((HERE, A), path(MS, MS, 0, MS))].into();
        let findings = Findings::of(&cluster(1, 10), &paths, START);
        assert_eq!((findings.verdict(), findings.needed()), (Verdict::Holds, Duration::from_millis(1)));
    }

    #[test]
    fn recommendations_are_what_a_person_would_write() {
        for (number, rounded) in [
            (0, 10),
            (10, 10),
            (11, 15),
            (200, 200),
            (201, 250),
            (251, 300),
            (801, 1000),
            (1001, 1500),
            (60_001, 80_000),
        ] {
            assert_eq!(round_up(number), rounded);
        }
    }
}
