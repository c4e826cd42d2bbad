//! The queue of jobs: each is started when its turn comes, and its result shown when those before it are.

use super::person::Person;
use super::post::unread;
use super::{Controller, Mode};
use crate::cli::controller::job::{Content, Job, Reply, Stage};
use crate::cli::exit::{self, Failure};
use crate::cli::print::{Answerer, What};
use crate::cli::verb::{Verb, recipient};
use crate::greeting::Credentials;
use stablechat_protocol::answer::{Answer, Message, QueryAnswer, Rejection};
use stablechat_protocol::command::{Command, PAGE_MAX, Query};
use stablechat_protocol::name::AccountName;
use stablechat_protocol::time::Timestamp;
use std::rc::Rc;
use std::time::Duration;

/// How long to wait for the other replicas' answers after the first, beside one delivery bound.
const OTHER_REPLIES: Duration = Duration::from_secs(1);

impl Controller {
    /// Shows what is finished and starts what can be, until there is neither.
    pub(super) fn work(&mut self, now: Timestamp) {
        loop {
            let finished = self.finish_jobs(now);
            self.acknowledge(now);
            self.fetch(now);
            let started = self.start_jobs(now);
            if !finished && !started || self.is_over {
                break;
            }
        }
    }

    /// When the first job stops waiting for more replicas' answers than it has.
    pub(super) fn replies_deadline(&self) -> Option<Timestamp> {
        let job = self.jobs.front().filter(|job| self.settings.all_replies && job.is_answered())?;
        Some(self.complete_at(job))
    }

    /// Finishes jobs from the front of the queue. Returns whether there was any.
    fn finish_jobs(&mut self, now: Timestamp) -> bool {
        let mut finished = false;
        while !self.is_over && self.started > 0 && self.is_complete(now, &self.jobs[0]) {
            let mut job = self.jobs.pop_front().expect("it was there");
            self.started -= 1;
            self.finished += 1;
            match job.stage {
                Stage::Command { sequence } => drop(self.by_sequence.remove(&sequence)),
                Stage::Query { number } => self.queries.close(number),
                Stage::Waiting | Stage::Local | Stage::Survey => {}
            }
            if self.finish(now, &mut job) == Turn::Again {
                self.jobs.push_front(job);
                self.started += 1;
                self.finished -= 1;
            }
            finished = true;
        }
        finished
    }

    /// Whether a job has the answers that it waits for.
    fn is_complete(&self, now: Timestamp, job: &Job) -> bool {
        if job.stage == Stage::Survey {
            return self.is_surveyed(now);
        }
        let has_reply = |link: usize| job.replies.iter().any(|reply| reply.link == link);
        let links = 0..self.settings.cluster.replicas.len();
        job.is_answered()
            && (!self.settings.all_replies
                || job.stage == Stage::Local
                || links.filter(|&link| self.reach.contains(link)).all(has_reply)
                || self.complete_at(job) <= now)
    }

    /// When a job that is answered stops waiting for others' answers.
    fn complete_at(&self, job: &Job) -> Timestamp {
        job.answered_at.after(self.settings.cluster.delivery_bound + OTHER_REPLIES)
    }

    /// Starts jobs in order, as many as there is room for. Returns whether there was any.
    fn start_jobs(&mut self, now: Timestamp) -> bool {
        let before = self.started;
        while let Some(job) = self.jobs.get(self.started) {
            if self.jobs.front().is_some_and(|first| self.started > 0 && first.is_barrier()) {
                break;
            }
            if job.is_barrier() && (self.started > 0 || !self.person.is_quiet()) {
                break;
            }
            let Some(stage) = self.start(now, self.started) else { break };
            if let Stage::Command { sequence } = stage {
                self.by_sequence.insert(sequence, self.finished + self.started as u64);
            }
            self.jobs[self.started].enter(stage);
            self.started += 1;
        }
        self.started > before
    }

    /// Starts the job at a place in the queue. `None` when there is no room for it, or no replica.
    fn start(&mut self, now: Timestamp, place: usize) -> Option<Stage> {
        let verb = match &self.jobs[place].task {
            Ok(Verb::Help) | Err(_) => return Some(Stage::Local),
            // Neither is a replica needed to begin with, nor a place in the order.
            Ok(Verb::Status) => return self.start_survey(now),
            Ok(verb) => verb.clone(),
        };
        let has_room = match verb {
            Verb::List { .. } | Verb::Unread | Verb::History { .. } | Verb::Connect { .. } => self.queries.can_ask(),
            _ => self.person.session.can_issue(),
        };
        if !has_room || !self.is_open || self.reach.is_empty() {
            return None;
        }
        let started = match verb {
            Verb::Send { to, text } => Ok(self.command(now, Command::Send { to: recipient(&to), text })),
            Verb::Create { name } => self.start_create(now, place, name),
            Verb::Connect { name } => self.start_connect(now, &name),
            Verb::Delete { name } => self.start_delete(now, &name),
            Verb::List { pattern } => Ok(self.query(now, Query::List { pattern, after: None, limit: PAGE_MAX })),
            Verb::Unread => Ok(self.query(now, unread(None))),
            Verb::History { with, limit } => Ok(self.query(now, history(&with, limit, None))),
            Verb::Status | Verb::Help | Verb::Quit => Ok(Stage::Local),
        };
        Some(started.unwrap_or_else(|failure| {
            self.jobs[place].task = Err(failure);
            Stage::Local
        }))
    }

