//! The rows of the state: columns, keys and values.
//!
//! Keys are made so that rows that are read together lie together, in the order in which they are read. Integers in keys are
//! big-endian. An account is named in keys by its id, the uid of the request that created it.

use stablechat_protocol::answer::{Answer, Message};
use stablechat_protocol::command::Recipient;
use stablechat_protocol::digest::Digest;
use stablechat_protocol::login::PublicKey;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::operator::Registration;
use stablechat_protocol::request::Actor;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::text::MessageText;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
pub use stablechat_protocol::wire::Bytes;
use stablechat_protocol::{wire_enum, wire_struct};

/// A column family of the replicated state: every row of it counts for the state digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    /// [`User`] by account name.
    Users = 0,
    /// [`StoredMessage`] by conversation and uid.
    Timelines = 1,
    /// Messages that accounts have not acknowledged, and counts of them: see [`unread_key`], [`unread_count_key`],
    /// [`partner_key`] and [`tombstone_key`].
    Unread = 2,
    /// Empty: rooms do not exist yet.
    Rooms = 3,
    /// [`Session`]s, their answers, and their order of last use.
    Sessions = 4,
    /// What operators have set: [`SETTINGS`] and [`invitation_key`].
    Settings = 5,
}

impl Column {
    /// All of them, in the order of their numbers.
    pub const ALL: [Column; 6] =
        [Column::Users, Column::Timelines, Column::Unread, Column::Rooms, Column::Sessions, Column::Settings];

    /// The name of the column family.
    pub fn name(self) -> &'static str {
        match self {
            Column::Users => "users",
            Column::Timelines => "timelines",
            Column::Unread => "unread",
            Column::Rooms => "rooms",
            Column::Sessions => "sessions",
            Column::Settings => "settings",
        }
    }

    /// The column with this number; `None` when there is none.
    pub fn from_number(number: u8) -> Option<Column> {
        Column::ALL.get(usize::from(number)).copied()
    }
}

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
    }
}

wire_struct! {
    /// A message in a timeline; its uid is in its key.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct StoredMessage {
        pub from: AccountName,
        pub to: Recipient,
        pub text: MessageText,
    }
}

impl StoredMessage {
    /// The message with this uid, as clients get it.
    pub fn with_uid(self, uid: Uid) -> Message {
        Message { uid, from: self.from, to: self.to, text: self.text }
    }
}

wire_enum! {
    /// An unread message of an account; its uid is in its key.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum UnreadMessage {
        /// The message is in the timeline of the conversation with this [`conversation_key`].
        0 => InTimeline { conversation: Bytes },
        /// The timeline has gone with the account of the other side. This is the message that it had.
        1 => Whole { message: StoredMessage },
    }
}

wire_enum! {
    /// How far the rows of a deleted account have been removed. Rows are removed in the order of their keys. Each step begins
    /// where the last one ended, since looking for the first row again would pass over all the removed ones, which the database
    /// keeps until it compacts them.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Tombstone {
        /// Its unread messages are being removed. Those below this uid are gone.
        0 => Unread { from: Uid },
        /// Its unread messages are gone. Its conversations are being removed: those with partners below this one are gone, and
        /// of the one with this partner the messages below `from`.
        1 => Timelines { partner: Uid, from: Uid },
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

wire_struct! {
    /// What operators have set, and the number that one of the quotas limits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct StoredSettings {
        pub registration: Registration,
        /// How many accounts there are.
        pub accounts: u64,
        /// How many there may be.
        pub accounts_max: u64,
        /// How many unread messages an account may have.
        pub unread_max: u64,
    }
}

