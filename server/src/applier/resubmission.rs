//! Submitting orphans again: requests whose place in the log is gone.
//!
//! A request becomes an orphan when a snapshot replaces our log and does not have its effect, or when it comes in below the settled
//! end of the log. Each is submitted as a new request of the same session with a new timestamp, as if its client had sent it again,
//! and stays an orphan until that is in the log. After a crash it is submitted once more, which its session takes for a repetition.

use crate::replica::{Body, Input, NOBODY, Output, Phase, Replica, Sender, Submission};
use crate::store::{ChatStore, StoreError};
use stablechat_protocol::request::StampedRequest;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::time::Duration;

/// The most requests that are submitted at a time. The next follow when these are in the log.
const AT_A_TIME: usize = 256;
/// A request that is not in the log after this many delivery bounds was refused, and is submitted anew.
const PATIENCE: u32 = 3;

/// The orphans that are being submitted.
#[derive(Default)]
pub struct Resubmission {
    /// Whether there are no orphans left.
    is_done: bool,
    /// The orphans that were submitted last, with their new uids.
    submitted: Vec<(StampedRequest, Uid)>,
    /// When they were submitted.
    at: Timestamp,
}

impl Resubmission {
    /// There may be orphans.
    pub fn begin(&mut self) {
        *self = Resubmission::default();
    }

    /// Submits the next orphans, once those that were submitted before are in the log.
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
        // Those that were forgotten would be found again until that is committed.
        store.commit()?;
        self.submit(now, replica, store, outputs)
    }

    /// Forgets the orphans that are in the log under their new uids.
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

    /// Submits the first orphans. Those that have had their effect are forgotten.
    fn submit(
        &mut self,
        now: Timestamp,
        replica: &mut Replica,
        store: &mut ChatStore,
        outputs: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        let orphans = store.orphans(AT_A_TIME)?;
        self.is_done = orphans.is_empty();
        self.submitted.clear();
        self.at = now;
        let mut timestamp = now;
        for held in orphans {
            if store.has_effect(&held)? {
                store.remove_orphan(&held);
                continue;
            }
            timestamp = timestamp.next();
            let body = Body::Request(held.request.clone());
            self.submitted.push((held, body.uid(timestamp)));
            let submission = Submission { time: now, from: NOBODY, timestamp, body };
            replica.step(Input::Request { submission, sender: Sender::Replica }, outputs);
        }
        if !self.submitted.is_empty() {
            log::warn!("submitting {} requests again that have lost their places in the log", self.submitted.len());
        }
        Ok(())
    }
}
