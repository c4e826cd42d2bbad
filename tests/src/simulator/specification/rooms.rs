//! Rooms: their members in the order in which they joined, and the invitations.

use super::talks::{Id, Talks};
use super::{Outcome, page_size};
use stablechat_protocol::answer::{QueryAnswer, Rejection};
use stablechat_protocol::conversation::Conversation;
use stablechat_protocol::name::{AccountName, Pattern};
use stablechat_protocol::room::{
    MEMBERS_MAX, MEMBERSHIPS_MAX, Member, ROOM_INVITATIONS_MAX, RoomInfo, RoomInvitation, RoomName, Standing, Topic,
};
use stablechat_protocol::uid::Uid;
use std::collections::BTreeMap;

/// All rooms, and all invitations to them.
#[derive(Default)]
pub struct Rooms {
    rooms: BTreeMap<RoomName, Room>,
    /// By account: the room's request, and the invitation; the oldest first.
    invitations: BTreeMap<Uid, Vec<(Uid, RoomInvitation)>>,
}

/// A room.
pub struct Room {
    /// The request that made it.
    pub made_by: Uid,
    pub is_private: bool,
    pub owner: Uid,
    pub topic: Topic,
    /// The accounts, their names and the requests by which they joined, in their order.
    members: Vec<(Uid, AccountName, Uid)>,
}

impl Room {
    fn id(&self) -> Id {
        Id::Room(self.made_by)
    }

    fn has(&self, account: Uid) -> bool {
        self.members.iter().any(|(member, ..)| *member == account)
    }
}

impl Rooms {
    pub fn create(
        &mut self,
        talks: &mut Talks,
        uid: Uid,
        (by, account): (&AccountName, Uid),
        name: &RoomName,
        is_private: bool,
    ) -> Outcome<()> {
        if self.rooms.contains_key(name) {
            return Err(Rejection::RoomExists { room: name.clone() });
        }
        let room = Room { made_by: uid, is_private, owner: account, topic: Topic::none(), members: Vec::new() };
        self.check_memberships(account)?;
        self.rooms.insert(name.clone(), room);
        self.add(talks, uid, (by, account), name);
        Ok(())
    }

    pub fn join(
        &mut self,
        talks: &mut Talks,
        uid: Uid,
        (by, account): (&AccountName, Uid),
        name: &RoomName,
    ) -> Outcome<()> {
        let room = self.rooms.get(name).ok_or_else(|| no_such_room(name))?;
        if room.has(account) {
            return Ok(());
        }
        if room.is_private && !self.is_invited(account, room.made_by) {
            return Err(no_such_room(name));
        }
        if room.members.len() >= MEMBERS_MAX as usize {
            return Err(Rejection::RoomFull { room: name.clone() });
        }
        self.check_memberships(account)?;
        self.add(talks, uid, (by, account), name);
        Ok(())
    }

    fn check_memberships(&self, account: Uid) -> Outcome<()> {
        match self.rooms.values().filter(|room| room.has(account)).count() < MEMBERSHIPS_MAX as usize {
            true => Ok(()),
            false => Err(Rejection::TooManyRooms),
        }
    }

    fn add(&mut self, talks: &mut Talks, uid: Uid, (by, account): (&AccountName, Uid), name: &RoomName) {
        let room = self.rooms.get_mut(name).expect("it was there a moment ago");
        room.members.push((account, by.clone(), uid));
        talks.join(account, room.id(), Conversation::Room { name: name.clone() }, uid);
        let made_by = room.made_by;
        self.invitations.entry(account).or_default().retain(|(room, _)| *room != made_by);
    }

    /// The room of a member.
    pub fn of_member(&self, account: Uid, name: &RoomName) -> Outcome<&Room> {
        let room = self.rooms.get(name).ok_or_else(|| no_such_room(name))?;
        if room.has(account) {
            Ok(room)
        } else if room.is_private && !self.is_invited(account, room.made_by) {
            Err(no_such_room(name))
        } else {
            Err(Rejection::NotAMember { room: name.clone() })
        }
    }

    /// The room of its owner.
    pub fn of_owner(&mut self, account: Uid, name: &RoomName) -> Outcome<&mut Room> {
        if self.of_member(account, name)?.owner != account {
            return Err(Rejection::NotRoomOwner { room: name.clone() });
        }
        Ok(self.rooms.get_mut(name).expect("it was there a moment ago"))
    }

    pub fn give_to(&mut self, account: Uid, name: &RoomName, heir: &AccountName, other: Option<Uid>) -> Outcome<()> {
        let room = self.of_owner(account, name)?;
        room.owner = member(room, name, heir, other)?;
        Ok(())
    }

    pub fn remove(
        &mut self,
        talks: &mut Talks,
        account: Uid,
        name: &RoomName,
        removed: &AccountName,
        other: Option<Uid>,
    ) -> Outcome<()> {
        let room = self.of_owner(account, name)?;
        let other = member(room, name, removed, other)?;
        self.take(talks, other, name);
        Ok(())
    }

