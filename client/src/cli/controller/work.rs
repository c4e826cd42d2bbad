//! Doing the jobs: each is started when its turn comes, and its result shown when those before it are.

use super::Controller;
use super::job::{Content, Job, Reply, Stage};
use crate::account::inbox;
use crate::cli::exit::{self, Failure};
use crate::cli::mode::Mode;
use crate::cli::print::{Answerer, Item};
use crate::cli::verb::Verb;
use crate::inbox::Scope;
use stablechat_protocol::answer::{Answer, QueryAnswer};
use stablechat_protocol::command::{Command, PAGE_MAX, Query};
use stablechat_protocol::conversation::{Conversation, Message, Page};
use stablechat_protocol::message::ToReplica;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// How long to wait for the other replicas' answers after the first, beside one delivery bound.
const OTHER_REPLIES: Duration = Duration::from_secs(1);

impl Controller {
    /// Shows finished jobs and starts waiting ones, until there is nothing to show and nothing to start.
    pub(super) fn work(&mut self, now: Timestamp) {
        loop {
            let finished = self.finish_jobs(now) | self.replace_login();
            self.receive(now);
            let started = self.start_jobs(now);
            if !finished && !started || self.outcome.is_over() {
                break;
            }
        }
    }

    /// When the first job stops waiting for more replicas' answers than it has.
    pub(super) fn replies_deadline(&self) -> Option<Timestamp> {
        let job = self.jobs.front().filter(|job| self.settings.all_replies && job.is_answered())?;
        Some(self.complete_at(job))
    }

    /// Fetches the next page of unread messages.
    fn receive(&mut self, now: Timestamp) {
        // The first page of an account that is being connected is asked for by the connect itself.
        let can_fetch =
            self.previous.is_none() && self.reach.can_send() && !self.is_output_lost && !self.executions.are_many();
        if let Some(page) = can_fetch.then(|| self.account.fetch(now)).flatten() {
            self.send(page);
        }
    }

    /// Finishes jobs from the front of the queue. Returns whether there was any.
    fn finish_jobs(&mut self, now: Timestamp) -> bool {
        let mut finished = false;
        while !self.outcome.is_over() && self.jobs.first_started().is_some_and(|job| self.is_complete(now, job)) {
            let Some(mut job) = self.jobs.pop() else { break };
            if let Stage::Query { number } = job.stage {
                self.account.close(number);
            }
            if self.finish(now, &mut job) == Turn::Again {
                self.jobs.put_back(job);
            }
            finished = true;
        }
        finished
    }

    /// Whether a job has the answers that it waits for.
    fn is_complete(&self, now: Timestamp, job: &Job) -> bool {
        let replicas = self.settings.cluster.replicas.len();
        if job.stage == Stage::Status {
            return self.status.is_complete(now, replicas, &self.reach);
        }
        let has_reply = |link: usize| job.replies.iter().any(|reply| reply.link == link);
        job.is_answered()
            && (!self.settings.all_replies
                || job.stage == Stage::Local
                || (0..replicas).filter(|&link| self.reach.is_ready(link)).all(has_reply)
                || self.complete_at(job) <= now)
    }

    /// When a job that is answered stops waiting for the answers of other replicas.
    fn complete_at(&self, job: &Job) -> Timestamp {
        job.answered_at.after(self.settings.cluster.delivery_bound + OTHER_REPLIES)
    }

    /// Starts jobs in order, as many as there is room for. Returns whether there was any.
    fn start_jobs(&mut self, now: Timestamp) -> bool {
        let mut has_started = false;
        while !self.logins.has_ended()
            && let Some(job) = self.jobs.next(self.account.is_quiet())
        {
            let stage = match job.task.clone() {
                Ok(Verb::Help | Verb::Quit | Verb::To { conversation: None }) | Err(_) => Some(Stage::Local),
                // It needs neither a replica to begin with, nor a place in the order.
                Ok(Verb::Status) => self.start_status(now),
                Ok(verb) if self.can_start(&verb) => Some(self.start(now, verb)),
                Ok(_) => None,
            };
            let Some(stage) = stage else { break };
            self.jobs.start_next(stage);
            has_started = true;
        }
        has_started
    }

