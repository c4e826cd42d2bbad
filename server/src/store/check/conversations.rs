//! Checking conversations: what heads, timelines, memberships, rooms and accounts say about each other.

use super::Check;
use super::state::all;
use crate::store::database::decode;
use crate::store::error::StoreError;
use crate::store::state::keys::{
    Column, ConversationId, LISTED_ROOM, TOMBSTONE, member_of, tombstone_key, uid_at_end, uid_of,
};
use crate::store::state::parts::Part;
use crate::store::state::values::{
    Head, Invitations, Membership, Point, Room, RoomMember, StoredMessage, Tombstone, User,
};
use stablechat_protocol::conversation::READ_AHEAD_MAX;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeMap, BTreeSet};

/// What was read of accounts, rooms and conversations.
#[derive(Default)]
struct Found {
    /// The accounts by id.
    users: BTreeMap<Uid, User>,
    /// The deleted accounts and closed rooms some of whose rows are still to be removed.
    tombstones: BTreeSet<Uid>,
    /// The rooms by id.
    rooms: BTreeMap<Uid, Room>,
    /// The accounts by the room and the request by which they joined it.
    room_members: BTreeMap<(Uid, Uid), Uid>,
    heads: BTreeMap<ConversationId, Head>,
    /// How many rooms each account is a member of, and how many it blocks, by the rows of it.
    counts: BTreeMap<Uid, (u32, u32)>,
}

