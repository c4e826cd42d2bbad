//! Repair: requests that became known too late are put in their places, and what follows them is applied again.
//!
//! The log is applied up to `applied`, exactly, and what lies in it after that is still to be applied. Every batch keeps to
//! this, and nothing else has to be known to go on after a crash:
//!
//! 1. Undo, newest first. A batch puts old rows back, trades undo records for [`Undone`], and moves `applied` back. The
//!    requests stay in the log. After a crash they are applied again, and it was as if nothing had happened.
//! 2. When `applied` is below all new requests, and not before, put them into the log. After a crash those that got there are
//!    applied with the rest; of the others nobody was told that we hold them.
//! 3. Apply what the log has after `applied`. A batch is one as of [`ChatStore::commit`]: state, new undo records, entries
//!    with new positions and chain hashes, and `applied`.
//!
//! Position and chain hash of an entry after `applied` mean nothing. No peer gets to see them, since none is told of our log as a
//! whole while an insertion is under way, and [`ChatStore::open`] returns when there is none.

use super::error::StoreError;
use super::rows::{decode, family};
use super::schema::{self, Applied, Column, LogEntry, UndoRecord, Undone};
use super::{ChatStore, Delivery, Outcome, chat, log, session};
use stablechat_protocol::answer::Answer;
use stablechat_protocol::command::{Command, Recipient};
use stablechat_protocol::digest::{Digest, LogMark};
use stablechat_protocol::request::{Actor, Request, StampedRequest};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::uid::Uid;
use stablechat_protocol::wire::to_cbor;
use std::collections::BTreeMap;

/// What came of inserting requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// The requests that are new in the log, in their order.
    pub inserted: Vec<(StampedRequest, Outcome)>,
    /// How many requests were undone and applied again.
    pub undone: u64,
    /// Those of them that came out differently, in their order.
    pub changed: Vec<Changed>,
    /// Requests that are not in the log and can no longer be put there, since it is settled beyond them.
    pub unplaceable: Vec<StampedRequest>,
}

/// A request that came out differently when it was applied again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its session.
    pub client: ClientId,
    /// Its place in the session.
    pub sequence: u64,
    /// Its uid.
    pub uid: Uid,
    /// Its answer now, which is the one of before when the delivery alone is new.
    pub answer: Answer,
    /// A message that it did not bring into being before, or not for these owners.
    pub delivery: Option<Delivery>,
}

/// When a batch is large enough.
#[derive(Clone, Copy)]
pub struct ChunkLimit {
    /// As many requests.
    pub requests: usize,
    /// Or about as many bytes, of rows and of the batch each.
    pub bytes: usize,
}

impl ChunkLimit {
    /// Some tens of milliseconds of work.
    pub const DEFAULT: ChunkLimit = ChunkLimit { requests: 250, bytes: 4 * 1024 * 1024 };
}

/// What is left to be done of an insertion.
pub(super) struct PendingRepair {
    /// Down to where has to be undone.
    undo_to: Option<Uid>,
    /// What belongs below the last applied request, before it is in the log.
    below: Vec<StampedRequest>,
    /// Whether the log has requests after the last applied one.
    is_behind: bool,
    /// What comes after the end of the log, last first.
    above: Vec<StampedRequest>,
    /// What cannot be inserted.
    unplaceable: Vec<StampedRequest>,
}

impl ChatStore {
    /// Begins to put requests in their places in the log, in whatever order they come; those that are in the log already are
    /// passed over. What was applied before is durable when it returns. Until [`ChatStore::go_on_inserting`] has said that all
    /// is done, positions and chain hashes of the log must not be told, and nothing applied.
    ///
    /// # Errors
    /// Storage failed, or is corrupt; the store must not be used any more. Opening it again completes what was begun.
    pub fn begin_inserting(&mut self, requests: Vec<StampedRequest>) -> Result<(), StoreError> {
        debug_assert!(self.insertion.is_none(), "one insertion at a time");
        self.commit()?;
        let mut requests: BTreeMap<Uid, StampedRequest> = requests.into_iter().map(|held| (held.uid, held)).collect();
        let mut above = requests.split_off(&self.applied.uid);
        above.remove(&self.applied.uid);
        let (mut below, mut unplaceable) = (Vec::new(), Vec::new());
        for (uid, held) in requests {
            match self.contains(uid)? {
                true => {}
                false if uid <= self.settled => unplaceable.push(held),
                false => below.push(held),
            }
        }
        let above = above.into_values().rev().collect();
        let undo_to = below.first().map(|held| held.uid);
        self.insertion = Some(PendingRepair { undo_to, below, is_behind: false, above, unplaceable });
        Ok(())
    }

