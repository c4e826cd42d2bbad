//! Conversations: two accounts or a room, the messages in them, and how far an account has read them.
//!
//! A conversation has a timeline. Each message has a position in it, from 1 on. An account has read a conversation up to a point
//! (its *marker*), and perhaps ranges beyond it. It says so by naming a range, with the number and the [`UidSum`] of the messages
//! in it that it was shown ([`ReadRange`]): if a repair has changed the range, that does not fit, and all of it stays unread.

use crate::name::{AccountName, NameError};
use crate::room::RoomName;
use crate::text::MessageText;
use crate::uid::Uid;
use crate::wire::Bytes;
use std::fmt;
use std::str::FromStr;

/// The most ranges beyond its marker that an account can have read of a conversation. A client that reads in order has none, or one
/// while a message between is on its way.
pub const READ_AHEAD_MAX: usize = 64;

wire_enum! {
    /// Names a conversation, to an account that takes part in it.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Conversation {
        /// With an account, perhaps with oneself.
        0 => Account { name: AccountName },
        /// In a room.
        1 => Room { name: RoomName },
        /// With an account that was deleted. Nothing can be sent there any more.
        2 => Former {
            name: AccountName,
            /// The uid of the request that created the account. Another account may have its name now.
            account: Uid,
        },
    }
}

impl Conversation {
    /// The conversation with this account.
    pub fn with(name: &AccountName) -> Conversation {
        Conversation::Account { name: name.clone() }
    }
}

/// Reads the name of a room, which begins with `#`, or of an account.
impl FromStr for Conversation {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Conversation, NameError> {
        match text.starts_with('#') {
            true => Ok(Conversation::Room { name: RoomName::parse(text)? }),
            false => Ok(Conversation::Account { name: AccountName::parse(text)? }),
        }
    }
}

impl fmt::Display for Conversation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Conversation::Account { name } => name.fmt(formatter),
            Conversation::Room { name } => name.fmt(formatter),
            Conversation::Former { name, .. } => write!(formatter, "{name} (deleted)"),
        }
    }
}

wire_struct! {
    /// A message in a conversation.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Message {
        /// The uid of the request that sent it.
        pub uid: Uid,
        /// Its place in its conversation, from 1 on. A repair that inserts an earlier message moves it.
        pub position: u64,
        pub from: AccountName,
        /// The account or room that it was sent to.
        pub to: Conversation,
        pub text: MessageText,
    }
}

impl Message {
    /// The conversation that it is part of, as `reader` names it. (Messages of a deleted account are part of a conversation of
    /// another name: [`Conversation::Former`].)
    pub fn conversation(&self, reader: &AccountName) -> Conversation {
        match &self.to {
            Conversation::Account { .. } if self.from != *reader => Conversation::with(&self.from),
            to => to.clone(),
        }
    }
}

wire_bytes! {
    /// The XOR of the uids of a set of messages. That of a range of a timeline is the XOR of those of its two ends, so it takes two
    /// look-ups however long the range is.
    pub struct UidSum([u8; 24]);
}

impl UidSum {
    /// That of no message.
    pub const ZERO: UidSum = UidSum([0; 24]);

    /// That of the set with one message more. (With a message of the set: that without it.)
    pub fn with(self, uid: Uid) -> UidSum {
        self.xor(UidSum(uid.to_bytes()))
    }

    /// That of the messages that are in one of two sets, and not in both.
    pub fn xor(self, other: UidSum) -> UidSum {
        UidSum(std::array::from_fn(|at| self.0[at] ^ other.0[at]))
    }
}

impl FromIterator<Uid> for UidSum {
    fn from_iter<T: IntoIterator<Item = Uid>>(uids: T) -> UidSum {
        uids.into_iter().fold(UidSum::ZERO, UidSum::with)
    }
}

wire_struct! {
    /// The messages with `after < uid <= up_to` of a conversation, as they were shown. Neither end need be the uid of a message.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ReadRange {
        pub after: Uid,
        pub up_to: Uid,
        /// How many messages were shown, those of the reader included.
        pub count: u64,
        /// The sum of their uids.
        pub sum: UidSum,
    }
}

