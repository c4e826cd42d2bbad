//! Runs the simulator over many seeds, or traces one.

use stablechat_tests::simulator::{self, Failure, Latencies, Mode, Run, Tally, Trace};
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
    /// what may go wrong: within `bounds` (this is usual) or `beyond`
    #[argh(option, default = "Mode::Bounds")]
    mode: Mode,
    /// go on after a failure
    #[argh(switch)]
    go_on: bool,
    /// run this seed alone, and print all that happens
    #[argh(option)]
    trace: Option<u64>,
}

fn main() -> ExitCode {
    let Arguments { seeds, first, mode, go_on, trace } = argh::from_env();
    // Panics in a run are caught, and told as failures.
    std::panic::set_hook(Box::new(|_| {}));
    let failures = match trace {
        Some(seed) => trace_one(mode, seed),
        None => run_all(mode, first, seeds, go_on),
    };
    match failures {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Runs one seed, and prints all that happens.
fn trace_one(mode: Mode, seed: u64) -> usize {
    match simulator::trace_run(mode, seed, Trace::Printed) {
        Ok(Run { tally, latencies, .. }) => {
            println!("seed {seed}: {tally}; {latencies}");
            0
        }
        Err(failure) => {
            println!("{failure}");
            1
        }
    }
}

/// Runs seeds until one fails, or all, and prints a summary. Returns how many failed.
fn run_all(mode: Mode, first: u64, seeds: u64, go_on: bool) -> usize {
    let started = Instant::now();
    let mut total = Run {
        tally: Tally::default(),
        latencies: Latencies::default(),
        calm_latencies: Latencies::default(),
        fingerprint: String::new(),
    };
    let mut failures: Vec<Failure> = Vec::new();
    for seed in first..first + seeds {
        match simulator::run(mode, seed) {
            Ok(Run { tally, latencies, calm_latencies, .. }) => {
                total.tally.merge(&tally);
                total.latencies.merge(&latencies);
                total.calm_latencies.merge(&calm_latencies);
            }
            Err(failure) if go_on => {
                println!("seed {seed}, step {}: {}", failure.step, failure.what);
                failures.push(failure);
            }
            Err(failure) => {
                println!("{failure}");
                return 1;
            }
        }
    }
    let rate = seeds as f64 / started.elapsed().as_secs_f64();
    println!("{seeds} seeds from {first}, {rate:.1} a second, {} failed: {}", failures.len(), total.tally);
    println!("answers: {}", total.latencies);
    println!("when nothing goes wrong: {}", total.calm_latencies);
    failures.len()
}
