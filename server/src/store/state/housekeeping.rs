//! Removing rows: of sessions that ended, of deleted accounts and closed rooms, and of messages that are too old.
//!
//! All of it can be much at once, so each applied request removes a bounded number of rows. The bound is higher than the number of
//! rows that a request adds, so that removing keeps up with any rate at which rows are made; and it is low enough that a replica
//! which has much to remove still applies requests at half its speed. Once in each second of log time the bound is higher, so
//! that a service without much traffic is tidy as well.
//!
//! This is part of the state machine: which rows are removed when is a function of the log, the same on every replica, and a
//! repair undoes it like all else.

mod retention;
mod sessions;
mod tombstones;

pub use sessions::SESSION_LIFETIME;

use super::keys::Column;
use super::rows::{Direction, Row, Rows};
use super::{StoreError, second_of};
use stablechat_protocol::time::Timestamp;

/// The most answers of ended sessions, the most rows of deleted accounts and closed rooms, and the most old messages that a request
/// removes. A request adds at most one of each. A session without answers and a conversation without messages count as one.
const REMOVED_BY_EACH: usize = 8;
/// The same for the first request in each second of log time.
const REMOVED_ONCE_A_SECOND: usize = 512;

/// Removes rows before a request is applied. `before` is the timestamp of the last request, `now` that of the one that is about to be
/// applied.
pub fn run(rows: &mut Rows, before: Timestamp, now: Timestamp) -> Result<(), StoreError> {
    let is_new_second = second_of(before) != second_of(now);
    let removed_max = if is_new_second { REMOVED_ONCE_A_SECOND } else { REMOVED_BY_EACH };
    sessions::end_old(rows, now, removed_max)?;
    tombstones::empty(rows, removed_max)?;
    retention::sweep(rows, before, now, removed_max)
}

/// The first rows of a range, at most so many.
fn some_rows(rows: &Rows, column: Column, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
    rows.scan(column, from, to, Direction::Forward).take(rows_max).collect()
}
