//! What a client says next: the commands of its plan's stages, and queries.

use super::super::DELIVERY_BOUND;
use super::super::label::{label, other_label};
use super::super::plan::{Stage, room_names, some_action, some_operation};
use super::{Client, PAGE};
use fastrand::Rng;
use stablechat_client::session::Session;
use stablechat_protocol::command::{Command, Query};
use stablechat_protocol::conversation::{Conversation, Page, ReadRange};
use stablechat_protocol::name::Pattern;
use stablechat_protocol::request::Actor;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;

/// The most commands in one burst.
const BURST_MAX: u32 = 12;
/// What is looked for in names.
const PATTERNS: [&str; 5] = ["*", "user*", "user?", "*1", "user1*"];

impl Client {
    /// Goes on in its plan, by one burst of commands and perhaps a query.
    pub(super) fn burst(&mut self, random: &mut Rng, clock: Timestamp) {
        for _ in 0..random.u32(1..=BURST_MAX) {
            if let Some(command) = self.next_command(random) {
                self.issue(clock, command);
            }
        }
        if matches!(self.stage, Stage::Speak(_)) && random.bool() && self.queries.can_ask() {
            let query = self.some_query(random);
            self.ask(clock, query);
        }
        if !self.has_said_all() || self.plan.is_empty() {
            return;
        }
        if self.is_idle() {
            self.next_stage(random, clock);
        } else if matches!(self.plan.front(), Some(Stage::Repeat(_))) && random.u8(..4) == 0 {
            // At once, so that commands of both stages are in flight under one number.
            self.next_stage(random, clock);
            while let Some(command) = self.next_command(random) {
                self.issue(clock, command);
            }
        }
    }

    /// The next command of the stage, if there is one left.
    fn next_command(&mut self, random: &mut Rng) -> Option<Command> {
        if !self.session.can_issue() {
            return None;
        }
        match &mut self.stage {
            Stage::Create if self.issued.is_empty() => {
                let Actor { account, key } = self.actor.clone();
                Some(Command::Create { name: account, key, invitation: None })
            }
            Stage::Delete if self.issued.is_empty() => Some(Command::Delete),
            Stage::Rekey(key) if self.issued.is_empty() => Some(Command::SetKey { key: *key }),
            Stage::Operate(left) if *left > 0 => {
                *left -= 1;
                Some(some_operation(random))
            }
            Stage::Speak(0) if random.bool() => self.read(random),
            Stage::Speak(left) if *left > 0 => {
                *left -= 1;
                if random.u8(..3) == 0
                    && let Some(read) = self.read(random)
                {
                    return Some(read);
                }
                Some(self.some_command(random))
            }
            Stage::Repeat(commands) => match commands.pop_front()? {
                Command::Send { to, .. } if random.u8(..8) == 0 => {
                    let text = other_label(self.session.client(), self.session.next_sequence());
                    Some(Command::Send { to, text })
                }
                command => Some(command),
            },
            _ => None,
        }
    }

    /// Something that one does in a chat: most often, a message to another account or a room.
    fn some_command(&mut self, random: &mut Rng) -> Command {
        let name = random.choice(&self.others).expect("there are some").clone();
        match random.u8(..40) {
            0..8 => return some_action(random, name),
            8 => return Command::Block { name, is_blocked: random.u8(..3) == 0 },
            9 => return Command::Mute { conversation: self.some_conversation(random), is_muted: random.bool() },
            _ => {}
        }
        let to = match random.u8(..5) {
            0..2 => Conversation::Room { name: random.choice(room_names().collect::<Vec<_>>()).expect("some") },
            _ => Conversation::Account { name },
        };
        let text = label(self.session.client(), self.session.next_sequence());
        Command::Send { to, text }
    }

    /// A conversation with another account, or in a room.
    fn some_conversation(&self, random: &mut Rng) -> Conversation {
        match random.choice(&self.others).filter(|_| random.bool()) {
            Some(name) => Conversation::with(name),
            None => Conversation::Room { name: random.choice(room_names().collect::<Vec<_>>()).expect("some") },
        }
    }

