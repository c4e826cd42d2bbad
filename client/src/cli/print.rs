//! How results are written: for people, or as one JSON object a line.

use crate::cli::admin;
use crate::cli::exit::Failure;
use crate::cli::messages::MessageStyle;
use crate::cli::rooms;
use crate::cli::status::ClusterStatus;
use crate::cli::verb::{HELP, word_for};
use crate::cli::visible::{json_line, visible};
use serde_json::{Value, json};
use stablechat_protocol::answer::Answer;
use stablechat_protocol::command::Command;
use stablechat_protocol::conversation::{Conversation, InboxEntry, Message};
use stablechat_protocol::name::{AccountName, ReplicaName};
use stablechat_protocol::operator::{OpenInvitation, Operation, Settings};
use stablechat_protocol::room::{Member, RoomAction, RoomInfo, RoomInvitation, RoomName, RoomNews};
use stablechat_protocol::time::utc;
use stablechat_protocol::uid::Uid;

/// How many characters of a message are shown where it is only named, so that a remark fits a line.
const SUBJECT_MAX: usize = 40;

/// An item, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub item: Item,
    /// The replica whose answer it is; `None` when it is not an answer.
    pub by: Option<Answerer>,
}

/// The replica that answered, with the facts that it sent beside the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answerer {
    pub replica: ReplicaName,
    /// How many replicas, itself included, are known to hold the request.
    pub copies: u8,
    /// How many replicas there are.
    pub replicas: usize,
    /// How many requests it had applied.
    pub position: u64,
}

/// An item of the output: a result, or a remark on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Created {
        name: AccountName,
    },
    Connected {
        name: AccountName,
    },
    /// The account has another key.
    KeySet {
        name: AccountName,
    },
    Deleted {
        name: AccountName,
    },
    Sent {
        to: Conversation,
        uid: Uid,
        /// The place of the request in the session.
        sequence: u64,
    },
    /// An account that exists.
    Account {
        name: AccountName,
    },
    /// A message of a conversation of the account in use, which is `reader`.
    Message {
        message: Message,
        reader: Option<AccountName>,
    },
    /// A message of an exchange, in either direction.
    Exchanged(Message),
    /// A conversation of the account in use.
    Conversation(InboxEntry),
    /// An invitation to a room.
    Invited(RoomInvitation),
    /// A room that the account in use may know of.
    Room(RoomInfo),
    /// A member of a room.
    Member(Member),
    /// The account in use has done something with a room.
    RoomChanged {
        room: RoomName,
        action: RoomAction,
    },
    /// Something has happened in a room of the account in use.
    RoomNews(RoomNews),
    Blocked {
        name: AccountName,
        is_blocked: bool,
    },
    Muted {
        conversation: Conversation,
        is_muted: bool,
    },
    Status(ClusterStatus),
    /// What operators have set.
    Settings {
        settings: Settings,
        invitations: Vec<OpenInvitation>,
    },
    /// What an operator asked for is done.
    Operated {
        operation: Operation,
        secret: Option<String>,
    },
    /// The answer to a command is not the one that was shown.
    Changed {
        command: Command,
        /// The place of the command in the session.
        sequence: u64,
        /// The uid of the request that is answered now.
        uid: Uid,
        before: Answer,
        after: Answer,
    },
    Help,
    Failed {
        /// The line of standard input that asked for it, from 1.
        line: Option<u64>,
        verb: Option<&'static str>,
        failure: Failure,
    },
    /// Something a person should know, and no result.
    Notice(String),
}

/// A text, and the stream that it goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// To standard output; the text ends with a line's end.
    Result(String),
    /// To standard error.
    Remark(String),
}

/// Makes text of items.
#[derive(Clone, Debug)]
pub struct Printer {
    /// JSON rather than text for people.
    pub json: bool,
    /// Each answer has the name of its replica before it.
    pub all_replies: bool,
    /// Remarks begin with the program's name, which is needed where many programs share standard error.
    pub name_remarks: bool,
    pub messages: MessageStyle,
}