    /// Ends a membership.
    pub fn take(&mut self, talks: &mut Talks, account: Uid, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        room.members.retain(|(member, ..)| *member != account);
        talks.leave(account, room.id());
        match room.members.first() {
            None => drop(self.close(talks, name)),
            Some((first, ..)) if room.owner == account => room.owner = *first,
            Some(_) => {}
        }
    }

    /// Ends all memberships of an account.
    pub fn take_everywhere(&mut self, talks: &mut Talks, account: Uid) {
        let names: Vec<RoomName> =
            self.rooms.iter().filter(|(_, room)| room.has(account)).map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.take(talks, account, name));
    }

    pub fn close(&mut self, talks: &mut Talks, name: &RoomName) -> Outcome<()> {
        let room = self.rooms.remove(name).ok_or_else(|| no_such_room(name))?;
        talks.end(room.id());
        Ok(())
    }

    /// Invites an account that does not block the one that invites.
    pub fn invite(&mut self, uid: Uid, by: &AccountName, name: &RoomName, guest: Uid) {
        let room = &self.rooms[name];
        if room.has(guest) {
            return;
        }
        let invitations = self.invitations.entry(guest).or_default();
        invitations.retain(|(of, _)| *of != room.made_by);
        if invitations.len() == ROOM_INVITATIONS_MAX {
            invitations
                .retain(|(of, invitation)| self.rooms.get(&invitation.room).is_some_and(|room| room.made_by == *of));
        }
        if invitations.len() == ROOM_INVITATIONS_MAX {
            invitations.remove(0);
        }
        invitations.push((room.made_by, RoomInvitation { room: name.clone(), by: by.clone(), uid }));
    }

    fn is_invited(&self, account: Uid, room: Uid) -> bool {
        self.invitations.get(&account).is_some_and(|all| all.iter().any(|(of, _)| *of == room))
    }

    /// The invitations of an account to rooms that there are.
    pub fn invitations(&self, account: Uid) -> Vec<RoomInvitation> {
        let all = self.invitations.get(&account).into_iter().flatten();
        let is_there = |(id, invitation): &&(Uid, RoomInvitation)| {
            self.rooms.get(&invitation.room).is_some_and(|room| room.made_by == *id)
        };
        all.filter(is_there).map(|(_, invitation)| invitation.clone()).collect()
    }

    /// Who is in the room of this name.
    pub fn members(&self, name: &RoomName) -> Vec<AccountName> {
        let members = self.rooms.get(name).into_iter().flat_map(|room| &room.members);
        members.map(|(_, name, _)| name.clone()).collect()
    }

    /// A page of rooms that an account may know of; nobody and operators know of public ones.
    pub fn page(
        &self,
        account: Option<Uid>,
        pattern: &Pattern,
        after: Option<&RoomName>,
        limit: u16,
        names: &BTreeMap<AccountName, Uid>,
    ) -> QueryAnswer {
        let standing = |room: &Room| match account {
            Some(account) if room.has(account) => Standing::Member,
            Some(account) if self.is_invited(account, room.made_by) => Standing::Invited,
            _ => Standing::Stranger,
        };
        let owner = |room: &Room| names.iter().find(|(_, id)| **id == room.owner).map(|(name, _)| name.clone());
        let found = self.rooms.iter().filter(|(name, room)| {
            pattern.matches(&name.as_str()[1..])
                && after.is_none_or(|after| *name > after)
                && (!room.is_private || standing(room) != Standing::Stranger)
        });
        let mut rooms: Vec<RoomInfo> = found
            .map(|(name, room)| RoomInfo {
                name: name.clone(),
                is_private: room.is_private,
                members: room.members.len() as u32,
                owner: owner(room).expect("an account that is deleted has left"),
                topic: room.topic.clone(),
                standing: standing(room),
            })
            .collect();
        let is_cut = rooms.len() > page_size(limit);
        rooms.truncate(page_size(limit));
        QueryAnswer::Rooms { next: rooms.last().filter(|_| is_cut).map(|room| room.name.clone()), rooms }
    }

    /// A page of the members of a room.
    pub fn members_page(&self, account: Uid, name: &RoomName, after: Option<Uid>, limit: u16) -> Outcome<QueryAnswer> {
        let room = match self.of_member(account, name) {
            Err(Rejection::NotAMember { .. }) if !self.rooms[name].is_private => &self.rooms[name],
            room => room?,
        };
        let later = room.members.iter().filter(|(.., joined)| after.is_none_or(|after| *joined > after));
        let mut members: Vec<Member> =
            later.map(|(_, name, joined)| Member { name: name.clone(), joined: *joined }).collect();
        let is_cut = members.len() > page_size(limit);
        members.truncate(page_size(limit));
        Ok(QueryAnswer::Members { next: members.last().filter(|_| is_cut).map(|member| member.joined), members })
    }
}

/// The member of a room with this name, whose account, if there is one, is `other`.
fn member(room: &Room, name: &RoomName, member: &AccountName, other: Option<Uid>) -> Outcome<Uid> {
    let no_such_member = || Rejection::NoSuchMember { name: member.clone(), room: name.clone() };
    other.filter(|other| room.has(*other)).ok_or_else(no_such_member)
}

fn no_such_room(name: &RoomName) -> Rejection {
    Rejection::NoSuchRoom { room: name.clone() }
}
