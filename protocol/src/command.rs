//! What clients ask for: commands, which change the state and are logged, and queries, which read it.

use crate::login::PublicKey;
use crate::name::{AccountName, Pattern};
use crate::operator::{InvitationCode, Operation};
use crate::text::MessageText;
use crate::uid::Uid;
use std::fmt;

/// The most uids in one [`Command::Ack`].
pub const ACK_MAX: usize = 1024;
/// The most entries in one page of an answer.
pub const PAGE_MAX: u16 = 1000;
/// The most bytes of text in one page of an answer, so that its frame stays below [`crate::frame::FRAME_MAX`].
pub const PAGE_BYTES: usize = 512 * 1024;
/// The most unread messages of an account. A sender may have as many of them as there is room left; a send beyond it is rejected
/// with `MailboxFull`. So one sender alone fills half of a mailbox, and leaves the other half to others.
pub const MAILBOX_MAX: u64 = 200_000;

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
        /// Deletes the actor's account with its unread messages.
        1 => Delete,
        /// Sends a message from the actor.
        2 => Send { to: Recipient, text: MessageText },
        /// Removes exactly these messages from the actor's unread ones; uids that are not among them are ignored.
        3 => Ack {
            /// At most [`ACK_MAX`].
            uids: Vec<Uid>,
        },
        /// Gives the actor's account this key in the place of the one that it has. Connections that are logged in with the earlier
        /// one are told ([`crate::message::ToClient::LoggedOut`]). If the account has the new key already, nothing changes, and it
        /// is done all the same: so a client that was not told the outcome can repeat it in another session.
        4 => SetKey { key: PublicKey },
        /// Does what only operators may do.
        5 => Operate { operation: Operation },
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
        /// The actor's unread messages, oldest first.
        1 => Unread {
            /// Only messages after this one.
            after: Option<Uid>,
            /// The most messages to return; at most [`PAGE_MAX`] are.
            limit: u16,
        },
        /// The latest messages between the actor and another account, oldest of them first.
        2 => History {
            with: Recipient,
            /// Only messages before this one.
            before: Option<Uid>,
            /// The most messages to return; at most [`PAGE_MAX`] are.
            limit: u16,
        },
        /// What operators have set. Only for operators.
        3 => Settings,
    }
}

wire_enum! {
    /// Where a message goes. Rooms will be tag 1.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Recipient {
        /// To one account.
        0 => Account { name: AccountName },
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recipient::Account { name } => name.fmt(formatter),
        }
    }
}
