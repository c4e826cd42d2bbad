//! Messages between accounts: the timeline of a conversation, and what its recipient has not acknowledged.
//!
//! A message lies once in the timeline of its conversation, for good, and until it is acknowledged there is a row for it among
//! the recipient's unread. The number of these rows is kept beside them, so that `send` need not count up to the limit.

use super::keys::{Bytes, Column, StoredMessage, conversation_key, message_key, unread_count_key, unread_key};
use super::rows::Rows;
use super::{Abort, Delivery, StoreError, accounts};
use stablechat_protocol::answer::Rejection;
use stablechat_protocol::command::{ACK_MAX, MAILBOX_MAX, Recipient};
use stablechat_protocol::request::Actor;
use stablechat_protocol::text::MessageText;
use stablechat_protocol::uid::Uid;

/// Puts a message into the timeline of its conversation and among the recipient's unread.
pub fn send(
    rows: &mut Rows,
    uid: Uid,
    actor: Option<&Actor>,
    to: &Recipient,
    text: &MessageText,
) -> Result<Option<Delivery>, Abort> {
    let (from, sender) = accounts::owned(rows, actor)?;
    let Recipient::Account { name } = to;
    let recipient = accounts::existing(rows, name)?;

    let unread = unread_count(rows, recipient.id)?;
    if unread >= MAILBOX_MAX {
        return Err(Rejection::MailboxFull { name: name.clone() }.into());
    }

    let conversation = conversation_key(sender.id, recipient.id);
    let message = StoredMessage { from: from.clone(), to: to.clone(), text: text.clone() };
    rows.put(Column::Timelines, message_key(&conversation, uid), &message)?;
    rows.put(Column::Unread, unread_key(recipient.id, uid), &Bytes(conversation))?;
    set_unread_count(rows, recipient.id, unread + 1)?;

    let to = Actor { account: name.clone(), key: recipient.key };
    Ok(Some(Delivery { to, message: message.with_uid(uid) }))
}

/// Removes exactly these messages from the actor's unread. There is no way to acknowledge all messages up to one: a repair may
/// insert a message below it, which would then never be shown.
pub fn acknowledge(rows: &mut Rows, actor: Option<&Actor>, uids: &[Uid]) -> Result<Option<Delivery>, Abort> {
    let (_, user) = accounts::owned(rows, actor)?;
    if uids.len() > ACK_MAX {
        return Err(Rejection::TooMany.into());
    }

    let before = unread_count(rows, user.id)?;
    let mut removed = 0;
    for uid in uids {
        let key = unread_key(user.id, *uid);
        if rows.get(Column::Unread, &key)?.is_some() {
            rows.remove(Column::Unread, key)?;
            removed += 1;
        }
    }

    if removed > 0 {
        let too_few = || StoreError::Corrupt(format!("account {} counts fewer unread messages than it has", user.id));
        set_unread_count(rows, user.id, before.checked_sub(removed).ok_or_else(too_few)?)?;
    }
    Ok(None)
}

/// How many unread messages an account has.
pub fn unread_count(rows: &Rows, account: Uid) -> Result<u64, StoreError> {
    let Some(bytes) = rows.get(Column::Unread, &unread_count_key(account))? else { return Ok(0) };
    let bytes = <[u8; 8]>::try_from(&bytes[..]);
    let wrong_length =
        |_| StoreError::Corrupt(format!("the unread count of account {account} is not eight bytes long"));
    bytes.map(u64::from_be_bytes).map_err(wrong_length)
}

/// Writes how many unread messages an account has. Zero has no row, so that an account without unread messages leaves none.
fn set_unread_count(rows: &mut Rows, account: Uid, count: u64) -> Result<(), StoreError> {
    rows.write(Column::Unread, unread_count_key(account), (count > 0).then(|| count.to_be_bytes().to_vec()))
}
