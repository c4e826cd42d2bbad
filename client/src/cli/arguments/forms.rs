//! The forms of the command line: commands, options and their help, as `argh` reads them.

use crate::cli::app::Colours;
use crate::cli::probe;
use crate::cli::verb::{self, HISTORY_DEFAULT, parse_count};
use argh::{ArgsInfo, FromArgs};
use stablechat_protocol::conversation::Conversation;
use stablechat_protocol::name::{AccountName, Pattern};
use stablechat_protocol::operator::InvitationCode;
use stablechat_protocol::room::RoomName;
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
pub struct Arguments {
    /// cluster file, or $STABLECHAT_CLUSTER, or in ~/.config
    #[argh(option, arg_name = "file")]
    pub cluster: Option<PathBuf>,
    /// keys of all clusters, or $STABLECHAT_KEYS, or in ~/.local
    #[argh(option, arg_name = "dir")]
    pub keys: Option<PathBuf>,
    /// the account to speak as, or $STABLECHAT_USER
    #[argh(option, long = "as", arg_name = "name")]
    pub account: Option<AccountName>,
    /// its password, for machines without its key
    #[argh(option, arg_name = "file")]
    pub password_file: Option<PathBuf>,
    /// write one JSON object a line
    #[argh(switch)]
    pub json: bool,
    /// show the first answer (first), or each replica's (all)
    #[argh(option, arg_name = "which", default = "Replies::First")]
    pub replies: Replies,
    /// colours of names and times: auto, always, never
    #[argh(option, arg_name = "when", default = "ColourChoice(Colours::Auto)")]
    pub color: ColourChoice,
    #[argh(subcommand)]
    pub command: Option<Subcommand>,
}

/// When there are colours.
#[derive(Clone, Copy, Debug)]
pub struct ColourChoice(pub Colours);

impl FromStr for ColourChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<ColourChoice, String> {
        match text {
            "auto" => Ok(ColourChoice(Colours::Auto)),
            "always" => Ok(ColourChoice(Colours::Always)),
            "never" => Ok(ColourChoice(Colours::Never)),
            _ => Err("it is one of auto, always and never".into()),
        }
    }
}

/// Which answers are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replies {
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
pub enum Subcommand {
    Create(Create),
    Password(Password),
    Key(Key),
    Delete(Delete),
    List(List),
    Send(Send),
    Inbox(Inbox),
    Unread(Unread),
    Listen(Listen),
    History(History),
    Export(Export),
    Rooms(Rooms),
    Room(Room),
    Join(Join),
    Leave(Leave),
    Members(Members),
    Invite(Invite),
    SetTopic(SetTopic),
    Block(Block),
    Unblock(Unblock),
    Blocked(Blocked),
    Mute(Mute),
    Unmute(Unmute),
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
pub struct Create {
    /// an operator's invitation, if accounts need one
    #[argh(option, arg_name = "code", from_str_fn(parse_code))]
    pub invitation: Option<InvitationCode>,
    /// derive the key from a password
    #[argh(switch)]
    pub password: bool,
    /// its name: 1 to 32 of a-z 0-9 _ -, a letter first
    #[argh(positional)]
    pub name: AccountName,
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
pub struct Password {
    /// the new password; without it, it is asked for
    #[argh(option, arg_name = "file")]
    pub new_password_file: Option<PathBuf>,
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
pub struct Key {
    /// rotate
    #[argh(positional)]
    pub action: KeyAction,
}

/// What is done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAction {
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

/// End an account; set its key aside.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "delete",
    example = "stablechat delete alice",
    note = "What the account has sent stays with those it was sent to; it leaves its rooms, and the
next member owns those that it owned.
The key is renamed to NAME.key.deleted-TIME in the directory of the cluster's keys."
)]
pub struct Delete {
    /// its name
    #[argh(positional)]
    pub name: AccountName,
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
pub struct List {
    /// only those that match: * stands for any characters, ? for one
    #[argh(positional)]
    pub glob: Option<Pattern>,
}

/// Send a message to an account, or to a room: '#ops'.
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
pub struct Send {
    /// a key of your choice that makes repeating safe for 24 hours
    #[argh(option, arg_name = "key")]
    pub id: Option<String>,
    /// an account, or a room
    #[argh(positional, arg_name = "where")]
    pub to: Conversation,
    /// what to say; without it, standard input to its end
    #[argh(positional, greedy)]
    pub text: Vec<String>,
}

/// Show the conversations with something unread.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "inbox", example = "stablechat inbox --as bob --all")]
pub struct Inbox {
    /// the others as well
    #[argh(switch)]
    pub all: bool,
}

/// Show unread messages, oldest first, and leave them unread.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "unread", example = "stablechat unread --as bob")]
pub struct Unread {}

/// Show messages as they come, the unread ones first.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "listen",
    example = "stablechat listen --as bob --json | my-bot\nstablechat listen '#ops' --as bot --exec 'logger -t \"$STABLECHAT_FROM\"'",
    note = "With --exec, /bin/sh runs the command for each message, one after the other, with its
text on standard input and in STABLECHAT_TEXT; STABLECHAT_FROM, _CONVERSATION, _UID
and _TIME_NS say the rest. A message is read when its command has succeeded. When
one fails, listen ends, and gets the message again when it is started again."
)]
pub struct Listen {
    /// end when the unread ones are shown
    #[argh(switch)]
    pub once: bool,
    /// a command to run for each message, instead of showing it
    #[argh(option, arg_name = "command")]
    pub exec: Option<String>,
    /// accounts and rooms to listen to; without any, all
    #[argh(positional, arg_name = "where")]
    pub conversations: Vec<Conversation>,
}

