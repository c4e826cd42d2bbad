//! The status of a cluster as two tables, one below the other, so that they fit in 80 columns: where each replica is in the
//! log, and how it has been working.

use super::{ClusterStatus, Report, clock_offset_ns, phase_in_words};
use crate::cli::columns::{Heading, Row, WIDTH_MAX, lay_out, shorten};
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::status::{PeerReport, PublicStatus, ReportedPeerState, ReportedPhase, StatusReport};
use std::time::Duration;

/// The most columns of a replica's name; a longer one is cut. With 10, a replica that catches up at position 99,999,999 still
/// fits in 80 columns.
const NAME_MAX: usize = 10;
/// How many digits of a digest are shown: enough to see that two differ.
const DIGEST_SHOWN: usize = 8;

/// Where a replica is in the log.
const STATE: [Heading; 7] = [
    ("replica", false),
    ("status", false),
    ("epoch", true),
    ("position", true),
    ("settled", true),
    ("log", false),
    ("state", false),
];

/// What strangers are told.
const PUBLIC: [Heading; 4] = [("replica", false), ("status", false), ("position", true), ("links", true)];

/// How a replica has been working.
const WORK: [Heading; 7] = [
    ("replica", false),
    ("lag", true),
    ("clock", true),
    ("links", false),
    ("answers", true),
    ("refused", true),
    ("repairs", true),
];

/// Both tables, and a line for each replica whose state differed from a peer's, or that waits because of its restarts. Each line ends with a newline.
pub fn table(cluster_status: &ClusterStatus) -> String {
    if cluster_status.in_reach().next().is_some() && cluster_status.reports().next().is_none() {
        return public_table(cluster_status);
    }
    let replicas = cluster_status.replicas.iter();
    let state = |report: &Option<Report>, name: &str| match report {
        Some(Report::Whole(report)) => state_row(report),
        // It does not know our account: it may be catching up, or its disk be full.
        Some(Report::Public(status)) => short_row(status),
        None => absent_row(name),
    };
    let state: Vec<Row> = replicas.map(|(name, report)| state(report, name.as_str())).collect();
    let mut text = lay_out(&STATE, &state) + "\n";
    let work = |links: fn(&StatusReport) -> String| -> String {
        let rows: Vec<Row> = cluster_status.reports().map(|report| work_row(report, links(report))).collect();
        lay_out(&WORK, &rows)
    };
    let fits = |text: &String| text.lines().all(|line| line.chars().count() <= WIDTH_MAX);

    // Names of peers, if they fit, or else how many of them are linked.
    text += &Some(work(link_names)).filter(fits).unwrap_or_else(|| work(link_count));

    for report in cluster_status.reports() {
        let count = report.counters.state_disagreements;
        if count > 0 {
            text +=
                &format!("{}: its state differed from a peer's after the same log, {count} times\n", report.replica);
        }
        if report.join_wait_ns.is_some() {
            text += &format!(
                "{}: waits before it joins, after {} restarts; see its journal\n",
                report.replica, report.restarts
            );
        }
    }
    text
}

fn state_row(report: &StatusReport) -> Row {
    vec![
        shorten(report.replica.as_str(), NAME_MAX),
        status(report),
        report.epoch.to_string(),
        report.applied.position.to_string(),
        report.settled.to_string(),
        report.applied.log_digest.to_string()[..DIGEST_SHOWN].into(),
        report.state_digest.to_string()[..DIGEST_SHOWN].into(),
    ]
}

fn work_row(report: &StatusReport, links: String) -> Row {
    let counters = &report.counters;
    vec![
        shorten(report.replica.as_str(), NAME_MAX),
        short_time(report.clock.since(report.closed)),
        clock_offset_ns(report).map_or_else(|| "?".into(), short_offset),
        links,
        format!("{}/{}", short_count(counters.closed), short_count(counters.real_time)),
        short_count(counters.refused.total()),
        short_count(counters.repairs),
    ]
}

