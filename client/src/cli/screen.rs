//! Where results and remarks go: the two standard streams, or the terminal that a prompt has taken over.

use crate::cli::print::{Output, Printer, Written};
use crate::cli::prompt::Prompt;
use std::io::{self, IsTerminal, Write};

/// How many bytes of results are gathered before they are written.
const BUFFER_MAX: usize = 64 * 1024;

/// What is shown.
pub struct Screen {
    /// How it is written.
    printer: Printer,
    /// Results that are not written yet.
    results: String,
    /// Whether remarks are seen on the terminal that results go to, and so must not tear the prompt.
    remarks_to_terminal: bool,
}

impl Screen {
    /// A screen on which nothing is shown yet.
    pub fn new(printer: Printer) -> Screen {
        Screen { printer, results: String::new(), remarks_to_terminal: io::stderr().is_terminal() }
    }

    /// Shows something.
    ///
    /// # Errors
    /// Nobody reads the results any more, or they cannot be written.
    pub fn show(&mut self, output: &Output, mut prompt: Option<&mut Prompt>) -> io::Result<()> {
        for written in self.printer.write(output) {
            match (written, &prompt) {
                (Written::Result(text), _) => self.results.push_str(&text),
                (Written::Remark(text), Some(_)) if self.remarks_to_terminal => self.results.push_str(&text),
                (Written::Remark(text), _) => {
                    // What was done before is shown before.
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

    /// Writes what was gathered.
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

/// Writes to standard error. There is nobody to tell when that fails.
pub fn remark(text: &str) {
    drop(io::stderr().write_all(text.as_bytes()));
}
