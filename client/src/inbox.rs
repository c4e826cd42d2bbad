//! Messages that come: each shown once, in the order of its conversation, and read when it was shown.
//!
//! Every replica pushes every message, so each message comes several times. Messages that came while the account was not
//! connected are fetched: first the list of the conversations with something unread, then each of them in pages. New messages are
//! pushed meanwhile. They wait until all has come, so that the order is kept.
//!
//! What was shown is read in ranges of consecutive messages, one range of a conversation at a time. A replica rejects a range if its
//! conversation has other messages there, because a repair has inserted or removed some. Then what is unread in this conversation is
//! fetched again: what was not shown yet is shown, and all of it is read in new ranges.
//!
//! Not everything is shown: [`Scope`] says which conversations are. What comes in others is counted, unless they are muted, and stays
//! unread. In rooms, messages of blocked accounts are not shown, and are read with the rest.
//!
//! Pure: what is to be asked, shown and read are return values.

use stablechat_protocol::answer::Rejection;
use stablechat_protocol::command::{PAGE_MAX, Query};
use stablechat_protocol::conversation::{Conversation, InboxEntry, InboxPlace, Message, Page, ReadRange};
use stablechat_protocol::name::AccountName;
use stablechat_protocol::room::{RoomAction, RoomNews};
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How many uids of shown messages are remembered: the newest. If a pushed message is older than all of them, its conversation is
/// fetched: a message that is unread was not shown.
const SHOWN_MAX: usize = 100_000;
/// How many digests of messages that were sent from here are remembered: the last ones.
const SENT_MAX: usize = 4096;
/// How many pushed messages wait while others are fetched. Those beyond are dropped and fetched, being unread.
const WAITING_MAX: usize = 4096;

/// How many messages wait to be handled one by one before pushed ones are dropped and fetched later.
const UNHANDLED_MAX: usize = 4096;
/// How many messages of a conversation that is not shown are counted one by one.
const COUNTED_MAX: usize = 10_000;

/// The conversations whose messages are shown as they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All but the muted ones.
    All,
    Only(BTreeSet<Conversation>),
}

/// The messages of one account, while one is connected as it.
#[derive(Debug)]
pub struct Inbox {
    reader: AccountName,
    /// The newest shown messages, at most [`SHOWN_MAX`].
    shown: BTreeSet<Uid>,
    /// The digests in the uids of messages that were sent from here, oldest first, at most [`SENT_MAX`]. They are not shown.
    sent: VecDeque<[u8; 16]>,
    /// The messages that were shown and are not known to be read. No conversation is empty, unless a range of it is being read.
    unread: BTreeMap<Conversation, Unread>,
    /// While others are fetched: pushed messages, at most [`WAITING_MAX`].
    waiting: BTreeMap<Uid, Message>,
    fetch: Fetch,
    scope: Scope,
    /// Whether a message is read only when [`Inbox::on_handled`] was called for it.
    is_by_hand: bool,
    muted: BTreeSet<Conversation>,
    /// The accounts whose messages in rooms are not shown.
    blocked: BTreeSet<AccountName>,
    /// The unread messages of conversations that are not shown, and not muted.
    elsewhere: BTreeMap<Conversation, Elsewhere>,
}

/// The unread messages of a conversation that is not shown.
#[derive(Debug)]
struct Elsewhere {
    /// The number when the conversations were listed.
    listed: u64,
    /// The last message by then.
    last: Uid,
    /// Later ones, at most [`COUNTED_MAX`].
    pushed: BTreeSet<Uid>,
}

/// The messages of a conversation that were shown and are not known to be read.
#[derive(Debug, Default)]
struct Unread {
    messages: BTreeMap<Uid, Shown>,
    /// The range that is being read.
    reading: Option<ReadRange>,
}

/// A message that was shown, or is about to be.
#[derive(Clone, Copy, Debug)]
struct Shown {
    position: u64,
    /// Whether it may be read.
    is_handled: bool,
}

/// What has to be fetched.
#[derive(Debug)]
struct Fetch {
    /// Whether the list of conversations is to be asked for, and after which place it goes on.
    list: Option<Option<InboxPlace>>,
    /// Whether those who are blocked are to be asked for.
    blocked: bool,
    /// Whether the list has to be asked for from its beginning, when all of this has come.
    again: bool,
    /// The conversations whose unread messages are to be asked for.
    conversations: VecDeque<Conversation>,
    /// The last message that has come of the first of them.
    cursor: Uid,
    /// The messages of the first of them that were handed out before, and were not known to be read when its first page came.
    before: BTreeMap<Uid, Shown>,
}