impl ReadRange {
    /// The range from the first of these messages to the last; none if there are none. `uids` ascend.
    pub fn of(uids: &[Uid]) -> Option<ReadRange> {
        let (first, last) = (uids.first()?, uids.last()?);
        let sum = uids.iter().copied().collect();
        Some(ReadRange { after: first.before(), up_to: *last, count: uids.len() as u64, sum })
    }
}

wire_enum! {
    /// Which messages of a conversation are asked for. A page has them oldest first.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Page {
        /// The last ones.
        0 => Latest,
        /// The last ones before this uid.
        1 => Before { uid: Uid },
        /// The first ones after this uid.
        2 => After { uid: Uid },
        /// Half of the page before this uid, the rest from it on.
        3 => Around { uid: Uid },
        /// The first ones after this uid that the actor has not read.
        4 => Unread { after: Uid },
    }
}

wire_struct! {
    /// A conversation of an account, and how much of it is unread.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct InboxEntry {
        pub conversation: Conversation,
        /// How many messages the account has not read; its own among them, if it sent them before it had read those before.
        pub unread: u64,
        /// The uid of the last message; [`Uid::MIN`] if there has been none.
        pub last: Uid,
        /// Whether the account wants no notice of messages here.
        pub is_muted: bool,
        /// Whether somebody has begun it whom the account has never answered.
        pub is_request: bool,
    }
}

/// The most bytes in an [`InboxPlace`].
const PLACE_MAX: usize = 64;

/// A place among the conversations of an account, which a replica has given to a client. It means nothing to anybody else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InboxPlace(Bytes);

impl InboxPlace {
    /// The place that these bytes name; at most 64.
    pub fn new(bytes: Vec<u8>) -> InboxPlace {
        debug_assert!(bytes.len() <= PLACE_MAX, "{} bytes", bytes.len());
        InboxPlace(Bytes(bytes))
    }

    /// The bytes that name it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0.0
    }
}

impl serde::Serialize for InboxPlace {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for InboxPlace {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Bytes::deserialize(deserializer)?;
        match bytes.0.len() {
            0..=PLACE_MAX => Ok(InboxPlace(bytes)),
            length => {
                Err(serde::de::Error::custom(format_args!("a place of {length} bytes, which is more than {PLACE_MAX}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    fn uid(number: u8) -> Uid {
        Uid::new(Timestamp(number.into()), &[number])
    }

    #[test]
    fn the_sum_of_a_range_follows_from_those_of_its_ends() {
        let sum = |numbers: std::ops::Range<u8>| numbers.map(uid).collect::<UidSum>();
        assert_eq!(sum(0..9).xor(sum(0..4)), sum(4..9));
        assert_eq!(sum(3..3), UidSum::ZERO);
        assert_ne!(sum(1..3), sum(2..4));
    }

    #[test]
    fn names_of_rooms_begin_with_a_sign() {
        let parse = |text: &str| text.parse::<Conversation>();
        assert_eq!(parse("#ops"), Ok(Conversation::Room { name: RoomName::parse("#ops").expect("a name") }));
        assert_eq!(parse("ops"), Ok(Conversation::with(&AccountName::parse("ops").expect("a name"))));
        assert!(parse("#").is_err() && parse("").is_err() && parse("Ops").is_err());
    }

    #[test]
    fn a_range_begins_right_before_its_first_message() {
        let range = ReadRange::of(&[uid(3), uid(4)]).expect("there are messages");
        assert!(range.after < uid(3) && range.count == 2 && range.up_to == uid(4));
        assert_eq!(range.after, uid(3).before());
        assert_eq!(ReadRange::of(&[]), None);
    }

    #[test]
    fn a_conversation_has_the_name_of_the_other_side() {
        let name = |name| AccountName::parse(name).expect("a name");
        let room = Conversation::Room { name: RoomName::parse("#ops").expect("a name") };
        let message = |to: &Conversation| Message {
            uid: uid(1),
            position: 1,
            from: name("ann"),
            to: to.clone(),
            text: MessageText::parse("x").expect("a text"),
        };
        let to_bob = message(&Conversation::with(&name("bob")));
        assert_eq!(to_bob.conversation(&name("ann")), Conversation::with(&name("bob")));
        assert_eq!(to_bob.conversation(&name("bob")), Conversation::with(&name("ann")));
        assert_eq!(message(&room).conversation(&name("bob")), room);
    }
}