    /// Whether there is a replica, and room in the session or among the queries.
    fn can_start(&self, verb: &Verb) -> bool {
        let has_room = match verb {
            Verb::Connect { .. } | Verb::Settings => self.account.can_ask(),
            verb if first_query(verb).is_some() => self.account.can_ask(),
            _ => self.account.session().can_issue(),
        };
        has_room && self.reach.can_send()
    }

    /// Starts the next job, which is to do this. When it cannot even begin, that becomes its result.
    fn start(&mut self, now: Timestamp, verb: Verb) -> Stage {
        let started = match verb {
            Verb::Send { to, text } => Ok(self.command(now, Command::Send { to, text })),
            Verb::Room { room, action } => Ok(self.command(now, Command::Room { room, action })),
            Verb::Block { name, is_blocked } => Ok(self.command(now, Command::Block { name, is_blocked })),
            Verb::Mute { conversation, is_muted } => Ok(self.command(now, Command::Mute { conversation, is_muted })),
            Verb::Create { name, invitation } => self.start_create(now, name, invitation),
            Verb::Settings => Ok(self.query(now, Query::Settings)),
            Verb::Operate { operation, .. } => Ok(self.command(now, Command::Operate { operation })),
            Verb::Connect { name } => self.start_connect(now, &name),
            Verb::SetKey { name } => self.start_set_key(now, &name),
            Verb::Delete { name } => self.start_delete(now, &name),
            verb => Ok(first_query(&verb).map_or(Stage::Local, |query| self.query(now, query))),
        };
        started.unwrap_or_else(|failure| {
            if let Some(job) = self.jobs.next(true) {
                job.task = Err(failure);
            }
            Stage::Local
        })
    }

    pub(super) fn command(&mut self, now: Timestamp, command: Command) -> Stage {
        let (sequence, message) = self.account.issue(now, command);
        self.send(message);
        Stage::Command { sequence }
    }

    pub(super) fn query(&mut self, now: Timestamp, query: Query) -> Stage {
        let (number, message) = self.account.ask(now, query);
        self.send(message);
        Stage::Query { number }
    }

    /// Asks all replicas for their status. `None` while they are being asked already.
    fn start_status(&mut self, now: Timestamp) -> Option<Stage> {
        if self.status.is_running() {
            return None;
        }
        self.status.begin(now, self.settings.cluster.delivery_bound);
        self.send(ToReplica::Status);
        Some(Stage::Status)
    }

    /// Shows the result of a job, or goes on with its next page.
    fn finish(&mut self, now: Timestamp, job: &mut Job) -> Turn {
        let verb = match &job.task {
            Ok(verb) => verb.clone(),
            Err(failure) => {
                let failure = failure.clone();
                self.switch_back();
                self.outcome.on_failure(job.line, &failure);
                self.show(Item::Failed { line: job.line, verb: None, failure }, None);
                return Turn::Done;
            }
        };
        let replies = self.take_replies(job);
        let is_done = replies.iter().any(|reply| reply.content.is_final() && reply.content.rejection().is_none());
        match verb {
            Verb::Help => self.show(Item::Help, None),
            Verb::Status => self.finish_status(job),
            Verb::Create { name, .. } => {
                // The key is in its place before anybody is told that the account exists.
                if let (true, Some(new_key)) = (is_done, &job.new_key) {
                    self.confirm_key(&name, new_key);
                }
                self.show_each(&replies, |_| Item::Created { name: name.clone() });
                if is_done && self.settings.mode == Mode::Prompt && self.account.name().is_none() {
                    self.notice(format!("to speak as {name}: connect {name}"));
                }
            }
            Verb::Send { to, .. } => {
                let Stage::Command { sequence } = job.stage else { return Turn::Done };
                self.show_each(&replies, |uid| Item::Sent { to: to.clone(), uid, sequence });
            }
            Verb::Operate { operation, secret } => {
                self.show_each(&replies, |_| Item::Operated { operation: operation.clone(), secret: secret.clone() });
            }
            Verb::Settings => {
                for reply in &replies {
                    if let Content::Query(QueryAnswer::Settings { settings, invitations }) = &reply.content {
                        let item = Item::Settings { settings: *settings, invitations: invitations.clone() };
                        self.show(item, Some(self.answerer(reply)));
                    }
                }
            }
            Verb::Connect { name } => self.finish_connect(now, job, name, replies),
            Verb::SetKey { name } => {
                if let (true, Some(new_key)) = (is_done, &job.new_key) {
                    self.confirm_key(&name, new_key);
                }
                self.show_each(&replies, |_| Item::KeySet { name: name.clone() });
            }
            Verb::Delete { name } => {
                self.show_each(&replies, |_| Item::Deleted { name: name.clone() });
                self.finish_delete(&name, is_done);
            }
            Verb::Room { room, action } => {
                self.show_each(&replies, |_| Item::RoomChanged { room: room.clone(), action: action.clone() });
            }
            Verb::Block { name, is_blocked } => {
                self.show_each(&replies, |_| Item::Blocked { name: name.clone(), is_blocked });
                self.account.fetch_anew();
            }
            Verb::Mute { conversation, is_muted } => {
                self.show_each(&replies, |_| Item::Muted { conversation: conversation.clone(), is_muted });
                self.account.fetch_anew();
            }
            Verb::To { conversation } => self.finish_to(conversation, &replies),
            // That there is none has been told.
            Verb::Find { .. } => {}
            Verb::History { with, limit } => return self.finish_history(now, job, &with, limit, replies),
            Verb::List { .. }
            | Verb::Export
            | Verb::Inbox { .. }
            | Verb::Unread
            | Verb::Rooms { .. }
            | Verb::Members { .. }
            | Verb::Blocked => return self.finish_page(now, job, &verb, replies),
            Verb::Quit => {}
        }
        Turn::Done
    }

