//! What operators ask for: their settings, invitations, and the accounts and rooms of others.

use super::keys::{Column, invitation_key};
use super::rows::Rows;
use super::values::Invitation;
use super::{Abort, Outcome, RoomOutcome, accounts, rooms, settings, users};
use stablechat_protocol::answer::{QueryAnswer, Rejection};
use stablechat_protocol::command::UNREAD_MAX;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::operator::{INVITATIONS_MAX, Operation, Quota, Settings};
use stablechat_protocol::request::Actor;
use stablechat_protocol::room::{RoomAction, RoomNews};
use stablechat_protocol::uid::Uid;

/// Does what an operator asks for.
pub fn operate(rows: &mut Rows, uid: Uid, actor: Option<&Actor>, operation: &Operation) -> Result<Outcome, Abort> {
    check_operator(actor)?;
    match operation {
        Operation::SetRegistration { registration } => {
            let settings = Settings { registration: *registration, ..settings::read(rows)? };
            settings::write(rows, &settings)?;
        }
        Operation::SetQuota { quota: Quota::Accounts, limit } => {
            let settings = Settings { accounts_max: *limit, ..settings::read(rows)? };
            settings::write(rows, &settings)?;
        }
        Operation::SetQuota { quota: Quota::Unread, limit } => {
            if *limit > UNREAD_MAX {
                return Err(Rejection::TooMany.into());
            }
            let settings = Settings { unread_max: *limit, ..settings::read(rows)? };
            settings::write(rows, &settings)?;
        }
        Operation::SetQuota { quota: Quota::Requests, limit } => {
            let settings = Settings { requests_max: *limit, ..settings::read(rows)? };
            settings::write(rows, &settings)?;
        }
        Operation::SetRetention { seconds } => {
            let settings = Settings { retention_seconds: *seconds, ..settings::read(rows)? };
            settings::write(rows, &settings)?;
        }
        Operation::Invite { invitation } => {
            let open = settings::open_invitations(rows)?;
            if open.iter().any(|open| open.invitation == *invitation) {
                return Ok(Outcome::done());
            }
            if open.len() >= INVITATIONS_MAX {
                return Err(Rejection::TooMany.into());
            }
            let row = Invitation::Open { opened: uid.timestamp };
            rows.put(Column::Settings, invitation_key(*invitation), &row)?;
        }
        Operation::Revoke { invitation } => {
            let invitation = settings::open_invitation(rows, *invitation)?;
            settings::close_invitation(rows, invitation)?;
        }
        Operation::RemoveAccount { name } => {
            let user = users::existing(rows, name)?;
            return Ok(accounts::remove(rows, name, user)?);
        }
        Operation::ReplaceKey { name, key } => {
            let user = users::existing(rows, name)?;
            return Ok(accounts::replace_key(rows, name, user, *key, None)?);
        }
        Operation::CloseRoom { room: name } => {
            let room = rooms::find(rows, name)?.ok_or_else(|| Rejection::NoSuchRoom { room: name.clone() })?;
            let news = RoomNews { room: name.clone(), uid, by: AccountName::operator(), action: RoomAction::Close };
            let closed = RoomOutcome { id: room.id, news, other: None };
            rooms::close(rows, name, room)?;
            return Ok(Outcome { room: Some(closed), ..Outcome::done() });
        }
    }
    Ok(Outcome::done())
}

/// Answers [`stablechat_protocol::command::Query::Settings`].
pub fn answer(rows: &Rows, actor: Option<&Actor>) -> Result<QueryAnswer, Abort> {
    check_operator(actor)?;
    Ok(QueryAnswer::Settings { settings: settings::read(rows)?, invitations: settings::open_invitations(rows)? })
}

/// A rejection unless the actor is an operator. The replica that took the login has checked the key.
fn check_operator(actor: Option<&Actor>) -> Result<(), Rejection> {
    match actor.ok_or(Rejection::LoginRequired)?.account.is_operator() {
        true => Ok(()),
        false => Err(Rejection::NotAnOperator),
    }
}

#[cfg(test)]
#[path = "operators_tests.rs"]
mod tests;
