//! The command line.

use crate::cli::admin;
use crate::cli::advice;
use crate::cli::app::{AppSettings, Start};
use crate::cli::exit::{self, Failure};
use crate::cli::mode::Mode;
use crate::cli::places::{self, ClusterFile, NamedBy};
use crate::cli::probe::{self, ProbeSettings};
use crate::cli::secrets::{self, NewKey, Secrets, load_credentials};
use crate::cli::verb::{HISTORY_DEFAULT, Verb, parse_count};
use crate::cli::watch::WatchSettings;
use crate::greeting::Credentials;
use crate::keys::Keys;
use argh::{ArgsInfo, CommandInfoWithArgs, FromArgs};
use stablechat_command_line::Early;
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::name::{AccountName, Pattern};
use stablechat_protocol::operator::InvitationCode;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::text::{MessageText, TEXT_MAX};
use stablechat_transport::TlsDialer;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;
use std::str::FromStr;

/// Chat without a leader. Without a command, reads commands from its input.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    usage = "[options] [<command> [options]]",
    example = "stablechat send --as alice bob 'hello, bob'",
    error_code(0, "done"),
    error_code(1, "the service said no"),
    error_code(2, "usage"),
    error_code(69, "no replica reachable"),
    error_code(74, "input or output lost"),
    error_code(75, "outcome unknown"),
    error_code(77, "not allowed"),
    error_code(78, "configuration")
)]
struct Arguments {
    /// cluster file, or $STABLECHAT_CLUSTER, or in ~/.config
    #[argh(option, arg_name = "file")]
    cluster: Option<PathBuf>,
    /// keys of all clusters, or $STABLECHAT_KEYS, or in ~/.local
    #[argh(option, arg_name = "dir")]
    keys: Option<PathBuf>,
    /// the account to speak as, or $STABLECHAT_USER
    #[argh(option, long = "as", arg_name = "name")]
    account: Option<AccountName>,
    /// its password, for machines without its key
    #[argh(option, arg_name = "file")]
    password_file: Option<PathBuf>,
    /// write one JSON object a line
    #[argh(switch)]
    json: bool,
    /// show the first answer (first), or each replica's (all)
    #[argh(option, arg_name = "which", default = "Replies::First")]
    replies: Replies,
    #[argh(subcommand)]
    command: Option<Subcommand>,
}

/// Which answers are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replies {
    First,
    All,
}

impl FromStr for Replies {
    type Err = String;
    fn from_str(text: &str) -> Result<Replies, String> {
        match text {
            "first" => Ok(Replies::First),
            "all" => Ok(Replies::All),
            _ => Err("it is either first or all".into()),
        }
    }
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
enum Subcommand {
    Create(Create),
    Password(Password),
    Key(Key),
    Delete(Delete),
    List(List),
    Send(Send),
    Unread(Unread),
    Listen(Listen),
    History(History),
    Status(Status),
    Probe(Probe),
    Admin(Admin),
}

/// Make an account, and a key for it.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "create",
    example = "stablechat create alice\nstablechat create alice --password",
    note = "With a password the account can be used from any machine by anybody who knows it.
It is asked for, or read from --password-file. It does not leave this machine."
)]
struct Create {
    /// an operator's invitation, if accounts need one
    #[argh(option, arg_name = "code", from_str_fn(parse_code))]
    invitation: Option<InvitationCode>,
    /// derive the key from a password
    #[argh(switch)]
    password: bool,
    /// its name: 1 to 32 of a-z 0-9 _ -, a letter first
    #[argh(positional)]
    name: AccountName,
}

/// Give your account a password, or another one.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "password",
    example = "stablechat password --as alice",
    note = "The key that the account had opens nothing any more, nor does its earlier password,
which --password-file names. Its other connections end."
)]
struct Password {
    /// the new password; without it, it is asked for
    #[argh(option, arg_name = "file")]
    new_password_file: Option<PathBuf>,
}

/// Give your account a new key, in a file on this machine.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "key",
    example = "stablechat key rotate --as alice",
    note = "The key that the account had is set aside, and opens nothing any more, nor does a
