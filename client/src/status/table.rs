//! A survey as a table, in two parts that lie below each other, so that it fits every screen: what a replica has come to, and how
//! it works.

use super::{Survey, clock_offset_ns, phase_in_words};
use crate::print::visible;
use stablechat_protocol::status::{PeerReport, PeerStanding, Phase, StatusReport};
use std::time::Duration;

/// The most columns of a screen that the table takes.
pub const WIDTH_MAX: usize = 80;
/// The most columns that a replica's name takes; a longer one is cut.
const NAME_MAX: usize = 12;
/// How much of a digest is shown: enough to see that two are not the same.
const DIGEST_SHOWN: usize = 8;

/// A heading, and whether what is below it is a number.
type Heading = (&'static str, bool);

/// What a replica has come to.
const STATE: [Heading; 7] = [
    ("replica", false),
    ("status", false),
    ("epoch", true),
    ("position", true),
    ("settled", true),
    ("log", false),
    ("state", false),
];

/// How it works.
const WORK: [Heading; 7] = [
    ("replica", false),
    ("lag", true),
    ("clock", true),
    ("links", false),
    ("answers", true),
    ("refused", true),
    ("repairs", true),
];

/// What stands below the headings; a replica that was not in reach has but the first two.
type Row = Vec<String>;

/// The table, and a line for each replica that has found a fault. Each line has its end.
pub fn table(survey: &Survey) -> String {
    let replicas = survey.replicas.iter();
    let state = |report: &Option<_>, name: &str| report.as_ref().map_or_else(|| absent_row(name), state_row);
    let state: Vec<Row> = replicas.map(|(name, report)| state(report, name.as_str())).collect();
    let mut text = lay_out(&STATE, &state) + "\n";
    let work = |links: fn(&StatusReport) -> String| -> String {
        let rows: Vec<Row> = survey.reports().map(|report| work_row(report, links(report))).collect();
        lay_out(&WORK, &rows)
    };
    let fits = |text: &String| text.lines().all(|line| line.chars().count() <= WIDTH_MAX);
    text += &Some(work(link_names)).filter(fits).unwrap_or_else(|| work(link_count));
    for report in survey.reports() {
        let count = report.counters.state_disagreements;
        if count > 0 {
            text +=
                &format!("{}: its state differed from a peer's after the same log, {count} times\n", report.replica);
        }
    }
    text
}

/// What a replica has come to.
fn state_row(report: &StatusReport) -> Row {
    vec![
        short_name(report.replica.as_str()),
        status(report),
        report.epoch.to_string(),
        report.applied.position.to_string(),
        report.settled.to_string(),
        report.applied.log_digest.to_string()[..DIGEST_SHOWN].into(),
        report.state_digest.to_string()[..DIGEST_SHOWN].into(),
    ]
}

/// How a replica works.
fn work_row(report: &StatusReport, links: String) -> Row {
    let counters = &report.counters;
    vec![
        short_name(report.replica.as_str()),
        short_time(report.clock.since(report.closed)),
        clock_offset_ns(report).map_or_else(|| "?".into(), short_offset),
        links,
        format!("{}/{}", short_count(counters.closed), short_count(counters.real_time)),
        short_count(counters.refused.total()),
        short_count(counters.repairs),
    ]
}

/// What is shown of a replica that was not in reach.
fn absent_row(name: &str) -> Row {
    vec![short_name(name), "not in reach".into()]
}

/// What a replica does.
fn status(report: &StatusReport) -> String {
    match (&report.catching_up, report.is_mute) {
        (_, true) if report.clock_is_off => "clock off".into(),
        (_, true) => "too few".into(),
        (Some(progress), false) if report.phase == Phase::CatchingUp => {
            format!("{} {} %", phase_in_words(report.phase), progress.done_percent)
        }
        _ => phase_in_words(report.phase).into(),
    }
}

/// The peers by name, a dash before those that are not consulted or not connected.
fn link_names(report: &StatusReport) -> String {
    let name = |peer: &PeerReport| format!("{}{}", if is_linked(peer) { "" } else { "-" }, peer.replica);
    report.peers.iter().map(name).collect::<Vec<String>>().join(" ")
}

/// How many of the peers are consulted and connected.
fn link_count(report: &StatusReport) -> String {
    format!("{}/{}", report.peers.iter().filter(|peer| is_linked(peer)).count(), report.peers.len())
}

/// Whether a peer is consulted and connected.
fn is_linked(peer: &PeerReport) -> bool {
    peer.standing == PeerStanding::Linked && peer.is_connected
}

/// Rows under their headings. Every line has its end.
fn lay_out(headings: &[Heading], rows: &[Row]) -> String {
    let titles: Row = headings.iter().map(|(heading, _)| (*heading).to_string()).collect();
    let lines: Vec<&Row> = std::iter::once(&titles).chain(rows).collect();
    // The last cell of a short row reaches over the columns that follow.
    let has_column = |row: &&&Row, column: usize| column + 1 < row.len() || row.len() == headings.len();
    let width = |column: usize| {
        let cells = lines.iter().filter(|row| has_column(row, column)).map(|row| row[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    for row in lines {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            if column > 0 {
                line += "  ";
            }
            let width = widths[column];
            line += &if headings[column].1 { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
        }
        text += &visible(line.trim_end());
        text.push('\n');
    }
    text
}

/// A name that is not too long.
fn short_name(name: &str) -> String {
    match name.chars().count() > NAME_MAX {
        true => name.chars().take(NAME_MAX - 1).chain(['\u{2026}']).collect(),
        false => name.into(),
    }
}

/// A count in at most five characters, at least its first digits exact.
fn short_count(count: u64) -> String {
    match count {
        0..100_000 => count.to_string(),
        100_000..10_000_000 => format!("{}k", count / 1000),
        10_000_000..10_000_000_000 => format!("{}M", count / 1_000_000),
        _ => format!("{}G", count / 1_000_000_000),
    }
}

/// How far a clock is ahead, in at most eight characters.
fn short_offset(offset_ns: i64) -> String {
    let sign = match offset_ns {
        // Less than what is shown of it.
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
