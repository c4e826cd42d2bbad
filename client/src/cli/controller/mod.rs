//! The logic of the command line: it turns input lines into requests, and answers into output.
//!
//! Lines become [`Job`]s in a queue (`queue`). Jobs are started in order, many at a time, and their results are shown in order
//! (`work`). `events` passes on answers and pushed messages. `logins` says whose account is in use, and with which key. The account
//! in use ([`ActiveAccount`]) issues the commands and queries of jobs, and receives messages meanwhile. `timeouts` says when to give
//! up, `reachability` when to tell the user that no replica can be reached.
//!
//! The controller has no socket, terminal or clock. Its owner calls it with lines, frames and the time, and performs the effects
//! that [`Controller::take_effects`] returns. It does read and write key files.

mod events;
mod execution;
mod input;
pub mod job;
mod logins;
mod outcome;
mod queue;
mod reachability;
mod status_collection;
mod timeouts;
mod work;

use crate::account::ActiveAccount;
use crate::cli::exit::{self, Failure};
use crate::cli::lines::LineError;
use crate::cli::mode::Mode;
use crate::cli::print::{Answerer, Item, Output};
use crate::cli::status::Report;
use crate::cli::verb::Verb;
use crate::greeting::Credentials;
use crate::inbox::Scope;
use crate::keys::Keys;
use execution::Executions;
use input::LineInput;
use job::{Job, Stage};
use logins::Logins;
use outcome::Outcome;
use queue::JobQueue;
use reachability::Reachability;
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::conversation::{Conversation, Message};
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::name::AccountName;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use status_collection::StatusCollection;
use std::collections::BTreeSet;
use std::rc::Rc;
use timeouts::Timeouts;

/// Settings that do not change while the client runs.
pub struct ControllerSettings {
    pub mode: Mode,
    /// Whether every replica's answer is waited for and shown.
    pub all_replies: bool,
    pub cluster: Cluster,
    pub keys: Keys,
    /// The conversations whose messages are shown as they come, until the user says otherwise.
    pub scope: Scope,
    /// Whether a command is run for each message, instead of showing it.
    pub executes: bool,
    /// Makes client ids, which nobody may have used before.
    pub new_client: fn() -> ClientId,
}

/// An action that the owner performs for the controller.
pub enum Effect {
    /// Send a frame on one link, or on all that are ready.
    Send {
        link: Option<usize>,
        message: ToReplica,
    },
    /// Speak for this account, or nobody, on all links from here on.
    LogIn {
        credentials: Option<Rc<Credentials>>,
        /// Whether its messages shall be pushed.
        receive: bool,
    },
    /// Ask for the password of an account, and call [`Controller::on_password`].
    AskPassword {
        account: AccountName,
    },
    Show(Output),
    /// Run the command for a message, and call [`Controller::on_executed`].
    Execute {
        message: Message,
        conversation: Conversation,
    },
    /// Complete this name at the prompt.
    Learn(String),
}

pub struct Controller {
    settings: ControllerSettings,
    /// The account in use, or nobody.
    account: ActiveAccount,
    /// The account to return to after a `connect` that fails, or after another account was deleted. No other job runs meanwhile.
    previous: Option<ActiveAccount>,
    logins: Logins,
    jobs: JobQueue,
    executions: Executions,
    /// The queries for names that the prompt can complete.
    learning: BTreeSet<u64>,
    status: StatusCollection,
    reach: Reachability,
    timeouts: Timeouts,
    /// The lines of standard input.
    input: LineInput,
    /// Whether results cannot be written any more.
    is_output_lost: bool,
    outcome: Outcome,
    effects: Vec<Effect>,
}

impl Controller {
    /// A controller with no account in use.
    pub fn new(settings: ControllerSettings, now: Timestamp) -> Controller {
        let bound = settings.cluster.delivery_bound;
        Controller {
            account: ActiveAccount::nobody(settings.new_client, bound),
            previous: None,
            logins: Logins::default(),
            jobs: JobQueue::default(),
            executions: Executions::default(),
            learning: BTreeSet::new(),
            status: StatusCollection::default(),
            reach: Reachability::new(now),
            timeouts: Timeouts::new(settings.mode, bound, now),
            input: LineInput::new(settings.mode),
            is_output_lost: false,
            outcome: Outcome::new(settings.mode),
            effects: Vec::new(),
            settings,
        }
    }

    /// Tells a person who has no account in use how to go on.
    pub fn greet(&mut self) {
        let advice = self.account_advice();
        self.notice(format!("you are not connected as anyone; {advice}; for all verbs: help"));
    }

    /// Queues the verb of the command line, before any line of standard input. If it fails, nothing else is done, except at a
    /// prompt.
    pub fn do_first(&mut self, verb: Verb) {
        self.jobs.push(Job::new(None, Ok(verb)));
    }