    /// Lets a batch of an insertion have so many requests at most, instead of the usual number.
    pub fn repair_in_batches_of(&mut self, requests: usize) {
        self.chunk_limit.requests = requests;
    }

    /// Whether an insertion is under way.
    pub fn is_inserting(&self) -> bool {
        self.insertion.is_some()
    }

    /// Does a batch's worth of an insertion, durably, and returns what came of it, and whether all is done.
    ///
    /// # Errors
    /// As for [`ChatStore::begin_inserting`].
    pub fn go_on_inserting(&mut self) -> Result<(Repair, bool), StoreError> {
        let Some(mut insertion) = self.insertion.take() else { return Ok((Repair::default(), true)) };
        let mut repair = Repair { unplaceable: std::mem::take(&mut insertion.unplaceable), ..Repair::default() };
        if let Some(bound) = insertion.undo_to {
            let is_undone = self.undo_some(bound)?;
            insertion.undo_to = Some(bound).filter(|_| !is_undone);
        } else if !insertion.below.is_empty() {
            self.put_into_log_some(&mut insertion.below);
            insertion.is_behind = true;
        } else if insertion.is_behind {
            insertion.is_behind = !self.apply_log_some(&mut repair)?;
        } else {
            while let Some(held) = insertion.above.pop() {
                let outcome = self.apply(held.uid, &held.request)?;
                repair.inserted.push((held, outcome));
                if self.is_batch_full() {
                    break;
                }
            }
        }
        self.commit()?;
        let is_done = insertion.undo_to.is_none()
            && insertion.below.is_empty()
            && !insertion.is_behind
            && insertion.above.is_empty();
        self.insertion = Some(insertion).filter(|_| !is_done);
        Ok((repair, is_done))
    }

    /// Completes the repair that was under way when the last process ended, if any.
    pub fn resume_repair(&mut self) -> Result<(), StoreError> {
        let mut repair = Repair::default();
        while !self.apply_log_some(&mut repair)? {}
        self.resumed = repair;
        Ok(())
    }

    /// What came of the repair that [`ChatStore::open`] completed; nothing when there was none. What the last process had
    /// applied of it is not part of it.
    pub fn take_resumed_repair(&mut self) -> Repair {
        std::mem::take(&mut self.resumed)
    }

    /// Notes that no request will be inserted up to this uid any more, and drops what it would take to undo. Durable with the
    /// next commit.
    pub fn settle(&mut self, uid: Uid) {
        let uid = uid.min(self.applied.uid);
        if uid <= self.settled {
            return;
        }
        let db = self.rows.db();
        let (from, to) = (log::key_after(self.settled), log::key_after(uid));
        self.pending.delete_range_cf(family(db, schema::UNDO), from, to);
        self.pending.put_cf(family(db, schema::META), schema::META_SETTLED, to_cbor(&uid));
        self.settled = uid;
    }

    /// Up to where the log is settled; [`Uid::MIN`] when it is nowhere.
    pub fn settled(&self) -> Uid {
        self.settled
    }

    /// Undoes a batch of the requests above this uid, newest first. Returns whether none is left.
    fn undo_some(&mut self, bound: Uid) -> Result<bool, StoreError> {
        while self.applied.uid > bound {
            self.undo_last()?;
            if self.is_batch_full() {
                break;
            }
        }
        self.boundaries.go_back(self.applied.uid);
        self.commit()?;
        Ok(self.applied.uid <= bound)
    }

