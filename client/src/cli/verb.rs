//! The verbs of the prompt and of lines of input, and how they are written.

use stablechat_protocol::conversation::Conversation;
use stablechat_protocol::name::{AccountName, Pattern};
use stablechat_protocol::operator::{InvitationCode, Operation};
use stablechat_protocol::room::{RoomAction, RoomName, Topic};
use stablechat_protocol::text::MessageText;

/// How many messages `history` shows when it is not told.
pub const HISTORY_DEFAULT: u32 = 20;
/// The most messages that `history` shows.
pub const HISTORY_MAX: u32 = 100_000;

/// The text of `help`.
pub const HELP: &str = "\
create NAME [CODE]        make an account, and a key for it; CODE is an invitation
connect NAME              speak as NAME, and get its messages
delete NAME               end the account NAME, and set its key aside
list [GLOB]               the accounts, or those that match: list a*
send WHERE TEXT...        send a message to an account, or to a #room; the text is sent as typed
to WHERE                  send typed lines there; verbs then begin with a /, and /to ends it
inbox [all]               conversations with something unread, and invitations
unread                    show unread messages, and leave them unread
history WHERE [N]         the last N messages exchanged there (20)
rooms [GLOB]              public rooms, and private ones that you are in or invited to
room create #ROOM [private]   make a public room, or one that only invited accounts join
join #ROOM                become a member
leave #ROOM               end your membership
members #ROOM             list its members
invite #ROOM NAME         let NAME join a private room, or tell NAME of another
topic #ROOM [TEXT...]     say what it is about (its owner)
room remove #ROOM NAME    end the membership of NAME (its owner)
room give #ROOM NAME      make NAME its owner (its owner)
room close #ROOM          end it, and remove its messages (its owner)
block NAME                get no messages from NAME any more
unblock NAME              get messages from NAME again
blocked                   list the accounts that you block
mute WHERE                do not show its messages as they come
unmute WHERE              show its messages as they come again
status                    the state of each replica, and whether they are equal
help                      this
quit                      end; so does Ctrl-D";

/// The request of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Make an account.
    Create { name: AccountName, invitation: Option<InvitationCode> },
    /// Use an account from here on, and receive its messages.
    Connect { name: AccountName },
    /// Find out whether there is a conversation, before listening to it. There is no such verb at the prompt.
    Find { conversation: Conversation },
    /// Give an account another key. There is no such verb at the prompt.
    SetKey { name: AccountName },
    /// End an account.
    Delete { name: AccountName },
    /// Show the accounts that match.
    List { pattern: Pattern },
    /// Send a message.
    Send { to: Conversation, text: MessageText },
    /// Send what is typed to a conversation, or take it as verbs again. Only at the prompt.
    To { conversation: Option<Conversation> },
    /// Write all messages that the account may read. There is no such verb at the prompt.
    Export,
    /// Show the conversations with something unread, or all.
    Inbox { all: bool },
    /// Show unread messages, which leaves them unread.
    Unread,
    /// Show the last messages of a conversation.
    History { with: Conversation, limit: u32 },
    /// Show the rooms that match.
    Rooms { pattern: Pattern },
    /// Show the members of a room.
    Members { room: RoomName },
    /// Do something with a room.
    Room { room: RoomName, action: RoomAction },
    /// Block an account, or do so no longer.
    Block { name: AccountName, is_blocked: bool },
    /// Show the accounts that are blocked.
    Blocked,
    /// Have no messages of a conversation shown as they come, or have them shown again.
    Mute { conversation: Conversation, is_muted: bool },
    /// Show what the replicas do, and whether they are the same.
    Status,
    /// Show the settings of operators. There is no such verb at the prompt.
    Settings,
    /// Do what only operators may do. There is no such verb at the prompt.
    Operate {
        operation: Operation,
        /// What to show when it is done, instead of saying so.
        secret: Option<String>,
    },
    /// Show the verbs.
    Help,
    /// End.
    Quit,
}

