//! `stablechat-hostile`: attacks three replicas while honest people chat, and says what came of it.

use argh::FromArgs;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stablechat_tests::hostile::attack::{Attack, all, named, table};
use stablechat_tests::hostile::battle::{Fought, fight};
use stablechat_tests::hostile::rounds::{Round, at_random, each_alone};
use std::io::{self, Write};
use std::process::exit;
use std::time::{Duration, Instant};

/// Starts three replicas and attacks them as a stranger and as an account, while two people write to each other and a third
/// connects anew for each message. Shows their latency, and the replicas' memory, rejoins and repairs.
#[derive(FromArgs)]
#[argh(
    example = "{command_name} --seconds 1800 --seed 7\n{command_name} --attack query-bursts --attack bad-logins --each-s 10",
    note = "Without --seconds, each attack runs once, alone. With it, a few attacks at a time are drawn from the seed.",
    error_code(0, "no rejoin, no repair, no message lost, and memory within its limit"),
    error_code(1, "one of these happened"),
    error_code(2, "the command line was not understood")
)]
struct Arguments {
    /// run attacks at random for this long
    #[argh(option)]
    seconds: Option<u64>,
    /// the seed of the attacks (a random one, which is shown)
    #[argh(option)]
    seed: Option<u64>,
    /// use this attack; may be repeated (all attacks)
    #[argh(option, from_str_fn(named))]
    attack: Vec<&'static Attack>,
    /// how long each attack lasts without --seconds, in seconds (1)
    #[argh(option, default = "1")]
    each_s: u64,
    /// how long the people chat before the attacks, in seconds (5)
    #[argh(option, default = "5")]
    quiet_s: u64,
    /// the delivery bound in milliseconds (1000)
    #[argh(option, default = "1000")]
    delivery_bound_ms: u64,
    /// print the table of attacks, and end
    #[argh(switch)]
    list: bool,
}

fn main() -> io::Result<()> {
    env_logger::init();
    let arguments: Arguments = argh::from_env();
    if arguments.list {
        return io::stdout().write_all(table().as_bytes());
    }
    allow_many_files();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("seed {seed}");

    let attacks = if arguments.attack.is_empty() { all().collect() } else { arguments.attack };
    let end = arguments.seconds.map(Duration::from_secs);
    let rounds: Box<dyn Iterator<Item = Round>> = match end {
        Some(end) => {
            // The time begins with the first round.
            let mut begin = None;
            Box::new(
                at_random(attacks, seed).take_while(move |_| begin.get_or_insert_with(Instant::now).elapsed() < end),
            )
        }
        None => Box::new(each_alone(attacks, Duration::from_secs(arguments.each_s), seed)),
    };
    let bound = Duration::from_millis(arguments.delivery_bound_ms);
    let happened = fight(bound, Duration::from_secs(arguments.quiet_s), rounds, print_round);

    let faults = happened.faults();
    println!("\n{}\n{}", happened.table(), happened.summary());
    faults.iter().for_each(|fault| println!("FAULT: {fault}"));
    println!("{} faults", faults.len());
    exit(if faults.is_empty() { 0 } else { 1 });
}

/// Prints a line for a round that is over.
fn print_round(fought: &Fought) {
    let names: Vec<&str> = fought.round.attacks.iter().map(|(attack, _)| attack.name).collect();
    let (recovery, memory) = (fought.recovery, fought.memory.0.iter().map(|bytes| bytes >> 20).collect::<Vec<_>>());
    println!(
        "{}: the pair's answers {recovery:.1?} after the end, {memory:?} MiB, {:?}",
        names.join(", "),
        fought.counted
    );
}

/// Lets this process have as many connections as the system allows.
fn allow_many_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the maximum is allowed");
}
