//! Sessions that were not used for a day of log time end.

use super::super::StoreError;
use super::super::keys::{Column, SESSION_USE, session_answer_key, session_key, session_use_bound};
use super::super::rows::{Queue, Rows};
use super::super::values::Session;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use std::time::Duration;

/// How long a session lives after its last use, in log time.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Ends the sessions that have been unused for longest, if that is longer than [`SESSION_LIFETIME`]. A session whose answers are
/// too many loses some of them; if it is used again after all, it goes on without them.
pub fn end_old(rows: &mut Rows, now: Timestamp, removed_max: usize) -> Result<(), StoreError> {
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