impl Verb {
    /// Reads a line of the prompt. `None` when there is nothing in it.
    ///
    /// # Errors
    /// It is not a verb with its arguments. The error is a message for a person.
    pub fn parse(line: &str) -> Result<Option<Verb>, String> {
        let line = line.trim_start_matches(is_blank);
        let (verb, rest) = split(line);
        let words: Vec<&str> = rest.split(is_blank).filter(|word| !word.is_empty()).collect();
        match (verb, words.as_slice()) {
            ("", _) => Ok(None),
            ("create", [name]) => Ok(Some(Verb::Create { name: account(name)?, invitation: None })),
            ("create", [name, code]) => {
                let invitation = Some(InvitationCode::typed(code).map_err(|error| error.to_string())?);
                Ok(Some(Verb::Create { name: account(name)?, invitation }))
            }
            ("connect", [name]) => Ok(Some(Verb::Connect { name: account(name)? })),
            ("delete", [name]) => Ok(Some(Verb::Delete { name: account(name)? })),
            ("list", []) => Ok(Some(Verb::List { pattern: Pattern::all() })),
            ("list", [glob]) => Ok(Some(Verb::List { pattern: pattern(glob)? })),
            ("send", [_, ..]) => parse_send(rest).map(Some),
            ("to", []) => Ok(Some(Verb::To { conversation: None })),
            ("to", [place]) => Ok(Some(Verb::To { conversation: Some(conversation(place)?) })),
            ("inbox", []) => Ok(Some(Verb::Inbox { all: false })),
            ("inbox", ["all"]) => Ok(Some(Verb::Inbox { all: true })),
            ("unread", []) => Ok(Some(Verb::Unread)),
            ("history", [place]) => Ok(Some(Verb::History { with: conversation(place)?, limit: HISTORY_DEFAULT })),
            ("history", [place, count]) => {
                Ok(Some(Verb::History { with: conversation(place)?, limit: parse_count(count)? }))
            }
            ("rooms", []) => Ok(Some(Verb::Rooms { pattern: Pattern::all() })),
            ("rooms", [glob]) => Ok(Some(Verb::Rooms { pattern: pattern(glob.trim_start_matches('#'))? })),
            ("members", [name]) => Ok(Some(Verb::Members { room: room(name)? })),
            ("join", [name]) => Ok(Some(Verb::Room { room: room(name)?, action: RoomAction::Join })),
            ("leave", [name]) => Ok(Some(Verb::Room { room: room(name)?, action: RoomAction::Leave })),
            ("invite", [name, guest]) => {
                Ok(Some(Verb::Room { room: room(name)?, action: RoomAction::Invite { name: account(guest)? } }))
            }
            ("topic", [_, ..]) => parse_topic(rest).map(Some),
            ("room", words) => parse_room(words).map(Some),
            ("block", [name]) => Ok(Some(Verb::Block { name: account(name)?, is_blocked: true })),
            ("unblock", [name]) => Ok(Some(Verb::Block { name: account(name)?, is_blocked: false })),
            ("blocked", []) => Ok(Some(Verb::Blocked)),
            ("mute", [place]) => Ok(Some(Verb::Mute { conversation: conversation(place)?, is_muted: true })),
            ("unmute", [place]) => Ok(Some(Verb::Mute { conversation: conversation(place)?, is_muted: false })),
            ("status", []) => Ok(Some(Verb::Status)),
            ("help", _) => Ok(Some(Verb::Help)),
            ("quit" | "exit", []) => Ok(Some(Verb::Quit)),
            _ => Err(complaint(verb)),
        }
    }

    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Verb::Create { .. } => "create",
            Verb::Connect { .. } => "connect",
            Verb::SetKey { .. } => "set-key",
            Verb::Delete { .. } => "delete",
            Verb::List { .. } => "list",
            Verb::Send { .. } => "send",
            Verb::To { .. } => "to",
            Verb::Find { .. } => "listen",
            Verb::Export => "export",
            Verb::Inbox { .. } => "inbox",
            Verb::Unread => "unread",
            Verb::History { .. } => "history",
            Verb::Rooms { .. } => "rooms",
            Verb::Members { .. } => "members",
            Verb::Room { action, .. } => word_for(action),
            Verb::Block { is_blocked: true, .. } => "block",
            Verb::Block { is_blocked: false, .. } => "unblock",
            Verb::Blocked => "blocked",
            Verb::Mute { is_muted: true, .. } => "mute",
            Verb::Mute { is_muted: false, .. } => "unmute",
            Verb::Status => "status",
            Verb::Settings | Verb::Operate { .. } => "admin",
            Verb::Help => "help",
            Verb::Quit => "quit",
        }
    }

    /// Whether it changes the account in use, or ends. Everything before it must be done first, and it before all that follows.
    pub fn is_barrier(&self) -> bool {
        matches!(self, Verb::Connect { .. } | Verb::SetKey { .. } | Verb::Delete { .. } | Verb::Quit)
    }
}

/// Reads how many messages are wanted.
///
/// # Errors
/// It is not a number from 1 to [`HISTORY_MAX`].
pub fn parse_count(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(count) if (1..=HISTORY_MAX).contains(&count) => Ok(count),
        _ => Err(format!("{text:?} is not a number from 1 to {HISTORY_MAX}")),
    }
}

