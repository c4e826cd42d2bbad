//! What replicas answer to commands and queries.

use crate::command::Recipient;
use crate::digest::Digest;
use crate::name::AccountName;
use crate::operator::Settings;
use crate::text::MessageText;
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
        /// The answer to [`crate::command::Query::List`].
        1 => Accounts {
            /// Sorted. May be empty although more pages follow: a page ends after a bounded number of names that do not match.
            names: Vec<AccountName>,
            /// The name after which the next page begins; none when this page is the last.
            next: Option<AccountName>,
        },
        /// The answer to [`crate::command::Query::Unread`] and [`crate::command::Query::History`].
        2 => Messages {
            /// Oldest first.
            messages: Vec<Message>,
            /// Whether more exist in the direction of the query: after these for unread messages, before them for history.
            more: bool,
        },
        /// The answer to [`crate::command::Query::Settings`].
        3 => Settings { settings: Settings },
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
        /// The recipient has as many unread messages from the actor as there is room left among those that it may have
        /// ([`crate::operator::Settings::unread_max`]). Other senders still find room.
        4 => MailboxFull { name: AccountName },
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
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejection::AlreadyExists { name } => write!(formatter, "the name {name} is taken"),
            Rejection::NoSuchUser { name } => write!(formatter, "there is no account {name}"),
            Rejection::NotOwner { name } => write!(formatter, "there is no account {name} with your key"),
            Rejection::LoginRequired => write!(formatter, "you are not connected as anyone"),
            Rejection::MailboxFull { name } => write!(
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
        }
    }
}

wire_struct! {
    /// A chat message.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Message {
        /// The uid of the request that sent it.
        pub uid: Uid,
        pub from: AccountName,
        pub to: Recipient,
        pub text: MessageText,
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