impl Fetch {
    /// Nothing.
    fn new() -> Fetch {
        let (conversations, before) = (VecDeque::new(), BTreeMap::new());
        Fetch { list: None, blocked: false, again: false, conversations, cursor: Uid::MIN, before }
    }
}

impl Inbox {
    /// Nothing was shown.
    pub fn new(reader: AccountName) -> Inbox {
        Inbox {
            reader,
            shown: BTreeSet::new(),
            sent: VecDeque::new(),
            unread: BTreeMap::new(),
            waiting: BTreeMap::new(),
            fetch: Fetch::new(),
            scope: Scope::All,
            is_by_hand: false,
            muted: BTreeSet::new(),
            blocked: BTreeSet::new(),
            elsewhere: BTreeMap::new(),
        }
    }

    /// Shows the messages of other conversations from here on. Their unread messages have to be fetched.
    pub fn set_scope(&mut self, scope: Scope) {
        self.scope = scope;
        // A page of the first one may be on its way.
        let first = self.fetch.conversations.pop_front();
        let mut conversations = std::mem::take(&mut self.fetch.conversations);
        conversations.retain(|conversation| self.is_shown(conversation));
        self.fetch.conversations = first.into_iter().chain(conversations).collect();
    }

    /// Leaves messages unread until [`Inbox::on_handled`] is called for them.
    pub fn read_by_hand(&mut self) {
        self.is_by_hand = true;
    }

    /// The conversations that are neither shown nor muted, and about how many messages are unread in each.
    pub fn elsewhere(&self) -> impl Iterator<Item = (&Conversation, u64)> {
        let count = |elsewhere: &Elsewhere| elsewhere.listed + elsewhere.pushed.len() as u64;
        let hidden = self.elsewhere.iter().filter(|(conversation, _)| !self.is_shown(conversation));
        hidden.map(move |(conversation, elsewhere)| (conversation, count(elsewhere))).filter(|(_, unread)| *unread > 0)
    }

    /// Begins to fetch everything that is unread; again, if that is under way.
    pub fn begin(&mut self) {
        match self.is_fetching() {
            true => self.fetch.again = true,
            false => self.start(),
        }
    }

    fn start(&mut self) {
        (self.fetch.list, self.fetch.blocked) = (Some(None), true);
    }

    /// Whether something is to be fetched.
    pub fn is_fetching(&self) -> bool {
        self.fetch.list.is_some() || self.fetch.blocked || !self.fetch.conversations.is_empty()
    }

    /// What has to be asked for now.
    pub fn query(&self) -> Option<Query> {
        if let Some(after) = &self.fetch.list {
            return Some(Query::Inbox { all: false, after: after.clone(), limit: PAGE_MAX });
        }
        if self.fetch.blocked {
            return Some(Query::Blocked);
        }
        let conversation = self.fetch.conversations.front()?.clone();
        Some(Query::History { conversation, page: Page::Unread { after: self.fetch.cursor }, limit: PAGE_MAX })
    }

    /// Takes a page of the list of conversations, and where it goes on. Returns what is to be shown.
    pub fn on_list(&mut self, entries: Vec<InboxEntry>, next: Option<InboxPlace>) -> Vec<Message> {
        if self.fetch.list == Some(None) {
            self.elsewhere.clear();
            self.muted.clear();
        }
        for InboxEntry { conversation, unread, last, is_muted, .. } in entries {
            if is_muted {
                self.muted.insert(conversation.clone());
            }
            if self.is_shown(&conversation) && unread > 0 {
                self.fetch_conversation(conversation);
            } else if !is_muted {
                self.elsewhere.insert(conversation, Elsewhere { listed: unread, last, pushed: BTreeSet::new() });
            }
        }
        self.fetch.list = next.map(Some);
        self.end_fetch()
    }

    /// Takes the names of those who are blocked. Returns what is to be shown.
    pub fn on_blocked(&mut self, names: Vec<AccountName>) -> Vec<Message> {
        self.fetch.blocked = false;
        self.blocked = names.into_iter().collect();
        self.end_fetch()
    }

