//! Removing rows that nobody can reach any more: sessions that ended, and the unread messages of deleted accounts.
//!
//! Both can be many at once, so a bounded number of rows is removed in each second of log time. This is part of the state
//! machine: which rows are removed when is a function of the log, the same on every replica, and a repair undoes it like all else.

use super::keys::{
    Column, SESSION_USE, Session, TOMBSTONE, prefix_end, session_answer_key, session_key, session_use_bound,
    tombstone_key, uid_at_end, unread_count_key, unread_key,
};
use super::rows::{Direction, Row, Rows};
use super::{StoreError, second_of};
use stablechat_protocol::session::{ClientId, WINDOW};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::time::Duration;

/// How long a session lives after its last use, in log time.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The most sessions that end at a time. Each may have [`WINDOW`] answers to remove.
const SESSIONS_AT_A_TIME: usize = 8;
/// The most unread messages of deleted accounts that are removed at a time.
const UNREAD_AT_A_TIME: usize = 512;

/// Ends old sessions and empties a tombstone, if the log crosses into another second between these timestamps.
pub fn run_once_a_second(rows: &mut Rows, before: Timestamp, now: Timestamp) -> Result<(), StoreError> {
    if second_of(before) == second_of(now) {
        return Ok(());
    }
    end_old_sessions(rows, now)?;
    empty_tombstone(rows)
}

/// Ends the sessions that have been unused for longest, if that is longer than [`SESSION_LIFETIME`].
fn end_old_sessions(rows: &mut Rows, now: Timestamp) -> Result<(), StoreError> {
    let bound = session_use_bound(now.before(SESSION_LIFETIME));
    let due = first(rows, Column::Sessions, SESSION_USE, &bound, SESSIONS_AT_A_TIME)?;
    for (place, _) in due {
        let client = place.last_chunk::<16>().map(|bytes| ClientId(*bytes));
        let client = client
            .ok_or_else(|| StoreError::Corrupt(format!("the key {place:02x?} in the order of use names no session")))?;
        let session: Option<Session> = rows.read(Column::Sessions, &session_key(client))?;
        let session = session
            .ok_or_else(|| StoreError::Corrupt(format!("session {client} is in the order of use, but has no row")))?;

        for sequence in session.sequence.saturating_sub(WINDOW) + 1..=session.sequence {
            rows.remove(Column::Sessions, session_answer_key(client, sequence))?;
        }
        rows.remove(Column::Sessions, session_key(client))?;
        rows.remove(Column::Sessions, place)?;
    }
    Ok(())
}

/// Removes unread messages of the first account with a tombstone; with the last of them, its count and the tombstone itself.
fn empty_tombstone(rows: &mut Rows) -> Result<(), StoreError> {
    let tombstones = first(rows, Column::Unread, TOMBSTONE, &prefix_end(TOMBSTONE), 1)?;
    let Some((key, _)) = tombstones.first() else { return Ok(()) };
    let account =
        uid_at_end(key).ok_or_else(|| StoreError::Corrupt(format!("the tombstone {key:02x?} names no account")))?;

    let begin = unread_key(account, Uid::MIN);
    let unread = first(rows, Column::Unread, &begin, &prefix_end(&begin[..1 + Uid::LENGTH]), UNREAD_AT_A_TIME)?;
    let is_end = unread.len() < UNREAD_AT_A_TIME;
    for (key, _) in unread {
        rows.remove(Column::Unread, key)?;
    }

    if is_end {
        rows.remove(Column::Unread, unread_count_key(account))?;
        rows.remove(Column::Unread, tombstone_key(account))?;
    }
    Ok(())
}

/// The first rows of a range.
fn first(rows: &Rows, column: Column, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
    rows.scan(column, from, to, Direction::Forward).take(limit).collect()
}
