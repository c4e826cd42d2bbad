//! Writes results and remarks: to the two standard streams, or to the terminal that the prompt has taken over.

use crate::cli::exit::{self, Failure};
use crate::cli::print::{Output, Printer, Written};
use crate::cli::prompt::Prompt;
use std::io::{self, IsTerminal, Write};

/// How many bytes of results are gathered before they are written.
const BUFFER_MAX: usize = 64 * 1024;

pub struct Screen {
    printer: Printer,
    /// Results that are gathered and not written yet.
    results: String,
    /// Whether standard error is a terminal. With a prompt it is the prompt's terminal, so remarks must go through the prompt or
    /// they would overwrite its line.
    remarks_to_terminal: bool,
    /// Why results cannot be written any more, once that is so. Then they are dropped, and remarks are still written.
    loss: Option<io::Error>,
}

impl Screen {
    pub fn new(printer: Printer) -> Screen {
        Screen { printer, results: String::new(), remarks_to_terminal: io::stderr().is_terminal(), loss: None }
    }

    /// Why results cannot be written any more, if that is so: standard output is closed at its other end, its disk is full, or
    /// the terminal is gone.
    pub fn loss(&self) -> Option<&io::Error> {
        self.loss.as_ref()
    }

    /// Gathers a result, or writes a remark at once.
    pub fn show(&mut self, output: &Output, mut prompt: Option<&mut Prompt>) {
        for written in self.printer.write(output) {
            match (written, &prompt) {
                (Written::Result(text), _) => self.results.push_str(&text),
                (Written::Remark(text), Some(_)) if self.remarks_to_terminal => self.results.push_str(&text),
                (Written::Remark(text), _) => {
                    // Earlier results are written before the remark.
                    self.flush(prompt.as_deref_mut());
                    remark(&text);
                }
            }
        }
        if self.results.len() > BUFFER_MAX {
            self.flush(prompt);
        }
    }

    /// Writes the gathered results.
    pub fn flush(&mut self, prompt: Option<&mut Prompt>) {
        let results = std::mem::take(&mut self.results);
        if results.is_empty() || self.loss.is_some() {
            return;
        }
        let written = match prompt {
            Some(prompt) => prompt.print(results),
            None => write(&results),
        };
        self.loss = written.err();
    }
}

/// Writes the results of a command that changes nothing. Returns whether somebody reads them: a reader that has closed the pipe,
/// as `head` does, has read enough, and that is no failure.
///
/// # Errors
/// They cannot be written for another reason.
pub fn write_results(text: &str) -> Result<bool, Failure> {
    match write(text) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(exit::IO, not_written(&error))),
    }
}

/// The message when results cannot be written.
pub fn not_written(error: &io::Error) -> String {
    format!("cannot write to standard output: {error}")
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes to standard error. A failure is ignored: there is nowhere left to report it.
pub fn remark(text: &str) {
    drop(io::stderr().write_all(text.as_bytes()));
}