/// Write all messages that your account may read, as JSON lines.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "export", example = "stablechat export --as alice >alice.jsonl")]
pub struct Export {}

/// Show the last messages of a conversation, oldest first.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "history",
    example = "stablechat history bob 5 --as alice\nstablechat history '#ops' 1000 --as alice | less"
)]
pub struct History {
    /// an account, or a room
    #[argh(positional, arg_name = "where")]
    pub with: Conversation,
    /// how many (20)
    #[argh(positional, from_str_fn(parse_count), default = "HISTORY_DEFAULT")]
    pub count: u32,
}

/// Show the rooms that you may know of, one a line.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "rooms", example = "stablechat rooms 'o*' --as alice")]
pub struct Rooms {
    /// only those that match: * stands for any characters, ? for one
    #[argh(positional, from_str_fn(parse_room_pattern))]
    pub glob: Option<Pattern>,
}

/// Make a room, or change one of yours.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "room",
    example = "stablechat room create '#ops' --as alice\nstablechat room remove '#ops' bob --as alice",
    note = "  create ROOM            make a room that all may join
  create ROOM private    make a room that only invited accounts may join
  remove ROOM NAME       end the membership of NAME
  give ROOM NAME         make NAME its owner
  close ROOM             end it, and remove its messages
The # of the name may be left out here."
)]
pub struct Room {
    /// one of those below
    #[argh(positional)]
    pub words: Vec<String>,
}

/// Become a member of a room.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "join", example = "stablechat join ops --as bob")]
pub struct Join {
    /// its name
    #[argh(positional, from_str_fn(parse_room))]
    pub room: RoomName,
}

/// Be no member of a room any more.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "leave",
    example = "stablechat leave ops --as bob",
    note = "If you own it, the next member owns it from here on. With its last member it is gone."
)]
pub struct Leave {
    /// its name
    #[argh(positional, from_str_fn(parse_room))]
    pub room: RoomName,
}

/// Show the members of a room, one a line.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "members", example = "stablechat members ops --as alice")]
pub struct Members {
    /// its name
    #[argh(positional, from_str_fn(parse_room))]
    pub room: RoomName,
}

/// Invite someone to a room.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "invite", example = "stablechat invite ops carol --as alice")]
pub struct Invite {
    /// its name
    #[argh(positional, from_str_fn(parse_room))]
    pub room: RoomName,
    /// its name
    #[argh(positional)]
    pub name: AccountName,
}

/// Say what a room is about, if you own it.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "topic", example = "stablechat topic ops 'what runs, and what does not' --as alice")]
pub struct SetTopic {
    /// its name
    #[argh(positional, from_str_fn(parse_room))]
    pub room: RoomName,
    /// the topic; without it, there is none any more
    #[argh(positional, greedy)]
    pub text: Vec<String>,
}

/// Get no messages from an account any more.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "block",
    example = "stablechat block mallory --as alice",
    note = "Messages from a blocked account are rejected, as if you had too many unread ones.
In rooms, they are not shown as they come; history has them."
)]
pub struct Block {
    /// its name
    #[argh(positional)]
    pub name: AccountName,
}

/// Get messages from an account again.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "unblock", example = "stablechat unblock mallory --as alice")]
pub struct Unblock {
    /// its name
    #[argh(positional)]
    pub name: AccountName,
}

/// List the accounts that you block.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "blocked", example = "stablechat blocked --as alice")]
pub struct Blocked {}

/// Do not show a conversation's messages as they come.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "mute", example = "stablechat mute '#ops' --as alice")]
pub struct Mute {
    /// an account, or a room
    #[argh(positional, arg_name = "where")]
    pub conversation: Conversation,
}

/// Show a conversation's messages again as they come.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "unmute", example = "stablechat unmute '#ops' --as alice")]
pub struct Unmute {
    /// an account, or a room
    #[argh(positional, arg_name = "where")]
    pub conversation: Conversation,
}

/// Show the state of each replica, and whether they are equal.
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
pub struct Status {
    /// show it every second until Ctrl-C, and exit as of the last
    #[argh(switch)]
    pub watch: bool,
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
pub struct Probe {
    /// for how long (10)
    #[argh(option, arg_name = "n", from_str_fn(parse_seconds), default = "probe::SECONDS_DEFAULT")]
    pub seconds: u32,
}

/// Say who may have an account, and other things for operators.
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
  quota unread N      how many messages one may have unread from another
  quota requests N    how many conversations one may begin without an answer
  retention TIME      remove messages that are older: 12h, 90d; or for-ever
  remove NAME         end an account
  close ROOM          end a room, with all that was said there
  reset NAME          a new password, if the owner has lost the key
It speaks as operator. Each replica notes each request in its log."
)]
pub struct Admin {
    /// one of those below
    #[argh(positional)]
    pub words: Vec<String>,
}

/// Reads the name of a room, whose `#` may be left out.
fn parse_room(text: &str) -> Result<RoomName, String> {
    verb::room(text)
}

/// Reads a pattern over names of rooms, whose `#` may be left out.
fn parse_room_pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text.trim_start_matches('#')).map_err(|error| error.to_string())
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