    /// Takes a line of standard input.
    pub fn on_line(&mut self, now: Timestamp, line: Result<String, LineError>) {
        if self.jobs.is_empty() {
            self.timeouts.on_progress(now);
        }
        if let Some(job) = self.input.on_line(line) {
            self.jobs.push(job);
        }
    }

    /// No more lines will come. The client ends when all jobs are done.
    pub fn on_end_of_lines(&mut self) {
        self.input.end();
    }

    /// Standard input cannot be read any more: the jobs so far are finished, and then everything is over.
    pub fn on_input_lost(&mut self, fault: &str) {
        self.input.end();
        self.outcome.on_input_lost();
        self.notice(format!(
            "cannot read standard input after line {}, so later ones are not done: {fault}",
            self.input.count()
        ));
    }

    /// Everything that was to be shown is written: messages among it are read.
    pub fn on_shown(&mut self, now: Timestamp) {
        if !self.reach.is_lost() {
            self.account.read(now).into_iter().for_each(|frame| self.send(frame));
        }
    }

    /// Results cannot be written any more: no line is taken, and no waiting job is started. Jobs under way are finished, because
    /// the exit code has to say whether they took effect. Messages that were to be shown stay unread.
    pub fn on_output_lost(&mut self) {
        if self.is_output_lost {
            return;
        }
        self.is_output_lost = true;
        let first_waiting = self.jobs.drop_waiting().find_map(|job| job.line);
        self.input.end_without_output(first_waiting);
    }

    /// The first line of standard input that was not done because results could not be written.
    pub fn undone_from(&self) -> Option<u64> {
        self.input.undone_from()
    }

    /// Whether no more lines will come.
    pub fn is_ending(&self) -> bool {
        self.input.has_ended()
    }

    /// Whether more lines can be taken.
    pub fn has_room(&self) -> bool {
        !self.input.has_ended() && self.jobs.has_room()
    }

    /// Whether the next line has to wait for a job that changes the account or the conversation that lines go to.
    pub fn is_changing(&self) -> bool {
        self.jobs.changes_prompt()
    }

    /// The name of the account in use.
    pub fn name(&self) -> Option<&AccountName> {
        self.previous.as_ref().unwrap_or(&self.account).name()
    }

    /// The conversation that lines are sent to, if they are no verbs.
    pub fn talk(&self) -> Option<&Conversation> {
        self.input.talk()
    }

    /// The conversations that are not shown, and about how many messages are unread in each.
    pub fn elsewhere(&self) -> impl Iterator<Item = (&Conversation, u64)> {
        self.account.elsewhere()
    }

    /// The exit code, once everything is over.
    pub fn ending(&self) -> Option<u8> {
        // Messages that cannot be shown are neither fetched nor read.
        let is_settled = match self.is_output_lost {
            true => self.account.session().is_idle(),
            false => self.account.is_quiet() && !self.account.is_fetching(),
        };
        let is_done = self.input.has_ended() && self.jobs.is_empty() && is_settled;
        (self.outcome.is_over() || is_done).then_some(self.outcome.code())
    }

    /// Allows requests to be sent. Called once the links had time to become ready, so that all replicas get the same requests.
    pub fn open(&mut self, now: Timestamp) {
        self.reach.open();
        self.timeouts.on_progress(now);
    }

    /// Whether [`Controller::open`] was called.
    pub fn is_open(&self) -> bool {
        self.reach.is_open()
    }

    /// Whether any link is ready.
    pub fn has_reach(&self) -> bool {
        !self.reach.is_lost()
    }

    /// All links have been ready or failed once: a replica that is not in reach now is not waited for by `status`.
    pub fn on_all_tried(&mut self) {
        self.reach.on_all_tried();
    }

    /// Sets how far the replicas' clocks are ahead of ours, in nanoseconds.
    pub fn set_clock_offset(&mut self, offset: i64) {
        self.account.set_clock_offset(offset);
    }

    /// Takes the effects to be performed, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// A link became ready, and is logged in.
    pub fn on_ready(&mut self, link: usize) {
        self.reach.on_ready(link);
        let frames = self.account.on_link_ready(link);
        let status = self.status.is_running().then_some(ToReplica::Status);
        let sends = frames.into_iter().chain(status).map(|message| Effect::Send { link: Some(link), message });
        self.effects.extend(sends);

        // A `connect` in progress fetches its unread messages itself.
        if self.previous.is_none() && self.reach.is_open() {
            self.account.fetch_anew();
        }
    }

    /// A link is no longer ready.
    pub fn on_lost(&mut self, now: Timestamp, link: usize, reason: String) {
        self.reach.on_lost(now, link, reason);
        self.forget_refusal(link);
        self.account.on_link_lost(now, link);
    }

    /// An attempt to make a link ready has failed.
    pub fn on_unreachable(&mut self, link: usize, reason: String) {
        self.reach.on_unreachable(link, reason);
    }

