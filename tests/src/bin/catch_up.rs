//! `stablechat-catch-up`: measures how a replica catches up after it was down while many messages were sent, and after it lost its
//! disk.

use argh::FromArgs;
use stablechat_tests::cluster::Cluster;
use stablechat_tests::ledger::{assert_logged, assert_same};
use stablechat_tests::raw::{RawClient, call_everywhere};
use stablechat_tests::session::{Person, send};
use stablechat_tests::talker::{Plan, Sample, Talker, Transcript};
use std::time::{Duration, Instant};

/// Starts three replicas, sends messages while one of them is down, starts that one again, and measures how long it takes to catch
/// up, how much memory that needs, and the latency that another client sees meanwhile. Then the same with its data deleted. In the
/// end it compares the stores of the replicas.
#[derive(FromArgs)]
#[argh(note = "Build with `cargo build --workspace` first.")]
struct Arguments {
    /// the number of messages (200000)
    #[argh(option, default = "200_000")]
    messages: u64,
    /// the delivery bound in milliseconds (1000)
    #[argh(option, default = "1000")]
    delivery_bound_ms: u64,
}

const NAMES: [&str; 3] = ["a", "b", "c"];
/// The number of clients that send, and of accounts that get the messages: several, since a mailbox has a limit.
const SENDERS: u64 = 4;
const RECIPIENTS: u64 = 8;
/// How long the cluster may take to be whole.
const WHOLE: Duration = Duration::from_secs(600);

fn main() {
    let arguments: Arguments = argh::from_env();
    let mut cluster = Cluster::start(&NAMES, Duration::from_millis(arguments.delivery_bound_ms));
    cluster.wait_until_same(WHOLE);
    let mut clients: Vec<RawClient> = NAMES.iter().map(|name| cluster.greet(name)).collect();
    let person = |name: String, clients: &mut [RawClient]| {
        let person = Person::new(&name);
        call_everywhere(clients, &person.create());
        person
    };
    (0..RECIPIENTS).for_each(|number| drop(person(format!("recipient-{number}"), &mut clients)));
    let senders: Vec<Person> = (0..SENDERS).map(|number| person(format!("sender-{number}"), &mut clients)).collect();
    let witness = person("witness".into(), &mut clients);
    drop(clients);
    let witness = Plan { pace: Duration::from_millis(5), command: message, ..Plan::new(&cluster, &witness) }.start();
    let resident =
        |cluster: &Cluster| NAMES.map(|name| cluster.usage(name).resident >> 20).map(|size| format!("{size} MiB"));
    println!("resident while idle: {:?}", resident(&cluster));

    cluster.kill("c");
    let start = Instant::now();
    let talkers: Vec<Talker> = senders
        .iter()
        .map(|person| {
            let messages_max = arguments.messages / SENDERS;
            Plan { window: 256, messages_max, command: message, ..Plan::new(&cluster, person) }.start()
        })
        .collect();
    let mut transcripts: Vec<Transcript> = talkers.into_iter().map(Talker::join).collect();
    let took = start.elapsed().as_secs_f64();
    println!("{} messages sent in {took:.1} s: {:.0}/s", arguments.messages, arguments.messages as f64 / took);

    std::thread::sleep(Duration::from_secs(2));
    let came_back = [("down meanwhile", false), ("with its data deleted", true)].map(|(what, is_wiped)| {
        if is_wiped {
            cluster.kill("c");
            cluster.wipe("c");
            std::thread::sleep(Duration::from_secs(4));
        }
        come_back(&mut cluster, what)
    });
    transcripts.push(witness.finish());
    let samples = &transcripts.last().expect("the witness").samples;
    for (what, begin, end) in came_back {
        print_latencies(&format!("while {what} catches up"), samples, begin, end);
    }
    let (first, last) = (came_back[0].1, samples.last().expect("the witness talks").issued);
    print_latencies("in the 2 s before", samples, first - Duration::from_secs(2), first);
    print_latencies("in the last 2 s", samples, last - Duration::from_secs(2), last);

    cluster.wait_until_same(WHOLE);
    for name in NAMES {
        assert_eq!(cluster.stop(name).code(), Some(0), "{}", cluster.log(name));
        let log = cluster.log(name);
        let repairs = log.lines().filter(|line| line.contains("repaired the log"));
        repairs.for_each(|repair| println!("replica {name} repaired its log, which must not happen: {repair}"));
    }
    assert_same(&cluster, &NAMES).iter().for_each(|ledger| assert_logged(ledger, &transcripts));
    println!("every answered message is in all logs, and the digests are the same");
}

/// Starts replica c and waits until it serves and has the same log as the others. Returns the begin and the end of that time.
fn come_back(cluster: &mut Cluster, what: &'static str) -> (&'static str, Instant, Instant) {
    let before = NAMES[..2].iter().map(|name| cluster.usage(name).resident).max().unwrap_or_default();
    let begin = Instant::now();
    cluster.start_replica("c");
    let (position, most) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cluster.wait_until_same(WHOLE));
        let mut most = [0; 3];
        while !waiting.is_finished() {
            for (most, name) in most.iter_mut().zip(NAMES) {
                *most = cluster.usage(name).resident.max(*most);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        (waiting.join().expect("the replica catches up"), most)
    });
    let end = Instant::now();
    let took = (end - begin).as_secs_f64();
    println!(
        "{what}: the same after {took:.2} s ({:.0} requests of the log per second); resident at most {:?} MiB, the others \
         {} MiB before",
        position as f64 / took,
        most.map(|bytes| bytes >> 20),
        before >> 20
    );
    (what, begin, end)
}

/// Prints the latency of the requests that were issued in a time.
fn print_latencies(when: &str, samples: &[Sample], begin: Instant, end: Instant) {
    let of_time = samples.iter().filter(|sample| (begin..end).contains(&sample.issued));
    let mut latencies: Vec<Duration> = of_time.map(|sample| sample.latency).collect();
    latencies.sort_unstable();
    let at = |share: f64| latencies.get((latencies.len().saturating_sub(1) as f64 * share) as usize);
    println!("another client, {when}: p50 {:?}, p99 {:?}, max {:?}", at(0.5), at(0.99), at(1.0));
}

/// The request of this number.
fn message(_: &stablechat_protocol::name::AccountName, number: u64) -> stablechat_protocol::command::Command {
    send(&format!("recipient-{}", number % RECIPIENTS), format!("{number} {}", "x".repeat(100)))
}
