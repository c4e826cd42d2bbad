//! What connects the poll loop and the applier: two bounded channels, a waker and two flags.

use super::{EventBatch, NetCommand};
use crossbeam_channel::{Receiver, Sender};
use mio::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The most rounds between the poll loop and the applier. When they are there, the loop stops reading.
const ROUNDS: usize = 8;
/// The most batches of messages between the applier and the poll loop. When they are there, the applier waits; the loop
/// never waits for the applier, so this ends.
const BATCHES: usize = 64;

/// The applier's side of the poll loop. When it is dropped, the loop sends what is left and ends.
pub struct NetHandle {
    batches: Option<Sender<Vec<NetCommand>>>,
    flags: Arc<LoopFlags>,
}

/// Asks for rounds on behalf of others than the applier.
pub struct LoopWaker(Arc<LoopFlags>);

/// What the two threads tell each other beside their channels.
pub struct LoopFlags {
    waker: Waker,
    /// The applier wants a reading of the clock.
    reading_wanted: AtomicBool,
    /// The loop has stopped reading because the applier was behind.
    stalled: AtomicBool,
}

impl LoopFlags {
    /// Whether the applier has asked for a reading of the clock since this was last asked.
    pub fn take_reading_wanted(&self) -> bool {
        self.reading_wanted.swap(false, Ordering::SeqCst)
    }

    /// The loop stops reading because the applier is behind. The applier looks at this after it has made room, and may have
    /// done so just before: the loop has to try once more.
    pub fn set_stalled(&self) {
        self.stalled.store(true, Ordering::SeqCst);
    }

    /// Asks for a round that says when everything had been read, even if it says nothing else.
    fn ask_for_reading(&self) {
        self.reading_wanted.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Wakes the poll loop.
    pub fn wake(&self) {
        self.waker.wake().expect("an event descriptor that exists can be written to");
    }
}

impl NetHandle {
    /// Hands over messages to be sent.
    pub fn post(&self, batch: Vec<NetCommand>) {
        if let Some(batches) = &self.batches
            && batches.send(batch).is_ok()
        {
            self.flags.wake();
        }
    }

    /// Asks for a round that says when everything had been read, even if it says nothing else.
    pub fn ask_for_reading(&self) {
        self.flags.ask_for_reading();
    }

    /// One who asks for rounds as the applier does.
    pub fn prompter(&self) -> LoopWaker {
        LoopWaker(Arc::clone(&self.flags))
    }

    /// Lets the loop go on, if it has stopped reading: there is room for rounds again.
    pub fn resume(&self) {
        if self.flags.stalled.swap(false, Ordering::SeqCst) {
            self.flags.wake();
        }
    }
}

impl LoopWaker {
    /// Asks for a round, which the applier gets as it gets all of them.
    pub fn ask_for_reading(&self) {
        self.0.ask_for_reading();
    }
}

impl Drop for NetHandle {
    fn drop(&mut self) {
        self.batches = None;
        self.flags.wake();
    }
}

/// The poll loop's side of the applier.
pub struct ToApplier {
    /// Takes what was read.
    pub rounds: Sender<EventBatch>,
    /// Gives what is to be sent.
    pub batches: Receiver<Vec<NetCommand>>,
    /// What else the applier says.
    pub flags: Arc<LoopFlags>,
}

/// The two sides: what the loop keeps, and the mailbox and the rounds for the applier.
pub fn connect(waker: Waker) -> (ToApplier, NetHandle, Receiver<EventBatch>) {
    let (rounds, take_rounds) = crossbeam_channel::bounded(ROUNDS);
    let (post, batches) = crossbeam_channel::bounded(BATCHES);
    let flags = Arc::new(LoopFlags { waker, reading_wanted: AtomicBool::new(false), stalled: AtomicBool::new(false) });
    let mailbox = NetHandle { batches: Some(post), flags: Arc::clone(&flags) };
    (ToApplier { rounds, batches, flags }, mailbox, take_rounds)
}