impl Printer {
    /// Writes an item: one text for each stream that gets one.
    pub fn write(&mut self, output: &Output) -> Vec<Written> {
        let mut written = Vec::new();
        match &output.item {
            Item::Notice(text) => written.push(self.remark(text)),
            Item::Status(status) if self.json => written.push(Written::Result(status.to_json_lines())),
            Item::Changed { command, before, after, .. } => {
                let (before, after) = (in_words(before), in_words(after));
                let text = format!("the answer to {} changed: it was {before}, it is {after}", subject(command));
                written.push(self.remark(&text));
            }
            Item::Failed { line, failure, .. } => {
                let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
                written.push(self.remark(&format!("{place}{}{failure}", self.prefix(output))));
            }
            _ if !self.json => {
                let results = self.text(output);
                written.push(Written::Result(format!("{}{results}\n", self.prefix(output))));
            }
            _ => {}
        }
        if self.json
            && let Some(mut object) = object(&output.item)
        {
            if let Some(by) = &output.by {
                object["replica"] = json!(by.replica.as_str());
                if self.all_replies {
                    object["copies"] = json!(by.copies);
                    object["position"] = json!(by.position);
                }
            }
            written.push(Written::Result(json_line(&object)));
        }
        written
    }

    fn remark(&self, text: &str) -> Written {
        let name = if self.name_remarks { "stablechat: " } else { "" };
        Written::Remark(format!("{name}{}\n", visible(text)))
    }

    /// The name of the replica, when each replica's answer is shown.
    fn prefix(&self, output: &Output) -> String {
        match &output.by {
            Some(by) if self.all_replies => format!("{}: ", by.replica),
            _ => String::new(),
        }
    }

    /// A result for people, without the end of its line.
    fn text(&mut self, output: &Output) -> String {
        let stored = match &output.by {
            Some(by) if self.all_replies => format!(" (stored on {} of {})", by.copies, by.replicas),
            _ => String::new(),
        };
        match &output.item {
            Item::Created { name } => format!("created {name}{stored}"),
            Item::Connected { name } => format!("connected as {name}"),
            Item::KeySet { name } => format!("{name} has another key{stored}"),
            Item::Deleted { name } => {
                format!("deleted {name}{stored}; what it has sent stays with those it was sent to")
            }
            Item::Sent { to, .. } => format!("sent to {to}{stored}"),
            Item::Account { name } => name.to_string(),
            Item::Message { message, reader } => self.messages.line(message, reader.as_ref()),
            Item::Exchanged(message) => self.messages.exchanged(message),
            Item::Conversation(InboxEntry { conversation, unread, is_muted, is_request, .. }) => {
                let muted = if *is_muted { ", muted" } else { "" };
                let request = if *is_request { ", not answered yet" } else { "" };
                format!("{conversation}: {unread} unread{muted}{request}")
            }
            Item::Invited(RoomInvitation { room, by, .. }) => format!("{by} invites you: join {room}"),
            Item::Room(room) => rooms::line(room),
            Item::Member(member) => member.name.to_string(),
            Item::RoomChanged { room, action } => format!("{}{stored}", rooms::done(room, action)),
            Item::RoomNews(news) => format!("[{}] {}", utc(news.uid.timestamp), rooms::news(news)),
            Item::Blocked { name, is_blocked: true } => format!("{name} is blocked{stored}"),
            Item::Blocked { name, is_blocked: false } => format!("{name} is not blocked{stored}"),
            Item::Muted { conversation, is_muted: true } => format!("{conversation} is muted{stored}"),
            Item::Muted { conversation, is_muted: false } => format!("{conversation} is not muted{stored}"),
            Item::Status(status) => status.to_text(),
            Item::Settings { settings, invitations } => admin::settings(settings, invitations),
            Item::Operated { operation, secret } => admin::done(operation, secret.as_deref()),
            Item::Help => HELP.to_string(),
            Item::Failed { failure, .. } => failure.to_string(),
            // They are remarks.
            Item::Notice(_) | Item::Changed { .. } => String::new(),
        }
    }
}

