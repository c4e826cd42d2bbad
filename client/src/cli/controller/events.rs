//! Events of the account in use and of its replicas: answers go to their jobs, messages and notices to the screen.

use super::job::{Content, Reply};
use super::reachability::ReachNews;
use super::{Controller, Effect};
use crate::account::{AccountEvent, CommandAnswer};
use crate::cli::mode::Mode;
use crate::cli::print::Item;
use crate::session::AnswerKind;
use stablechat_protocol::answer::{Answer, QueryAnswer, Refusal};
use stablechat_protocol::command::Command;
use stablechat_protocol::conversation::{Conversation, Message};
use stablechat_protocol::time::Timestamp;

impl Controller {
    pub(super) fn on_event(&mut self, now: Timestamp, event: AccountEvent) {
        match event {
            AccountEvent::Answer(answer) => self.on_answer(now, answer),
            AccountEvent::QueryAnswer { link, number, answer, metadata } => {
                self.timeouts.on_progress(now);
                if self.learning.remove(&number) {
                    self.account.close(number);
                    self.learn(answer);
                    return;
                }
                let Some(job) = self.jobs.of_query(number) else { return };
                if job.replies.is_empty() || self.settings.all_replies {
                    job.on_reply(now, Reply { link, content: Content::Query(answer), metadata });
                }
            }
            AccountEvent::Message(message) => self.on_message_to_show(message),
            AccountEvent::RoomNews(news) => {
                if self.settings.mode == Mode::Prompt {
                    self.show(Item::RoomNews(news), None);
                }
            }
            AccountEvent::FetchRejected(reason) => self.on_fetch_rejected(&reason),
            // Nobody has asked for this, or seen what came of it.
            AccountEvent::Changed { change, .. } if matches!(change.command, Command::Read { .. }) => {}
            AccountEvent::Changed { sequence, uid, change, after } => {
                let (command, before) = (change.command, change.before);
                self.show(Item::Changed { command, sequence, uid, before, after }, None);
            }
            AccountEvent::Refused { reason } => self.on_refused(reason),
        }
    }

    /// A message has come. What the account itself has sent from elsewhere is for a person's eyes: a program would answer itself.
    fn on_message_to_show(&mut self, message: Message) {
        let is_own = self.account.name() == Some(&message.from);
        let is_note = message.to == Conversation::with(&message.from);
        let is_wanted = self.settings.mode == Mode::Prompt || !is_own || is_note;
        match (is_wanted, self.settings.executes) {
            (true, true) => self.execute(message),
            (true, false) => {
                let reader = self.account.name().cloned();
                self.show(Item::Message { message, reader }, None);
            }
            (false, _) => self.account.on_handled(message.uid),
        }
    }

    /// The conversation of a message, as the account in use names it.
    pub(super) fn conversation_of(&self, message: &Message) -> Conversation {
        self.account.name().map_or_else(|| message.to.clone(), |name| message.conversation(name))
    }

    /// Learns the names in an answer.
    fn learn(&mut self, answer: QueryAnswer) {
        let names: Vec<String> = match answer {
            QueryAnswer::Accounts { names, .. } => names.iter().map(ToString::to_string).collect(),
            QueryAnswer::Rooms { rooms, .. } => rooms.iter().map(|room| room.name.to_string()).collect(),
            _ => Vec::new(),
        };
        self.effects.extend(names.into_iter().map(Effect::Learn));
    }

    fn on_answer(&mut self, now: Timestamp, answer: CommandAnswer) {
        let CommandAnswer { link, sequence, uid, answer, metadata, kind } = answer;
        if let AnswerKind::Differs { link: first, answer: other } = &kind {
            self.notice(format!(
                "the replicas disagree on request {sequence}: {} says {}, {} says {}",
                self.replica(*first),
                in_words(other),
                self.replica(link),
                in_words(&answer)
            ));
        }
        if kind == AnswerKind::Answered {
            self.timeouts.on_progress(now);
        }

        if let Some(job) = self.jobs.of_command(sequence)
            && (kind == AnswerKind::Answered || self.settings.all_replies)
        {
            job.on_reply(now, Reply { link, content: Content::Command { uid, answer }, metadata });
        }
    }

    /// A replica did not take a command. When none takes it for lack of room, or because it comes too fast, a person is told: that may
    /// last.
    fn on_refused(&mut self, reason: Refusal) {
        let is_throttled = matches!(reason, Refusal::TooFast { .. }) && self.account.session().is_refused();
        if is_throttled && self.timeouts.on_throttled() {
            self.notice(
                "this account or its address has sent more commands than the replicas accept at once; the rest is sent as \
                 fast as they allow"
                    .into(),
            );
        }
        let is_full = reason == Refusal::NoRoom && self.account.session().is_refused();
        if is_full && self.timeouts.on_no_room() && self.is_told_of_reach() {
            self.notice(
                "the disks of all replicas in reach are full, so nothing can be written; trying again until there is room"
                    .into(),
            );
        }
    }

    /// Tells a person when no replica is in reach any more, and when one is again.
    pub(super) fn tell_reach(&mut self, now: Timestamp) {
        if !self.is_told_of_reach() {
            return;
        }
        match self.reach.news(now) {
            Some(ReachNews::Lost) => {
                let fault = self.reach.unreachable(&self.settings.cluster);
                self.notice(format!("{fault}; trying again until one answers, Ctrl-C to stop"));
            }
            Some(ReachNews::Regained) => {
                self.notice(format!("the cluster {} is in reach again", self.settings.cluster.name));
            }
            None => {}
        }
    }
}

/// An answer for a person.
fn in_words(answer: &Answer) -> String {
    match answer {
        Answer::Done => "it is done".into(),
        Answer::Rejected { reason } => reason.to_string(),
    }
}
