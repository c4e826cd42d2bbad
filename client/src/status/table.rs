//! A survey as a table.

use super::{Survey, phase_in_words};
use crate::print::visible;
use stablechat_protocol::status::{PeerReport, PeerStanding, StatusReport};
use std::time::Duration;

/// The most columns of a screen that the table takes.
pub const WIDTH_MAX: usize = 100;
/// The most columns that a replica's name takes; a longer one is cut.
const NAME_MAX: usize = 12;
/// How much of a digest is shown: enough to see that two are not the same.
const DIGEST_SHOWN: usize = 8;

/// The headings, and whether what is below them is a number.
const HEADINGS: [(&str, bool); 11] = [
    ("replica", false),
    ("status", false),
    ("epoch", true),
    ("position", true),
    ("log", false),
    ("state", false),
    ("lag", true),
    ("links", false),
    ("answers", true),
    ("refused", true),
    ("repairs", true),
];

/// What stands below the headings; a replica that was not in reach has but the first two.
type Row = Vec<String>;

/// The table, and a line for each replica that has found a fault. Each line has its end.
pub fn table(survey: &Survey) -> String {
    let rows = |links: fn(&StatusReport) -> String| -> Vec<Row> {
        let row = |report: &StatusReport| report_row(report, links(report));
        let replicas = survey.replicas.iter();
        replicas.map(|(name, report)| report.as_ref().map_or_else(|| absent_row(name.as_str()), row)).collect()
    };
    let shapes = [(link_names as fn(&StatusReport) -> String, 2), (link_count, 2), (link_count, 1)];
    let mut texts = shapes.into_iter().map(|(links, gap)| lay_out(&rows(links), gap));
    let fits = |text: &String| text.lines().all(|line| line.chars().count() <= WIDTH_MAX);
    let mut text = texts.find(fits).unwrap_or_else(|| lay_out(&rows(link_count), 1));
    for report in survey.reports() {
        let count = report.counters.state_disagreements;
        if count > 0 {
            text +=
                &format!("{}: its state differed from a peer's after the same log, {count} times\n", report.replica);
        }
    }
    text
}

/// What is shown of a replica.
fn report_row(report: &StatusReport, links: String) -> Row {
    let counters = &report.counters;
    vec![
        short_name(report.replica.as_str()),
        status(report).into(),
        report.epoch.to_string(),
        report.applied.position.to_string(),
        report.applied.log_digest.to_string()[..DIGEST_SHOWN].into(),
        report.state_digest.to_string()[..DIGEST_SHOWN].into(),
        short_time(report.clock.since(report.closed)),
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
fn status(report: &StatusReport) -> &'static str {
    match report.is_mute {
        true if report.clock_is_off => "clock off",
        true => "too few",
        false => phase_in_words(report.phase),
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

/// Rows under their headings, so many blanks apart. Every line has its end.
fn lay_out(rows: &[Row], gap: usize) -> String {
    let headings: Row = HEADINGS.iter().map(|(heading, _)| (*heading).to_string()).collect();
    let lines: Vec<&Row> = std::iter::once(&headings).chain(rows).collect();
    // The last cell of a short row reaches over the columns that follow.
    let has_column = |row: &&&Row, column: usize| column + 1 < row.len() || row.len() == HEADINGS.len();
    let width = |column: usize| {
        let cells = lines.iter().filter(|row| has_column(row, column)).map(|row| row[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    let mut text = String::new();
    for row in lines {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            if column > 0 {
                line += &" ".repeat(gap);
            }
            let width = widths[column];
            line += &if HEADINGS[column].1 { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
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
