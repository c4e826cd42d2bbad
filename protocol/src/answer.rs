//! What replicas answer.

use crate::command::{PasswordParameters, Recipient};
use crate::id::Digest;
use crate::name::AccountName;
use crate::text::MessageText;
use crate::uid::Uid;
use std::fmt;

wire_enum! {
    /// The answer to a command: a function of the state and the request alone, hence the same from every replica.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Answer {
        /// It took effect.
        0 => Done,
        /// It had no effect.
        1 => Rejected {
            /// Why.
            reason: Rejection,
        },
    }
}

wire_enum! {
    /// The answer to a query.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum QueryAnswer {
        /// It cannot be answered.
        0 => Rejected {
            /// Why.
            reason: Rejection,
        },
        /// Account names, sorted.
        1 => Accounts {
            /// The names, of which there may be none even when there are more.
            names: Vec<AccountName>,
            /// Where the next page begins: after this name. None when this page is the last.
            next: Option<AccountName>,
        },
        /// Messages, oldest first.
        2 => Messages {
            /// The messages.
            messages: Vec<Message>,
            /// Whether more lie further in the direction of the query: after these for unread, before them for history.
            more: bool,
        },
        /// How to derive an account's key from its password.
        3 => Key {
            /// The parameters; those of an account without a password are made up from its name.
            parameters: PasswordParameters,
        },
    }
}

wire_enum! {
    /// Why a request was applied without effect.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Rejection {
        /// The account to be made exists.
        0 => AlreadyExists {
            /// Its name.
            name: AccountName,
        },
        /// There is no such account, be it the actor's or another.
        1 => NoSuchUser {
            /// The name.
            name: AccountName,
        },
        /// The actor's key is not the one that owns the account.
        2 => NotOwner {
            /// The account.
            name: AccountName,
        },
        /// The request speaks for nobody, but has to speak for someone.
        3 => LoginRequired,
        /// The recipient has [`crate::command::MAILBOX_MAX`] unread messages.
        4 => MailboxFull {
            /// The recipient.
            name: AccountName,
        },
        /// The session belongs to another actor.
        5 => NotYourSession,
        /// Requests of the session before this one have not been applied.
        6 => OutOfSequence {
            /// The sequence number that would have been next.
            expected: u64,
        },
        /// The request was applied so long ago that its answer is no longer kept.
        7 => AnswerForgotten,
        /// A limit of the protocol was not kept.
        8 => TooMany,
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejection::AlreadyExists { name } => write!(formatter, "the name {name} is taken"),
            Rejection::NoSuchUser { name } => write!(formatter, "there is no account {name}"),
            Rejection::NotOwner { name } => write!(formatter, "your key is not the one that owns the account {name}"),
            Rejection::LoginRequired => write!(formatter, "you are not connected as anyone"),
            Rejection::MailboxFull { name } => write!(formatter, "the mailbox of {name} is full"),
            Rejection::NotYourSession => write!(formatter, "the session belongs to another account"),
            Rejection::OutOfSequence { expected } => {
                write!(formatter, "request {expected} of the session has not been applied")
            }
            Rejection::AnswerForgotten => write!(formatter, "it was done long ago, and its answer is no longer kept"),
            Rejection::TooMany => write!(formatter, "the request is beyond a limit of the protocol"),
        }
    }
}

wire_struct! {
    /// A message as it lies in a timeline.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Message {
        /// The uid of the request that sent it.
        pub uid: Uid,
        /// Who sent it.
        pub from: AccountName,
        /// To whom.
        pub to: Recipient,
        /// What it says.
        pub text: MessageText,
    }
}

wire_struct! {
    /// What a replica says around an answer. It is no part of the answer, and differs between replicas.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Note {
        /// How many requests the replica had applied after this one.
        pub position: u64,
        /// The chain hash over its log up to there.
        pub log_digest: Digest,
        /// By which test the request was stable.
        pub stability: Stability,
        /// How many replicas, itself included, are known to hold the request.
        pub copies: u8,
    }
}

wire_enum! {
    /// How a replica came to know that nothing can come before a request any more.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Stability {
        /// Every replica in contact has closed up to it and holds it (closed timestamps, as in CockroachDB).
        0 => Closed,
        /// More than the delivery bound has passed since its timestamp (Schneider 1990, section 4.2).
        1 => RealTime,
    }
}

wire_enum! {
    /// Why a replica did not accept a request. No verdict: another replica may have accepted it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Refusal {
        /// Its timestamp is not above the replica's closed timestamp.
        0 => Late,
        /// Its timestamp is too far ahead of the replica's clock.
        1 => Ahead,
        /// The replica is starting, catching up or stopping.
        2 => NotServing,
        /// The replica has as many pending requests as it can hold.
        3 => Overloaded,
        /// The replica's disk has no room for what the request would write. Queries are answered all the same.
        4 => NoRoom,
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
        })
    }
}
