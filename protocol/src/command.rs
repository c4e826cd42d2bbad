//! What clients ask for: commands, which change the state and are logged, and queries, which read it.

use crate::id::Digest;
use crate::login::PublicKey;
use crate::name::{AccountName, Pattern};
use crate::text::MessageText;
use crate::uid::Uid;
use std::fmt;

/// The most uids in one [`Command::Ack`].
pub const ACK_MAX: usize = 1024;
/// The most entries in one page of an answer.
pub const PAGE_MAX: u16 = 1000;
/// The most bytes of text in one page of an answer: what keeps its frame below the limit.
pub const PAGE_BYTES: usize = 512 * 1024;
/// The most unread messages of an account; a send beyond it is refused with `MailboxFull`.
pub const MAILBOX_MAX: u64 = 200_000;
/// How many requests of a session may be unanswered at a time, and how many answers a session remembers.
pub const WINDOW: u64 = 1024;

wire_enum! {
    /// Changes the state when it is applied. Logged, and applied at most once in its session.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Command {
        /// Makes a new account. Needs no login.
        0 => Create {
            /// The name, which must not be taken.
            name: AccountName,
            /// Whoever holds the private half owns the account.
            key: PublicKey,
            /// How the key is derived, when it is from a password.
            password: Option<PasswordParameters>,
        },
        /// Ends the actor's account with its unread messages and memberships.
        1 => Delete,
        /// Sends a message in the actor's name.
        2 => Send {
            /// Who gets it.
            to: Recipient,
            /// What it says.
            text: MessageText,
        },
        /// Removes exactly these from the actor's unread messages; those that are not there are passed over.
        3 => Ack {
            /// At most [`ACK_MAX`] of them.
            uids: Vec<Uid>,
        },
    }
}

wire_enum! {
    /// Reads the state at its place in the order. Not logged, and no part of a session.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Query {
        /// The accounts whose names match, sorted. Needs no login.
        0 => List {
            /// Which names.
            pattern: Pattern,
            /// Only names after this one: the `next` of the page before.
            after: Option<AccountName>,
            /// The most names, up to [`PAGE_MAX`].
            limit: u16,
        },
        /// The actor's unread messages, oldest first.
        1 => Unread {
            /// Only messages after this one.
            after: Option<Uid>,
            /// The most messages, up to [`PAGE_MAX`].
            limit: u16,
        },
        /// The last messages between the actor and someone, oldest first.
        2 => History {
            /// The other side.
            with: Recipient,
            /// Only messages before this one.
            before: Option<Uid>,
            /// The most messages, up to [`PAGE_MAX`].
            limit: u16,
        },
        /// What is needed to derive an account's key from its password. Needs no login, and answers the same kind of
        /// thing for names that nobody has.
        3 => KeyLookup {
            /// The account.
            name: AccountName,
        },
    }
}

wire_enum! {
    /// Where a message goes. Rooms will be tag 1.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Recipient {
        /// To one account.
        0 => Account {
            /// Its name.
            name: AccountName,
        },
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recipient::Account { name } => name.fmt(formatter),
        }
    }
}

wire_struct! {
    /// The parameters of Argon2id (RFC 9106) with which a password becomes a key.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct PasswordParameters {
        /// 256 bits that differ between accounts.
        pub salt: Digest,
        /// Memory, in KiB.
        pub memory_kib: u32,
        /// Passes over the memory.
        pub passes: u32,
        /// Lanes.
        pub lanes: u32,
    }
}
