//! Whole runs in virtual time: a fixed set of seeds, whose faults have to be of every kind.

use stablechat_tests::simulator::{self, Failure, Mode, Tally};
use std::thread;

/// How many seeds are run: as many as a machine of two cores does in half a minute.
const SEEDS: u64 = 240;

/// Runs every `step`-th seed from `first` on.
fn run_some(first: u64, step: usize) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    for seed in (first..SEEDS).step_by(step) {
        tally.merge(&simulator::run(Mode::Bounds, seed)?.tally);
    }
    Ok(tally)
}

#[test]
fn all_invariants_hold_whatever_goes_wrong() {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let tallies: Vec<Result<Tally, Failure>> = thread::scope(|scope| {
        let run = |first| scope.spawn(move || run_some(first, threads));
        let handles: Vec<_> = (0..threads as u64).map(run).collect();
        handles.into_iter().map(|handle| handle.join().expect("panics are caught in the run")).collect()
    });
    let mut tally = Tally::default();
    for some in tallies {
        tally.merge(&some.unwrap_or_else(|failure| panic!("{failure}")));
    }
    println!("{SEEDS} seeds: {tally}");
    for fault in [
        "clients isolated",
        "connections broken",
        "kills after answers were let out",
        "kills before a commit",
        "kills between turns",
        "pauses",
        "pauses longer than the bound",
        "refused late",
        "refused not serving",
        "replicas stopped",
    ] {
        assert!(tally.of(fault) >= SEEDS / 10, "{fault}: only {}", tally.of(fault));
    }
}

#[test]
fn a_seed_reproduces_a_run_exactly() {
    for seed in [3, 14] {
        let run = simulator::run(Mode::Bounds, seed).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(run, simulator::run(Mode::Bounds, seed).unwrap_or_else(|failure| panic!("{failure}")));
    }
}
