//! The queries: pages of accounts, unread messages and timelines.

use super::keys::{
    Bytes, Column, StoredMessage, UnreadMessage, conversation_key, message_key, prefix_end, uid_at_end, unread_key,
};
use super::rows::{Direction, Row, Rows};
use super::{Abort, StoreError, accounts, settings};
use crate::store::database::decode;
use stablechat_protocol::answer::{Message, QueryAnswer};
use stablechat_protocol::command::{PAGE_BYTES, PAGE_MAX, Query, Recipient};
use stablechat_protocol::name::{AccountName, Pattern};
use stablechat_protocol::request::{Actor, QueryRequest};
use stablechat_protocol::uid::Uid;

/// The most names that one page of a list looks at, so that a pattern that few names match cannot keep the replica busy. Such a
/// page is shorter than asked for, and says where the next one begins.
const LIST_SCAN_MAX: usize = 10_000;

/// Answers a query.
pub fn answer(rows: &Rows, query: &QueryRequest) -> Result<QueryAnswer, StoreError> {
    let actor = query.actor.as_ref();
    let answer = match &query.query {
        Query::List { pattern, after, limit } => list(rows, actor, pattern, after.as_ref(), page_size(*limit)),
        Query::Unread { after, limit } => unread(rows, actor, *after, page_size(*limit)),
        Query::History { with, before, limit } => history(rows, actor, with, *before, page_size(*limit)),
        Query::Settings => settings::answer(rows, actor),
    };
    answer.or_else(|abort| Ok(QueryAnswer::Rejected { reason: abort.rejection()? }))
}

/// How many entries a page has: at least one, so that paging ends.
fn page_size(limit: u16) -> usize {
    usize::from(limit.clamp(1, PAGE_MAX))
}

/// A page of account names, for accounts and operators: strangers are not told who is here.
fn list(
    rows: &Rows,
    actor: Option<&Actor>,
    pattern: &Pattern,
    after: Option<&AccountName>,
    limit: usize,
) -> Result<QueryAnswer, Abort> {
    if !actor.is_some_and(|actor| actor.account.is_operator()) {
        accounts::owned(rows, actor)?;
    }
    let prefix = pattern.literal_prefix().as_bytes();
    // The least key after a name is the name with a zero byte behind it.
    let after = after.map_or(Vec::new(), |name| [name.as_str().as_bytes(), b"\0"].concat());
    let from = prefix.max(&after[..]);
    let to = if prefix.is_empty() { vec![0xff] } else { prefix_end(prefix) };

    let mut names = Vec::new();
    let mut last_seen = None;
    for (looked_at, row) in rows.scan(Column::Users, from, &to, Direction::Forward).enumerate() {
        if names.len() == limit || looked_at == LIST_SCAN_MAX {
            return Ok(QueryAnswer::Accounts { names, next: last_seen });
        }
        let name = account_name(&row?.0)?;
        if pattern.matches(&name) {
            names.push(name.clone());
        }
        last_seen = Some(name);
    }
    Ok(QueryAnswer::Accounts { names, next: None })
}

/// The account name in a key of [`Column::Users`].
fn account_name(key: &[u8]) -> Result<AccountName, StoreError> {
    let name = std::str::from_utf8(key).ok().and_then(|text| AccountName::parse(text).ok());
    name.ok_or_else(|| StoreError::Corrupt(format!("the key {key:02x?} in users is no account name")))
}

/// A page of the actor's unread messages, oldest first.
fn unread(rows: &Rows, actor: Option<&Actor>, after: Option<Uid>, limit: usize) -> Result<QueryAnswer, Abort> {
    let (_, user) = accounts::owned(rows, actor)?;
    let from =
        [&unread_key(user.id, after.unwrap_or(Uid::MIN))[..], if after.is_some() { b"\0" } else { b"" }].concat();
    let to = prefix_end(&unread_key(user.id, Uid::MAX)[..1 + Uid::LENGTH]);
    let entries = rows.scan(Column::Unread, &from, &to, Direction::Forward).map(|row| {
        let (key, unread) = row?;
        let uid = uid_of_key(&key)?;
        Ok(unread_message(rows, uid, decode(Column::Unread.name(), &unread)?)?.with_uid(uid))
    });

    let (messages, more) = page_of(entries, limit)?;
    Ok(QueryAnswer::Messages { messages, more })
}

/// The unread message with this uid, from the timeline if it is there.
fn unread_message(rows: &Rows, uid: Uid, unread: UnreadMessage) -> Result<StoredMessage, StoreError> {
    match unread {
        UnreadMessage::Whole { message } => Ok(message),
        UnreadMessage::InTimeline { conversation: Bytes(conversation) } => {
            let message = rows.read(Column::Timelines, &message_key(&conversation, uid))?;
            message.ok_or_else(|| StoreError::Corrupt(format!("unread message {uid} has no message in its timeline")))
        }
    }
}

/// A page of the conversation between the actor and another account: the last messages before a point, oldest first.
fn history(
    rows: &Rows,
    actor: Option<&Actor>,
    with: &Recipient,
    before: Option<Uid>,
    limit: usize,
) -> Result<QueryAnswer, Abort> {
    let (_, user) = accounts::owned(rows, actor)?;
    let Recipient::Account { name } = with;
    let other = accounts::existing(rows, name)?;
    let conversation = conversation_key(user.id, other.id);

    let to = match before {
        Some(before) => message_key(&conversation, before),
        None => prefix_end(&conversation),
    };
    let entries = rows.scan(Column::Timelines, &conversation, &to, Direction::Backward).map(|row| stored_message(row?));
    let (mut messages, more) = page_of(entries, limit)?;
    messages.reverse();
    Ok(QueryAnswer::Messages { messages, more })
}

/// The message in a row of a timeline.
fn stored_message((key, value): Row) -> Result<Message, StoreError> {
    let message: StoredMessage = decode(Column::Timelines.name(), &value)?;
    Ok(message.with_uid(uid_of_key(&key)?))
}

/// The uid that a key ends with.
fn uid_of_key(key: &[u8]) -> Result<Uid, StoreError> {
    uid_at_end(key).ok_or_else(|| StoreError::Corrupt(format!("the key {key:02x?} does not end with a uid")))
}

/// The first messages, as many as a page holds, and whether there are more.
fn page_of(
    entries: impl Iterator<Item = Result<Message, StoreError>>,
    limit: usize,
) -> Result<(Vec<Message>, bool), StoreError> {
    let mut messages = Vec::new();
    let mut bytes = 0;
    for message in entries {
        let message = message?;
        bytes += message.text.as_str().len();
        if messages.len() == limit || bytes > PAGE_BYTES {
            return Ok((messages, true));
        }
        messages.push(message);
    }
    Ok((messages, false))
}
