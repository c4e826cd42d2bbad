//! `stablechat admin`: the requests of operators.

use crate::cli::exit::{self, Failure};
use crate::cli::verb::{self, Verb};
use crate::password;
use serde_json::{Value, json};
use stablechat_protocol::digest::Digest;
use stablechat_protocol::hex::bytes_from_hex;
use stablechat_protocol::name::{AccountName, ClusterId};
use stablechat_protocol::operator::{InvitationCode, OpenInvitation, Operation, Quota, Registration, Settings};
use stablechat_protocol::time::utc;

/// Reads a request from the words of the command line. Some requests have a secret, which is made here and shown when they are done.
///
/// # Errors
/// They are none of the forms that the command's help has, or the operating system has no random numbers.
pub fn read(words: &[String], cluster: &ClusterId) -> Result<Verb, Failure> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let usage = |fault: String| Failure::new(exit::USAGE, fault);
    let account = |name: &str| AccountName::parse(name).map_err(|error| usage(format!("the name {error}")));
    let operation = match words.as_slice() {
        [] => return Ok(Verb::Settings),
        ["registration", who] => {
            let registration = who.parse::<Registration>().map_err(usage)?;
            Operation::SetRegistration { registration }
        }
        ["invite"] => {
            let code = random_code()?;
            return Ok(Verb::Operate {
                operation: Operation::Invite { invitation: code.digest() },
                secret: Some(code.to_string()),
            });
        }
        ["revoke", code] => Operation::Revoke { invitation: invitation(code).map_err(usage)? },
        ["quota", "accounts", limit] => {
            Operation::SetQuota { quota: Quota::Accounts, limit: number(limit).map_err(usage)? }
        }
        ["quota", "unread", limit] => {
            Operation::SetQuota { quota: Quota::Unread, limit: number(limit).map_err(usage)? }
        }
        ["quota", "requests", limit] => {
            Operation::SetQuota { quota: Quota::Requests, limit: number(limit).map_err(usage)? }
        }
        ["retention", time] => Operation::SetRetention { seconds: seconds(time).map_err(usage)? },
        ["close", room] => Operation::CloseRoom { room: verb::room(room).map_err(usage)? },
        ["remove", name] => Operation::RemoveAccount { name: account(name)? },
        ["reset", name] => {
            let (name, password) = (account(name)?, random_code()?.to_string());
            let key = password::derive(&password, cluster, &name).public();
            return Ok(Verb::Operate { operation: Operation::ReplaceKey { name, key }, secret: Some(password) });
        }
        _ => {
            let fault = format!("there is no admin {}; stablechat admin --help has what there is", words.join(" "));
            return Err(usage(fault));
        }
    };
    Ok(Verb::Operate { operation, secret: None })
}

/// A code that nobody can guess; it serves as a password as well.
fn random_code() -> Result<InvitationCode, Failure> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| {
        Failure::new(exit::CONFIGURATION, format!("the operating system has no random numbers: {error}"))
    })?;
    Ok(InvitationCode::from_random(random))
}

/// The invitation with this code, or with this digest.
fn invitation(text: &str) -> Result<Digest, String> {
    match bytes_from_hex(text) {
        Some(digest) => Ok(Digest(digest)),
        None => InvitationCode::typed(text).map(|code| code.digest()).map_err(|error| error.to_string()),
    }
}

