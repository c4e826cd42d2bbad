//! The outputs of the protocol that wait to be performed.
//!
//! The three kinds of output differ in when they may be performed: an effect at once, a change of the store after all changes
//! before it, and a read of the log while no change is half done. So outputs are sorted, and those that have to wait are queued.
//!
//! The backlog never performs anything, and does not know whether a change is half done: the applier asks it for the next output of
//! the kind whose turn it is.

use crate::replica::{Effect, LogRead, Output, PeerId, StoreChange};
use std::collections::VecDeque;

/// The outputs that wait to be performed.
#[derive(Default)]
pub struct Backlog {
    /// The outputs that have come since the last sorting. Between wakes these are the ones that performing the others led to.
    new: Vec<Output>,
    /// The outputs that are being sorted. If storage fails, the effects after the one that failed stay here.
    unsorted: VecDeque<Output>,
    /// Changes that wait for an insertion to be done. While the replica catches up these are the next insertions, as many as the
    /// protocol allows at a time, and parts of a snapshot, of which one is asked for at a time.
    changes: VecDeque<StoreChange>,
    /// Reads of the log that wait for the same reason. A peer asks for little on one connection before it has been answered.
    reads: VecDeque<LogRead>,
}

impl Backlog {
    /// Where the protocol puts its outputs.
    pub fn outputs(&mut self) -> &mut Vec<Output> {
        &mut self.new
    }

    /// The next effect. Changes and reads before it are queued. None when all outputs are sorted.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.unsorted.extend(self.new.drain(..));
        while let Some(output) = self.unsorted.pop_front() {
            match output {
                Output::Effect(effect) => return Some(effect),
                Output::Change(change) => self.changes.push_back(change),
                Output::Read(read) => self.reads.push_back(read),
            }
        }
        None
    }

    /// The next change of the store.
    pub fn next_change(&mut self) -> Option<StoreChange> {
        self.changes.pop_front()
    }

    /// The next read of the log.
    pub fn next_read(&mut self) -> Option<LogRead> {
        self.reads.pop_front()
    }

    /// Whether there are no outputs to be sorted.
    pub fn is_sorted(&self) -> bool {
        self.new.is_empty() && self.unsorted.is_empty()
    }

    /// Whether reads wait, among the sorted outputs.
    pub fn has_reads(&self) -> bool {
        !self.reads.is_empty()
    }

    /// Whether there is work for another wake: reads alone are done in the wake in which they are sorted, unless a change is half
    /// done.
    pub fn wants_wake(&self) -> bool {
        !self.is_sorted() || !self.changes.is_empty()
    }

    /// Whether any change of the store waits.
    pub fn has_changes(&self) -> bool {
        let is_change = |output: &Output| matches!(output, Output::Change(_));
        !self.changes.is_empty() || self.new.iter().chain(&self.unsorted).any(is_change)
    }

    /// Whether requests wait to be inserted. Only parts of a snapshot wait in the queue beside them, so any change there counts.
    pub fn has_insertions(&self) -> bool {
        let inserts = |output: &Output| matches!(output, Output::Change(StoreChange::Insert { .. }));
        !self.changes.is_empty() || self.new.iter().chain(&self.unsorted).any(inserts)
    }

    /// Drops the work for a connection to a peer that has ended, or that the protocol ends. The peer asks again on the next
    /// one. A part of a snapshot must not be installed after this: the protocol no longer waits for it, and may have joined
    /// meanwhile.
    pub fn on_disconnected(&mut self, peer: PeerId) {
        let is_stale = |change: &StoreChange| match change {
            StoreChange::TakeSnapshotPart { from, .. } => *from == peer,
            StoreChange::Apply { .. } | StoreChange::Insert { .. } => false,
        };
        self.reads.retain(|read| read.to != peer);
        self.changes.retain(|change| !is_stale(change));
        // The outputs that are being sorted stay: they come after the protocol's own `Effect::Disconnect`, so they are for the next connection.
        self.new.retain(|output| !matches!(output, Output::Change(change) if is_stale(change)));
    }

    /// The effects that were not performed, in order. The rest is dropped.
    pub fn into_effects(mut self) -> impl Iterator<Item = Effect> {
        std::iter::from_fn(move || self.next_effect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::LogPart;

    const PEER: PeerId = PeerId(1);

    fn part() -> StoreChange {
        StoreChange::TakeSnapshotPart { from: PEER, part: 0, rows: Vec::new(), end: None }
    }

    fn read() -> LogRead {
        LogRead { to: PEER, part: LogPart::Marks }
    }

    #[test]
    fn effects_come_first_and_the_rest_is_queued_in_order() {
        let mut backlog = Backlog::default();
        let outputs = [Output::Read(read()), Output::Change(part()), Output::Effect(Effect::Stable)];
        backlog.outputs().extend(outputs);
        assert!(backlog.has_changes() && !backlog.has_reads() && !backlog.is_sorted());
        assert_eq!(backlog.next_effect(), Some(Effect::Stable));
        assert_eq!(backlog.next_effect(), None);
        assert!(backlog.has_changes() && backlog.has_reads() && backlog.is_sorted());
        assert_eq!((backlog.next_change(), backlog.next_change()), (Some(part()), None));
        assert!(!backlog.wants_wake(), "a read alone does not");
        assert_eq!((backlog.next_read(), backlog.next_read()), (Some(read()), None));
    }

    #[test]
    fn the_work_for_a_connection_ends_with_it_and_that_for_the_next_one_stays() {
        let mut backlog = Backlog::default();
        let disconnect = Effect::Disconnect { peer: PEER };
        let for_this_one = [Output::Change(part()), Output::Read(read()), Output::Effect(disconnect.clone())];
        backlog.outputs().extend(for_this_one);
        backlog.outputs().push(Output::Read(read()));
        assert_eq!(backlog.next_effect(), Some(disconnect));
        backlog.on_disconnected(PEER);
        assert_eq!(backlog.next_effect(), None);
        assert!(!backlog.has_changes());
        assert_eq!((backlog.next_read(), backlog.next_read()), (Some(read()), None));
    }
}
