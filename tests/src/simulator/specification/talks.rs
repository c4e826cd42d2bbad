//! Conversations, by brute force: who takes part, and each message that each of them has read.

use super::{Outcome, no_such_user, page_size};
use stablechat_protocol::answer::{QueryAnswer, Rejection};
use stablechat_protocol::conversation::{
    Conversation, InboxEntry, InboxPlace, Message, Page, READ_AHEAD_MAX, ReadRange, UidSum,
};
use stablechat_protocol::name::AccountName;
use stablechat_protocol::room::RoomInvitation;
use stablechat_protocol::text::MessageText;
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeMap, BTreeSet};

/// A conversation: of two accounts, the lesser first, or in a room, each by the request that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Id {
    Pair(Uid, Uid),
    Room(Uid),
}

impl Id {
    pub fn of_two(one: Uid, other: Uid) -> Id {
        Id::Pair(one.min(other), one.max(other))
    }

    /// Its place among the conversations of an account, as replicas name it.
    fn place(self) -> InboxPlace {
        let bytes = match self {
            Id::Pair(low, high) => [&b"d"[..], &low.to_bytes(), &high.to_bytes()].concat(),
            Id::Room(id) => [&b"r"[..], &id.to_bytes()].concat(),
        };
        InboxPlace::new(bytes)
    }
}

/// Everything that was ever said.
#[derive(Default)]
pub struct Talks {
    talks: BTreeMap<Id, Talk>,
    /// By account and conversation.
    parts: BTreeMap<(Uid, Id), Part>,
}

/// A conversation.
#[derive(Default)]
struct Talk {
    messages: Vec<Said>,
    /// The account that has begun it, if the other one has not answered.
    unanswered: Option<Uid>,
}

struct Said {
    uid: Uid,
    from: AccountName,
    text: MessageText,
}

/// An account's part in a conversation.
struct Part {
    of: Conversation,
    /// When it joined the room; before everything else in a conversation of two.
    joined: Uid,
    /// Each message that it has read.
    read: BTreeSet<Uid>,
    is_muted: bool,
}

impl Talks {
    /// An account takes part from this request on.
    pub fn join(&mut self, account: Uid, id: Id, of: Conversation, joined: Uid) {
        self.talks.entry(id).or_default();
        self.parts.insert((account, id), Part { of, joined, read: BTreeSet::new(), is_muted: false });
    }

    /// An account takes part no more.
    pub fn leave(&mut self, account: Uid, id: Id) {
        self.parts.remove(&(account, id));
    }

    /// A conversation is over.
    pub fn end(&mut self, id: Id) {
        self.talks.remove(&id);
        self.parts.retain(|(_, of), _| *of != id);
    }

    /// Two accounts have begun a conversation.
    pub fn begin(&mut self, id: Id, by: Uid, other: Uid) {
        let unanswered = Some(by).filter(|by| *by != other);
        self.talks.insert(id, Talk { messages: Vec::new(), unanswered });
    }

    pub fn takes_part(&self, account: Uid, id: Id) -> bool {
        self.parts.contains_key(&(account, id))
    }

    /// How many messages an account has not read.
    pub fn unread(&self, account: Uid, id: Id) -> u64 {
        self.unread_messages(account, id).count() as u64
    }

    fn unread_messages(&self, account: Uid, id: Id) -> impl Iterator<Item = &Said> {
        let part = self.parts.get(&(account, id));
        let messages = self.talks.get(&id).map_or(&[][..], |talk| &talk.messages);
        messages
            .iter()
            .filter(move |said| part.is_some_and(|part| said.uid > part.joined && !part.read.contains(&said.uid)))
    }

    /// How many conversations an account has begun that were not answered.
    pub fn requests(&self, account: Uid) -> u64 {
        self.talks.values().filter(|talk| talk.unanswered == Some(account)).count() as u64
    }

    /// Adds a message. Its author has read it if it has read all before.
    pub fn say(&mut self, id: Id, account: Uid, uid: Uid, from: &AccountName, text: &MessageText) {
        let has_read_all = self.unread(account, id) == 0;
        let talk = self.talks.get_mut(&id).expect("it has begun");
        talk.messages.push(Said { uid, from: from.clone(), text: text.clone() });
        if talk.unanswered.is_some_and(|by| by != account) {
            talk.unanswered = None;
        }
        if has_read_all {
            self.parts.get_mut(&(account, id)).expect("it takes part").read.insert(uid);
        }
    }

    /// An account was shown the messages of a range.
    pub fn read(&mut self, account: Uid, id: Id, range: &ReadRange) -> Outcome<()> {
        let Some(part) = self.parts.get(&(account, id)) else { return Err(Rejection::Outdated) };
        if range.up_to <= part.joined {
            return Ok(());
        }
        let is_in_range = |uid: &Uid| *uid > range.after.max(part.joined) && *uid <= range.up_to;
        let all = || self.talks[&id].messages.iter().map(|said| said.uid);
        let there: Vec<Uid> = all().filter(is_in_range).collect();
        if there.len() as u64 != range.count || there.iter().copied().collect::<UidSum>() != range.sum {
            return Err(Rejection::Outdated);
        }
        let read: BTreeSet<Uid> = part.read.iter().chain(&there).copied().collect();

        // The ranges beyond the first message that is not read.
        let rest = all().filter(|uid| *uid > part.joined).skip_while(|uid| read.contains(uid));
        let states: Vec<bool> = rest.map(|uid| read.contains(&uid)).collect();
        let ranges = states.windows(2).filter(|pair| !pair[0] && pair[1]).count();
        if ranges > READ_AHEAD_MAX {
            return Err(Rejection::TooManyRanges);
        }
        self.parts.get_mut(&(account, id)).expect("it was there a moment ago").read = read;
        Ok(())
    }

