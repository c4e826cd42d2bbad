//! Rounds: which attacks run at the same time, and for how long.

use super::attack::Attack;
use fastrand::Rng;
use std::time::Duration;

/// The most attacks at a time. Each has a thread of its own.
const ATTACKS_MAX: usize = 3;
/// The shortest and the longest round, in milliseconds.
const LENGTH_MS: std::ops::Range<u64> = 2_000..15_000;

/// Attacks that run at the same time.
#[derive(Clone, Debug)]
pub struct Round {
    /// Each attack with its seed.
    pub attacks: Vec<(&'static Attack, u64)>,
    pub length: Duration,
}

/// Rounds of one attack each.
pub fn each_alone(attacks: Vec<&'static Attack>, length: Duration, seed: u64) -> impl Iterator<Item = Round> {
    let mut random = Rng::with_seed(seed);
    attacks.into_iter().map(move |attack| Round { attacks: vec![(attack, random.u64(..))], length })
}

/// Rounds of a few of these attacks each, without end.
pub fn at_random(attacks: Vec<&'static Attack>, seed: u64) -> impl Iterator<Item = Round> {
    let mut random = Rng::with_seed(seed);
    std::iter::repeat_with(move || {
        let number = random.usize(1..=ATTACKS_MAX);
        let attacks = random.choose_multiple(attacks.iter().copied(), number);
        let attacks = attacks.into_iter().map(|attack| (attack, random.u64(..))).collect();
        Round { attacks, length: Duration::from_millis(random.u64(LENGTH_MS)) }
    })
}

#[cfg(test)]
mod tests {
    use super::super::attack::all;
    use super::*;

    /// The names, the seeds and the lengths of the first rounds.
    fn first_rounds(seed: u64) -> Vec<(Vec<(&'static str, u64)>, Duration)> {
        let names =
            |round: Round| (round.attacks.iter().map(|(attack, seed)| (attack.name, *seed)).collect(), round.length);
        at_random(all().collect(), seed).take(50).map(names).collect()
    }

    #[test]
    fn a_seed_gives_the_same_rounds() {
        assert_eq!(first_rounds(7), first_rounds(7));
        assert_ne!(first_rounds(7), first_rounds(8));
    }
}