/// The verb for an action.
pub fn word_for(action: &RoomAction) -> &'static str {
    match action {
        RoomAction::Join => "join",
        RoomAction::Leave => "leave",
        RoomAction::Invite { .. } => "invite",
        RoomAction::SetTopic { .. } => "topic",
        RoomAction::Create { .. } => "room create",
        RoomAction::Remove { .. } => "room remove",
        RoomAction::GiveTo { .. } => "room give",
        RoomAction::Close => "room close",
    }
}

/// Reads what follows the verb `room`.
///
/// # Errors
/// It is none of the forms that [`HELP`] has. The error is a message for a person.
pub fn parse_room(words: &[&str]) -> Result<Verb, String> {
    let (name, action) = match *words {
        ["create", name] => (name, RoomAction::Create { is_private: false }),
        ["create", name, "private"] => (name, RoomAction::Create { is_private: true }),
        ["remove", name, member] => (name, RoomAction::Remove { name: account(member)? }),
        ["give", name, heir] => (name, RoomAction::GiveTo { name: account(heir)? }),
        ["close", name] => (name, RoomAction::Close),
        _ => {
            let forms = "room create #ROOM [private], room remove #ROOM NAME, room give #ROOM NAME, room close #ROOM";
            return Err(format!("it is one of: {forms}"));
        }
    };
    Ok(Verb::Room { room: room(name)?, action })
}

/// After the name, exactly one blank is not text: runs of blanks, commas and quotes are sent as they were typed.
fn parse_send(rest: &str) -> Result<Verb, String> {
    let (name, text) = split(rest.trim_start_matches(is_blank));
    let to = conversation(name)?;
    let text = MessageText::parse(text).map_err(|error| error.to_string())?;
    Ok(Verb::Send { to, text })
}

/// After the name comes the topic, perhaps none.
fn parse_topic(rest: &str) -> Result<Verb, String> {
    let (name, topic) = split(rest.trim_start_matches(is_blank));
    let topic = Topic::parse(topic.trim_matches(is_blank)).map_err(|error| error.to_string())?;
    Ok(Verb::Room { room: room(name)?, action: RoomAction::SetTopic { topic } })
}

/// The first word, and the rest after the blank that follows it.
fn split(text: &str) -> (&str, &str) {
    text.split_once(is_blank).unwrap_or((text, ""))
}

fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t')
}

fn account(text: &str) -> Result<AccountName, String> {
    AccountName::parse(text).map_err(|error| format!("the name {error}"))
}

/// Reads the name of an account, or of a room, which begins with `#`.
fn conversation(text: &str) -> Result<Conversation, String> {
    text.parse().map_err(|error| format!("the name {error}"))
}

/// Reads the name of a room, whose `#` may be left out.
///
/// # Errors
/// It is no such name. The error is a message for a person.
pub fn room(text: &str) -> Result<RoomName, String> {
    let name = if text.starts_with('#') { text.to_string() } else { format!("#{text}") };
    RoomName::parse(name).map_err(|error| format!("the name of the room {error}"))
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text).map_err(|error| format!("the pattern {error}"))
}

