//! Runs golden scripts against a store in memory.
//!
//! A command's prefix is the account that it speaks for; without one it speaks for nobody. By default a command is the next
//! of the session that is named after its actor, a millisecond after the one before it; `session=`, `sequence=` and `at=` (a
//! log time in seconds) say otherwise. `key=` names the account whose key is used instead of the actor's own. `times=` repeats a
//! command.
//! Messages are called m1, m2, … in the order in which they were sent. A conversation is the name of an account or of a room, or
//! `bob@1` for the first account of the name bob, once it is deleted. `read` names the messages that were shown.

use super::{account, actor, identity, key};
use crate::store::{Audience, ChatStore, Delivery, Location, Outcome, RoomOutcome};
use goldenscript::{Argument, ArgumentConsumer, Context, Runner};
use stablechat_protocol::answer::{Answer, QueryAnswer};
use stablechat_protocol::command::{Command, Query};
use stablechat_protocol::conversation::{Conversation, InboxEntry, Message, Page, ReadRange, UidSum};
use stablechat_protocol::login::SecretKey;
use stablechat_protocol::name::{AccountName, Pattern};
use stablechat_protocol::operator::{InitialSettings, Operation, Quota};
use stablechat_protocol::request::{Actor, QueryRequest, Request};
use stablechat_protocol::room::{RoomAction, RoomInfo, RoomName, Topic};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::text::MessageText;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1000 * MILLISECOND;

/// A store in memory, and the names that a script has for its sessions and messages.
pub struct Script {
    location: Location,
    /// None only while it is opened again.
    store: Option<ChatStore>,
    /// The timestamp of the last command.
    time: Timestamp,
    /// The last sequence number of each session.
    sessions: BTreeMap<String, u64>,
    /// The messages, m1 first.
    messages: Vec<Uid>,
    /// The requests that created accounts.
    created: Vec<(AccountName, Uid)>,
}

impl Script {
    /// A new store, at one second of log time.
    pub fn new() -> Script {
        let location = Location::in_memory().expect("memory can be had");
        let store =
            Some(ChatStore::open(&location, &identity("a"), &InitialSettings::OPEN).expect("a new store opens"));
        Script {
            location,
            store,
            time: Timestamp(SECOND),
            sessions: BTreeMap::new(),
            messages: Vec::new(),
            created: Vec::new(),
        }
    }

    fn store(&mut self) -> &mut ChatStore {
        self.store.as_mut().expect("it is open between commands")
    }

    /// Loses the uncommitted requests, as a crash does, and opens the store again.
    fn reopen(&mut self) -> Result<String> {
        self.store = None;
        let store = ChatStore::open(&self.location, &identity("a"), &InitialSettings::OPEN)?;
        let text = format!("epoch {}, {} requests applied\n", store.epoch(), store.applied().position);
        self.store = Some(store);
        Ok(text)
    }

    /// The place of the next command in log time.
    fn next_time(&mut self, arguments: &mut ArgumentConsumer<'_>) -> Result<Timestamp> {
        self.time = match arguments.take_key("at") {
            Some(seconds) => Timestamp(seconds.parse::<u64>()? * SECOND),
            None => Timestamp(self.time.0 + MILLISECOND),
        };
        Ok(self.time)
    }

    /// Applies a command.
    fn apply(
        &mut self,
        prefix: Option<&str>,
        command: Command,
        arguments: &mut ArgumentConsumer<'_>,
    ) -> Result<String> {
        let time = self.next_time(arguments)?;
        let session = arguments.take_key("session").or(prefix).unwrap_or("nobody").to_string();
        let last = self.sessions.entry(session.clone()).or_default();
        let sequence = arguments.take_key("sequence").map_or(Ok(*last + 1), str::parse)?;
        *last = sequence.max(*last);
        let actor = speaker(prefix, arguments)?;
        arguments.reject_next()?;
        let request = Request { client: client(&session), sequence, actor, command };
        let uid = request.uid(time);
        let Outcome { answer, delivery, room, .. } = self.store().apply(uid, &request)?;
        let mut text = match &answer {
            Answer::Done => "done\n".to_string(),
            Answer::Rejected { reason } => format!("rejected: {reason}\n"),
        };
        if let (Answer::Done, Command::Create { name, .. }) = (&answer, request.command) {
            self.created.push((name, uid));
        }
        if let Some(Delivery { message, audience }) = delivery {
            self.messages.push(uid);
            let to = match audience {
                Audience::Pair { sender, recipient } if sender == recipient => sender.account.to_string(),
                Audience::Pair { sender, recipient } => format!("{} and {}", recipient.account, sender.account),
                Audience::Room { .. } => "the room".into(),
            };
            writeln!(text, "to connections of {to}: {}", self.describe(&message))?;
        }
        if let Some(RoomOutcome { news, other, .. }) = room {
            let other = other.map(|other| format!(", for {}", other.account)).unwrap_or_default();
            writeln!(text, "news of {}: {} {:?}{other}", news.room, news.by, news.action)?;
        }
        Ok(text)
    }