wire_enum! {
    /// An invitation; the digest of its code is in its key.
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

/// Nanoseconds in the step by which sessions are ordered by last use. One hour: a session in use moves rarely, and ends at most
/// an hour later than it could.
const USE_STEP: u64 = 3_600_000_000_000;

/// In [`Column::Timelines`]: the beginning of the keys of all messages between two accounts. It is the same for both.
pub fn conversation_key(one: Uid, other: Uid) -> Vec<u8> {
    let (low, high) = if one <= other { (one, other) } else { (other, one) };
    concat(&[b"d", &low.to_bytes(), &high.to_bytes()])
}

/// The two accounts in a [`conversation_key`], the lesser first; `None` when it is none.
pub fn sides_of(conversation: &[u8]) -> Option<(Uid, Uid)> {
    let (low, high) = conversation.strip_prefix(b"d")?.split_at_checked(Uid::LENGTH)?;
    Some((Uid::from_bytes(low)?, Uid::from_bytes(high)?))
}

/// In [`Column::Timelines`]: the [`StoredMessage`] with this uid in a conversation.
pub fn message_key(conversation: &[u8], uid: Uid) -> Vec<u8> {
    concat(&[conversation, &uid.to_bytes()])
}

/// In [`Column::Unread`]: an [`UnreadMessage`] of an account.
pub fn unread_key(account: Uid, uid: Uid) -> Vec<u8> {
    concat(&[b"m", &account.to_bytes(), &uid.to_bytes()])
}

/// In [`Column::Unread`]: the number of unread messages of an account, in eight bytes. Zero has no row.
pub fn unread_count_key(account: Uid) -> Vec<u8> {
    concat(&[b"c", &account.to_bytes()])
}

/// In [`Column::Unread`]: that an account has a conversation with another, and how many unread messages in that timeline it has
/// from the other, in eight bytes. There is one such row for each side of a conversation, and none without a timeline.
pub fn partner_key(account: Uid, partner: Uid) -> Vec<u8> {
    concat(&[b"p", &account.to_bytes(), &partner.to_bytes()])
}

/// In [`Column::Unread`]: the [`Tombstone`] of a deleted account, some of whose rows are still to be removed.
pub fn tombstone_key(account: Uid) -> Vec<u8> {
    concat(&[TOMBSTONE, &account.to_bytes()])
}

/// The beginning of all [`tombstone_key`]s.
pub const TOMBSTONE: &[u8] = b"t";

/// In [`Column::Sessions`]: the [`Session`] with this id.
pub fn session_key(client: ClientId) -> Vec<u8> {
    concat(&[b"s", &client.0])
}

/// The beginning of the ids of sessions that are derived from orphans. Other ids are random, and may begin so too.
pub const ORPHAN_SESSION_ID: [u8; 4] = *b"own ";

/// The beginning of the [`session_key`]s of orphans' sessions.
pub const ORPHAN_SESSION: &[u8] = b"sown ";

/// In [`Column::Sessions`]: the [`KeptAnswer`] to a request of a session.
pub fn session_answer_key(client: ClientId, sequence: u64) -> Vec<u8> {
    concat(&[b"a", &client.0, &sequence.to_be_bytes()])
}

/// In [`Column::Sessions`]: the place of a session in the order of last use, coarsely. The row is empty.
pub fn session_use_key(used: Timestamp, client: ClientId) -> Vec<u8> {
    concat(&[SESSION_USE, &(used.0 / USE_STEP).to_be_bytes(), &client.0])
}

/// In [`Column::Sessions`]: a bound that lies before every session last used in the step of `used` or later, and after all others.
pub fn session_use_bound(used: Timestamp) -> Vec<u8> {
    concat(&[SESSION_USE, &(used.0 / USE_STEP).to_be_bytes()])
}

/// The beginning of all [`session_use_key`]s.
pub const SESSION_USE: &[u8] = b"t";

/// In [`Column::Settings`]: the [`StoredSettings`].
pub const SETTINGS: &[u8] = b"s";

/// In [`Column::Settings`]: the [`Invitation`] whose code has this digest.
pub fn invitation_key(invitation: Digest) -> Vec<u8> {
    concat(&[b"i", &invitation.0])
}

/// The range of all [`invitation_key`]s.
pub fn invitations() -> (Vec<u8>, Vec<u8>) {
    (b"i".to_vec(), prefix_end(b"i"))
}

/// The uid at the end of a key; `None` when the key is shorter than that.
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

/// The parts, one after the other.
fn concat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
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
        /// The number of its [`Column`].
        pub column: u8,
        pub key: Bytes,
        /// `None` when the row was not there.
        pub value: Option<Bytes>,
    }
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
        assert_eq!(Column::from_number(6), None);
    }
}