    /// Reads a range of messages that were shown; now and then only the last of them, so that others stay unread before it, or a range
    /// that is not there.
    fn read(&mut self, random: &mut Rng) -> Option<Command> {
        let (conversation, mut range) = self.inbox.next_range()?;
        match random.u8(..16) {
            0..3 => range = ReadRange::of(&[range.up_to])?,
            3 => range.count += 1,
            4 => range.after = range.up_to,
            _ => {}
        }
        self.reading.insert(self.session.next_sequence(), (conversation.clone(), range));
        Some(Command::Read { conversation, range })
    }

    /// Whether all commands of the stage have been issued.
    pub(super) fn has_said_all(&self) -> bool {
        match &self.stage {
            Stage::Create | Stage::Delete | Stage::Rekey(_) => !self.issued.is_empty(),
            Stage::Speak(left) | Stage::Operate(left) => *left == 0,
            Stage::Repeat(commands) => commands.is_empty(),
            Stage::Away(_) | Stage::Over => true,
        }
    }

    /// Whether everything is answered.
    pub(super) fn is_idle(&self) -> bool {
        self.session.is_idle() && self.queries.unanswered().is_empty()
    }

    /// Begins the next stage, in a session of its own, logged in as the stage needs it.
    pub(super) fn next_stage(&mut self, random: &mut Rng, clock: Timestamp) {
        if let Stage::Rekey(key) = self.stage {
            let mut other = Actor { key, ..self.actor.clone() };
            if self.is_rekeyed {
                std::mem::swap(&mut self.actor, &mut other);
            }
            self.other = Some(other);
        }
        let issued = std::mem::take(&mut self.issued);
        let fresh = ClientId(random.u128(..).to_be_bytes());
        let (stage, client) = match self.plan.pop_front().unwrap_or(Stage::Over) {
            Stage::Repeat(_) => (Stage::Repeat(issued), self.session.client()),
            stage => (stage, fresh),
        };
        self.stage = stage;
        if !matches!(self.stage, Stage::Repeat(_)) {
            self.reading.clear();
            self.inbox.forget_reading();
        }
        let highest = self.session.highest();
        self.session = Session::new(client, self.actor_of_stage(), DELIVERY_BOUND);
        self.session.set_clock_offset(self.offsets.offset());
        self.session.observe(clock, highest);
        let login = self.login();
        self.outbox.push((None, login));
        for link in (0..self.links.len()).filter(|link| self.links[*link].ready) {
            self.session.on_link_ready(link);
        }
        self.fetch_if_listening(clock);
    }

    /// A query about any account or room, from any place on, with any small page size.
    fn some_query(&self, random: &mut Rng) -> Query {
        let limit = random.u16(1..=PAGE);
        let uid = random.choice(&self.shown).copied();
        let room = random.choice(room_names().collect::<Vec<_>>()).expect("there are some");
        match random.u8(..12) {
            0..5 => {
                let page = match (random.u8(..5), uid) {
                    (0, Some(uid)) => Page::Before { uid },
                    (1, Some(uid)) => Page::After { uid },
                    (2, Some(uid)) => Page::Around { uid },
                    (3, uid) => Page::Unread { after: uid.unwrap_or(Uid::MIN) },
                    _ => Page::Latest,
                };
                Query::History { conversation: self.some_conversation(random), page, limit }
            }
            5 => Query::Rooms { pattern: Pattern::all(), after: random.bool().then_some(room), limit },
            6 => Query::Members { room, after: uid.filter(|_| random.bool()), limit },
            7 => Query::Blocked,
            8 => Query::Inbox { all: true, after: None, limit },
            _ => {
                let after = random.choice(&self.others).filter(|_| random.bool()).cloned();
                let pattern = random.choice(PATTERNS).expect("there are some");
                Query::List { pattern: Pattern::parse(pattern).expect("a pattern"), after, limit }
            }
        }
    }
}
