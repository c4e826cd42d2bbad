//! Rooms: their members, owners and invitations.
//!
//! A member has two rows: its part in the conversation, found from the account, and one that is found from the room, in the order in
//! which members joined. A room that is closed can have many members and messages, so a tombstone marks its rows, and housekeeping
//! removes them. Its name and its head are gone at once, so nothing leads there any more.

use super::keys::{
    Column, ConversationId, invitations_key, listed_room_key, member_of, membership_key, prefix_end, room_key,
    room_member_key, room_members, room_memberships, tombstone_key, uid_of,
};
use super::parts::{self, Part, part};
use super::rows::{Direction, Row, Rows};
use super::values::{Head, Invitations, Membership, PendingInvitation, Point, Room, RoomMember, Tombstone, User};
use super::{Abort, Outcome, RoomOutcome, StoreError, people, users};
use crate::store::database::decode;
use stablechat_protocol::answer::Rejection;
use stablechat_protocol::conversation::Conversation;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::Actor;
use stablechat_protocol::room::{
    MEMBERS_MAX, MEMBERSHIPS_MAX, ROOM_INVITATIONS_MAX, RoomAction, RoomInvitation, RoomName, RoomNews, Topic,
};
use stablechat_protocol::uid::Uid;

/// The room with this name, if there is one.
pub fn find(rows: &Rows, name: &RoomName) -> Result<Option<Room>, StoreError> {
    rows.read(Column::Rooms, &room_key(name))
}

/// The ids of the rooms of the actor's account; none if there is no such account, or it has another key.
pub fn of_actor(rows: &Rows, actor: &Actor) -> Result<Vec<Uid>, StoreError> {
    let Some(user) = users::find(rows, &actor.account)?.filter(|user| user.key == actor.key) else {
        return Ok(Vec::new());
    };
    let from = room_memberships(user.id);
    let keys = rows.scan(Column::Members, &from, &prefix_end(&from), Direction::Forward).map(|row| uid_of(&row?.0));
    keys.collect()
}

/// The part of an account in the room with this name.
///
/// # Errors
/// A rejection if it is no member, or there is no such room. A private room is none to those who may not know of it.
pub fn part_of_member(rows: &Rows, user: &User, name: &RoomName) -> Result<(Room, Part), Abort> {
    let no_such_room = || Rejection::NoSuchRoom { room: name.clone() };
    let room = find(rows, name)?.ok_or_else(no_such_room)?;
    match part(rows, user.id, ConversationId::Room { id: room.id })? {
        Some(part) => Ok((room, part)),
        None if room.is_private && !is_invited(rows, user.id, room.id)? => Err(no_such_room().into()),
        None => Err(Rejection::NotAMember { room: name.clone() }.into()),
    }
}

/// The invitations of an account to rooms that there are.
pub fn open_invitations(rows: &Rows, account: Uid) -> Result<Vec<RoomInvitation>, StoreError> {
    let open = without_closed(rows, invitations(rows, account)?)?;
    Ok(open.into_iter().map(|pending| pending.invitation).collect())
}

/// Those of these invitations that are to rooms that there are.
fn without_closed(rows: &Rows, all: Vec<PendingInvitation>) -> Result<Vec<PendingInvitation>, StoreError> {
    let mut open = Vec::new();
    for pending in all {
        if find(rows, &pending.invitation.room)?.is_some_and(|room| room.id == pending.id) {
            open.push(pending);
        }
    }
    Ok(open)
}

/// The invitations of an account, perhaps to rooms that are gone.
pub fn invitations(rows: &Rows, account: Uid) -> Result<Vec<PendingInvitation>, StoreError> {
    let invitations: Option<Invitations> = rows.read(Column::Members, &invitations_key(account))?;
    Ok(invitations.map_or(Vec::new(), |Invitations { to }| to))
}

/// Writes the invitations of an account. None have no row.
fn write_invitations(rows: &mut Rows, account: Uid, to: Vec<PendingInvitation>) -> Result<(), StoreError> {
    match to.is_empty() {
        true => rows.remove(Column::Members, invitations_key(account)),
        false => rows.put(Column::Members, invitations_key(account), &Invitations { to }),
    }
}

