//! A picture of a cluster over time: the latency and the rate of answers, and the states of the replicas. As an SVG file
//! ([`Picture::svg`]), and for a terminal ([`Picture::text`]).

pub(crate) mod svg;
mod terminal;

use std::time::Duration;

/// The data of a picture. All times count from its beginning.
pub struct Picture {
    /// The heading.
    pub title: String,
    /// The result in one sentence, below the heading.
    pub verdict: String,
    /// The time of each answer and its latency, sorted by time.
    pub answers: Vec<(Duration, Duration)>,
    /// The time of each event and its name of a word or two, sorted by time.
    pub events: Vec<(Duration, String)>,
    /// A lane for each replica.
    pub lanes: Vec<Lane>,
    /// A latency to be marked, and its name.
    pub bound: (Duration, String),
    /// The length of the picture.
    pub end: Duration,
}

/// The states of a replica over time.
pub struct Lane {
    /// The replica's name.
    pub name: String,
    /// The time from which on each state held, sorted by time. The first is at the beginning.
    pub states: Vec<(Duration, State)>,
}

/// The state of a replica's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Runs,
    /// Suspended by SIGSTOP.
    Paused,
    /// There is no process.
    Down,
}

impl Lane {
    /// The state at a time.
    fn at(&self, time: Duration) -> State {
        self.states.iter().rfind(|(from, _)| *from <= time).map_or(State::Down, |(_, state)| *state)
    }

    /// Each state with its begin and end.
    fn spans(&self, end: Duration) -> impl Iterator<Item = (Duration, Duration, State)> {
        let ends = self.states.iter().skip(1).map(|(from, _)| *from).chain([end]);
        self.states.iter().zip(ends).map(|((from, state), to)| (*from, to, *state))
    }
}

/// The answers that came in one of some equal parts of the time.
#[derive(Default)]
struct Bin {
    /// Their latencies, sorted.
    latencies: Vec<Duration>,
}

impl Bin {
    /// The median latency; none without answers.
    fn median(&self) -> Option<Duration> {
        self.latencies.get(self.latencies.len() / 2).copied()
    }

    /// The longest latency; none without answers.
    fn longest(&self) -> Option<Duration> {
        self.latencies.last().copied()
    }
}

impl Picture {
    /// The answers in `count` equal parts of the time, and the length of a part.
    fn bins(&self, count: usize) -> (Vec<Bin>, Duration) {
        let width = self.end / u32::try_from(count).expect("few parts");
        let mut bins: Vec<Bin> = std::iter::repeat_with(Bin::default).take(count).collect();
        for (at, latency) in &self.answers {
            bins[self.place(*at, count)].latencies.push(*latency);
        }
        bins.iter_mut().for_each(|bin| bin.latencies.sort_unstable());
        (bins, width)
    }

    /// The index of the part that a time is in, of `count` equal parts.
    fn place(&self, at: Duration, count: usize) -> usize {
        let share = at.as_secs_f64() / self.end.as_secs_f64();
        ((share * count as f64) as usize).min(count - 1)
    }
}

/// The height of a latency, from 0 to 1, on a logarithmic scale between these powers of ten of milliseconds.
pub(crate) fn height(latency: Duration, (from, to): (i32, i32)) -> f64 {
    let decades = (latency.as_secs_f64() * 1e3).max(1e-3).log10();
    ((decades - f64::from(from)) / f64::from(to - from)).clamp(0.0, 1.0)
}

/// The number of seconds between two marks on the axis of time, so that there are about ten.
fn seconds_between_marks(end: Duration) -> usize {
    [1, 2, 5, 10, 20].into_iter().find(|step| end.as_secs() / step <= 12).unwrap_or(60) as usize
}

/// Answers per second.
fn rate(bin: &Bin, width: Duration) -> f64 {
    bin.latencies.len() as f64 / width.as_secs_f64()
}

/// The least number of the form 1, 2 or 5 times a power of ten that is not below the value.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * power).find(|round| *round >= value).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Ten seconds in which one answer comes each second, but for the fifth, in which one takes a second.
    pub fn picture() -> Picture {
        let latency = |second: u32| if second == 5 { SECOND } else { Duration::from_millis(2) };
        Picture {
            title: "x < y".into(),
            verdict: "all is well".into(),
            answers: (0..10).map(|second| (SECOND * second + SECOND / 2, latency(second))).collect(),
            events: vec![(SECOND * 4, "kill a & b".into()), (SECOND * 7, "start a".into())],
            lanes: vec![Lane {
                name: "a".into(),
                states: vec![(Duration::ZERO, State::Runs), (SECOND * 4, State::Down), (SECOND * 7, State::Runs)],
            }],
            bound: (SECOND, "delivery bound".into()),
            end: SECOND * 10,
        }
    }

    #[test]
    fn answers_are_in_the_bins_of_their_times() {
        let (bins, width) = picture().bins(10);
        assert_eq!(width, SECOND);
        assert!(bins.iter().all(|bin| bin.latencies.len() == 1));
        assert_eq!((bins[5].median(), bins[5].longest()), (Some(SECOND), Some(SECOND)));
        assert_eq!(rate(&bins[0], width), 1.0);
    }

    #[test]
    fn scales_are_round() {
        assert_eq!([0.3, 1.0, 3.0, 780.0, 2100.0].map(round_up), [1.0, 1.0, 5.0, 1000.0, 5000.0]);
        assert_eq!([5, 20, 60].map(|end| seconds_between_marks(SECOND * end)), [1, 2, 5]);
        let heights = [1, 10, 1000, 100_000].map(|ms| height(Duration::from_millis(ms), (0, 4)));
        assert_eq!(heights, [0.0, 0.25, 0.75, 1.0]);
    }

    #[test]
    fn a_lane_keeps_its_state_until_the_next() {
        let lane = &picture().lanes[0];
        assert_eq!([3, 4, 7].map(|second| lane.at(SECOND * second)), [State::Runs, State::Down, State::Runs]);
        assert_eq!(lane.spans(SECOND * 10).count(), 3);
    }
}
