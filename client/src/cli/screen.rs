//! Writes results and remarks: to the two standard streams, or to the terminal that the prompt has taken over.

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
}

impl Screen {
    pub fn new(printer: Printer) -> Screen {
        Screen { printer, results: String::new(), remarks_to_terminal: io::stderr().is_terminal() }
    }

    /// Gathers a result, or writes a remark at once.
    ///
    /// # Errors
    /// Standard output is closed at its other end, or cannot be written.
    pub fn show(&mut self, output: &Output, mut prompt: Option<&mut Prompt>) -> io::Result<()> {
        for written in self.printer.write(output) {
            match (written, &prompt) {
                (Written::Result(text), _) => self.results.push_str(&text),
                (Written::Remark(text), Some(_)) if self.remarks_to_terminal => self.results.push_str(&text),
                (Written::Remark(text), _) => {
                    // Earlier results are written before the remark.
                    self.flush(prompt.as_deref_mut())?;
                    remark(&text);
                }
            }
        }
        if self.results.len() > BUFFER_MAX {
            self.flush(prompt)?;
        }
        Ok(())
    }

    /// Writes the gathered results.
    ///
    /// # Errors
    /// As with [`Screen::show`].
    pub fn flush(&mut self, prompt: Option<&mut Prompt>) -> io::Result<()> {
        if self.results.is_empty() {
            return Ok(());
        }
        let results = std::mem::take(&mut self.results);
        match prompt {
            Some(prompt) => prompt.print(results),
            None => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(results.as_bytes())?;
                stdout.flush()
            }
        }
    }
}

/// Writes to standard error. A failure is ignored: there is nowhere left to report it.
pub fn remark(text: &str) {
    drop(io::stderr().write_all(text.as_bytes()));
}