    /// Takes the answers that are shown: all, in the order of the replicas, or the first. Rejections are told here.
    fn take_replies(&mut self, job: &mut Job) -> Vec<Reply> {
        let mut replies = std::mem::take(&mut job.replies);
        if let Some(reason) =
            replies.iter().find(|reply| reply.content.is_final()).and_then(|reply| reply.content.rejection())
        {
            let failure = self.failure(reason);
            self.outcome.on_failure(job.line, &failure);
        }
        if self.settings.all_replies {
            replies.sort_by_key(|reply| reply.link);
            self.compare(&replies);
        } else {
            replies.retain(|reply| reply.content.is_final());
            replies.truncate(1);
        }
        for reply in &replies {
            if let Some(reason) = reply.content.rejection() {
                let failure = self.failure(reason);
                let item = Item::Failed { line: job.line, verb: job.word(), failure };
                self.show(item, Some(self.answerer(reply)));
            }
        }
        replies
    }

    /// Reports answers to a query that differ. (Those to commands are compared by the session.)
    fn compare(&mut self, replies: &[Reply]) {
        let Some((first, others)) = replies.split_first() else { return };
        let Content::Query(answer) = &first.content else { return };
        for other in others {
            if !matches!(&other.content, Content::Query(same) if same == answer) {
                let (one, two) = (self.replica(first.link), self.replica(other.link));
                self.notice(format!("the replicas {one} and {two} answer differently"));
            }
        }
    }

    /// Shows the result of a command, once for each replica that executed it.
    fn show_each(&mut self, replies: &[Reply], item: impl Fn(Uid) -> Item) {
        for reply in replies {
            if let Content::Command { uid, answer: Answer::Done } = &reply.content {
                self.show(item(*uid), Some(self.answerer(reply)));
            }
        }
    }

    fn finish_status(&mut self, job: &Job) {
        let Some(status) = self.status.finish(&self.settings.cluster) else { return };
        let code = status.code();
        self.show(Item::Status(status), None);
        if code != exit::DONE {
            self.outcome.on_failure(job.line, &Failure::new(code, "not all replicas serve and are the same"));
        }
    }

    /// Sends what is typed to a conversation from here on and shows nothing else, unless there is no such conversation.
    fn finish_to(&mut self, conversation: Option<Conversation>, replies: &[Reply]) {
        let is_there = replies.iter().any(|reply| reply.content.rejection().is_none());
        match conversation {
            Some(conversation) if is_there => {
                self.notice(format!(
                    "the lines that you type go to {conversation}; verbs begin with a /, and /to ends this"
                ));
                self.input.set_talk(Some(conversation.clone()));
                self.account.set_scope(Scope::Only(BTreeSet::from([conversation])));
            }
            Some(_) => {}
            None => {
                self.notice("the lines that you type are verbs".into());
                self.input.set_talk(None);
                self.account.set_scope(self.settings.scope.clone());
            }
        }
    }

