//! Messages that come in, and their acknowledgement.

use super::Controller;
use crate::cli::print::What;
use crate::cli::verb::recipient;
use stablechat_protocol::answer::{Message, QueryAnswer};
use stablechat_protocol::command::{Command, PAGE_MAX, Query};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;

impl Controller {
    /// A replica pushes a message.
    pub(super) fn on_delivery(&mut self, message: Message) {
        let is_ours = self.person.name().is_some_and(|name| message.to == recipient(name));
        if !self.person.receive || !is_ours {
            // It was under way when one spoke as someone else, for whom it stays unread.
            return;
        }
        self.person.session.observe(message.uid.timestamp);
        if let Some(message) = self.person.inbox.on_push(message) {
            self.show(message);
        }
    }

    /// A page of unread messages that was asked for by [`Controller::fetch`].
    pub(super) fn on_page(&mut self, number: u64, answer: QueryAnswer) {
        self.queries.close(number);
        self.person.page = None;
        match answer {
            QueryAnswer::Messages { messages, more } => self.take_page(messages, more),
            QueryAnswer::Rejected { reason } => {
                self.take_page(Vec::new(), false);
                self.notice(format!("no messages can be received: {reason}"));
            }
            QueryAnswer::Accounts { .. } | QueryAnswer::Key { .. } => self.take_page(Vec::new(), false),
        }
    }

    /// Shows a page of unread messages.
    pub(super) fn take_page(&mut self, messages: Vec<Message>, more: bool) {
        for message in self.person.inbox.on_page(messages, more) {
            self.person.session.observe(message.uid.timestamp);
            self.show(message);
        }
    }

    /// Asks for the next page of unread messages while there is one to be fetched and none is under way.
    pub(super) fn fetch(&mut self, now: Timestamp) {
        // While one tries to connect, the first page is asked for by the connect itself.
        let is_free = self.person.page.is_none() && self.before.is_none() && self.queries.can_ask();
        if self.person.inbox.is_fetching() && is_free && self.is_open && !self.reach.is_empty() {
            let query = unread(self.person.inbox.cursor());
            self.person.page = Some(self.ask(now, query));
        }
    }

    /// Acknowledges what was shown: one command at a time, with all that has gathered.
    pub(super) fn acknowledge(&mut self, now: Timestamp) {
        let is_free = self.person.acknowledging.is_none() && self.person.session.can_issue() && !self.reach.is_empty();
        if is_free && self.person.inbox.has_acknowledgements() {
            let uids = self.person.inbox.take_acknowledgements();
            let sequence = self.issue(now, Command::Ack { uids: uids.clone() });
            self.person.acknowledging = Some((sequence, uids));
        }
    }

    fn show(&mut self, message: Message) {
        self.person.inbox.on_shown(message.uid);
        self.say(What::Message(message), None);
    }
}

/// A page of unread messages.
pub(super) fn unread(after: Option<Uid>) -> Query {
    Query::Unread { after, limit: PAGE_MAX }
}
