//! What connects the poll loop and the applier: two bounded channels, a waker and two flags.

use super::{EventBatch, NetCommand};
use crossbeam_channel::{Receiver, Sender};
use mio::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The most event batches on their way to the applier. Beyond it the loop stops reading sockets, which is backpressure by TCP.
const EVENT_BATCHES: usize = 32;
/// The most events on their way to the applier, or to be handed over, while clients are read: as many as it handles in about 10 ms.
/// Beyond it only peers are read. So their messages never wait behind more events of clients than these, and under load the
/// clients wait in their sockets, where they can be read in turns.
const CLIENT_EVENTS_MAX: usize = 4096;
/// The most command batches on their way to the poll loop. Beyond it the applier waits. The loop never waits for the applier, so
/// this ends.
const COMMAND_BATCHES: usize = 16;

/// The applier's handle on the poll loop. When it is dropped, the loop writes its write buffers and ends.
pub struct NetHandle {
    commands: Option<Sender<Vec<NetCommand>>>,
    flags: Arc<LoopFlags>,
}

/// Asks for clock readings on behalf of a thread other than the applier's.
pub struct LoopWaker(Arc<LoopFlags>);

/// What the two threads tell each other beside their channels.
pub struct LoopFlags {
    waker: Waker,
    /// The applier wants a clock reading.
    is_reading_wanted: AtomicBool,
    /// The loop has stopped reading sockets because the channel to the applier was full, or clients because of
    /// [`CLIENT_EVENTS_MAX`].
    is_stalled: AtomicBool,
    /// How many events are on their way to the applier.
    events: AtomicUsize,
}

impl LoopFlags {
    /// Whether the applier has asked for a clock reading since the last call.
    pub fn take_reading_wanted(&self) -> bool {
        self.is_reading_wanted.swap(false, Ordering::SeqCst)
    }

    /// The loop stops reading because the channel is full. The applier looks at this flag after it has made room, and may have
    /// done so just before it was set: the loop has to try to hand over once more.
    pub fn set_stalled(&self) {
        self.is_stalled.store(true, Ordering::SeqCst);
    }

    /// So many events were handed over.
    pub fn add_events(&self, count: usize) {
        self.events.fetch_add(count, Ordering::SeqCst);
    }

    /// So many events were taken, or could not be handed over.
    pub fn remove_events(&self, count: usize) {
        self.events.fetch_sub(count, Ordering::SeqCst);
    }

    /// Whether clients may be read while so many events are yet to be handed over.
    pub fn has_room_for_clients(&self, waiting: usize) -> bool {
        self.events.load(Ordering::SeqCst) + waiting < CLIENT_EVENTS_MAX
    }

    /// Asks for a batch with a clock reading, even if it has no events.
    fn ask_for_reading(&self) {
        self.is_reading_wanted.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Wakes the poll loop.
    pub fn wake(&self) {
        self.waker.wake().expect("an event descriptor that exists can be written to");
    }
}

impl NetHandle {
    /// Hands over commands.
    pub fn post(&self, batch: Vec<NetCommand>) {
        if let Some(commands) = &self.commands
            && commands.send(batch).is_ok()
        {
            self.flags.wake();
        }
    }

    /// Asks for a batch with a clock reading, even if it has no events.
    pub fn ask_for_reading(&self) {
        self.flags.ask_for_reading();
    }

    /// A handle for another thread that asks for clock readings as the applier does.
    pub fn waker(&self) -> LoopWaker {
        LoopWaker(Arc::clone(&self.flags))
    }

    /// The applier has taken a batch.
    pub fn note_taken(&self, batch: &EventBatch) {
        self.flags.remove_events(batch.events.len());
    }

    /// Lets the loop go on reading sockets, if it has stopped: there is room for batches again.
    pub fn resume(&self) {
        if self.flags.is_stalled.swap(false, Ordering::SeqCst) {
            self.flags.wake();
        }
    }
}

impl LoopWaker {
    /// Asks for a batch with a clock reading, which the applier gets like all others.
    pub fn ask_for_reading(&self) {
        self.0.ask_for_reading();
    }
}

impl Drop for NetHandle {
    fn drop(&mut self) {
        // The loop sees that the channel has ended only when it is awake.
        self.commands = None;
        self.flags.wake();
    }
}

/// The poll loop's side of the channels.
pub struct ToApplier {
    /// Takes the events that the loop has read.
    pub batches: Sender<EventBatch>,
    /// Gives the commands that the applier has posted.
    pub commands: Receiver<Vec<NetCommand>>,
    pub flags: Arc<LoopFlags>,
}

/// Both sides: what the loop keeps, and the handle and the batches for the applier.
pub fn connect(waker: Waker) -> (ToApplier, NetHandle, Receiver<EventBatch>) {
    let (batches, take_batches) = crossbeam_channel::bounded(EVENT_BATCHES);
    let (post, commands) = crossbeam_channel::bounded(COMMAND_BATCHES);
    let (is_reading_wanted, is_stalled) = (AtomicBool::new(false), AtomicBool::new(false));
    let flags = Arc::new(LoopFlags { waker, is_reading_wanted, is_stalled, events: AtomicUsize::new(0) });
    let handle = NetHandle { commands: Some(post), flags: Arc::clone(&flags) };
    (ToApplier { batches, commands, flags }, handle, take_batches)
}
