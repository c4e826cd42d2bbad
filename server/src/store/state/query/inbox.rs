//! The conversations of an account, and how much of each is unread.

use super::super::keys::{Column, ConversationId, key_after, member_of, memberships, prefix_end};
use super::super::parts::{self, Part};
use super::super::rows::{Direction, Rows};
use super::super::values::Membership;
use super::super::{Abort, StoreError, rooms, users};
use super::LOOKED_AT_MAX;
use crate::store::database::decode;
use stablechat_protocol::answer::QueryAnswer;
use stablechat_protocol::conversation::{Conversation, InboxEntry, InboxPlace};
use stablechat_protocol::request::Actor;
use stablechat_protocol::uid::Uid;

/// Answers [`stablechat_protocol::command::Query::Inbox`]. A page ends after a bounded number of conversations that have nothing
/// unread.
pub fn page(
    rows: &Rows,
    actor: Option<&Actor>,
    all: bool,
    after: Option<&InboxPlace>,
    limit: usize,
) -> Result<QueryAnswer, Abort> {
    let (_, user) = users::owned(rows, actor)?;
    let prefix = memberships(user.id);
    let from = match after {
        Some(after) => key_after(&[&prefix[..], after.as_bytes()].concat()),
        None => prefix.clone(),
    };
    let invitations = match after {
        Some(_) => Vec::new(),
        None => rooms::open_invitations(rows, user.id)?,
    };

    let place = |last: Option<ConversationId>| last.map(|id| InboxPlace::new(id.key()));
    let (mut entries, mut last_row, mut last_conversation) = (Vec::new(), None, None);
    for (looked_at, row) in rows.scan(Column::Members, &from, &prefix_end(&prefix), Direction::Forward).enumerate() {
        if looked_at == LOOKED_AT_MAX {
            return Ok(QueryAnswer::Inbox { entries, invitations, next: place(last_row) });
        }
        let (key, membership) = row?;
        let (_, id) = member_of(&key)?;
        last_row = Some(id);
        // A closed room has no head, and some of its memberships for a while. They do not make another page.
        let Some(head) = parts::head(rows, id)? else { continue };
        if entries.len() == limit {
            return Ok(QueryAnswer::Inbox { entries, invitations, next: place(last_conversation) });
        }
        last_conversation = last_row;
        let membership: Membership = decode(Column::Members.name(), &membership)?;
        let part = Part { id, membership, head };
        if all || part.unread() > 0 || part.membership.is_muted {
            entries.push(entry(rows, user.id, part)?);
        }
    }
    Ok(QueryAnswer::Inbox { entries, invitations, next: None })
}

/// A conversation of this account.
fn entry(rows: &Rows, account: Uid, part: Part) -> Result<InboxEntry, StoreError> {
    let unread = part.unread();
    let partner = part.id.partner_of(account);
    let conversation = match (&part.membership.of, partner) {
        (Conversation::Account { name }, Some(partner)) => {
            let is_there = users::find(rows, name)?.is_some_and(|user| user.id == partner);
            match is_there {
                true => part.membership.of,
                false => Conversation::Former { name: name.clone(), account: partner },
            }
        }
        _ => part.membership.of,
    };
    let is_request = part.head.unanswered.is_some_and(|by| by != account);
    let (last, is_muted) = (part.head.end.uid, part.membership.is_muted);
    Ok(InboxEntry { conversation, unread, last, is_muted, is_request })
}
