//! `stablechat-bench-peers`: throughput and latency of three replicas, side by side with other replicated systems on this machine.

use argh::FromArgs;
use stablechat_tests::load::LoadResult;
use stablechat_tests::peers::etcd::Etcd;
use stablechat_tests::peers::nats::Nats;
use stablechat_tests::peers::redis::Redis;
use stablechat_tests::peers::stablechat::Stablechat;
use stablechat_tests::peers::{Peer, load};
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::exit;
use std::time::Duration;

/// Starts three nodes of each system, one system after the other, and measures how many texts they store in a second, and how long
/// each takes, with several numbers of requests in flight. That is repeated in rounds. Prints the medians of the rounds, and how many
/// times as fast stablechat is as each of the others.
#[derive(FromArgs)]
#[argh(
    example = "{command_name} --rounds 5 --seconds 4",
    example = "{command_name} --systems stablechat,redis --in-flight 64,256",
    note = "The systems are stablechat, etcd, redis and nats. An answer of stablechat says that a replica has synced the message, and \
that every live replica holds it, as long as the delivery bound holds; one of etcd, that two members have synced it; one of Redis (append-only files with appendfsync \
always, WAIT 2), that all three have; one of NATS (three replicas), that two have it in memory. Stablechat is measured with TLS, as \
it is used; the others come without. Every measurement goes to OUT. The data goes to the directory for temporary files (TMPDIR)."
)]
struct Arguments {
    /// the systems, separated by commas (stablechat,etcd,redis,nats)
    #[argh(option, default = "\"stablechat,etcd,redis,nats\".into()")]
    systems: String,
    /// the numbers of requests in flight, separated by commas (1,16,64,256)
    #[argh(option, default = "\"1,16,64,256\".into()")]
    in_flight: String,
    /// how often to measure everything (3)
    #[argh(option, default = "3")]
    rounds: usize,
    /// how long each measurement lasts, in seconds (4)
    #[argh(option, default = "4")]
    seconds: u64,
    /// the bytes in a text (100)
    #[argh(option, default = "100")]
    text_bytes: usize,
    /// the delivery bound of stablechat in milliseconds (100)
    #[argh(option, default = "100")]
    delivery_bound_ms: u64,
    /// the file for all measurements (peers.tsv)
    #[argh(option, default = "PathBuf::from(\"peers.tsv\")")]
    out: PathBuf,
}

/// The measurements of a system with so many requests in flight, one of each round.
struct Row {
    system: String,
    in_flight: usize,
    rounds: Vec<LoadResult>,
}

fn main() -> io::Result<()> {
    let arguments: Arguments = argh::from_env();
    let in_flight = arguments.in_flight.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>();
    let in_flight = in_flight.unwrap_or_else(|error| usage(&format!("--in-flight {}: {error}", arguments.in_flight)));
    if in_flight.contains(&0) {
        usage("--in-flight: at least one request has to be in flight");
    }
    let mut table = File::create(&arguments.out)?;
    writeln!(table, "system\tround\tin_flight\trequests_per_s\tp50_ms\tp99_ms")?;
    let mut rows: Vec<Row> = Vec::new();
    for round in 1..=arguments.rounds {
        for name in arguments.systems.split(',') {
            let mut system = System::start(name, &arguments).unwrap_or_else(|why| usage(&why));
            for in_flight in &in_flight {
                let measured = system.measure(*in_flight, &arguments)?;
                let system = system.name();
                let [p50, p99] = [0.5, 0.99].map(|share| milliseconds(measured.quantile(share)));
                let rate = measured.throughput();
                writeln!(table, "{system}\t{round}\t{in_flight}\t{rate:.0}\t{p50:.3}\t{p99:.3}")?;
                eprintln!(
                    "round {round}: {system}, {in_flight} in flight: {rate:.0}/s, p50 {p50:.2} ms, p99 {p99:.2} ms"
                );
                match rows.iter_mut().find(|row| row.system == system && row.in_flight == *in_flight) {
                    Some(row) => row.rounds.push(measured),
                    None => rows.push(Row { system, in_flight: *in_flight, rounds: vec![measured] }),
                }
            }
        }
    }
    print_rows(&rows, &in_flight);
    Ok(())
}

/// Prints the medians of the rounds.
fn print_rows(rows: &[Row], in_flight: &[usize]) {
    println!(
        "{:<36} {:>9} {:>10} {:>10} {:>10} {:>11}",
        "system", "in flight", "requests/s", "p50 ms", "p99 ms", "ours/theirs"
    );
    for in_flight in in_flight {
        let of_this = rows.iter().filter(|row| row.in_flight == *in_flight);
        let ours = of_this.clone().find(|row| row.system == our_name());
        let ours = ours.map_or(f64::NAN, |row| row.median(LoadResult::throughput));
        for row in of_this {
            let rate = row.median(LoadResult::throughput);
            let [p50, p99] = [0.5, 0.99].map(|share| row.median(|load| milliseconds(load.quantile(share))));
            println!("{:<36} {in_flight:>9} {rate:>10.0} {p50:>10.2} {p99:>10.2} {:>11.2}", row.system, ours / rate);
        }
    }
}

impl Row {
    /// The median over the rounds.
    fn median(&self, figure: impl Fn(&LoadResult) -> f64) -> f64 {
        let mut figures: Vec<f64> = self.rounds.iter().map(figure).collect();
        figures.sort_unstable_by(f64::total_cmp);
        figures[figures.len() / 2]
    }
}

/// A system that runs.
enum System {
    Ours(Box<Stablechat>),
    Other(Box<dyn Peer>),
}

impl System {
    fn start(name: &str, arguments: &Arguments) -> Result<System, String> {
        Ok(match name {
            "stablechat" => {
                System::Ours(Box::new(Stablechat::start(Duration::from_millis(arguments.delivery_bound_ms))))
            }
            "etcd" => System::Other(Box::new(Etcd::start()?)),
            "redis" => System::Other(Box::new(Redis::start()?)),
            "nats" => System::Other(Box::new(Nats::start()?)),
            _ => return Err(format!("there is no system {name:?}; the systems are stablechat, etcd, redis and nats")),
        })
    }

    fn name(&self) -> String {
        match self {
            System::Ours(_) => our_name(),
            System::Other(peer) => peer.name(),
        }
    }

    fn measure(&mut self, in_flight: usize, arguments: &Arguments) -> io::Result<LoadResult> {
        let (text, time) = ("x".repeat(arguments.text_bytes), Duration::from_secs(arguments.seconds));
        match self {
            System::Ours(replicas) => replicas.run(in_flight, &text, time),
            System::Other(peer) => load::run(&**peer, in_flight, &text, time),
        }
    }
}

/// The name of our system in the tables.
fn our_name() -> String {
    format!("stablechat {}, TLS", env!("CARGO_PKG_VERSION"))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Ends the program because of its arguments.
fn usage(why: &str) -> ! {
    eprintln!("stablechat-bench-peers: {why}");
    exit(2)
}