    fn command(&mut self, now: Timestamp, command: Command) -> Stage {
        Stage::Command { sequence: self.issue(now, command) }
    }

    fn query(&mut self, now: Timestamp, query: Query) -> Stage {
        Stage::Query { number: self.ask(now, query) }
    }

    /// Makes a key unless there is one, so that repeating a create that failed makes no second one.
    fn start_create(&mut self, now: Timestamp, place: usize, name: AccountName) -> Result<Stage, Failure> {
        let held = self.settings.keys.load_or_create(&name);
        let held = held.map_err(|error| Failure::new(exit::CONFIGURATION, error.to_string()))?;
        self.jobs[place].made_key = held.is_new;
        Ok(self.command(now, Command::Create { name, key: held.secret.public(), password: None }))
    }

    /// Logs in, and asks for what is unread: the answer says whether the account is ours.
    fn start_connect(&mut self, now: Timestamp, name: &AccountName) -> Result<Stage, Failure> {
        let identity = self.identity(name)?;
        let person = Person::new(Some(Rc::new(identity)), true, self.new_session());
        self.before = Some(self.switch(now, person));
        Ok(self.query(now, unread(None)))
    }

    /// Deletes an account in its own name, if need be by speaking as it for that one command.
    fn start_delete(&mut self, now: Timestamp, name: &AccountName) -> Result<Stage, Failure> {
        if self.person.name() != Some(name) {
            let identity = self.identity(name)?;
            let person = Person::new(Some(Rc::new(identity)), false, self.new_session());
            self.before = Some(self.switch(now, person));
        }
        Ok(self.command(now, Command::Delete))
    }

    fn identity(&self, name: &AccountName) -> Result<Credentials, Failure> {
        identity(&self.settings.keys, name)
    }