/// How long a time is: a number of hours or days, or for ever, which is zero.
fn seconds(text: &str) -> Result<u64, String> {
    let fault = || {
        format!(
            "{text:?} is no time to keep messages for; it is a number of hours or days, such as 12h or 90d, or for-ever"
        )
    };
    if text == "for-ever" {
        return Ok(0);
    }
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(fault)?;
    let unit = match unit {
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(fault()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .filter(|seconds| *seconds > 0)
        .ok_or_else(fault)
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number from 0 to {}", u64::MAX))
}

/// An operation that is done, for people: its secret alone, if it has one, so that a script can take it as it is.
pub fn done(operation: &Operation, secret: Option<&str>) -> String {
    match (operation, secret) {
        (_, Some(secret)) => secret.into(),
        (Operation::SetRegistration { registration }, _) => format!("registration is {registration}"),
        (Operation::Revoke { .. }, _) => "revoked the invitation".into(),
        (Operation::RemoveAccount { name }, _) => format!("removed {name}"),
        (Operation::CloseRoom { room }, _) => format!("closed {room}"),
        (Operation::SetRetention { seconds }, _) => format!("messages are kept {}", kept_for(*seconds)),
        (other, _) => other.to_string(),
    }
}

/// The same as JSON.
pub fn done_as_json(operation: &Operation, secret: Option<&str>) -> Value {
    let mut object = match operation {
        Operation::SetRegistration { registration } => {
            json!({"operation": "registration", "registration": registration.word()})
        }
        Operation::Invite { invitation } => {
            json!({"operation": "invite", "digest": invitation.to_string(), "code": secret})
        }
        Operation::Revoke { invitation } => json!({"operation": "revoke", "digest": invitation.to_string()}),
        Operation::SetQuota { quota, limit } => {
            let quota = match quota {
                Quota::Accounts => "accounts",
                Quota::Unread => "unread",
                Quota::Requests => "requests",
            };
            json!({"operation": "quota", "quota": quota, "limit": limit})
        }
        Operation::RemoveAccount { name } => json!({"operation": "remove", "name": name.as_str()}),
        Operation::CloseRoom { room } => json!({"operation": "close", "room": room.as_str()}),
        Operation::SetRetention { seconds } => json!({"operation": "retention", "seconds": seconds}),
        Operation::ReplaceKey { name, .. } => {
            json!({"operation": "reset", "name": name.as_str(), "password": secret})
        }
    };
    object["type"] = json!("admin");
    object
}

/// The settings, for people.
pub fn settings(settings: &Settings, invitations: &[OpenInvitation]) -> String {
    let Settings { registration, accounts, accounts_max, unread_max, requests_max, retention_seconds } = settings;
    let mut text = format!(
        "registration: {registration}\naccounts: {accounts} of at most {accounts_max}\n\
         unread messages in a conversation of two: at most {unread_max}\n\
         conversations that an account begins without an answer: at most {requests_max}\n\
         messages are kept {}\nopen invitations: {}",
        kept_for(*retention_seconds),
        invitations.len()
    );
    for open in invitations {
        let when = open.opened.map_or_else(|| "when the cluster was made".into(), utc);
        text += &format!("\n  {}  {when}", open.invitation);
    }
    text
}

/// How long messages are kept, in words.
fn kept_for(seconds: u64) -> String {
    match seconds {
        0 => "for ever".into(),
        seconds if seconds.is_multiple_of(24 * 3600) => format!("for {} days", seconds / (24 * 3600)),
        seconds => format!("for {} hours", seconds / 3600),
    }
}

/// The same as JSON.
pub fn settings_as_json(settings: &Settings, invitations: &[OpenInvitation]) -> Value {
    let Settings { registration, accounts, accounts_max, unread_max, requests_max, retention_seconds } = settings;
    json!({
        "type": "settings",
        "registration": registration.word(),
        "accounts": accounts,
        "accounts_max": accounts_max,
        "unread_max": unread_max,
        "requests_max": requests_max,
        "retention_seconds": retention_seconds,
        "invitations": invitations.iter().map(|open| json!({
            "digest": open.invitation.to_string(),
            "opened_ns": open.opened.map(|opened| opened.0),
        })).collect::<Vec<Value>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Verb, Failure> {
        let words: Vec<String> = line.split_whitespace().map(String::from).collect();
        read(&words, &ClusterId::parse("7f").expect("an id"))
    }

    fn operation(line: &str) -> Operation {
        match words(line) {
            Ok(Verb::Operate { operation, .. }) => operation,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn each_form_is_understood() {
        assert_eq!(words("").expect("a form"), Verb::Settings);
        let registration = Registration::Closed;
        assert_eq!(operation("registration closed"), Operation::SetRegistration { registration });
        assert_eq!(operation("quota unread 9"), Operation::SetQuota { quota: Quota::Unread, limit: 9 });
        assert_eq!(operation("quota requests 9"), Operation::SetQuota { quota: Quota::Requests, limit: 9 });
        assert_eq!(operation("retention 90d"), Operation::SetRetention { seconds: 90 * 24 * 3600 });
        assert_eq!(operation("retention 1h"), Operation::SetRetention { seconds: 3600 });
        assert_eq!(operation("retention for-ever"), Operation::SetRetention { seconds: 0 });
        assert_eq!(operation("close ops"), Operation::CloseRoom { room: verb::room("#ops").expect("a name") });
        let name = AccountName::parse("bob").expect("a name");
        assert_eq!(operation("remove bob"), Operation::RemoveAccount { name });
        let Ok(Verb::Operate { operation: Operation::Invite { invitation }, secret: Some(code) }) = words("invite")
        else {
            panic!("an invitation")
        };
        for known_by in [code, invitation.to_string()] {
            assert_eq!(operation(&format!("revoke {known_by}")), Operation::Revoke { invitation });
        }
    }

    #[test]
    fn what_is_not_understood_gets_a_clear_error() {
        for (line, expected) in [
            ("dance", "there is no admin dance; stablechat admin --help has"),
            ("invite bob", "there is no admin invite bob"),
            ("registration all", "must be open, invitation or closed"),
            ("quota accounts -1", "is not a number"),
            ("retention 0d", "is no time to keep messages for"),
            ("retention d", "is no time to keep messages for"),
            ("retention 5", "such as 12h or 90d, or for-ever"),
            ("retention 99999999999999999999d", "is no time to keep messages for"),
            ("retention \u{e9}", "is no time to keep messages for"),
            ("close Ops", "the name of the room \"Ops\" has"),
            ("revoke 7f", "it is no invitation code"),
            ("remove Bob", "has a character"),
        ] {
            let failure = words(line).expect_err(line);
            assert!(failure.message.contains(expected) && failure.code == exit::USAGE, "{line}: {}", failure.message);
        }
    }
}
