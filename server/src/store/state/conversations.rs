//! Conversations: the timeline of two accounts or of a room, and the accounts in it.
//!
//! A message has a row in the timeline, and the conversation has a head, which a `send` writes. The other members have nothing to be
//! written: what one of them has not read lies between its marker and the head. So a send costs the same however many they are.
//!
//! A message that a repair inserts moves those after it. That needs nothing here: the repair has undone them, and applies them again.

use super::keys::{Column, ConversationId, membership_key, message_key};
use super::parts::{Part, membership, part};
use super::rows::Rows;
use super::values::{Head, Membership, Point, StoredMessage, User};
use super::{Abort, Audience, Delivery, Outcome, StoreError, people, rooms, settings, users};
use stablechat_protocol::answer::Rejection;
use stablechat_protocol::conversation::{Conversation, Message};
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::Actor;
use stablechat_protocol::room::RoomName;
use stablechat_protocol::text::MessageText;
use stablechat_protocol::uid::Uid;

/// The conversation with an account or in a room, as this account names it. None of two accounts that have not said anything.
///
/// # Errors
/// A rejection if there is no such account or room, or the account is no member of the room.
pub fn named(rows: &Rows, user: &User, conversation: &Conversation) -> Result<Option<Part>, Abort> {
    match conversation {
        Conversation::Account { name } => {
            let other = users::existing(rows, name)?;
            Ok(part(rows, user.id, ConversationId::of_two(user.id, other.id))?)
        }
        Conversation::Room { name } => Ok(Some(rooms::part_of_member(rows, user, name)?.1)),
        Conversation::Former { name, account } => {
            let part = part(rows, user.id, ConversationId::of_two(user.id, *account))?;
            Ok(Some(part.ok_or_else(|| Rejection::NoSuchUser { name: name.clone() })?))
        }
    }
}

/// Sends a message of the actor.
pub fn send(
    rows: &mut Rows,
    uid: Uid,
    actor: Option<&Actor>,
    to: &Conversation,
    text: &MessageText,
) -> Result<Outcome, Abort> {
    let (from, sender) = users::owned(rows, actor)?;
    let (message, audience) = match to {
        Conversation::Account { name } => send_to_account(rows, uid, (from, sender), name, text)?,
        Conversation::Room { name } => send_to_room(rows, uid, (from, sender), name, text)?,
        Conversation::Former { name, .. } => return Err(Rejection::NoSuchUser { name: name.clone() }.into()),
    };
    let message = Message { uid, position: message.position, from: message.from, to: to.clone(), text: message.text };
    Ok(Outcome { delivery: Some(Delivery { message, audience }), ..Outcome::done() })
}

/// Puts a message into the conversation of two accounts, which it may begin.
fn send_to_account(
    rows: &mut Rows,
    uid: Uid,
    (from, sender): (&AccountName, User),
    name: &AccountName,
    text: &MessageText,
) -> Result<(StoredMessage, Audience), Abort> {
    let recipient = users::existing(rows, name)?;
    let is_monologue = sender.id == recipient.id;
    let id = ConversationId::of_two(sender.id, recipient.id);
    let actor = |account: &AccountName, user: &User| Actor { account: account.clone(), key: user.key };
    let audience = Audience::Pair { sender: actor(from, &sender), recipient: actor(name, &recipient) };

    let theirs = part(rows, recipient.id, id)?;
    let unread = theirs.as_ref().map_or(0, Part::unread);
    let is_full = !is_monologue && unread >= settings::read(rows)?.unread_max;
    if is_full || people::is_blocked(rows, &recipient, sender.id)? {
        return Err(Rejection::TooManyUnread { name: name.clone() }.into());
    }

    let mut head = match theirs {
        Some(theirs) => theirs.head,
        None => begin(rows, id, (from, &sender), (name, &recipient))?,
    };
    if head.unanswered == Some(recipient.id) {
        head.unanswered = None;
        let requests = recipient.requests.saturating_sub(1);
        users::write(rows, name, &User { requests, ..recipient })?;
    }
    let membership = membership(rows, sender.id, id)?.ok_or_else(|| no_part(id, sender.id))?;
    let message = append(rows, uid, Part { id, membership, head }, sender.id, from, text)?;
    Ok((message, audience))
}

