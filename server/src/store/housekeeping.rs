//! Removing what nobody can reach any more: a bounded number of rows once in a second of log time.
//!
//! It is part of the state machine. What is removed when is a function of the log, so it is the same on every replica, and
//! undone by a repair like all else.

use super::boundary::second_of;
use super::error::StoreError;
use super::rows::{Direction, Row, Rows};
use super::schema::{
    Column, GRAVEYARD, SESSION_USE, Session, graveyard_key, prefix_end, session_answer_key, session_key,
    session_use_bound, uid_at_end, unread_count_key, unread_key,
};
use stablechat_protocol::session::{ClientId, WINDOW};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::time::Duration;

/// How long a session lives after its last use, in log time.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The most sessions that end at a time.
const SESSIONS_AT_A_TIME: usize = 8;
/// The most unread messages of deleted accounts that are removed at a time.
const UNREAD_AT_A_TIME: usize = 512;

/// Removes some of what is due, if the log crosses into another second between these timestamps.
pub fn run_once_a_second(rows: &mut Rows, before: Timestamp, now: Timestamp) -> Result<(), StoreError> {
    if second_of(before) == second_of(now) {
        return Ok(());
    }
    end_old_sessions(rows, now)?;
    empty_graveyard(rows)
}

/// Ends the sessions that have been unused for longest, if that is too long.
fn end_old_sessions(rows: &mut Rows, now: Timestamp) -> Result<(), StoreError> {
    let bound = session_use_bound(now.before(SESSION_LIFETIME));
    let due = first(rows, Column::Sessions, SESSION_USE, &bound, SESSIONS_AT_A_TIME)?;
    for (place, _) in due {
        let client = place.last_chunk::<16>().map(|bytes| ClientId(*bytes));
        let client = client.ok_or_else(|| StoreError::Corrupt("a session's place has no client".into()))?;
        let session: Option<Session> = rows.read(Column::Sessions, &session_key(client))?;
        let session = session.ok_or_else(|| StoreError::Corrupt(format!("session {client} has a place but no row")))?;
        for sequence in session.sequence.saturating_sub(WINDOW) + 1..=session.sequence {
            rows.remove(Column::Sessions, session_answer_key(client, sequence))?;
        }
        rows.remove(Column::Sessions, session_key(client))?;
        rows.remove(Column::Sessions, place)?;
    }
    Ok(())
}

/// Removes unread messages of the first deleted account, and the account's last traces with the last of them.
fn empty_graveyard(rows: &mut Rows) -> Result<(), StoreError> {
    let Some((grave, _)) = first(rows, Column::Unread, GRAVEYARD, &prefix_end(GRAVEYARD), 1)?.pop() else {
        return Ok(());
    };
    let account = uid_at_end(&grave).ok_or_else(|| StoreError::Corrupt("a grave names no account".into()))?;
    let begin = unread_key(account, Uid::MIN);
    let unread = first(rows, Column::Unread, &begin, &prefix_end(&begin[..1 + Uid::LENGTH]), UNREAD_AT_A_TIME)?;
    let last_of_them = unread.len() < UNREAD_AT_A_TIME;
    for (key, _) in unread {
        rows.remove(Column::Unread, key)?;
    }
    if last_of_them {
        rows.remove(Column::Unread, unread_count_key(account))?;
        rows.remove(Column::Unread, graveyard_key(account))?;
    }
    Ok(())
}

/// The first rows of a range.
fn first(rows: &Rows, column: Column, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
    rows.scan(column, from, to, Direction::Forward).take(limit).collect()
}