    /// Takes a frame that is about requests, messages or the replica's status.
    pub fn on_message(&mut self, now: Timestamp, link: usize, message: ToClient) {
        match message {
            message @ (ToClient::Status { .. } | ToClient::PublicStatus { .. }) => {
                Report::of(message).into_iter().for_each(|report| self.status.on_report(link, report));
            }
            ToClient::LoggedIn { .. } => {
                self.forget_refusal(link);
                self.account.on_message(now, link, message, &mut Vec::new());
            }
            ToClient::LoggedOut { account, key } => self.on_logged_out(&account, key),
            ToClient::LoginRefused { account, reason } => self.on_login_refused(link, &account, reason),
            message => {
                let mut events = Vec::new();
                self.account.on_message(now, link, message, &mut events);
                events.into_iter().for_each(|event| self.on_event(now, event));
            }
        }
    }

    /// Sends repetitions that are due, starts and finishes jobs, and gives up on jobs that take too long. To be called after
    /// each batch of events.
    pub fn on_time(&mut self, now: Timestamp) {
        for message in self.account.due(now) {
            self.send(message);
        }
        self.fail_if_locked_out();
        self.work(now);
        self.tell_reach(now);

        if self.executions.are_running() {
            // A command takes as long as it takes.
            self.timeouts.on_progress(now);
        }
        self.timeouts.on_time(now, self.is_waiting(), self.input.has_ended());
        let is_due = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
        if is_due(self.timeouts.give_up_at(self.is_waiting())) {
            self.give_up();
        }
        if is_due(self.timeouts.abandon_at(self.account.stranded_since())) {
            self.abandon_session();
        }
    }

    /// When [`Controller::on_time`] will have something to do.
    pub fn deadline(&self) -> Option<Timestamp> {
        let is_collecting = self.jobs.front().is_some_and(|job| job.stage == Stage::Status);
        let deadlines = [
            self.account.deadline(),
            self.replies_deadline(),
            // A collection that waits for jobs before it ends with them.
            self.status.deadline().filter(|_| is_collecting),
            self.reach.deadline().filter(|_| self.is_told_of_reach()),
            self.timeouts.give_up_at(self.is_waiting()),
            self.timeouts.abandon_at(self.account.stranded_since()),
            self.executions.deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Whether a person watches who should know when no replica is in reach.
    fn is_told_of_reach(&self) -> bool {
        matches!(self.settings.mode, Mode::Prompt | Mode::Listen) && !self.input.has_ended()
    }

    /// Whether something is to be answered.
    fn is_waiting(&self) -> bool {
        !self.jobs.is_empty() || (self.input.has_ended() && self.ending().is_none())
    }

    /// Says of all commands without an answer that their outcome is not known, and goes on in a new session.
    fn abandon_session(&mut self) {
        self.jobs.end_session(|job| {
            let verb = job.word().unwrap_or_default();
            let fault = format!(
                "the replicas in reach lack earlier commands of this session; it is not known whether the {verb} took effect"
            );
            job.task = Err(Failure::new(exit::UNKNOWN, fault));
            job.enter(Stage::Local);
        });
        self.account.abandon_session();
    }

    /// Ends, and says which jobs may have been done, and which were not.
    fn give_up(&mut self) {
        self.outcome.give_up();
        let may_be_done = |job: &Job| match job.stage {
            Stage::Command { sequence } => self.account.session().is_in_doubt(sequence) || job.is_answered(),
            _ => false,
        };
        let [doubtful, undone] = self.jobs.name_those(may_be_done);
        let reason = match self.reach.is_lost() {
            true => self.reach.unreachable(&self.settings.cluster),
            false if self.timeouts.has_no_room() => "the disks of the replicas in reach are full".to_string(),
            false => "no replica answers".to_string(),
        };

        let failure = match (doubtful, undone) {
            (None, None) if !self.account.is_reading() => return,
            (None, None) => Failure::new(exit::UNKNOWN, format!("{reason}; the last messages may be shown again")),
            (None, Some(undone)) => Failure::new(exit::UNREACHABLE, format!("{reason}; not done: {undone}")),
            (Some(doubtful), undone) => {
                let undone = undone.map(|undone| format!("; not done: {undone}")).unwrap_or_default();
                let text = format!("{reason}; it is not known whether this took effect: {doubtful}{undone}");
                Failure::new(exit::UNKNOWN, text)
            }
        };
        let first = self.jobs.front();
        let (line, verb) = (first.and_then(|job| job.line), first.and_then(Job::word));
        self.outcome.end(failure.code);
        self.show(Item::Failed { line, verb, failure }, None);
    }

    /// Sends a frame on all links that are ready.
    fn send(&mut self, message: ToReplica) {
        self.effects.push(Effect::Send { link: None, message });
    }

    fn show(&mut self, item: Item, by: Option<Answerer>) {
        self.effects.push(Effect::Show(Output { item, by }));
    }

    fn notice(&mut self, text: String) {
        self.show(Item::Notice(text), None);
    }

    /// The name of a link's replica.
    fn replica(&self, link: usize) -> &str {
        self.settings.cluster.replicas[link].name.as_str()
    }
}