    /// Takes a page of unread messages of the conversation that was asked for, and whether more are unread. Returns what is to be
    /// shown, in order.
    pub fn on_page(&mut self, page: Vec<Message>, later: bool) -> Vec<Message> {
        let Some(conversation) = self.fetch.conversations.front().cloned() else { return Vec::new() };
        if !self.is_shown(&conversation) {
            self.skip();
            return self.end_fetch();
        }
        if self.fetch.cursor == Uid::MIN {
            // Only the messages of these pages are unread.
            let known = &mut self.unread.entry(conversation.clone()).or_default().messages;
            self.fetch.before = std::mem::take(known);
        }
        let last = page.last().map(|message| message.uid);
        let mut news = Vec::new();
        for message in page {
            // A forgotten message that is unread was not shown, or it would be among those before.
            let before = self.fetch.before.get(&message.uid).copied();
            let is_new = self.see(message.uid) != Seen::Before && before.is_none();
            let is_news = is_new && self.is_to_be_shown(&message);
            let is_handled = before.map_or(!self.is_by_hand || !is_news, |shown| shown.is_handled);
            let shown = Shown { position: message.position, is_handled };
            self.unread.entry(conversation.clone()).or_default().messages.insert(message.uid, shown);
            if is_news {
                news.push(message);
            }
        }

        match last.filter(|_| later) {
            Some(last) => self.fetch.cursor = last,
            None => self.skip(),
        }
        news.extend(self.end_fetch());
        news
    }

    /// The conversation that was asked for cannot be had. Returns what is to be shown.
    pub fn on_page_rejected(&mut self) -> Vec<Message> {
        self.skip();
        self.end_fetch()
    }

    /// Takes a pushed message. Returns it when it is to be shown now.
    pub fn on_push(&mut self, message: Message) -> Option<Message> {
        if !self.is_fetching() {
            return self.take_pushed(message);
        }
        if self.waiting.len() < WAITING_MAX {
            self.waiting.insert(message.uid, message);
        } else {
            self.fetch.again = true;
        }
        None
    }

    /// Notes that a message with this digest in its uid was sent from here, so that it is not shown when it comes.
    pub fn on_sent(&mut self, digest: [u8; 16]) {
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back(digest);
    }

    /// A message was handled, so that it may be read.
    pub fn on_handled(&mut self, uid: Uid) {
        let shown = self.unread.values_mut().find_map(|unread| unread.messages.get_mut(&uid));
        shown.into_iter().for_each(|shown| shown.is_handled = true);
    }

    /// Whether shown messages are to be read.
    pub fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Whether a message that was handled is not known to be read.
    pub fn has_handled(&self) -> bool {
        self.unread.values().any(|unread| unread.messages.values().any(|shown| shown.is_handled))
    }

    /// The next range to be read. [`Inbox::on_read`] or [`Inbox::on_rejected`] must follow for it.
    pub fn next_range(&mut self) -> Option<(Conversation, ReadRange)> {
        let fetched = &self.fetch.conversations;
        let ready = self.unread.iter_mut().find(|(conversation, unread)| {
            let is_handled = unread.messages.values().next().is_some_and(|first| first.is_handled);
            unread.reading.is_none() && is_handled && !fetched.contains(conversation)
        });
        let (conversation, unread) = ready?;
        let first = unread.messages.values().next()?.position;
        let consecutive = unread.messages.iter().zip(first..);
        let consecutive = consecutive.take_while(|((_, shown), at)| shown.position == *at && shown.is_handled);
        let uids: Vec<Uid> = consecutive.map(|((uid, _), _)| *uid).collect();
        unread.reading = ReadRange::of(&uids);
        Some((conversation.clone(), unread.reading?))
    }

    /// A range is read.
    pub fn on_read(&mut self, conversation: &Conversation, range: &ReadRange) {
        let Some(unread) = self.unread.get_mut(conversation) else { return };
        unread.reading = None;
        unread.messages.retain(|uid, _| *uid <= range.after || range.up_to < *uid);
        if unread.messages.is_empty() {
            self.unread.remove(conversation);
        }
    }

    /// A range is not read. Returns whether its conversation has to be fetched again because it has changed.
    pub fn on_rejected(&mut self, conversation: &Conversation, reason: &Rejection) -> bool {
        let is_outdated =
            matches!(reason, Rejection::Outdated | Rejection::TooManyRanges) && self.is_shown(conversation);
        if is_outdated {
            self.unread.entry(conversation.clone()).or_default().reading = None;
            self.fetch_conversation(conversation.clone());
        } else {
            self.unread.remove(conversation);
        }
        if let Rejection::NoSuchUser { .. } = reason {
            // The account was deleted, so the conversation has another name.
            self.begin();
        }
        is_outdated
    }

    /// What was being read is not any more, and is to be read anew.
    pub fn forget_reading(&mut self) {
        self.unread.values_mut().for_each(|unread| unread.reading = None);
        self.unread.retain(|_, unread| !unread.messages.is_empty());
    }

    fn fetch_conversation(&mut self, conversation: Conversation) {
        if !self.fetch.conversations.contains(&conversation) {
            self.fetch.conversations.push_back(conversation);
        }
    }

