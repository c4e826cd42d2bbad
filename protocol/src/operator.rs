//! Operators: who they are, what they may change, and the invitations that they give.
//!
//! An operator logs in under the name [`OPERATOR`], with a key that is in the cluster file. The replica that accepts the login
//! checks that, so no account has this name, and whatever is requested in it comes from an operator. What operators change is
//! part of the replicated state: it changes by a command that has its place in the order, on all replicas.

use crate::digest::Digest;
use crate::login::PublicKey;
use crate::name::{AccountName, checked_text};
use crate::room::RoomName;
use crate::time::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// The name under which operators log in. No account has it.
pub const OPERATOR: &str = "operator";
/// The most keys of operators in a cluster file.
pub const OPERATORS_MAX: usize = 16;
/// The most invitations that are open at a time.
pub const INVITATIONS_MAX: usize = 1000;
/// How many accounts there may be until an operator changes it.
pub const ACCOUNTS_DEFAULT: u64 = 1_000_000;
/// How many unanswered conversations an account may have begun until an operator changes it.
pub const REQUESTS_DEFAULT: u64 = 1_000;

impl AccountName {
    /// Whether it is the name under which operators log in.
    pub fn is_operator(&self) -> bool {
        self.as_str() == OPERATOR
    }

    /// The name under which operators log in.
    pub fn operator() -> AccountName {
        AccountName::parse(OPERATOR).expect("it keeps the rule")
    }
}

wire_enum! {
    /// Who may create an account.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Registration {
        /// Anybody.
        0 => Open,
        /// Anybody with the code of an open invitation, which is used up.
        1 => ByInvitation,
        /// Nobody.
        2 => Closed,
    }
}

impl Registration {
    /// The word for it in the cluster file and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Registration::Open => "open",
            Registration::ByInvitation => "invitation",
            Registration::Closed => "closed",
        }
    }
}

impl std::str::FromStr for Registration {
    type Err = String;
    fn from_str(text: &str) -> Result<Registration, String> {
        let all = [Registration::Open, Registration::ByInvitation, Registration::Closed];
        let found = all.into_iter().find(|registration| registration.word() == text);
        found.ok_or_else(|| format!("registration is {text:?}; it must be open, invitation or closed"))
    }
}

impl fmt::Display for Registration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Registration::Open => "open to all",
            Registration::ByInvitation => "by invitation",
            Registration::Closed => "closed",
        })
    }
}

wire_enum! {
    /// A number that operators limit.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Quota {
        /// Of accounts. With fewer allowed than there are, none is removed and none can be created.
        0 => Accounts,
        /// Of messages that one account has not read in its conversation with another, at most [`crate::command::UNREAD_MAX`]. With
        /// fewer allowed than it has, it gets no more there until it has fewer.
        1 => Unread,
        /// Of conversations that one account has begun and that were not answered.
        2 => Requests,
    }
}

wire_enum! {
    /// What only operators may do.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Operation {
        /// Says from here on who may create an account.
        0 => SetRegistration { registration: Registration },
        /// Opens the invitation whose code has this digest ([`InvitationCode::digest`]). At most [`INVITATIONS_MAX`] are open.
        1 => Invite { invitation: Digest },
        /// Closes an open invitation.
        2 => Revoke { invitation: Digest },
        /// Limits a number.
        3 => SetQuota { quota: Quota, limit: u64 },
        /// Deletes an account, as its owner could.
        4 => RemoveAccount { name: AccountName },
        /// Gives an account another key, as its owner could, when the owner has lost the one before.
        5 => ReplaceKey { name: AccountName, key: PublicKey },
        /// Ends a room, as its owner could.
        6 => CloseRoom { room: RoomName },
        /// Has messages removed that are older than this; with zero, none.
        7 => SetRetention { seconds: u64 },
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::SetRegistration { registration } => write!(formatter, "registration {}", registration.word()),
            Operation::Invite { invitation } => write!(formatter, "invite, by a code with the digest {invitation}"),
            Operation::Revoke { invitation } => write!(formatter, "revoke the invitation {invitation}"),
            Operation::SetQuota { quota: Quota::Accounts, limit } => write!(formatter, "at most {limit} accounts"),
            Operation::SetQuota { quota: Quota::Unread, limit } => {
                write!(formatter, "at most {limit} unread messages in a conversation of two")
            }
            Operation::SetQuota { quota: Quota::Requests, limit } => {
                write!(formatter, "at most {limit} unanswered conversations of an account")
            }
            Operation::RemoveAccount { name } => write!(formatter, "remove the account {name}"),
            Operation::ReplaceKey { name, key } => write!(formatter, "give the account {name} the key {key}"),
            Operation::CloseRoom { room } => write!(formatter, "close the room {room}"),
            Operation::SetRetention { seconds: 0 } => write!(formatter, "remove no messages"),
            Operation::SetRetention { seconds } => write!(formatter, "remove messages older than {seconds} seconds"),
        }
    }
}

wire_struct! {
    /// The settings of a cluster before any operator has changed them. They are in the cluster file, since without them nobody could
    /// create the first account. All replicas must have the same, and a store has those that it was made with for ever: a repair
    /// or a replica that applies the log from its beginning comes to the same state.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct InitialSettings {
        pub registration: Registration,
        /// The digest of the code of an invitation that is open in the beginning.
        pub invitation: Option<Digest>,
    }
}

impl InitialSettings {
    /// Anybody may create an account.
    pub const OPEN: InitialSettings = InitialSettings { registration: Registration::Open, invitation: None };
}

