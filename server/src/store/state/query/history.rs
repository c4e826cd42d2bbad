//! Pages of the messages of a conversation. A member of a private room gets none from before it joined.

use super::super::conversations;
use super::super::keys::{Column, key_after, message_key, prefix_end, uid_of};
use super::super::parts::Part;
use super::super::rows::{Direction, Row, Rows};
use super::super::values::{Point, StoredMessage};
use super::super::{Abort, StoreError, rooms, users};
use crate::store::database::decode;
use stablechat_protocol::answer::QueryAnswer;
use stablechat_protocol::command::PAGE_BYTES;
use stablechat_protocol::conversation::{Conversation, Message, Page};
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::Actor;
use stablechat_protocol::uid::Uid;

/// Answers [`stablechat_protocol::command::Query::History`].
pub fn page(
    rows: &Rows,
    actor: Option<&Actor>,
    conversation: &Conversation,
    page: Page,
    limit: usize,
) -> Result<QueryAnswer, Abort> {
    let (name, user) = users::owned(rows, actor)?;
    let Some(part) = conversations::named(rows, &user, conversation)? else {
        return Ok(QueryAnswer::Messages { messages: Vec::new(), earlier: false, later: false });
    };
    let timeline = Timeline { rows, reader: name, key: part.id.key(), start: visible_from(rows, &part)?, part };
    Ok(match page {
        Page::Unread { after } => timeline.unread(after, limit)?,
        Page::Latest => timeline.between(timeline.latest(&prefix_end(&timeline.key), Room::whole(limit))?),
        Page::Before { uid } => {
            timeline.between(timeline.latest(&message_key(&timeline.key, uid), Room::whole(limit))?)
        }
        Page::After { uid } => {
            let from = key_after(&message_key(&timeline.key, uid));
            timeline.between(timeline.first(&from, Room::whole(limit))?)
        }
        Page::Around { uid } => {
            let from = message_key(&timeline.key, uid);
            let half = Room { messages: limit / 2, bytes: PAGE_BYTES / 2 };
            let mut messages = timeline.latest(&from, half)?;
            messages.extend(timeline.first(&from, Room { messages: limit - messages.len(), ..half })?);
            timeline.between(messages)
        }
    })
}

/// The point from which on an account sees the messages of a conversation.
fn visible_from(rows: &Rows, part: &Part) -> Result<Point, StoreError> {
    let is_private = match &part.membership.of {
        Conversation::Room { name } => rooms::find(rows, name)?.is_some_and(|room| room.is_private),
        Conversation::Account { .. } | Conversation::Former { .. } => false,
    };
    Ok(if is_private { part.start() } else { part.head.removed })
}

/// How much a page may have.
#[derive(Clone, Copy)]
struct Room {
    messages: usize,
    bytes: usize,
}

impl Room {
    /// That of a page of so many messages.
    fn whole(messages: usize) -> Room {
        Room { messages, bytes: PAGE_BYTES }
    }
}

/// The messages of a conversation that an account may see.
struct Timeline<'a> {
    rows: &'a Rows,
    reader: &'a AccountName,
    part: Part,
    /// The beginning of the keys of its messages.
    key: Vec<u8>,
    /// They lie after this point.
    start: Point,
}

impl Timeline<'_> {
    /// A page of consecutive messages. Its place among all follows from their positions.
    fn between(&self, messages: Vec<Message>) -> QueryAnswer {
        let ends = messages.first().zip(messages.last()).map(|(first, last)| (first.position, last.position));
        let (earlier, later) = match ends {
            Some((first, last)) => (first > self.start.position + 1, last < self.part.head.end.position),
            None => (false, false),
        };
        QueryAnswer::Messages { messages, earlier, later }
    }

    /// The last messages before a key, as many as there is room for.
    fn latest(&self, to: &[u8], room: Room) -> Result<Vec<Message>, StoreError> {
        let from = key_after(&message_key(&self.key, self.start.uid));
        let (mut messages, _) = self.fill(self.rows.scan(Column::Timelines, &from, to, Direction::Backward), room)?;
        messages.reverse();
        Ok(messages)
    }

    /// The first messages from a key on, as many as there is room for.
    fn first(&self, from: &[u8], room: Room) -> Result<Vec<Message>, StoreError> {
        let from = from.max(&key_after(&message_key(&self.key, self.start.uid))).to_vec();
        let to = prefix_end(&self.key);
        Ok(self.fill(self.rows.scan(Column::Timelines, &from, &to, Direction::Forward), room)?.0)
    }

    /// The first messages after a uid that the account has not read.
    fn unread(&self, after: Uid, limit: usize) -> Result<QueryAnswer, StoreError> {
        let (start, marker) = (self.part.start(), self.part.membership.marker);
        let after = after.max(start.uid).max(marker.uid);
        let ends = [self.part.head.end.uid];
        // Between the ranges that are read ahead lie the ones that are unread.
        let ahead = &self.part.membership.ahead;
        let froms = [after].into_iter().chain(ahead.iter().map(|range| range.up_to.uid.max(after)));
        let tos = ahead.iter().map(|range| range.after.uid).chain(ends);

        let (mut messages, mut room, mut later) = (Vec::new(), Room::whole(limit), false);
        for (from, to) in froms.zip(tos) {
            let (from, to) = (key_after(&message_key(&self.key, from)), key_after(&message_key(&self.key, to)));
            let (some, is_full) = self.fill(self.rows.scan(Column::Timelines, &from, &to, Direction::Forward), room)?;
            room.messages -= some.len();
            room.bytes -= some.iter().map(|message| message.text.as_str().len()).sum::<usize>();
            messages.extend(some);
            if is_full {
                later = true;
                break;
            }
        }
        Ok(QueryAnswer::Messages { messages, earlier: false, later })
    }

    /// The messages of these rows, as many as there is room for, and whether there are more.
    fn fill(
        &self,
        rows: impl Iterator<Item = Result<Row, StoreError>>,
        room: Room,
    ) -> Result<(Vec<Message>, bool), StoreError> {
        let (mut messages, mut bytes) = (Vec::new(), 0);
        for row in rows {
            let (key, value) = row?;
            let message: StoredMessage = decode(Column::Timelines.name(), &value)?;
            bytes += message.text.as_str().len();
            if messages.len() == room.messages || bytes > room.bytes {
                return Ok((messages, true));
            }
            messages.push(self.message(uid_of(&key)?, message));
        }
        Ok((messages, false))
    }

    /// A message as clients get it. That of a conversation of two was sent to the one who has not sent it.
    fn message(&self, uid: Uid, StoredMessage { position, from, text, .. }: StoredMessage) -> Message {
        let to = match &self.part.membership.of {
            Conversation::Account { .. } if from != *self.reader => Conversation::with(self.reader),
            of => of.clone(),
        };
        Message { uid, position, from, to, text }
    }
}
