//! Compares the measured delays and clock offsets with the delivery bound.
//!
//! The protocol assumes Δ ≥ N·(δ+ε). δ is the longest time that a request takes from one live process to the next. Between
//! replicas that is a hop: an announcement, a fetch and a body, which are three messages in sequence, plus the delay
//! [`FETCH_DELAY`] before a replica fetches. From a client it is one message. ε is the most by which the clocks of two replicas
//! differ; a client's clock does not count, because the client corrects its timestamps. Both are taken at p99.9, and the
//! measurement error of the clocks is added to ε.

use super::delays::{Delay, hops, measure, quantile};
use super::paths::{Path, Place};
use stablechat_protocol::cluster::{Cluster, DELIVERY_BOUND_MAX_MS};
use stablechat_protocol::peer::FETCH_DELAY;
use stablechat_protocol::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// The quantile that stands for the longest delay and the largest clock skew: a maximum would grow with the number of pings.
const P999: f64 = 0.999;
/// The recommended Δ is this many times N·(δ+ε): delays outside of the measurement may be longer than those in it. It can be
/// generous, since Δ is waited for only when a machine or a cable is lost.
pub const HEADROOM: u32 = 4;
/// The least Δ that is recommended. A replica that is suspended for Δ/N has to rejoin, and machines that are busy, backed up or
/// moved now and then do not run a process for tens or hundreds of milliseconds.
pub const RECOMMENDED_MIN: Duration = Duration::from_millis(1000);
/// Recommendations are these numbers times a power of ten: round, and at most a half above the wanted value.
const ROUND: [u64; 10] = [10, 15, 20, 25, 30, 40, 50, 60, 80, 100];

/// The results of a measurement.
pub struct Findings {
    /// The replicas' names, in the order of the cluster file.
    names: Vec<String>,
    /// Δ.
    pub bound: Duration,
    /// One for each pair of places.
    pub legs: Vec<Leg>,
    /// The one-way delays of all messages, sorted, in nanoseconds.
    pub delays: Vec<u64>,
}

/// The measurements between two places, in both directions.
pub struct Leg {
    /// The place that pinged. On a leg between replicas, `to` has pinged as well.
    pub from: Place,
    pub to: Place,
    /// How many pings were answered.
    pub pings: usize,
    /// `None` when no ping was answered.
    pub figures: Option<Figures>,
    /// The age of the oldest ping that was never answered; zero if there is none.
    pub waited: Duration,
    /// Whether it was measured from the beginning to the end, without an interrupted connection.
    pub is_whole: bool,
}

/// Figures of a leg, in nanoseconds.
pub struct Figures {
    /// Delays of messages to its end.
    pub there: Spread,
    /// Delays of messages to its beginning.
    pub back: Spread,
    /// How far the clock at its end is ahead, in the median.
    pub ahead: i64,
    /// By how much `ahead` may be wrong, in the median.
    pub error: u64,
    /// By how much the two clocks differ at most at p99.9, error included.
    pub skew: u64,
    /// How long three messages in sequence take at p99.9.
    pub three_messages: u64,
}

/// Delays, in nanoseconds.
pub struct Spread {
    pub median: u64,
    pub p999: u64,
    pub longest: u64,
}

/// The largest value of a figure, and the leg where it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Largest {
    pub size: Duration,
    pub from: Place,
    pub to: Place,
}

/// Whether Δ ≥ N·(δ+ε).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Holds,
    Fails,
    /// It holds on the legs that were measured, but some were not, or only in part.
    Unknown,
}

