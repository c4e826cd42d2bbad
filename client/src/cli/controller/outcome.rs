//! The exit code, and whether anything is left to do after a failure.

use crate::cli::exit::{self, Failure};
use crate::cli::mode::Mode;

/// The outcome so far.
pub(super) struct Outcome {
    mode: Mode,
    code: u8,
    is_over: bool,
}

impl Outcome {
    /// Everything has succeeded so far.
    pub fn new(mode: Mode) -> Outcome {
        Outcome { mode, code: exit::DONE, is_over: false }
    }

    /// A job failed. A filter goes on after the failure of a line; a single command ends with its own failure.
    pub fn on_failure(&mut self, line: Option<u64>, failure: &Failure) {
        match self.mode {
            Mode::Prompt => {}
            // That lines could not be read weighs more: it says nothing of them.
            Mode::Filter if line.is_some() && self.code == exit::IO => {}
            Mode::Filter if line.is_some() => self.code = exit::REFUSED,
            Mode::Filter | Mode::Once | Mode::Listen => self.end(failure.code),
        }
    }

    /// Standard input cannot be read any more.
    pub fn on_input_lost(&mut self) {
        self.code = exit::IO;
    }

    /// Ends the run with this code, although jobs may be left.
    pub fn end(&mut self, code: u8) {
        self.code = code;
        self.is_over = true;
    }

    /// Ends the run, although jobs may be left.
    pub fn give_up(&mut self) {
        self.is_over = true;
    }

    /// Whether a failure leaves nothing more to do.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// The exit code so far.
    pub fn code(&self) -> u8 {
        self.code
    }
}
