//! Truncating the log: what is settled and beyond what is kept for others to catch up with is dropped, oldest first.
//!
//! What is dropped can be neither undone nor inserted before, so nobody here will ask for it. The last settled request stays,
//! so that the log never looks empty.

use super::error::StoreError;
use super::rows::family;
use super::{ChatStore, log, schema};
use stablechat_protocol::digest::LogMark;
use stablechat_protocol::wire::to_cbor;

/// How many bytes of the log are kept for replicas that have been away, unless [`ChatStore::retain`] says otherwise.
pub const LOG_RETENTION: u64 = 1024 * 1024 * 1024;
/// The log may become longer than it should be by this share of it, so that it is truncated seldom and in large pieces.
const SLACK_SHARE: u64 = 64;
/// The most requests that are dropped at a time.
const STEP: usize = 4096;

/// What to do about a log that differs from ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// What it has and we lack can be inserted.
    Follow,
    /// A snapshot of it has to take the place of ours.
    GiveWay,
    /// A snapshot of ours has to take its place.
    TheyGiveWay,
}

impl ChatStore {
    /// Whether more of the log is there than is to be kept.
    pub fn is_log_too_long(&self) -> bool {
        self.log_bytes > self.retention + self.retention / SLACK_SHARE
    }

    /// Drops settled requests from the beginning of the log, a bounded number at a time, if it is too long. Durable with the
    /// next commit.
    ///
    /// # Errors
    /// Storage failed, or is corrupt; as for all that follows.
    pub fn truncate(&mut self) -> Result<(), StoreError> {
        if !self.is_log_too_long() {
            return Ok(());
        }
        let db = self.rows.db();
        let (mut base, mut log_bytes) = (self.base, self.log_bytes);
        for entry in log::entries(db, self.base.uid).take(STEP) {
            let (uid, entry) = entry?;
            if uid <= self.base.uid {
                continue;
            }
            if uid >= self.settled || log_bytes <= self.retention {
                break;
            }
            base = log::mark(uid, &entry);
            log_bytes -= to_cbor(&entry).len() as u64;
        }
        if base != self.base {
            let (from, to) = (log::key_after(self.base.uid), log::key_after(base.uid));
            self.pending.delete_range_cf(family(db, schema::LOG), from, to);
            self.pending.put_cf(family(db, schema::META), schema::META_BASE, to_cbor(&base));
            (self.base, self.log_bytes) = (base, log_bytes);
        }
        Ok(())
    }

    /// The last request that was truncated, after which the log begins.
    pub fn base(&self) -> LogMark {
        self.base
    }

    /// The last settled request; the [`ChatStore::base`] when there is none after it.
    pub fn settled_mark(&self) -> Result<LogMark, StoreError> {
        let entry = log::entry(self.rows.db(), self.settled)?;
        Ok(entry.map_or(self.base, |entry| log::mark(self.settled, &entry)))
    }

    /// Whether a peer's log, which begins after `base` and is `settled` up to there, can still be brought together with ours:
    /// not if what one lacks is no longer there, or if what one has can no longer be put there. Then only one of the two has
    /// to give way. `common` is the newest known mark that both have.
    pub fn parting(&self, common: Option<LogMark>, base: LogMark, settled: LogMark) -> Result<Parting, StoreError> {
        if common.is_none() && rank(base) != rank(self.base) {
            let is_ours_older = rank(base) > rank(self.base);
            return Ok(if is_ours_older { Parting::GiveWay } else { Parting::TheyGiveWay });
        }
        let reaches = self.committed.uid >= settled.uid && settled.position > self.base.position;
        let is_impossible = reaches && rank(settled) > rank(self.settled_mark()?) && self.common(&[settled])?.is_none();
        Ok(if is_impossible { Parting::GiveWay } else { Parting::Follow })
    }

    /// Keeps no more than about so many bytes of the log.
    pub fn retain(&mut self, bytes: u64) {
        self.retention = bytes;
    }
}

/// Which of two marks is further on, whoever asks.
fn rank(mark: LogMark) -> (u64, [u8; 32]) {
    (mark.position, mark.log_digest.0)
}
