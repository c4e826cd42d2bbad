//! The lines of standard input: they are counted, parsed, and end at some time.
//!
//! It never knows the results of a line.

use super::job::Job;
use crate::cli::exit::{self, Failure};
use crate::cli::lines::LineError;
use crate::cli::mode::Mode;
use crate::cli::verb::Verb;

/// The input so far.
pub(super) struct LineInput {
    mode: Mode,
    /// The number of lines read so far.
    count: u64,
    /// Whether no more lines will come, or be taken.
    has_ended: bool,
    /// The first line that was not done because results could not be written any more.
    undone_from: Option<u64>,
}

impl LineInput {
    pub fn new(mode: Mode) -> LineInput {
        LineInput { mode, count: 0, has_ended: false, undone_from: None }
    }

    /// Takes a line. Returns the job that it asks for; none if it asks for nothing, or comes after the end.
    pub fn on_line(&mut self, line: Result<String, LineError>) -> Option<Job> {
        self.count += 1;
        if self.has_ended {
            return None;
        }
        let number = (self.mode == Mode::Filter).then_some(self.count);
        let verb = match line {
            Ok(line) => Verb::parse(&line),
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