password. The account's other connections end. If it is not known whether it took
effect, give the command again."
)]
struct Key {
    /// rotate
    #[argh(positional)]
    action: KeyAction,
}

/// What is done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyAction {
    Rotate,
}

impl FromStr for KeyAction {
    type Err = String;
    fn from_str(text: &str) -> Result<KeyAction, String> {
        match text {
            "rotate" => Ok(KeyAction::Rotate),
            _ => Err("it is: key rotate".into()),
        }
    }
}

/// End an account with its unread messages; set its key aside.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "delete",
    example = "stablechat delete alice",
    note = "The key is renamed to NAME.key.deleted-TIME in the directory of the cluster's keys."
)]
struct Delete {
    /// its name
    #[argh(positional)]
    name: AccountName,
}

/// Show the accounts, one a line.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "list",
    example = "stablechat list 'a*'",
    note = "Accounts are listed to accounts only: to that of --as, or to one whose key is on this
machine."
)]
struct List {
    /// only those that match: * stands for any characters, ? for one
    #[argh(positional)]
    glob: Option<Pattern>,
}

/// Send a message.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "send",
    example = "stablechat send --as alice bob 'hello, bob'\ndf -h | stablechat send --as alice --id disks-today bob",
    note = "With --id, giving the same command again after any failure sends the message once.
This holds for 24 hours. Another text with the same key is an error, and is not
sent.
Options are taken anywhere before --; what follows that is text."
)]
struct Send {
    /// a key of your choice that makes repeating safe for 24 hours
    #[argh(option, arg_name = "key")]
    id: Option<String>,
    /// to whom
    #[argh(positional)]
    name: AccountName,
    /// what to say; without it, standard input to its end
    #[argh(positional, greedy)]
    text: Vec<String>,
}

/// Show unread messages, oldest first, and leave them unread.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "unread", example = "stablechat unread --as bob")]
struct Unread {}

/// Show messages as they come, the unread ones first.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "listen", example = "stablechat listen --as bob --json | my-bot")]
struct Listen {
    /// end when the unread ones are shown
    #[argh(switch)]
    once: bool,
}

/// Show the last messages exchanged with someone, oldest first.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "history", example = "stablechat history bob 5 --as alice")]
struct History {
    /// with whom
    #[argh(positional)]
    name: AccountName,
    /// how many (20)
    #[argh(positional, from_str_fn(parse_count), default = "HISTORY_DEFAULT")]
    count: u32,
}

/// Show what the replicas do, and whether they are the same.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "status",
    example = "stablechat status\nstablechat status --json",
    note = "log, state: digests. lag: how far behind its clock a replica has closed.
links: the peers that it consults, a dash before those it does not.
answers: by the closed test / by the real-time test.
It asks as the account of --as, or one whose key is here. Strangers are told less.",
    error_code(0, "all replicas serve and are the same"),
    error_code(1, "they do not, or are not, or it is not known"),
    error_code(69, "no replica reachable")
)]
struct Status {
    /// show it every second until Ctrl-C, and exit as of the last
    #[argh(switch)]
    watch: bool,
}

/// Measure network and clocks, and say whether Δ is enough.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "probe",
    example = "stablechat probe --seconds 60",
    note = "Δ is the delivery bound, delivery_bound_ms in the cluster file. It has to be at least
N(δ+ε) for N replicas: δ is how long a request takes from one to the next, ε by
how much their clocks differ.",
    error_code(0, "the bound holds"),
    error_code(1, "it does not, or not all was measured"),
    error_code(69, "no replica reachable")
)]
struct Probe {
    /// for how long (10)
    #[argh(option, arg_name = "n", from_str_fn(parse_seconds), default = "probe::SECONDS_DEFAULT")]
    seconds: u32,
}

