//! Removing rows that nobody can reach any more: sessions that ended, and the messages of deleted accounts.
//!
//! Both can be many at once, so each applied request removes a bounded number of rows. The bound is higher than the number of
//! rows that a request adds, so that removing keeps up with any rate at which rows are made; and it is low enough that a replica
//! which has much to remove still applies requests at half its speed. Once in each second of log time the bound is higher, so
//! that a service without much traffic is tidy as well.
//!
//! This is part of the state machine: which rows are removed when is a function of the log, the same on every replica, and a
//! repair undoes it like all else.

use super::keys::{
    Column, SESSION_USE, Session, StoredMessage, TOMBSTONE, Tombstone, UnreadMessage, conversation_key, message_key,
    partner_key, prefix_end, session_answer_key, session_key, session_use_bound, tombstone_key, uid_at_end,
    unread_count_key, unread_key,
};
use super::messages::count_down_from;
use super::rows::{Direction, Queue, Row, Rows};
use super::{StoreError, second_of};
use crate::store::database::decode;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::time::Duration;

/// How long a session lives after its last use, in log time.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The most answers of ended sessions, and the most messages of deleted accounts, that a request removes. A request adds at most
/// one of each. A session without answers and a conversation without messages count as one.
const REMOVED_BY_EACH: usize = 8;
/// The same for the first request in each second of log time.
const REMOVED_ONCE_A_SECOND: usize = 512;

/// Ends old sessions, and removes the rows that deleted accounts have left. `before` is the timestamp of the last request, `now` that of
/// the one that is about to be applied.
pub fn run(rows: &mut Rows, before: Timestamp, now: Timestamp) -> Result<(), StoreError> {
    let is_new_second = second_of(before) != second_of(now);
    let removed_max = if is_new_second { REMOVED_ONCE_A_SECOND } else { REMOVED_BY_EACH };
    end_old_sessions(rows, now, removed_max)?;
    empty_tombstones(rows, removed_max)
}

/// Ends the sessions that have been unused for longest, if that is longer than [`SESSION_LIFETIME`]. A session whose answers are
/// too many loses some of them; if it is used again after all, it goes on without them.
fn end_old_sessions(rows: &mut Rows, now: Timestamp, removed_max: usize) -> Result<(), StoreError> {
    let due = session_use_bound(now.before(SESSION_LIFETIME));
    let mut left = removed_max as u64;
    while left > 0
        && let Some((place, _)) = rows.first(Queue::SessionUse, &due)?
    {
        let client = place.strip_prefix(SESSION_USE).and_then(|rest| rest.last_chunk::<16>());
        let client = client
            .map(|bytes| ClientId(*bytes))
            .ok_or_else(|| StoreError::Corrupt(format!("the key {place:02x?} in the order of use names no session")))?;
        let session: Option<Session> = rows.read(Column::Sessions, &session_key(client))?;
        let session = session
            .ok_or_else(|| StoreError::Corrupt(format!("session {client} is in the order of use, but has no row")))?;

        let end = session.sequence.min(session.kept_from + left - 1) + 1;
        for sequence in session.kept_from..end {
            rows.remove(Column::Sessions, session_answer_key(client, sequence))?;
        }
        left -= (end - session.kept_from).max(1);
        if end <= session.sequence {
            rows.put(Column::Sessions, session_key(client), &Session { kept_from: end, ..session })?;
            return Ok(());
        }
        rows.remove(Column::Sessions, session_key(client))?;
        rows.remove(Column::Sessions, place)?;
    }
    Ok(())
}

/// Removes rows of the first account with a tombstone, and goes on with the next when none is left.
fn empty_tombstones(rows: &mut Rows, removed_max: usize) -> Result<(), StoreError> {
    let mut left = removed_max;
    while left > 0
        && let Some((key, tombstone)) = rows.first(Queue::Tombstones, &prefix_end(TOMBSTONE))?
    {
        let account = uid_at_end(&key)
            .ok_or_else(|| StoreError::Corrupt(format!("the tombstone {key:02x?} names no account")))?;
        let next = match decode(Column::Unread.name(), &tombstone)? {
            Tombstone::Unread { from } => remove_unread(rows, account, from, &mut left)?,
            Tombstone::Timelines { partner, from } => remove_timeline(rows, account, partner, from, &mut left)?,
        };
        match next {
            Some(next) => rows.put(Column::Unread, tombstone_key(account), &next)?,
            None => rows.remove(Column::Unread, tombstone_key(account))?,
        }
    }
    Ok(())
}

/// Removes unread messages of a deleted account; with the last of them, their count.
fn remove_unread(rows: &mut Rows, account: Uid, from: Uid, left: &mut usize) -> Result<Option<Tombstone>, StoreError> {
    let to = prefix_end(&unread_key(account, Uid::MIN)[..1 + Uid::LENGTH]);
    let unread = some_rows(rows, Column::Unread, &unread_key(account, from), &to, *left)?;
    *left -= unread.len();
    let mut last = from;
    for (key, _) in unread {
        last = uid_of(&key)?;
        rows.remove(Column::Unread, key)?;
    }
    if *left == 0 {
        return Ok(Some(Tombstone::Unread { from: last }));
    }
    rows.remove(Column::Unread, unread_count_key(account))?;
    Ok(Some(Tombstone::Timelines { partner: Uid::MIN, from: Uid::MIN }))
}

/// Removes messages of a deleted account's conversation with the first of its partners from this one on; with the last of them,
/// that they have a conversation. Messages that the partner has not acknowledged move to its unread.
fn remove_timeline(
    rows: &mut Rows,
    account: Uid,
    partner: Uid,
    from: Uid,
    left: &mut usize,
) -> Result<Option<Tombstone>, StoreError> {
    let to = prefix_end(&partner_key(account, Uid::MIN)[..1 + Uid::LENGTH]);
    let found = some_rows(rows, Column::Unread, &partner_key(account, partner), &to, 1)?;
    let Some((key, _)) = found.first() else {
        *left -= 1;
        return Ok(None);
    };
    let next = uid_of(key)?;
    let from = if next == partner { from } else { Uid::MIN };
    let partner = next;

    let conversation = conversation_key(account, partner);
    let messages =
        some_rows(rows, Column::Timelines, &message_key(&conversation, from), &prefix_end(&conversation), *left)?;
    *left -= messages.len();
    let (mut last, mut moved) = (from, 0);
    for (key, message) in messages {
        last = uid_of(&key)?;
        let unread = unread_key(partner, last);
        if rows.get(Column::Unread, &unread)?.is_some() {
            let message: StoredMessage = decode(Column::Timelines.name(), &message)?;
            rows.put(Column::Unread, unread, &UnreadMessage::Whole { message })?;
            moved += 1;
        }
        rows.remove(Column::Timelines, key)?;
    }
    if moved > 0 {
        count_down_from(rows, partner, account, moved)?;
    }

    if *left > 0 {
        rows.remove(Column::Unread, partner_key(account, partner))?;
        rows.remove(Column::Unread, partner_key(partner, account))?;
        *left -= 1;
    }
    Ok(Some(Tombstone::Timelines { partner, from: last }))
}

/// The uid at the end of a key.
fn uid_of(key: &[u8]) -> Result<Uid, StoreError> {
    uid_at_end(key).ok_or_else(|| StoreError::Corrupt(format!("the key {key:02x?} does not end with a uid")))
}

/// The first rows of a range, at most so many.
fn some_rows(rows: &Rows, column: Column, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
    rows.scan(column, from, to, Direction::Forward).take(rows_max).collect()
}
