//! What clients ask for: commands, which change the state and are logged, and queries, which read it.

use crate::conversation::{Conversation, InboxPlace, Page, ReadRange};
use crate::login::PublicKey;
use crate::name::{AccountName, Pattern};
use crate::operator::{InvitationCode, Operation};
use crate::room::{RoomAction, RoomName};
use crate::text::MessageText;
use crate::uid::Uid;

/// The most entries in one page of an answer.
pub const PAGE_MAX: u16 = 1000;
/// The most bytes of text in one page of an answer, so that its frame stays below [`crate::frame::FRAME_MAX`].
pub const PAGE_BYTES: usize = 512 * 1024;
/// The most messages of one account that another has not read in their conversation. A send beyond it is rejected with
/// `TooManyUnread`.
pub const UNREAD_MAX: u64 = 200_000;
/// The most accounts that an account blocks.
pub const BLOCKED_MAX: u32 = 1_000;

wire_enum! {
    /// Changes the state when it is applied. Commands are logged, and applied at most once in their session.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Command {
        /// Creates an account. Needs no login.
        0 => Create {
            name: AccountName,
            /// Owns the account: a client logs in with the private half.
            key: PublicKey,
            /// Is used up if accounts are created by invitation, and left alone otherwise.
            invitation: Option<InvitationCode>,
        },
        /// Deletes the actor's account with its memberships. What it has sent stays with those it was sent to.
        1 => Delete,
        /// Sends a message from the actor. The first one between two accounts begins their conversation.
        2 => Send { to: Conversation, text: MessageText },
        /// Says that the actor was shown these messages. It is rejected (`Outdated`) unless they are the messages that the
        /// conversation has in this range when the command is applied.
        3 => Read { conversation: Conversation, range: ReadRange },
        /// Gives the actor's account this key in the place of the one that it has. Connections that are logged in with the earlier
        /// one are told ([`crate::message::ToClient::LoggedOut`]). If the account has the new key already, nothing changes, and it
        /// is done all the same: so a client that was not told the outcome can repeat it in another session.
        4 => SetKey { key: PublicKey },
        /// Does what only operators may do.
        5 => Operate { operation: Operation },
        /// Does something with a room.
        6 => Room { room: RoomName, action: RoomAction },
        /// Blocks an account, or does so no longer. What a blocked account sends to the actor is rejected, as if it had too much
        /// unread there. In rooms, the actor's clients do not show its messages.
        7 => Block { name: AccountName, is_blocked: bool },
        /// Says whether the actor wants notice of messages in a conversation.
        8 => Mute { conversation: Conversation, is_muted: bool },
    }
}

wire_enum! {
    /// Reads the state at its place in the order of requests. Queries are not logged, and belong to no session.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Query {
        /// The accounts whose names match, sorted. Only for accounts and operators.
        0 => List {
            pattern: Pattern,
            /// Only names after this one: the `next` of the previous page.
            after: Option<AccountName>,
            /// The most names to return; at most [`PAGE_MAX`] are.
            limit: u16,
        },
        /// The actor's conversations, in an order that stays, and its invitations to rooms.
        1 => Inbox {
            /// Whether conversations of which everything is read, and that are not muted, are among them.
            all: bool,
            /// Only conversations after this place: the `next` of the previous page.
            after: Option<InboxPlace>,
            /// The most conversations to return; at most [`PAGE_MAX`] are.
            limit: u16,
        },
        /// Messages of a conversation of the actor, oldest first.
        2 => History {
            conversation: Conversation,
            page: Page,
            /// The most messages to return; at most [`PAGE_MAX`] are.
            limit: u16,
        },
        /// What operators have set. Only for operators.
        3 => Settings,
        /// The rooms that the actor may know of and whose names, without `#`, match; sorted.
        4 => Rooms {
            pattern: Pattern,
            /// Only names after this one: the `next` of the previous page.
            after: Option<RoomName>,
            /// The most rooms to return; at most [`PAGE_MAX`] are.
            limit: u16,
        },
        /// The members of a room of the actor, or of a public one, in the order in which they joined.
        5 => Members {
            room: RoomName,
            /// Only those who joined after this uid: the `next` of the previous page.
            after: Option<Uid>,
            /// The most members to return; at most [`PAGE_MAX`] are.
            limit: u16,
        },
        /// The accounts that the actor blocks.
        6 => Blocked,
    }
}
