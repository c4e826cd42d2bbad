//! The status of all replicas, and whether their states are equal.
//!
//! Replicas are compared as of a whole second of timestamps, since none of them stands still while they are asked.
//! Replicas that cannot be compared are *unknown*, never *same*.

mod json;
mod table;

use crate::cli::exit;
use stablechat_command_line::size::size;
use stablechat_protocol::digest::BoundaryDigests;
use stablechat_protocol::message::ToClient;
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::status::{PublicStatus, ReportedPhase, StateContents, StatusReport};
use stablechat_protocol::time::{Timestamp, utc};
use std::fmt;
use std::time::Duration;

/// The status of every replica, in the order of the cluster file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Each replica, and its report; none from a replica that was not in reach.
    pub replicas: Vec<(ReplicaName, Option<Report>)>,
}

/// What a replica has told of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Everything, since we are logged in.
    Whole(Box<StatusReport>),
    /// As much as strangers are told.
    Public(PublicStatus),
}

impl Report {
    /// The report in a message; none if it is another message.
    pub fn of(message: ToClient) -> Option<Report> {
        match message {
            ToClient::Status { report } => Some(Report::Whole(report)),
            ToClient::PublicStatus { status } => Some(Report::Public(status)),
            _ => None,
        }
    }

    fn is_serving(&self) -> bool {
        match self {
            Report::Whole(report) => report.is_serving(),
            Report::Public(status) => status.is_serving(),
        }
    }

    /// The report, if it is everything.
    fn whole(&self) -> Option<&StatusReport> {
        match self {
            Report::Whole(report) => Some(report),
            Report::Public(_) => None,
        }
    }
}

/// Whether the replicas that serve are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// They are, as of the latest second that all of them know.
    Same {
        /// The second, since the Unix epoch.
        second: u64,
    },
    /// They are not.
    Different(String),
    /// It cannot be said.
    Unknown(String),
}

impl ClusterStatus {
    /// The reports of the replicas that serve.
    fn serving(&self) -> impl Iterator<Item = &Report> {
        self.in_reach().filter(|report| report.is_serving())
    }

    /// The reports there are.
    fn in_reach(&self) -> impl Iterator<Item = &Report> {
        self.replicas.iter().filter_map(|(_, report)| report.as_ref())
    }

    /// Those of them that tell everything.
    fn reports(&self) -> impl Iterator<Item = &StatusReport> {
        self.in_reach().filter_map(Report::whole)
    }

    /// Whether the replicas that serve are the same.
    pub fn compare(&self) -> Comparison {
        if self.in_reach().next().is_none() {
            return Comparison::Unknown("no replica is in reach".into());
        }
        if self.serving().next().is_none() {
            return Comparison::Unknown("no replica serves".into());
        }
        let Some(serving) = self.serving().map(Report::whole).collect::<Option<Vec<&StatusReport>>>() else {
            return Comparison::Unknown(
                "replicas tell it to accounts and operators only, and not all of them know us as one".into(),
            );
        };
        if let [only] = &serving[..]
            && self.replicas.len() > 1
        {
            return Comparison::Unknown(format!("only {} serves, and there is none to compare it with", only.replica));
        }
        let Some(second) = latest_common_second(&serving) else {
            return Comparison::Unknown("the replicas that serve know no second in common".into());
        };
        let groups = groups(&serving, second);
        if groups.len() == 1 {
            return Comparison::Same { second };
        }
        let names: Vec<String> = groups.iter().map(|(_, names)| names.join(" ")).collect();
        let same_log = groups.iter().all(|(digests, _)| log_of(digests) == log_of(&groups[0].0));
        let what = match same_log {
            true => "have come to different states after the same log, which is a bug",
            false => "have applied different requests",
        };
        Comparison::Different(format!("{} {what}, as of {}", names.join(" and "), moment(second)))
    }

    /// The exit code: done when all replicas serve and are the same.
    pub fn code(&self) -> u8 {
        match self.compare() {
            _ if self.in_reach().next().is_none() => exit::UNREACHABLE,
            Comparison::Same { .. } if self.serving().count() == self.replicas.len() => exit::DONE,
            _ => exit::REFUSED,
        }
    }

    /// For people: a table of at most 80 columns, and the comparison. Ends without a line's end.
    pub fn to_text(&self) -> String {
        format!("{}{}{}{}", table::table(self), self.clock_lines(), self.contents_line(), self.comparison_line())
    }

