//! Submitting orphans again: requests that have had their effect, and whose place in the log is gone.
//!
//! A request becomes an orphan when a snapshot replaces our log, in which it was executed, and does not have its effect
//! ([`crate::store`] says why others do not). Each is submitted with a new timestamp, as if its client had sent it again, and stays
//! an orphan until it has had its effect. This goes in sweeps over all orphans, in their order:
//!
//! 1. Each is submitted as a new request of its session, which takes it for a repetition if it was executed before. One that skips a
//!    number has no effect, and waits for the next sweep: the request that it waits for may be an orphan, too.
//! 2. When a sweep has helped none, and all of it came to the log, those that are left cannot be executed in their sessions: these
//!    have ended, after a day without use, or lack a request that nobody has. Each is submitted in a session of its own; but not
//!    at once while the client of its session is connected here ([`RESTS_MAX`]): the client may still send what the session lacks,
//!    and the orphan itself. Once the session has what it lacked, the orphan is submitted in it.
//!
//! Nothing of this is stored. After a crash it begins anew, and finds out of each orphan whether it has had its effect.

use crate::replica::{Body, Input, NOBODY, Output, Phase, Replica, Sender, Submission};
use crate::store::{self, ChatStore, StoreError};
use stablechat_protocol::request::StampedRequest;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::time::Duration;

/// The most requests that are submitted at a time. The next follow when these are in the log.
const AT_A_TIME: usize = 256;
/// About the most rows that are read in a wake to find out which orphans have had their effect.
const ROWS_AT_A_TIME: usize = 20_000;
/// A request that is not in the log after this many delivery bounds was refused, and is submitted anew in the next sweep.
const PATIENCE: u32 = 3;

/// How often orphans whose client is connected are left to the client: for about a minute. It repeats what is not answered every
/// second. If it has not sent what the session lacks by then, it does not have that either.
const RESTS_MAX: u32 = 20;

/// The orphans that are being submitted.
#[derive(Default)]
pub struct Resubmission {
    /// Whether there are no orphans left.
    is_done: bool,
    sweep: Sweep,
    /// How many sweeps have left orphans to their clients.
    rests: u32,
    /// The orphans that were submitted last, with their new uids.
    submitted: Vec<(StampedRequest, Uid)>,
    /// When they were submitted.
    at: Timestamp,
}

/// A sweep over all orphans.
struct Sweep {
    /// Whether each orphan that is not next in its session is submitted in a session of its own.
    in_own_sessions: bool,
    /// The orphans up to here were submitted, or are orphans no more.
    up_to: Uid,
    /// Whether an orphan was found to have had its effect.
    has_helped: bool,
    /// Whether all submitted orphans came to the log.
    is_complete: bool,
    /// Whether an orphan was left to its client. Then the next orphans wait as if some had been submitted.
    is_resting: bool,
}

impl Default for Sweep {
    fn default() -> Self {
        Sweep { in_own_sessions: false, up_to: Uid::MIN, has_helped: false, is_complete: true, is_resting: false }
    }
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
        is_connected: impl Fn(ClientId) -> bool,
        outputs: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        if self.is_done || replica.phase() != Phase::Serving {
            return Ok(());
        }
        self.forget_logged(store)?;
        let patience: Duration = PATIENCE * replica.settings().delivery_bound;
        let is_pending = |(_, uid): &(StampedRequest, Uid)| replica.is_pending(*uid);
        let has_to_wait = !self.submitted.is_empty() || self.sweep.is_resting;
        if self.submitted.iter().any(is_pending) || has_to_wait && now.since(self.at) < patience {
            return Ok(());
        }
        self.sweep.is_complete &= self.submitted.is_empty();
        self.submitted.clear();

        // Those that were forgotten would be found again until that is committed.
        store.commit()?;
        self.submit(now, replica, store, is_connected, outputs)
    }

    /// Forgets the orphans that are in the log under their new uids. They are orphans no more, unless that had no effect.
    fn forget_logged(&mut self, store: &mut ChatStore) -> Result<(), StoreError> {
        for (held, uid) in std::mem::take(&mut self.submitted) {
            if !store.log().contains(uid)? {
                self.submitted.push((held, uid));
            } else if store.effect_of(&held)?.is_there {
                store.remove_orphan(&held);
                self.sweep.has_helped = true;
            }
        }
        Ok(())
    }

    /// Submits the next orphans. Those that have had their effect are forgotten.
    fn submit(
        &mut self,
        now: Timestamp,
        replica: &mut Replica,
        store: &mut ChatStore,
        is_connected: impl Fn(ClientId) -> bool,
        outputs: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        let mut orphans = store.orphans(self.sweep.up_to, AT_A_TIME)?;
        if orphans.is_empty() && self.sweep.up_to > Uid::MIN {
            self.rests += u32::from(self.sweep.is_resting);
            let Sweep { in_own_sessions, has_helped, is_complete, is_resting, .. } = self.sweep;
            let is_no_use = is_complete && !has_helped && (is_resting || !in_own_sessions);
            self.sweep = Sweep { in_own_sessions: is_no_use, ..Sweep::default() };
            orphans = store.orphans(self.sweep.up_to, AT_A_TIME)?;
        }
        self.is_done = orphans.is_empty();
        self.at = now;

        let (mut timestamp, mut rows_read) = (now, 0);
        for held in orphans {
            if rows_read >= ROWS_AT_A_TIME {
                break;
            }
            self.sweep.up_to = held.uid;
            let effect = store.effect_of(&held)?;
            rows_read += effect.rows_read;
            if effect.is_there {
                store.remove_orphan(&held);
                self.sweep.has_helped = true;
                continue;
            }

            let in_own_session = self.sweep.in_own_sessions && !effect.is_next;
            if in_own_session && self.rests < RESTS_MAX && is_connected(held.request.client) {
                self.sweep.is_resting = true;
                continue;
            }

            timestamp = timestamp.next();
            let request = if in_own_session { store::in_own_session(&held.request) } else { held.request.clone() };
            let body = Body::Request(request);
            self.submitted.push((held, body.uid(timestamp)));
            let submission = Submission { time: now, from: NOBODY, timestamp, body, too_fast: None };
            replica.step(Input::Request { submission, sender: Sender::Replica }, outputs);
        }
        if !self.submitted.is_empty() {
            let how =
                if self.sweep.in_own_sessions { ", in sessions of their own where theirs have ended" } else { "" };
            log::warn!(
                "submitting {} requests again that have lost their places in the log{how}",
                self.submitted.len()
            );
        }
        Ok(())
    }
}
