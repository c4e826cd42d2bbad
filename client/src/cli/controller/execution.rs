//! Messages that a command is run for (`listen --exec`), one after the other. A message is read when its command has succeeded.

use super::{Controller, Effect};
use crate::cli::execution;
use crate::cli::exit::{self, Failure};
use crate::cli::mode::Mode;
use crate::cli::print::Item;
use stablechat_protocol::conversation::Message;
use stablechat_protocol::time::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// How many messages wait for their commands at most before no more are fetched.
const WAITING_MAX: usize = 2000;
/// How long the end after a failure waits until messages are read.
const READING_PATIENCE: Duration = Duration::from_secs(2);

/// The messages that wait for their commands.
#[derive(Default)]
pub(super) struct Executions {
    /// The one whose command runs is the first.
    waiting: VecDeque<Message>,
    is_running: bool,
    /// After the failure of a command: the exit code, and how long the end waits until the messages before are read.
    failed: Option<(u8, Timestamp)>,
}

impl Executions {
    /// Whether so many wait that no more are to be fetched.
    pub fn are_many(&self) -> bool {
        self.waiting.len() > WAITING_MAX
    }

    /// Forgets the messages whose commands have not begun. They are unread, and so will come again.
    pub fn forget_waiting(&mut self) {
        self.waiting.truncate(usize::from(self.is_running));
    }

    /// When the end after a failure does not wait any longer.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.failed.map(|(_, until)| until)
    }

    /// Whether a command runs.
    pub fn are_running(&self) -> bool {
        self.is_running
    }
}

impl Controller {
    /// Has the command run for a message when those before have theirs.
    pub(super) fn execute(&mut self, message: Message) {
        // After another login, it may be the one whose command still runs.
        if self.executions.waiting.front().is_none_or(|running| running.uid != message.uid) {
            self.executions.waiting.push_back(message);
        }
        self.run_next();
    }

    /// The command that ran has ended. If it has failed, so has this program: whoever starts it again gets the message again.
    pub fn on_executed(&mut self, now: Timestamp, result: Result<(), String>) {
        self.executions.is_running = false;
        let Some(message) = self.executions.waiting.pop_front() else { return };
        match result {
            Ok(()) => {
                self.account.on_handled(message.uid);
                self.run_next();
            }
            Err(fault) => {
                let conversation = self.conversation_of(&message);
                let failure = Failure::new(exit::REFUSED, execution::failure(&message, &conversation, &fault));
                self.executions.failed = Some((failure.code, now.after(READING_PATIENCE)));
                self.show(Item::Failed { line: None, verb: None, failure }, None);
            }
        }
    }

    /// Ends the program after the failure of a command, once the messages whose commands have succeeded are read: they would come
    /// again otherwise. To be called when everything that could be read is under way.
    pub fn end_after_failure(&mut self, now: Timestamp) {
        if let Some((code, until)) = self.executions.failed
            && (!self.account.has_handled() || until <= now)
        {
            self.outcome.end(code);
        }
    }

    fn run_next(&mut self) {
        let is_ending = self.settings.mode == Mode::Listen && self.input.has_ended();
        let is_free = !self.executions.is_running && self.executions.failed.is_none() && !self.outcome.is_over();
        let is_free = is_free && !is_ending;
        let Some(message) = self.executions.waiting.front().filter(|_| is_free).cloned() else { return };
        self.executions.is_running = true;
        let conversation = self.conversation_of(&message);
        self.effects.push(Effect::Execute { message, conversation });
    }
}
