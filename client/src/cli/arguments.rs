//! Reads the command line, and everything else that is read before the client starts.

mod forms;

use crate::cli::admin;
use crate::cli::advice;
use crate::cli::app::{AppSettings, Start};
use crate::cli::exit::{self, Failure};
use crate::cli::mode::Mode;
use crate::cli::places::{self, ClusterFile, NamedBy};
use crate::cli::probe::ProbeSettings;
use crate::cli::secrets::{self, NewKey, Secrets, load_credentials};
use crate::cli::verb::{self, Verb};
use crate::cli::watch::WatchSettings;
use crate::greeting::Credentials;
use crate::keys::Keys;
use argh::{ArgsInfo, CommandInfoWithArgs};
use forms::{
    Admin, Arguments, Block, Blocked, Create, Delete, Export, History, Inbox, Invite, Join, Key, KeyAction, Leave,
    List, Listen, Members, Mute, Password, Probe, Replies, Room, Rooms, Send, SetTopic, Status, Subcommand, Unblock,
    Unmute, Unread,
};
use stablechat_command_line::Early;
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::name::{AccountName, Pattern};
use stablechat_protocol::room::{RoomAction, Topic};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::text::{MessageText, TEXT_MAX};
use stablechat_transport::TlsDialer;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Read};

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
    let Arguments { cluster, keys, account, password_file, json, replies, color, command } = arguments;
    // An export is for programs.
    let json = json || matches!(command, Some(Subcommand::Export(_)));
    // Faults of the command itself are reported before anything is read.
    if let (Some(name), Some(Subcommand::Admin(_))) = (&account, &command)
        && !name.is_operator()
    {
        return Err(Failure::new(exit::USAGE, format!("admin speaks as operator, not as {name}: leave --as out")));
    }
    let account = account.map_or_else(account_from_environment, |account| Ok(Some(account)))?;
    let (cluster, tls) = read_cluster(places::cluster_file(cluster)?)?;
    let keys = Keys::new(&places::key_directory(keys)?, &cluster);
    let secrets = Secrets { keys: &keys, cluster: &cluster.id, password_file: password_file.as_deref() };
    let task = match command {
        None if io::stdin().is_terminal() && io::stdout().is_terminal() => {
            Task::Run(Mode::Prompt, Box::new(lines(account, &secrets)?))
        }
        None => Task::Run(Mode::Filter, Box::new(lines(account, &secrets)?)),
        Some(command) => task(command, account, &secrets)?,
    };
    let all_replies = replies == Replies::All;
    Ok(match task {
        Task::Run(mode, start) => {
            let (start, colours) = (*start, color.0);
            Parsed::Run(Box::new(AppSettings { mode, json, all_replies, cluster, tls, keys, colours, start }))
        }
        Task::Watch(credentials) => Parsed::Watch(WatchSettings { cluster, tls, credentials, json }),
        Task::Probe(credentials, seconds) => Parsed::Probe(ProbeSettings { cluster, tls, credentials, seconds, json }),
    })
}

/// What a command line asks for.
enum Task {
    Run(Mode, Box<Start>),
    Watch(Option<Credentials>),
    /// For so many seconds.
    Probe(Option<Credentials>, u32),
}

