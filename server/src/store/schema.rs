//! Where things lie in RocksDB: column families, keys and rows.
//!
//! Keys are made so that what is read together lies together, in order. Integers in keys are big-endian. An account is
//! known inside by the uid of the request that created it: a later account of the same name is another account.

use stablechat_protocol::answer::{Answer, Message};
use stablechat_protocol::command::{PasswordParameters, Recipient};
use stablechat_protocol::digest::{Digest, LogMark};
use stablechat_protocol::login::PublicKey;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::{Actor, Request};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::text::MessageText;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
pub use stablechat_protocol::wire::Bytes;
use stablechat_protocol::wire_struct;
use std::fmt;

/// The version of this schema.
pub const FORMAT: u64 = 1;

/// The column family of [`LogEntry`] by uid: the requests applied. Those after [`META_APPLIED`] are to be applied, which a
/// repair has not come to; their positions and chain hashes mean nothing.
pub const LOG: &str = "log";
/// The column family of [`UndoRecord`] by uid: what the applied requests after [`META_SETTLED`] replaced.
pub const UNDO: &str = "undo";
/// The column family of [`Undone`] by uid: what the requests that a repair is going to apply again had come to. Empty when no
/// repair is under way.
pub const UNDONE: &str = "undone";
/// The column family of a snapshot that is coming in: rows under the number of their column family and their key.
pub const INCOMING: &str = "incoming";
/// The column family of [`Request`] by uid: what was in our log when a snapshot took its place, and may have been in no other.
pub const ORPHANS: &str = "orphans";
/// The column family of facts about this replica and its state as a whole.
pub const META: &str = "meta";

/// In [`META`]: the [`FORMAT`] in which the directory is written.
pub const META_FORMAT: &[u8] = b"format";
/// In [`META`]: the [`StoreIdentity`] that the directory belongs to.
pub const META_IDENTITY: &[u8] = b"identity";
/// In [`META`]: the number of this replica's incarnation.
pub const META_EPOCH: &[u8] = b"epoch";
/// In [`META`]: how far the log has been applied, [`Applied`].
pub const META_APPLIED: &[u8] = b"applied";
/// In [`META`]: the uid up to which nothing will be undone any more; [`Uid::MIN`] when there is none.
pub const META_SETTLED: &[u8] = b"settled";

/// In [`META`]: the [`LogMark`] of the last request that was truncated, after which the log begins; none when it is whole.
pub const META_BASE: &[u8] = b"base";
/// In [`META`]: how many bytes the applied entries of the log take.
pub const META_LOG_BYTES: &[u8] = b"log bytes";
/// In [`META`]: [`stablechat_protocol::peer::SnapshotEnd`] of the snapshot in [`INCOMING`], when it is complete and has to take the place of all else.
pub const META_INSTALLING: &[u8] = b"installing";
/// In [`META`]: there once what the log has and that snapshot has not is aside, until it is installed.
pub const META_IS_ASIDE: &[u8] = b"is-aside";

/// Under this number a snapshot has the rows of [`LOG`].
pub const LOG_NUMBER: u8 = 254;
/// Under this number a snapshot has the rows of [`UNDO`].
pub const UNDO_NUMBER: u8 = 255;

/// A column family of replicated state: every row of it counts for the state digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    /// [`User`] by account name.
    Users = 0,
    /// [`StoredMessage`] by conversation and uid.
    Timelines = 1,
    /// What accounts have not acknowledged, see [`unread_key`] and its neighbours.
    Unread = 2,
    /// Rooms, which are to come.
    Rooms = 3,
    /// [`Session`]s, their answers, and their order of last use.
    Sessions = 4,
}

impl Column {
    /// All of them, in the order of their numbers.
    pub const ALL: [Column; 5] = [Column::Users, Column::Timelines, Column::Unread, Column::Rooms, Column::Sessions];

    /// The name of the column family.
    pub fn name(self) -> &'static str {
        match self {
            Column::Users => "users",
            Column::Timelines => "timelines",
            Column::Unread => "unread",
            Column::Rooms => "rooms",
            Column::Sessions => "sessions",
        }
    }

    /// The inverse of the number under which an undo record keeps a column.
    pub fn from_number(number: u8) -> Option<Column> {
        Column::ALL.get(usize::from(number)).copied()
    }
}

wire_struct! {
    /// Whose directory it is.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct StoreIdentity {
        /// The cluster's name.
        pub cluster: String,
        /// The replica's name.
        pub replica: String,
    }
}

impl fmt::Display for StoreIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "replica {} of cluster {}", self.replica, self.cluster)
    }
}

wire_struct! {
    /// How far the log has been applied, and what came of it.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Applied {
        /// The last applied request; [`Uid::MIN`] before the first.
        pub uid: Uid,
        /// How many requests have been applied.
        pub position: u64,
        /// The chain hash over them.
        pub log_digest: Digest,
        /// The digest over all rows of all [`Column`]s.
        pub state_digest: Digest,
    }
}

impl Applied {
    /// Before the first request.
    pub const NOTHING: Applied =
        Applied { uid: Uid::MIN, position: 0, log_digest: Digest::ZERO, state_digest: Digest::ZERO };

    /// The place in the log.
    pub fn mark(&self) -> LogMark {
        LogMark { uid: self.uid, position: self.position, log_digest: self.log_digest }
    }
}

wire_struct! {
    /// An applied request.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct LogEntry {
        /// Its place in the log, from 1.
        pub position: u64,
        /// The chain hash over the log up to and with it.
        pub log_digest: Digest,
        /// The request.
        pub request: Request,
    }
}