impl Check<'_> {
    /// Accounts, rooms, memberships and heads agree.
    pub(super) fn check_members(&mut self) -> Result<(), StoreError> {
        let columns = [Column::Users, Column::Rooms, Column::Heads, Column::Members];
        self.begin("conversations and their members", &columns.map(Column::name));
        let mut found = Found::default();
        for row in all(self.rows, Column::Users) {
            let user: User = decode(Column::Users.name(), &row?.1)?;
            self.count();
            found.users.insert(user.id, user);
        }
        for row in all(self.rows, Column::Heads) {
            let (key, head) = row?;
            self.count();
            found.heads.insert(ConversationId::from_key(&key)?, decode(Column::Heads.name(), &head)?);
        }
        self.read_rooms(&mut found)?;
        for row in all(self.rows, Column::Members) {
            let (key, _) = row?;
            if key.starts_with(TOMBSTONE) {
                found.tombstones.extend(uid_at_end(&key));
            }
        }
        for row in all(self.rows, Column::Members) {
            let (key, value) = row?;
            self.count();
            self.check_member_row(&key, &value, &mut found)?;
        }
        self.compare_counts(&found);
        Ok(())
    }

    /// Reads rooms and their members. Each room has as many members as it counts, and its owner is one of them.
    fn read_rooms(&mut self, found: &mut Found) -> Result<(), StoreError> {
        for row in all(self.rows, Column::Rooms) {
            let (key, value) = row?;
            self.count();
            match key.first() {
                Some(b'#') => {
                    let room: Room = decode(Column::Rooms.name(), &value)?;
                    let listed = [LISTED_ROOM, &key].concat();
                    if self.rows.get(Column::Rooms, &listed)?.is_some() == room.is_private {
                        self.fault(format!("the room {} is listed and private, or neither", room.id));
                    }
                    found.rooms.insert(room.id, room);
                }
                Some(b'l') => {
                    if self.rows.get(Column::Rooms, &key[1..])?.is_none() {
                        self.fault(format!("the key {key:02x?} in rooms lists a room that is not there"));
                    }
                }
                Some(b'm') if key.len() == 1 + 2 * Uid::LENGTH => {
                    let member: RoomMember = decode(Column::Rooms.name(), &value)?;
                    let room = key.get(1..=Uid::LENGTH).and_then(Uid::from_bytes);
                    found.room_members.extend(room.zip(uid_at_end(&key)).map(|place| (place, member.account)));
                }
                _ => self.fault(format!("the key {key:02x?} in rooms is of no known kind")),
            }
        }

        for room in found.rooms.values() {
            let members: Vec<Uid> = found
                .room_members
                .range((room.id, Uid::MIN)..=(room.id, Uid::MAX))
                .map(|(_, member)| *member)
                .collect();
            if members.len() != room.members as usize || !members.contains(&room.owner.account) {
                let (id, said, owner) = (room.id, room.members, room.owner.account);
                self.fault(format!(
                    "the room {id} has the members {members:?}, counts {said}, and is owned by {owner}"
                ));
            }
            if !found.heads.contains_key(&ConversationId::Room { id: room.id }) {
                self.fault(format!("the room {} has no head", room.id));
            }
        }
        Ok(())
    }

    /// Checks one row of [`Column::Members`].
    fn check_member_row(&mut self, key: &[u8], value: &[u8], found: &mut Found) -> Result<(), StoreError> {
        let column = Column::Members.name();
        let account = key.get(1..=Uid::LENGTH).and_then(Uid::from_bytes).unwrap_or(Uid::MIN);
        match key.first() {
            Some(b'm') => {
                let (account, id) = member_of(key)?;
                self.check_membership(account, id, decode(column, value)?, found);
            }
            Some(b'b') => {
                decode::<AccountName>(column, value)?;
                found.counts.entry(account).or_default().1 += 1;
            }
            Some(b'i') => drop(decode::<Invitations>(column, value)?),
            Some(b't') => drop(decode::<Tombstone>(column, value)?),
            _ => self.fault(format!("the key {key:02x?} in members is of no known kind")),
        }
        if !found.users.contains_key(&account) && !found.tombstones.contains(&account) {
            self.fault(format!("the key {key:02x?} in members is of {account}, which is no account"));
        }
        Ok(())
    }

    /// A part in a conversation: its marker and ranges lie in the timeline, in order and with gaps, and the room has the member.
    fn check_membership(&mut self, account: Uid, id: ConversationId, membership: Membership, found: &mut Found) {
        if let ConversationId::Room { id: room } = id {
            found.counts.entry(account).or_default().0 += 1;
            if found.room_members.get(&(room, membership.joined.uid)) != Some(&account) {
                self.fault(format!("{account} is a member of the room {room}, which does not know it"));
            }
            if !found.rooms.contains_key(&room) && !found.tombstones.contains(&room) {
                self.fault(format!("{account} is a member of {room}, which is no room"));
            }
        }
        let Some(head) = found.heads.get(&id).cloned() else {
            let is_over = matches!(id, ConversationId::Room { id } if found.tombstones.contains(&id));
            if !is_over {
                self.fault(format!("{account} takes part in {id:?}, which has no head"));
            }
            return;
        };

        let part = Part { id, membership, head };
        let (end, ahead) = (part.head.end.position, &part.membership.ahead);
        let mut before = part.membership.marker.position;
        let are_in_order = ahead.iter().all(|range| {
            let is_after = before < range.after.position && range.after.position < range.up_to.position;
            before = range.up_to.position;
            is_after
        });
        if !are_in_order || before > end || ahead.len() > READ_AHEAD_MAX || part.membership.joined.position > end {
            self.fault(format!("what {account} has read of {id:?} is not in order: {:?}", part.membership));
        }
    }

    /// Each account counts the rooms, the unanswered conversations and the blocked accounts that it has.
    fn compare_counts(&mut self, found: &Found) {
        let mut requests: BTreeMap<Uid, u32> = BTreeMap::new();
        for head in found.heads.values() {
            head.unanswered.into_iter().for_each(|by| *requests.entry(by).or_default() += 1);
        }
        for (id, user) in &found.users {
            let (rooms, blocked) = found.counts.get(id).copied().unwrap_or_default();
            let requests = requests.get(id).copied().unwrap_or_default();
            let said = (user.rooms, user.requests, user.blocked);
            if said != (rooms, requests, blocked) {
                self.fault(format!(
                    "account {id} counts {said:?} rooms, unanswered conversations and blocked accounts, and has {:?}",
                    (rooms, requests, blocked)
                ));
            }
        }
    }

    /// The messages of each timeline follow each other without a gap, from the first that was not removed up to the head, with the right
    /// sums.
    pub(super) fn check_timelines(&mut self) -> Result<(), StoreError> {
        self.begin("timelines", &[Column::Timelines.name()]);
        let mut timeline: Option<Timeline> = None;
        for row in all(self.rows, Column::Timelines) {
            let (key, value) = row?;
            self.count();
            let message: StoredMessage = decode(Column::Timelines.name(), &value)?;
            let uid = uid_of(&key)?;
            let conversation = &key[..key.len() - Uid::LENGTH];
            if timeline.as_ref().is_none_or(|timeline| timeline.key != conversation) {
                self.end_timeline(timeline.take())?;
                timeline = Some(self.begin_timeline(conversation, uid, &message)?);
            }

            let Some(Timeline { last, .. }) = &mut timeline else { continue };
            let next = Point { uid, position: last.position + 1, sum: last.sum.with(uid) };
            if (message.position, message.sum) != (next.position, next.sum) {
                let (said, place) = (message.position, next.position);
                self.fault(format!(
                    "message {uid} says that it is number {said} of its conversation, and it is {place}"
                ));
            }
            *last = next;
        }
        self.end_timeline(timeline)
    }

    /// The timeline that begins with this message. Of a conversation that is over, the messages are being removed.
    fn begin_timeline(&self, key: &[u8], uid: Uid, first: &StoredMessage) -> Result<Timeline, StoreError> {
        let id = ConversationId::from_key(key)?;
        let is_over = match id {
            ConversationId::Room { id } => self.has_tombstone(id)?,
            ConversationId::Pair { low, high } => self.has_tombstone(low)? || self.has_tombstone(high)?,
        };
        let head: Option<Head> = self.rows.read(Column::Heads, key)?;
        let before = Point { uid: Uid::MIN, position: first.position - 1, sum: first.sum.with(uid) };
        let last = head.as_ref().filter(|_| !is_over).map_or(before, |head| head.removed);
        Ok(Timeline { key: key.to_vec(), id, is_over, head, last })
    }

    /// The last message of a timeline is at its head.
    fn end_timeline(&mut self, timeline: Option<Timeline>) -> Result<(), StoreError> {
        let Some(Timeline { id, is_over, head, last, .. }) = timeline else { return Ok(()) };
        match head {
            Some(head) if head.end == last => {}
            Some(head) => self.fault(format!("{id:?} ends with {last:?}, but its head is {:?}", head.end)),
            None if is_over => {}
            None => self.fault(format!("there are messages of {id:?}, which has no head")),
        }
        Ok(())
    }

    fn has_tombstone(&self, id: Uid) -> Result<bool, StoreError> {
        Ok(self.rows.get(Column::Members, &tombstone_key(id))?.is_some())
    }
}

/// A timeline that is being read.
struct Timeline {
    /// The beginning of the keys of its messages.
    key: Vec<u8>,
    id: ConversationId,
    /// Whether its messages are being removed.
    is_over: bool,
    head: Option<Head>,
    /// The point after the last message that was read.
    last: Point,
}
