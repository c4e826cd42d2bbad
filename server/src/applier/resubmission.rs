//! Submitting again what our log had when a snapshot took its place and that has not got it, or not its effect; and what came too
//! late for its place in the log.
//!
//! Each request becomes a new one of the same session with a new timestamp, as if its client had sent it again, and stays aside
//! until that is in the log. A crash before then has it submitted once more, which its session takes for a repetition.

use crate::replica::{Body, Input, NOBODY, Output, Phase, Replica, Submission};
use crate::store::{ChatStore, StoreError};
use stablechat_protocol::request::StampedRequest;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::time::Duration;

/// The most requests that are submitted again at a time; the next when these are in the log.
const AT_A_TIME: usize = 256;
/// What is not in the log after so many delivery bounds was refused, and is submitted anew.
const PATIENCE: u32 = 3;

/// What is being submitted again.
#[derive(Default)]
pub struct Resubmission {
    /// Whether nothing is aside.
    is_done: bool,
    /// Requests from aside, and the uids that they have now.
    submitted: Vec<(StampedRequest, Uid)>,
    /// When they were.
    at: Timestamp,
}

impl Resubmission {
    /// Something may be aside.
    pub fn begin(&mut self) {
        *self = Resubmission::default();
    }

    /// Submits what is next, once what was submitted before is in the log.
    pub fn go_on(
        &mut self,
        now: Timestamp,
        replica: &mut Replica,
        store: &mut ChatStore,
        outputs: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        if self.is_done || replica.phase() != Phase::Serving {
            return Ok(());
        }
        self.forget_logged(store)?;
        let patience: Duration = PATIENCE * replica.settings().delivery_bound;
        if !self.submitted.is_empty() && now.since(self.at) < patience {
            return Ok(());
        }
        // What was forgotten is still aside until it is committed.
        store.commit()?;
        self.submit(now, replica, store, outputs)
    }

    /// Forgets what is in the log under its new uid.
    fn forget_logged(&mut self, store: &mut ChatStore) -> Result<(), StoreError> {
        for (held, uid) in std::mem::take(&mut self.submitted) {
            if store.log().contains(uid)? {
                store.remove_orphan(&held);
            } else {
                self.submitted.push((held, uid));
            }
        }
        Ok(())
    }

    /// Submits the first of what is aside; what has had its effect is forgotten.
    fn submit(
        &mut self,
        now: Timestamp,
        replica: &mut Replica,
        store: &mut ChatStore,
        outputs: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        let aside = store.orphans(AT_A_TIME)?;
        self.is_done = aside.is_empty();
        self.submitted.clear();
        self.at = now;
        let mut timestamp = now;
        for held in aside {
            if store.has_effect(&held)? {
                store.remove_orphan(&held);
                continue;
            }
            timestamp = timestamp.next();
            let body = Body::Request(held.request.clone());
            self.submitted.push((held, body.uid(timestamp)));
            let submission = Submission { time: now, from: NOBODY, timestamp, body };
            replica.step(Input::Request(submission), outputs);
        }
        if !self.submitted.is_empty() {
            log::warn!("submitting {} requests again that have lost their places in the log", self.submitted.len());
        }
        Ok(())
    }
}
