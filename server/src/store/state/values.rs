//! The values of the rows of the state. Their keys are in [`super::keys`].

use stablechat_protocol::answer::Answer;
use stablechat_protocol::conversation::{Conversation, UidSum};
use stablechat_protocol::digest::Digest;
use stablechat_protocol::login::PublicKey;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::Actor;
use stablechat_protocol::room::{RoomInvitation, Topic};
use stablechat_protocol::text::MessageText;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
pub use stablechat_protocol::wire::Bytes;
use stablechat_protocol::{wire_enum, wire_struct};

wire_struct! {
    /// An account; its name is its key.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct User {
        /// The uid of the request that created it, which tells it from other accounts of this name, before and after it.
        pub id: Uid,
        /// The key that owns it.
        pub key: PublicKey,
        /// The one that it has replaced, unless an operator has replaced it.
        pub earlier_key: Option<PublicKey>,
        /// How many rooms it is a member of.
        pub rooms: u32,
        /// How many conversations it has begun that were not answered.
        pub requests: u32,
        /// How many accounts it blocks.
        pub blocked: u32,
    }
}

wire_struct! {
    /// A message in a timeline; its uid is in its key.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct StoredMessage {
        /// How many messages the timeline has had up to and with this one, removed ones included.
        pub position: u64,
        /// The sum of their uids.
        pub sum: UidSum,
        pub from: AccountName,
        pub text: MessageText,
    }
}

wire_struct! {
    /// A place in a timeline: after the message with this uid.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Point {
        /// The message, or any uid between it and the next one.
        pub uid: Uid,
        /// How many messages there have been up to here.
        pub position: u64,
        /// The sum of their uids.
        pub sum: UidSum,
    }
}

impl Point {
    /// Before the first message.
    pub const START: Point = Point { uid: Uid::MIN, position: 0, sum: UidSum::ZERO };
}

wire_struct! {
    /// Both ends of a conversation's timeline.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Head {
        /// After the last message.
        pub end: Point,
        /// After the last message that was removed because of its age. Earlier ones are gone, too.
        pub removed: Point,
        /// The account that has begun it, while the other one has not answered.
        pub unanswered: Option<Uid>,
    }
}

impl Head {
    /// No message yet.
    pub const NEW: Head = Head { end: Point::START, removed: Point::START, unanswered: None };
}

wire_struct! {
    /// A place in a timeline up to which something is read.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Mark {
        pub uid: Uid,
        pub position: u64,
    }
}

impl From<Point> for Mark {
    fn from(Point { uid, position, .. }: Point) -> Mark {
        Mark { uid, position }
    }
}

wire_struct! {
    /// Messages that were read: those with `after.position < position <= up_to.position`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MarkRange {
        pub after: Mark,
        pub up_to: Mark,
    }
}

wire_struct! {
    /// An account's part in a conversation.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Membership {
        /// The other account, or the room; never [`Conversation::Former`].
        pub of: Conversation,
        /// Where the timeline was when the account (last) joined the room, with the uid of the request that did. In a conversation of two
        /// [`Point::START`].
        pub joined: Point,
        /// All messages up to here are read.
        pub marker: Mark,
        /// What is read beyond the marker, in order: at most [`stablechat_protocol::conversation::READ_AHEAD_MAX`] ranges with unread
        /// messages before each.
        pub ahead: Vec<MarkRange>,
        pub is_muted: bool,
    }
}

wire_struct! {
    /// A room; its name is its key.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Room {
        /// The uid of the request that created it, which tells it from other rooms of this name, before and after it.
        pub id: Uid,
        pub is_private: bool,
        pub owner: RoomMember,
        pub topic: Topic,
        /// How many members it has. At least one.
        pub members: u32,
    }
}

wire_struct! {
    /// A member of a room.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct RoomMember {
        /// The id of the account.
        pub account: Uid,
        pub name: AccountName,
    }
}

wire_struct! {
    /// The invitations of an account, oldest first, each with the id of the room.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Invitations {
        pub to: Vec<PendingInvitation>,
    }
}

wire_struct! {
    /// An invitation that was not followed yet. The room may be gone.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct PendingInvitation {
        /// The id of the room.
        pub id: Uid,
        pub invitation: RoomInvitation,
    }
}

wire_enum! {
    /// How far the rows of a deleted account or a closed room have been removed. Rows are removed in the order of their keys. Each
    /// step begins where the last one ended, since looking for the first row again would pass over all the removed ones, which the
    /// database keeps until it compacts them.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Tombstone {
        /// The part of an account in its conversations with others is being ended: in those before this one it is, and of this one's
        /// messages, if nobody else takes part in it, those below `from` are gone.
        0 => Conversations { conversation: Bytes, from: Uid },
        /// It has no conversations any more. The names of those that it blocks are being removed.
        1 => Blocked { from: Uid },
        /// The members of a room are being removed: those who joined before this uid are gone.
        2 => Members { from: Uid },
        /// Its members are gone. Its messages are being removed: those below this uid are gone.
        3 => Messages { from: Uid },
    }
}

wire_struct! {
    /// A session, which makes a request take effect once, however often it comes.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Session {
        /// The actor of its first request; requests of any other actor are rejected.
        pub actor: Option<Actor>,
        /// The sequence number of the last request that was executed in it.
        pub sequence: u64,
        /// The timestamp of that request.
        pub used: Timestamp,
        /// The first request whose answer is kept. The answers from here up to `sequence` are, at most
        /// [`stablechat_protocol::session::WINDOW`].
        pub kept_from: u64,
    }
}

wire_struct! {
    /// The answer to a request of a session.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct KeptAnswer {
        /// The digest of the request's command: another command under the same sequence number is no repetition.
        pub command: Digest,
        pub answer: Answer,
    }
}

wire_enum! {
    /// An invitation to create an account; the digest of its code is in its key.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Invitation {
        0 => Open {
            /// The timestamp of the operator's request.
            opened: Timestamp,
        },
        /// The invitation of the initial settings, used or revoked. Others leave no row.
        1 => Closed,
    }
}

wire_struct! {
    /// How far old messages have been looked for. Conversations before this one have been looked at.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Sweep {
        pub conversation: Bytes,
    }
}

wire_struct! {
    /// The record for undoing a request.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct UndoRecord {
        /// The rows that it wrote, each once, as they were before.
        pub rows: Vec<OldRow>,
    }
}

wire_struct! {
    /// A row before it was written.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct OldRow {
        /// The number of its [`super::keys::Column`].
        pub column: u8,
        pub key: Bytes,
        /// `None` when the row was not there.
        pub value: Option<Bytes>,
    }
}