    /// Shows a page, and asks for the next one, or for the messages that the verb shows.
    fn finish_page(&mut self, now: Timestamp, job: &mut Job, verb: &Verb, replies: Vec<Reply>) -> Turn {
        let asked = job.page.take().or_else(|| first_query(verb));
        let mut next = None;
        for reply in replies {
            let by = self.answerer(&reply);
            let Content::Query(answer) = reply.content else { continue };
            let before = next.take();
            next = asked.as_ref().and_then(|asked| page_after(asked, &answer)).or(before);
            let items = self.items(verb, answer, &mut job.queries);
            // The list of conversations is no result of a verb that shows their messages.
            job.has_results |= !items.is_empty();
            items.into_iter().for_each(|item| self.show(item, Some(by.clone())));
        }
        let next = next.or_else(|| job.queries.pop_front());
        job.page.clone_from(&next);
        self.next_page(now, job, next)
    }

    /// The items of a page that are to be shown. A verb that shows the messages of conversations also gets a query for each of them.
    fn items(&self, verb: &Verb, answer: QueryAnswer, queries: &mut VecDeque<Query>) -> Vec<Item> {
        match (verb, answer) {
            (Verb::Unread | Verb::Export, QueryAnswer::Inbox { entries, .. }) => {
                let is_export = *verb == Verb::Export;
                let page = match is_export {
                    true => Page::After { uid: Uid::MIN },
                    false => Page::Unread { after: Uid::MIN },
                };
                for entry in entries.into_iter().filter(|entry| is_export || entry.unread > 0) {
                    let query = Query::History { conversation: entry.conversation, page, limit: PAGE_MAX };
                    if !queries.contains(&query) {
                        queries.push_back(query);
                    }
                }
                Vec::new()
            }
            (_, QueryAnswer::Inbox { entries, invitations, .. }) => {
                let invitations = invitations.into_iter().map(Item::Invited);
                entries.into_iter().map(Item::Conversation).chain(invitations).collect()
            }
            (_, QueryAnswer::Accounts { names, .. }) => names.into_iter().map(|name| Item::Account { name }).collect(),
            (_, QueryAnswer::Messages { messages, .. }) => {
                let reader = self.account.name().cloned();
                messages.into_iter().map(|message| Item::Message { message, reader: reader.clone() }).collect()
            }
            (_, QueryAnswer::Rooms { rooms, .. }) => rooms.into_iter().map(Item::Room).collect(),
            (_, QueryAnswer::Members { members, .. }) => members.into_iter().map(Item::Member).collect(),
            (_, QueryAnswer::Settings { .. } | QueryAnswer::Rejected { .. }) => Vec::new(),
        }
    }

    /// Gathers pages from the last to the first, and shows them in the other order.
    fn finish_history(
        &mut self,
        now: Timestamp,
        job: &mut Job,
        with: &Conversation,
        limit: u32,
        replies: Vec<Reply>,
    ) -> Turn {
        let mut next = None;
        let mut answerers = Vec::new();
        for reply in replies {
            // Where only first answers count, pages of different replicas make up one result.
            let link = if self.settings.all_replies { reply.link } else { 0 };
            answerers.push((link, self.answerer(&reply)));
            job.has_results |= reply.content.rejection().is_some();
            let Content::Query(QueryAnswer::Messages { messages, earlier, .. }) = reply.content else { continue };
            job.has_results |= !messages.is_empty();
            let gathered = gather(&mut job.gathered, link, messages);
            let missing = limit.saturating_sub(u32::try_from(gathered.len()).unwrap_or(u32::MAX));
            if let (true, Some(first), 1..) = (earlier, gathered.first(), missing) {
                next = Some(history(with, missing, Page::Before { uid: first.uid }));
            }
        }
        if next.is_none() {
            for (link, messages) in std::mem::take(&mut job.gathered) {
                let by = answerers.iter().find(|(of, _)| *of == link).map(|(_, by)| by.clone());
                messages.into_iter().for_each(|message| self.show(Item::Exchanged(message), by.clone()));
            }
        }
        self.next_page(now, job, next)
    }

