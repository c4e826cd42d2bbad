//! `stablechat-demo-faults`: people chat while replicas are killed, stopped, paused and started. It draws latency, rate and the
//! states of the replicas, and checks that every answered message is delivered once.

use argh::FromArgs;
use rustix::process::Signal;
use stablechat_protocol::answer::Stability;
use stablechat_tests::cluster::Cluster;
use stablechat_tests::ledger::{Kept, kept, same};
use stablechat_tests::plot::{Picture, State};
use stablechat_tests::raw::{RawClient, call_everywhere};
use stablechat_tests::session::Person;
use stablechat_tests::story::{Action, Step, in_order, lanes};
use stablechat_tests::talker::{Plan, Sample, Transcript};
use std::fmt::Write;
use std::io;
use std::path::PathBuf;
use std::process::exit;
use std::time::{Duration, Instant};

/// Runs three replicas of its own and people who write to Bob without a break. It kills, stops, pauses and starts replicas as a
/// story says, and shows the latency and rate of answers, and whether each answered message reached Bob once.
#[derive(FromArgs)]
#[argh(
    example = "{command_name}\n{command_name} --at 3 kill a --at 6 kill b --at 9 start a --at 10 start b",
    note = "The replicas are a, b and c, and all run in the beginning. A DEED is kill (SIGKILL), stop (SIGTERM), start,
pause (SIGSTOP) or resume (SIGCONT). In the end all replicas run again and are stopped, and their stores are compared.",
    error_code(0, "every answered message was delivered once, and all replicas are equal"),
    error_code(1, "a message was lost or delivered twice, or replicas differ"),
    error_code(2, "the command line was not understood")
)]
struct Arguments {
    /// SECONDS DEED REPLICA, a step of the story; may be repeated (a story of 20 seconds)
    #[argh(option)]
    at: Vec<Step>,
    /// the length of the story in seconds (3 more than the last step)
    #[argh(option)]
    seconds: Option<u64>,
    /// the delivery bound in milliseconds (1000)
    #[argh(option, default = "1000")]
    delivery_bound_ms: u64,
    /// the number of people who write, each one message at a time (4)
    #[argh(option, default = "4")]
    people: usize,
    /// the file for the picture; every answer goes to a .tsv beside it (demo-faults.svg)
    #[argh(option, default = "PathBuf::from(\"demo-faults.svg\")")]
    out: PathBuf,
}

const NAMES: [&str; 3] = ["a", "b", "c"];
/// The usual story: two of three replicas are killed and come back, and the third is stopped and started.
const STORY: [&str; 6] = ["3 kill c", "6 kill b", "9 start b", "12 start c", "15 stop a", "17 start a"];
/// The time from the last step to the end.
const REST: Duration = Duration::from_secs(3);
/// The pause after each message: people, not a benchmark.
const PACE: Duration = Duration::from_millis(5);
/// The longest story. Bob's mailbox, which holds 100,000 messages of one sender, has to hold all that are sent.
const SECONDS_MAX: u64 = 600;
const MESSAGES_MAX: u64 = 95_000;
/// How long the cluster may take to be whole before and after.
const WHOLE: Duration = Duration::from_secs(60);

/// The course of the demonstration.
struct Happened {
    /// The steps that were done, each with its time.
    done: Vec<(Duration, Step)>,
    /// The time of the end.
    end: Duration,
    /// The outcome of each person's messages.
    transcripts: Vec<Transcript>,
    /// Faults, apart from messages that were lost or delivered twice.
    faults: Vec<String>,
}

fn main() -> io::Result<()> {
    let arguments = arguments();
    let (story, end) = story(&arguments).unwrap_or_else(|error| usage(&error));
    let bound = Duration::from_millis(arguments.delivery_bound_ms);
    let mut cluster = Cluster::start(&NAMES, bound);
    cluster.wait_until_same(WHOLE);
    let bob = Person::new("bob");
    let people: Vec<Person> = (1..=arguments.people).map(|number| Person::new(&format!("person-{number}"))).collect();
    let mut clients: Vec<RawClient> = NAMES.iter().map(|name| cluster.greet(name)).collect();
    people.iter().chain([&bob]).for_each(|person| call_everywhere(&mut clients, &person.create()));
    drop(clients);

    println!("Three replicas run, and {} people write to Bob.", people.len());
    let begin = Instant::now();
    let mut happened = play(&mut cluster, &story, end, &people, begin);
    let verdict = compare(&mut cluster, &bob, &mut happened);
    let picture = picture(&happened, &verdict, bound, begin);
    println!("\n{}", picture.text());
    print_phases(&happened, begin);
    std::fs::write(arguments.out.with_extension("svg"), picture.svg())?;
    std::fs::write(arguments.out.with_extension("tsv"), table(&happened, begin))?;
    println!("\nThe picture is {}.", arguments.out.with_extension("svg").display());
    happened.faults.iter().for_each(|fault| println!("FAULT: {fault}"));
    println!("{verdict}");
    exit(if is_good(&verdict, &happened.faults) { 0 } else { 1 });
}

