//! The keys of the rows of the state. Their values are in [`super::values`].
//!
//! Keys are made so that rows that are read together lie together, in the order in which they are read. Integers in keys are
//! big-endian. An account or a room is named in keys by its id, the uid of the request that created it.

use super::StoreError;
use stablechat_protocol::digest::Digest;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::room::RoomName;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;

/// A column family of the replicated state: every row of it counts for the state digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    /// [`super::values::User`] by account name.
    Users = 0,
    /// [`super::values::StoredMessage`] by conversation and uid.
    Timelines = 1,
    /// [`super::values::Head`] by conversation.
    Heads = 2,
    /// What accounts take part in, and other facts about them: see [`membership_key`], [`invitations_key`], [`blocked_key`] and
    /// [`tombstone_key`].
    Members = 3,
    /// Rooms by name, and their members: see [`room_key`], [`listed_room_key`] and [`room_member_key`].
    Rooms = 4,
    /// [`super::values::Session`]s, their answers, and their order of last use.
    Sessions = 5,
    /// What operators have set, and how far it is carried out: [`SETTINGS`], [`SWEEP`] and [`invitation_key`].
    Settings = 6,
}

impl Column {
    /// All of them, in the order of their numbers.
    pub const ALL: [Column; 7] = [
        Column::Users,
        Column::Timelines,
        Column::Heads,
        Column::Members,
        Column::Rooms,
        Column::Sessions,
        Column::Settings,
    ];

    /// The name of the column family.
    pub fn name(self) -> &'static str {
        match self {
            Column::Users => "users",
            Column::Timelines => "timelines",
            Column::Heads => "heads",
            Column::Members => "members",
            Column::Rooms => "rooms",
            Column::Sessions => "sessions",
            Column::Settings => "settings",
        }
    }

    /// The column with this number; `None` when there is none.
    pub fn from_number(number: u8) -> Option<Column> {
        Column::ALL.get(usize::from(number)).copied()
    }
}

/// A conversation, by the ids of those who take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConversationId {
    /// Of two accounts, the lesser id first. Both may be the same.
    Pair { low: Uid, high: Uid },
    /// In the room with this id.
    Room { id: Uid },
}

impl ConversationId {
    /// The conversation of two accounts. It is the same for both.
    pub fn of_two(one: Uid, other: Uid) -> ConversationId {
        ConversationId::Pair { low: one.min(other), high: one.max(other) }
    }

    /// The key of its head, and the beginning of the keys of its messages.
    pub fn key(self) -> Vec<u8> {
        match self {
            ConversationId::Pair { low, high } => concat(&[PAIR, &low.to_bytes(), &high.to_bytes()]),
            ConversationId::Room { id } => concat(&[ROOM, &id.to_bytes()]),
        }
    }

    /// The inverse of [`ConversationId::key`].
    ///
    /// # Errors
    /// It is no such key.
    pub fn from_key(key: &[u8]) -> Result<ConversationId, StoreError> {
        let id = match key.split_first() {
            Some((b'd', ids)) => ids.split_at_checked(Uid::LENGTH).and_then(|(low, high)| {
                Some(ConversationId::Pair { low: Uid::from_bytes(low)?, high: Uid::from_bytes(high)? })
            }),
            Some((b'r', id)) => Uid::from_bytes(id).map(|id| ConversationId::Room { id }),
            _ => None,
        };
        id.ok_or_else(|| StoreError::Corrupt(format!("the key {key:02x?} names no conversation")))
    }

    /// The other account of a conversation of two, which may be the same; none of a room.
    pub fn partner_of(self, account: Uid) -> Option<Uid> {
        match self {
            ConversationId::Pair { low, high } => Some(if low == account { high } else { low }),
            ConversationId::Room { .. } => None,
        }
    }
}

/// The beginning of the keys of all conversations of two.
const PAIR: &[u8] = b"d";
/// The beginning of the keys of all conversations in rooms.
const ROOM: &[u8] = b"r";

/// Nanoseconds in the step by which sessions are ordered by last use. One hour: a session in use moves rarely, and ends at most
/// an hour later than it could.
const USE_STEP: u64 = 3_600_000_000_000;

/// In [`Column::Users`]: the account with this name.
pub fn user_key(name: &AccountName) -> Vec<u8> {
    name.as_str().into()
}

