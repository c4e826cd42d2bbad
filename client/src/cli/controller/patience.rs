//! How long one waits, and what is said meanwhile.
//!
//! A script must not wait for ever, a person at a prompt may: the one is told by an exit code, the other by one line when
//! no replica is in reach any more and one when that has passed. As long as any replica is in reach, what the others do is
//! nobody's business.

use super::{Controller, Mode};
use crate::cli::controller::job::{Job, Stage};
use crate::cli::exit::{self, Failure};
use crate::cli::print::What;
use stablechat_protocol::answer::Refusal;
use stablechat_protocol::time::Timestamp;
use std::time::Duration;

/// How long nothing may be answered before a script gives up, beside four delivery bounds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long no replica may be in reach before a person is told.
const OUT_OF_REACH: Duration = Duration::from_secs(1);
/// How long a person who quits waits for what is under way, beside two delivery bounds.
const CLOSING: Duration = Duration::from_secs(1);

/// How long one has been waiting.
pub(super) struct Patience {
    /// When something was last answered, or there was nothing to be answered.
    progress: Timestamp,
    /// Since when no replica is in reach, if none is.
    out_of_reach_since: Option<Timestamp>,
    /// Whether that was told.
    is_told: bool,
    /// Whether no replica in reach has had room for a command since something was last answered.
    has_no_room: bool,
    /// Since when a person wants to quit.
    closing_since: Option<Timestamp>,
}

impl Patience {
    pub fn new(now: Timestamp) -> Patience {
        Patience {
            progress: now,
            out_of_reach_since: Some(now),
            is_told: false,
            has_no_room: false,
            closing_since: None,
        }
    }

    /// Something was answered, or asked after nothing was.
    pub fn on_progress(&mut self, now: Timestamp) {
        self.progress = now;
        self.has_no_room = false;
    }
}

impl Controller {
    /// A link is lost: from here on no replica may be in reach.
    pub(super) fn note_reach(&mut self, now: Timestamp) {
        if !self.reach.is_empty() {
            self.patience.out_of_reach_since = None;
        } else {
            self.patience.out_of_reach_since.get_or_insert(now);
        }
    }

    /// A command was refused. When no replica takes it for lack of room, a person is told; that may last.
    pub(super) fn note_refusal(&mut self, reason: Refusal) {
        if reason != Refusal::NoRoom || !self.person.session.is_refused() || self.patience.has_no_room {
            return;
        }
        self.patience.has_no_room = true;
        if self.is_told_of_reach() {
            self.notice("the disks of the replicas in reach are full, so nothing can be written; trying on".into());
        }
    }

    /// Tells what a person should know, and gives up when it is time.
    pub(super) fn watch(&mut self, now: Timestamp) {
        self.note_reach(now);
        let cluster = self.settings.cluster.name.clone();
        if self.is_told_of_reach() {
            let is_told = self.patience.is_told;
            if is_told && !self.reach.is_empty() {
                self.patience.is_told = false;
                self.notice(format!("the cluster {cluster} is in reach again"));
            } else if !is_told && self.patience.out_of_reach_since.is_some_and(|at| at.after(OUT_OF_REACH) <= now) {
                self.patience.is_told = true;
                self.notice(format!("no replica of the cluster {cluster} is in reach; trying on"));
            }
        }
        if self.has_ended {
            self.patience.closing_since.get_or_insert(now);
        }
        if !self.is_waiting() {
            self.patience.progress = now;
        }
        if self.limit().is_some_and(|limit| limit <= now) {
            self.give_up();
        }
        if self.stranding_limit().is_some_and(|limit| limit <= now) {
            self.abandon_session();
        }
    }

    /// When [`Controller::watch`] will have something to do.
    pub(super) fn watch_deadline(&self) -> Option<Timestamp> {
        let telling = match self.is_told_of_reach() && !self.patience.is_told {
            true => self.patience.out_of_reach_since.map(|at| at.after(OUT_OF_REACH)),
            false => None,
        };
        telling.into_iter().chain(self.limit()).chain(self.stranding_limit()).min()
    }