/// The command line. The three words after `--at` may stand by themselves.
fn arguments() -> Arguments {
    let mut words = std::env::args().skip(1);
    let mut joined = Vec::new();
    while let Some(word) = words.next() {
        let is_at = word == "--at";
        joined.push(word);
        if is_at && let Some(first) = words.next() {
            let missing = 3usize.saturating_sub(first.split_whitespace().count());
            let more: Vec<String> = words.by_ref().take(missing).collect();
            joined.push([vec![first], more].concat().join(" "));
        }
    }
    let joined: Vec<&str> = joined.iter().map(String::as_str).collect();
    Arguments::from_args(&["demo-faults"], &joined).unwrap_or_else(|early| match early.status {
        Ok(()) => {
            println!("{}", early.output.trim_end());
            exit(0)
        }
        Err(()) => usage(early.output.trim_end()),
    })
}

fn usage(error: &str) -> ! {
    eprintln!("{error}\nRun demo-faults --help for help.");
    exit(2)
}

/// The steps of the story, and its length.
fn story(arguments: &Arguments) -> Result<(Vec<Step>, Duration), String> {
    let steps = match arguments.at.is_empty() {
        true => STORY.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
        false => arguments.at.clone(),
    };
    let steps = in_order(steps, &NAMES)?;
    if !(10..=60_000).contains(&arguments.delivery_bound_ms) {
        return Err("the delivery bound has to be from 10 to 60000 ms".into());
    }
    if !(1..=64).contains(&arguments.people) {
        return Err("from 1 to 64 people can write".into());
    }
    let last = steps.last().map_or(Duration::ZERO, |step| step.at);
    let end = arguments.seconds.map_or(last + REST, Duration::from_secs);
    if end <= last || end > Duration::from_secs(SECONDS_MAX) {
        let last = last.as_secs_f64();
        return Err(format!(
            "--seconds has to be more than {last}, the time of the last step, and at most {SECONDS_MAX}"
        ));
    }
    Ok((steps, end))
}

/// Plays the story while people write.
fn play(cluster: &mut Cluster, story: &[Step], end: Duration, people: &[Person], begin: Instant) -> Happened {
    let messages_max = MESSAGES_MAX / people.len() as u64;
    let talkers: Vec<_> =
        people.iter().map(|person| Plan { pace: PACE, messages_max, ..Plan::new(cluster, person) }.start()).collect();
    let (mut done, mut faults) = (Vec::new(), Vec::new());
    for step in story {
        std::thread::sleep((begin + step.at).saturating_duration_since(Instant::now()));
        println!("{:>6.1} s  {step}", begin.elapsed().as_secs_f64());
        done.push((begin.elapsed(), step.clone()));
        faults.extend(perform(cluster, step));
    }
    std::thread::sleep((begin + end).saturating_duration_since(Instant::now()));
    let end = begin.elapsed();
    println!("{:>6.1} s  the story ends; all replicas that do not run are started", end.as_secs_f64());
    for lane in lanes(&done, &NAMES) {
        match lane.states.last() {
            Some((_, State::Down)) => cluster.spawn_replica(&lane.name),
            Some((_, State::Paused)) => cluster.program(&lane.name).signal(Signal::CONT),
            _ => {}
        }
    }
    let transcripts: Vec<Transcript> = talkers.into_iter().map(|talker| talker.finish()).collect();
    for transcript in &transcripts {
        faults.extend(transcript.faults.iter().map(|fault| format!("{} saw: {fault}", transcript.account)));
    }
    Happened { done, end, transcripts, faults }
}

/// Performs a step. Returns a fault if a replica that was to stop ended with an error.
fn perform(cluster: &mut Cluster, step: &Step) -> Option<String> {
    match step.action {
        Action::Kill => cluster.kill(&step.replica),
        Action::Start => cluster.spawn_replica(&step.replica),
        Action::Pause => cluster.program(&step.replica).signal(Signal::STOP),
        Action::Resume => cluster.program(&step.replica).signal(Signal::CONT),
        Action::Stop => {
            let status = cluster.stop(&step.replica);
            return (!status.success()).then(|| format!("replica {} was asked to stop: {status}", step.replica));
        }
    }
    None
}

