//! Taking down what happens, for whoever has to understand a failure.

use super::{START, node};
use stablechat_protocol::time::Timestamp;
use std::collections::VecDeque;

/// The most lines that are kept of each replica, and of all else.
const RECENT: usize = 16;

/// What happens, in lines.
#[derive(Debug)]
pub enum Trace {
    /// Nothing is taken down, and no line is made.
    Off,
    /// The last lines are kept, by replica; those of no replica come last.
    Recent(Vec<VecDeque<(u64, String)>>),
    /// Every line goes to standard output.
    Printed,
}

impl Trace {
    /// Keeps the last lines.
    pub fn recent() -> Trace {
        Trace::Recent(vec![VecDeque::new(); super::REPLICAS + 1])
    }

    /// Takes down what happens to a replica, or to none.
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
                let lines = &mut kept[replica.unwrap_or(super::REPLICAS)];
                lines.push_back((step, line));
                if lines.len() > RECENT {
                    lines.pop_front();
                }
            }
        }
    }

    /// The last lines of these replicas, in order.
    pub(super) fn last_of(&self, replicas: &[usize]) -> Vec<String> {
        let Trace::Recent(kept) = self else { return Vec::new() };
        let mut lines: Vec<&(u64, String)> = replicas.iter().flat_map(|&replica| &kept[replica]).collect();
        lines.sort_by_key(|(step, _)| *step);
        lines.into_iter().map(|(_, line)| line.clone()).collect()
    }
}
