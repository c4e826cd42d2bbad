//! Messages that come: each shown once, in order, and acknowledged when it was shown.
//!
//! Every replica pushes every message, so each message comes several times. Messages that came while the account was not
//! connected are fetched in pages, and new ones are pushed meanwhile: pushed messages wait until all pages have come, so that the
//! order is kept.
//!
//! Pure: messages to show and uids to acknowledge are return values.

use stablechat_protocol::answer::Message;
use stablechat_protocol::command::ACK_MAX;
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeMap, BTreeSet};

/// How many uids of shown messages are remembered: the newest. A message that is older than all of them counts as shown. At
/// worst it stays unread until the next connect.
const SHOWN_MAX: usize = 100_000;
/// How many pushed messages wait while pages are fetched. Those beyond are dropped and fetched, being unread.
const WAITING_MAX: usize = 4096;

/// The messages of one account, while one is connected as it.
#[derive(Debug, Default)]
pub struct Inbox {
    /// The newest shown messages, at most [`SHOWN_MAX`].
    shown: BTreeSet<Uid>,
    /// Shown and not yet acknowledged.
    to_acknowledge: Vec<Uid>,
    /// While pages are fetched: pushed messages, at most [`WAITING_MAX`].
    waiting: BTreeMap<Uid, Message>,
    /// Whether pages are being fetched.
    is_fetching: bool,
    /// The last message of the pages so far; the next page begins after it.
    cursor: Option<Uid>,
    /// Whether a pushed message was dropped since the last page was asked for, so that another must be.
    has_dropped: bool,
}

impl Inbox {
    /// Begins to fetch, unless that is under way: pages from the first on are to be asked for, and pushes wait.
    pub fn begin(&mut self) {
        if !self.is_fetching {
            (self.is_fetching, self.cursor) = (true, None);
        }
    }

    /// Whether pages are being fetched.
    pub fn is_fetching(&self) -> bool {
        self.is_fetching
    }

    /// The message after which the page to be fetched begins.
    pub fn cursor(&self) -> Option<Uid> {
        self.cursor
    }

    /// Takes a pushed message. Returns it when it is to be shown now.
    pub fn on_push(&mut self, message: Message) -> Option<Message> {
        if !self.is_fetching {
            return self.is_news(message.uid).then_some(message);
        }
        if self.waiting.len() < WAITING_MAX {
            self.waiting.insert(message.uid, message);
        } else {
            self.has_dropped = true;
        }
        None
    }

    /// Takes a page, and whether more lie behind it. Returns the messages to be shown, in order. If [`Inbox::is_fetching`]
    /// still holds, the next page is to be asked for.
    pub fn on_page(&mut self, page: Vec<Message>, more: bool) -> Vec<Message> {
        let mut messages = page;
        if let Some(last) = messages.last() {
            self.cursor = Some(last.uid);
        }
        // An empty page ends the fetch even if it says that there is more. Otherwise a replica could keep us asking for ever.
        let has_dropped = std::mem::take(&mut self.has_dropped);
        self.is_fetching = has_dropped || (more && !messages.is_empty());
        // Waiting messages that sort before the next page have their place here; the others wait on.
        let later = match self.cursor {
            Some(cursor) if self.is_fetching => self.waiting.split_off(&cursor),
            None if self.is_fetching => std::mem::take(&mut self.waiting),
            _ => BTreeMap::new(),
        };
        messages.extend(std::mem::replace(&mut self.waiting, later).into_values());
        messages.sort_by_key(|message| message.uid);
        messages.retain(|message| self.is_news(message.uid));
        messages
    }

    /// Notes that a message was shown, and has to be acknowledged.
    pub fn on_shown(&mut self, uid: Uid) {
        self.to_acknowledge.push(uid);
    }

    /// Whether shown messages wait to be acknowledged.
    pub fn has_acknowledgements(&self) -> bool {
        !self.to_acknowledge.is_empty()
    }

    /// Takes as many uids as one command can acknowledge.
    pub fn take_acknowledgements(&mut self) -> Vec<Uid> {
        let count = self.to_acknowledge.len().min(ACK_MAX);
        self.to_acknowledge.drain(..count).collect()
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
mod tests {
    use super::*;
    use stablechat_protocol::command::Recipient;
    use stablechat_protocol::name::AccountName;
    use stablechat_protocol::text::MessageText;
    use stablechat_protocol::time::Timestamp;

    fn message(time: u64) -> Message {
        let alice = AccountName::parse("alice").expect("a name");
        Message {
            uid: Uid::new(Timestamp(time), b""),
            from: alice.clone(),
            to: Recipient::Account { name: alice.clone() },
            text: MessageText::parse("x").expect("a text"),
        }
    }

    fn times(messages: &[Message]) -> Vec<u64> {
        messages.iter().map(|message| message.uid.timestamp.0).collect()
    }

    #[test]
    fn copies_are_shown_once() {
        let mut inbox = Inbox::default();
        assert!(inbox.on_push(message(1)).is_some());
        assert!(inbox.on_push(message(1)).is_none());
        assert!(inbox.on_push(message(2)).is_some());
        assert!(inbox.on_push(message(1)).is_none());
    }

    #[test]
    fn pushes_wait_for_the_pages_and_then_come_in_order() {
        let mut inbox = Inbox::default();
        inbox.begin();
        for time in [9, 8, 3, 9] {
            assert!(inbox.on_push(message(time)).is_none());
        }
        assert_eq!(times(&inbox.on_page(vec![message(1), message(5)], true)), [1, 3, 5]);
        assert_eq!((inbox.is_fetching(), inbox.cursor()), (true, Some(message(5).uid)));
        assert_eq!(times(&inbox.on_page(vec![message(6), message(8)], false)), [6, 8, 9]);
        assert!(!inbox.is_fetching());
        assert!(inbox.on_push(message(9)).is_none() && inbox.on_push(message(10)).is_some());
    }

    #[test]
    fn messages_beyond_the_limit_are_fetched() {
        let mut inbox = Inbox::default();
        inbox.begin();
        (0..=WAITING_MAX as u64).for_each(|time| assert!(inbox.on_push(message(100 + time)).is_none()));
        assert_eq!(times(&inbox.on_page(vec![message(1)], false)), [1]);
        assert_eq!((inbox.is_fetching(), inbox.cursor()), (true, Some(message(1).uid)));
        let last = 100 + WAITING_MAX as u64;
        let shown = inbox.on_page((100..=last).map(message).collect(), false);
        assert_eq!(times(&shown), (100..=last).collect::<Vec<_>>());
        assert!(!inbox.is_fetching());
    }

    #[test]
    fn the_memory_of_shown_messages_is_bounded_and_none_is_shown_twice() {
        let mut inbox = Inbox::default();
        (0..SHOWN_MAX as u64 + 10).for_each(|time| assert!(inbox.on_push(message(time)).is_some()));
        assert_eq!(inbox.shown.len(), SHOWN_MAX);
        assert!(inbox.on_push(message(3)).is_none());
    }

    #[test]
    fn acknowledgements_are_batched() {
        let mut inbox = Inbox::default();
        (0..ACK_MAX as u64 + 1).for_each(|time| inbox.on_shown(message(time).uid));
        assert_eq!(inbox.take_acknowledgements().len(), ACK_MAX);
        assert_eq!(inbox.take_acknowledgements().len(), 1);
        assert!(!inbox.has_acknowledgements());
    }
}
