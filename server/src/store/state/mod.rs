//! The state machine: what a command does to the accounts, messages and sessions, and what a query reads from them.
//!
//! Everything here is a function of [`Rows`] and of the request with its uid. There is no clock (the time is the request's
//! timestamp), no randomness, no iteration over hash maps, and nothing of the log, of peers or of connections. So replicas that
//! apply the same requests in the same order have the same rows and give the same answers.
//!
//! | module | what it holds |
//! |---|---|
//! | [`rows`] | the rows of the state, over RocksDB; every write goes through it |
//! | [`cache`] | the committed rows that are read again and again |
//! | [`keys`], [`values`] | which rows there are, how their keys are made, what they hold |
//! | [`session`] | exactly once, in the order of the session |
//! | [`users`] | the rows of accounts, and their owners |
//! | [`settings`] | the settings of operators, the invitations, and the number of accounts |
//! | [`people`] | the accounts that an account blocks |
//! | [`parts`] | the parts of accounts in conversations, and the ends of timelines |
//! | [`accounts`] | accounts: create, delete, other keys |
//! | [`conversations`] | messages: send, mute |
//! | [`reading`] | what is read: read |
//! | [`rooms`] | rooms: create, join, leave, invite, remove, topic, owner, close |
//! | [`operators`] | operators: settings, invitations, accounts and rooms of others |
//! | [`query`] | reads, in pages |
//! | [`housekeeping`] | removing what is too old or cannot be reached, a bounded number of rows with each request |
//!
//! A command is refused in the middle of its work with [`Abort::Rejected`] and `?`; [`Abort::rejection`] is the one place that
//! tells a rejection, which is an answer, from a failure of the storage, which ends the process.

pub mod accounts;
mod cache;
pub mod conversations;
pub mod housekeeping;
pub mod keys;
pub mod operators;
pub mod parts;
pub mod people;
pub mod query;
pub mod reading;
pub mod rooms;
pub mod rows;
pub mod session;
pub mod settings;
pub mod users;
pub mod values;

use super::error::StoreError;
use rows::Rows;
use stablechat_protocol::answer::{Answer, Rejection};
use stablechat_protocol::command::Command;
use stablechat_protocol::conversation::Message;
use stablechat_protocol::request::{Actor, Request};
use stablechat_protocol::room::RoomNews;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;

/// The result of applying a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub answer: Answer,
    /// A message that the request sent, to be pushed to the connections of the members of its conversation.
    pub delivery: Option<Delivery>,
    /// What the request has changed in a room.
    pub room: Option<RoomOutcome>,
    /// Whose logins are good for nothing any more: the account has another key, or is gone.
    pub ended: Option<Actor>,
}

impl Outcome {
    /// The command took effect, and there is nothing to tell any connection but those that wait for the answer.
    pub fn done() -> Outcome {
        Outcome::of(Answer::Done)
    }

    /// This answer, and nothing else to tell.
    pub fn of(answer: Answer) -> Outcome {
        Outcome { answer, delivery: None, room: None, ended: None }
    }
}

/// A message for the connections of the members of its conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub message: Message,
    pub audience: Audience,
}

/// Those who take part in a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Two accounts, each with the key that owns it. A connection that holds another key for the name belongs to another owner.
    Pair { sender: Actor, recipient: Actor },
    /// The members of the room with this id.
    Room { id: Uid },
}

/// A change in a room, for the connections of its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomOutcome {
    /// The room's id.
    pub id: Uid,
    pub news: RoomNews,
    /// The account that was invited or removed.
    pub other: Option<Actor>,
}

/// Why a command or a query ended early.
///
/// The two are told apart by one question: is it the same on every replica? A rejection is, since it follows from the state, and
/// it becomes the answer. A failure of the storage is not: answering it would let replicas diverge, so it ends the process.
#[derive(Debug)]
pub enum Abort {
    Rejected(Rejection),
    Storage(StoreError),
}

impl Abort {
    /// The reason for a rejection, which the client gets as its answer.
    ///
    /// # Errors
    /// It is no rejection: the storage failed.
    pub fn rejection(self) -> Result<Rejection, StoreError> {
        match self {
            Abort::Rejected(reason) => Ok(reason),
            Abort::Storage(error) => Err(error),
        }
    }
}

impl From<Rejection> for Abort {
    fn from(reason: Rejection) -> Self {
        Abort::Rejected(reason)
    }
}

impl From<StoreError> for Abort {
    fn from(error: StoreError) -> Self {
        Abort::Storage(error)
    }
}

/// Applies the request that is next in the order. `before` is the timestamp of the request applied before it.
///
/// # Errors
/// The storage failed, or its rows contradict each other.
pub fn apply(rows: &mut Rows, before: Timestamp, uid: Uid, request: &Request) -> Result<Outcome, StoreError> {
    housekeeping::run(rows, before, uid.timestamp)?;
    session::apply(rows, uid, request)
}

/// Executes a command whose turn it is in its session. A command that is rejected has written nothing.
fn execute(rows: &mut Rows, uid: Uid, request: &Request) -> Result<Outcome, StoreError> {
    let actor = request.actor.as_ref();
    let outcome = match &request.command {
        Command::Create { name, key, invitation } => accounts::create(rows, uid, name, *key, invitation.as_ref()),
        Command::Delete => accounts::delete(rows, actor),
        Command::Send { to, text } => conversations::send(rows, uid, actor, to, text),
        Command::Read { conversation, range } => reading::read(rows, uid, actor, conversation, range),
        Command::SetKey { key } => accounts::set_key(rows, actor, *key),
        Command::Operate { operation } => operators::operate(rows, uid, actor, operation),
        Command::Room { room, action } => rooms::act(rows, uid, actor, room, action),
        Command::Block { name, is_blocked } => people::block(rows, actor, name, *is_blocked),
        Command::Mute { conversation, is_muted } => conversations::mute(rows, actor, conversation, *is_muted),
    };
    outcome.or_else(|abort| Ok(Outcome::of(Answer::Rejected { reason: abort.rejection()? })))
}

/// The second of log time that a timestamp lies in. Housekeeping removes more, and replicas compare digests, once in each.
pub fn second_of(timestamp: Timestamp) -> u64 {
    timestamp.0 / 1_000_000_000
}
