//! The findings for people: a table, a histogram and conclusions about Δ, in at most 80 columns.

use super::findings::{Findings, HEADROOM, Largest, Leg, RECOMMENDED_MIN, Verdict};
use super::paths::Place;
use crate::cli::columns::{Heading, Row, WIDTH_MAX, lay_out, shorten};
use std::time::Duration;

/// The most columns of a replica's name; a longer one is cut.
const NAME_MAX: usize = 9;
/// The longest bar of the histogram.
const BAR_MAX: usize = 54;
/// The upper end of the histogram's first row, in nanoseconds. It doubles from row to row.
const FIRST_ROW_NS: u64 = 16_000;

const MEASURED: [Heading; 9] = [
    ("from", false),
    ("to", false),
    ("pings", true),
    ("there", true),
    ("p99.9", true),
    ("back", true),
    ("p99.9", true),
    ("ahead", true),
    ("±", true),
];
const LEGEND: &str = "Times in ms, one way: median and p99.9. ahead: by how much the clock of \"to\" is.\n";

/// The whole report. Each line ends with a newline.
pub fn text(findings: &Findings) -> String {
    let row = |leg: &Leg| row(findings, leg);
    let table = lay_out(&MEASURED, &findings.legs.iter().map(row).collect::<Vec<Row>>());
    format!("{table}{LEGEND}\n{}{}", histogram(&findings.delays), conclusions(findings).concat())
}

fn row(findings: &Findings, leg: &Leg) -> Row {
    let names = [leg.from, leg.to].map(|place| shorten(findings.name(place), NAME_MAX));
    let mut row: Row = names.into();
    let Some(figures) = &leg.figures else {
        row.push("not measured".into());
        return row;
    };
    row.push(leg.pings.to_string());
    let times = [figures.there.median, figures.there.p999, figures.back.median, figures.back.p999];
    row.extend(times.map(|time| short_ms(Duration::from_nanos(time))));
    let sign = if figures.ahead < 0 { "-" } else { "" };
    row.push(format!("{sign}{}", short_ms(Duration::from_nanos(figures.ahead.unsigned_abs()))));
    row.push(short_ms(Duration::from_nanos(figures.error)));
    row
}

/// A histogram of sorted delays, with rows whose upper ends double. Followed by an empty line; empty if there are no delays.
fn histogram(delays: &[u64]) -> String {
    if delays.is_empty() {
        return String::new();
    }
    let mut text = format!("One way, {} messages:\n", delays.len());
    let (mut end, mut counted) = (FIRST_ROW_NS, 0);
    let mut rows: Vec<(u64, usize)> = Vec::new();
    while counted < delays.len() {
        let until = delays.partition_point(|delay| *delay <= end);
        if until > 0 {
            rows.push((end, until - counted));
        }
        counted = until;
        end = end.saturating_mul(2);
    }
    let most = rows.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
    for (end, count) in rows {
        let bar = "#".repeat((count * BAR_MAX).div_ceil(most));
        let end = short_ms(Duration::from_nanos(end));
        text += format!("  <= {end:>6} ms {count:>7}  {bar}").trim_end();
        text.push('\n');
    }
    text + "\n"
}

