//! `stablechat-timeline`: how long answers take while replicas are killed, started and stopped.

use argh::FromArgs;
use stablechat_protocol::answer::Stability;
use stablechat_tests::cluster::Cluster;
use stablechat_tests::ledger::{assert_kept, assert_same};
use stablechat_tests::plot::Plot;
use stablechat_tests::raw::{RawClient, call_everywhere};
use stablechat_tests::session::Person;
use stablechat_tests::talker::{Plan, Sample};
use std::fmt::Write;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Measures how long each answer takes while the three replicas that it starts are killed, restarted and stopped, and writes
/// all samples and a plot of them. In the end it compares what the replicas have, and what the client was told.
#[derive(FromArgs)]
#[argh(
    example = "{command_name} --out timeline",
    note = "One client sends one message at a time, to all replicas. Build with `cargo build --workspace` first."
)]
struct Arguments {
    /// the delivery bound in milliseconds (1000)
    #[argh(option, default = "1000")]
    delivery_bound_ms: u64,
    /// how many delivery bounds pass from one event to the next (5)
    #[argh(option, default = "5.0")]
    interval: f64,
    /// how many clients beside the one that is measured send a message every 5 ms, each (0)
    #[argh(option, default = "0")]
    others: usize,
    /// where to write the files, which get the endings .tsv and .svg (timeline)
    #[argh(option, default = "PathBuf::from(\"timeline\")")]
    out: PathBuf,
}

const NAMES: [&str; 3] = ["a", "b", "c"];
/// How long the cluster may take to be whole before and after.
const WHOLE: Duration = Duration::from_secs(60);

/// What is done to a replica.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Kill,
    Start,
    Stop,
}

/// What is done, one after the other.
const STORY: [(Deed, &str); 12] = [
    (Deed::Kill, "c"),
    (Deed::Kill, "b"),
    (Deed::Start, "b"),
    (Deed::Start, "c"),
    (Deed::Stop, "a"),
    (Deed::Start, "a"),
    (Deed::Stop, "b"),
    (Deed::Start, "b"),
    (Deed::Stop, "c"),
    (Deed::Start, "c"),
    (Deed::Kill, "a"),
    (Deed::Start, "a"),
];

fn main() -> io::Result<()> {
    let arguments: Arguments = argh::from_env();
    let bound = Duration::from_millis(arguments.delivery_bound_ms);
    let interval = bound.mul_f64(arguments.interval);
    let mut cluster = Cluster::start(&NAMES, bound);
    cluster.wait_until_same(WHOLE);
    let mut clients: Vec<RawClient> = NAMES.iter().map(|name| cluster.greet(name)).collect();
    let [alice, bob] = ["alice", "bob"].map(Person::new);
    [&alice, &bob].into_iter().for_each(|person| call_everywhere(&mut clients, &person.create()));
    let others: Vec<Person> = (0..arguments.others).map(|number| Person::new(&format!("other-{number}"))).collect();
    others.iter().for_each(|person| call_everywhere(&mut clients, &person.create()));
    drop(clients);

    let pace = Duration::from_millis(5);
    let others: Vec<_> =
        others.iter().map(|person| Plan { window: 64, pace, ..Plan::new(&cluster, person) }.start()).collect();
    let begin = Instant::now();
    let talker = Plan::new(&cluster, &alice).start();
    std::thread::sleep(interval);
    let mut events = Vec::new();
    for (deed, name) in STORY {
        events.push((begin.elapsed(), format!("{deed:?} {name}").to_lowercase()));
        let start = Instant::now();
        match deed {
            Deed::Kill => cluster.kill(name),
            Deed::Start => cluster.spawn_replica(name),
            Deed::Stop => {
                let status = cluster.stop(name);
                assert_eq!(status.code(), Some(0), "{}", cluster.log(name));
            }
        }
        std::thread::sleep(interval.saturating_sub(start.elapsed()));
    }
    let mut told = vec![talker.finish()];
    told.extend(others.into_iter().map(|talker| talker.finish()));
    report(&told[0].samples, &events, begin, bound);
    println!("refused attempts: {:?}; repeated: {}", told[0].refusals, told[0].repetitions);
    write_files(&arguments, &told[0].samples, &events, begin)?;

    cluster.wait_until_same(WHOLE);
    for name in NAMES {
        assert_eq!(cluster.stop(name).code(), Some(0));
        println!("replica {name}: {} repairs", cluster.log(name).matches("repaired the log").count());
    }
    let ledgers = assert_same(&cluster, &NAMES);
    ledgers.iter().for_each(|ledger| assert_kept(ledger, &told, &bob));
    println!("every answered message is in all logs, once and in order, and the digests are the same");
    Ok(())
}