wire_struct! {
    /// The settings of operators, and the number of accounts, which one of the quotas limits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Settings {
        pub registration: Registration,
        /// How many accounts there are.
        pub accounts: u64,
        /// How many there may be.
        pub accounts_max: u64,
        /// How many messages an account may have unread in a conversation of two.
        pub unread_max: u64,
        /// How many conversations an account may have begun that were not answered.
        pub requests_max: u64,
        /// After how many seconds messages are removed; zero: never.
        pub retention_seconds: u64,
    }
}

wire_struct! {
    /// An invitation that nobody has used.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct OpenInvitation {
        /// The digest of its code.
        pub invitation: Digest,
        /// When it was opened; none for the one that was open in the beginning.
        pub opened: Option<Timestamp>,
    }
}

/// The characters of invitation codes: digits and letters that are not taken for one another (Crockford's base 32).
const CODE_ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// A code is made of so many groups of so many characters: 100 bits.
const CODE_GROUPS: usize = 5;
const GROUP_LENGTH: usize = 4;
/// The context of [`InvitationCode::digest`], which no other use of BLAKE3's key derivation shares.
const CODE_CONTEXT: &str = "stablechat invitation code, version 1";

checked_text! {
    /// The secret that an invitation consists of, such as `k7q1-m2xa-9rdt-w3hz-5vbn`. Only its digest is stored until it is used.
    InvitationCode, check_code, CodeError
}

/// Why a text is not an invitation code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeError;

impl fmt::Display for CodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("it is no invitation code; one has five groups of four digits and letters, such as k7q1-m2xa-9rdt-w3hz-5vbn")
    }
}

impl std::error::Error for CodeError {}

/// The rule for codes as they are sent: lower case, with signs between the groups.
fn check_code(text: &str) -> Result<(), CodeError> {
    let is_group = |group: &str| group.len() == GROUP_LENGTH && group.bytes().all(|byte| CODE_ALPHABET.contains(&byte));
    match text.split('-').count() == CODE_GROUPS && text.split('-').all(is_group) {
        true => Ok(()),
        false => Err(CodeError),
    }
}

impl InvitationCode {
    /// The code of these random bits. Those beyond 100 are not used.
    pub fn from_random(random: [u8; 16]) -> InvitationCode {
        let bits = u128::from_be_bytes(random);
        let character = |at: usize| char::from(CODE_ALPHABET[(bits >> (5 * at)) as usize % CODE_ALPHABET.len()]);
        let group = |group: usize| (0..GROUP_LENGTH).map(|at| character(group * GROUP_LENGTH + at)).collect::<String>();
        InvitationCode((0..CODE_GROUPS).map(group).collect::<Vec<_>>().join("-"))
    }

    /// The code that somebody has typed, with upper-case letters, letters that look like digits, and without or with other signs.
    ///
    /// # Errors
    /// It is no code.
    pub fn typed(text: &str) -> Result<InvitationCode, CodeError> {
        let characters: Vec<char> = text.trim().chars().filter(|character| !matches!(character, '-' | ' ')).collect();
        let plain = |character: &char| match character.to_ascii_lowercase() {
            'o' => '0',
            'i' | 'l' => '1',
            other => other,
        };
        let groups = characters.chunks(GROUP_LENGTH).map(|group| group.iter().map(plain).collect::<String>());
        InvitationCode::parse(groups.collect::<Vec<_>>().join("-"))
    }

    /// What replicas know of the invitation. Nobody can find the code from it.
    pub fn digest(&self) -> Digest {
        Digest(blake3::derive_key(CODE_CONTEXT, self.as_str().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_as_people_write_them() {
        let code = InvitationCode::parse("k7q1-m2xa-9rdt-w3h0-5vbn").expect("a code");
        for typed in [" k7q1-m2xa-9rdt-w3h0-5vbn\n", "K7QI M2XA 9RDT W3HO 5VBN", "k7qlm2xa9rdtw3ho5vbn"] {
            assert_eq!(InvitationCode::typed(typed), Ok(code.clone()), "{typed:?}");
        }
        for bad in ["", "k7q1-m2xa-9rdt-w3h0", "k7q1-m2xa-9rdt-w3h0-5vbn-5vbn", "k7q1-m2xa-9rdt-w3h0-5vbu", "\u{e9}"] {
            assert_eq!(InvitationCode::typed(bad), Err(CodeError), "{bad:?}");
        }
        assert_eq!(InvitationCode::parse("K7Q1-m2xa-9rdt-w3h0-5vbn"), Err(CodeError), "there is one encoding");
    }

    #[test]
    fn each_bit_of_a_code_counts() {
        let code = |bit: u32| InvitationCode::from_random((1u128 << bit).to_be_bytes());
        let codes: std::collections::BTreeSet<InvitationCode> = (0..100).map(code).collect();
        assert_eq!(codes.len(), 100);
        assert!(codes.iter().all(|code| InvitationCode::parse(code.as_str()).as_ref() == Ok(code)));
        let digests: std::collections::BTreeSet<Digest> = codes.iter().map(InvitationCode::digest).collect();
        assert_eq!(digests.len(), 100);
    }

    #[test]
    fn registration_is_read_as_it_is_written() {
        for registration in [Registration::Open, Registration::ByInvitation, Registration::Closed] {
            assert_eq!(registration.word().parse(), Ok(registration));
        }
        assert!("Open".parse::<Registration>().expect_err("no word").contains("must be open, invitation or closed"));
    }
}