/// The conclusions about Δ, and the recommendation, one sentence a line.
fn conclusions(findings: &Findings) -> Vec<String> {
    let (bound, needed, n) = (findings.bound, findings.needed(), findings.replicas());
    let at_least = if findings.is_waiting() { "at least " } else { "" };
    let mut lines = vec![
        format!("δ = {at_least}{} ms: {}", short_ms(findings.delta()), reason_of_delta(findings)),
        match findings.epsilon() {
            Some(largest) => {
                let clocks = between(findings, largest);
                format!("ε = {} ms: the clocks of {clocks}, at p99.9 and at worst", short_ms(largest.size))
            }
            None => "ε = 0 ms: no clocks of two replicas were compared".into(),
        },
        format!("N(δ+ε) = {n} x {} ms = {at_least}{} ms", short_ms(needed / n), short_ms(needed)),
    ];
    let bound_ms = bound.as_millis();
    lines.push(match findings.verdict() {
        Verdict::Fails => format!("Δ = {bound_ms} ms does not hold: it is {} ms too short", short_ms(needed - bound)),
        verdict => {
            let partly = if verdict == Verdict::Unknown { " for what was measured" } else { "" };
            let times = bound.as_secs_f64() / needed.as_secs_f64().max(1e-9);
            let margin = short_ms(bound - needed);
            format!("Δ = {bound_ms} ms holds{partly}: {margin} ms to spare, {times:.1} times enough")
        }
    });
    lines.extend(unmeasured(findings));
    let least = RECOMMENDED_MIN.as_millis();
    lines.push(match findings.recommended() {
        Some(recommended) => {
            let recommended = recommended.as_millis();
            format!("Recommended: delivery_bound_ms = {recommended}: {HEADROOM} N(δ+ε), rounded up, at least {least}")
        }
        None if findings.is_waiting() => "Recommended: find out why there is no answer, and measure again".into(),
        None => "Recommended: mend network or clocks; no bound that a cluster may have is enough".into(),
    });
    lines.iter().map(|line| shorten(line, WIDTH_MAX) + "\n").collect()
}

/// The way whose time δ is, and where it was measured.
fn reason_of_delta(findings: &Findings) -> String {
    match (findings.hop(), findings.client_message()) {
        (Some(hop), client) if client.is_none_or(|client| client.size <= hop.size) => {
            format!("an announcement, a fetch and a body, {}, at p99.9", between(findings, hop))
        }
        (_, Some(client)) => format!("a message of a client, {}, at p99.9", between(findings, client)),
        _ => "nothing was measured".into(),
    }
}

/// One line each: pings without an answer, legs that were not measured, perhaps why, and legs that were measured in part.
fn unmeasured(findings: &Findings) -> Vec<String> {
    let named = |what: &str, is_meant: fn(&Leg) -> bool| {
        let legs = findings.legs.iter().filter(|leg| !leg.is_whole && is_meant(leg));
        let names = legs.map(|leg| format!(" {}-{}", findings.name(leg.from), findings.name(leg.to)));
        let names: String = names.collect();
        (!names.is_empty()).then(|| format!("{what}:{names}"))
    };
    let waiting = findings.legs.iter().filter(|leg| !leg.waited.is_zero());
    let waiting = waiting.map(|leg| {
        let ends = between(findings, Largest { size: leg.waited, from: leg.from, to: leg.to });
        format!("No answer between {ends} for {} ms", short_ms(leg.waited))
    });
    let never = named("Not measured, as there was no connection", |leg| leg.pings == 0);
    let partly = named("Connections came or went, so measured in part", |leg| leg.pings > 0);
    let between_replicas = || findings.legs.iter().filter(|leg| leg.from != Place::Here);
    let hint = (between_replicas().next().is_some() && between_replicas().all(|leg| leg.pings == 0))
        .then(|| "Replicas ping each other for accounts and operators only; --as NAME names one".into());
    waiting.chain(never).chain(hint).chain(partly).collect()
}

/// The names of a leg's two places.
fn between(findings: &Findings, largest: Largest) -> String {
    let name = |place: Place| shorten(findings.name(place), NAME_MAX);
    format!("{} and {}", name(largest.from), name(largest.to))
}