    /// A line for each clock that differs too much from another, or nothing.
    fn clock_lines(&self) -> String {
        let lines = self.reports().filter_map(|report| {
            let off_by_ns = report.clock_off_by_ns()?;
            Some(format!(
                "clock: that of {} is {} those of replicas that go on, so it stands down; set the wrong clock right\n",
                report.replica,
                distance(off_by_ns)
            ))
        });
        lines.collect()
    }

    /// A line about what is stored, by the replica that has applied the most; or nothing.
    fn contents_line(&self) -> String {
        let Some(report) = self.reports().max_by_key(|report| report.applied.position) else { return String::new() };
        let StateContents { accounts, conversations, messages, message_bytes } = report.contents;
        let size = size(message_bytes);
        format!("stored: {accounts} accounts, {conversations} conversations, {messages} messages of {size}\n")
    }

    /// One JSON object a line: one for each replica, and the comparison. Ends with a line's end.
    pub fn to_json_lines(&self) -> String {
        json::lines(self)
    }

    /// The comparison as a sentence.
    fn comparison_line(&self) -> String {
        let (serving, all) = (self.serving().count(), self.replicas.len());
        match self.compare() {
            Comparison::Same { second } if serving < all => {
                format!("state: same at the {serving} of {all} that serve, as of {}", moment(second))
            }
            Comparison::Same { second } => format!("state: same, as of {}", moment(second)),
            Comparison::Different(detail) => format!("state: different: {detail}"),
            Comparison::Unknown(detail) => format!("state: unknown: {detail}"),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Comparison::Same { .. } => "same",
            Comparison::Different(_) => "different",
            Comparison::Unknown(_) => "unknown",
        })
    }
}

/// The latest second that all of these know.
fn latest_common_second(reports: &[&StatusReport]) -> Option<u64> {
    let (first, others) = reports.split_first()?;
    let known_to_all = |second: &u64| others.iter().all(|report| boundary(report, *second).is_some());
    first.boundaries.iter().map(|digests| digests.second).filter(known_to_all).max()
}

/// A replica's digests at a boundary.
fn boundary(report: &StatusReport, second: u64) -> Option<&BoundaryDigests> {
    report.boundaries.iter().find(|digests| digests.second == second)
}

/// The names of replicas, grouped by equal digests as of a second that all of them know.
fn groups<'a>(reports: &[&'a StatusReport], second: u64) -> Vec<(BoundaryDigests, Vec<&'a str>)> {
    let mut groups: Vec<(BoundaryDigests, Vec<&str>)> = Vec::new();
    for report in reports {
        let Some(digests) = boundary(report, second) else { continue };
        let name = report.replica.as_str();
        match groups.iter_mut().find(|(of_group, _)| of_group == digests) {
            Some((_, names)) => names.push(name),
            None => groups.push((*digests, vec![name])),
        }
    }
    groups
}

/// Two logs are equal if these are.
fn log_of(digests: &BoundaryDigests) -> impl PartialEq {
    (digests.position, digests.log_digest)
}

/// How far a replica's clock is ahead of the clocks that are good, or else of the median of its peers' clocks, in nanoseconds; none
/// when it knows of none.
fn clock_offset_ns(report: &StatusReport) -> Option<i64> {
    if let Some(off_by_ns) = report.clock_off_by_ns() {
        return Some(off_by_ns);
    }
    let mut offsets: Vec<i64> = report.peers.iter().filter_map(|peer| peer.clock_offset_ns(report)).collect();
    offsets.sort_unstable();
    offsets.get(offsets.len() / 2).map(|median| -median)
}

/// How far a clock is from others, in words that end with "of" or "behind".
fn distance(ahead_ns: i64) -> String {
    let seconds = Duration::from_nanos(ahead_ns.unsigned_abs()).as_secs_f64();
    match ahead_ns {
        ..0 => format!("{seconds:.3} s behind"),
        0.. => format!("{seconds:.3} s ahead of"),
    }
}

/// A replica's status in words.
fn phase_in_words(phase: ReportedPhase) -> &'static str {
    match phase {
        ReportedPhase::CatchingUp => "catching up",
        ReportedPhase::Joining => "joining",
        ReportedPhase::Serving => "serving",
        ReportedPhase::Stopping => "stopping",
    }
}

/// A second, for people.
fn moment(second: u64) -> String {
    format!("{} UTC", utc(Timestamp(second.saturating_mul(1_000_000_000))))
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
