//! From the sockets to the applier: events that were read and are not handed over yet, and the next clock reading.
//!
//! The protocol's real-time test needs a clock reading with a promise: everything that had arrived from peers by then has been
//! handed over. So the loop reads the clock before it waits for events, and reports that reading only after it has read, from each
//! peer that was readable then, all that could have been there. Clients need not be read for it: a request that is read later
//! meets a replica that has closed its timestamp, and is refused.
//!
//! Peers are read first. Clients are read in turns, a limited number of messages each, as far as the applier keeps up.

use super::channel::LoopFlags;
use super::{EventBatch, NetEvent};
use crate::replica::ConnectionId;
use crossbeam_channel::{Sender, TrySendError};
use stablechat_protocol::time::Timestamp;
use stablechat_transport::{Read, ReadEnd};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// About how much memory the events of one batch take, 1 MiB at most. The rest waits in the sockets.
const BATCH_MEMORY_MAX: usize = 1024 * 1024;
/// More than the receive buffer of a socket holds (Linux: `tcp_rmem`, 6 MiB by default). Once this much of a connection has been
/// read since some moment, nothing from before that moment is left, even if the other side sends faster than we read.
const RECEIVE_BUFFER_MAX: usize = 8 * 1024 * 1024;

/// Events on their way to the applier, and which sockets are to be read.
pub struct Intake {
    /// Connections from which there may be something to read.
    readable: BTreeSet<ConnectionId>,
    /// Connections of clients of which whole messages may have been read and are not handled.
    unhandled: BTreeSet<ConnectionId>,
    /// The clock reading that the next batch may report, once all of `owed` is read.
    reading: Option<Timestamp>,
    /// The peers' connections that may hold something from before `reading`, and how many bytes of each have been read since.
    owed: BTreeMap<ConnectionId, usize>,
    /// Events that are not handed over yet.
    batch: EventBatch,
    /// About how much memory they take.
    batch_memory: usize,
    /// Whether the applier waits for a clock reading.
    is_reading_wanted: bool,
    /// Whether the channel to the applier was full. Then nothing more is read.
    is_stalled: bool,
    batches: Sender<EventBatch>,
    flags: Arc<LoopFlags>,
}

impl Intake {
    /// An intake without events.
    pub fn new(batches: Sender<EventBatch>, flags: Arc<LoopFlags>) -> Intake {
        Intake {
            readable: BTreeSet::new(),
            unhandled: BTreeSet::new(),
            reading: None,
            owed: BTreeMap::new(),
            batch: EventBatch::default(),
            batch_memory: 0,
            is_reading_wanted: false,
            is_stalled: false,
            batches,
            flags,
        }
    }

    /// Learns whether the applier waits for a clock reading.
    pub fn note_requested_reading(&mut self) {
        self.is_reading_wanted |= self.flags.take_reading_wanted();
    }

    /// Whether there is something to do without waiting. `may_be_peer` says which connections are to be read even if there is no room
    /// for clients, `is_held_up` which clients are not to be read for now.
    pub fn is_busy(
        &self,
        may_be_peer: impl Fn(ConnectionId) -> bool,
        is_held_up: impl Fn(ConnectionId) -> bool,
    ) -> bool {
        let is_to_be_read = |id: ConnectionId| self.has_room(may_be_peer(id)) && !is_held_up(id);
        let mut all = self.readable.iter().chain(&self.unhandled).copied();
        !self.is_stalled && (self.is_reading_wanted || all.any(is_to_be_read))
    }

    /// Whether nothing more may be read for now.
    pub fn is_full(&self) -> bool {
        self.is_stalled || self.batch_memory >= BATCH_MEMORY_MAX
    }

    /// Whether a connection may be read. One that may be a peer's does not wait until the applier has handled the events of clients.
    pub fn has_room(&self, may_be_peer: bool) -> bool {
        !self.is_full() && (may_be_peer || self.flags.has_room_for_clients(self.batch.events.len()))
    }

    /// There may be something to read from this connection.
    pub fn set_readable(&mut self, id: ConnectionId) {
        self.readable.insert(id);
    }

    /// Whether something may have come from this connection that is not handled.
    pub fn has_work(&self, id: ConnectionId) -> bool {
        self.readable.contains(&id) || self.unhandled.contains(&id)
    }

    /// Whether there may be something to read from this connection.
    pub fn is_readable(&self, id: ConnectionId) -> bool {
        self.readable.contains(&id)
    }

    /// Notes whether whole messages of a client may have been read that are not handled.
    pub fn set_unhandled(&mut self, id: ConnectionId, is_unhandled: bool) {
        match is_unhandled {
            true => self.unhandled.insert(id),
            false => self.unhandled.remove(&id),
        };
    }

