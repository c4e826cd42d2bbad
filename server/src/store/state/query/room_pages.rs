//! Pages of rooms, and of the members of a room.

use super::super::keys::{
    Column, ConversationId, LISTED_ROOM, key_after, listed_room_key, member_of, prefix_end, room_member_key,
    room_members, room_memberships, uid_of,
};
use super::super::rows::{Direction, Rows};
use super::super::values::{Membership, Room, RoomMember};
use super::super::{Abort, StoreError, parts, rooms, users};
use super::LOOKED_AT_MAX;
use crate::store::database::decode;
use stablechat_protocol::answer::{QueryAnswer, Rejection};
use stablechat_protocol::conversation::Conversation;
use stablechat_protocol::name::Pattern;
use stablechat_protocol::request::Actor;
use stablechat_protocol::room::{Member, RoomInfo, RoomName, Standing};
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeMap, BTreeSet};

/// Answers [`stablechat_protocol::command::Query::Rooms`]. Operators are told of public rooms only, like anybody else: what a private
/// room is called is its members' affair.
pub fn rooms(
    rows: &Rows,
    actor: Option<&Actor>,
    pattern: &Pattern,
    after: Option<&RoomName>,
    limit: usize,
) -> Result<QueryAnswer, Abort> {
    let mut own = match actor.is_some_and(|actor| actor.account.is_operator()) {
        true => BTreeMap::new(),
        false => own_rooms(rows, users::owned(rows, actor)?.1.id)?,
    };
    own.retain(|name, _| pattern.matches(&name.as_str()[1..]) && after.is_none_or(|after| name > after));

    // One more than the page has tells that there are more. A search that is cut short goes on after the last public name.
    let (public, cut) = public_rooms(rows, pattern, after, limit + 1)?;
    let mut names: BTreeSet<RoomName> = own.keys().chain(&public).cloned().collect();
    if let Some(cut) = &cut {
        names.retain(|name| name <= cut);
    }
    let is_full = names.len() > limit;
    let mut found = Vec::new();
    for name in names.into_iter().take(limit) {
        let room = rooms::find(rows, &name)?.ok_or_else(|| no_room(&name))?;
        let standing = own.get(&name).copied().unwrap_or(Standing::Stranger);
        let Room { is_private, members, owner, topic, .. } = room;
        found.push(RoomInfo { name, is_private, members, owner: owner.name, topic, standing });
    }
    let next = if is_full { found.last().map(|room| room.name.clone()) } else { cut };
    Ok(QueryAnswer::Rooms { rooms: found, next })
}

/// The rooms that an account is a member of or invited to.
fn own_rooms(rows: &Rows, account: Uid) -> Result<BTreeMap<RoomName, Standing>, StoreError> {
    let mut own = BTreeMap::new();
    for invitation in rooms::open_invitations(rows, account)? {
        own.insert(invitation.room, Standing::Invited);
    }
    let from = room_memberships(account);
    for row in rows.scan(Column::Members, &from, &prefix_end(&from), Direction::Forward) {
        let (key, membership) = row?;
        let membership: Membership = decode(Column::Members.name(), &membership)?;
        // A closed room has no head, and some of its memberships for a while.
        if let (Conversation::Room { name }, Some(_)) = (membership.of, parts::head(rows, member_of(&key)?.1)?) {
            own.insert(name, Standing::Member);
        }
    }
    Ok(own)
}

/// The first public rooms that match, at most so many; and the name after which to go on, if there were too many to look at.
fn public_rooms(
    rows: &Rows,
    pattern: &Pattern,
    after: Option<&RoomName>,
    rooms_max: usize,
) -> Result<(Vec<RoomName>, Option<RoomName>), StoreError> {
    let before = [LISTED_ROOM, b"#", pattern.literal_prefix().as_bytes()].concat();
    let from = after.map_or(Vec::new(), |after| key_after(&listed_room_key(after)));
    let (mut found, mut last) = (Vec::new(), None);
    let all = rows.scan(Column::Rooms, &from.max(before.clone()), &prefix_end(&before), Direction::Forward);
    for (looked_at, row) in all.enumerate() {
        if found.len() == rooms_max {
            break;
        }
        if looked_at == LOOKED_AT_MAX {
            return Ok((found, last));
        }
        let name = room_name(&row?.0)?;
        if pattern.matches(&name.as_str()[1..]) {
            found.push(name.clone());
        }
        last = Some(name);
    }
    Ok((found, None))
}

/// The room name in a [`listed_room_key`].
fn room_name(key: &[u8]) -> Result<RoomName, StoreError> {
    let name = std::str::from_utf8(&key[LISTED_ROOM.len()..]).ok().and_then(|text| RoomName::parse(text).ok());
    name.ok_or_else(|| StoreError::Corrupt(format!("the key {key:02x?} in rooms is no name of a room")))
}

fn no_room(name: &RoomName) -> StoreError {
    StoreError::Corrupt(format!("the room {name} is listed, or has a member, and is not there"))
}

/// Answers [`stablechat_protocol::command::Query::Members`].
pub fn members(
    rows: &Rows,
    actor: Option<&Actor>,
    name: &RoomName,
    after: Option<Uid>,
    limit: usize,
) -> Result<QueryAnswer, Abort> {
    let (_, user) = users::owned(rows, actor)?;
    let no_such_room = || Rejection::NoSuchRoom { room: name.clone() };
    let room = rooms::find(rows, name)?.ok_or_else(no_such_room)?;
    let is_member = parts::part(rows, user.id, ConversationId::Room { id: room.id })?.is_some();
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
