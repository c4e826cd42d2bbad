//! `stablechat-bench`: throughput and latency of replicas on this machine, and their processor time and memory.

use argh::FromArgs;
use stablechat_tests::cluster::Cluster;
use stablechat_tests::crowd::{self, Crowd, CrowdResult};
use stablechat_tests::fan_out::{self, Audience};
use stablechat_tests::load::{Load, LoadResult};
use stablechat_tests::process::Usage;
use stablechat_tests::raw::{RawClient, call_everywhere};
use stablechat_tests::session::{Person, send};
use stablechat_tests::store_costs::{self, Recipients};
use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Measures throughput and latency of replicas that it starts itself, with the load on the same machine. The data goes to
/// the directory for temporary files (TMPDIR), and is gone afterwards.
#[derive(FromArgs)]
#[argh(
    example = "{command_name} --seconds 10",
    example = "TMPDIR=/var/tmp {command_name} --replicas 3 --delivery-bound-ms 200",
    example = "{command_name} --members 10000 --connected 1000 --rooms 1000",
    note = "A request is a `send` to an account that is not connected. The latency goes from the request's timestamp to its
first answer. Build with `cargo build --workspace` first."
)]
struct Arguments {
    /// how many replicas to start; every request goes to all (1)
    #[argh(option, default = "1")]
    replicas: usize,
    /// the delivery bound in milliseconds (100)
    #[argh(option, default = "100")]
    delivery_bound_ms: u64,
    /// how long each measurement lasts, in seconds (10)
    #[argh(option, default = "10")]
    seconds: u64,
    /// the bytes in a message's text (100)
    #[argh(option, default = "100")]
    text_bytes: usize,
    /// the members of the largest room, 2 to 10,000; 0 for no measurement in a store without a network (10000)
    #[argh(option, default = "10_000")]
    members: usize,
    /// the members of the largest room that are connected to one replica while messages are sent to it, up to 1,000; 0 for
    /// none of this (1000)
    #[argh(option, default = "1000")]
    connected: usize,
    /// the rooms, of up to 100 members each, that get messages in turn, up to 1,000; 0 for none of this (1000)
    #[argh(option, default = "1000")]
    rooms: usize,
}

/// The names of replicas.
const NAMES: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
/// The number of accounts that get the messages.
const RECIPIENTS: usize = 32;
/// How long replicas may take to find each other.
const WHOLE: Duration = Duration::from_secs(60);
/// The number of sessions, and of requests that each has in flight.
const LOADS: [(usize, usize); 4] = [(1, 1), (1, 64), (1, 1024), (16, 64)];

fn main() -> io::Result<()> {
    let arguments: Arguments = argh::from_env();
    let names = NAMES.get(..arguments.replicas).filter(|names| !names.is_empty());
    let names = names.ok_or_else(|| io::Error::other("there can be 1 to 9 replicas"))?;
    print_sync_times()?;
    print_store_costs(&arguments)?;
    let cluster = Cluster::start(names, Duration::from_millis(arguments.delivery_bound_ms));
    cluster.wait_until_same(WHOLE);
    let mut clients: Vec<RawClient> = names.iter().map(|name| cluster.greet(name)).collect();
    // Each load has a sender of its own, since replicas limit how fast an account sends.
    let senders: Vec<Person> = (0..LOADS.len()).map(|number| Person::new(&format!("sender-{number}"))).collect();
    senders.iter().for_each(|person| call_everywhere(&mut clients, &person.create()));
    // Several recipients, since a mailbox has a limit.
    let recipients: Vec<Person> = (0..RECIPIENTS).map(|number| Person::new(&format!("recipient-{number}"))).collect();
    recipients.iter().for_each(|person| call_everywhere(&mut clients, &person.create()));
    drop(clients);
    print_idle(&cluster, names[0]);
    println!(
        "\n{} replica(s), delivery bound {} ms, texts of {} bytes; processor time and memory are those of replica {}",
        names.len(),
        arguments.delivery_bound_ms,
        arguments.text_bytes,
        names[0]
    );
    println!(
        "{:>8} {:>9} {:>10} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>9} {:>9}",
        "sessions", "in flight", "requests/s", "p50", "p99", "p99.9", "max", "repeated", "cores", "us/req", "peak MiB"
    );
    for ((sessions, window), sender) in LOADS.into_iter().zip(&senders) {
        let connect = |name: &&str| -> RawClient {
            let mut client = cluster.greet(name);
            client.login(sender, false);
            client
        };
        let connections = (0..sessions).map(|_| names.iter().map(connect).collect()).collect();
        let text = "x".repeat(arguments.text_bytes);
        let commands = recipients.iter().map(|person| send(person.account.as_str(), text.clone())).collect();
        let mut load = Load::new(connections, commands, window)?;
        let before = cluster.usage(names[0]);
        let measured = load.run(Duration::from_secs(arguments.seconds))?;
        print_row((sessions, window), &measured, before, cluster.usage(names[0]));
    }
    print_fan_out(&arguments, &cluster, names[0])?;
    print_crowd(&arguments, &cluster, names[0])
}