    /// Takes a clock reading from before the last wait: whatever had arrived by then is in the sockets that are known to be readable
    /// now. An earlier reading that is not reported yet stays.
    pub fn begin_reading(&mut self, before: Timestamp, is_peer: impl Fn(ConnectionId) -> bool) {
        if self.reading.is_none() {
            self.reading = Some(before);
            self.owed = self.readable.iter().filter(|id| is_peer(**id)).map(|id| (*id, 0)).collect();
        }
    }

    /// The peers' connections to be read: first those that a clock reading waits for.
    pub fn peers(&self, is_peer: impl Fn(ConnectionId) -> bool) -> Vec<ConnectionId> {
        let mut peers: Vec<ConnectionId> = self.readable.iter().copied().filter(|id| is_peer(*id)).collect();
        peers.sort_by_key(|id| !self.owed.contains_key(id));
        peers
    }

    /// The clients' connections of which something may be read or handled.
    pub fn clients(&self, is_peer: impl Fn(ConnectionId) -> bool) -> Vec<ConnectionId> {
        self.readable.union(&self.unhandled).copied().filter(|id| !is_peer(*id)).collect()
    }

    /// Notes what reading a connection came to.
    pub fn on_read(&mut self, id: ConnectionId, Read { bytes, raw, end }: &Read) {
        self.batch_memory += bytes;
        if *end != ReadEnd::More {
            self.readable.remove(&id);
            self.owed.remove(&id);
        } else if let Some(read) = self.owed.get_mut(&id) {
            *read += raw;
            if *read >= RECEIVE_BUFFER_MAX {
                self.owed.remove(&id);
            }
        }
    }

    /// A connection is gone.
    pub fn forget(&mut self, id: ConnectionId) {
        self.readable.remove(&id);
        self.unhandled.remove(&id);
        self.owed.remove(&id);
    }

    /// Adds an event to the next batch.
    pub fn push(&mut self, event: NetEvent) {
        self.batch_memory += size_of::<NetEvent>();
        self.batch.events.push(event);
    }

    /// Hands the batch to the applier. When the applier is behind, the batch stays here and nothing more is read.
    pub fn hand_over(&mut self) {
        if self.owed.is_empty() && !self.is_stalled {
            self.batch.drained = self.reading.take();
        }
        if self.batch.events.is_empty() && !(self.is_reading_wanted && self.batch.drained.is_some()) {
            self.batch_memory = 0;
            return;
        }
        if !self.try_hand_over() {
            self.flags.set_stalled();
            self.try_hand_over();
        }
        if !self.has_room(false) {
            // The loop looks again whether there is room before it waits.
            self.flags.set_stalled();
        }
    }

    /// Tries once to hand over the batch. Returns whether that succeeded.
    fn try_hand_over(&mut self) -> bool {
        let (events, drained) = (self.batch.events.len(), self.batch.drained.is_some());
        // Counted before the applier can take it.
        self.flags.add_events(events);
        match self.batches.try_send(std::mem::take(&mut self.batch)) {
            Ok(()) => {
                self.is_reading_wanted &= !drained;
                self.batch_memory = 0;
                self.is_stalled = false;
            }
            Err(TrySendError::Full(batch)) => {
                self.flags.remove_events(events);
                self.batch = batch;
                self.is_stalled = true;
            }
            // The applier is gone. The loop learns it from the channel of commands.
            Err(TrySendError::Disconnected(_)) => {}
        }
        !self.is_stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::channel::connect;
    use mio::{Poll, Token, Waker};

    #[test]
    fn clients_wait_until_the_applier_has_handled_the_events_of_clients_and_peers_do_not() {
        let poll = Poll::new().expect("the system can make a poll");
        let waker = Waker::new(poll.registry(), Token(0)).expect("the system can make a waker");
        let (to_applier, handle, batches) = connect(waker);
        let mut intake = Intake::new(to_applier.batches, to_applier.flags);
        let mut pushed = 0;
        while intake.has_room(false) {
            intake.push(NetEvent::Greeted { connection: ConnectionId(pushed) });
            pushed += 1;
            // A batch is full before.
            if pushed == 1000 {
                intake.hand_over();
            }
        }
        assert_eq!(pushed, 4096);
        assert!(intake.has_room(true));

        intake.hand_over();
        assert!(!intake.has_room(false), "the applier has not taken them");
        handle.note_taken(&batches.try_recv().expect("they were handed over"));
        assert!(intake.has_room(false));
    }
}
