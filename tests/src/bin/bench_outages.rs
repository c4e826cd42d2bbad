//! `stablechat-bench-outages`: what clients notice when replicas are killed, stopped, suspended or cut off, and the same for other
//! replicated services.

use argh::FromArgs;
use stablechat_tests::outages::calls::{Call, Pace};
use stablechat_tests::outages::etcd::Etcd;
use stablechat_tests::outages::figures::{Effects, Trial, effects, quantile};
use stablechat_tests::outages::picture::{Panel, svg};
use stablechat_tests::outages::rabbitmq::Rabbitmq;
use stablechat_tests::outages::stablechat::Stablechat;
use stablechat_tests::outages::{Fault, Service};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::exit;
use std::time::{Duration, Instant};

/// Runs three replicas of a service, and clients that call it 500 times a second. It hurts the service at random moments and mends
/// it again, and prints for each fault the longest time without an answer, the longest time that an answer took, the time until
/// the usual rate was reached again, and how many calls failed.
#[derive(FromArgs)]
#[argh(
    example = "{command_name} --faults kill,stop --rounds 20",
    example = "{command_name} --services stablechat,etcd,rabbitmq --faults kill --out kill",
    note = "The services are stablechat, etcd and rabbitmq. Of the others the leader is hurt, of stablechat any replica. The \
faults are nothing, kill, kill-and-start, kill-second, kill-two, stop, return (with 200,000 messages missed), pause (SIGSTOP for 10 \
s) and cut (the cable of a replica, for 5 s; as root). Every trial goes to OUT.tsv, and the calls around `kill` to OUT.svg. \
Data goes to the directory for temporary files (TMPDIR). Build with `cargo build --workspace` first."
)]
struct Arguments {
    /// the services, separated by commas (stablechat)
    #[argh(option, default = "\"stablechat\".into()")]
    services: String,
    /// the faults, separated by commas (all that the service survives)
    #[argh(option)]
    faults: Option<String>,
    /// how often to do each to stablechat (100)
    #[argh(option, default = "100")]
    rounds: u32,
    /// how often to do each to the other services, which take longer to be whole again (20)
    #[argh(option, default = "20")]
    other_rounds: u32,
    /// the delivery bound of stablechat in milliseconds (1000)
    #[argh(option, default = "1000")]
    delivery_bound_ms: u64,
    /// the beginning of the names of the files with results (outages)
    #[argh(option, default = "PathBuf::from(\"outages\")")]
    out: PathBuf,
}

/// The clients that make the load, and how often each calls: 500 calls a second together.
const CLIENTS: u32 = 16;
const EVERY: Duration = Duration::from_millis(32);
/// The client beside them.
const LONE_EVERY: Duration = Duration::from_millis(250);
/// The time between the end of a trial and the next fault, at least; at most one second more.
const PAUSE: Duration = Duration::from_millis(300);
/// How long after the first kill the second one comes, at most.
const SECOND_KILL_MAX: Duration = Duration::from_secs(2);

fn main() -> io::Result<()> {
    let arguments: Arguments = argh::from_env();
    let faults = arguments.faults.as_ref().map(|names| names.split(',').map(str::parse).collect::<Result<Vec<_>, _>>());
    let wanted: Option<Vec<Fault>> = faults.transpose().unwrap_or_else(|why: String| usage(&why));
    let mut table = File::create(arguments.out.with_extension("tsv"))?;
    writeln!(table, "service\tfault\tat_s\tgap_ms\tlongest_ms\tslowed_ms\tfailed")?;
    let mut panels = Vec::new();
    println!(
        "Δ = {} ms; {} rounds, {} of other services; times in ms: p50, p90 and the longest",
        arguments.delivery_bound_ms, arguments.rounds, arguments.other_rounds
    );
    println!(
        "{:<18} {:<15} {:>20} {:>20} {:>20} {:>7} {:>6}",
        "service", "fault", "without an answer", "longest answer", "below 90 % of rate", "failed", "rate"
    );
    for name in arguments.services.split(',') {
        for mut service in services(name, &arguments, wanted.as_deref()) {
            let faults = service.faults();
            let faults = faults.into_iter().filter(|fault| wanted.as_ref().is_none_or(|wanted| wanted.contains(fault)));
            for fault in faults {
                let rounds = if name == "stablechat" { arguments.rounds } else { arguments.other_rounds };
                let panel = run(&mut *service, fault, rounds, &mut table)?;
                panels.extend((fault == Fault::Kill).then_some(panel));
            }
        }
    }
    if !panels.is_empty() {
        let title = "One of three replicas is killed (SIGKILL), with 500 requests a second under way";
        std::fs::write(arguments.out.with_extension("svg"), svg(title, &panels))?;
    }
    Ok(())
}

