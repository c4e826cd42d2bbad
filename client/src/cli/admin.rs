//! `stablechat admin`: the requests of operators.

use crate::cli::exit::{self, Failure};
use crate::cli::verb::Verb;
use crate::password;
use serde_json::{Value, json};
use stablechat_protocol::digest::Digest;
use stablechat_protocol::hex::bytes_from_hex;
use stablechat_protocol::name::{AccountName, ClusterId};
use stablechat_protocol::operator::{InvitationCode, Operation, Quota, Registration, Settings};
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
            let quota = if *quota == Quota::Accounts { "accounts" } else { "unread" };
            json!({"operation": "quota", "quota": quota, "limit": limit})
        }
        Operation::RemoveAccount { name } => json!({"operation": "remove", "name": name.as_str()}),
        Operation::ReplaceKey { name, .. } => {
            json!({"operation": "reset", "name": name.as_str(), "password": secret})
        }
    };
    object["type"] = json!("admin");
    object
}

/// The settings, for people.
pub fn settings(settings: &Settings) -> String {
    let Settings { registration, accounts, accounts_max, unread_max, invitations } = settings;
    let mut text = format!(
        "registration: {registration}\naccounts: {accounts} of at most {accounts_max}\n\
         unread messages of an account: at most {unread_max}\nopen invitations: {}",
        invitations.len()
    );
    for open in invitations {
        let when = open.opened.map_or_else(|| "when the cluster was made".into(), utc);
        text += &format!("\n  {}  {when}", open.invitation);
    }
    text
}

/// The same as JSON.
pub fn settings_as_json(settings: &Settings) -> Value {
    let Settings { registration, accounts, accounts_max, unread_max, invitations } = settings;
    json!({
        "type": "settings",
        "registration": registration.word(),
        "accounts": accounts,
        "accounts_max": accounts_max,
        "unread_max": unread_max,
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
            ("revoke 7f", "it is no invitation code"),
            ("remove Bob", "has a character"),
        ] {
            let failure = words(line).expect_err(line);
            assert!(failure.message.contains(expected) && failure.code == exit::USAGE, "{line}: {}", failure.message);
        }
    }
}
