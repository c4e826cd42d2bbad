//! From the sockets to the applier: events that were read and are not handed over yet, and the next clock reading.
//!
//! The protocol's real-time test needs a clock reading with a promise: everything that had arrived by then has been handed over.
//! So the loop reads the clock before it waits for events, and reports that reading only after it has read, from each connection
//! that was readable then, all that could have been there.

use super::channel::LoopFlags;
use super::{EventBatch, NetEvent};
use crate::replica::ConnectionId;
use crossbeam_channel::{Sender, TrySendError};
use stablechat_protocol::time::Timestamp;
use stablechat_transport::{Read, ReadEnd};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The most bytes that are read for one batch, 4 MiB. The rest waits in the sockets.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// More than the receive buffer of a socket holds (Linux: `tcp_rmem`, 6 MiB by default). Once this much of a connection has been
/// read since some moment, nothing from before that moment is left, even if the other side sends faster than we read.
const RECEIVE_BUFFER_MAX: usize = 8 * 1024 * 1024;

/// Events on their way to the applier, and which sockets are to be read.
pub struct Intake {
    /// Connections from which there may be something to read.
    readable: BTreeSet<ConnectionId>,
    /// The clock reading that the next batch may report, once all of `owed` is read.
    reading: Option<Timestamp>,
    /// The connections that may hold something from before `reading`, and how many bytes of each have been read since.
    owed: BTreeMap<ConnectionId, usize>,
    /// Events that are not handed over yet.
    batch: EventBatch,
    /// How many bytes were read for `batch`.
    batch_bytes: usize,
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
            reading: None,
            owed: BTreeMap::new(),
            batch: EventBatch::default(),
            batch_bytes: 0,
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

    /// Whether there is something to do without waiting.
    pub fn is_busy(&self) -> bool {
        !self.is_stalled && (self.is_reading_wanted || !self.readable.is_empty())
    }

    /// Whether nothing more may be read for now.
    pub fn is_full(&self) -> bool {
        self.is_stalled || self.batch_bytes >= BATCH_BYTES_MAX
    }

    /// There may be something to read from this connection.
    pub fn set_readable(&mut self, id: ConnectionId) {
        self.readable.insert(id);
    }

    /// Whether there may be something to read from this connection.
    pub fn is_readable(&self, id: ConnectionId) -> bool {
        self.readable.contains(&id)
    }

    /// Takes a clock reading from before the last wait: whatever had arrived by then is in the sockets that are known to be readable
    /// now. An earlier reading that is not reported yet stays.
    pub fn begin_reading(&mut self, before: Timestamp) {
        if self.reading.is_none() {
            self.reading = Some(before);
            self.owed = self.readable.iter().map(|id| (*id, 0)).collect();
        }
    }

    /// The connections to be read, in their order: peers first, which are few and must not be taken for silent; then those that a
    /// clock reading waits for; then the others.
    pub fn turns(&self, is_peer: impl Fn(ConnectionId) -> bool) -> Vec<ConnectionId> {
        let mut turns: Vec<ConnectionId> = self.readable.iter().copied().collect();
        turns.sort_by_cached_key(|id| (!is_peer(*id), !self.owed.contains_key(id)));
        turns
    }

    /// Notes what reading a connection came to.
    pub fn on_read(&mut self, id: ConnectionId, Read { bytes, end }: Read) {
        self.batch_bytes += bytes;
        if end != ReadEnd::More {
            self.forget(id);
        } else if let Some(read) = self.owed.get_mut(&id) {
            *read += bytes;
            if *read >= RECEIVE_BUFFER_MAX {
                self.owed.remove(&id);
            }
        }
    }

    /// Notes that nothing is left to be read from a connection.
    pub fn forget(&mut self, id: ConnectionId) {
        self.readable.remove(&id);
        self.owed.remove(&id);
    }

    /// Adds an event to the next batch.
    pub fn push(&mut self, event: NetEvent) {
        self.batch.events.push(event);
    }

    /// Hands the batch to the applier. When the applier is behind, the batch stays here and nothing more is read.
    pub fn hand_over(&mut self) {
        if self.owed.is_empty() && !self.is_stalled {
            self.batch.drained = self.reading.take();
        }
        if self.batch.events.is_empty() && !(self.is_reading_wanted && self.batch.drained.is_some()) {
            self.batch_bytes = 0;
            return;
        }
        if !self.try_hand_over() {
            self.flags.set_stalled();
            self.try_hand_over();
        }
    }

    /// Tries once to hand over the batch. Returns whether that succeeded.
    fn try_hand_over(&mut self) -> bool {
        let drained = self.batch.drained.is_some();
        match self.batches.try_send(std::mem::take(&mut self.batch)) {
            Ok(()) => {
                self.is_reading_wanted &= !drained;
                self.batch_bytes = 0;
                self.is_stalled = false;
            }
            Err(TrySendError::Full(batch)) => {
                self.batch = batch;
                self.is_stalled = true;
            }
            // The applier is gone. The loop learns it from the channel of commands.
            Err(TrySendError::Disconnected(_)) => {}
        }
        !self.is_stalled
    }
}