/// Prints what the time before the first event and after each one was like.
fn report(samples: &[Sample], events: &[(Duration, String)], begin: Instant, bound: Duration) {
    println!(
        "{:>7} {:<9} {:>7} {:>9} {:>9} {:>9} {:>9} {:>8} {:>18}",
        "s", "event", "answers", "p50", "p99", "p99.9", "max", "closed", "over 20 ms until"
    );
    let starts = std::iter::once((Duration::ZERO, "(calm)".to_string())).chain(events.iter().cloned());
    let ends = events.iter().map(|(at, _)| *at).chain([Duration::MAX]);
    for ((start, name), end) in starts.zip(ends) {
        // What was in flight when something happened took as long as it did because of that.
        let is_in = |sample: &&Sample| (start..end).contains(&(sample.issued + sample.latency - begin));
        let of_phase: Vec<&Sample> = samples.iter().filter(is_in).collect();
        let mut latencies: Vec<Duration> = of_phase.iter().map(|sample| sample.latency).collect();
        latencies.sort_unstable();
        let at = |share: f64| {
            let last = latencies.len().saturating_sub(1);
            let latency = latencies.get((last as f64 * share) as usize).copied().unwrap_or_default();
            format!("{:.2} ms", latency.as_secs_f64() * 1e3)
        };
        let closed = of_phase.iter().filter(|sample| sample.stability == Stability::Closed).count();
        let slow = of_phase.iter().rfind(|sample| sample.latency > Duration::from_millis(20));
        let slow_until = slow.map_or(Duration::ZERO, |sample| sample.issued + sample.latency - begin - start);
        println!(
            "{:>7.1} {:<9} {:>7} {:>9} {:>9} {:>9} {:>9} {:>7.2}% {:>13.2} bounds",
            start.as_secs_f64(),
            name,
            latencies.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
            closed as f64 * 100.0 / latencies.len().max(1) as f64,
            slow_until.as_secs_f64() / bound.as_secs_f64(),
        );
    }
}

/// Writes the samples and the plot.
fn write_files(
    arguments: &Arguments,
    samples: &[Sample],
    events: &[(Duration, String)],
    begin: Instant,
) -> io::Result<()> {
    let mut table = String::from("issued_s\tlatency_ms\tstability\treplica\n");
    for Sample { issued, latency, stability, replica, .. } in samples {
        let (issued, latency) = ((*issued - begin).as_secs_f64(), latency.as_secs_f64() * 1e3);
        writeln!(table, "{issued:.6}\t{latency:.3}\t{stability:?}\t{}", NAMES[*replica])
            .expect("writing to a string does not fail");
    }
    std::fs::write(arguments.out.with_extension("tsv"), table)?;
    let answers: Vec<(Duration, Duration)> =
        samples.iter().map(|sample| (sample.issued + sample.latency - begin, sample.latency)).collect();
    let title = "Each answer to a client that sends one message at a time: when it came, and how long it took";
    let bound = (Duration::from_millis(arguments.delivery_bound_ms), "delivery bound");
    let svg = Plot { title, answers: &answers, events, bound }.svg();
    std::fs::write(arguments.out.with_extension("svg"), svg)
}