/// Whether an account is invited to a room.
pub fn is_invited(rows: &Rows, account: Uid, room: Uid) -> Result<bool, StoreError> {
    Ok(invitations(rows, account)?.iter().any(|invitation| invitation.id == room))
}

/// Does something with a room for the actor.
pub fn act(
    rows: &mut Rows,
    uid: Uid,
    actor: Option<&Actor>,
    name: &RoomName,
    action: &RoomAction,
) -> Result<Outcome, Abort> {
    let (by, user) = users::owned(rows, actor)?;
    let done = match action {
        RoomAction::Create { is_private } => create(rows, uid, (by, user), name, *is_private)?,
        RoomAction::Join => join(rows, uid, (by, user), name)?,
        RoomAction::Leave => leave(rows, user, name)?,
        RoomAction::Invite { name: guest } => invite(rows, uid, (by, user), name, guest)?,
        RoomAction::Remove { name: member } => remove(rows, user, name, member)?,
        RoomAction::SetTopic { topic } => set_topic(rows, user, name, topic)?,
        RoomAction::GiveTo { name: heir } => give_to(rows, user, name, heir)?,
        RoomAction::Close => {
            let (room, _) = owned(rows, &user, name)?;
            let id = room.id;
            close(rows, name, room)?;
            Some(Effect { id, other: None })
        }
    };
    let news = RoomNews { room: name.clone(), uid, by: by.clone(), action: action.clone() };
    Ok(Outcome { room: done.map(|Effect { id, other }| RoomOutcome { id, news, other }), ..Outcome::done() })
}

/// What an action has changed; none for one that changes nothing.
struct Effect {
    /// The room's id.
    id: Uid,
    /// The account that the action names, if its connections have to know.
    other: Option<Actor>,
}

fn create(
    rows: &mut Rows,
    uid: Uid,
    (by, user): (&AccountName, User),
    name: &RoomName,
    is_private: bool,
) -> Result<Option<Effect>, Abort> {
    if find(rows, name)?.is_some() {
        return Err(Rejection::RoomExists { room: name.clone() }.into());
    }
    check_memberships(&user)?;
    let owner = RoomMember { account: user.id, name: by.clone() };
    let room = Room { id: uid, is_private, owner, topic: Topic::none(), members: 0 };
    rows.put(Column::Heads, ConversationId::Room { id: uid }.key(), &Head::NEW)?;
    if !is_private {
        rows.write(Column::Rooms, listed_room_key(name), Some(Vec::new()))?;
    }
    add_member(rows, uid, (by, user), name, room)?;
    Ok(Some(Effect { id: uid, other: None }))
}

fn join(rows: &mut Rows, uid: Uid, (by, user): (&AccountName, User), name: &RoomName) -> Result<Option<Effect>, Abort> {
    let no_such_room = || Rejection::NoSuchRoom { room: name.clone() };
    let room = find(rows, name)?.ok_or_else(no_such_room)?;
    let id = room.id;
    if part(rows, user.id, ConversationId::Room { id })?.is_some() {
        return Ok(None);
    }
    if room.is_private && !is_invited(rows, user.id, id)? {
        return Err(no_such_room().into());
    }
    if room.members >= MEMBERS_MAX {
        return Err(Rejection::RoomFull { room: name.clone() }.into());
    }
    check_memberships(&user)?;
    add_member(rows, uid, (by, user), name, room)?;
    Ok(Some(Effect { id, other: None }))
}