/// Say who may have an account, for operators.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "admin",
    example = "stablechat admin registration invitation\nstablechat admin invite",
    note = "Without a word: the settings, and the open invitations.
  registration WHO    open (anybody may create an account), invitation, closed
  invite              a code with which one account can be created
  revoke CODE         close an invitation, by its code or its digest
  quota accounts N    how many accounts there may be
  quota unread N      how many unread messages an account may have
  remove NAME         end an account, with its unread messages
  reset NAME          a new password, if the owner has lost the key
It speaks as operator, with the key that stablechatd init has made.
Each replica notes each request in its log."
)]
struct Admin {
    /// one of those below
    #[argh(positional)]
    words: Vec<String>,
}

/// The options and subcommands, for manual pages and completions.
pub fn information() -> CommandInfoWithArgs {
    Arguments::get_args_info()
}

/// A command line that was understood.
pub enum Parsed {
    /// Something to do.
    Run(Box<AppSettings>),
    /// The network is to be measured.
    Probe(ProbeSettings),
    /// The replicas are to be watched.
    Watch(WatchSettings),
    /// A text for standard output, and nothing to do.
    Help(String),
}

/// Reads the command line, the environment, the cluster file and, for some commands, a key and standard input.
///
/// # Errors
/// Something is missing or wrong; its code is that of the module [`crate::cli::exit`].
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed, Failure> {
    match stablechat_command_line::parse("stablechat", arguments) {
        Ok(arguments) => plan(arguments),
        Err(Early::Help(text)) => Ok(Parsed::Help(text)),
        Err(Early::Usage(fault)) => Err(Failure::new(exit::USAGE, fault)),
    }
}

fn plan(arguments: Arguments) -> Result<Parsed, Failure> {
    let Arguments { cluster, keys, account, password_file, json, replies, command } = arguments;
    // Faults of the command itself are reported before anything is read.
    let account = account.map_or_else(account_from_environment, |account| Ok(Some(account)))?;
    let (cluster, tls) = read_cluster(places::cluster_file(cluster)?)?;
    let keys = Keys::new(&places::key_directory(keys)?, &cluster);
    let secrets = Secrets { keys: &keys, cluster: &cluster.id, password_file: password_file.as_deref() };
    let (mode, start) = match command {
        None if io::stdin().is_terminal() && io::stdout().is_terminal() => (Mode::Prompt, lines(account, &secrets)?),
        None => (Mode::Filter, lines(account, &secrets)?),
        Some(Subcommand::Create(create)) => (Mode::Once, start_create(create, &secrets)?),
        Some(Subcommand::Password(password)) => (Mode::Once, start_password(password, account, &secrets)?),
        Some(Subcommand::Key(Key { action: KeyAction::Rotate })) => {
            let account = required(account, "key rotate", &keys)?;
            not_operator(&account)?;
            (Mode::Once, speaking(secrets.credentials(&account)?, None, Verb::SetKey { name: account }))
        }
        Some(Subcommand::Delete(Delete { name })) => {
            let typed = secrets.typed(&name)?;
            (Mode::Once, Start { typed, ..once(Verb::Delete { name }) })
        }
        Some(Subcommand::List(List { glob })) => {
            let account = onlooker(account, &secrets)?.map(|credentials| (credentials, None));
            (Mode::Once, Start { account, ..once(Verb::List { pattern: glob.unwrap_or_else(Pattern::all) }) })
        }
        Some(Subcommand::Status(Status { watch: false })) => {
            let account = onlooker(account, &secrets)?.map(|credentials| (credentials, None));
            (Mode::Once, Start { account, ..once(Verb::Status) })
        }
        Some(Subcommand::Status(Status { watch: true })) => {
            let credentials = onlooker(account, &secrets)?;
            return Ok(Parsed::Watch(WatchSettings { cluster, tls, credentials, json }));
        }
        Some(Subcommand::Probe(Probe { seconds })) => {
            let credentials = onlooker(account, &secrets)?;
            return Ok(Parsed::Probe(ProbeSettings { cluster, tls, credentials, seconds, json }));
        }
        Some(Subcommand::Admin(Admin { words })) => {
            let verb = admin::read(&words, &cluster.id)?;
            (Mode::Once, speaking(operator(&secrets)?, None, verb))
        }
        Some(Subcommand::Listen(Listen { once })) => {
            let mode = if once { Mode::Once } else { Mode::Listen };
            let name = required(account, "listen", &keys)?;
            let typed = secrets.typed(&name)?;
            (mode, Start { first: Some(Verb::Connect { name }), typed, ends: once, ..Start::default() })
        }
        Some(Subcommand::Send(Send { id, name, text })) => {
            let text = if text.is_empty() { read_text()? } else { text.join(" ") };
            let text = MessageText::parse(text).map_err(|error| Failure::new(exit::USAGE, error.to_string()))?;
            let account = required(account, "send", &keys)?;
            (Mode::Once, speaking(secrets.credentials(&account)?, id.as_deref(), Verb::Send { to: name, text }))
        }
        Some(Subcommand::Unread(Unread {})) => {
            let account = required(account, "unread", &keys)?;
            (Mode::Once, speaking(secrets.credentials(&account)?, None, Verb::Unread))
        }
        Some(Subcommand::History(History { name, count })) => {
            let verb = Verb::History { with: name, limit: count };
            let account = required(account, "history", &keys)?;
            (Mode::Once, speaking(secrets.credentials(&account)?, None, verb))
        }
    };
    let all_replies = replies == Replies::All;
    Ok(Parsed::Run(Box::new(AppSettings { mode, json, all_replies, cluster, tls, keys, start })))
}