/// Prints what a message costs in a store.
fn print_store_costs(arguments: &Arguments) -> io::Result<()> {
    let rooms = [2, 100, arguments.members].into_iter().filter(|members| (2..=arguments.members).contains(members));
    let mut rooms: Vec<Recipients> = rooms.map(Recipients::Room).collect();
    rooms.dedup();
    if rooms.is_empty() {
        return Ok(());
    }
    println!(
        "\nin the store, without a network; each message is committed alone, and the time is that before the commit"
    );
    println!("{:>16} {:>10} {:>11} {:>9}", "a message to", "rows/send", "bytes/send", "us/send");
    for recipients in std::iter::once(Recipients::Person).chain(rooms) {
        let cost = store_costs::measure(recipients, arguments.text_bytes).map_err(io::Error::other)?;
        let micros = cost.time.as_secs_f64() * 1e6;
        println!("{recipients:>16} {:>10.1} {:>11.0} {micros:>9.1}", cost.rows, cost.bytes);
    }
    println!();
    Ok(())
}

/// Prints what a message costs that goes to many connections.
fn print_fan_out(arguments: &Arguments, cluster: &Cluster, name: &str) -> io::Result<()> {
    println!("\na room with members connected to replica {name}, one message after the other");
    println!(
        "{:>9} {:>9} {:>11} {:>10} {:>12} {:>10} {:>7} {:>9}",
        "members", "connected", "messages/s", "bytes each", "replica us", "writes us", "ratio", "p50"
    );
    let time = Duration::from_secs(arguments.seconds);
    // Besides the one that sends.
    let most = arguments.members.saturating_sub(1).max(arguments.connected);
    let [few, many] = [arguments.connected / 10, arguments.connected];
    let mut audiences = vec![(1, 1), (few, few), (many, many), (most, many)];
    audiences.retain(|(_, connected)| (1..=many).contains(connected));
    audiences.dedup();
    for (members, connected) in audiences {
        let audience = Audience { members, connected };
        let cost = fan_out::measure(cluster, name, audience, arguments.text_bytes, time)?;
        let [replica, writes] = [cost.replica, cost.writes].map(|time| time.as_secs_f64() * 1e6);
        println!(
            "{:>9} {connected:>9} {:>11.0} {:>10} {replica:>12.0} {writes:>10.0} {:>7.2} {:>6.2} ms",
            members + 1,
            cost.messages as f64 / time.as_secs_f64(),
            cost.bytes,
            replica / writes,
            cost.median.as_secs_f64() * 1e3,
        );
    }
    Ok(())
}

/// Prints what messages to many rooms cost, and how an account gets what it has missed in them.
fn print_crowd(arguments: &Arguments, cluster: &Cluster, name: &str) -> io::Result<()> {
    if arguments.rooms == 0 {
        return Ok(());
    }
    let crowd = Crowd { rooms: arguments.rooms, members: arguments.rooms.min(100) };
    let time = Duration::from_secs(arguments.seconds);
    let CrowdResult { joins, joining, load, processor, back } =
        crowd::measure(cluster, name, crowd, arguments.text_bytes, time)?;
    println!("\n{} rooms of {} members, and two accounts more that are in all of them", crowd.rooms, crowd.members);
    println!("{joins} times an account joined a room, in {:.1} s", joining.as_secs_f64());
    println!(
        "messages to the rooms in turn, {} in flight: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms, {:.0} us of processor time each",
        crowd::WINDOW,
        load.throughput(),
        load.quantile(0.5).as_secs_f64() * 1e3,
        load.quantile(0.99).as_secs_f64() * 1e3,
        processor.as_secs_f64() * 1e6 / load.latencies.len().max(1) as f64,
    );
    println!(
        "an account that was away finds {} conversations in {:.0} ms, and fetches and reads their {} messages in {:.2} s",
        back.conversations,
        back.inbox.as_secs_f64() * 1e3,
        back.messages,
        back.reading.as_secs_f64()
    );
    Ok(())
}

/// Prints the measurements of a load.
fn print_row((sessions, window): (usize, usize), measured: &LoadResult, before: Usage, after: Usage) {
    let at = |share: f64| format!("{:.2} ms", measured.quantile(share).as_secs_f64() * 1e3);
    let processor = (after.processor - before.processor).as_secs_f64();
    println!(
        "{:>8} {:>9} {:>10.0} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8.2} {:>9.0} {:>9}",
        sessions,
        sessions * window,
        measured.throughput(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        measured.repetitions,
        processor / measured.elapsed.as_secs_f64(),
        processor * 1e6 / measured.latencies.len().max(1) as f64,
        after.resident_peak / (1024 * 1024),
    );
}

/// Prints the processor time and memory of an idle replica.
fn print_idle(cluster: &Cluster, name: &str) {
    const WATCHED: Duration = Duration::from_secs(3);
    let before = cluster.usage(name);
    std::thread::sleep(WATCHED);
    let after = cluster.usage(name);
    println!(
        "idle: {:.3} % of a core, {} MiB resident",
        (after.processor - before.processor).as_secs_f64() / WATCHED.as_secs_f64() * 100.0,
        after.resident / (1024 * 1024)
    );
}

/// Prints the time that this disk takes to make a small write durable, without any replica.
fn print_sync_times() -> io::Result<()> {
    const WRITES: usize = 500;
    let mut file: File = tempfile::tempfile()?;
    for length in [200, 16 * 1024, 256 * 1024] {
        let bytes = vec![b'x'; length];
        let mut times = Vec::with_capacity(WRITES);
        for _ in 0..WRITES {
            file.write_all(&bytes)?;
            let start = Instant::now();
            file.sync_data()?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        let at = |share: f64| times[((WRITES - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            "fdatasync after {length:>6} bytes: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
    Ok(())
}