/// The message when a line is no verb with its arguments.
fn complaint(verb: &str) -> String {
    let is_usage_of = |usage: &&str| usage.split_once(is_blank).is_some_and(|(word, _)| word == verb);
    match HELP.lines().find(is_usage_of).and_then(|usage| usage.split("  ").next()) {
        Some(usage) => format!("it is: {usage}"),
        None => format!("there is no verb {:?}; help shows those there are", verb.chars().take(32).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> AccountName {
        AccountName::parse(text).expect("a name")
    }

    fn with(text: &str) -> Conversation {
        text.parse().expect("a name")
    }

    fn parse(line: &str) -> Verb {
        Verb::parse(line).expect(line).expect("a verb")
    }

    #[test]
    fn verbs_and_what_belongs_to_them() {
        assert_eq!(parse("create alice"), Verb::Create { name: name("alice"), invitation: None });
        let code = "k7q1-m2xa-9rdt-w3h0-5vbn";
        let invitation = Some(InvitationCode::typed(code).expect("a code"));
        assert_eq!(parse(&format!("create alice {code}")), Verb::Create { name: name("alice"), invitation });
        assert_eq!(parse("  connect \t alice  "), Verb::Connect { name: name("alice") });
        assert_eq!(parse("delete alice"), Verb::Delete { name: name("alice") });
        assert_eq!(parse("list"), Verb::List { pattern: Pattern::all() });
        assert_eq!(parse("list a*"), Verb::List { pattern: Pattern::parse("a*").expect("a pattern") });
        assert_eq!(parse("unread"), Verb::Unread);
        assert_eq!(parse("history bob"), Verb::History { with: with("bob"), limit: 20 });
        assert_eq!(parse("history #ops 5"), Verb::History { with: with("#ops"), limit: 5 });
        assert_eq!((parse("inbox"), parse("inbox all")), (Verb::Inbox { all: false }, Verb::Inbox { all: true }));
        assert_eq!(parse("rooms"), Verb::Rooms { pattern: Pattern::all() });
        assert_eq!(parse("rooms #o*"), Verb::Rooms { pattern: Pattern::parse("o*").expect("a pattern") });
        assert_eq!(parse("to #ops"), Verb::To { conversation: Some(with("#ops")) });
        assert_eq!(parse("to"), Verb::To { conversation: None });
        assert_eq!(parse("block bob"), Verb::Block { name: name("bob"), is_blocked: true });
        assert_eq!(parse("unmute #ops"), Verb::Mute { conversation: with("#ops"), is_muted: false });
        assert_eq!(parse("help me"), Verb::Help);
        assert_eq!((parse("quit"), parse("exit")), (Verb::Quit, Verb::Quit));
        for empty in ["", " ", " \t "] {
            assert_eq!(Verb::parse(empty), Ok(None));
        }
    }

    #[test]
    fn rooms_are_named_with_and_without_their_sign() {
        let room = |action| Verb::Room { room: RoomName::parse("#ops").expect("a name"), action };
        for (line, action) in [
            ("room create #ops", RoomAction::Create { is_private: false }),
            ("room create ops private", RoomAction::Create { is_private: true }),
            ("join ops", RoomAction::Join),
            ("leave #ops", RoomAction::Leave),
            ("invite #ops bob", RoomAction::Invite { name: name("bob") }),
            ("room remove #ops bob", RoomAction::Remove { name: name("bob") }),
            ("room give ops bob", RoomAction::GiveTo { name: name("bob") }),
            ("room close #ops", RoomAction::Close),
            ("topic #ops what  runs ", RoomAction::SetTopic { topic: Topic::parse("what  runs").expect("a topic") }),
            ("topic #ops", RoomAction::SetTopic { topic: Topic::none() }),
        ] {
            assert_eq!(parse(line), room(action), "{line}");
        }
    }

    #[test]
    fn text_is_kept_as_typed() {
        for (line, expected) in [
            ("send bob hello", "hello"),
            ("send bob  two  spaces ", " two  spaces "),
            ("send\tbob\t\ttabs", "\ttabs"),
            ("send   bob 'quotes', \"commas\" \\", "'quotes', \"commas\" \\"),
            ("  send bob  ", " "),
        ] {
            let text = MessageText::parse(expected).expect("a text");
            assert_eq!(parse(line), Verb::Send { to: with("bob"), text }, "{line:?}");
        }
    }

    #[test]
    fn complaints_say_what_to_do() {
        for (line, expected) in [
            ("dance", "there is no verb \"dance\"; help shows"),
            ("create", "it is: create NAME"),
            ("create a b", "it is no invitation code"),
            ("create a b c", "it is: create NAME [CODE]"),
            ("send", "it is: send WHERE TEXT..."),
            ("send # hi", "the name \"\" is empty"),
            ("join", "it is: join #ROOM"),
            ("join #a b", "it is: join #ROOM"),
            ("room", "it is one of: room create #ROOM [private], room"),
            ("room paint #ops", "it is one of: room create"),
            ("join Ops", "the name of the room \"Ops\" has a character"),
            ("topic #ops \u{7}", "the topic has a control character"),
            ("send bob", "the text is empty"),
            ("send bob ", "the text is empty"),
            ("send Bob hi", "the name \"Bob\" has a character"),
            ("list [a]", "the pattern \"[a]\" has a character"),
            ("unread now", "it is: unread"),
            ("history bob many", "\"many\" is not a number"),
            ("history bob 0", "\"0\" is not a number"),
            ("history bob -1", "\"-1\" is not a number"),
            ("\u{1b}[2J", "no verb \"\\u{1b}[2J\""),
        ] {
            let complaint = Verb::parse(line).expect_err(line);
            assert!(complaint.contains(expected), "{complaint:?} lacks {expected:?}");
        }
        assert!(Verb::parse(&format!("send bob {}", "x".repeat(4097))).expect_err("too long").contains("4097"));
    }
}
