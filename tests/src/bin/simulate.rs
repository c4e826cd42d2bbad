//! Runs the simulator over many seeds, or traces one.

use stablechat_tests::simulator::{
    self, Fault, Latencies, Mode, REPLICAS_MAX, REPLICAS_USUAL, Run, Scenario, SceneKind, Tally, Trace,
};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

/// Simulates a cluster and its clients. Each run is determined by its seed.
#[derive(argh::FromArgs)]
struct Arguments {
    /// how many seeds to run (100)
    #[argh(option, default = "100")]
    seeds: u64,
    /// the first seed (0)
    #[argh(option, default = "0")]
    first: u64,
    /// which faults occur: those within `bounds` (this is usual), or also those `beyond`
    #[argh(option, default = "Mode::Bounds")]
    mode: Mode,
    /// the number of replicas, 1 to 9; without it the seeds take turns with 1 to 5
    #[argh(option, from_str_fn(replicas))]
    replicas: Option<usize>,
    /// no other faults than scenes of this kind; an unknown name lists them all
    #[argh(option)]
    scene: Option<SceneKind>,
    /// go on after a failure
    #[argh(switch)]
    go_on: bool,
    /// run this seed alone, and print every event
    #[argh(option)]
    trace: Option<u64>,
}

impl Arguments {
    /// The run of a seed.
    fn scenario(&self, seed: u64) -> Scenario {
        let scenario = Scenario::of_seed(self.mode, seed);
        Scenario { replicas: self.replicas.unwrap_or(scenario.replicas), scene: self.scene, ..scenario }
    }
}

/// Reads a number of replicas.
fn replicas(text: &str) -> Result<usize, String> {
    let is_possible = |replicas: &usize| (1..=REPLICAS_MAX).contains(replicas);
    text.parse().ok().filter(is_possible).ok_or_else(|| format!("a cluster has 1 to {REPLICAS_MAX} replicas"))
}

fn main() -> ExitCode {
    let arguments: Arguments = argh::from_env();
    // A panic in a run is caught, and reported as a failure of the seed.
    std::panic::set_hook(Box::new(|_| {}));
    let failed = match arguments.trace {
        Some(seed) => trace_one(arguments.scenario(seed)),
        None => run_all(&arguments),
    };
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Runs one seed, and prints every event.
fn trace_one(scenario: Scenario) -> usize {
    match simulator::trace_run(scenario, Trace::Printed) {
        Ok(Run { tally, latencies, .. }) => {
            println!("{scenario}: {tally}; {latencies}");
            0
        }
        Err(failure) => {
            println!("{failure}");
            1
        }
    }
}

/// What the runs so far came to.
#[derive(Default)]
struct Total {
    tally: Tally,
    latencies: Latencies,
    calm_latencies: Latencies,
    /// How many seeds were run with each number of replicas, and how many of those failed.
    by_replicas: BTreeMap<usize, (u64, u64)>,
}

impl Total {
    /// Adds a run; none is one that failed.
    fn add(&mut self, scenario: Scenario, run: Option<Run>) {
        let (seeds, failed) = self.by_replicas.entry(scenario.replicas).or_default();
        *seeds += 1;
        let Some(Run { tally, latencies, calm_latencies, .. }) = run else {
            *failed += 1;
            return;
        };
        self.tally.merge(&tally);
        self.latencies.merge(&latencies);
        self.calm_latencies.merge(&calm_latencies);
    }

    /// Prints a summary.
    fn print(&self, mode: Mode) {
        for (replicas, (seeds, failed)) in &self.by_replicas {
            println!("replicas {replicas}: {seeds} seeds, {failed} failed");
        }
        let of_mode = |(of, _): &&(Mode, &str)| *of == Mode::Bounds || mode == Mode::Beyond;
        let names: Vec<&str> = Fault::NAMES.iter().filter(of_mode).map(|(_, name)| *name).collect();
        println!("faults: {}", self.tally.listed(&names));
        let scenes: Vec<&str> = SceneKind::ALL.into_iter().map(SceneKind::name).collect();
        println!("scenes by kind: {}", self.tally.listed(&scenes));
        println!("counts: {}", self.tally.without(&[names, scenes].concat()));
        println!("answers: {}", self.latencies);
        println!("answers after the faults had ended: {}", self.calm_latencies);
    }
}

/// Runs seeds until one fails, or all, and prints a summary. Returns how many failed.
fn run_all(arguments: &Arguments) -> usize {
    let Arguments { seeds, first, mode, go_on, .. } = *arguments;
    let started = Instant::now();
    let mut total = Total::default();
    let mut failed = 0;
    for seed in first..first + seeds {
        let scenario = arguments.scenario(seed);
        match simulator::run(scenario) {
            Ok(run) => total.add(scenario, Some(run)),
            Err(failure) if go_on => {
                println!("{scenario}, step {}: {}", failure.step, failure.what);
                total.add(scenario, None);
                failed += 1;
            }
            Err(failure) => {
                println!("{failure}");
                return 1;
            }
        }
    }

    let rate = seeds as f64 / started.elapsed().as_secs_f64();
    let spread = arguments.replicas.map_or(format!("1 to {REPLICAS_USUAL}"), |replicas| replicas.to_string());
    println!("{seeds} seeds from {first} with {spread} replicas, {rate:.1} a second, {failed} failed");
    total.print(mode);
    failed
}
