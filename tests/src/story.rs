//! Stories: timed steps that kill, stop, pause or start the replicas of a cluster.

use crate::plot::{Lane, State};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The latest time of a step, in seconds.
const LATEST_S: f64 = 600.0;

/// An action on a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL.
    Kill,
    /// SIGTERM: the replica hands over its pending requests and ends.
    Stop,
    /// Starts its process.
    Start,
    /// SIGSTOP: its process is suspended, and its connections stay open.
    Pause,
    /// SIGCONT.
    Resume,
}

impl Action {
    const ALL: [Action; 5] = [Action::Kill, Action::Stop, Action::Start, Action::Pause, Action::Resume];

    /// The states in which a replica can be for this, and the state that follows.
    fn change(self) -> (&'static [State], State) {
        match self {
            Action::Kill => (&[State::Runs, State::Paused], State::Down),
            Action::Stop => (&[State::Runs], State::Down),
            Action::Start => (&[State::Down], State::Runs),
            Action::Pause => (&[State::Runs], State::Paused),
            Action::Resume => (&[State::Paused], State::Runs),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Action::Kill => "kill",
            Action::Stop => "stop",
            Action::Start => "start",
            Action::Pause => "pause",
            Action::Resume => "resume",
        })
    }
}

/// One step of a story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The time from the beginning.
    pub at: Duration,
    pub action: Action,
    /// The name of the replica.
    pub replica: String,
}

impl FromStr for Step {
    type Err = String;

    /// Reads `SECONDS DEED REPLICA`.
    fn from_str(text: &str) -> Result<Step, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let &[seconds, action, replica] = &words[..] else {
            return Err(format!("{text:?} is not SECONDS DEED REPLICA, such as 3 kill a"));
        };
        let at = seconds.parse().ok().filter(|at| (0.0..=LATEST_S).contains(at));
        let at = at.ok_or_else(|| format!("{seconds} is not a number of seconds, from 0 to {LATEST_S}"))?;
        let known = Action::ALL.into_iter().find(|known| known.to_string() == action);
        let action = known
            .ok_or_else(|| format!("{action:?} is not one of {}", Action::ALL.map(|d| d.to_string()).join(", ")))?;
        Ok(Step { at: Duration::from_secs_f64(at), action, replica: replica.into() })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.action, self.replica)
    }
}

/// Sorts steps by time, and checks that each is possible at its time. All replicas run in the beginning.
///
/// # Errors
/// A step is impossible, such as a kill of a replica that does not run.
pub fn in_order(mut steps: Vec<Step>, replicas: &[&str]) -> Result<Vec<Step>, String> {
    steps.sort_by_key(|step| step.at);
    let mut states: BTreeMap<&str, State> = replicas.iter().map(|name| (*name, State::Runs)).collect();
    for step in &steps {
        let at = step.at.as_secs_f64();
        let state = states.get_mut(step.replica.as_str());
        let state =
            state.ok_or_else(|| format!("there is no replica {}, only {}", step.replica, replicas.join(", ")))?;
        let (from, to) = step.action.change();
        if !from.contains(state) {
            let is = match state {
                State::Runs => "runs",
                State::Paused => "is paused",
                State::Down => "does not run",
            };
            return Err(format!("cannot {step} after {at} s: it {is} by then"));
        }
        *state = to;
    }
    Ok(steps)
}

/// The states of each replica over time, after steps that were done at these times.
pub fn lanes(done: &[(Duration, Step)], replicas: &[&str]) -> Vec<Lane> {
    let lane = |name: &&str| {
        let of_it = done.iter().filter(|(_, step)| step.replica == **name);
        let changes = of_it.map(|(at, step)| (*at, step.action.change().1));
        Lane { name: (*name).into(), states: std::iter::once((Duration::ZERO, State::Runs)).chain(changes).collect() }
    };
    replicas.iter().map(lane).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(text: &str) -> Step {
        text.parse().expect("a step")
    }

    #[test]
    fn steps_are_read() {
        let expected = Step { at: Duration::from_millis(2500), action: Action::Kill, replica: "a".into() };
        assert_eq!("2.5 kill a".parse(), Ok(expected));
        for (text, says) in [
            ("3 kill", "is not SECONDS DEED REPLICA"),
            ("kill a 3", "kill is not a number of seconds"),
            ("-1 kill a", "-1 is not a number"),
            ("inf kill a", "inf is not a number"),
            ("3 hurt a", "\"hurt\" is not one of kill, stop, start, pause, resume"),
        ] {
            let error = text.parse::<Step>().expect_err(text);
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn an_impossible_story_is_refused_before_it_begins() {
        let check = |texts: &[&str]| in_order(texts.iter().map(|text| step(text)).collect(), &["a", "b"]);
        let sorted = check(&["4 start a", "3 kill a", "5 pause b", "6 kill b"]).expect("a possible story");
        assert_eq!(sorted[0], step("3 kill a"));
        for (texts, says) in [
            (&["3 kill c"][..], "there is no replica c, only a, b"),
            (&["3 kill a", "4 kill a"], "cannot kill a after 4 s: it does not run by then"),
            (&["3 start a"], "it runs by then"),
            (&["3 pause a", "4 stop a"], "it is paused by then"),
        ] {
            let error = check(texts).expect_err("an impossible story");
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_lane_has_the_steps_of_its_replica_only() {
        let done = [(Duration::from_secs(3), step("3 kill a")), (Duration::from_secs(4), step("4 start a"))];
        let lanes = lanes(&done, &["a", "b"]);
        assert_eq!(lanes.iter().map(|lane| lane.states.len()).collect::<Vec<_>>(), [3, 1]);
    }
}