impl Findings {
    /// Evaluates these paths. Pings that are open at `now` count as unanswered.
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
        self.largest(|leg| leg.from == Place::Here, |figures| figures.there.p999.max(figures.back.p999))
    }

    /// The longest hop between replicas.
    pub fn hop(&self) -> Option<Largest> {
        let three_messages = self.largest(|leg| leg.from != Place::Here, |figures| figures.three_messages);
        three_messages.map(|largest| Largest { size: largest.size + FETCH_DELAY, ..largest })
    }

    /// δ: the longer of a hop and a client's message.
    pub fn delta(&self) -> Duration {
        self.hop().max(self.client_message()).map(|largest| largest.size).unwrap_or_default()
    }

    /// ε, and between which replicas; `None` when no two clocks of replicas were compared.
    pub fn epsilon(&self) -> Option<Largest> {
        let of = |leg: &Leg| {
            let size = Duration::from_nanos(leg.figures.as_ref()?.skew);
            (leg.from != Place::Here).then_some(Largest { size, from: leg.from, to: leg.to })
        };
        self.legs.iter().filter_map(of).max()
    }

    /// Whether a ping was never answered, so that only a lower bound of δ is known.
    pub fn is_waiting(&self) -> bool {
        self.legs.iter().any(|leg| !leg.waited.is_zero())
    }

    /// N·(δ+ε).
    pub fn needed(&self) -> Duration {
        let epsilon = self.epsilon().map_or(Duration::ZERO, |largest| largest.size);
        (self.delta() + epsilon) * self.replicas()
    }

    /// Whether Δ is long enough for the measured delays and clocks.
    pub fn verdict(&self) -> Verdict {
        match self.needed() <= self.bound {
            false => Verdict::Fails,
            true if self.legs.iter().all(|leg| leg.is_whole) => Verdict::Holds,
            true => Verdict::Unknown,
        }
    }

    /// The recommended Δ; `None` when it is longer than a cluster file allows, or δ is not known.
    pub fn recommended(&self) -> Option<Duration> {
        if self.is_waiting() {
            return None;
        }
        let wanted = (self.needed() * HEADROOM).max(RECOMMENDED_MIN);
        let milliseconds = round_up(u64::try_from(wanted.as_nanos().div_ceil(1_000_000)).ok()?);
        (milliseconds <= DELIVERY_BOUND_MAX_MS).then(|| Duration::from_millis(milliseconds))
    }

    /// The largest value of a figure on the legs that `is_meant` selects.
    fn largest(&self, is_meant: impl Fn(&Leg) -> bool, figure: impl Fn(&Figures) -> u64) -> Option<Largest> {
        let of = |leg: &Leg| {
            let measured = leg.figures.as_ref().map(|figures| Duration::from_nanos(figure(figures)));
            // An answer that has not come takes at least as long as it has been waited for.
            let size = measured.max((!leg.waited.is_zero()).then_some(leg.waited))?;
            Some(Largest { size, from: leg.from, to: leg.to })
        };
        self.legs.iter().filter(|leg| is_meant(leg)).filter_map(of).max()
    }
}

/// Merges the two paths between two places into a leg. Appends the delays of their messages to `delays`.
fn leg(
    forth: Option<&Path>,
    back: Option<&Path>,
    (from, to): (Place, Place),
    now: Timestamp,
    delays: &mut Vec<u64>,
) -> Leg {
    let turned = |delay: Delay| Delay { there: delay.back, back: delay.there, offset: -delay.offset, ..delay };
    let (mut measured, mut three_messages) = (Vec::new(), Vec::new());
    for (path, is_forth) in [(forth, true), (back, false)] {
        let Some(exchanges) = path.map(Path::exchanges) else { continue };
        let delays = measure(exchanges);
        three_messages.extend(hops(exchanges, &delays));
        measured.extend(delays.into_iter().map(|delay| if is_forth { delay } else { turned(delay) }));
    }
    three_messages.sort_unstable();
    measured.iter().for_each(|delay| delays.extend([delay.there, delay.back]));
    let paths = || [forth, back].into_iter().flatten();
    Leg {
        from,
        to,
        pings: measured.len(),
        figures: (!measured.is_empty()).then(|| figures(&measured, &three_messages)),
        waited: paths().filter_map(|path| path.waited(now)).max().unwrap_or_default(),
        is_whole: paths().any(Path::is_whole),
    }
}

/// The figures of a leg that has measurements. `three_messages` is sorted.
fn figures(measured: &[Delay], three_messages: &[u64]) -> Figures {
    let sorted = |of: fn(&Delay) -> u64| {
        let mut all: Vec<u64> = measured.iter().map(of).collect();
        all.sort_unstable();
        all
    };
    let spread = |all: Vec<u64>| Spread {
        median: quantile(&all, 0.5),
        p999: quantile(&all, P999),
        longest: quantile(&all, 1.0),
    };
    let mut offsets: Vec<i64> = measured.iter().map(|delay| delay.offset).collect();
    offsets.sort_unstable();
    Figures {
        there: spread(sorted(|delay| delay.there)),
        back: spread(sorted(|delay| delay.back)),
        ahead: quantile(&offsets, 0.5),
        error: quantile(&sorted(|delay| delay.error), 0.5),
        skew: quantile(&sorted(|delay| delay.offset.unsigned_abs().saturating_add(delay.error)), P999),
        three_messages: quantile(three_messages, P999),
    }
}