/// Begins the conversation of two accounts. Until the recipient answers, it counts among those that the sender has begun.
fn begin(
    rows: &mut Rows,
    id: ConversationId,
    (from, sender): (&AccountName, &User),
    (name, recipient): (&AccountName, &User),
) -> Result<Head, Abort> {
    let part_with = |name: &AccountName| Membership {
        of: Conversation::with(name),
        joined: Point::START,
        marker: Point::START.into(),
        ahead: Vec::new(),
        is_muted: false,
    };
    if sender.id == recipient.id {
        rows.put(Column::Members, membership_key(sender.id, id), &part_with(name))?;
        rows.put(Column::Heads, id.key(), &Head::NEW)?;
        return Ok(Head::NEW);
    }

    if u64::from(sender.requests) >= settings::read(rows)?.requests_max {
        return Err(Rejection::TooManyRequests.into());
    }
    users::write(rows, from, &User { requests: sender.requests + 1, ..sender.clone() })?;
    rows.put(Column::Members, membership_key(sender.id, id), &part_with(name))?;
    rows.put(Column::Members, membership_key(recipient.id, id), &part_with(from))?;
    let head = Head { unanswered: Some(sender.id), ..Head::NEW };
    rows.put(Column::Heads, id.key(), &head)?;
    Ok(head)
}

/// Puts a message into a room's timeline.
fn send_to_room(
    rows: &mut Rows,
    uid: Uid,
    (from, sender): (&AccountName, User),
    name: &RoomName,
    text: &MessageText,
) -> Result<(StoredMessage, Audience), Abort> {
    let (room, part) = rooms::part_of_member(rows, &sender, name)?;
    let message = append(rows, uid, part, sender.id, from, text)?;
    Ok((message, Audience::Room { id: room.id }))
}

/// Appends a message to a timeline. Its author has read it, if it had read everything before; else it is unread with the rest.
fn append(
    rows: &mut Rows,
    uid: Uid,
    mut part: Part,
    author: Uid,
    from: &AccountName,
    text: &MessageText,
) -> Result<StoredMessage, StoreError> {
    let before = part.head.end;
    let end = Point { uid, position: before.position + 1, sum: before.sum.with(uid) };
    let has_read_all = part.unread() == 0;
    let message = StoredMessage { position: end.position, sum: end.sum, from: from.clone(), text: text.clone() };

    let key = part.id.key();
    rows.add(Column::Timelines, message_key(&key, uid), &message);
    part.head.end = end;
    rows.put(Column::Heads, key, &part.head)?;
    if has_read_all {
        part.membership.marker = end.into();
        part.membership.ahead.clear();
        part.write(rows, author)?;
    }
    Ok(message)
}

/// Says whether the actor wants notice of messages in a conversation.
pub fn mute(
    rows: &mut Rows,
    actor: Option<&Actor>,
    conversation: &Conversation,
    is_muted: bool,
) -> Result<Outcome, Abort> {
    let (_, user) = users::owned(rows, actor)?;
    let Some(mut part) = named(rows, &user, conversation)? else {
        return Err(Rejection::NoConversation { conversation: conversation.clone() }.into());
    };
    if part.membership.is_muted != is_muted {
        part.membership.is_muted = is_muted;
        part.write(rows, user.id)?;
    }
    Ok(Outcome::done())
}

/// An account that should have a part in a conversation has none.
fn no_part(id: ConversationId, account: Uid) -> StoreError {
    StoreError::Corrupt(format!("account {account} has no part in its conversation {id:?}"))
}