    /// Asks for the next page of a job, if there is one.
    fn next_page(&mut self, now: Timestamp, job: &mut Job, next: Option<Query>) -> Turn {
        // Further pages would be shown to nobody.
        if let Some(query) = next.filter(|_| !self.is_output_lost) {
            let stage = self.query(now, query);
            job.enter(stage);
            return Turn::Again;
        }
        if !job.has_results && self.settings.mode == Mode::Prompt {
            // A person who sees nothing wonders whether that is the answer; a script does not.
            self.notice("there are none".into());
        }
        Turn::Done
    }

    pub(super) fn answerer(&self, reply: &Reply) -> Answerer {
        let replicas = &self.settings.cluster.replicas;
        Answerer {
            replica: replicas[reply.link].name.clone(),
            copies: reply.metadata.copies,
            replicas: replicas.len(),
            position: reply.metadata.position,
        }
    }
}

/// Whether a job is through.
#[derive(PartialEq, Eq)]
enum Turn {
    /// It is.
    Done,
    /// It has asked for more.
    Again,
}

/// The query that a verb begins with, if it shows what replicas answer.
fn first_query(verb: &Verb) -> Option<Query> {
    let (after, limit) = (None, PAGE_MAX);
    Some(match verb {
        Verb::List { pattern } => Query::List { pattern: pattern.clone(), after, limit },
        Verb::Inbox { all } => Query::Inbox { all: *all, after: None, limit },
        Verb::Export => Query::Inbox { all: true, after: None, limit },
        // Whether there is such a conversation.
        Verb::To { conversation: Some(conversation) } | Verb::Find { conversation } => {
            history(conversation, 1, Page::Latest)
        }
        Verb::Unread => inbox(),
        Verb::History { with, limit } => history(with, *limit, Page::Latest),
        Verb::Rooms { pattern } => Query::Rooms { pattern: pattern.clone(), after: None, limit },
        Verb::Members { room } => Query::Members { room: room.clone(), after: None, limit },
        Verb::Blocked => Query::Blocked,
        _ => return None,
    })
}

/// The query for the page that comes after an answer to this one; none if it is the last.
fn page_after(asked: &Query, answer: &QueryAnswer) -> Option<Query> {
    let mut next = asked.clone();
    match (&mut next, answer) {
        (Query::List { after, .. }, QueryAnswer::Accounts { next: Some(last), .. }) => *after = Some(last.clone()),
        (Query::Inbox { after, .. }, QueryAnswer::Inbox { next: Some(last), .. }) => *after = Some(last.clone()),
        (Query::Rooms { after, .. }, QueryAnswer::Rooms { next: Some(last), .. }) => *after = Some(last.clone()),
        (Query::Members { after, .. }, QueryAnswer::Members { next: Some(last), .. }) => *after = Some(*last),
        (Query::History { page, .. }, QueryAnswer::Messages { messages, later: true, .. }) => {
            let last = messages.last()?.uid;
            *page = match page {
                Page::Unread { .. } => Page::Unread { after: last },
                _ => Page::After { uid: last },
            };
        }
        _ => return None,
    }
    Some(next)
}

/// A page of a conversation, of at most so many messages.
fn history(with: &Conversation, limit: u32, page: Page) -> Query {
    let limit = u16::try_from(limit).map_or(PAGE_MAX, |limit| limit.min(PAGE_MAX));
    Query::History { conversation: with.clone(), page, limit }
}

/// Puts an earlier page before the messages that a link has sent so far. Returns all of them.
fn gather(gathered: &mut Vec<(usize, Vec<Message>)>, link: usize, mut page: Vec<Message>) -> &Vec<Message> {
    let place = match gathered.iter().position(|(of, _)| *of == link) {
        Some(place) => place,
        None => {
            gathered.push((link, Vec::new()));
            gathered.len() - 1
        }
    };
    page.append(&mut gathered[place].1);
    gathered[place].1 = page;
    &gathered[place].1
}
