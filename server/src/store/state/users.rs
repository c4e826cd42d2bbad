//! The rows of accounts: which there are, and who owns them.

use super::keys::{Column, user_key};
use super::rows::Rows;
use super::values::User;
use super::{Abort, StoreError};
use stablechat_protocol::answer::Rejection;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::Actor;

/// The account with this name, if there is one.
pub fn find(rows: &Rows, name: &AccountName) -> Result<Option<User>, StoreError> {
    rows.read(Column::Users, &user_key(name))
}

/// Writes an account.
pub fn write(rows: &mut Rows, name: &AccountName, user: &User) -> Result<(), StoreError> {
    rows.put(Column::Users, user_key(name), user)
}

/// The account with this name; a rejection when there is none.
pub fn existing(rows: &Rows, name: &AccountName) -> Result<User, Abort> {
    Ok(find(rows, name)?.ok_or_else(|| Rejection::NoSuchUser { name: name.clone() })?)
}

/// The account that a request speaks for; a rejection unless it exists and the request's key owns it. Which of the two fails is not
/// said: anybody can ask under any name.
pub fn owned<'a>(rows: &Rows, actor: Option<&'a Actor>) -> Result<(&'a AccountName, User), Abort> {
    let Actor { account: name, key } = actor.ok_or(Rejection::LoginRequired)?;
    match find(rows, name)?.filter(|user| user.key == *key) {
        Some(user) => Ok((name, user)),
        None => Err(Rejection::NotOwner { name: name.clone() }.into()),
    }
}
