//! Advice for people who have no cluster file or no account yet. Each text has a command to copy.

use crate::cli::mode::Mode;
use stablechat_protocol::name::AccountName;
use std::path::Path;

/// No cluster file is named, and there is none where it is looked for by default.
pub fn no_cluster_file(default: &Path) -> String {
    let default = default.display();
    format!(
        "there is no cluster file: neither --cluster nor STABLECHAT_CLUSTER names one, and {default} does not exist.\n\
         If there is a cluster, get cluster.toml from its operator, and then either of:\n  \
         install -D cluster.toml {default}\n  \
         export STABLECHAT_CLUSTER=\"$PWD/cluster.toml\"\n\
         To make a cluster:\n  \
         stablechatd init --dir demo --replica a=HOST:7400 --replica b=HOST:7400 --replica c=HOST:7400"
    )
}

/// A command needs an account, and none is named. `accounts` are those that this user has keys of.
pub fn account_needed(command: &str, accounts: &[AccountName]) -> String {
    let what = format!("{command} needs an account, and neither --as nor STABLECHAT_USER names one");
    match accounts {
        [] => format!("{what}. You have no account on this machine; to make one:\n  stablechat create NAME"),
        [first, ..] => format!(
            "{what}. Your accounts on this machine: {}. Either of:\n  \
             stablechat {command} --as {first} ...\n  \
             export STABLECHAT_USER={first}",
            names(accounts)
        ),
    }
}

/// A line needs an account, and no account is connected.
pub fn not_connected(mode: Mode, accounts: &[AccountName]) -> String {
    match (mode, accounts) {
        (Mode::Prompt, []) => "to make an account: create NAME, and to speak as it: connect NAME".into(),
        (Mode::Prompt, [first, ..]) => {
            format!("your accounts on this machine: {}; to speak as one: connect {first}", names(accounts))
        }
        (Mode::Filter, _) => "begin with --as NAME, or with the line: connect NAME".into(),
        (Mode::Once | Mode::Listen, _) => "name an account with --as NAME".into(),
    }
}

/// The key of the operator is not where it is looked for.
pub fn no_operators_key(path: &Path) -> String {
    let path = path.display();
    format!(
        "there is no operator's key: {path} does not exist; `stablechatd init` has made operator.key, which belongs there:\n  \
         install -D -m 600 operator.key {path}"
    )
}

/// An account cannot be made without an invitation.
pub fn with_invitation(mode: Mode) -> &'static str {
    match mode {
        Mode::Prompt | Mode::Filter => "with one: create NAME CODE",
        Mode::Once | Mode::Listen => "with one: stablechat create NAME --invitation CODE",
    }
}

fn names(accounts: &[AccountName]) -> String {
    accounts.iter().map(AccountName::as_str).collect::<Vec<_>>().join(", ")
}