/// A time in milliseconds, with three significant digits or more, in at most six characters if it is shorter than 1,000 s.
pub fn short_ms(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1000.0;
    match milliseconds {
        ..0.9995 => format!("{milliseconds:.3}"),
        ..9.995 => format!("{milliseconds:.2}"),
        ..99.95 => format!("{milliseconds:.1}"),
        _ => format!("{milliseconds:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::paths::Path;
    use super::*;
    use stablechat_protocol::clock_offset::Exchange;
    use stablechat_protocol::cluster::Cluster;
    use stablechat_protocol::time::Timestamp;

    const START: Timestamp = Timestamp(1_700_000_000_000_000_000);

    /// The findings when 1,000 pings take 1 ms each way: from here to each of these replicas, and from each to the next.
    fn findings(names: &[&str], bound_ms: u32) -> Findings {
        let entry = |name: &&str| format!("[[replica]]\nname = '{name}'\naddress = '{name}:1'\n");
        let entries: String = names.iter().map(entry).collect();
        let file = format!("name = 'demo'\nid = '1'\ndelivery_bound_ms = {bound_ms}\n{entries}");
        let cluster = Cluster::parse(&file).expect("a good file");
        let mut path = Path::new(true);
        for number in 0..1000 {
            let (sent, way) = (START.after(Duration::from_millis(10 * number)), Duration::from_millis(1));
            path.on_ping(sent, sent);
            path.on_pong(Exchange { sent, clock: sent.after(way), received: sent.after(way * 2) });
        }
        let replica = |place: usize| (Place::Here, Place::Replica(place));
        let next = |place: usize| (Place::Replica(place - 1), Place::Replica(place));
        let ends = (0..names.len()).map(replica).chain((1..names.len()).map(next));
        Findings::of(&cluster, &ends.map(|ends| (ends, path.clone())).collect(), START)
    }

    #[test]
    fn the_report_has_a_table_a_histogram_and_conclusions() {
        let expected = "\
from  to  pings  there  p99.9  back  p99.9  ahead     ±
here  a    1000   1.00   1.00  1.00   1.00  0.000  1.00
here  b    1000   1.00   1.00  1.00   1.00  0.000  1.00
a     b    1000   1.00   1.00  1.00   1.00  0.000  1.00
Times in ms, one way: median and p99.9. ahead: by how much the clock of \"to\" is.

One way, 6000 messages:
  <=   1.02 ms    6000  ######################################################

δ = 5.00 ms: an announcement, a fetch and a body, a and b, at p99.9
ε = 1.00 ms: the clocks of a and b, at p99.9 and at worst
N(δ+ε) = 2 x 6.00 ms = 12.0 ms
Δ = 1000 ms holds: 988 ms to spare, 83.3 times enough
Recommended: delivery_bound_ms = 1000: 4 N(δ+ε), rounded up, at least 1000
";
        assert_eq!(text(&findings(&["a", "b"], 1000)), expected);
        let fails = text(&findings(&["a", "b"], 10));
        assert!(fails.contains("\nΔ = 10 ms does not hold: it is 2.00 ms too short\n"), "{fails}");
    }

    #[test]
    fn the_report_fits_80_columns_with_long_names() {
        let names = ["a-very-long-name-of-a-replica", "another-very-long-name", "a-third-name"];
        let mut findings = findings(&names, 60_000);
        findings.legs[0].pings = 10_000;
        for leg in &mut findings.legs {
            leg.waited = Duration::from_secs(61);
        }
        let shown = text(&findings);
        assert!(shown.contains("No answer between here and a-very-l\u{2026} for 61000 ms\n"), "{shown}");
        assert!(shown.contains("δ = at least 61002 ms: ") && shown.contains("find out why"), "{shown}");
        let width = shown.lines().map(|line| line.chars().count()).max();
        assert!(width <= Some(80), "{width:?}: {shown}");
        assert!(shown.contains("Not measured, as there was no connection: "), "{shown}");
    }

    #[test]
    fn times_have_at_most_six_characters() {
        let shown = [0, 999, 999_000, 9_990_000, 99_900_000, 100_000_000, 60_000_000_000];
        let shown = shown.map(|time| short_ms(Duration::from_nanos(time)));
        assert_eq!(shown, ["0.000", "0.001", "0.999", "9.99", "99.9", "100", "60000"]);
    }
}
