//! The verdict on a battle: a table of the attacks and their effect on the honest people, and the faults.

use super::battle::{Fought, Happened};
use crate::talker::Transcript;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// By how much a replica's memory may grow beyond that without attacks, in MiB.
pub const MEMORY_MAX_MIB: u64 = 256;
/// How long an honest message may take. It shows that each is answered, and is no measure of speed.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// The line above the lines of attacks.
pub const HEAD: &str = "attack               rounds   opened     frames   sent MiB   read MiB        p50        p99        max   \
                        MiB more  rejoins  repairs  refusals";

/// The figures of one attack, over all rounds that it had a part in. Attacks of the same round share its latency, memory and
/// counts.
#[derive(Default)]
struct Row {
    rounds: usize,
    connections: u64,
    frames: u64,
    sent: u64,
    read: u64,
    latencies: Vec<Duration>,
    grown_mib: u64,
    rejoins: u64,
    repairs: u64,
    refusals: u64,
}

impl Happened {
    /// A table: one line for the quiet time, one for each attack, one for all.
    pub fn table(&self) -> String {
        let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
        for fought in &self.rounds {
            for ((attack, _), spent) in fought.round.attacks.iter().zip(&fought.spent) {
                let row = rows.entry(attack.name).or_default();
                row.connections += spent.connections;
                row.frames += spent.frames;
                row.sent += spent.bytes_sent;
                row.read += spent.bytes_read;
                row.add(fought, &self.transcripts, self);
            }
        }
        let mut all = Row::default();
        self.rounds.iter().for_each(|fought| all.add(fought, &self.transcripts, self));
        let quiet = Row { latencies: latencies(&self.transcripts, self.quiet), ..Row::default() };

        let mut table = format!("{HEAD}\n");
        for (name, mut row) in [("(quiet)", quiet)].into_iter().chain(rows).chain([("(all rounds)", all)]) {
            writeln!(table, "{}", row.line(name)).expect("writing to a string does not fail");
        }
        table
    }

    /// The visitor's latencies, and the fate of the pair's messages.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        let mut visits = self.visits.latencies.clone();
        visits.sort_unstable();
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| milliseconds(quantile(&visits, share)));
        let lines = [
            format!("visits with a new connection: {}, p50 {p50}, p99 {p99}, max {max}", visits.len()),
            format!(
                "memory: {:?} MiB in the quiet time, at most {:?} MiB later",
                self.idle.0.iter().map(|bytes| bytes >> 20).collect::<Vec<_>>(),
                self.peak.0.iter().map(|bytes| bytes >> 20).collect::<Vec<_>>()
            ),
        ];
        let of_each = self.transcripts.iter().zip(&self.kept);
        let kept = of_each
            .map(|(transcript, kept)| format!("{}: {kept} Refusals: {:?}.", transcript.account, transcript.refusals));
        for line in lines.into_iter().chain(kept) {
            writeln!(text, "{line}").expect("writing to a string does not fail");
        }
        text
    }

    /// The faults: things that happened and must not happen.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.faults.clone();
        for fought in &self.rounds {
            let names: Vec<&str> = fought.round.attacks.iter().map(|(attack, _)| attack.name).collect();
            for (number, what) in [
                (fought.counted.rejoins, "rejoins"),
                (fought.counted.repairs, "repairs"),
                (fought.counted.states_differ, "comparisons that found different states"),
            ] {
                if number > 0 {
                    faults.push(format!("{names:?}: {number} {what}"));
                }
            }
            let grown = fought.memory.grown_mib(&self.idle);
            if grown > MEMORY_MAX_MIB {
                faults.push(format!("{names:?}: {grown} MiB more memory than without attacks"));
            }
        }
        let grown = self.peak.grown_mib(&self.idle);
        if grown > MEMORY_MAX_MIB {
            faults.push(format!("at the peak, a replica has {grown} MiB more memory than without attacks"));
        }
        for transcript in &self.transcripts {
            faults.extend(transcript.faults.iter().map(|fault| format!("{}: {fault}", transcript.account)));
            if let Some(sample) = transcript.samples.iter().find(|sample| sample.latency > LATENCY_MAX) {
                faults.push(format!("{}: message {} took {:?}", transcript.account, sample.sequence, sample.latency));
            }
        }
        for (transcript, kept) in self.transcripts.iter().zip(&self.kept) {
            if kept.lost + kept.wrong > 0 {
                faults.push(format!("{}: {kept}", transcript.account));
            }
        }
        faults.extend(self.visits.faults.iter().cloned());
        faults
    }
}

impl Row {
    fn add(&mut self, fought: &Fought, transcripts: &[Transcript], happened: &Happened) {
        self.rounds += 1;
        self.latencies.extend(latencies(transcripts, fought.time));
        self.grown_mib = self.grown_mib.max(fought.memory.grown_mib(&happened.idle));
        self.rejoins += fought.counted.rejoins;
        self.repairs += fought.counted.repairs;
        self.refusals += fought.counted.refusals;
    }

    fn line(&mut self, name: &str) -> String {
        self.latencies.sort_unstable();
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| milliseconds(quantile(&self.latencies, share)));
        let Row { rounds, connections, frames, grown_mib, rejoins, repairs, refusals, .. } = self;
        let (sent, read) = (self.sent >> 20, self.read >> 20);
        format!(
            "{name:<20} {rounds:>6} {connections:>8} {frames:>10} {sent:>10} {read:>10} {p50:>10} {p99:>10} {max:>10} \
             {grown_mib:>10} {rejoins:>8} {repairs:>8} {refusals:>9}"
        )
    }
}

/// The latencies of the messages that were issued in a time.
fn latencies(transcripts: &[Transcript], (begin, end): (Instant, Instant)) -> Vec<Duration> {
    let samples = transcripts.iter().flat_map(|transcript| &transcript.samples);
    samples.filter(|sample| (begin..end).contains(&sample.issued)).map(|sample| sample.latency).collect()
}

/// The latency that this share does not exceed.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    sorted.get((sorted.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or_default()
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