/// What a command asks for, in the name of the account that the command line or the environment names.
fn task(command: Subcommand, account: Option<AccountName>, secrets: &Secrets) -> Result<Task, Failure> {
    let all = |glob: Option<Pattern>| glob.unwrap_or_else(Pattern::all);
    let look =
        |account, verb| Ok(Start { account: onlooker(account, secrets)?.map(|found| (found, None)), ..once(verb) });
    let speak = |account, verb: Verb| {
        let account = required(account, verb.word(), secrets.keys)?;
        Ok(speaking(secrets.credentials(&account)?, None, verb))
    };
    let room = |account, room, action| speak(account, Verb::Room { room, action });
    let start = match command {
        Subcommand::Status(Status { watch: true }) => return Ok(Task::Watch(onlooker(account, secrets)?)),
        Subcommand::Probe(Probe { seconds }) => return Ok(Task::Probe(onlooker(account, secrets)?, seconds)),
        Subcommand::Listen(listen) => return listening(listen, account, secrets),
        Subcommand::Admin(Admin { words }) => {
            admin::read(&words, secrets.cluster).and_then(|verb| Ok(speaking(operator(secrets)?, None, verb)))
        }
        Subcommand::Create(create) => start_create(create, secrets),
        Subcommand::Password(password) => start_password(password, account, secrets),
        Subcommand::Key(Key { action: KeyAction::Rotate }) => start_rotation(account, secrets),
        Subcommand::Delete(Delete { name }) => {
            secrets.typed(&name).map(|typed| Start { typed, ..once(Verb::Delete { name }) })
        }
        Subcommand::Send(send) => start_send(send, account, secrets),
        Subcommand::List(List { glob }) => look(account, Verb::List { pattern: all(glob) }),
        Subcommand::Status(Status { watch: false }) => look(account, Verb::Status),
        Subcommand::Inbox(Inbox { all }) => speak(account, Verb::Inbox { all }),
        Subcommand::Unread(Unread {}) => speak(account, Verb::Unread),
        Subcommand::Export(Export {}) => speak(account, Verb::Export),
        Subcommand::History(History { with, count }) => speak(account, Verb::History { with, limit: count }),
        Subcommand::Rooms(Rooms { glob }) => speak(account, Verb::Rooms { pattern: all(glob) }),
        Subcommand::Room(Room { words }) => room_verb(&words).and_then(|verb| speak(account, verb)),
        Subcommand::Join(Join { room: name }) => room(account, name, RoomAction::Join),
        Subcommand::Leave(Leave { room: name }) => room(account, name, RoomAction::Leave),
        Subcommand::Members(Members { room }) => speak(account, Verb::Members { room }),
        Subcommand::Invite(Invite { room: of, name }) => room(account, of, RoomAction::Invite { name }),
        Subcommand::SetTopic(SetTopic { room: of, text }) => {
            topic(&text).and_then(|topic| room(account, of, RoomAction::SetTopic { topic }))
        }
        Subcommand::Block(Block { name }) => speak(account, Verb::Block { name, is_blocked: true }),
        Subcommand::Unblock(Unblock { name }) => speak(account, Verb::Block { name, is_blocked: false }),
        Subcommand::Blocked(Blocked {}) => speak(account, Verb::Blocked),
        Subcommand::Mute(Mute { conversation }) => speak(account, Verb::Mute { conversation, is_muted: true }),
        Subcommand::Unmute(Unmute { conversation }) => speak(account, Verb::Mute { conversation, is_muted: false }),
    };
    Ok(Task::Run(Mode::Once, Box::new(start?)))
}

fn room_verb(words: &[String]) -> Result<Verb, Failure> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    verb::parse_room(&words).map_err(|fault| Failure::new(exit::USAGE, fault))
}

fn topic(words: &[String]) -> Result<Topic, Failure> {
    Topic::parse(words.join(" ")).map_err(|error| Failure::new(exit::USAGE, error.to_string()))
}

fn listening(
    Listen { once, exec, conversations }: Listen,
    account: Option<AccountName>,
    secrets: &Secrets,
) -> Result<Task, Failure> {
    let name = required(account, "listen", secrets.keys)?;
    let typed = secrets.typed(&name)?;
    // A name with a mistake in it would be waited for without end.
    let found = conversations.iter().map(|conversation| Verb::Find { conversation: conversation.clone() });
    let first = std::iter::once(Verb::Connect { name }).chain(found).collect();
    let listens_to = conversations.into_iter().collect();
    let start = Start { first, typed, ends: once, listens_to, executes: exec, ..Start::default() };
    Ok(Task::Run(if once { Mode::Once } else { Mode::Listen }, Box::new(start)))
}

fn start_send(Send { id, to, text }: Send, account: Option<AccountName>, secrets: &Secrets) -> Result<Start, Failure> {
    let verb = Verb::Send { to, text: message_text(&text)? };
    let account = required(account, "send", secrets.keys)?;
    Ok(speaking(secrets.credentials(&account)?, id.as_deref(), verb))
}

fn start_rotation(account: Option<AccountName>, secrets: &Secrets) -> Result<Start, Failure> {
    let account = required(account, "key rotate", secrets.keys)?;
    Ok(speaking(secrets.credentials(&account)?, None, Verb::SetKey { name: account }))
}

fn start_create(Create { invitation, password, name }: Create, secrets: &Secrets) -> Result<Start, Failure> {
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
    let credentials = secrets.credentials(&account)?;
    let secret = secrets.new_key(&account, new_password_file.as_deref())?;
    // Where there was no key file, the password is asked for as before.
    let new_key = Some(NewKey { secret, is_kept: !credentials.is_from_password });
    Ok(Start { new_key, ..speaking(credentials, None, Verb::SetKey { name: account }) })
}

/// A session of lines, which begins with a connect when an account is given.
fn lines(account: Option<AccountName>, secrets: &Secrets) -> Result<Start, Failure> {
    let typed = account.as_ref().map(|account| secrets.typed(account)).transpose()?.flatten();
    let first = account.into_iter().map(|name| Verb::Connect { name }).collect();
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

/// One verb in nobody's name.
fn once(verb: Verb) -> Start {
    Start { first: vec![verb], ends: true, ..Start::default() }
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

/// The text that these words make up; without any, standard input.
fn message_text(words: &[String]) -> Result<MessageText, Failure> {
    let text = if words.is_empty() { read_text()? } else { words.join(" ") };
    MessageText::parse(text).map_err(|error| Failure::new(exit::USAGE, error.to_string()))
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
