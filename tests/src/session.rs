//! The accounts and sessions of the tests' clients: people with keys, and sessions that number requests.

use crate::cluster::{CLUSTER, CLUSTER_ID};
use stablechat_protocol::answer::QueryAnswer;
use stablechat_protocol::command::{Command, PAGE_MAX, Query};
use stablechat_protocol::conversation::{Conversation, Message, Page};
use stablechat_protocol::login::{Challenge, ChannelBinding, LoginProof, LoginStatement, SecretKey};
use stablechat_protocol::message::ToReplica;
use stablechat_protocol::name::{AccountName, ClusterId, ClusterName, ReplicaName};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::text::MessageText;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The wall clock, which the replicas on this machine share. Each call returns a later timestamp than the calls before.
pub fn stamp() -> Timestamp {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = wall_clock().0;
    let next = |last: u64| now.max(last + 1);
    let before = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
    Timestamp(next(before.expect("it is always updated")))
}

/// 40 ms ahead of the wall clock, less than what replicas refuse. A request with this timestamp that is sent at once is not late,
/// even when the machine is busy and the replicas have seen no delays yet.
pub fn stamp_ahead() -> Timestamp {
    stamp().after(Duration::from_millis(40))
}

/// The wall clock.
pub fn wall_clock() -> Timestamp {
    Timestamp::ZERO.after(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

/// An account with its key.
pub struct Person {
    pub account: AccountName,
    /// The key that owns it.
    pub secret: SecretKey,
}

impl Person {
    /// A person with an account name and a new key.
    pub fn new(name: &str) -> Person {
        Person { account: account(name), secret: SecretKey::from_seed(&std::array::from_fn(|_| fastrand::u8(..))) }
    }

    /// The operator of every cluster that tests make.
    pub fn operator() -> Person {
        Person { account: AccountName::operator(), secret: SecretKey::from_seed(&[7; 32]) }
    }

    /// The command that creates the account.
    pub fn create(&self) -> Command {
        Command::Create { name: self.account.clone(), key: self.secret.public(), invitation: None }
    }

    /// The message that logs in at a replica of a test's cluster, whose welcome had this challenge, over this channel.
    pub fn login(
        &self,
        (replica, challenge): (ReplicaName, Challenge),
        channel: ChannelBinding,
        receive: bool,
    ) -> ToReplica {
        let (account, key) = (self.account.clone(), self.secret.public());
        let statement = LoginStatement {
            cluster: ClusterName::parse(CLUSTER).expect("a name by the rules"),
            cluster_id: ClusterId::parse(CLUSTER_ID).expect("an id by the rules"),
            replica,
            challenge,
            account: account.clone(),
            key,
            channel,
        };
        let signature = self.secret.sign(&statement);
        ToReplica::Login { account, key, receive, proof: LoginProof::Signature { signature } }
    }
}

/// Parses an account's name.
pub fn account(name: &str) -> AccountName {
    AccountName::parse(name).expect("a name by the rules")
}

/// The command that sends a message to an account, or to a room.
pub fn send(to: &str, text: impl Into<String>) -> Command {
    Command::Send { to: conversation(to), text: MessageText::parse(text).expect("a text by the rules") }
}

/// The conversation with an account, or in a room.
pub fn conversation(name: &str) -> Conversation {
    name.parse().expect("a name by the rules")
}

/// The conversations of an account that have something unread, by the answers to queries.
///
/// # Panics
/// An answer is none.
pub fn unread_conversations(mut ask: impl FnMut(Query) -> QueryAnswer) -> Vec<Conversation> {
    let (mut conversations, mut after) = (Vec::new(), None);
    loop {
        match ask(Query::Inbox { all: false, after, limit: PAGE_MAX }) {
            QueryAnswer::Inbox { entries, next, .. } => {
                conversations.extend(entries.into_iter().map(|entry| entry.conversation));
                after = next;
            }
            other => panic!("the answer to a query for the inbox is {other:?}"),
        }
        if after.is_none() {
            return conversations;
        }
    }
}

/// All unread messages of an account, oldest first, by the answers to queries.
///
/// # Panics
/// An answer is none.
pub fn unread(mut ask: impl FnMut(Query) -> QueryAnswer) -> Vec<Message> {
    let conversations = unread_conversations(&mut ask);
    let pages = |conversation| pages(&conversation, |after| Page::Unread { after }, &mut ask);
    let mut all: Vec<Message> = conversations.into_iter().flat_map(pages).collect();
    all.sort_by_key(|message| message.uid);
    all
}

/// All messages of a conversation, oldest first, by the answers to queries.
///
/// # Panics
/// An answer is none.
pub fn timeline(conversation: &Conversation, mut ask: impl FnMut(Query) -> QueryAnswer) -> Vec<Message> {
    pages(conversation, |uid| Page::After { uid }, &mut ask)
}

/// The messages of a conversation that pages have, each after the last message of the one before.
fn pages(
    conversation: &Conversation,
    page_after: fn(Uid) -> Page,
    ask: &mut impl FnMut(Query) -> QueryAnswer,
) -> Vec<Message> {
    let (mut all, mut after) = (Vec::new(), Uid::MIN);
    loop {
        let (conversation, page) = (conversation.clone(), page_after(after));
        match ask(Query::History { conversation, page, limit: PAGE_MAX }) {
            QueryAnswer::Messages { messages, later, .. } => {
                after = messages.last().map_or(after, |message| message.uid);
                all.extend(messages);
                if !later {
                    return all;
                }
            }
            other => panic!("the answer to a query for messages is {other:?}"),
        }
    }
}

/// A session, which numbers its requests.
#[derive(Clone, Debug)]
pub struct Session {
    pub client: ClientId,
    /// The sequence number of the last request.
    pub sequence: u64,
}

impl Default for Session {
    fn default() -> Session {
        Session { client: ClientId(std::array::from_fn(|_| fastrand::u8(..))), sequence: 0 }
    }
}

impl Session {
    /// The next request, issued now.
    pub fn next(&mut self, command: Command) -> ToReplica {
        self.sequence += 1;
        self.attempt(self.sequence, stamp(), command)
    }

    /// An attempt at a request: with this number, issued at this time.
    pub fn attempt(&self, sequence: u64, timestamp: Timestamp, command: Command) -> ToReplica {
        ToReplica::Request { client: self.client, sequence, timestamp, command }
    }
}