    /// Undoes the last applied request, which stays in the log.
    fn undo_last(&mut self) -> Result<(), StoreError> {
        let db = self.rows.db();
        let uid = self.applied.uid;
        let corrupt = |what: &str| StoreError::Corrupt(format!("request {uid} cannot be undone: {what}"));
        let entry = log::entry(db, uid)?.ok_or_else(|| corrupt("it is not in the log"))?;
        let undo = db.get_cf(family(db, schema::UNDO), uid.to_bytes());
        let undo = undo.map_err(|error| StoreError::Rocks("reading undo records", error))?;
        let undo: UndoRecord = decode(schema::UNDO, &undo.ok_or_else(|| corrupt("it has no undo record"))?)?;
        let before = log::last_before(db, uid)?.map_or(self.base, |(uid, entry)| log::mark(uid, &entry));
        if (before.position + 1, before.log_digest.chain(uid)) != (entry.position, entry.log_digest) {
            return Err(corrupt("the log has a gap before it"));
        }
        self.log_bytes -= to_cbor(&entry).len() as u64;
        let undone = self.undone(&entry.request, &undo)?;
        self.rows.undo(undo)?;
        let LogMark { uid: last, position, log_digest } = before;
        self.applied = Applied { uid: last, position, log_digest, state_digest: self.rows.digest() };
        if position == 0 && self.applied != Applied::NOTHING {
            return Err(corrupt("there is a state without any request"));
        }
        let db = self.rows.db();
        self.pending.delete_cf(family(db, schema::UNDO), uid.to_bytes());
        self.pending.put_cf(family(db, schema::UNDONE), uid.to_bytes(), to_cbor(&undone));
        self.uncommitted += 1;
        Ok(())
    }

    /// What the last applied request came to.
    fn undone(&self, request: &Request, undo: &UndoRecord) -> Result<Undone, StoreError> {
        let answer = session::given_answer(&self.rows, request)?;
        let sent = undo.rows.iter().any(|row| row.column == Column::Timelines as u8);
        let delivered_to = match &request.command {
            Command::Send { to: Recipient::Account { name }, .. } if sent => {
                let user = chat::account(&self.rows, name)?;
                user.ok().map(|user| Actor { account: name.clone(), key: user.key })
            }
            _ => None,
        };
        Ok(Undone { answer, delivered_to })
    }

    /// Puts a batch of requests into the log that are to be applied, last first.
    fn put_into_log_some(&mut self, requests: &mut Vec<StampedRequest>) {
        while let Some(StampedRequest { uid, request }) = requests.pop() {
            let entry = LogEntry { position: 0, log_digest: Digest::ZERO, request };
            self.pending.put_cf(family(self.rows.db(), schema::LOG), uid.to_bytes(), to_cbor(&entry));
            self.uncommitted += 1;
            if self.is_batch_full() {
                break;
            }
        }
    }

    /// Applies a batch of what the log has after the last applied request. Returns whether nothing is left.
    fn apply_log_some(&mut self, repair: &mut Repair) -> Result<bool, StoreError> {
        let ChunkLimit { requests, bytes } = self.chunk_limit;
        let (piece, is_end) = log::piece_after(self.rows.db(), self.applied.uid, bytes, requests)?;
        for held in piece {
            self.apply_again(held, repair)?;
            if self.is_batch_full() {
                self.commit()?;
            }
        }
        self.commit()?;
        Ok(is_end)
    }

    /// Applies a request from the log that is new, or had been undone.
    fn apply_again(&mut self, held: StampedRequest, repair: &mut Repair) -> Result<(), StoreError> {
        let uid = held.uid;
        let undone = self.rows.db().get_cf(family(self.rows.db(), schema::UNDONE), uid.to_bytes());
        let undone = undone.map_err(|error| StoreError::Rocks("reading what was undone", error))?;
        let outcome = self.apply(uid, &held.request)?;
        let Some(undone) = undone else {
            repair.inserted.push((held, outcome));
            return Ok(());
        };
        self.pending.delete_cf(family(self.rows.db(), schema::UNDONE), uid.to_bytes());
        let undone: Undone = decode(schema::UNDONE, &undone)?;
        let Outcome { answer, delivery } = outcome;
        let delivery = delivery.filter(|delivery| undone.delivered_to.as_ref() != Some(&delivery.to));
        repair.undone += 1;
        if answer != undone.answer || delivery.is_some() {
            let Request { client, sequence, .. } = held.request;
            repair.changed.push(Changed { client, sequence, uid, answer, delivery });
        }
        Ok(())
    }

    /// Whether what is not committed is enough for a batch.
    fn is_batch_full(&self) -> bool {
        let ChunkLimit { requests, bytes } = self.chunk_limit;
        self.uncommitted >= requests || self.pending.size_in_bytes() >= bytes || self.rows.written_bytes() >= bytes
    }
}

#[cfg(test)]
mod tests;
