//! The commands: what each does to accounts, timelines and unread messages.

use super::error::StoreError;
use super::rows::Rows;
use super::schema::{
    Bytes, Column, StoredMessage, User, conversation_key, graveyard_key, message_key, unread_count_key, unread_key,
};
use super::{Delivery, Outcome};
use stablechat_protocol::answer::{Answer, Rejection};
use stablechat_protocol::command::{ACK_MAX, Command, MAILBOX_MAX, PasswordParameters, Recipient};
use stablechat_protocol::login::PublicKey;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::{Actor, Request};
use stablechat_protocol::text::MessageText;
use stablechat_protocol::uid::Uid;

/// Either what was asked for, or why it is refused; a storage failure is neither.
pub type Checked<T> = Result<Result<T, Rejection>, StoreError>;

/// Executes a command at its place in the order and in its session.
pub fn execute(rows: &mut Rows, uid: Uid, request: &Request) -> Result<Outcome, StoreError> {
    let effect = match &request.command {
        Command::Create { name, key, password } => create(rows, uid, name, *key, password.clone())?,
        Command::Delete => delete(rows, request.actor.as_ref())?,
        Command::Send { to, text } => send(rows, uid, request.actor.as_ref(), to, text)?,
        Command::Ack { uids } => acknowledge(rows, request.actor.as_ref(), uids)?,
    };
    Ok(match effect {
        Ok(delivery) => Outcome { answer: Answer::Done, delivery },
        Err(reason) => Outcome { answer: Answer::Rejected { reason }, delivery: None },
    })
}

/// The account that a request speaks for, if it exists and the request's key owns it.
pub fn owned_account<'a>(rows: &Rows, actor: Option<&'a Actor>) -> Checked<(&'a AccountName, User)> {
    let Some(actor) = actor else { return Ok(Err(Rejection::LoginRequired)) };
    let name = &actor.account;
    Ok(match account(rows, name)? {
        Err(reason) => Err(reason),
        Ok(user) if user.key != actor.key => Err(Rejection::NotOwner { name: name.clone() }),
        Ok(user) => Ok((name, user)),
    })
}

/// The account with this name.
pub fn account(rows: &Rows, name: &AccountName) -> Checked<User> {
    Ok(rows.read(Column::Users, name.as_str().as_bytes())?.ok_or_else(|| Rejection::NoSuchUser { name: name.clone() }))
}

/// Makes an account.
fn create(
    rows: &mut Rows,
    uid: Uid,
    name: &AccountName,
    key: PublicKey,
    password: Option<PasswordParameters>,
) -> Checked<Option<Delivery>> {
    if account(rows, name)?.is_ok() {
        return Ok(Err(Rejection::AlreadyExists { name: name.clone() }));
    }
    rows.put(Column::Users, name.as_str().into(), &User { id: uid, key, password })?;
    Ok(Ok(None))
}

/// Ends the actor's account. Its unread messages can be reached by nobody from here on; housekeeping removes them.
fn delete(rows: &mut Rows, actor: Option<&Actor>) -> Checked<Option<Delivery>> {
    let (name, user) = match owned_account(rows, actor)? {
        Ok(owned) => owned,
        Err(reason) => return Ok(Err(reason)),
    };
    rows.remove(Column::Users, name.as_str().into())?;
    rows.write(Column::Unread, graveyard_key(user.id), Some(Vec::new()))?;
    Ok(Ok(None))
}

/// Puts a message into the timeline of its conversation and among the recipient's unread.
fn send(
    rows: &mut Rows,
    uid: Uid,
    actor: Option<&Actor>,
    to: &Recipient,
    text: &MessageText,
) -> Checked<Option<Delivery>> {
    let (from, sender) = match owned_account(rows, actor)? {
        Ok(owned) => owned,
        Err(reason) => return Ok(Err(reason)),
    };
    let Recipient::Account { name } = to;
    let recipient = match account(rows, name)? {
        Ok(recipient) => recipient,
        Err(reason) => return Ok(Err(reason)),
    };
    let unread = unread_count(rows, recipient.id)?;
    if unread >= MAILBOX_MAX {
        return Ok(Err(Rejection::MailboxFull { name: name.clone() }));
    }
    let conversation = conversation_key(sender.id, recipient.id);
    let message = StoredMessage { from: from.clone(), to: to.clone(), text: text.clone() };
    rows.put(Column::Timelines, message_key(&conversation, uid), &message)?;
    rows.put(Column::Unread, unread_key(recipient.id, uid), &Bytes(conversation))?;
    set_unread_count(rows, recipient.id, unread + 1)?;
    let to = Actor { account: name.clone(), key: recipient.key };
    Ok(Ok(Some(Delivery { to, message: message.with_uid(uid) })))
}

/// Removes exactly these from the actor's unread messages: never all up to one, since a repair may insert below it.
fn acknowledge(rows: &mut Rows, actor: Option<&Actor>, uids: &[Uid]) -> Checked<Option<Delivery>> {
    let (_, user) = match owned_account(rows, actor)? {
        Ok(owned) => owned,
        Err(reason) => return Ok(Err(reason)),
    };
    if uids.len() > ACK_MAX {
        return Ok(Err(Rejection::TooMany));
    }
    let before = unread_count(rows, user.id)?;
    let mut unread = before;
    for uid in uids {
        let key = unread_key(user.id, *uid);
        if rows.get(Column::Unread, &key)?.is_some() {
            rows.remove(Column::Unread, key)?;
            unread -= 1;
        }
    }
    if unread != before {
        set_unread_count(rows, user.id, unread)?;
    }
    Ok(Ok(None))
}

/// How many unread messages an account has.
pub fn unread_count(rows: &Rows, account: Uid) -> Result<u64, StoreError> {
    match rows.get(Column::Unread, &unread_count_key(account))? {
        None => Ok(0),
        Some(bytes) => match <[u8; 8]>::try_from(&bytes[..]) {
            Ok(bytes) => Ok(u64::from_be_bytes(bytes)),
            Err(_) => Err(StoreError::Corrupt(format!("the unread count of account {account} is not eight bytes"))),
        },
    }
}

/// Writes how many unread messages an account has; no row stands for none.
fn set_unread_count(rows: &mut Rows, account: Uid, count: u64) -> Result<(), StoreError> {
    rows.write(Column::Unread, unread_count_key(account), (count > 0).then(|| count.to_be_bytes().to_vec()))
}