/// The row of a replica for which we are a stranger, among those of others.
fn short_row(status: &PublicStatus) -> Row {
    let [name, phase] = name_and_phase(status);
    vec![name, phase, String::new(), status.position.to_string()]
}

/// The table for strangers.
fn public_table(cluster_status: &ClusterStatus) -> String {
    let row = |(name, report): &(ReplicaName, Option<Report>)| match report {
        Some(Report::Public(status)) => public_row(status),
        _ => absent_row(name.as_str()),
    };
    lay_out(&PUBLIC, &cluster_status.replicas.iter().map(row).collect::<Vec<Row>>())
}

fn public_row(status: &PublicStatus) -> Row {
    let [name, phase] = name_and_phase(status);
    vec![name, phase, status.position.to_string(), status.linked.to_string()]
}

fn name_and_phase(status: &PublicStatus) -> [String; 2] {
    let phase = if status.is_muted { "too few" } else { phase_in_words(status.phase) };
    [shorten(status.replica.as_str(), NAME_MAX), phase.into()]
}

/// The row of a replica that was not in reach.
fn absent_row(name: &str) -> Row {
    vec![shorten(name, NAME_MAX), "not in reach".into()]
}

/// The phase, with the progress of a catch-up, or why the replica answers nothing.
fn status(report: &StatusReport) -> String {
    if let (ReportedPhase::CatchingUp, Some(wait_ns)) = (report.phase, report.join_wait_ns) {
        return format!("waiting {}", short_time(Duration::from_nanos(wait_ns)));
    }
    match (&report.catching_up, report.is_muted) {
        _ if report.clock_off_by_ns().is_some() => "clock off".into(),
        (_, true) => "too few".into(),
        (Some(progress), false) if report.phase == ReportedPhase::CatchingUp => {
            format!("{} {} %", phase_in_words(report.phase), progress.done_percent)
        }
        _ => phase_in_words(report.phase).into(),
    }
}

/// The names of the peers, with a dash before those that are not linked.
fn link_names(report: &StatusReport) -> String {
    let name = |peer: &PeerReport| format!("{}{}", if is_linked(peer) { "" } else { "-" }, peer.replica);
    report.peers.iter().map(name).collect::<Vec<String>>().join(" ")
}

/// How many of the peers are linked, of how many.
fn link_count(report: &StatusReport) -> String {
    format!("{}/{}", report.peers.iter().filter(|peer| is_linked(peer)).count(), report.peers.len())
}

/// Whether the closed test consults a peer, and it is connected.
fn is_linked(peer: &PeerReport) -> bool {
    peer.state == ReportedPeerState::Linked && peer.is_connected
}

/// A count in at most five characters, rounded down to thousands, millions or billions.
fn short_count(count: u64) -> String {
    match count {
        0..100_000 => count.to_string(),
        100_000..10_000_000 => format!("{}k", count / 1000),
        10_000_000..10_000_000_000 => format!("{}M", count / 1_000_000),
        _ => format!("{}G", count / 1_000_000_000),
    }
}

/// How far a clock is ahead, with its sign, in at most eight characters.
fn short_offset(offset_ns: i64) -> String {
    let sign = match offset_ns {
        // Shown as 0.0 ms, which has no sign.
        -49_999..50_000 => "",
        ..-49_999 => "-",
        50_000.. => "+",
    };
    format!("{sign}{}", short_time(Duration::from_nanos(offset_ns.unsigned_abs())))
}

/// A time in at most seven characters.
fn short_time(time: Duration) -> String {
    match time.as_millis() {
        0..10 => format!("{:.1} ms", time.as_secs_f64() * 1000.0),
        milliseconds @ 10..1000 => format!("{milliseconds} ms"),
        1000..10_000 => format!("{:.1} s", time.as_secs_f64()),
        10_000..86_400_000 => format!("{} s", time.as_secs()),
        _ => "> 1 day".into(),
    }
}
