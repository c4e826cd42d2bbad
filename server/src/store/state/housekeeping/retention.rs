//! Messages that are older than operators want are removed. Positions stay, so that counts stay right.
//!
//! Which messages are too old, only the timelines tell. So from time to time all conversations are gone through, a few with each
//! request. That takes longer the more there are, so a message may live longer than the setting says by a sixteenth, at least a second
//! and at most an hour, and by the time that it takes to go through them.

use super::super::StoreError;
use super::super::keys::{Column, SWEEP, key_after, message_key, prefix_end};
use super::super::parts::message_point;
use super::super::rows::{Direction, Rows};
use super::super::settings;
use super::super::values::{Bytes, Head, StoredMessage, Sweep};
use super::some_rows;
use crate::store::database::decode;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::time::Duration;

/// A sweep begins this often while messages live, but not oftener than once a second and not more rarely than once an hour.
const SWEEPS: u64 = 16;
const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3600 * SECOND;

/// Begins a sweep if it is time, and looks at some conversations if one is under way. A conversation and a removed message each count
/// as one.
pub fn sweep(rows: &mut Rows, before: Timestamp, now: Timestamp, removed_max: usize) -> Result<(), StoreError> {
    let seconds = settings::read(rows)?.retention_seconds;
    if seconds == 0 {
        return Ok(());
    }
    let lifetime = Duration::from_secs(seconds);
    let interval = (u64::try_from(lifetime.as_nanos()).unwrap_or(u64::MAX) / SWEEPS).clamp(SECOND, HOUR);
    let under_way: Option<Sweep> = rows.read(Column::Settings, SWEEP)?;
    let is_due = before.0 / interval != now.0 / interval;
    let Some(Sweep { conversation: Bytes(mut from) }) =
        under_way.or_else(|| is_due.then(|| Sweep { conversation: Bytes(Vec::new()) }))
    else {
        return Ok(());
    };

    let oldest = now.before(lifetime);
    let mut left = removed_max;
    while left > 0 {
        left -= 1;
        let Some((key, head)) = some_rows(rows, Column::Heads, &from, &[0xff], 1)?.into_iter().next() else {
            return rows.remove(Column::Settings, SWEEP.into());
        };
        let head = decode(Column::Heads.name(), &head)?;
        let is_through = remove_old(rows, &key, head, oldest, &mut left)?;
        from = if is_through { key_after(&key) } else { key };
    }
    rows.put(Column::Settings, SWEEP.into(), &Sweep { conversation: Bytes(from) })
}

/// Removes messages from before a time from the beginning of a timeline. Returns whether none is left.
fn remove_old(
    rows: &mut Rows,
    conversation: &[u8],
    mut head: Head,
    oldest: Timestamp,
    left: &mut usize,
) -> Result<bool, StoreError> {
    if head.removed.position == head.end.position {
        return Ok(true);
    }
    let from = key_after(&message_key(conversation, head.removed.uid));
    let to = message_key(conversation, Uid { timestamp: oldest, digest: [0; 16] }).min(prefix_end(conversation));
    let old: Result<Vec<_>, _> = rows.scan(Column::Timelines, &from, &to, Direction::Forward).take(*left).collect();
    let old = old?;
    if old.is_empty() {
        return Ok(true);
    }

    let is_through = old.len() < *left;
    *left -= old.len();
    for (key, message) in old {
        let message: StoredMessage = decode(Column::Timelines.name(), &message)?;
        head.removed = message_point(&key, &message)?;
        rows.remove(Column::Timelines, key)?;
    }
    rows.put(Column::Heads, conversation.into(), &head)?;
    Ok(is_through)
}