/// Makes an account a member of a room in which it is none. What was said before is not unread.
fn add_member(
    rows: &mut Rows,
    uid: Uid,
    (by, user): (&AccountName, User),
    name: &RoomName,
    room: Room,
) -> Result<(), StoreError> {
    let id = ConversationId::Room { id: room.id };
    let head = parts::head(rows, id)?.ok_or_else(|| no_head(name))?;
    let joined = Point { uid, ..head.end };
    let membership = Membership {
        of: Conversation::Room { name: name.clone() },
        joined,
        marker: joined.into(),
        ahead: Vec::new(),
        is_muted: false,
    };
    rows.put(Column::Members, membership_key(user.id, id), &membership)?;
    let member = RoomMember { account: user.id, name: by.clone() };
    rows.put(Column::Rooms, room_member_key(room.id, uid), &member)?;
    let mut invitations = invitations(rows, user.id)?;
    invitations.retain(|invitation| invitation.id != room.id);
    write_invitations(rows, user.id, invitations)?;
    rows.put(Column::Rooms, room_key(name), &Room { members: room.members + 1, ..room })?;
    users::write(rows, by, &User { rooms: user.rooms + 1, ..user })
}

/// A rejection if an account can be a member of no other room.
fn check_memberships(user: &User) -> Result<(), Rejection> {
    match user.rooms < MEMBERSHIPS_MAX {
        true => Ok(()),
        false => Err(Rejection::TooManyRooms),
    }
}

fn leave(rows: &mut Rows, user: User, name: &RoomName) -> Result<Option<Effect>, Abort> {
    let (room, part) = part_of_member(rows, &user, name)?;
    let id = room.id;
    remove_member(rows, name, room, part.membership.joined.uid)?;
    Ok(Some(Effect { id, other: None }))
}

/// Ends the membership of the one who joined with this request. If the member owned the room, the one who joined first owns it from
/// here on; with its last member the room is gone.
pub fn remove_member(rows: &mut Rows, name: &RoomName, room: Room, joined: Uid) -> Result<(), StoreError> {
    let member = forget_member(rows, room.id, joined)?;
    let members = room.members.checked_sub(1);
    let members = members.ok_or_else(|| StoreError::Corrupt(format!("the room {name} counts too few members")))?;
    if members == 0 {
        return close(rows, name, room);
    }
    let owner = match room.owner.account == member.account {
        true => first_member(rows, room.id)?,
        false => room.owner,
    };
    rows.put(Column::Rooms, room_key(name), &Room { members, owner, ..room })
}

/// Ends all memberships of an account.
pub fn leave_all(rows: &mut Rows, account: Uid) -> Result<(), StoreError> {
    let from = room_memberships(account);
    let memberships: Result<Vec<Row>, _> =
        rows.scan(Column::Members, &from, &prefix_end(&from), Direction::Forward).collect();
    for (key, membership) in memberships? {
        let (_, id) = member_of(&key)?;
        let membership: Membership = decode(Column::Members.name(), &membership)?;
        let Conversation::Room { name } = &membership.of else { continue };
        match find(rows, name)?.filter(|room| id == ConversationId::Room { id: room.id }) {
            Some(room) => remove_member(rows, name, room, membership.joined.uid)?,
            // It was closed, and its tombstone is being emptied.
            None => rows.remove(Column::Members, key)?,
        }
    }
    Ok(())
}

/// Removes both rows of the member who joined with this request.
pub fn forget_member(rows: &mut Rows, room: Uid, joined: Uid) -> Result<RoomMember, StoreError> {
    let key = room_member_key(room, joined);
    let member: Option<RoomMember> = rows.read(Column::Rooms, &key)?;
    let member = member.ok_or_else(|| StoreError::Corrupt(format!("nobody joined the room {room} with {joined}")))?;
    rows.remove(Column::Rooms, key)?;
    rows.remove(Column::Members, membership_key(member.account, ConversationId::Room { id: room }))?;
    // A deleted account has no row any more.
    if let Some(user) = users::find(rows, &member.name)?.filter(|user| user.id == member.account) {
        users::write(rows, &member.name, &User { rooms: user.rooms.saturating_sub(1), ..user })?;
    }
    Ok(member)
}

/// The member of a room who joined first of all who are there.
fn first_member(rows: &Rows, room: Uid) -> Result<RoomMember, StoreError> {
    let from = room_members(room);
    let first = rows.scan(Column::Rooms, &from, &prefix_end(&from), Direction::Forward).next().transpose()?;
    let no_member = || StoreError::Corrupt(format!("the room {room} counts members, but has none"));
    decode(Column::Rooms.name(), &first.ok_or_else(no_member)?.1)
}