fn start_create(Create { invitation, password, name }: Create, secrets: &Secrets) -> Result<Start, Failure> {
    not_operator(&name)?;
    let file = secrets.password_file;
    let secret = (password || file.is_some()).then(|| secrets.new_key(&name, file)).transpose()?;
    let new_key = secret.map(|secret| NewKey { secret, is_kept: true });
    Ok(Start { new_key, ..once(Verb::Create { name, invitation }) })
}

fn start_password(
    Password { new_password_file }: Password,
    account: Option<AccountName>,
    secrets: &Secrets,
) -> Result<Start, Failure> {
    let account = required(account, "password", secrets.keys)?;
    not_operator(&account)?;
    let credentials = secrets.credentials(&account)?;
    let secret = secrets.new_key(&account, new_password_file.as_deref())?;
    // Where there was no key file, the password is asked for as before.
    let new_key = Some(NewKey { secret, is_kept: !credentials.is_from_password });
    Ok(Start { new_key, ..speaking(credentials, None, Verb::SetKey { name: account }) })
}

/// Reads the code of an invitation.
fn parse_code(text: &str) -> Result<InvitationCode, String> {
    InvitationCode::typed(text).map_err(|error| error.to_string())
}

/// Reads for how many seconds is measured.
fn parse_seconds(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(seconds) if (1..=probe::SECONDS_MAX).contains(&seconds) => Ok(seconds),
        _ => Err(format!("{text:?} is not a number of seconds from 1 to {}", probe::SECONDS_MAX)),
    }
}

/// A session of lines, which begins with a connect when an account is given.
fn lines(account: Option<AccountName>, secrets: &Secrets) -> Result<Start, Failure> {
    let typed = account.as_ref().map(|account| secrets.typed(account)).transpose()?.flatten();
    let first = account.map(|name| Verb::Connect { name });
    Ok(Start { first, typed, reads_lines: true, ..Start::default() })
}

/// The account that asks what any account may know: the one that is named, or one whose key is on this machine, an operator's if
/// there is one. Without any, a stranger asks, and is told little.
fn onlooker(account: Option<AccountName>, secrets: &Secrets) -> Result<Option<Credentials>, Failure> {
    if let Some(account) = account {
        return secrets.credentials(&account).map(Some);
    }
    // Nobody has asked for a certain key. So one that cannot be used is passed over.
    let mut accounts = secrets.keys.accounts().unwrap_or_default();
    accounts.sort_by_key(|name| !name.is_operator());
    Ok(accounts.iter().find_map(|name| load_credentials(secrets.keys, name).ok()))
}

