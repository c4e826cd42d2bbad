//! Whole runs in virtual time: fixed sets of seeds within bounds and beyond, whose faults have to be of every kind.

use stablechat_tests::simulator::{self, Failure, Mode, Tally};
use std::thread;

/// How many seeds are run in each mode: as many as a machine of two cores does in a quarter of a minute.
const SEEDS: u64 = 200;

/// Runs every `step`-th seed from `first` on.
fn run_some(mode: Mode, first: u64, step: usize) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    for seed in (first..SEEDS).step_by(step) {
        tally.merge(&simulator::run(mode, seed)?.tally);
    }
    Ok(tally)
}

/// Runs all seeds of a mode, and looks whether enough went wrong.
fn run_all(mode: Mode, faults: &[&str]) {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let tallies: Vec<Result<Tally, Failure>> = thread::scope(|scope| {
        let run = |first| scope.spawn(move || run_some(mode, first, threads));
        let handles: Vec<_> = (0..threads as u64).map(run).collect();
        handles.into_iter().map(|handle| handle.join().expect("panics are caught in the run")).collect()
    });
    let mut tally = Tally::default();
    for some in tallies {
        tally.merge(&some.unwrap_or_else(|failure| panic!("{failure}")));
    }
    println!("{SEEDS} seeds: {tally}");
    for fault in faults.iter().chain(&[
        "clients dead half-way",
        "clients dead whose only replica dies",
        "clients isolated",
        "connections between replicas broken",
        "connections broken",
        "disks full",
        "kills after something was let out",
        "kills before a commit",
        "kills between turns",
        "pauses",
        "pauses longer than the bound",
        "refused late",
        "refused not serving",
        "replicas stopped",
        "scenes: alone with an answer",
        "scenes: back before it is heard",
        "scenes: back before it is missed",
        "scenes: closed over what it has read",
        "scenes: left before all had heard it",
        "scenes: silent before its death",
        "scenes: spoken to late at its start",
        "scenes: started into a death",
        "scenes: suspended while a body comes",
        "scenes: told and cut off",
    ]) {
        assert!(tally.of(fault) >= SEEDS / 10, "{fault}: only {}", tally.of(fault));
    }
}

#[test]
fn within_bounds_replicas_agree_whatever_goes_wrong() {
    run_all(Mode::Bounds, &[]);
}

#[test]
fn beyond_bounds_replicas_become_equal_and_lose_nothing() {
    let repairs = "requests undone and applied again";
    run_all(Mode::Beyond, &["clocks set", "disks lost", "partitions", "partitions one way", repairs]);
}

/// Seeds beyond bounds that have failed, and why.
#[test]
fn what_has_failed_once_does_not_again() {
    for (seed, why) in [
        (
            592,
            "two logs that take long to read were followed in turns, always from where they parted, and nobody joined",
        ),
        (2245, "a replica said that it held what it could not place any more, and others asked for it for ever"),
    ] {
        simulator::run(Mode::Beyond, seed).unwrap_or_else(|failure| panic!("{why}: {failure}"));
    }
}

#[test]
fn a_seed_reproduces_a_run_exactly() {
    for (mode, seed) in [(Mode::Bounds, 3), (Mode::Beyond, 14)] {
        let run = simulator::run(mode, seed).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(run, simulator::run(mode, seed).unwrap_or_else(|failure| panic!("{failure}")));
    }
}
