//! Repair: requests that became known too late are put in their places in the log, and later ones are applied again, as
//! Bayou does (Terry et al. 1995).
//!
//! It is done in batches, each of which is committed, so that it takes little memory and a crash is harmless. The state in the
//! database is always that of the log up to `applied`, and entries after that are still to be applied. Nothing else has to be known
//! to continue after a crash:
//!
//! 1. **Undo**, newest first, until all new requests lie above `applied`. A batch puts the old rows back, replaces undo records by
//!    [`Undone`], and moves `applied` back. The requests stay in the log. After a crash they are applied again, as if
//!    nothing had happened.
//! 2. **Insert** the new requests into the log, once all is undone and not before. After a crash those that are there are applied
//!    with the rest; nobody was told that we hold the others.
//! 3. **Apply again** the requests that the log has after `applied`: state, new undo records, entries with new positions and chain hashes, and
//!    `applied`.
//! 4. **Append** the requests that come after the end of the log.
//!
//! Positions and chain hashes of entries after `applied` mean nothing. No peer gets to see them: while an insertion is under way,
//! nobody is told of our log as a whole, and [`ChatStore::open`] completes a repair that a crash has interrupted.

use super::{LastApplied, entries};
use crate::store::ChatStore;
use crate::store::database::{decode, family};
use crate::store::error::StoreError;
use crate::store::schema::{self, Undone};
use crate::store::state::{Delivery, Outcome, session};
use stablechat_protocol::answer::Answer;
use stablechat_protocol::command::Command;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::operator::Operation;
use stablechat_protocol::request::{Actor, Request, StampedRequest};
use stablechat_protocol::room::RoomAction;
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeMap, BTreeSet};

/// A batch of a repair is committed when it has about so many bytes. Much less than [`crate::store::BATCH_BYTES_MAX`]: a replica
/// that catches up does a batch in each wake. Clients and peers wait for the wake to end, and one that lasts longer than half of
/// the delivery bound counts as a pause, after which the replica rejoins and begins to catch up anew. On the machine that this was
/// measured on, a batch takes some 16 ms when it undoes, which is some 480 short messages, and 8 ms when it applies, which is some 200.
const REPAIR_BATCH_BYTES: usize = 256 * 1024;
/// Applying a short message writes four times as many bytes as it has in the log: rows and an undo record, too. A batch reads no
/// more of the log than it is going to apply.
const WRITTEN_PER_LOGGED: usize = 4;

/// The result of inserting requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// The requests that are new in the log, in their order.
    pub inserted: Vec<(StampedRequest, Outcome)>,
    /// How many requests were undone and applied again.
    pub undone: u64,
    /// Those of them that came out differently, in their order.
    pub changed: Vec<Changed>,
    /// Whose logins requests that were applied again have ended, perhaps as before.
    pub ended: Vec<Actor>,
    /// The accounts whose conversations, or what they have read of them, may be other ones now: those that were named by undone and
    /// inserted commands about accounts and rooms, and by reads that came out differently.
    pub touched: BTreeSet<AccountName>,
    /// Whether a request to close a room was undone or inserted. It concerns all members, which it does not name.
    pub closes_rooms: bool,
    /// Requests that are not in the log and cannot be put there any more, since it is settled beyond them.
    pub unplaceable: Vec<StampedRequest>,
}

/// A request that came out differently when it was applied again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub uid: Uid,
    pub request: Request,
    /// Its answer now.
    pub answer: Answer,
    /// The message that it sends now and did not send before.
    pub delivery: Option<Delivery>,
}

/// The repair of a store: the one that is under way, and the one that was completed at the start.
pub struct Repairs {
    pending: Option<PendingRepair>,
    /// The result of completing the repair that the last process left unfinished.
    resumed: Repair,
    batch_bytes: usize,
}

impl Default for Repairs {
    fn default() -> Self {
        Repairs { pending: None, resumed: Repair::default(), batch_bytes: REPAIR_BATCH_BYTES }
    }
}

/// The steps of an insertion that are still to be done.
#[derive(Default)]
struct PendingRepair {
    /// Step 1: the requests above this uid have to be undone.
    undo_to: Option<Uid>,
    /// Step 2: requests that belong below the end of the log, in ascending order.
    below: Vec<StampedRequest>,
    /// Step 3: whether the log has entries after the last applied one.
    has_unapplied: bool,
    /// Step 4: requests that come after the end of the log, last first.
    above: Vec<StampedRequest>,
    /// Requests that cannot be inserted, until they are reported.
    unplaceable: Vec<StampedRequest>,
}