/// In [`Column::Timelines`]: the message with this uid in the conversation with this key.
pub fn message_key(conversation: &[u8], uid: Uid) -> Vec<u8> {
    concat(&[conversation, &uid.to_bytes()])
}

/// In [`Column::Members`]: the part of an account in a conversation.
pub fn membership_key(account: Uid, conversation: ConversationId) -> Vec<u8> {
    concat(&[b"m", &account.to_bytes(), &conversation.key()])
}

/// The beginning of all [`membership_key`]s of an account in conversations of two.
pub fn pair_memberships(account: Uid) -> Vec<u8> {
    concat(&[b"m", &account.to_bytes(), PAIR])
}

/// The beginning of all [`membership_key`]s of an account.
pub fn memberships(account: Uid) -> Vec<u8> {
    concat(&[b"m", &account.to_bytes()])
}

/// The beginning of all [`membership_key`]s of an account in rooms.
pub fn room_memberships(account: Uid) -> Vec<u8> {
    concat(&[b"m", &account.to_bytes(), ROOM])
}

/// The account and the conversation in a [`membership_key`].
///
/// # Errors
/// It is no such key.
pub fn member_of(key: &[u8]) -> Result<(Uid, ConversationId), StoreError> {
    let (account, conversation) =
        key.strip_prefix(b"m").and_then(|rest| rest.split_at_checked(Uid::LENGTH)).ok_or_else(no_membership(key))?;
    let account = Uid::from_bytes(account).ok_or_else(no_membership(key))?;
    Ok((account, ConversationId::from_key(conversation)?))
}

fn no_membership(key: &[u8]) -> impl Fn() -> StoreError + '_ {
    move || StoreError::Corrupt(format!("the key {key:02x?} names no membership"))
}

/// In [`Column::Members`]: the invitations of an account.
pub fn invitations_key(account: Uid) -> Vec<u8> {
    concat(&[b"i", &account.to_bytes()])
}

/// In [`Column::Members`]: the name of an account that this one blocks.
pub fn blocked_key(account: Uid, blocked: Uid) -> Vec<u8> {
    concat(&[b"b", &account.to_bytes(), &blocked.to_bytes()])
}

/// The beginning of all [`blocked_key`]s of an account.
pub fn all_blocked(account: Uid) -> Vec<u8> {
    concat(&[b"b", &account.to_bytes()])
}

/// In [`Column::Members`]: the [`super::values::Tombstone`] of a deleted account or a closed room, some of whose rows are still to be
/// removed.
pub fn tombstone_key(id: Uid) -> Vec<u8> {
    concat(&[TOMBSTONE, &id.to_bytes()])
}

/// The beginning of all [`tombstone_key`]s.
pub const TOMBSTONE: &[u8] = b"t";

/// In [`Column::Rooms`]: the room with this name.
pub fn room_key(name: &RoomName) -> Vec<u8> {
    name.as_str().into()
}

/// In [`Column::Rooms`]: that there is a public room of this name. The row is empty. Private rooms have none, so that a search passes
/// over no names that are to be kept secret.
pub fn listed_room_key(name: &RoomName) -> Vec<u8> {
    concat(&[LISTED_ROOM, name.as_str().as_bytes()])
}

/// The beginning of all [`listed_room_key`]s.
pub const LISTED_ROOM: &[u8] = b"l";

/// In [`Column::Rooms`]: the member of a room who joined with this request.
pub fn room_member_key(room: Uid, joined: Uid) -> Vec<u8> {
    concat(&[b"m", &room.to_bytes(), &joined.to_bytes()])
}

/// The beginning of all [`room_member_key`]s of a room.
pub fn room_members(room: Uid) -> Vec<u8> {
    concat(&[b"m", &room.to_bytes()])
}

/// In [`Column::Sessions`]: the session with this id.
pub fn session_key(client: ClientId) -> Vec<u8> {
    concat(&[SESSION, &client.0])
}

/// The beginning of all [`session_key`]s.
pub const SESSION: &[u8] = b"s";

/// The beginning of the ids of sessions that are derived from orphans. Other ids are random, and may begin so too.
pub const ORPHAN_SESSION_ID: [u8; 4] = *b"own ";