/// Waits until all replicas are equal, stops them, and compares their stores with the answers that people got.
fn compare(cluster: &mut Cluster, bob: &Person, happened: &mut Happened) -> Kept {
    cluster.wait_until_same(WHOLE);
    for name in NAMES {
        let stop = Step { at: happened.end, action: Action::Stop, replica: name.into() };
        happened.faults.extend(perform(cluster, &stop));
    }
    match same(cluster, &NAMES) {
        Ok(ledgers) => kept(&ledgers[0], &happened.transcripts, bob),
        Err(why) => {
            happened.faults.push(why);
            Kept {
                answered: happened.transcripts.iter().map(|transcript| transcript.samples.len()).sum(),
                ..Kept::default()
            }
        }
    }
}

fn is_good(verdict: &Kept, faults: &[String]) -> bool {
    faults.is_empty() && verdict.answered > 0 && verdict.once == verdict.answered
}

/// All answers with their times, in the order of time.
fn answers(happened: &Happened, begin: Instant) -> Vec<(Duration, Sample)> {
    let samples = happened.transcripts.iter().flat_map(|transcript| &transcript.samples);
    let mut answers: Vec<(Duration, Sample)> =
        samples.map(|sample| ((sample.issued + sample.latency).saturating_duration_since(begin), *sample)).collect();
    answers.sort_by_key(|(at, _)| *at);
    answers
}

fn picture(happened: &Happened, verdict: &Kept, bound: Duration, begin: Instant) -> Picture {
    let answers = answers(happened, begin).into_iter().map(|(at, sample)| (at, sample.latency));
    Picture {
        title: format!("{} people write to Bob while replicas come and go", happened.transcripts.len()),
        verdict: verdict.to_string(),
        answers: answers.filter(|(at, _)| *at <= happened.end).collect(),
        events: happened.done.iter().map(|(at, step)| (*at, step.to_string())).collect(),
        lanes: lanes(&happened.done, &NAMES),
        bound: (bound, "delivery bound".into()),
        end: happened.end,
    }
}

/// Prints the latencies before the first step and after each step.
fn print_phases(happened: &Happened, begin: Instant) {
    println!(
        "{:>7}  {:<10} {:>8} {:>11} {:>11} {:>11} {:>13}",
        "from", "after", "answers", "median", "p99", "longest", "closed test"
    );
    let answers = answers(happened, begin);
    let names = happened.done.iter().map(|(at, step)| (*at, step.to_string()));
    let starts = std::iter::once((Duration::ZERO, "(calm)".to_string())).chain(names);
    let ends = happened.done.iter().map(|(at, _)| *at).chain([happened.end]);
    for ((start, name), end) in starts.zip(ends) {
        // An answer counts for the phase in which it came: a step delays the requests that are in flight.
        let of_phase: Vec<&Sample> =
            answers.iter().filter(|(at, _)| (start..end).contains(at)).map(|(_, sample)| sample).collect();
        let mut latencies: Vec<Duration> = of_phase.iter().map(|sample| sample.latency).collect();
        latencies.sort_unstable();
        let at = |share: f64| {
            let last = latencies.len().saturating_sub(1);
            let latency = latencies.get((last as f64 * share) as usize).copied().unwrap_or_default();
            format!("{:.1} ms", latency.as_secs_f64() * 1e3)
        };
        let closed = of_phase.iter().filter(|sample| sample.stability == Stability::Closed).count();
        println!(
            "{:>5.1} s  {:<10} {:>8} {:>11} {:>11} {:>11} {:>11.1} %",
            start.as_secs_f64(),
            name,
            latencies.len(),
            at(0.5),
            at(0.99),
            at(1.0),
            closed as f64 * 100.0 / latencies.len().max(1) as f64,
        );
    }
}

/// Every answer, a line each.
fn table(happened: &Happened, begin: Instant) -> String {
    let mut table = String::from("answered_s\tlatency_ms\tstability\treplica\n");
    for (at, Sample { latency, stability, replica, .. }) in answers(happened, begin) {
        let (at, latency) = (at.as_secs_f64(), latency.as_secs_f64() * 1e3);
        writeln!(table, "{at:.6}\t{latency:.3}\t{stability:?}\t{}", NAMES[replica])
            .expect("writing to a string does not fail");
    }
    table
}