fn usage(why: &str) -> ! {
    eprintln!("{why}\nRun stablechat-bench-outages --help for help.");
    exit(2)
}

/// The service of this name; twice, when replicas with cables of their own are needed as well.
fn services(name: &str, arguments: &Arguments, wanted: Option<&[Fault]>) -> Vec<Box<dyn Service>> {
    let bound = Duration::from_millis(arguments.delivery_bound_ms);
    let is_wanted = |with_cables: bool| {
        wanted.is_none_or(|wanted| wanted.iter().any(|fault| (*fault == Fault::Cut) == with_cables))
    };
    let stablechat = |with_cables| Ok(Box::new(Stablechat::start(bound, with_cables)?) as Box<dyn Service>);
    let services: Result<Vec<Box<dyn Service>>, String> = match name {
        "stablechat" => [false, true].into_iter().filter(|cables| is_wanted(*cables)).map(stablechat).collect(),
        "etcd" => Etcd::start().map(|etcd| vec![Box::new(etcd) as Box<dyn Service>]),
        "rabbitmq" => Rabbitmq::start().map(|rabbitmq| vec![Box::new(rabbitmq) as Box<dyn Service>]),
        _ => usage(&format!("there is no service {name:?}; the services are stablechat, etcd and rabbitmq")),
    };
    services.unwrap_or_else(|why| {
        eprintln!("{name} cannot be measured: {why}");
        exit(1)
    })
}

/// Does a fault again and again while clients call, and prints the effects.
fn run(service: &mut dyn Service, fault: Fault, rounds: u32, table: &mut File) -> io::Result<Panel> {
    let load = (0..CLIENTS).map(|number| Pace { first: EVERY / CLIENTS * number, every: EVERY });
    let lone = Pace { first: Duration::ZERO, every: LONE_EVERY };
    service.start_clients(load.chain([lone]).collect());
    std::thread::sleep(Duration::from_secs(2));
    let trials: Vec<Trial> = (0..rounds).map(|_| trial(service, fault)).collect();
    let mut calls = service.stop_clients();
    calls.sort_by_key(Call::ended);

    let rate = f64::from(CLIENTS) / EVERY.as_secs_f64();
    let effects: Vec<Effects> = trials.iter().map(|trial| effects(&calls, trial, rate)).collect();
    let name = service.name();
    let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
    let first = calls.first().map_or_else(Instant::now, |call| call.begun);
    for (trial, Effects { gap, longest, slowed, failed }) in trials.iter().zip(&effects) {
        let at = (trial.begun - first).as_secs_f64();
        writeln!(table, "{name}\t{fault}\t{at:.3}\t{}\t{}\t{}\t{failed}", ms(*gap), ms(*longest), ms(*slowed))?;
    }
    let spread = |of: fn(&Effects) -> Duration| {
        let mut text = String::new();
        for share in [0.5, 0.9, 1.0] {
            write!(text, "{:>7.1}", quantile(effects.iter().map(of), share).as_secs_f64() * 1e3)
                .expect("writing to a string does not fail");
        }
        text
    };
    let (gaps, longest, slowed) = (spread(|e| e.gap), spread(|e| e.longest), spread(|e| e.slowed));
    let failed: usize = effects.iter().map(|effects| effects.failed).sum();
    let span =
        calls.last().zip(calls.first()).map_or(1.0, |(last, first)| (last.ended() - first.ended()).as_secs_f64());
    let rate = calls.len() as f64 / span;
    println!("{name:<18} {fault:<15} {gaps:>20} {longest:>20} {slowed:>20} {failed:>7} {rate:>6.0}");
    let worst = quantile(effects.iter().map(|effects| effects.gap), 1.0);
    let verdict = format!(
        "{rounds} kills: at most {} ms without an answer, {failed} calls failed",
        if worst < Duration::from_millis(100) { ms(worst) } else { format!("{:.0}", worst.as_secs_f64() * 1e3) }
    );
    Ok(Panel { title: name, verdict, calls, trials })
}

/// Does a fault at a random moment, and mends it.
fn trial(service: &mut dyn Service, fault: Fault) -> Trial {
    let upto = |most: Duration| most.mul_f64(fastrand::f64());
    service.prepare(fault);
    std::thread::sleep(PAUSE + upto(Duration::from_secs(1)));
    if fault == Fault::KillSecond {
        service.hurt(Fault::Kill);
        std::thread::sleep(upto(SECOND_KILL_MAX));
    }
    let begun = Instant::now();
    service.hurt(fault);
    std::thread::sleep(fault.lasts().unwrap_or_else(|| service.watch()));
    let watched = Instant::now();
    service.mend();
    // The end of a fault that ends belongs to it. A start after another fault does not: that is one of its own.
    let ended = if fault.lasts().is_some() { Instant::now() } else { watched };
    Trial { begun, ended }
}
