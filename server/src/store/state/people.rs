//! What an account wants of others: whom it blocks, and in which conversations it wants no notice.

use super::keys::{Column, all_blocked, blocked_key, prefix_end, uid_of};
use super::rows::{Direction, Rows};
use super::values::User;
use super::{Abort, Outcome, StoreError, users};
use crate::store::database::decode;
use stablechat_protocol::answer::{QueryAnswer, Rejection};
use stablechat_protocol::command::BLOCKED_MAX;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::Actor;
use stablechat_protocol::uid::Uid;

/// Whether an account blocks another. Most block nobody, and then nothing is read.
pub fn is_blocked(rows: &Rows, user: &User, other: Uid) -> Result<bool, StoreError> {
    Ok(user.blocked > 0 && rows.get(Column::Members, &blocked_key(user.id, other))?.is_some())
}

/// Blocks an account for the actor, or does so no longer. Accounts of this name that were deleted are no longer blocked, too: their
/// messages have nobody to come from.
pub fn block(rows: &mut Rows, actor: Option<&Actor>, name: &AccountName, is_blocked: bool) -> Result<Outcome, Abort> {
    let (own_name, user) = users::owned(rows, actor)?;
    let mut blocked = blocked(rows, user.id)?;
    if is_blocked {
        let other = users::existing(rows, name)?;
        if blocked.iter().any(|(id, _)| *id == other.id) {
            return Ok(Outcome::done());
        }
        if user.blocked >= BLOCKED_MAX {
            return Err(Rejection::TooMany.into());
        }
        rows.put(Column::Members, blocked_key(user.id, other.id), name)?;
        users::write(rows, own_name, &User { blocked: user.blocked + 1, ..user })?;
        return Ok(Outcome::done());
    }

    blocked.retain(|(_, blocked)| blocked == name);
    for (id, _) in &blocked {
        rows.remove(Column::Members, blocked_key(user.id, *id))?;
    }
    users::write(rows, own_name, &User { blocked: user.blocked.saturating_sub(blocked.len() as u32), ..user })?;
    Ok(Outcome::done())
}

/// The accounts that an account blocks.
fn blocked(rows: &Rows, account: Uid) -> Result<Vec<(Uid, AccountName)>, StoreError> {
    let from = all_blocked(account);
    let blocked = rows.scan(Column::Members, &from, &prefix_end(&from), Direction::Forward).map(|row| {
        let (key, name) = row?;
        Ok((uid_of(&key)?, decode(Column::Members.name(), &name)?))
    });
    blocked.collect()
}

/// Answers [`stablechat_protocol::command::Query::Blocked`]. A blocked account may be gone, and its name another's.
pub fn answer(rows: &Rows, actor: Option<&Actor>) -> Result<QueryAnswer, Abort> {
    let (_, user) = users::owned(rows, actor)?;
    let mut names = Vec::new();
    for (id, name) in blocked(rows, user.id)? {
        if users::find(rows, &name)?.is_some_and(|user| user.id == id) {
            names.push(name);
        }
    }
    names.sort();
    Ok(QueryAnswer::Accounts { names, next: None })
}
