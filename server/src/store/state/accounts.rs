//! Accounts: a name, the key that owns it, and an id of its own.
//!
//! Inside, an account is known by its id, the uid of the request that created it. So a later account of the same name is
//! another account, and sees nothing of the earlier one.

use super::Abort;
use super::keys::{Column, tombstone_key, user_key};
use super::rows::Rows;
use super::values::{Bytes, Tombstone, User};
use super::{Outcome, StoreError, rooms, settings, users};
use stablechat_protocol::answer::Rejection;
use stablechat_protocol::login::PublicKey;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::operator::InvitationCode;
use stablechat_protocol::request::Actor;
use stablechat_protocol::uid::Uid;

/// Creates an account, with the code of an invitation if that is needed.
pub fn create(
    rows: &mut Rows,
    uid: Uid,
    name: &AccountName,
    key: PublicKey,
    invitation: Option<&InvitationCode>,
) -> Result<Outcome, Abort> {
    // First, so that strangers without an invitation are not told which names are taken.
    let admission = settings::admission(rows, invitation)?;
    if name.is_operator() || users::find(rows, name)?.is_some() {
        return Err(Rejection::AlreadyExists { name: name.clone() }.into());
    }
    settings::admit(rows, admission)?;
    users::write(rows, name, &User { id: uid, key, earlier_key: None, rooms: 0, requests: 0, blocked: 0 })?;
    Ok(Outcome::done())
}

/// Gives the actor's account another key. With the earlier one, the command that has replaced it can be repeated, and nothing
/// else be done. (With any other key it could be used to find out which key the account has, so to try passwords.)
pub fn set_key(rows: &mut Rows, actor: Option<&Actor>, key: PublicKey) -> Result<Outcome, Abort> {
    let Actor { account: name, key: signer } = actor.ok_or(Rejection::LoginRequired)?;
    match users::find(rows, name)? {
        Some(user) if user.key == *signer => Ok(replace_key(rows, name, user, key, Some(*signer))?),
        Some(user) if user.key == key && user.earlier_key == Some(*signer) => Ok(Outcome::done()),
        _ => Err(Rejection::NotOwner { name: name.clone() }.into()),
    }
}

/// Gives an account another key. `earlier_key` is the one with which this can be repeated.
pub fn replace_key(
    rows: &mut Rows,
    name: &AccountName,
    user: User,
    key: PublicKey,
    earlier_key: Option<PublicKey>,
) -> Result<Outcome, StoreError> {
    if user.key == key {
        return Ok(Outcome::done());
    }
    let ended = Some(Actor { account: name.clone(), key: user.key });
    users::write(rows, name, &User { key, earlier_key, ..user })?;
    Ok(Outcome { ended, ..Outcome::done() })
}

/// Deletes the actor's account.
pub fn delete(rows: &mut Rows, actor: Option<&Actor>) -> Result<Outcome, Abort> {
    let (name, user) = users::owned(rows, actor)?;
    Ok(remove(rows, name, user)?)
}

/// Removes an account. It leaves its rooms. What it has sent stays with those it was sent to.
///
/// Its conversations with others can be any number, so its part in them is not ended here. A tombstone marks them, and housekeeping
/// ends them a bounded number at a time. Nobody acts as this account meanwhile, since no name leads to it any more.
pub fn remove(rows: &mut Rows, name: &AccountName, user: User) -> Result<Outcome, StoreError> {
    rows.remove(Column::Users, user_key(name))?;
    rooms::leave_all(rows, user.id)?;
    let tombstone = Tombstone::Conversations { conversation: Bytes(Vec::new()), from: Uid::MIN };
    rows.put(Column::Members, tombstone_key(user.id), &tombstone)?;
    settings::count_down_accounts(rows)?;
    let ended = Some(Actor { account: name.clone(), key: user.key });
    Ok(Outcome { ended, ..Outcome::done() })
}
