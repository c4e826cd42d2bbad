//! The queries, in pages: accounts here, and in rooms of their own [`history`], [`inbox`] and rooms ([`room_pages`]).

mod history;
mod inbox;
mod room_pages;

use super::keys::{Column, key_after, prefix_end};
use super::rows::{Direction, Rows};
use super::{Abort, StoreError, operators, people, users};
use stablechat_protocol::answer::QueryAnswer;
use stablechat_protocol::command::{PAGE_MAX, Query};
use stablechat_protocol::name::{AccountName, Pattern};
use stablechat_protocol::request::{Actor, QueryRequest};

/// The most rows that one page of a list looks at, so that a pattern that few names match cannot keep the replica busy. Such a
/// page is shorter than asked for, and says where the next one begins.
const LOOKED_AT_MAX: usize = 10_000;

/// Answers a query.
pub fn answer(rows: &Rows, query: &QueryRequest) -> Result<QueryAnswer, StoreError> {
    let actor = query.actor.as_ref();
    let answer = match &query.query {
        Query::List { pattern, after, limit } => list(rows, actor, pattern, after.as_ref(), page_size(*limit)),
        Query::Inbox { all, after, limit } => inbox::page(rows, actor, *all, after.as_ref(), page_size(*limit)),
        Query::History { conversation, page, limit } => {
            history::page(rows, actor, conversation, *page, page_size(*limit))
        }
        Query::Settings => operators::answer(rows, actor),
        Query::Rooms { pattern, after, limit } => {
            room_pages::rooms(rows, actor, pattern, after.as_ref(), page_size(*limit))
        }
        Query::Members { room, after, limit } => room_pages::members(rows, actor, room, *after, page_size(*limit)),
        Query::Blocked => people::answer(rows, actor),
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
        users::owned(rows, actor)?;
    }
    let prefix = pattern.literal_prefix().as_bytes();
    let from = after.map_or(Vec::new(), |name| key_after(name.as_str().as_bytes())).max(prefix.to_vec());
    let to = if prefix.is_empty() { vec![0xff] } else { prefix_end(prefix) };

    let mut names = Vec::new();
    let mut last_seen = None;
    for (looked_at, row) in rows.scan(Column::Users, &from, &to, Direction::Forward).enumerate() {
        if names.len() == limit || looked_at == LOOKED_AT_MAX {
            return Ok(QueryAnswer::Accounts { names, next: last_seen });
        }
        let name = account_name(&row?.0)?;
        if pattern.matches(name.as_str()) {
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