    /// Answers a query, at the time of the last command.
    fn query(&mut self, prefix: Option<&str>, query: Query, arguments: &mut ArgumentConsumer<'_>) -> Result<String> {
        let query = QueryRequest { id: 1, actor: speaker(prefix, arguments)?, query };
        arguments.reject_next()?;
        let mut text = String::new();
        match self.store().query(&query)? {
            QueryAnswer::Rejected { reason } => writeln!(text, "rejected: {reason}")?,
            QueryAnswer::Accounts { names, next } => {
                let count = names.len();
                writeln!(
                    text,
                    "{}",
                    names.iter().fold(format!("{count} names"), |line, name| format!("{line} {name}"))
                )?;
                next.iter().try_for_each(|next| writeln!(text, "more after {next}"))?;
            }
            QueryAnswer::Messages { messages, earlier, later } => {
                messages.iter().try_for_each(|message| writeln!(text, "{}", self.describe(message)))?;
                let more = match (earlier, later) {
                    (false, false) => "no more",
                    (true, false) => "earlier ones",
                    (false, true) => "later ones",
                    (true, true) => "earlier and later ones",
                };
                writeln!(text, "{more}")?;
            }
            QueryAnswer::Inbox { entries, invitations, next } => {
                for InboxEntry { conversation, unread, is_muted, is_request, .. } in entries {
                    let muted = if is_muted { ", muted" } else { "" };
                    let request = if is_request { ", a request" } else { "" };
                    writeln!(text, "{conversation}: {unread} unread{muted}{request}")?;
                }
                invitations.iter().try_for_each(|one| writeln!(text, "invited to {} by {}", one.room, one.by))?;
                writeln!(text, "{}", if next.is_some() { "and more" } else { "no more" })?;
            }
            QueryAnswer::Rooms { rooms, next } => {
                for RoomInfo { name, is_private, members, owner, topic, standing } in rooms {
                    let private = if is_private { "private, " } else { "" };
                    writeln!(text, "{name}: {private}{members} members, of {owner}, {topic:?}, {standing:?}")?;
                }
                writeln!(text, "{}", if next.is_some() { "and more" } else { "no more" })?;
            }
            QueryAnswer::Members { members, next } => {
                members.iter().try_for_each(|member| writeln!(text, "{}", member.name))?;
                writeln!(text, "{}", if next.is_some() { "and more" } else { "no more" })?;
            }
            QueryAnswer::Settings { settings, invitations } => writeln!(text, "{settings:?}, {invitations:?}")?,
        }
        Ok(text)
    }

    /// A message, by its short name.
    fn describe(&self, message: &Message) -> String {
        let number = self.messages.iter().position(|uid| *uid == message.uid).map_or(0, |index| index + 1);
        format!("m{number} {}. {} to {}: {:?}", message.position, message.from, message.to, message.text)
    }

    /// The uid of a message with a short name.
    fn uid(&self, name: &str) -> Result<Uid> {
        let index = name.strip_prefix('m').and_then(|number| number.parse::<usize>().ok()?.checked_sub(1));
        Ok(*index.and_then(|index| self.messages.get(index)).ok_or("there is no such message")?)
    }

    /// The uid under a key, if there is one.
    fn uid_option(&self, arguments: &mut ArgumentConsumer<'_>, key: &str) -> Result<Option<Uid>> {
        arguments.take_key(key).map(|name| self.uid(name)).transpose()
    }