/// Ends a room.
pub fn close(rows: &mut Rows, name: &RoomName, room: Room) -> Result<(), StoreError> {
    rows.remove(Column::Rooms, room_key(name))?;
    rows.remove(Column::Rooms, listed_room_key(name))?;
    rows.remove(Column::Heads, ConversationId::Room { id: room.id }.key())?;
    rows.put(Column::Members, tombstone_key(room.id), &Tombstone::Members { from: Uid::MIN })
}

fn invite(
    rows: &mut Rows,
    uid: Uid,
    (by, user): (&AccountName, User),
    name: &RoomName,
    guest: &AccountName,
) -> Result<Option<Effect>, Abort> {
    let (room, _) = part_of_member(rows, &user, name)?;
    let other = users::existing(rows, guest)?;
    let is_member = part(rows, other.id, ConversationId::Room { id: room.id })?.is_some();
    // One who is blocked is not told so.
    if is_member || people::is_blocked(rows, &other, user.id)? {
        return Ok(None);
    }

    let mut invitations = invitations(rows, other.id)?;
    invitations.retain(|invitation| invitation.id != room.id);
    if invitations.len() == ROOM_INVITATIONS_MAX {
        invitations = without_closed(rows, invitations)?;
    }
    if invitations.len() == ROOM_INVITATIONS_MAX {
        invitations.remove(0);
    }
    let invitation = RoomInvitation { room: name.clone(), by: by.clone(), uid };
    invitations.push(PendingInvitation { id: room.id, invitation });
    write_invitations(rows, other.id, invitations)?;
    Ok(Some(Effect { id: room.id, other: Some(Actor { account: guest.clone(), key: other.key }) }))
}

fn remove(rows: &mut Rows, user: User, name: &RoomName, member: &AccountName) -> Result<Option<Effect>, Abort> {
    let (room, _) = owned(rows, &user, name)?;
    let (other, part) = member_named(rows, &room, name, member)?;
    let id = room.id;
    remove_member(rows, name, room, part.membership.joined.uid)?;
    Ok(Some(Effect { id, other: Some(Actor { account: member.clone(), key: other.key }) }))
}

fn set_topic(rows: &mut Rows, user: User, name: &RoomName, topic: &Topic) -> Result<Option<Effect>, Abort> {
    let (room, _) = owned(rows, &user, name)?;
    let id = room.id;
    rows.put(Column::Rooms, room_key(name), &Room { topic: topic.clone(), ..room })?;
    Ok(Some(Effect { id, other: None }))
}

fn give_to(rows: &mut Rows, user: User, name: &RoomName, heir: &AccountName) -> Result<Option<Effect>, Abort> {
    let (room, _) = owned(rows, &user, name)?;
    let (other, _) = member_named(rows, &room, name, heir)?;
    let id = room.id;
    let owner = RoomMember { account: other.id, name: heir.clone() };
    rows.put(Column::Rooms, room_key(name), &Room { owner, ..room })?;
    Ok(Some(Effect { id, other: None }))
}

/// The room with this name, and the part in it of the account that owns it.
fn owned(rows: &Rows, user: &User, name: &RoomName) -> Result<(Room, Part), Abort> {
    let (room, part) = part_of_member(rows, user, name)?;
    match room.owner.account == user.id {
        true => Ok((room, part)),
        false => Err(Rejection::NotRoomOwner { room: name.clone() }.into()),
    }
}

/// The member of a room with this name.
fn member_named(rows: &Rows, room: &Room, name: &RoomName, member: &AccountName) -> Result<(User, Part), Abort> {
    let id = ConversationId::Room { id: room.id };
    let found = match users::find(rows, member)? {
        Some(user) => part(rows, user.id, id)?.map(|part| (user, part)),
        None => None,
    };
    let no_such_member = || Rejection::NoSuchMember { name: member.clone(), room: name.clone() };
    Ok(found.ok_or_else(no_such_member)?)
}

fn no_head(name: &RoomName) -> StoreError {
    StoreError::Corrupt(format!("the room {name} has no head"))
}
