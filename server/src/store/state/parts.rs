//! The parts of accounts in conversations: their memberships, and the ends of the timelines.

use super::StoreError;
use super::keys::{Column, ConversationId, key_after, membership_key, message_key, uid_of};
use super::rows::{Direction, Rows};
use super::values::{Head, Mark, Membership, Point, StoredMessage};
use crate::store::database::decode;
use stablechat_protocol::uid::Uid;

/// An account's part in a conversation, and the ends of its timeline.
pub struct Part {
    pub id: ConversationId,
    pub membership: Membership,
    pub head: Head,
}

impl Part {
    /// The point up to which nothing concerns this account: what lies before was removed, or said before it joined the room.
    pub fn start(&self) -> Point {
        match self.head.removed.position > self.membership.joined.position {
            true => self.head.removed,
            false => self.membership.joined,
        }
    }

    /// How many messages of the timeline the account has read up to its marker, removed ones included.
    pub fn read_to(&self) -> u64 {
        self.membership.marker.position.max(self.start().position)
    }

    /// How many messages the account has not read.
    pub fn unread(&self) -> u64 {
        let read_to = self.read_to();
        let beyond = |mark: Mark| mark.position.max(read_to);
        let ahead: u64 = self.membership.ahead.iter().map(|range| beyond(range.up_to) - beyond(range.after)).sum();
        self.head.end.position - read_to - ahead
    }

    /// Writes the account's part.
    pub fn write(&self, rows: &mut Rows, account: Uid) -> Result<(), StoreError> {
        rows.put(Column::Members, membership_key(account, self.id), &self.membership)
    }
}

/// The part of this account in a conversation; none if it has no part.
pub fn part(rows: &Rows, account: Uid, id: ConversationId) -> Result<Option<Part>, StoreError> {
    let Some(membership) = membership(rows, account, id)? else { return Ok(None) };
    Ok(head(rows, id)?.map(|head| Part { id, membership, head }))
}

/// The row of this account's part in a conversation.
pub fn membership(rows: &Rows, account: Uid, id: ConversationId) -> Result<Option<Membership>, StoreError> {
    rows.read(Column::Members, &membership_key(account, id))
}

/// The head of a conversation; none if it has not begun, or is over.
pub fn head(rows: &Rows, id: ConversationId) -> Result<Option<Head>, StoreError> {
    rows.read(Column::Heads, &id.key())
}

/// The point of a uid: after the last message up to it, whether or not this is still there.
pub fn point_at(rows: &Rows, id: ConversationId, head: &Head, uid: Uid) -> Result<Point, StoreError> {
    if uid >= head.end.uid {
        return Ok(head.end);
    }
    if uid <= head.removed.uid {
        return Ok(head.removed);
    }
    let key = id.key();
    let (from, to) = (message_key(&key, head.removed.uid), key_after(&message_key(&key, uid)));
    let Some(row) = rows.scan(Column::Timelines, &from, &to, Direction::Backward).next() else {
        return Ok(head.removed);
    };
    let (key, value) = row?;
    message_point(&key, &decode(Column::Timelines.name(), &value)?)
}

/// The point after a message in a timeline.
pub fn message_point(key: &[u8], message: &StoredMessage) -> Result<Point, StoreError> {
    Ok(Point { uid: uid_of(key)?, position: message.position, sum: message.sum })
}
