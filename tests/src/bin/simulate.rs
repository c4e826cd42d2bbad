//! Runs the simulator over many seeds, or traces one.

use stablechat_tests::simulator::{self, Failure, Run, Tally, Trace};
use std::process::ExitCode;
use std::time::Instant;

/// Simulates a cluster and its clients, each run determined by its seed.
#[derive(argh::FromArgs)]
struct Arguments {
    /// how many seeds to run (100)
    #[argh(option, default = "100")]
    seeds: u64,
    /// the first seed (0)
    #[argh(option, default = "0")]
    first: u64,
    /// run this seed alone, and print all that happens
    #[argh(option)]
    trace: Option<u64>,
}

fn main() -> ExitCode {
    let Arguments { seeds, first, trace } = argh::from_env();
    let result = match trace {
        Some(seed) => {
            simulator::trace_run(seed, Trace::Printed).map(|Run { tally, .. }| println!("seed {seed}: {tally}"))
        }
        None => run_all(first, seeds),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs seeds until one fails, and prints a summary.
fn run_all(first: u64, seeds: u64) -> Result<(), Failure> {
    let started = Instant::now();
    let mut tally = Tally::default();
    for seed in first..first + seeds {
        tally.merge(&simulator::run(seed)?.tally);
    }
    let rate = seeds as f64 / started.elapsed().as_secs_f64();
    println!("{seeds} seeds from {first}, {rate:.1} a second: {tally}");
    Ok(())
}
