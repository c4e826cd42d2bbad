//! `stablechat status --watch`: the status, again every second.
//!
//! A report is shown until the next one comes, and no longer than `PATIENCE`: a replica that dies is gone from the table at once,
//! one that hangs soon after. At a terminal each table takes the place of the one before, and the last one stays.

use crate::cli::exit::{self, Failure};
use crate::cli::lookout::Lookout;
use crate::cli::screen::{remark, write_results};
use crate::cli::status::{ClusterStatus, Report};
use crate::greeting::Credentials;
use crate::link::LinkEvent;
use rustix::termios::tcgetwinsize;
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::message::ToReplica;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::time::utc;
use stablechat_transport::TlsDialer;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time from one table to the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a report is shown. A replica that has not answered for longer is shown as not in reach.
const PATIENCE: Duration = Duration::from_secs(2);

pub struct WatchSettings {
    pub cluster: Cluster,
    pub tls: TlsDialer,
    /// The account that asks. Strangers are told little.
    pub credentials: Option<Credentials>,
    pub json: bool,
}

/// Shows the status until a signal comes or nobody reads it. Returns the exit code: that of the last table.
///
/// # Errors
/// The operating system refuses a socket, a signal handler or the poll, or the status cannot be written.
pub fn run(mut settings: WatchSettings) -> Result<u8, Failure> {
    let credentials = settings.credentials.take();
    let mut watch = Watch {
        lookout: Lookout::open(&settings.cluster, settings.tls.clone(), credentials)?,
        settings,
        reports: BTreeMap::new(),
        has_drawn: false,
        is_terminal: io::stdout().is_terminal(),
    };
    watch.run()
}

/// The replicas that are watched, with their last reports.
struct Watch {
    settings: WatchSettings,
    lookout: Lookout,
    /// The last report on each link, and when it came.
    reports: BTreeMap<usize, (Timestamp, Report)>,
    /// Whether a table has been shown.
    has_drawn: bool,
    /// Whether it is shown at a terminal.
    is_terminal: bool,
}

impl Watch {
    fn run(&mut self) -> Result<u8, Failure> {
        // Nobody wants to see a table of replicas that are not in reach because we have only begun.
        let mut next = self.lookout.now();
        self.listen_until(next.after(PATIENCE), Watch::is_complete)?;
        loop {
            if self.lookout.links().are_misconfigured() {
                return Ok(exit::CONFIGURATION);
            }
            let status = self.status();
            if !self.draw(&status)? {
                return Ok(exit::DONE);
            }
            next = next.after(INTERVAL).max(self.lookout.now());
            self.lookout.send(None, &ToReplica::Status);
            self.listen_until(next, |_| false)?;
            if self.lookout.is_ended() {
                return Ok(status.code());
            }
        }
    }

    /// Listens until it is time, or `is_enough`, or a signal asks for the end.
    fn listen_until(&mut self, until: Timestamp, is_enough: impl Fn(&Self) -> bool) -> io::Result<()> {
        let mut heard = Vec::new();
        while self.lookout.now() < until && !self.lookout.is_ended() && !is_enough(self) {
            self.lookout.listen(until, &mut heard)?;
            heard.drain(..).for_each(|event| self.on_event(event));
        }
        Ok(())
    }

    fn on_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Ready { link } => self.lookout.send(Some(link), &ToReplica::Status),
            LinkEvent::Lost { link, .. } => drop(self.reports.remove(&link)),
            LinkEvent::Message { link, message } => {
                if let Some(report) = Report::of(message) {
                    self.reports.insert(link, (self.lookout.now(), report));
                }
            }
            LinkEvent::Sample { .. } | LinkEvent::Unreachable { .. } => {}
            LinkEvent::Misconfigured { link, fault } => {
                let replica = &self.settings.cluster.replicas[link];
                remark(&format!("stablechat: the replica {} at {}: {fault}\n", replica.name, replica.address));
            }
        }
    }

    /// Whether every replica in reach has answered.
    fn is_complete(&self) -> bool {
        let links = self.lookout.links();
        links.are_tried() && links.ready().all(|link| self.reports.contains_key(&link))
    }

    /// The reports that are still shown.
    fn status(&mut self) -> ClusterStatus {
        let now = self.lookout.now();
        self.reports.retain(|_, (at, _)| now.since(*at) < PATIENCE);
        let report = |link: usize| self.reports.get(&link).map(|(_, report)| report.clone());
        let names = self.settings.cluster.replicas.iter().map(|replica| replica.name.clone());
        ClusterStatus { replicas: names.enumerate().map(|(link, name)| (name, report(link))).collect() }
    }

    /// Shows a table, all in one write, so that nothing flickers. Returns whether somebody reads it.
    fn draw(&mut self, status: &ClusterStatus) -> Result<bool, Failure> {
        let text = match self.settings.json {
            true => status.to_json_lines(),
            false => format!("{} UTC\n\n{}\n", utc(wall_time()), status.to_text()),
        };
        let text = match (self.is_terminal && !self.settings.json, self.has_drawn) {
            (true, has_drawn) => in_place(&text, has_drawn, rows()),
            (false, true) if !self.settings.json => format!("\n{text}"),
            (false, _) => text,
        };
        self.has_drawn = true;
        write_results(&text)
    }
}

/// A table over the one before: the screen is cleared once, and from then on each line overwritten and its rest erased. Lines
/// beyond so many rows are left out: they would make the screen scroll.
fn in_place(text: &str, has_drawn: bool, rows: usize) -> String {
    let begin = if has_drawn { "\x1b[H" } else { "\x1b[H\x1b[2J" };
    // The cursor waits in the row below the last line.
    let lines = text.lines().take(rows.saturating_sub(1));
    lines.fold(begin.to_string(), |shown, line| shown + line + "\x1b[K\n") + "\x1b[J"
}

/// How many rows the terminal has.
fn rows() -> usize {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 => size.ws_row.into(),
        _ => usize::MAX,
    }
}

/// This machine's wall clock.
fn wall_time() -> Timestamp {
    Timestamp::ZERO.after(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_the_one_before() {
        assert_eq!(in_place("a\nb\n", false, 24), "\x1b[H\x1b[2Ja\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(in_place("a\nb\n", true, 24), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(in_place("a\nb\nc\n", true, 3), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }
}