    /// Goes on with the next conversation.
    fn skip(&mut self) {
        self.fetch.cursor = Uid::MIN;
        self.fetch.before.clear();
        let Some(conversation) = self.fetch.conversations.pop_front() else { return };
        let is_empty = |unread: &Unread| unread.messages.is_empty() && unread.reading.is_none();
        if self.unread.get(&conversation).is_some_and(is_empty) {
            self.unread.remove(&conversation);
        }
    }

    /// If everything has come, begins again, or releases the messages that have waited. Returns those in order, without the messages
    /// that were shown already.
    fn end_fetch(&mut self) -> Vec<Message> {
        if self.is_fetching() {
            return Vec::new();
        }
        if std::mem::take(&mut self.fetch.again) {
            self.start();
            return Vec::new();
        }
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_values().filter_map(|message| self.take_pushed(message)).collect()
    }

    /// Takes a message that is not part of a page. Returns it if it is to be shown.
    fn take_pushed(&mut self, message: Message) -> Option<Message> {
        let conversation = message.conversation(&self.reader);
        let is_own = message.from == self.reader;
        if !self.is_shown(&conversation) {
            if !is_own && !self.muted.contains(&conversation) && !self.is_of_blocked(&message) {
                self.count_elsewhere(conversation, message.uid);
            }
            return None;
        }
        if self.is_by_hand && self.unread.values().map(|unread| unread.messages.len()).sum::<usize>() >= UNHANDLED_MAX {
            self.fetch_conversation(conversation);
            return None;
        }
        match self.see(message.uid) {
            Seen::Never => {}
            Seen::Before => return None,
            Seen::Forgotten => {
                self.fetch_conversation(conversation);
                return None;
            }
        }

        let is_to_be_shown = self.is_to_be_shown(&message);
        // One's own message is read already, unless others before it are not.
        if !is_own || self.unread.contains_key(&conversation) {
            let shown = Shown { position: message.position, is_handled: !self.is_by_hand || !is_to_be_shown };
            self.unread.entry(conversation).or_default().messages.insert(message.uid, shown);
        }
        Some(message).filter(|_| is_to_be_shown)
    }

    /// Whether news of a room are to be shown: all that concern the account itself, and those of rooms that are shown, except actions
    /// of blocked accounts; but no actions from here.
    pub fn is_wanted(&self, news: &RoomNews) -> bool {
        let is_of_reader = match &news.action {
            RoomAction::Invite { name } | RoomAction::Remove { name } | RoomAction::GiveTo { name } => {
                *name == self.reader
            }
            RoomAction::Close => true,
            _ => false,
        };
        let is_shown = self.is_shown(&Conversation::Room { name: news.room.clone() });
        let is_of_interest = is_of_reader || is_shown && !self.blocked.contains(&news.by);
        is_of_interest && !self.sent.contains(&news.uid.digest)
    }

    fn count_elsewhere(&mut self, conversation: Conversation, uid: Uid) {
        let new = Elsewhere { listed: 0, last: Uid::MIN, pushed: BTreeSet::new() };
        let elsewhere = self.elsewhere.entry(conversation).or_insert(new);
        if uid > elsewhere.last && elsewhere.pushed.len() < COUNTED_MAX {
            elsewhere.pushed.insert(uid);
        }
    }

    /// Whether messages of a conversation are shown as they come.
    fn is_shown(&self, conversation: &Conversation) -> bool {
        match &self.scope {
            Scope::All => !self.muted.contains(conversation),
            Scope::Only(conversations) => conversations.contains(conversation),
        }
    }

    /// Whether a message that is new here is shown: what was sent from here is not, nor what a blocked account says in a room.
    fn is_to_be_shown(&self, message: &Message) -> bool {
        !self.is_of_blocked(message) && !self.was_sent_here(message)
    }

    /// Whether a blocked account says it in a room.
    fn is_of_blocked(&self, message: &Message) -> bool {
        matches!(message.to, Conversation::Room { .. }) && self.blocked.contains(&message.from)
    }

    /// Whether it need not be shown because whoever looks here has written it. A note to oneself is shown: it has arrived.
    fn was_sent_here(&self, message: &Message) -> bool {
        let is_note = message.to == Conversation::with(&self.reader);
        message.from == self.reader && !is_note && self.sent.contains(&message.uid.digest)
    }

    /// Whether a message was seen before. From now on it was.
    fn see(&mut self, uid: Uid) -> Seen {
        if self.shown.len() >= SHOWN_MAX && self.shown.first().is_some_and(|&oldest| uid < oldest) {
            return Seen::Forgotten;
        }
        if !self.shown.insert(uid) {
            return Seen::Before;
        }
        if self.shown.len() > SHOWN_MAX {
            self.shown.pop_first();
        }
        Seen::Never
    }
}

/// Whether a message was seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Never,
    Before,
    /// It is older than all that are remembered.
    Forgotten,
}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
