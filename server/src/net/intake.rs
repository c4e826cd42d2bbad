//! What has been read and not yet handed over to the applier, and what the next reading of the clock waits for.

use super::channel::LoopFlags;
use super::{EventBatch, NetEvent};
use crate::replica::ConnectionId;
use crossbeam_channel::{Sender, TrySendError};
use stablechat_protocol::time::Timestamp;
use stablechat_transport::{Read, ReadEnd};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The most bytes that a round is made of. What is beyond waits in the sockets.
const ROUND_BYTES_MAX: usize = 4 * 1024 * 1024;
/// More than the receive buffer of a socket holds (Linux: `tcp_rmem`, 6 MiB): who has been read this far since some moment
/// has nothing left from before it, even if it sends faster than we read.
const RECEIVE_BUFFER_MAX: usize = 8 * 1024 * 1024;

/// The way from the sockets to the applier.
pub struct Intake {
    /// Connections from which there may be something to read.
    readable: BTreeSet<ConnectionId>,
    /// The reading of the clock that the next round may report, once all of `owed` is read.
    reading: Option<Timestamp>,
    /// The connections that may hold something from before `reading`, and how much of them has been read since.
    owed: BTreeMap<ConnectionId, usize>,
    /// What has been read and not yet handed over.
    round: EventBatch,
    /// How many bytes were read for it.
    round_bytes: usize,
    /// Whether the applier waits for a reading.
    reading_wanted: bool,
    /// Whether the channel to the applier was full.
    stalled: bool,
    batches: Sender<EventBatch>,
    flags: Arc<LoopFlags>,
}

impl Intake {
    /// Nothing has been read.
    pub fn new(batches: Sender<EventBatch>, flags: Arc<LoopFlags>) -> Intake {
        Intake {
            readable: BTreeSet::new(),
            reading: None,
            owed: BTreeMap::new(),
            round: EventBatch::default(),
            round_bytes: 0,
            reading_wanted: false,
            stalled: false,
            batches,
            flags,
        }
    }

    /// Learns whether the applier waits for a reading of the clock.
    pub fn note_requested_reading(&mut self) {
        self.reading_wanted |= self.flags.take_reading_wanted();
    }

    /// Whether there is something to do without waiting.
    pub fn is_busy(&self) -> bool {
        !self.stalled && (self.reading_wanted || !self.readable.is_empty())
    }

    /// Whether nothing more may be read for now.
    pub fn is_full(&self) -> bool {
        self.stalled || self.round_bytes >= ROUND_BYTES_MAX
    }

    /// There may be something to read from this connection.
    pub fn set_readable(&mut self, id: ConnectionId) {
        self.readable.insert(id);
    }

    /// Whether there may be something to read from this connection.
    pub fn is_readable(&self, id: ConnectionId) -> bool {
        self.readable.contains(&id)
    }

    /// Remembers a reading of the clock that was taken before the last wait: whatever had arrived by then is in the sockets
    /// that are known to be readable now.
    pub fn begin_reading(&mut self, before: Timestamp) {
        if self.reading.is_none() {
            self.reading = Some(before);
            self.owed = self.readable.iter().map(|id| (*id, 0)).collect();
        }
    }

    /// Whose turn it is to be read: peers, of whom there are few, then the connections that a reading of the clock waits for,
    /// then the others.
    pub fn turns(&self, is_peer: impl Fn(ConnectionId) -> bool) -> Vec<ConnectionId> {
        let mut turns: Vec<ConnectionId> = self.readable.iter().copied().collect();
        turns.sort_by_cached_key(|id| (!is_peer(*id), !self.owed.contains_key(id)));
        turns
    }

    /// Notes that so much was read from a connection.
    pub fn on_read(&mut self, id: ConnectionId, Read { bytes, end }: Read) {
        self.round_bytes += bytes;
        if end != ReadEnd::More {
            self.forget(id);
        } else if let Some(read) = self.owed.get_mut(&id) {
            *read += bytes;
            if *read >= RECEIVE_BUFFER_MAX {
                self.owed.remove(&id);
            }
        }
    }

    /// Notes that nothing is left to read from a connection.
    pub fn forget(&mut self, id: ConnectionId) {
        self.readable.remove(&id);
        self.owed.remove(&id);
    }

    /// Adds to what is handed over next.
    pub fn push(&mut self, event: NetEvent) {
        self.round.events.push(event);
    }

    /// Hands what was read over to the applier. When the applier is behind, it stays here, and nothing more is read.
    pub fn hand_over(&mut self) {
        if self.owed.is_empty() && !self.stalled {
            self.round.drained = self.reading.take();
        }
        if self.round.events.is_empty() && !(self.reading_wanted && self.round.drained.is_some()) {
            self.round_bytes = 0;
            return;
        }
        if !self.try_hand_over() {
            self.flags.set_stalled();
            self.try_hand_over();
        }
    }

    /// Tries once to hand over what was read.
    fn try_hand_over(&mut self) -> bool {
        let drained = self.round.drained.is_some();
        match self.batches.try_send(std::mem::take(&mut self.round)) {
            Ok(()) => {
                self.reading_wanted &= !drained;
                self.round_bytes = 0;
                self.stalled = false;
            }
            Err(TrySendError::Full(round)) => {
                self.round = round;
                self.stalled = true;
            }
            // The applier is gone; the loop learns it from its other channel.
            Err(TrySendError::Disconnected(_)) => {}
        }
        !self.stalled
    }
}