/// The beginning of the [`session_key`]s of orphans' sessions.
pub const ORPHAN_SESSION: &[u8] = b"sown ";

/// In [`Column::Sessions`]: the answer to a request of a session.
pub fn session_answer_key(client: ClientId, sequence: u64) -> Vec<u8> {
    concat(&[b"a", &client.0, &sequence.to_be_bytes()])
}

/// In [`Column::Sessions`]: the place of a session in the order of last use, coarsely. The row is empty.
pub fn session_use_key(used: Timestamp, client: ClientId) -> Vec<u8> {
    concat(&[SESSION_USE, &(used.0 / USE_STEP).to_be_bytes(), &client.0])
}

/// In [`Column::Sessions`]: a bound that lies before every session last used in the step of `used` or later, and after all others.
pub fn session_use_bound(used: Timestamp) -> Vec<u8> {
    concat(&[SESSION_USE, &(used.0 / USE_STEP).to_be_bytes()])
}

/// The beginning of all [`session_use_key`]s.
pub const SESSION_USE: &[u8] = b"t";

/// In [`Column::Settings`]: the settings.
pub const SETTINGS: &[u8] = b"s";

/// In [`Column::Settings`]: how far old messages have been looked for; no row while none are.
pub const SWEEP: &[u8] = b"r";

/// In [`Column::Settings`]: the invitation whose code has this digest.
pub fn invitation_key(invitation: Digest) -> Vec<u8> {
    concat(&[b"i", &invitation.0])
}

/// The range of all [`invitation_key`]s.
pub fn invitations() -> (Vec<u8>, Vec<u8>) {
    (b"i".to_vec(), prefix_end(b"i"))
}

/// The uid at the end of a key; `None` when the key is shorter than that.
pub fn uid_at_end(key: &[u8]) -> Option<Uid> {
    key.last_chunk::<{ Uid::LENGTH }>().and_then(|bytes| Uid::from_bytes(bytes))
}

/// The uid at the end of a key that has one.
///
/// # Errors
/// The key is too short.
pub fn uid_of(key: &[u8]) -> Result<Uid, StoreError> {
    uid_at_end(key).ok_or_else(|| StoreError::Corrupt(format!("the key {key:02x?} does not end with a uid")))
}

/// The least key after all that begin with `prefix`, which must not be all `0xff`.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end
}

/// The least key after this one.
pub fn key_after(key: &[u8]) -> Vec<u8> {
    concat(&[key, b"\0"])
}

/// The parts, one after the other.
fn concat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(number: u64) -> Uid {
        Uid::new(Timestamp(number), b"")
    }

    #[test]
    fn a_prefix_ends_before_the_next_key() {
        assert_eq!(prefix_end(b"ab"), b"ac");
        assert_eq!(prefix_end(&[1, 0xff]), [2]);
    }

    #[test]
    fn both_sides_of_a_conversation_have_one_key() {
        let (one, other) = (uid(1), uid(2));
        let conversation = ConversationId::of_two(one, other);
        assert_eq!(conversation, ConversationId::of_two(other, one));
        assert_eq!((conversation.partner_of(one), conversation.partner_of(other)), (Some(other), Some(one)));
        assert_eq!(ConversationId::of_two(one, one).partner_of(one), Some(one));
    }

    #[test]
    fn keys_tell_what_they_name() {
        for conversation in [ConversationId::of_two(uid(1), uid(2)), ConversationId::Room { id: uid(3) }] {
            assert_eq!(ConversationId::from_key(&conversation.key()).ok(), Some(conversation));
            assert_eq!(member_of(&membership_key(uid(4), conversation)).ok(), Some((uid(4), conversation)));
        }
        for bad in [&b""[..], b"d", b"r", b"x", &[b'd'; 50], &[b'r'; 26]] {
            assert!(ConversationId::from_key(bad).is_err() && member_of(bad).is_err(), "{bad:?}");
        }
        assert!(membership_key(uid(1), ConversationId::Room { id: uid(2) }).starts_with(&room_memberships(uid(1))));
    }

    #[test]
    fn columns_are_numbered_in_their_order() {
        for (number, column) in Column::ALL.into_iter().enumerate() {
            assert_eq!(column as usize, number);
            assert_eq!(Column::from_number(number as u8), Some(column));
        }
        assert_eq!(Column::from_number(7), None);
    }
}