    /// The conversation of this name.
    fn conversation(&self, name: &str) -> Result<Conversation> {
        if name.starts_with('#') {
            return Ok(Conversation::Room { name: RoomName::parse(name)? });
        }
        let Some((name, number)) = name.split_once('@') else { return Ok(Conversation::with(&account(name))) };
        let (name, number) = (account(name), number.parse::<usize>()?);
        let mut created = self.created.iter().filter(|(other, _)| *other == name);
        let (_, account) = created.nth(number - 1).ok_or("there was no such account")?;
        Ok(Conversation::Former { name, account: *account })
    }

    /// The range of the messages that a command names, unless it says otherwise.
    fn range(&self, arguments: &mut ArgumentConsumer<'_>) -> Result<ReadRange> {
        let (after, up_to) = (self.uid_option(arguments, "after")?, self.uid_option(arguments, "up-to")?);
        let count = arguments.take_key("count").map(str::parse).transpose()?;
        let names: Vec<&str> = std::iter::from_fn(|| arguments.next_pos()).collect();
        let uids: Vec<Uid> = names.into_iter().map(|name| self.uid(name)).collect::<Result<_>>()?;
        let named =
            ReadRange::of(&uids).unwrap_or(ReadRange { after: Uid::MIN, up_to: Uid::MIN, count: 0, sum: UidSum::ZERO });
        Ok(ReadRange {
            after: after.unwrap_or(named.after),
            up_to: up_to.unwrap_or(named.up_to),
            count: count.unwrap_or(named.count),
            ..named
        })
    }

    /// What a command does with a room.
    fn room(&self, name: &str, arguments: &mut ArgumentConsumer<'_>) -> Result<Option<Command>> {
        let is_room = matches!(name, "room" | "join" | "leave" | "invite" | "remove" | "topic" | "give" | "close");
        if !is_room {
            return Ok(None);
        }
        let room = RoomName::parse(positional(arguments)?)?;
        let action = match name {
            "room" => RoomAction::Create { is_private: arguments.next_pos() == Some("private") },
            "join" => RoomAction::Join,
            "leave" => RoomAction::Leave,
            "invite" => RoomAction::Invite { name: account(positional(arguments)?) },
            "remove" => RoomAction::Remove { name: account(positional(arguments)?) },
            "topic" => RoomAction::SetTopic { topic: Topic::parse(positional(arguments)?)? },
            "give" => RoomAction::GiveTo { name: account(positional(arguments)?) },
            _ => RoomAction::Close,
        };
        Ok(Some(Command::Room { room, action }))
    }

    /// The commands that change the state.
    fn command(&self, name: &str, arguments: &mut ArgumentConsumer<'_>) -> Result<Option<Command>> {
        if let Some(command) = self.room(name, arguments)? {
            return Ok(Some(command));
        }
        Ok(Some(match name {
            "create" => {
                let name = account(positional(arguments)?);
                Command::Create { key: key(arguments.take_key("key").unwrap_or(name.as_str())), name, invitation: None }
            }
            "delete" => Command::Delete,
            "set-key" => Command::SetKey { key: key(positional(arguments)?) },
            "send" => {
                let to = self.conversation(positional(arguments)?)?;
                Command::Send { to, text: MessageText::parse(positional(arguments)?)? }
            }
            "read" => {
                let conversation = self.conversation(positional(arguments)?)?;
                Command::Read { conversation, range: self.range(arguments)? }
            }
            "block" | "unblock" => {
                Command::Block { name: account(positional(arguments)?), is_blocked: name == "block" }
            }
            "mute" | "unmute" => {
                let conversation = self.conversation(positional(arguments)?)?;
                Command::Mute { conversation, is_muted: name == "mute" }
            }
            "idle" => Command::Block { name: account("nobody"), is_blocked: false },
            "retention" => {
                Command::Operate { operation: Operation::SetRetention { seconds: positional(arguments)?.parse()? } }
            }
            "requests" => {
                let limit = positional(arguments)?.parse()?;
                Command::Operate { operation: Operation::SetQuota { quota: Quota::Requests, limit } }
            }
            "end" => {
                Command::Operate { operation: Operation::CloseRoom { room: RoomName::parse(positional(arguments)?)? } }
            }
            _ => return Ok(None),
        }))
    }

