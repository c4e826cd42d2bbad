//! Rooms: their names and topics, the actions on them, and the facts that clients are told.
//!
//! Anybody may join a public room and read all of its history. A private room is known to its members and to those whom they invite;
//! its history begins for each member when it (last) joined. To anybody else it is as if there were none.

use crate::name::{AccountName, NameError, check_account_name, checked_text};
use crate::uid::Uid;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// The most members of a room.
pub const MEMBERS_MAX: u32 = 10_000;
/// The most rooms that an account is a member of.
pub const MEMBERSHIPS_MAX: u32 = 1_000;
/// The most invitations to rooms that an account has not followed. The oldest gives way to a new one.
pub const ROOM_INVITATIONS_MAX: usize = 100;
/// The most bytes in a topic.
pub const TOPIC_MAX: usize = 512;

checked_text! {
    /// The name of a room: `#`, then 1 to 32 of `a-z 0-9 _ -`, beginning with a letter.
    RoomName, check_room_name, NameError
}

/// The rule for names of rooms: a `#` and a name by the rule for accounts.
fn check_room_name(text: &str) -> Result<(), NameError> {
    match text.strip_prefix('#') {
        Some(name) => check_account_name(name),
        None => Err(NameError::new(text, "does not begin with #, as names of rooms do")),
    }
}

checked_text! {
    /// What a room is about: one line of UTF-8 without control characters, at most [`TOPIC_MAX`] bytes, perhaps none.
    Topic, check_topic, TopicError
}

/// Why a text is not a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicError {
    /// It has this many bytes, which is more than [`TOPIC_MAX`].
    TooLong(usize),
    /// It has a control character, such as a line's end.
    Control,
}

impl fmt::Display for TopicError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopicError::TooLong(length) => {
                write!(formatter, "the topic has {length} bytes; it may have at most {TOPIC_MAX}")
            }
            TopicError::Control => formatter
                .write_str("the topic has a control character, such as a line's end; it has to be one line of text"),
        }
    }
}

impl std::error::Error for TopicError {}

/// The rule for topics.
fn check_topic(text: &str) -> Result<(), TopicError> {
    if text.len() > TOPIC_MAX {
        return Err(TopicError::TooLong(text.len()));
    }
    match text.chars().any(char::is_control) {
        true => Err(TopicError::Control),
        false => Ok(()),
    }
}

impl Topic {
    /// No topic.
    pub fn none() -> Topic {
        Topic::parse("").expect("it keeps the rule")
    }
}

wire_enum! {
    /// What an account does with a room.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum RoomAction {
        /// Creates it. The actor owns it, and is its first member.
        0 => Create { is_private: bool },
        /// Becomes a member. A private room can be joined by invitation only. It is done if the actor is a member.
        1 => Join,
        /// Is no member any more. If the actor owned the room, the member who joined first owns it from here on; with its last
        /// member the room is gone.
        2 => Leave,
        /// Invites an account. Every member may. It is done if the account is a member.
        3 => Invite { name: AccountName },
        /// Ends the membership of another account. Only for the owner.
        4 => Remove { name: AccountName },
        /// Says what the room is about. Only for the owner.
        5 => SetTopic { topic: Topic },
        /// Gives the room to another member. Only for the owner.
        6 => GiveTo { name: AccountName },
        /// Ends the room, with all that was said in it. Only for the owner.
        7 => Close,
    }
}

wire_enum! {
    /// What an account has to do with a room.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Standing {
        /// Nothing.
        0 => Stranger,
        /// It is invited.
        1 => Invited,
        /// It is a member.
        2 => Member,
    }
}

wire_struct! {
    /// A room that an account may know of.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct RoomInfo {
        pub name: RoomName,
        pub is_private: bool,
        pub members: u32,
        pub owner: AccountName,
        pub topic: Topic,
        /// What the account that asks has to do with it.
        pub standing: Standing,
    }
}

wire_struct! {
    /// A member of a room.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Member {
        pub name: AccountName,
        /// The uid of the request by which it (last) joined.
        pub joined: Uid,
    }
}

wire_struct! {
    /// An invitation to a room.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct RoomInvitation {
        pub room: RoomName,
        /// Who has invited.
        pub by: AccountName,
        /// The uid of the request that did.
        pub uid: Uid,
    }
}

wire_struct! {
    /// What has happened in a room. It is told to those who are connected then, and kept nowhere.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct RoomNews {
        pub room: RoomName,
        /// The uid of the request that did it.
        pub uid: Uid,
        /// The account that did it.
        pub by: AccountName,
        pub action: RoomAction,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rooms_keep_their_rule() {
        for good in ["#a", "#ops", "#a0_b-c", &format!("#{}", "x".repeat(32))] {
            assert!(RoomName::parse(good).is_ok(), "{good}");
        }
        for (bad, fault) in [
            ("", "does not begin with #"),
            ("ops", "does not begin with #"),
            ("#", "is empty"),
            ("##ops", "has a character"),
            ("#0", "does not begin with a letter"),
            ("#Ops", "has a character"),
            ("#o ps", "has a character"),
            (&*format!("#{}", "x".repeat(33)), "too long"),
        ] {
            let error = RoomName::parse(bad).expect_err(bad).to_string();
            assert!(error.contains(fault), "{error}");
        }
    }

    #[test]
    fn a_topic_is_one_line() {
        assert!(Topic::parse("").is_ok() && Topic::parse("na\u{ef}ve plans, 2027").is_ok());
        assert!(Topic::parse("x".repeat(TOPIC_MAX)).is_ok());
        assert_eq!(Topic::parse("x".repeat(TOPIC_MAX + 1)), Err(TopicError::TooLong(513)));
        for bad in ["two\nlines", "bell\u{7}", "\u{9b}2J"] {
            assert_eq!(Topic::parse(bad), Err(TopicError::Control), "{bad:?}");
        }
    }
}