    /// Shows what a job has come to, or goes on with its next page.
    fn finish(&mut self, now: Timestamp, job: &mut Job) -> Turn {
        let verb = match &job.task {
            Ok(verb) => verb.clone(),
            Err(failure) => {
                let failure = failure.clone();
                if let Some(before) = self.before.take() {
                    self.switch(now, before);
                }
                self.record(job, &failure);
                self.say(What::Failed { line: job.line, verb: None, failure }, None);
                return Turn::Done;
            }
        };
        let replies = self.take_replies(job);
        let is_done = replies.iter().any(|reply| reply.content.is_final() && reply.content.rejection().is_none());
        match verb {
            Verb::Help => self.say(What::Help, None),
            Verb::Status => self.finish_survey(job),
            Verb::Create { name } => {
                self.say_each(&replies, |_| What::Created { name: name.clone() });
                if is_done && self.settings.mode == Mode::Prompt && self.person.name().is_none() {
                    self.notice(format!("to speak as {name}: connect {name}"));
                }
                self.finish_create(job, &name, &replies);
            }
            Verb::Send { to, .. } => {
                let Stage::Command { sequence } = job.stage else { return Turn::Done };
                self.say_each(&replies, |uid| What::Sent { to: to.clone(), uid, sequence });
            }
            Verb::Connect { name } => self.finish_connect(now, job, name, replies),
            Verb::Delete { name } => {
                self.say_each(&replies, |_| What::Deleted { name: name.clone() });
                self.finish_delete(now, &name, is_done);
            }
            Verb::List { .. } | Verb::Unread => return self.finish_page(now, job, &verb, &replies),
            Verb::History { with, limit } => return self.finish_history(now, job, &with, limit, replies),
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
            self.record(job, &Failure::from(reason));
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
                let mut failure = Failure::from(reason);
                if *reason == Rejection::LoginRequired {
                    failure.message += &format!("; {}", self.account_advice());
                }
                let what = What::Failed { line: job.line, verb: job.word(), failure };
                self.say(what, Some(self.answerer(reply)));
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

    /// Remembers a failure for the exit code, and whether anything is left to do after it.
    pub(super) fn record(&mut self, job: &Job, failure: &Failure) {
        let is_first = job.line.is_none();
        match self.settings.mode {
            Mode::Prompt => {}
            Mode::Filter if !is_first => self.code = exit::REFUSED,
            Mode::Filter | Mode::Once | Mode::Listen => {
                self.code = failure.code;
                self.is_over = true;
            }
        }
    }

    /// Says what came of a command, by each replica that did it.
    fn say_each(&mut self, replies: &[Reply], what: impl Fn(stablechat_protocol::uid::Uid) -> What) {
        for reply in replies {
            if let Content::Command { uid, answer: Answer::Done } = &reply.content {
                self.say(what(*uid), Some(self.answerer(reply)));
            }
        }
    }

    /// A key that was made for an account that turned out to be somebody else's is of no use.
    fn finish_create(&mut self, job: &Job, name: &AccountName, replies: &[Reply]) {
        let is_taken = |reply: &Reply| matches!(reply.content.rejection(), Some(Rejection::AlreadyExists { .. }));
        if job.made_key && replies.iter().all(is_taken) {
            self.remove_key(name);
        }
    }

    fn finish_connect(&mut self, now: Timestamp, job: &Job, name: AccountName, replies: Vec<Reply>) {
        // What only follows from `--as` is no result that a script has asked for.
        let is_asked_for = job.line.is_some() || self.settings.mode == Mode::Prompt;
        let mut first_page = None;
        for reply in replies {
            let by = self.answerer(&reply);
            if let Content::Query(QueryAnswer::Messages { messages, more }) = reply.content {
                if is_asked_for {
                    self.say(What::Connected { name: name.clone() }, Some(by));
                }
                first_page.get_or_insert((messages, more));
            }
        }
        match (first_page, self.before.take()) {
            (Some((messages, more)), _) => self.take_page(messages, more),
            (None, Some(before)) => drop(self.switch(now, before)),
            (None, None) => {}
        }
    }

    fn finish_delete(&mut self, now: Timestamp, name: &AccountName, is_done: bool) {
        if let Some(before) = self.before.take() {
            self.switch(now, before);
        } else if is_done {
            let nobody = Person::new(None, false, self.new_session());
            self.switch(now, nobody);
        }
        if is_done {
            self.remove_key(name);
        }
    }

    fn remove_key(&mut self, name: &AccountName) {
        if let Err(error) = self.settings.keys.remove(name) {
            self.notice(error.to_string());
        }
    }

    /// Shows a page of names or unread messages, and asks for the next.
    fn finish_page(&mut self, now: Timestamp, job: &mut Job, verb: &Verb, replies: &[Reply]) -> Turn {
        let mut next = None;
        for reply in replies {
            let by = self.answerer(reply);
            match &reply.content {
                Content::Query(QueryAnswer::Accounts { names, next: after }) => {
                    job.has_results |= !names.is_empty();
                    names.iter().for_each(|name| self.say(What::Account { name: name.clone() }, Some(by.clone())));
                    if let (Some(after), Verb::List { pattern }) = (after, verb) {
                        let (pattern, after) = (pattern.clone(), Some(after.clone()));
                        next = Some(Query::List { pattern, after, limit: PAGE_MAX });
                    }
                }
                Content::Query(QueryAnswer::Messages { messages, more }) => {
                    job.has_results |= !messages.is_empty();
                    messages.iter().for_each(|message| self.say(What::Message(message.clone()), Some(by.clone())));
                    if let (true, Some(last)) = (*more, messages.last()) {
                        next = Some(unread(Some(last.uid)));
                    }
                }
                _ => job.has_results = true,
            }
        }
        self.next_page(now, job, next)
    }

    /// Gathers pages from the last to the first, and shows them in the other order.
    fn finish_history(
        &mut self,
        now: Timestamp,
        job: &mut Job,
        with: &AccountName,
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
            let Content::Query(QueryAnswer::Messages { messages, more }) = reply.content else { continue };
            job.has_results |= !messages.is_empty();
            let gathered = gather(&mut job.gathered, link, messages);
            let missing = limit.saturating_sub(u32::try_from(gathered.len()).unwrap_or(u32::MAX));
            if let (true, Some(first), 1..) = (more, gathered.first(), missing) {
                next = Some(history(with, missing, Some(first.uid)));
            }
        }
        if next.is_none() {
            for (link, messages) in std::mem::take(&mut job.gathered) {
                let by = answerers.iter().find(|(of, _)| *of == link).map(|(_, by)| by.clone());
                messages.into_iter().for_each(|message| self.say(What::Exchanged(message), by.clone()));
            }
        }
        self.next_page(now, job, next)
    }

    /// Asks for the next page of a job, if there is one.
    fn next_page(&mut self, now: Timestamp, job: &mut Job, next: Option<Query>) -> Turn {
        if let Some(query) = next {
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

    fn answerer(&self, reply: &Reply) -> Answerer {
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

/// An account that this user holds the key of.
///
/// # Errors
/// There is no key of that account, or it cannot be used.
pub fn identity(keys: &crate::keys::Keys, account: &AccountName) -> Result<Credentials, Failure> {
    match keys.load(account) {
        Ok(Some(secret)) => Ok(Credentials { account: account.clone(), secret }),
        Ok(None) => Err(Failure::new(
            exit::CONFIGURATION,
            format!(
                "there is no key for {account}: {} does not exist; if the account is yours, copy its key there, \
                 otherwise make it with: create {account}",
                keys.path(account).display()
            ),
        )),
        Err(error) => Err(Failure::new(exit::CONFIGURATION, error.to_string())),
    }
}

/// A page of an exchange of messages.
fn history(with: &AccountName, limit: u32, before: Option<stablechat_protocol::uid::Uid>) -> Query {
    let limit = u16::try_from(limit).map_or(PAGE_MAX, |limit| limit.min(PAGE_MAX));
    Query::History { with: recipient(with), before, limit }
}

/// Puts an earlier page before what a link has answered so far. Returns all of it.
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