/// An item as JSON; `None` if it is no result.
fn object(item: &Item) -> Option<Value> {
    Some(match item {
        Item::Created { name } => json!({"type": "created", "name": name.as_str()}),
        Item::Connected { name } => json!({"type": "connected", "name": name.as_str()}),
        Item::KeySet { name } => json!({"type": "key-set", "name": name.as_str()}),
        Item::Deleted { name } => json!({"type": "deleted", "name": name.as_str()}),
        Item::Sent { to, uid, sequence } => {
            json!({"type": "sent", "to": to.to_string(), "uid": uid.to_string(), "sequence": sequence})
        }
        Item::Account { name } => json!({"type": "account", "name": name.as_str()}),
        Item::Message { message, .. } | Item::Exchanged(message) => json!({
            "type": "message",
            "uid": message.uid.to_string(),
            "time_ns": message.uid.timestamp.0,
            "from": message.from.as_str(),
            "to": message.to.to_string(),
            "text": message.text.as_str(),
        }),
        Item::Changed { command, sequence, uid, before, after } => json!({
            "type": "changed",
            "verb": verb(command),
            "sequence": sequence,
            "uid": uid.to_string(),
            "before": in_words(before),
            "after": in_words(after),
        }),
        Item::Conversation(InboxEntry { conversation, unread, last, is_muted, is_request }) => json!({
            "type": "conversation",
            "with": conversation.to_string(),
            "unread": unread,
            "last_ns": last.timestamp.0,
            "muted": is_muted,
            "request": is_request,
        }),
        Item::Invited(RoomInvitation { room, by, uid }) => {
            json!({"type": "invitation", "room": room.as_str(), "by": by.as_str(), "time_ns": uid.timestamp.0})
        }
        Item::Room(room) => rooms::as_json(room),
        Item::Member(Member { name, joined }) => {
            json!({"type": "member", "name": name.as_str(), "joined_ns": joined.timestamp.0})
        }
        Item::RoomChanged { room, action } => {
            let mut object = rooms::action_as_json(action);
            object["type"] = json!("room-changed");
            object["room"] = json!(room.as_str());
            object
        }
        Item::RoomNews(RoomNews { room, uid, by, action }) => {
            let mut object = rooms::action_as_json(action);
            object["type"] = json!("room-news");
            object["room"] = json!(room.as_str());
            object["by"] = json!(by.as_str());
            object["time_ns"] = json!(uid.timestamp.0);
            object
        }
        Item::Blocked { name, is_blocked } => json!({"type": "blocked", "name": name.as_str(), "blocked": is_blocked}),
        Item::Muted { conversation, is_muted } => {
            json!({"type": "muted", "with": conversation.to_string(), "muted": is_muted})
        }
        Item::Settings { settings, invitations } => admin::settings_as_json(settings, invitations),
        Item::Operated { operation, secret } => admin::done_as_json(operation, secret.as_deref()),
        Item::Help => json!({"type": "help", "text": HELP}),
        // Of a single command, the exit code says that it failed. Of several lines, a script has to know which one.
        Item::Failed { line, verb, failure } => {
            let mut object =
                json!({"type": "error", "line": (*line)?, "message": failure.message, "code": failure.code});
            if let Some(verb) = verb {
                object["verb"] = json!(verb);
            }
            object
        }
        // A status is several objects.
        Item::Notice(_) | Item::Status(_) => return None,
    })
}

/// The verb that issues a command.
fn verb(command: &Command) -> &'static str {
    match command {
        Command::Create { .. } => "create",
        Command::Delete => "delete",
        Command::Send { .. } => "send",
        Command::Read { .. } => "read",
        Command::SetKey { .. } => "set-key",
        Command::Operate { .. } => "admin",
        Command::Room { action, .. } => word_for(action),
        Command::Block { is_blocked: true, .. } => "block",
        Command::Block { is_blocked: false, .. } => "unblock",
        Command::Mute { is_muted: true, .. } => "mute",
        Command::Mute { is_muted: false, .. } => "unmute",
    }
}

/// A command in a few words, by which a person recognizes it.
fn subject(command: &Command) -> String {
    let verb = verb(command);
    match command {
        Command::Create { name, .. } => format!("{verb} {name}"),
        Command::Send { to, text } => {
            let is_cut = text.as_str().chars().nth(SUBJECT_MAX).is_some();
            let text: String = text.as_str().chars().take(SUBJECT_MAX).collect();
            format!("{verb} {to} \"{text}{}\"", if is_cut { "\u{2026}" } else { "" })
        }
        Command::Operate { operation } => format!("{verb} ({operation})"),
        Command::Room { room, .. } => format!("{verb} {room}"),
        Command::Block { name, .. } => format!("{verb} {name}"),
        Command::Mute { conversation, .. } => format!("{verb} {conversation}"),
        Command::Delete | Command::Read { .. } | Command::SetKey { .. } => verb.into(),
    }
}

