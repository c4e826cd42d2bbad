//! The trace of a run, from which a failure is understood.

use super::{START, node};
use stablechat_protocol::time::Timestamp;
use std::collections::{BTreeMap, VecDeque};

/// The most lines that are kept of each replica, and of events that concern none.
const RECENT: usize = 16;

/// The events of a run, as lines of text.
#[derive(Debug)]
pub enum Trace {
    /// No line is made.
    Off,
    /// The last lines of each replica are kept, and the last that concern none.
    Recent(BTreeMap<Option<usize>, VecDeque<(u64, String)>>),
    /// Every line goes to standard output.
    Printed,
}

impl Trace {
    /// Keeps the last lines.
    pub fn recent() -> Trace {
        Trace::Recent(BTreeMap::new())
    }

    /// Adds a line about a replica, or about none.
    pub(super) fn note(&mut self, step: u64, now: Timestamp, replica: Option<usize>, line: impl FnOnce() -> String) {
        if let Trace::Off = self {
            return;
        }
        let who = replica.map_or("-", node::name);
        let line = format!("{step:6} {:10.6} {who} {}", now.since(START).as_secs_f64(), line());
        match self {
            Trace::Off => {}
            Trace::Printed => println!("{line}"),
            Trace::Recent(kept) => {
                let lines = kept.entry(replica).or_default();
                lines.push_back((step, line));
                if lines.len() > RECENT {
                    lines.pop_front();
                }
            }
        }
    }

    /// The last lines of a replica, or of all of them, in order.
    pub(super) fn last_of(&self, replica: Option<usize>) -> Vec<String> {
        let Trace::Recent(kept) = self else { return Vec::new() };
        let is_wanted = |of: &Option<usize>| of.is_some() && (replica.is_none() || *of == replica);
        let mut lines: Vec<&(u64, String)> =
            kept.iter().filter(|(of, _)| is_wanted(of)).flat_map(|(_, lines)| lines).collect();
        lines.sort_by_key(|(step, _)| *step);
        lines.into_iter().map(|(_, line)| line.clone()).collect()
    }
}
