//! Messages between accounts: the timeline of a conversation, and the messages that their recipient has not acknowledged.
//!
//! A message lies once in the timeline of its conversation, and until it is acknowledged there is a row for it among the
//! recipient's unread. The numbers of these rows, in all and from each sender, are kept beside them, so that `send` need not
//! count up to the limit.
//!
//! A mailbox is bounded, and a stranger must not be able to fill it for everybody else. So no sender may have more unread
//! messages in it than it still has room for. (Choudhury and Hahne, *Dynamic queue length thresholds*, 1998, share a switch's
//! buffer so.) One sender alone can take half of the mailbox, n senders together n/(n+1) of it, and the last of n+1 senders
//! still finds the rest.

use super::keys::{
    Column, StoredMessage, UnreadMessage, conversation_key, message_key, partner_key, sides_of, unread_count_key,
    unread_key,
};
use super::rows::Rows;
use super::{Abort, Delivery, Outcome, StoreError, accounts, settings};
use stablechat_protocol::answer::Rejection;
use stablechat_protocol::command::{ACK_MAX, Recipient};
use stablechat_protocol::request::Actor;
use stablechat_protocol::text::MessageText;
use stablechat_protocol::uid::Uid;
use stablechat_protocol::wire::Bytes;
use std::collections::BTreeMap;

/// Puts a message into the timeline of its conversation and among the recipient's unread.
pub fn send(
    rows: &mut Rows,
    uid: Uid,
    actor: Option<&Actor>,
    to: &Recipient,
    text: &MessageText,
) -> Result<Outcome, Abort> {
    let (from, sender) = accounts::owned(rows, actor)?;
    let Recipient::Account { name } = to;
    let recipient = accounts::existing(rows, name)?;

    let unread = unread_count(rows, recipient.id)?;
    let unread_from_sender = unread_count_from(rows, recipient.id, sender.id)?;
    if unread_from_sender.unwrap_or(0) >= settings::read(rows)?.unread_max.saturating_sub(unread) {
        return Err(Rejection::MailboxFull { name: name.clone() }.into());
    }
    if unread_from_sender.is_none() {
        set_unread_count_from(rows, sender.id, recipient.id, 0)?;
    }

    let conversation = conversation_key(sender.id, recipient.id);
    let message = StoredMessage { from: from.clone(), to: to.clone(), text: text.clone() };
    rows.put(Column::Timelines, message_key(&conversation, uid), &message)?;
    let unread_message = UnreadMessage::InTimeline { conversation: Bytes(conversation) };
    rows.put(Column::Unread, unread_key(recipient.id, uid), &unread_message)?;
    set_unread_count(rows, recipient.id, unread + 1)?;
    set_unread_count_from(rows, recipient.id, sender.id, unread_from_sender.unwrap_or(0) + 1)?;

    let to = Actor { account: name.clone(), key: recipient.key };
    let delivery = Some(Delivery { to, message: message.with_uid(uid) });
    Ok(Outcome { delivery, ..Outcome::done() })
}

/// Removes exactly these messages from the actor's unread. There is no way to acknowledge all messages up to one: a repair may
/// insert a message below it, which would then never be shown.
pub fn acknowledge(rows: &mut Rows, actor: Option<&Actor>, uids: &[Uid]) -> Result<Outcome, Abort> {
    let (_, user) = accounts::owned(rows, actor)?;
    if uids.len() > ACK_MAX {
        return Err(Rejection::TooMany.into());
    }

    let (mut removed, mut removed_from) = (0, BTreeMap::new());
    for uid in uids {
        let key = unread_key(user.id, *uid);
        let Some(unread) = rows.read(Column::Unread, &key)? else { continue };
        rows.remove(Column::Unread, key)?;
        removed += 1;
        if let UnreadMessage::InTimeline { conversation: Bytes(conversation) } = unread {
            *removed_from.entry(partner_in(&conversation, user.id)?).or_default() += 1;
        }
    }

    if removed > 0 {
        let left = fewer(user.id, unread_count(rows, user.id)?, removed)?;
        set_unread_count(rows, user.id, left)?;
    }
    removed_from.into_iter().try_for_each(|(partner, removed)| count_down_from(rows, user.id, partner, removed))?;
    Ok(Outcome::done())
}

/// The other side of a conversation of this account, which may be the account itself.
pub fn partner_in(conversation: &[u8], account: Uid) -> Result<Uid, StoreError> {
    match sides_of(conversation) {
        Some((low, high)) if low == account => Ok(high),
        Some((low, high)) if high == account => Ok(low),
        _ => Err(StoreError::Corrupt(format!("{conversation:02x?} is no conversation of account {account}"))),
    }
}

/// How many unread messages an account has.
pub fn unread_count(rows: &Rows, account: Uid) -> Result<u64, StoreError> {
    Ok(count(rows, &unread_count_key(account))?.unwrap_or(0))
}

/// How many unread messages an account has from another in the timeline of their conversation; `None` when they have none.
pub fn unread_count_from(rows: &Rows, account: Uid, partner: Uid) -> Result<Option<u64>, StoreError> {
    count(rows, &partner_key(account, partner))
}

/// So many of the unread messages that an account has from a partner are gone, or are in the timeline no more.
pub fn count_down_from(rows: &mut Rows, account: Uid, partner: Uid, gone: u64) -> Result<(), StoreError> {
    let left = fewer(account, unread_count_from(rows, account, partner)?.unwrap_or(0), gone)?;
    set_unread_count_from(rows, account, partner, left)
}

/// A count of an account's unread messages after so many of them are gone.
fn fewer(account: Uid, count: u64, gone: u64) -> Result<u64, StoreError> {
    let too_few = || StoreError::Corrupt(format!("account {account} counts fewer unread messages than it has"));
    count.checked_sub(gone).ok_or_else(too_few)
}

/// Writes how many unread messages an account has. Zero has no row, so that an account without unread messages leaves none.
fn set_unread_count(rows: &mut Rows, account: Uid, count: u64) -> Result<(), StoreError> {
    rows.write(Column::Unread, unread_count_key(account), (count > 0).then(|| count.to_be_bytes().to_vec()))
}

/// Writes how many unread messages an account has from a partner. Zero has a row, which tells of their conversation.
fn set_unread_count_from(rows: &mut Rows, account: Uid, partner: Uid, count: u64) -> Result<(), StoreError> {
    rows.write(Column::Unread, partner_key(account, partner), Some(count.to_be_bytes().to_vec()))
}

/// The count in a row of [`Column::Unread`]; `None` when there is no such row.
fn count(rows: &Rows, key: &[u8]) -> Result<Option<u64>, StoreError> {
    let Some(bytes) = rows.get(Column::Unread, key)? else { return Ok(None) };
    let bytes = <[u8; 8]>::try_from(&bytes[..]);
    let wrong_length = |_| StoreError::Corrupt(format!("the count {key:02x?} in unread is not eight bytes long"));
    bytes.map(|bytes| Some(u64::from_be_bytes(bytes))).map_err(wrong_length)
}
