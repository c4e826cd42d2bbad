//! The lines of standard input: they are counted, parsed, and end at some time.
//!
//! It never knows the results of a line.

use super::job::Job;
use crate::cli::exit::{self, Failure};
use crate::cli::lines::LineError;
use crate::cli::mode::Mode;
use crate::cli::verb::Verb;
use stablechat_protocol::conversation::Conversation;
use stablechat_protocol::text::MessageText;

/// The input so far.
pub(super) struct LineInput {
    mode: Mode,
    /// The number of lines read so far.
    count: u64,
    /// Whether no more lines will come, or be taken.
    has_ended: bool,
    /// The first line that was not done because results could not be written any more.
    undone_from: Option<u64>,
    /// The conversation that lines are sent to which begin with no `/`. Only at the prompt.
    talk: Option<Conversation>,
}

impl LineInput {
    pub fn new(mode: Mode) -> LineInput {
        LineInput { mode, count: 0, has_ended: false, undone_from: None, talk: None }
    }

    /// Takes a line. Returns the job that it asks for; none if it asks for nothing, or comes after the end.
    pub fn on_line(&mut self, line: Result<String, LineError>) -> Option<Job> {
        self.count += 1;
        if self.has_ended {
            return None;
        }
        let number = (self.mode == Mode::Filter).then_some(self.count);
        let verb = match line {
            Ok(line) => self.parse(&line),
            Err(error) => Err(error.to_string()),
        };
        match verb {
            Ok(None) => None,
            Ok(Some(Verb::Quit)) => {
                self.has_ended = true;
                None
            }
            Ok(Some(verb)) => Some(Job::new(number, Ok(verb))),
            // It is reported when its turn comes, so that errors appear in the order of the lines.
            Err(fault) => Some(Job::new(number, Err(Failure::new(exit::USAGE, fault)))),
        }
    }

    /// What a line asks for, or which message it is.
    fn parse(&self, line: &str) -> Result<Option<Verb>, String> {
        if self.mode != Mode::Prompt {
            return match Verb::parse(line) {
                Ok(Some(Verb::To { .. })) => Err("to is for the prompt; here it is: send WHERE TEXT...".into()),
                verb => verb,
            };
        }
        match (&self.talk, line.strip_prefix('/')) {
            (None, verb) => Verb::parse(verb.unwrap_or(line)),
            (Some(_), Some(verb)) if !verb.starts_with('/') => Verb::parse(verb),
            (Some(_), _) if line.trim().is_empty() => Ok(None),
            // Two signs stand for a text that begins with one.
            (Some(to), verb) => {
                let text = MessageText::parse(verb.unwrap_or(line)).map_err(|error| error.to_string())?;
                Ok(Some(Verb::Send { to: to.clone(), text }))
            }
        }
    }

    /// The conversation that lines are sent to.
    pub fn talk(&self) -> Option<&Conversation> {
        self.talk.as_ref()
    }

    /// Lines without a `/` are messages to this conversation from here on; without one, lines are verbs.
    pub fn set_talk(&mut self, conversation: Option<Conversation>) {
        self.talk = conversation;
    }

    /// No more lines will come.
    pub fn end(&mut self) {
        self.has_ended = true;
    }

    /// No more lines are taken, because results cannot be written. `first_waiting` is the first line that was taken and not begun.
    pub fn end_without_output(&mut self, first_waiting: Option<u64>) {
        let unread = (!self.has_ended).then_some(self.count + 1);
        self.has_ended = true;
        self.undone_from = first_waiting.or(unread).filter(|_| self.mode == Mode::Filter);
    }

    /// The first line that was not done because results could not be written, if lines have numbers.
    pub fn undone_from(&self) -> Option<u64> {
        self.undone_from
    }

    /// The number of lines read so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn has_ended(&self) -> bool {
        self.has_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<String, LineError> {
        Ok(text.into())
    }

    #[test]
    fn every_line_counts_and_none_is_taken_after_quit() {
        let mut input = LineInput::new(Mode::Filter);
        assert!(input.on_line(line("")).is_none());
        assert_eq!(input.on_line(line("list")).and_then(|job| job.line), Some(2));
        assert!(input.on_line(line("sned bob hello")).is_some_and(|job| job.task.is_err()));
        assert!(input.on_line(line("quit")).is_none() && input.has_ended());
        assert!(input.on_line(line("list")).is_none());
        assert_eq!(input.count(), 5);
    }

    #[test]
    fn in_a_talk_lines_are_messages_and_verbs_have_a_sign() {
        let mut input = LineInput::new(Mode::Prompt);
        let verb = |input: &mut LineInput, text: &str| {
            input.on_line(line(text)).map(|job| job.task.map_err(|failure| failure.message))
        };
        let ops: Conversation = "#ops".parse().expect("a name");
        let said = |text: &str| {
            let text = MessageText::parse(text).expect("a text");
            Some(Ok(Verb::Send { to: ops.clone(), text }))
        };
        assert_eq!(verb(&mut input, "/blocked"), Some(Ok(Verb::Blocked)));
        assert_eq!(verb(&mut input, "to #ops"), Some(Ok(Verb::To { conversation: Some(ops.clone()) })));
        input.set_talk(Some(ops.clone()));
        assert_eq!(verb(&mut input, "  unread, all of it "), said("  unread, all of it "));
        assert_eq!(verb(&mut input, "//etc"), said("/etc"));
        assert_eq!(verb(&mut input, " "), None);
        assert_eq!(verb(&mut input, "/unread"), Some(Ok(Verb::Unread)));
        assert!(verb(&mut input, "/dance").is_some_and(|verb| verb.is_err()));
        assert!(verb(&mut input, &"x".repeat(5000)).is_some_and(|verb| verb.is_err()));
        assert_eq!(verb(&mut input, "/to"), Some(Ok(Verb::To { conversation: None })));
        input.set_talk(None);
        assert_eq!(verb(&mut input, "unread"), Some(Ok(Verb::Unread)));
        let mut filter = LineInput::new(Mode::Filter);
        assert!(filter.on_line(line("to bob")).is_some_and(|job| job.task.is_err()));
    }

    #[test]
    fn the_first_line_that_is_not_done_was_taken_or_is_the_next() {
        let ended = |first_waiting, mode| {
            let mut input = LineInput::new(mode);
            input.on_line(line("list"));
            input.end_without_output(first_waiting);
            input.undone_from()
        };
        assert_eq!(ended(Some(1), Mode::Filter), Some(1));
        assert_eq!(ended(None, Mode::Filter), Some(2));
        assert_eq!(ended(Some(1), Mode::Prompt), None, "a person's lines have no numbers");
    }
}
