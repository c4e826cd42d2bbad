//! What deleted accounts and closed rooms have left is removed.
//!
//! A deleted account takes part in its conversations with others no more. Those others keep what was said; a conversation whose last
//! account goes is removed with all its messages.

use super::super::keys::{
    Column, ConversationId, TOMBSTONE, all_blocked, blocked_key, invitations_key, member_of, membership_key,
    memberships, message_key, pair_memberships, prefix_end, room_member_key, room_members, tombstone_key, uid_of,
};
use super::super::rows::{Queue, Rows};
use super::super::values::{Bytes, Head, Membership, Tombstone, User};
use super::super::{StoreError, parts, rooms, users};
use super::some_rows;
use crate::store::database::decode;
use stablechat_protocol::conversation::Conversation;
use stablechat_protocol::uid::Uid;

/// Removes rows of the first account or room with a tombstone, and goes on with the next when none is left.
pub fn empty(rows: &mut Rows, removed_max: usize) -> Result<(), StoreError> {
    let mut left = removed_max;
    while left > 0
        && let Some((key, tombstone)) = rows.first(Queue::Tombstones, &prefix_end(TOMBSTONE))?
    {
        let id = uid_of(&key)?;
        let next = match decode(Column::Members.name(), &tombstone)? {
            Tombstone::Conversations { conversation: Bytes(conversation), from } => {
                end_part(rows, id, &conversation, from, &mut left)?
            }
            Tombstone::Blocked { from } => forget_blocked(rows, id, from, &mut left)?,
            Tombstone::Members { from } => remove_members(rows, id, from, &mut left)?,
            Tombstone::Messages { from } => {
                let conversation = ConversationId::Room { id }.key();
                remove_messages(rows, &conversation, from, &mut left)?.map(|from| Tombstone::Messages { from })
            }
        };
        match next {
            Some(next) => rows.put(Column::Members, key, &next)?,
            None => rows.remove(Column::Members, tombstone_key(id))?,
        }
    }
    Ok(())
}

/// Ends the part of a deleted account in the first of its conversations from this one on.
fn end_part(
    rows: &mut Rows,
    account: Uid,
    conversation: &[u8],
    from: Uid,
    left: &mut usize,
) -> Result<Option<Tombstone>, StoreError> {
    let first = match conversation.is_empty() {
        true => pair_memberships(account),
        false => [&memberships(account)[..], conversation].concat(),
    };
    let found = some_rows(rows, Column::Members, &first, &prefix_end(&pair_memberships(account)), 1)?;
    let Some((key, membership)) = found.into_iter().next() else {
        rows.remove(Column::Members, invitations_key(account))?;
        return Ok(Some(Tombstone::Blocked { from: Uid::MIN }));
    };
    let (_, id) = member_of(&key)?;
    let membership: Membership = decode(Column::Members.name(), &membership)?;

    let from = if id.key() == conversation { from } else { Uid::MIN };
    let left_from = leave_pair(rows, account, id, &membership, from, left)?;
    Ok(Some(Tombstone::Conversations { conversation: Bytes(id.key()), from: left_from.unwrap_or(Uid::MIN) }))
}

/// Ends the part of a deleted account in a conversation of two. If the other account is gone as well, its messages are removed from
/// this uid on. Returns from where on some are left.
fn leave_pair(
    rows: &mut Rows,
    account: Uid,
    id: ConversationId,
    membership: &Membership,
    from: Uid,
    left: &mut usize,
) -> Result<Option<Uid>, StoreError> {
    let partner = id.partner_of(account).filter(|partner| *partner != account);
    let is_shared = match partner {
        Some(partner) => rows.get(Column::Members, &membership_key(partner, id))?.is_some(),
        None => false,
    };
    if !is_shared {
        if let Some(from) = remove_messages(rows, &id.key(), from, left)? {
            return Ok(Some(from));
        }
        rows.remove(Column::Heads, id.key())?;
        return rows.remove(Column::Members, membership_key(account, id)).map(|()| None);
    }

    // What nobody can answer any more is no longer counted as unanswered.
    let head = parts::head(rows, id)?;
    if let (Some(head), Conversation::Account { name }) =
        (head.filter(|head| head.unanswered == partner), &membership.of)
    {
        rows.put(Column::Heads, id.key(), &Head { unanswered: None, ..head })?;
        if let Some(user) = users::find(rows, name)?.filter(|user| Some(user.id) == partner) {
            users::write(rows, name, &User { requests: user.requests.saturating_sub(1), ..user })?;
        }
    }
    rows.remove(Column::Members, membership_key(account, id))?;
    *left -= 1;
    Ok(None)
}

/// Forgets whom a deleted account blocks.
fn forget_blocked(rows: &mut Rows, account: Uid, from: Uid, left: &mut usize) -> Result<Option<Tombstone>, StoreError> {
    let range = (blocked_key(account, from), prefix_end(&all_blocked(account)));
    let last = remove_each(rows, Column::Members, range, left, |rows, key, _| rows.remove(Column::Members, key))?;
    Ok(last.map(|from| Tombstone::Blocked { from }))
}

/// Ends memberships in a closed room.
fn remove_members(rows: &mut Rows, room: Uid, from: Uid, left: &mut usize) -> Result<Option<Tombstone>, StoreError> {
    let range = (room_member_key(room, from), prefix_end(&room_members(room)));
    let forget = |rows: &mut Rows, _, joined| rooms::forget_member(rows, room, joined).map(drop);
    let last = remove_each(rows, Column::Rooms, range, left, forget)?;
    Ok(Some(last.map_or(Tombstone::Messages { from: Uid::MIN }, |from| Tombstone::Members { from })))
}

/// Removes messages of a conversation that is over, from this uid on. Returns from where on some are left.
fn remove_messages(
    rows: &mut Rows,
    conversation: &[u8],
    from: Uid,
    left: &mut usize,
) -> Result<Option<Uid>, StoreError> {
    let range = (message_key(conversation, from), prefix_end(conversation));
    remove_each(rows, Column::Timelines, range, left, |rows, key, _| rows.remove(Column::Timelines, key))
}

/// Removes the first rows between two keys that end with a uid, by `remove`, which gets the row's key and that uid. Returns the last
/// uid if some rows may be left.
fn remove_each(
    rows: &mut Rows,
    column: Column,
    (first, end): (Vec<u8>, Vec<u8>),
    left: &mut usize,
    mut remove: impl FnMut(&mut Rows, Vec<u8>, Uid) -> Result<(), StoreError>,
) -> Result<Option<Uid>, StoreError> {
    let found = some_rows(rows, column, &first, &end, *left)?;
    *left -= found.len();
    let mut last = Uid::MIN;
    for (key, _) in found {
        last = uid_of(&key)?;
        remove(rows, key, last)?;
    }
    if *left == 0 {
        return Ok(Some(last));
    }
    *left -= 1;
    Ok(None)
}
