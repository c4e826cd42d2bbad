//! Clients that call a service at a steady pace, one call at a time, and the outcomes.

use crate::talker::next_turn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// When a client calls.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The time before its first call.
    pub first: Duration,
    /// The time from the beginning of one call to the next. A call that takes longer than that takes the turns of the next ones.
    pub every: Duration,
}

/// A call and its outcome.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub begun: Instant,
    pub took: Duration,
    /// Whether the client was told that it failed, or had to give up.
    pub failed: bool,
}

impl Call {
    /// When its outcome was there.
    pub fn ended(&self) -> Instant {
        self.begun + self.took
    }
}

/// A client's way to call the service. It has no connection after an error, and makes one for the next call, to another node.
pub trait Caller: Send {
    /// Calls, and waits for the answer.
    ///
    /// # Errors
    /// The service could not be reached, refused, or did not answer in time.
    fn call(&mut self) -> Result<(), String>;
}

/// Clients in threads of their own.
pub struct Clients {
    threads: Vec<JoinHandle<Vec<Call>>>,
    is_enough: Arc<AtomicBool>,
}

/// The pause after a failed call, so that a node that refuses connections is not called without a break.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

impl Clients {
    /// Starts clients.
    pub fn start(callers: Vec<(Box<dyn Caller>, Pace)>) -> Clients {
        let is_enough = Arc::new(AtomicBool::new(false));
        let threads = callers.into_iter().map(|(caller, pace)| {
            let is_enough = is_enough.clone();
            std::thread::spawn(move || calls(caller, pace, &is_enough))
        });
        Clients { threads: threads.collect(), is_enough }
    }

    /// Ends them after the calls that are under way.
    pub fn stop(self) -> Vec<Call> {
        self.is_enough.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("a client does not panic")).collect()
    }
}

/// Calls until it is enough.
fn calls(mut caller: Box<dyn Caller>, pace: Pace, is_enough: &AtomicBool) -> Vec<Call> {
    let mut calls = Vec::new();
    let first = Instant::now() + pace.first;
    let mut next = first;
    while !is_enough.load(Ordering::Relaxed) {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let begun = Instant::now();
        let failed = caller.call().is_err();
        calls.push(Call { begun, took: begun.elapsed(), failed });
        next = next_turn(first, pace.every, Instant::now());
        if failed {
            next = next.max(Instant::now() + AFTER_FAILURE);
        }
    }
    calls
}