impl PendingRepair {
    fn is_done(&self) -> bool {
        self.undo_to.is_none() && self.below.is_empty() && !self.has_unapplied && self.above.is_empty()
    }

    /// Does a batch of the step that is next. Everything before it is committed.
    fn advance(&mut self, store: &mut ChatStore, repair: &mut Repair) -> Result<(), StoreError> {
        if let Some(bound) = self.undo_to {
            undo_batch(store, bound, repair)?;
            self.undo_to = self.undo_to.filter(|bound| store.log.applied().uid > *bound);
        } else if !self.below.is_empty() {
            self.insert_batch(store);
        } else if self.has_unapplied {
            self.has_unapplied = !apply_batch(store, repair)?;
        } else {
            self.append_batch(store, repair)?;
        }
        Ok(())
    }

    fn insert_batch(&mut self, store: &mut ChatStore) {
        self.has_unapplied = true;
        while !is_batch_full(store)
            && let Some(StampedRequest { uid, request }) = self.below.pop()
        {
            store.log.put_unapplied(&mut store.batch, uid, request);
        }
    }

    fn append_batch(&mut self, store: &mut ChatStore, repair: &mut Repair) -> Result<(), StoreError> {
        while !is_batch_full(store)
            && let Some(held) = self.above.pop()
        {
            let outcome = store.apply(held.uid, &held.request)?;
            touch(repair, &held.request);
            repair.inserted.push((held, outcome));
        }
        Ok(())
    }
}

impl ChatStore {
    /// Begins to put requests, in any order, in their places in the log. Requests that are in the log already are
    /// skipped. Everything that was applied before is durable when this returns. Until [`ChatStore::go_on_inserting`] says that
    /// all is done, nothing else may be applied, and positions and chain hashes of the log must not be told to anybody.
    ///
    /// # Errors
    /// Storage failed, or is corrupt; the store must not be used any more. Opening it again completes the insertion.
    pub fn begin_inserting(&mut self, requests: Vec<StampedRequest>) -> Result<(), StoreError> {
        debug_assert!(!self.is_inserting(), "an insertion is under way");
        self.commit()?;
        let mut requests: BTreeMap<Uid, StampedRequest> = requests.into_iter().map(|held| (held.uid, held)).collect();

        let last = self.log.applied().uid;
        let mut above = requests.split_off(&last);
        above.remove(&last);
        let mut pending = PendingRepair { above: above.into_values().rev().collect(), ..PendingRepair::default() };
        for (uid, held) in requests {
            if self.log.contains(uid)? {
                continue;
            }
            let place = if uid <= self.log.settled() { &mut pending.unplaceable } else { &mut pending.below };
            place.push(held);
        }

        pending.undo_to = pending.below.first().map(|held| held.uid);
        self.repairs.pending = Some(pending);
        Ok(())
    }

    /// Does one batch of the insertion, durably. Returns the effects of the batch, and whether the insertion is complete.
    ///
    /// # Errors
    /// As for [`ChatStore::begin_inserting`].
    pub fn go_on_inserting(&mut self) -> Result<(Repair, bool), StoreError> {
        let Some(mut pending) = self.repairs.pending.take() else { return Ok((Repair::default(), true)) };
        let mut repair = Repair { unplaceable: std::mem::take(&mut pending.unplaceable), ..Repair::default() };
        pending.advance(self, &mut repair)?;
        self.commit()?;

        let is_done = pending.is_done();
        self.repairs.pending = Some(pending).filter(|_| !is_done);
        Ok((repair, is_done))
    }

    /// Whether an insertion is under way.
    pub fn is_inserting(&self) -> bool {
        self.repairs.pending.is_some()
    }

    /// Sets the size of the batches of an insertion, in bytes, so that tests need not write megabytes to have several. Every
    /// batch does at least one request, however small it is to be: otherwise the insertion would never end.
    pub fn repair_in_batches_of(&mut self, bytes: usize) {
        self.repairs.batch_bytes = bytes.max(1);
    }