/// An answer in a sentence.
fn in_words(answer: &Answer) -> String {
    match answer {
        Answer::Done => "done".into(),
        Answer::Rejected { reason } => format!("rejected: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stablechat_protocol::text::MessageText;
    use stablechat_protocol::time::Timestamp;

    fn name(text: &str) -> AccountName {
        AccountName::parse(text).expect("a name")
    }

    fn message(text: &str) -> Message {
        Message {
            uid: Uid { timestamp: Timestamp(1_795_336_205_000_000_001), digest: [7; 16] },
            position: 1,
            from: name("alice"),
            to: Conversation::with(&name("bob")),
            text: MessageText::parse(text).expect("a text"),
        }
    }

    fn by_a() -> Option<Answerer> {
        let replica = ReplicaName::parse("a").expect("a name");
        Some(Answerer { replica, copies: 1, replicas: 3, position: 9 })
    }

    fn write(json: bool, all_replies: bool, item: Item, by: Option<Answerer>) -> Vec<Written> {
        Printer { json, all_replies, name_remarks: true, messages: MessageStyle::plain() }.write(&Output { item, by })
    }

    fn result(text: &str) -> Vec<Written> {
        vec![Written::Result(format!("{text}\n"))]
    }

    #[test]
    fn results_for_people() {
        let sent = Item::Sent { to: Conversation::with(&name("bob")), uid: message("x").uid, sequence: 4 };
        assert_eq!(write(false, false, sent.clone(), by_a()), result("sent to bob"));
        assert_eq!(write(false, true, sent, by_a()), result("a: sent to bob (stored on 1 of 3)"));
        let to_bob = |text| Item::Message { message: message(text), reader: Some(name("bob")) };
        let incoming = to_bob("hi\x07");
        assert_eq!(write(false, true, incoming, None), result("[2026-11-22 08:30:05] alice: hi\u{2407}"));
        let exchanged = Item::Exchanged(message("hi"));
        assert_eq!(write(false, false, exchanged, by_a()), result("[2026-11-22 08:30:05] alice -> bob: hi"));
        let failed = Item::Failed { line: Some(3), verb: Some("send"), failure: Failure::new(1, "no\x1b") };
        let remark = Written::Remark("stablechat: line 3: no\u{241b}\n".into());
        assert_eq!(write(false, false, failed, by_a()), [remark]);
    }

    #[test]
    fn results_as_json() {
        let sent = Item::Sent { to: Conversation::with(&name("bob")), uid: message("x").uid, sequence: 4 };
        let Written::Result(text) = &write(true, true, sent, by_a())[0] else { panic!("a result") };
        let object: Value = serde_json::from_str(text).expect("JSON");
        let uid = message("x").uid.to_string();
        let expected = json!({"type": "sent", "to": "bob", "uid": uid, "sequence": 4, "replica": "a", "copies": 1,
            "position": 9});
        assert_eq!(object, expected);

        let Written::Result(text) = &write(true, false, Item::Exchanged(message("a\nb\x1b")), None)[0] else {
            panic!("a result")
        };
        assert_eq!(text.matches('\n').count(), 1, "one line");
        let object: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(object["text"], "a\nb\x1b");
        assert_eq!(object["time_ns"], 1_795_336_205_000_000_001_u64);

        let failed = Item::Failed { line: Some(3), verb: Some("send"), failure: Failure::new(1, "no") };
        let written = write(true, false, failed, None);
        let Written::Result(text) = &written[1] else { panic!("a result") };
        let expected = json!({"type": "error", "line": 3, "verb": "send", "message": "no", "code": 1});
        assert_eq!(serde_json::from_str::<Value>(text).expect("JSON"), expected);
        assert_eq!(written[0], Written::Remark("stablechat: line 3: no\n".into()));
        assert_eq!(write(true, false, Item::Notice("x".into()), None).len(), 1);
    }
}
