//! Accounts: a name, the key that owns it, and an id of its own.
//!
//! Inside, an account is known by its id, the uid of the request that created it. So a later account of the same name is
//! another account, and sees nothing of the earlier one.

use super::Abort;
use super::keys::{Column, Tombstone, User, tombstone_key};
use super::rows::Rows;
use super::{Delivery, StoreError};
use stablechat_protocol::answer::Rejection;
use stablechat_protocol::login::PublicKey;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::Actor;
use stablechat_protocol::uid::Uid;

/// The account with this name, if there is one.
pub fn find(rows: &Rows, name: &AccountName) -> Result<Option<User>, StoreError> {
    rows.read(Column::Users, name.as_str().as_bytes())
}

/// The account with this name; a rejection when there is none.
pub fn existing(rows: &Rows, name: &AccountName) -> Result<User, Abort> {
    Ok(find(rows, name)?.ok_or_else(|| Rejection::NoSuchUser { name: name.clone() })?)
}

/// The account that a request speaks for; a rejection unless it exists and the request's key owns it.
pub fn owned<'a>(rows: &Rows, actor: Option<&'a Actor>) -> Result<(&'a AccountName, User), Abort> {
    let Actor { account: name, key } = actor.ok_or(Rejection::LoginRequired)?;
    let user = existing(rows, name)?;
    if user.key != *key {
        return Err(Rejection::NotOwner { name: name.clone() }.into());
    }
    Ok((name, user))
}

/// Creates an account.
pub fn create(rows: &mut Rows, uid: Uid, name: &AccountName, key: PublicKey) -> Result<Option<Delivery>, Abort> {
    if find(rows, name)?.is_some() {
        return Err(Rejection::AlreadyExists { name: name.clone() }.into());
    }
    rows.put(Column::Users, name.as_str().into(), &User { id: uid, key })?;
    Ok(None)
}

/// Gives the actor's account another key. With the earlier one, the command that has replaced it can be repeated, and nothing
/// else be done.
pub fn set_key(rows: &mut Rows, actor: Option<&Actor>, key: PublicKey) -> Result<Option<Delivery>, Abort> {
    let Actor { account: name, key: signer } = actor.ok_or(Rejection::LoginRequired)?;
    let user = existing(rows, name)?;
    if user.key == key {
        return Ok(None);
    }
    if user.key != *signer {
        return Err(Rejection::NotOwner { name: name.clone() }.into());
    }
    rows.put(Column::Users, name.as_str().into(), &User { key, ..user })?;
    Ok(None)
}

/// Deletes the actor's account.
///
/// Its unread messages and timelines can be many, so they are not removed here. A tombstone marks them, and housekeeping removes
/// them a bounded number at a time. Nobody can read them meanwhile, since no name leads to this account any more. Only messages
/// that other accounts have not read yet stay with those accounts.
pub fn delete(rows: &mut Rows, actor: Option<&Actor>) -> Result<Option<Delivery>, Abort> {
    let (name, user) = owned(rows, actor)?;
    rows.remove(Column::Users, name.as_str().into())?;
    rows.put(Column::Unread, tombstone_key(user.id), &Tombstone::Unread { from: Uid::MIN })?;
    Ok(None)
}