/// The least round number that is not below this one, from 10 on.
fn round_up(number: u64) -> u64 {
    let mut unit = 1;
    loop {
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
        Cluster::parse(&format!("name = 'demo'\nid = '1'\ndelivery_bound_ms = {bound_ms}\n{entries}"))
            .expect("a good file")
    }

    /// A path with 1,000 exchanges of these delays and this clock offset. In the last ten, the ping takes `late`.
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

    /// Two replicas: 1 ms from here to each, 4 ms between them except for late pings, and clocks that differ by 2 ms.
    fn two(late: u64) -> BTreeMap<(Place, Place), Path> {
        let near = || path(MS, MS, 0, MS);
        [((HERE, A), near()), ((HERE, B), near()), ((A, B), path(4 * MS, 4 * MS, 2 * MS as i64, late))].into()
    }

    #[test]
    fn a_hop_is_three_messages_and_epsilon_includes_the_error() {
        let findings = Findings::of(&cluster(2, 100), &two(4 * MS), START);
        let ms = Duration::from_millis;
        assert_eq!(findings.client_message().map(|largest| largest.size), Some(ms(1)));
        assert_eq!(findings.hop(), Some(Largest { size: ms(14), from: A, to: B }));
        assert_eq!(findings.delta(), ms(14));
        // 2 ms, and half of the round trip of 8 ms.
        assert_eq!(findings.epsilon(), Some(Largest { size: ms(6), from: A, to: B }));
        assert_eq!((findings.needed(), findings.verdict()), (ms(40), Verdict::Holds));
        assert_eq!(findings.recommended(), Some(ms(1000)));
        assert_eq!((findings.delays.len(), findings.legs.len()), (6000, 3));
        let figures = findings.legs[2].figures.as_ref().expect("measured");
        assert_eq!((figures.ahead, figures.there.median, figures.back.longest), (2 * MS as i64, 4 * MS, 4 * MS));
    }

    #[test]
    fn late_messages_count_and_may_break_the_bound() {
        let late = Findings::of(&cluster(2, 100), &two(60 * MS), START);
        let ms = Duration::from_millis;
        let figures = late.legs[2].figures.as_ref().expect("measured");
        assert_eq!((figures.there.median, figures.there.p999, figures.back.p999), (4 * MS, 60 * MS, 4 * MS));
        // Late pings follow each other, so three messages include two of them.
        assert_eq!(late.hop().map(|hop| hop.size), Some(ms(60 + 4 + 60 + 2)));
        assert_eq!((late.verdict(), late.recommended()), (Verdict::Fails, Some(ms(1500))));
        let far = Findings::of(&cluster(2, 100), &two(20_000 * MS), START);
        assert_eq!((far.verdict(), far.recommended()), (Verdict::Fails, None));
    }

    #[test]
    fn pings_from_both_ends_belong_to_one_leg() {
        let mut paths = two(4 * MS);
        // The same two clocks, seen from the other end, and another delay.
        paths.insert((B, A), path(7 * MS, 4 * MS, -2 * MS as i64, 7 * MS));
        let findings = Findings::of(&cluster(2, 100), &paths, START);
        let leg = &findings.legs[2];
        let figures = leg.figures.as_ref().expect("measured");
        assert_eq!((leg.from, leg.to, leg.pings), (A, B, 2000));
        // The second path is asymmetric, so half of its difference is taken for a clock offset.
        assert_eq!((figures.there.longest, figures.back.longest), (5 * MS + MS / 2, 5 * MS + MS / 2));
        assert!((500_000..=2_000_000).contains(&figures.ahead), "{}", figures.ahead);
    }

    #[test]
    fn without_a_path_the_verdict_is_unknown_and_an_open_ping_counts_as_late() {
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
        assert_eq!(late.recommended(), None, "the delay of an unanswered ping is not known");
        assert_eq!(Findings::of(&cluster(2, 100), &BTreeMap::new(), START).verdict(), Verdict::Unknown);
    }

    #[test]
    fn a_cluster_of_one_replica_has_no_hop() {
        let paths = [((HERE, A), path(MS, MS, 0, MS))].into();
        let findings = Findings::of(&cluster(1, 10), &paths, START);
        assert_eq!((findings.verdict(), findings.needed()), (Verdict::Holds, Duration::from_millis(1)));
    }

    #[test]
    fn recommendations_are_round_numbers() {
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