    /// Completes the repair that was under way when the last process ended, if any: applies the entries after the last applied one.
    pub(in crate::store) fn resume_repair(&mut self) -> Result<(), StoreError> {
        let mut repair = Repair::default();
        let mut is_done = false;
        while !is_done {
            is_done = apply_batch(self, &mut repair)?;
            self.commit()?;
        }
        self.repairs.resumed = repair;
        Ok(())
    }

    /// The result of the repair that [`ChatStore::open`] completed, as far as it was completed then; empty when there was none.
    pub fn take_resumed_repair(&mut self) -> Repair {
        std::mem::take(&mut self.repairs.resumed)
    }
}

/// Whether enough is uncommitted for a batch of a repair.
fn is_batch_full(store: &ChatStore) -> bool {
    store.uncommitted_bytes() >= store.repairs.batch_bytes
}

/// Undoes a batch of the requests above this uid, newest first.
fn undo_batch(store: &mut ChatStore, bound: Uid, repair: &mut Repair) -> Result<(), StoreError> {
    while store.log.applied().uid > bound && !is_batch_full(store) {
        let LastApplied { entry, undo, before } = store.log.last_applied()?;
        touch(repair, &entry.request);
        // The answer is read from the state that the request has left, so before its rows are put back.
        let undone = Undone { answer: session::given_answer(&store.rows, &entry.request)? };
        store.rows.undo(undo)?;
        store.log.take_back(&mut store.batch, &entry, before, &undone, store.rows.digest())?;
    }
    Ok(())
}

/// Adds the accounts that a command names if it can change who takes part in a conversation.
fn touch(repair: &mut Repair, Request { actor, command, .. }: &Request) {
    let named = match command {
        Command::Send { .. } | Command::Read { .. } | Command::Block { .. } | Command::Mute { .. } => return,
        Command::Create { name, .. } => Some(name),
        Command::Delete | Command::SetKey { .. } => None,
        Command::Room { action: RoomAction::Invite { name } | RoomAction::Remove { name }, .. } => Some(name),
        Command::Room { action: RoomAction::Close, .. }
        | Command::Operate { operation: Operation::CloseRoom { .. } } => {
            repair.closes_rooms = true;
            None
        }
        Command::Room { .. } => None,
        Command::Operate { operation: Operation::RemoveAccount { name } | Operation::ReplaceKey { name, .. } } => {
            Some(name)
        }
        Command::Operate { .. } => None,
    };
    let actor = actor.as_ref().map(|actor| &actor.account);
    repair.touched.extend(actor.into_iter().chain(named).cloned());
}

/// Applies a batch of the entries after the last applied one. Returns whether none is left.
fn apply_batch(store: &mut ChatStore, repair: &mut Repair) -> Result<bool, StoreError> {
    let bytes = store.repairs.batch_bytes / WRITTEN_PER_LOGGED;
    let (piece, is_end) = entries::piece_after(store.database.db(), store.log.applied().uid, bytes)?;
    let mut piece = piece.into_iter();
    while !is_batch_full(store)
        && let Some(held) = piece.next()
    {
        apply_again(store, held, repair)?;
    }
    Ok(is_end && piece.len() == 0)
}

/// Applies an entry of the log that is new, or had been undone, and reports it as such.
fn apply_again(store: &mut ChatStore, held: StampedRequest, repair: &mut Repair) -> Result<(), StoreError> {
    let uid = held.uid;
    let db = store.database.db();
    let undone = db.get_cf(family(db, schema::UNDONE), uid.to_bytes());
    let undone = undone.map_err(|error| StoreError::Rocks("reading former answers", error))?;
    let outcome = store.apply(uid, &held.request)?;
    let Some(undone) = undone else {
        touch(repair, &held.request);
        repair.inserted.push((held, outcome));
        return Ok(());
    };

    store.batch.delete(schema::UNDONE, uid.to_bytes());
    let undone: Undone = decode(schema::UNDONE, &undone)?;
    let Outcome { answer, delivery, ended, .. } = outcome;
    repair.undone += 1;
    repair.ended.extend(ended);
    if answer != undone.answer {
        if let (Command::Read { .. }, Some(actor)) = (&held.request.command, &held.request.actor) {
            repair.touched.insert(actor.account.clone());
        }
        repair.changed.push(Changed { uid, request: held.request, answer, delivery });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
