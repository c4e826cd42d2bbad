//! The settings of operators (who may create an account, quotas, invitations), and the number of accounts.
//!
//! Where no row says otherwise, the settings are those that the store was made with ([`Rows::initial`]), the same on all replicas.

use super::keys::{Column, SETTINGS, invitation_key, invitations};
use super::rows::{Direction, Rows};
use super::values::Invitation;
use super::{Abort, StoreError};
use crate::store::database::decode;
use stablechat_protocol::answer::Rejection;
use stablechat_protocol::command::UNREAD_MAX;
use stablechat_protocol::digest::Digest;
use stablechat_protocol::operator::{
    ACCOUNTS_DEFAULT, InvitationCode, OpenInvitation, REQUESTS_DEFAULT, Registration, Settings,
};

/// The settings.
pub fn read(rows: &Rows) -> Result<Settings, StoreError> {
    let initial = Settings {
        registration: rows.initial().registration,
        accounts: 0,
        accounts_max: ACCOUNTS_DEFAULT,
        unread_max: UNREAD_MAX,
        requests_max: REQUESTS_DEFAULT,
        retention_seconds: 0,
    };
    Ok(rows.settings()?.unwrap_or(initial))
}

/// Writes the settings.
pub fn write(rows: &mut Rows, settings: &Settings) -> Result<(), StoreError> {
    rows.put(Column::Settings, SETTINGS.into(), settings)
}

/// The permission to create an account, with the invitation that it uses up.
pub struct Admission {
    settings: Settings,
    invitation: Option<Digest>,
}

/// Whether one more account may be created with this code; a rejection when not.
pub fn admission(rows: &Rows, code: Option<&InvitationCode>) -> Result<Admission, Abort> {
    let settings = read(rows)?;
    let invitation = match (settings.registration, code) {
        (Registration::Open, _) => None,
        (Registration::Closed, _) => return Err(Rejection::RegistrationClosed.into()),
        (Registration::ByInvitation, None) => return Err(Rejection::InvitationNeeded.into()),
        (Registration::ByInvitation, Some(code)) => Some(open_invitation(rows, code.digest())?),
    };
    if settings.accounts >= settings.accounts_max {
        return Err(Rejection::TooManyAccounts.into());
    }
    Ok(Admission { settings, invitation })
}

/// Counts one more account, and uses up its invitation.
pub fn admit(rows: &mut Rows, Admission { settings, invitation }: Admission) -> Result<(), StoreError> {
    if let Some(invitation) = invitation {
        close_invitation(rows, invitation)?;
    }
    write(rows, &Settings { accounts: settings.accounts + 1, ..settings })
}

/// One account less.
pub fn count_down_accounts(rows: &mut Rows) -> Result<(), StoreError> {
    let settings = read(rows)?;
    let accounts = settings.accounts.checked_sub(1);
    let accounts = accounts.ok_or_else(|| StoreError::Corrupt("there are more accounts than are counted".into()))?;
    write(rows, &Settings { accounts, ..settings })
}

/// The invitation with this digest; a rejection unless it is open.
pub fn open_invitation(rows: &Rows, invitation: Digest) -> Result<Digest, Abort> {
    let is_open = match rows.read(Column::Settings, &invitation_key(invitation))? {
        Some(Invitation::Open { .. }) => true,
        Some(Invitation::Closed) => false,
        None => rows.initial().invitation == Some(invitation),
    };
    if is_open { Ok(invitation) } else { Err(Rejection::NoSuchInvitation.into()) }
}

/// Closes an open invitation. That of the beginning leaves a row, without which it would be open.
pub fn close_invitation(rows: &mut Rows, invitation: Digest) -> Result<(), StoreError> {
    let key = invitation_key(invitation);
    match rows.initial().invitation == Some(invitation) {
        true => rows.put(Column::Settings, key, &Invitation::Closed),
        false => rows.remove(Column::Settings, key),
    }
}

/// The open invitations, in the order of their digests.
pub fn open_invitations(rows: &Rows) -> Result<Vec<OpenInvitation>, StoreError> {
    let mut open = Vec::new();
    let mut initial = rows.initial().invitation;
    let (from, to) = invitations();
    for row in rows.scan(Column::Settings, &from, &to, Direction::Forward) {
        let (key, value) = row?;
        let invitation = key.last_chunk::<32>().map(|bytes| Digest(*bytes));
        let invitation = invitation
            .ok_or_else(|| StoreError::Corrupt(format!("the key {key:02x?} in settings names no invitation")))?;
        initial = initial.filter(|initial| *initial != invitation);
        if let Invitation::Open { opened } = decode(Column::Settings.name(), &value)? {
            open.push(OpenInvitation { invitation, opened: Some(opened) });
        }
    }
    open.extend(initial.map(|invitation| OpenInvitation { invitation, opened: None }));
    open.sort_by_key(|open| open.invitation);
    Ok(open)
}
