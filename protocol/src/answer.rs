//! What replicas answer to commands and queries.

use crate::conversation::{Conversation, InboxEntry, InboxPlace, Message};
use crate::digest::Digest;
use crate::name::AccountName;
use crate::operator::{OpenInvitation, Settings};
use crate::room::{Member, RoomInfo, RoomInvitation, RoomName};
use crate::uid::Uid;
use std::fmt;
use std::time::Duration;

wire_enum! {
    /// The answer to a command. It depends on the state and the request alone, so every replica gives the same.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Answer {
        /// The command took effect.
        0 => Done,
        /// The command was applied and had no effect.
        1 => Rejected { reason: Rejection },
    }
}

wire_enum! {
    /// The answer to a query.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum QueryAnswer {
        /// The query cannot be answered.
        0 => Rejected { reason: Rejection },
        /// The answer to [`crate::command::Query::List`], and without `next` to [`crate::command::Query::Blocked`].
        1 => Accounts {
            /// Sorted. May be empty although more pages follow: a page ends after a bounded number of names that do not match.
            names: Vec<AccountName>,
            /// The name after which the next page begins; none when this page is the last.
            next: Option<AccountName>,
        },
        /// The answer to [`crate::command::Query::History`].
        2 => Messages {
            /// Oldest first.
            messages: Vec<Message>,
            /// Whether there are earlier ones; of a page of unread messages, always false.
            earlier: bool,
            /// Whether there are later ones; of a page of unread messages, whether there are later ones that are unread.
            later: bool,
        },
        /// The answer to [`crate::command::Query::Settings`].
        3 => Settings {
            settings: Settings,
            /// The open invitations, in the order of their digests.
            invitations: Vec<OpenInvitation>,
        },
        /// The answer to [`crate::command::Query::Inbox`].
        4 => Inbox {
            /// May be empty although more pages follow.
            entries: Vec<InboxEntry>,
            /// The invitations to rooms, oldest first; only in the first page.
            invitations: Vec<RoomInvitation>,
            /// The place after which the next page begins; none when this page is the last.
            next: Option<InboxPlace>,
        },
        /// The answer to [`crate::command::Query::Rooms`].
        5 => Rooms {
            /// Sorted. May be empty although more pages follow.
            rooms: Vec<RoomInfo>,
            /// The name after which the next page begins; none when this page is the last.
            next: Option<RoomName>,
        },
        /// The answer to [`crate::command::Query::Members`].
        6 => Members {
            members: Vec<Member>,
            /// The uid after which the next page begins; none when this page is the last.
            next: Option<Uid>,
        },
    }
}

