//! Pages of rooms, and of the members of a room.

use super::super::keys::{
    Column, ConversationId, key_after, membership_key, prefix_end, room_member_key, room_members, uid_of,
};
use super::super::rows::{Direction, Rows};
use super::super::values::{PendingInvitation, Room, RoomMember, User};
use super::super::{Abort, StoreError, accounts, conversations, rooms};
use super::{LOOKED_AT_MAX, names_between};
use crate::store::database::decode;
use stablechat_protocol::answer::{QueryAnswer, Rejection};
use stablechat_protocol::name::Pattern;
use stablechat_protocol::request::Actor;
use stablechat_protocol::room::{Member, RoomInfo, RoomName, Standing};
use stablechat_protocol::uid::Uid;

/// Answers [`stablechat_protocol::command::Query::Rooms`]. Operators are told of public rooms only, like anybody else: what a private
/// room is called is its members' affair.
pub fn rooms(
    rows: &Rows,
    actor: Option<&Actor>,
    pattern: &Pattern,
    after: Option<&RoomName>,
    limit: usize,
) -> Result<QueryAnswer, Abort> {
    let asker = match actor.is_some_and(|actor| actor.account.is_operator()) {
        true => None,
        false => Some(accounts::owned(rows, actor)?.1),
    };
    let invitations = match &asker {
        Some(user) => rooms::invitations(rows, user.id)?,
        None => Vec::new(),
    };
    let (from, to) = names_between("#", pattern, after.map(RoomName::as_str));

    let (mut found, mut last) = (Vec::new(), None);
    for (looked_at, row) in rows.scan(Column::Rooms, &from, &to, Direction::Forward).enumerate() {
        if found.len() == limit || looked_at == LOOKED_AT_MAX {
            return Ok(QueryAnswer::Rooms { rooms: found, next: last });
        }
        let (key, room) = row?;
        let name = room_name(&key)?;
        if pattern.matches(&name.as_str()[1..]) {
            let room: Room = decode(Column::Rooms.name(), &room)?;
            let standing = standing(rows, asker.as_ref(), &invitations, room.id)?;
            if !room.is_private || standing != Standing::Stranger {
                let Room { is_private, members, owner, topic, .. } = room;
                found.push(RoomInfo { name: name.clone(), is_private, members, owner: owner.name, topic, standing });
            }
        }
        last = Some(name);
    }
    Ok(QueryAnswer::Rooms { rooms: found, next: None })
}

/// What an account has to do with a room.
fn standing(
    rows: &Rows,
    asker: Option<&User>,
    invitations: &[PendingInvitation],
    room: Uid,
) -> Result<Standing, StoreError> {
    let Some(user) = asker else { return Ok(Standing::Stranger) };
    let membership = membership_key(user.id, ConversationId::Room { id: room });
    Ok(if rows.get(Column::Members, &membership)?.is_some() {
        Standing::Member
    } else if invitations.iter().any(|invitation| invitation.id == room) {
        Standing::Invited
    } else {
        Standing::Stranger
    })
}

/// The room name in a key of [`Column::Rooms`].
fn room_name(key: &[u8]) -> Result<RoomName, StoreError> {
    let name = std::str::from_utf8(key).ok().and_then(|text| RoomName::parse(text).ok());
    name.ok_or_else(|| StoreError::Corrupt(format!("the key {key:02x?} in rooms is no name of a room")))
}

/// Answers [`stablechat_protocol::command::Query::Members`].
pub fn members(
    rows: &Rows,
    actor: Option<&Actor>,
    name: &RoomName,
    after: Option<Uid>,
    limit: usize,
) -> Result<QueryAnswer, Abort> {
    let (_, user) = accounts::owned(rows, actor)?;
    let no_such_room = || Rejection::NoSuchRoom { room: name.clone() };
    let room = rooms::find(rows, name)?.ok_or_else(no_such_room)?;
    let is_member = conversations::part(rows, user.id, ConversationId::Room { id: room.id })?.is_some();
    if room.is_private && !is_member {
        return Err(match rooms::is_invited(rows, user.id, room.id)? {
            true => Rejection::NotAMember { room: name.clone() },
            false => no_such_room(),
        }
        .into());
    }

    let from = match after {
        Some(after) => key_after(&room_member_key(room.id, after)),
        None => room_members(room.id),
    };
    let mut members: Vec<Member> = Vec::new();
    for row in rows.scan(Column::Rooms, &from, &prefix_end(&room_members(room.id)), Direction::Forward) {
        if members.len() == limit {
            let next = members.last().map(|member| member.joined);
            return Ok(QueryAnswer::Members { members, next });
        }
        let (key, member) = row?;
        let RoomMember { name, .. } = decode(Column::Rooms.name(), &member)?;
        members.push(Member { name, joined: uid_of(&key)? });
    }
    Ok(QueryAnswer::Members { members, next: None })
}