    /// Whether somebody watches who should know when no replica is in reach.
    fn is_told_of_reach(&self) -> bool {
        matches!(self.settings.mode, Mode::Prompt | Mode::Listen) && !self.has_ended
    }

    /// Whether something is to be answered.
    fn is_waiting(&self) -> bool {
        !self.jobs.is_empty() || (self.has_ended && self.ending().is_none())
    }

    /// When to give up on what is under way, if ever.
    fn limit(&self) -> Option<Timestamp> {
        let bound = self.settings.cluster.delivery_bound;
        match self.settings.mode {
            Mode::Prompt | Mode::Listen if self.has_ended => {
                self.patience.closing_since.map(|at| at.after(CLOSING + bound * 2))
            }
            Mode::Prompt => None,
            _ => self.is_waiting().then(|| self.patience.progress.after(PATIENCE + bound * 4)),
        }
    }

    /// When to give up on a session that no replica in reach can follow, where that is not the end of everything.
    fn stranding_limit(&self) -> Option<Timestamp> {
        let goes_on = matches!(self.settings.mode, Mode::Prompt | Mode::Listen);
        let since = self.person.session.progress().max(self.person.issued_at);
        let bound = self.settings.cluster.delivery_bound;
        (goes_on && self.person.session.is_stranded()).then(|| since.after(PATIENCE + bound * 4))
    }

    /// Says of all commands without an answer that their outcome is not known, and goes on in a new session.
    fn abandon_session(&mut self) {
        for number in std::mem::take(&mut self.by_sequence).into_values() {
            let place = usize::try_from(number - self.finished).expect("a place in the queue");
            let job = &mut self.jobs[place];
            if !job.is_answered() {
                let verb = job.word().unwrap_or_default();
                let fault =
                    format!("the replicas in reach have lost track; it is not known whether the {verb} took effect");
                job.task = Err(Failure::new(exit::UNKNOWN, fault));
                job.enter(Stage::Local);
            }
        }
        if let Some((_, uids)) = self.person.acknowledging.take() {
            uids.into_iter().for_each(|uid| self.person.inbox.on_shown(uid));
        }
        self.person.session = self.new_session();
    }

    /// Ends, and says what is not known to be done, and what is known not to be.
    fn give_up(&mut self) {
        self.is_over = true;
        let may_be_done = |job: &&Job| match job.stage {
            Stage::Command { sequence } => self.person.session.is_in_doubt(sequence) || job.is_answered(),
            _ => false,
        };
        let (doubtful, undone): (Vec<&Job>, Vec<&Job>) = self.jobs.iter().partition(may_be_done);
        let reason = match self.reach.is_empty() {
            true => format!("no replica of the cluster {} is in reach", self.settings.cluster.name),
            false if self.patience.has_no_room => "the disks of the replicas in reach are full".to_string(),
            false => "no replica answers".to_string(),
        };
        let failure = match (named(&doubtful), named(&undone)) {
            (None, None) if self.person.acknowledging.is_none() => return,
            (None, None) => Failure::new(exit::UNKNOWN, format!("{reason}; what was shown may be shown again")),
            (None, Some(undone)) => Failure::new(exit::UNREACHABLE, format!("{reason}; not done: {undone}")),
            (Some(doubtful), undone) => {
                let undone = undone.map(|undone| format!("; not done: {undone}")).unwrap_or_default();
                let text = format!("{reason}; it is not known whether this took effect: {doubtful}{undone}");
                Failure::new(exit::UNKNOWN, text)
            }
        };
        let first = self.jobs.front();
        let (line, verb) = (first.and_then(|job| job.line), first.and_then(Job::word));
        self.code = failure.code;
        self.say(What::Failed { line, verb, failure }, None);
    }
}

/// Jobs as a person would call them: by their lines, or by what they do. `None` when there are none.
fn named(jobs: &[&Job]) -> Option<String> {
    let (first, last) = (jobs.first()?, jobs.last()?);
    Some(match (first.line, last.line) {
        (Some(first), Some(last)) if first < last => format!("lines {first} to {last}"),
        (Some(line), _) => format!("line {line}"),
        _ => format!("the {}", first.word().unwrap_or("request")),
    })
}