    pub fn mute(&mut self, account: Uid, id: Id, conversation: &Conversation, is_muted: bool) -> Outcome<()> {
        let part = self.parts.get_mut(&(account, id));
        let part = part.ok_or_else(|| Rejection::NoConversation { conversation: conversation.clone() })?;
        part.is_muted = is_muted;
        Ok(())
    }

    /// A page of the messages of a conversation that an account may see; in a private room, those from when it joined on.
    pub fn page(
        &self,
        reader: &AccountName,
        account: Uid,
        id: Id,
        is_private: bool,
        page: Page,
        limit: u16,
    ) -> QueryAnswer {
        let limit = page_size(limit);
        let Some(part) = self.parts.get(&(account, id)) else {
            return QueryAnswer::Messages { messages: Vec::new(), earlier: false, later: false };
        };
        let message = |(position, said): (usize, &Said)| {
            let to = match &part.of {
                Conversation::Account { .. } if said.from != *reader => Conversation::with(reader),
                of => of.clone(),
            };
            let (uid, from, text) = (said.uid, said.from.clone(), said.text.clone());
            Message { uid, position: position as u64 + 1, from, to, text }
        };
        let all = self.talks[&id].messages.iter().enumerate();
        let visible: Vec<Message> =
            all.filter(|(_, said)| !is_private || said.uid > part.joined).map(message).collect();
        if let Page::Unread { after } = page {
            let unread: BTreeSet<Uid> = self.unread_messages(account, id).map(|said| said.uid).collect();
            let is_wanted = |message: &Message| message.uid > after && unread.contains(&message.uid);
            let mut messages: Vec<Message> = visible.into_iter().filter(is_wanted).collect();
            let later = messages.len() > limit;
            messages.truncate(limit);
            return QueryAnswer::Messages { messages, earlier: false, later };
        }

        let before = |uid: Uid| visible.partition_point(|message| message.uid < uid);
        let range = match page {
            Page::Latest | Page::Unread { .. } => visible.len().saturating_sub(limit)..visible.len(),
            Page::Before { uid } => before(uid).saturating_sub(limit)..before(uid),
            Page::After { uid } => {
                let from = visible.partition_point(|message| message.uid <= uid);
                from..(from + limit).min(visible.len())
            }
            Page::Around { uid } => {
                let from = before(uid).saturating_sub(limit / 2);
                from..(from + limit).min(visible.len())
            }
        };
        let (earlier, later) = match range.is_empty() {
            true => (false, false),
            false => (range.start > 0, range.end < visible.len()),
        };
        QueryAnswer::Messages { messages: visible[range].to_vec(), earlier, later }
    }

    /// A page of the conversations of an account.
    pub fn inbox(
        &self,
        account: Uid,
        names: &BTreeMap<AccountName, Uid>,
        (all, after, limit): (bool, Option<&InboxPlace>, u16),
        invitations: Vec<RoomInvitation>,
    ) -> QueryAnswer {
        let parts = self.parts.range((account, Id::Pair(Uid::MIN, Uid::MIN))..=(account, Id::Room(Uid::MAX)));
        let parts = parts.map(|((_, id), part)| (*id, part));
        let parts: Vec<(Id, &Part)> =
            parts.filter(|(id, _)| after.is_none_or(|after| id.place().as_bytes() > after.as_bytes())).collect();
        let mut entries = Vec::new();
        let mut next = None;
        for (at, (id, part)) in parts.iter().enumerate() {
            if entries.len() == page_size(limit) {
                next = Some(parts[at - 1].0.place());
                break;
            }
            let unread = self.unread(account, *id);
            if !all && unread == 0 && !part.is_muted {
                continue;
            }
            let talk = &self.talks[id];
            let conversation = match (&part.of, id) {
                (Conversation::Account { name }, Id::Pair(low, high)) => {
                    let partner = if *low == account { *high } else { *low };
                    match names.get(name) == Some(&partner) {
                        true => part.of.clone(),
                        false => Conversation::Former { name: name.clone(), account: partner },
                    }
                }
                (of, _) => (*of).clone(),
            };
            entries.push(InboxEntry {
                conversation,
                unread,
                last: talk.messages.last().map_or(Uid::MIN, |said| said.uid),
                is_muted: part.is_muted,
                is_request: talk.unanswered.is_some_and(|by| by != account),
            });
        }
        QueryAnswer::Inbox { entries, invitations, next }
    }

    /// The part of an account in the conversation with one that was deleted.
    pub fn former(&self, account: Uid, name: &AccountName, former: Uid) -> Outcome<Id> {
        let id = Id::of_two(account, former);
        if self.takes_part(account, id) { Ok(id) } else { Err(no_such_user(name)) }
    }
}
