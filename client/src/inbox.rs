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
//! Pure: what is to be asked, shown and read are return values.

use stablechat_protocol::answer::Rejection;
use stablechat_protocol::command::{PAGE_MAX, Query};
use stablechat_protocol::conversation::{Conversation, InboxEntry, InboxPlace, Message, Page, ReadRange};
use stablechat_protocol::name::AccountName;
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How many uids of shown messages are remembered: the newest. A message that is older than all of them counts as shown. At
/// worst it stays unread until the next connect.
const SHOWN_MAX: usize = 100_000;
/// How many digests of messages that were sent from here are remembered: the last ones.
const SENT_MAX: usize = 4096;
/// How many pushed messages wait while others are fetched. Those beyond are dropped and fetched, being unread.
const WAITING_MAX: usize = 4096;

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
}

/// The messages of a conversation that were shown and are not known to be read.
#[derive(Debug, Default)]
struct Unread {
    /// With their positions.
    messages: BTreeMap<Uid, u64>,
    /// The range that is being read.
    reading: Option<ReadRange>,
}

/// What has to be fetched.
#[derive(Debug)]
struct Fetch {
    /// Whether the list of conversations is to be asked for, and after which place it goes on.
    list: Option<Option<InboxPlace>>,
    /// Whether the list has to be asked for from its beginning, when all of this has come.
    again: bool,
    /// The conversations whose unread messages are to be asked for.
    conversations: VecDeque<Conversation>,
    /// The last message that has come of the first of them.
    cursor: Uid,
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
            fetch: Fetch { list: None, again: false, conversations: VecDeque::new(), cursor: Uid::MIN },
        }
    }

    /// Begins to fetch everything that is unread; again, if that is under way.
    pub fn begin(&mut self) {
        match self.is_fetching() {
            true => self.fetch.again = true,
            false => self.fetch.list = Some(None),
        }
    }

    /// Whether something is to be fetched.
    pub fn is_fetching(&self) -> bool {
        self.fetch.list.is_some() || !self.fetch.conversations.is_empty()
    }

    /// What has to be asked for now.
    pub fn query(&self) -> Option<Query> {
        if let Some(after) = &self.fetch.list {
            return Some(Query::Inbox { all: false, after: after.clone(), limit: PAGE_MAX });
        }
        let conversation = self.fetch.conversations.front()?.clone();
        Some(Query::History { conversation, page: Page::Unread { after: self.fetch.cursor }, limit: PAGE_MAX })
    }

    /// Takes a page of the list of conversations, and where it goes on. Returns what is to be shown.
    pub fn on_list(&mut self, entries: Vec<InboxEntry>, next: Option<InboxPlace>) -> Vec<Message> {
        entries.into_iter().for_each(|entry| self.fetch_conversation(entry.conversation));
        self.fetch.list = next.map(Some);
        self.end_fetch()
    }

    /// Takes a page of unread messages of the conversation that was asked for, and whether more are unread. Returns what is to be
    /// shown, in order.
    pub fn on_page(&mut self, page: Vec<Message>, later: bool) -> Vec<Message> {
        let Some(conversation) = self.fetch.conversations.front().cloned() else { return Vec::new() };
        if self.fetch.cursor == Uid::MIN {
            // Only what comes now is unread.
            self.unread.entry(conversation.clone()).or_default().messages.clear();
        }
        let last = page.last().map(|message| message.uid);
        let mut news = Vec::new();
        for message in page {
            self.unread.entry(conversation.clone()).or_default().messages.insert(message.uid, message.position);
            if self.is_news(message.uid) && !self.was_sent_here(&message) {
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

    /// Whether shown messages are to be read.
    pub fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// The next range to be read. [`Inbox::on_read`] or [`Inbox::on_rejected`] must follow for it.
    pub fn next_range(&mut self) -> Option<(Conversation, ReadRange)> {
        let fetched = &self.fetch.conversations;
        let ready = self.unread.iter_mut().find(|(conversation, unread)| {
            unread.reading.is_none() && !unread.messages.is_empty() && !fetched.contains(conversation)
        });
        let (conversation, unread) = ready?;
        let first = *unread.messages.values().next()?;
        let consecutive =
            unread.messages.iter().zip(first..).take_while(|((_, position), expected)| *position == expected);
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
        let is_outdated = matches!(reason, Rejection::Outdated | Rejection::TooManyRanges);
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
        let Some(conversation) = self.fetch.conversations.pop_front() else { return };
        let is_empty = |unread: &Unread| unread.messages.is_empty() && unread.reading.is_none();
        if self.unread.get(&conversation).is_some_and(is_empty) {
            self.unread.remove(&conversation);
        }
    }

    /// If all has come, begins again or lets go of what has waited. Returns that, in order, without what was shown.
    fn end_fetch(&mut self) -> Vec<Message> {
        if self.is_fetching() {
            return Vec::new();
        }
        if std::mem::take(&mut self.fetch.again) {
            self.fetch.list = Some(None);
            return Vec::new();
        }
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_values().filter_map(|message| self.take_pushed(message)).collect()
    }

    /// Takes a message that is not part of a page. Returns it if it is to be shown.
    fn take_pushed(&mut self, message: Message) -> Option<Message> {
        if !self.is_news(message.uid) {
            return None;
        }
        let conversation = message.conversation(&self.reader);
        // One's own message is read already, unless others before it are not.
        if message.from != self.reader || self.unread.contains_key(&conversation) {
            self.unread.entry(conversation).or_default().messages.insert(message.uid, message.position);
        }
        Some(message).filter(|message| !self.was_sent_here(message))
    }

    /// Whether it need not be shown because whoever looks here has written it. A note to oneself is shown: it has arrived.
    fn was_sent_here(&self, message: &Message) -> bool {
        let is_note = message.to == Conversation::with(&self.reader);
        message.from == self.reader && !is_note && self.sent.contains(&message.uid.digest)
    }

    /// Whether a message was not seen before. From now on it was.
    fn is_news(&mut self, uid: Uid) -> bool {
        let is_forgotten = self.shown.len() >= SHOWN_MAX && self.shown.first().is_some_and(|&oldest| uid < oldest);
        if is_forgotten || !self.shown.insert(uid) {
            return false;
        }
        if self.shown.len() > SHOWN_MAX {
            self.shown.pop_first();
        }
        true
    }
}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