wire_struct! {
    /// What a request replaced: enough to undo it.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct UndoRecord {
        /// The rows it wrote, each once.
        pub rows: Vec<OldRow>,
    }
}

wire_struct! {
    /// A row before it was written.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct OldRow {
        /// The number of its [`Column`].
        pub column: u8,
        /// Its key.
        pub key: Bytes,
        /// Its value; none when the row was not there.
        pub value: Option<Bytes>,
    }
}

wire_struct! {
    /// What a request had come to before it was undone.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Undone {
        /// Its answer.
        pub answer: Answer,
        /// Whose connections its message was for, when it sent one.
        pub delivered_to: Option<Actor>,
    }
}

wire_struct! {
    /// An account.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct User {
        /// Which account of this name it is: the uid of the request that created it.
        pub id: Uid,
        /// The key that owns it.
        pub key: PublicKey,
        /// How the key is derived, when it is from a password.
        pub password: Option<PasswordParameters>,
    }
}

wire_struct! {
    /// A message in a timeline; its uid is in its key.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct StoredMessage {
        /// Who sent it.
        pub from: AccountName,
        /// To whom.
        pub to: Recipient,
        /// What it says.
        pub text: MessageText,
    }
}

impl StoredMessage {
    /// The message with this uid, as clients get it.
    pub fn with_uid(self, uid: Uid) -> Message {
        Message { uid, from: self.from, to: self.to, text: self.text }
    }
}

wire_struct! {
    /// A session: what makes a request take effect once, however often it comes.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Session {
        /// For whom its first request spoke.
        pub actor: Option<Actor>,
        /// The sequence number of its last applied request.
        pub sequence: u64,
        /// The timestamp of its last applied request.
        pub used: Timestamp,
    }
}

/// Nanoseconds in the step in which sessions are ordered by last use: one hour, so that a busy session moves rarely.
const USE_STEP: u64 = 3_600_000_000_000;

/// In [`Column::Timelines`]: what the keys of all messages between two accounts begin with.
pub fn conversation_key(one: Uid, other: Uid) -> Vec<u8> {
    let (low, high) = if one <= other { (one, other) } else { (other, one) };
    concat(&[b"d", &low.to_bytes(), &high.to_bytes()])
}

/// In [`Column::Timelines`]: the [`StoredMessage`] with this uid in a conversation.
pub fn message_key(conversation: &[u8], uid: Uid) -> Vec<u8> {
    concat(&[conversation, &uid.to_bytes()])
}

/// In [`Column::Unread`]: an unread message of an account. The row is the key of its conversation.
pub fn unread_key(account: Uid, uid: Uid) -> Vec<u8> {
    concat(&[b"m", &account.to_bytes(), &uid.to_bytes()])
}

/// In [`Column::Unread`]: how many unread messages an account has, as eight bytes; no row stands for none.
pub fn unread_count_key(account: Uid) -> Vec<u8> {
    concat(&[b"c", &account.to_bytes()])
}

/// In [`Column::Unread`]: marks the unread messages of a deleted account for removal. The row is empty.
pub fn graveyard_key(account: Uid) -> Vec<u8> {
    concat(&[GRAVEYARD, &account.to_bytes()])
}

/// What all [`graveyard_key`]s begin with.
pub const GRAVEYARD: &[u8] = b"g";

/// In [`Column::Sessions`]: the [`Session`] with this id.
pub fn session_key(client: ClientId) -> Vec<u8> {
    concat(&[b"s", &client.0])
}

/// In [`Column::Sessions`]: the answer to a request of a session.
pub fn session_answer_key(client: ClientId, sequence: u64) -> Vec<u8> {
    concat(&[b"a", &client.0, &sequence.to_be_bytes()])
}

/// In [`Column::Sessions`]: the place of a session in the order of last use, coarsely. The row is empty.
pub fn session_use_key(used: Timestamp, client: ClientId) -> Vec<u8> {
    concat(&[SESSION_USE, &(used.0 / USE_STEP).to_be_bytes(), &client.0])
}

/// In [`Column::Sessions`]: before the place of every session whose last use was at `used` or later in its step.
pub fn session_use_bound(used: Timestamp) -> Vec<u8> {
    concat(&[SESSION_USE, &(used.0 / USE_STEP).to_be_bytes()])
}

/// What all [`session_use_key`]s begin with.
pub const SESSION_USE: &[u8] = b"t";

/// The uid at the end of a key; `None` when the key is too short.
pub fn uid_at_end(key: &[u8]) -> Option<Uid> {
    key.last_chunk::<{ Uid::LENGTH }>().and_then(|bytes| Uid::from_bytes(bytes))
}

/// The least key after all that begin with `prefix`, which must not be all `0xff`.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end
}

/// The parts in a row.
fn concat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_key() {
        assert_eq!(prefix_end(b"ab"), b"ac");
        assert_eq!(prefix_end(&[1, 0xff]), [2]);
    }

    #[test]
    fn both_sides_of_a_conversation_have_one_key() {
        let (one, other) = (Uid::new(Timestamp(1), b""), Uid::new(Timestamp(2), b""));
        assert_eq!(conversation_key(one, other), conversation_key(other, one));
    }

    #[test]
    fn columns_are_numbered_in_their_order() {
        for (number, column) in Column::ALL.into_iter().enumerate() {
            assert_eq!(column as usize, number);
            assert_eq!(Column::from_number(number as u8), Some(column));
        }
        assert_eq!(Column::from_number(5), None);
    }
}