/// The operator's credentials. They come from a file only.
fn operator(secrets: &Secrets) -> Result<Credentials, Failure> {
    let name = AccountName::operator();
    let secret = secrets::load(secrets.keys, &name)?;
    let secret =
        secret.ok_or_else(|| Failure::new(exit::CONFIGURATION, advice::no_operators_key(&secrets.keys.path(&name))))?;
    Ok(Credentials { account: name, secret, is_from_password: false })
}

/// Refuses a name under which there is no account.
fn not_operator(name: &AccountName) -> Result<(), Failure> {
    match name.is_operator() {
        true => {
            Err(Failure::new(exit::USAGE, "operator is no account: stablechatd operator-key makes keys of operators"))
        }
        false => Ok(()),
    }
}

/// One verb in nobody's name.
fn once(verb: Verb) -> Start {
    Start { first: Some(verb), ends: true, ..Start::default() }
}

/// One verb in an account's name, and with a key of the user's choice in a session of its own.
fn speaking(credentials: Credentials, id: Option<&str>, verb: Verb) -> Start {
    let client = id.map(|id| ClientId::derive(&credentials.secret, &credentials.account, id));
    Start { account: Some((credentials, client)), ..once(verb) }
}

fn required(account: Option<AccountName>, command: &str, keys: &Keys) -> Result<AccountName, Failure> {
    account.ok_or_else(|| {
        // A directory that cannot be read is told of when it is needed; the command to copy is of use without it.
        let accounts = keys.accounts().unwrap_or_default();
        Failure::new(exit::USAGE, advice::account_needed(command, &accounts))
    })
}

fn account_from_environment() -> Result<Option<AccountName>, Failure> {
    let Some(name) = std::env::var_os("STABLECHAT_USER").filter(|name| !name.is_empty()) else { return Ok(None) };
    let account = AccountName::parse(name.to_string_lossy());
    account.map(Some).map_err(|error| Failure::new(exit::USAGE, format!("STABLECHAT_USER: the name {error}")))
}

fn read_cluster(file: ClusterFile) -> Result<(Cluster, TlsDialer), Failure> {
    let ClusterFile { path, named_by } = file;
    let named = match named_by {
        NamedBy::Option => " (named by --cluster)",
        NamedBy::Environment => " (named by STABLECHAT_CLUSTER)",
        NamedBy::Default => "",
    };
    let text = std::fs::read_to_string(&path).map_err(|error| match (error.kind(), named_by) {
        (io::ErrorKind::NotFound, NamedBy::Default) => advice::no_cluster_file(&path),
        _ => format!("cannot read the cluster file {}{named}: {error}", path.display()),
    });
    let cluster = text.and_then(|text| {
        Cluster::parse(&text).map_err(|error| format!("the cluster file {}{named}: {error}", path.display()))
    });
    let trusted = cluster.and_then(|cluster| match TlsDialer::for_client(&cluster.ca) {
        Ok(tls) => Ok((cluster, tls)),
        Err(error) => Err(format!(
            "the cluster file {}{named}: its `ca`, the certificate of the cluster's authority: {error}; ask the operator for the \
             file that `stablechatd init` has made",
            path.display()
        )),
    });
    trusted.map_err(|fault| Failure::new(exit::CONFIGURATION, fault))
}

/// Standard input to its end as a message, without the end of its last line.
fn read_text() -> Result<String, Failure> {
    let mut text = Vec::new();
    // Two bytes more than a message has: a line's end, and one that shows that it is too long.
    let read = io::stdin().take(TEXT_MAX as u64 + 2).read_to_end(&mut text);
    read.map_err(|error| Failure::new(exit::USAGE, format!("standard input cannot be read: {error}")))?;
    if text.last() == Some(&b'\n') {
        text.pop();
    }
    if text.len() > TEXT_MAX {
        return Err(Failure::new(exit::USAGE, format!("the text has more than {TEXT_MAX} bytes")));
    }
    String::from_utf8(text).map_err(|_| Failure::new(exit::USAGE, "the text is not UTF-8"))
}