wire_enum! {
    /// Why a command had no effect, or a query no answer. The text for people (`Display`) addresses the client's user.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Rejection {
        /// The account to be created exists.
        0 => AlreadyExists { name: AccountName },
        /// No account has this name: the recipient's, or the one that was asked for.
        1 => NoSuchUser { name: AccountName },
        /// The actor's account does not exist, or another key owns it.
        2 => NotOwner { name: AccountName },
        /// The client has to log in first.
        3 => LoginRequired,
        /// The account has as many unread messages in its conversation with the actor as it may have
        /// ([`crate::operator::Settings::unread_max`]), or blocks the actor, which is not to be told.
        4 => TooManyUnread { name: AccountName },
        /// The session belongs to another actor: the one of its first request.
        5 => NotYourSession,
        /// An earlier request of the session has not been applied: number `expected` is the next one that can be.
        6 => OutOfSequence { expected: u64 },
        /// The request was applied before, more than [`crate::session::WINDOW`] requests ago: its answer is no longer kept.
        7 => AnswerForgotten,
        /// The request exceeds a limit of the protocol.
        8 => TooMany,
        /// The session has executed another command under this sequence number.
        9 => DifferentCommand,
        /// Nobody may create an account.
        10 => RegistrationClosed,
        /// An account is created by invitation, and the command has no code.
        11 => InvitationNeeded,
        /// No open invitation has this code or digest.
        12 => NoSuchInvitation,
        /// Only operators may do this.
        13 => NotAnOperator,
        /// There are as many accounts as operators allow.
        14 => TooManyAccounts,
        /// There is no such room, or it is private and the actor neither a member nor invited.
        15 => NoSuchRoom { room: RoomName },
        /// The actor is no member of this public room.
        16 => NotAMember { room: RoomName },
        /// The room to be created exists.
        17 => RoomExists { room: RoomName },
        /// The room has [`crate::room::MEMBERS_MAX`] members.
        18 => RoomFull { room: RoomName },
        /// The actor is a member of [`crate::room::MEMBERSHIPS_MAX`] rooms.
        19 => TooManyRooms,
        /// Only the owner of the room may do this.
        20 => NotRoomOwner { room: RoomName },
        /// The account that the command names is no member of the room.
        21 => NoSuchMember { name: AccountName, room: RoomName },
        /// The conversation has other messages in the range than those that were shown.
        22 => Outdated,
        /// The range to be read is empty, ends before it begins, or ends after the uid of the command itself.
        23 => NoRange,
        /// The actor has read [`crate::conversation::READ_AHEAD_MAX`] ranges beyond its marker, and this would be one more.
        24 => TooManyRanges,
        /// The actor has begun as many conversations that were not answered as it may
        /// ([`crate::operator::Settings::requests_max`]).
        25 => TooManyRequests,
        /// The actor has no such conversation.
        26 => NoConversation { conversation: Conversation },
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejection::AlreadyExists { name } => write!(formatter, "the name {name} is taken"),
            Rejection::NoSuchUser { name } => write!(formatter, "there is no account {name}"),
            Rejection::NotOwner { name } => write!(formatter, "there is no account {name} with your key"),
            Rejection::LoginRequired => write!(formatter, "you are not connected as anyone"),
            Rejection::TooManyUnread { name } => write!(
                formatter,
                "{name} has too many unread messages from you, and has to read some before you can send more"
            ),
            Rejection::NotYourSession => write!(formatter, "the session belongs to another account"),
            Rejection::OutOfSequence { expected } => {
                write!(formatter, "request {expected} of the session has not been applied")
            }
            Rejection::AnswerForgotten => write!(formatter, "it was done long ago, and its answer is no longer kept"),
            Rejection::TooMany => write!(formatter, "the request exceeds a limit of the protocol"),
            Rejection::DifferentCommand => {
                write!(formatter, "another command was given under the same id before, so this one was not executed")
            }
            Rejection::RegistrationClosed => write!(formatter, "this service takes no new accounts"),
            Rejection::InvitationNeeded => {
                write!(formatter, "a new account needs an invitation, which the service's operator gives")
            }
            Rejection::NoSuchInvitation => {
                write!(formatter, "there is no such invitation; it was used or revoked, or the code is wrong")
            }
            Rejection::NotAnOperator => write!(formatter, "only an operator of the service may do that"),
            Rejection::TooManyAccounts => {
                write!(formatter, "the service has as many accounts as its operator allows")
            }
            Rejection::NoSuchRoom { room } => write!(formatter, "there is no room {room}"),
            Rejection::NotAMember { room } => write!(formatter, "you are no member of {room}; join it first"),
            Rejection::RoomExists { room } => write!(formatter, "the room {room} exists already"),
            Rejection::RoomFull { room } => write!(formatter, "{room} has as many members as a room can have"),
            Rejection::TooManyRooms => {
                write!(formatter, "you are a member of as many rooms as an account can be; leave one first")
            }
            Rejection::NotRoomOwner { room } => write!(formatter, "only the owner of {room} may do that"),
            Rejection::NoSuchMember { name, room } => write!(formatter, "{name} is no member of {room}"),
            Rejection::Outdated => {
                write!(formatter, "the conversation has other messages there than those that were shown")
            }
            Rejection::NoRange => write!(formatter, "that is no range of messages"),
            Rejection::TooManyRanges => {
                write!(formatter, "too many ranges of the conversation are read with unread messages between them")
            }
            Rejection::TooManyRequests => write!(
                formatter,
                "too many of those to whom you have written first have not answered; you can begin no other conversation \
                 until one does"
            ),
            Rejection::NoConversation { conversation } => {
                write!(formatter, "you have no conversation with {conversation}")
            }
        }
    }
}

wire_struct! {
    /// What a replica reports along with an answer. It is not part of the answer, and differs between replicas.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct AnswerMetadata {
        /// How many requests the replica had applied, including this one.
        pub position: u64,
        /// The digest of its log up to that position.
        pub log_digest: Digest,
        /// The test by which the request was stable.
        pub stability: Stability,
        /// How many replicas, itself included, are known to hold the request.
        pub copies: u8,
    }
}

wire_enum! {
    /// How a replica knew that no request with a smaller uid could appear any more.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Stability {
        /// The closed test: every replica in contact has closed up to the request and holds it (closed timestamps, as in
        /// CockroachDB).
        0 => Closed,
        /// The real-time test: more than the delivery bound has passed since its timestamp (Schneider 1990, section 4.2).
        1 => RealTime,
    }
}

wire_enum! {
    /// Why a replica did not accept a request or query. Another replica may have accepted it, so this is not an answer.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Refusal {
        /// Its timestamp is not above the replica's closed timestamp.
        0 => Late,
        /// Its timestamp is too far ahead of the replica's clock.
        1 => Ahead,
        /// The replica is catching up, joining or stopping.
        2 => NotServing,
        /// The replica has as many pending requests as it can hold.
        3 => Overloaded,
        /// The replica's disk has no room for what the request would write. Queries are still answered.
        4 => NoRoom,
        /// The account or its address has sent too many commands lately.
        5 => TooFast {
            /// After how many milliseconds the replica will accept commands again.
            wait_ms: u32,
        },
        /// The last login on the connection was refused.
        6 => LoginRefused,
    }
}

impl Refusal {
    /// How long to wait before sending the request again; zero when the refusal does not say.
    pub fn wait(self) -> Duration {
        match self {
            Refusal::TooFast { wait_ms } => Duration::from_millis(wait_ms.into()),
            Refusal::Late
            | Refusal::Ahead
            | Refusal::NotServing
            | Refusal::Overloaded
            | Refusal::NoRoom
            | Refusal::LoginRefused => Duration::ZERO,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Refusal::Late => "its timestamp is too old",
            Refusal::Ahead => "its timestamp is in the future",
            Refusal::NotServing => "the replica is not serving",
            Refusal::Overloaded => "the replica is overloaded",
            Refusal::NoRoom => "the replica's disk is full",
            Refusal::TooFast { .. } => "too many commands have come from this account or address",
            Refusal::LoginRefused => "the replica refuses the login",
        })
    }
}