    /// The queries.
    fn parse_query(&self, name: &str, arguments: &mut ArgumentConsumer<'_>) -> Result<Option<Query>> {
        let limit = arguments.take_key("limit").map_or(Ok(1000), str::parse)?;
        Ok(Some(match name {
            "list" => {
                let after = arguments.take_key("after").map(account);
                Query::List { pattern: Pattern::parse(positional(arguments)?)?, after, limit }
            }
            "inbox" => Query::Inbox { all: arguments.next_pos() == Some("all"), after: None, limit },
            "history" => {
                let conversation = self.conversation(positional(arguments)?)?;
                let mut key = |key| self.uid_option(arguments, key);
                let page = match (key("before")?, key("after")?, key("around")?) {
                    (Some(uid), ..) => Page::Before { uid },
                    (_, Some(uid), _) => Page::After { uid },
                    (.., Some(uid)) => Page::Around { uid },
                    _ => Page::Latest,
                };
                Query::History { conversation, page, limit }
            }
            "unread" => {
                let conversation = self.conversation(positional(arguments)?)?;
                let after = self.uid_option(arguments, "after")?.unwrap_or(Uid::MIN);
                Query::History { conversation, page: Page::Unread { after }, limit }
            }
            "rooms" => {
                let after = arguments.take_key("after").map(RoomName::parse).transpose()?;
                Query::Rooms { pattern: Pattern::parse(arguments.next_pos().unwrap_or("*"))?, after, limit }
            }
            "members" => Query::Members { room: RoomName::parse(positional(arguments)?)?, after: None, limit },
            "blocked" => Query::Blocked,
            _ => return Ok(None),
        }))
    }

    /// Repeats a command so many times, with the number of the repetition in the place of `%`. The output is the last one.
    fn repeat(&mut self, times: u32, command: &goldenscript::Command, context: &Context) -> Result<String> {
        let mut output = String::new();
        for number in 1..=times {
            let mut command = command.clone();
            for argument in &mut command.args {
                if let Argument::Positional(text) = argument {
                    *text = text.replace('%', &number.to_string());
                }
            }
            command.args.retain(|argument| !matches!(argument, Argument::KeyValue(key, _) if key == "times"));
            output = self.run(&command, context)?;
        }
        Ok(output)
    }
}

impl Runner for Script {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, context: &Context) -> Result<String> {
        let mut arguments = command.consume_args();
        if let Some(times) = arguments.take_key("times") {
            return self.repeat(times.parse()?, command, context);
        }
        let prefix = context.prefix.as_deref();
        if let Some(command) = self.command(&command.name, &mut arguments)? {
            return self.apply(prefix, command, &mut arguments);
        }
        if let Some(query) = self.parse_query(&command.name, &mut arguments)? {
            return self.query(prefix, query, &mut arguments);
        }
        arguments.reject_next()?;
        match command.name.as_str() {
            "commit" => self.store().commit().map(|()| String::new()).map_err(Into::into),
            "reopen" => self.reopen(),
            "check" => {
                self.store().commit()?;
                let report = self.store().check();
                Ok(format!("{} requests, {} rows, faults: {:?}\n", report.requests, report.rows, report.faults))
            }
            "digest" => Ok(format!("{:.8}\n", self.store().applied().state_digest.to_string())),
            name => Err(format!("there is no command {name}").into()),
        }
    }
}

/// The next positional argument.
fn positional<'a>(arguments: &mut ArgumentConsumer<'a>) -> Result<&'a str> {
    arguments.next_pos().ok_or_else(|| "an argument is missing".into())
}

/// The actor of a command with this prefix.
fn speaker(prefix: Option<&str>, arguments: &mut ArgumentConsumer<'_>) -> Result<Option<Actor>> {
    let held = arguments.take_key("key");
    Ok(prefix.map(|name| Actor { key: key(held.unwrap_or(name)), ..actor(name) }))
}

/// The session with this name.
fn client(session: &str) -> ClientId {
    ClientId::derive(&SecretKey::from_seed(&[0; 32]), &account("session"), session)
}
