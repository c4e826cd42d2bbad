//! The prompt at a terminal: rustyline on a thread of its own.
//!
//! The thread reads one line in each turn that it is given, so that the prompt can show the account in use, and wakes the
//! poll with it. What is printed meanwhile goes through rustyline's external printer, on another thread: it blocks when
//! the line is finished at that very moment, until the next line is begun.

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use mio::Waker;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::config::Config;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Editor, ExternalPrinter};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

/// How many lines the history file keeps.
const HISTORY_LINES: usize = 1000;
/// How many texts wait for the printer. When it is full, the one who prints waits.
const PRINTER_QUEUE: usize = 1024;
/// How long the end waits for what is still to be printed.
const PRINTER_PATIENCE: Duration = Duration::from_millis(500);

/// How the terminal was before the prompt changed it.
static ORIGINAL: OnceLock<Termios> = OnceLock::new();

/// What comes from the prompt.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// A line. The next is read when [`Prompt::give_turn`] is called.
    Line(String),
    /// Something a person should know.
    Notice(String),
    /// There will be no more lines.
    End,
}

/// A prompt.
pub struct Prompt {
    /// What was typed; at most one line, since the next waits for its turn.
    typed: Receiver<Typed>,
    /// Turns to read a line, with the prompt that is shown.
    turns: Sender<String>,
    /// Whether a line is being read.
    is_reading: bool,
    /// Texts for the printer; `None` when the terminal is too simple for one.
    texts: Option<Sender<String>>,
    /// Ends when the printer has printed everything.
    printed: Receiver<()>,
}

impl Prompt {
    /// Takes over the terminal.
    ///
    /// # Errors
    /// The terminal cannot be used, or a thread not be started.
    pub fn open(waker: Arc<Waker>, history: Option<PathBuf>) -> io::Result<Prompt> {
        ORIGINAL.get_or_init(|| tcgetattr(io::stdin()).expect("standard input was found to be a terminal"));
        let config = Config::builder().max_history_size(HISTORY_LINES).map_err(io::Error::other)?;
        // Pasted lines are commands like others; and a mode less that an untimely end leaves behind.
        let mut editor: Editor<(), FileHistory> =
            Editor::with_config(config.bracketed_paste(false).build()).map_err(io::Error::other)?;
        let printer = editor.create_external_printer().ok();
        let (send_typed, typed) = bounded(4);
        let (turns, take_turn) = bounded(1);
        let (texts, printed) = start_printer(printer)?;
        let reader = Reader { editor, history, turns: take_turn, typed: send_typed, waker };
        thread::Builder::new().name("prompt".into()).spawn(move || reader.run())?;
        Ok(Prompt { typed, turns, is_reading: false, texts, printed })
    }

    /// Takes what was typed.
    pub fn take(&mut self) -> Option<Typed> {
        let typed = self.typed.try_recv().ok()?;
        if !matches!(typed, Typed::Notice(_)) {
            self.is_reading = false;
        }
        Some(typed)
    }

    /// Whether a line is being read.
    pub fn is_reading(&self) -> bool {
        self.is_reading
    }

    /// Reads a line, behind this prompt, unless one is being read.
    pub fn give_turn(&mut self, prompt: String) {
        if !self.is_reading && self.turns.try_send(prompt).is_ok() {
            self.is_reading = true;
        }
    }

    /// Prints above the line that is being read.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn print(&mut self, text: String) -> io::Result<()> {
        let Some(texts) = &self.texts else { return io::stdout().write_all(text.as_bytes()) };
        let sent = match texts.try_send(text) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(text)) => {
                // The printer may wait for the next line to begin, and it for us.
                let texts = texts.clone();
                self.give_turn(String::new());
                texts.send(text).is_ok()
            }
            Err(TrySendError::Disconnected(_)) => false,
        };
        if sent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    /// Prints what is still to be printed, and gives the terminal back.
    pub fn close(mut self) {
        drop(self.texts.take());
        if self.printed.recv_timeout(PRINTER_PATIENCE) == Err(RecvTimeoutError::Timeout) {
            log::debug!("not everything could be printed");
        }
        restore_terminal();
        if self.is_reading {
            // The cursor stands behind the prompt. If the terminal is gone, so is the cursor.
            drop(io::stdout().write_all(b"\n"));
        }
    }
}

/// Gives the terminal back as it was found, if it was taken over. From any thread, at any time.
pub fn restore_terminal() {
    if let Some(original) = ORIGINAL.get()
        && let Err(error) = tcsetattr(io::stdin(), OptionalActions::Now, original)
    {
        log::debug!("the terminal cannot be restored: {error}");
    }
}

/// Starts the printer's thread: gives where it takes texts, and a channel that ends with it.
fn start_printer(
    printer: Option<impl ExternalPrinter + Send + 'static>,
) -> io::Result<(Option<Sender<String>>, Receiver<()>)> {
    let (ended, printed) = bounded(0);
    let Some(mut printer) = printer else { return Ok((None, printed)) };
    let (texts, take_text) = bounded::<String>(PRINTER_QUEUE);
    thread::Builder::new().name("printer".into()).spawn(move || {
        let _ends_with_this_thread: Sender<()> = ended;
        for text in take_text {
            if let Err(error) = printer.print(text) {
                log::debug!("the terminal cannot be printed to: {error}");
                break;
            }
        }
    })?;
    Ok((Some(texts), printed))
}

/// What reads lines.
struct Reader {
    editor: Editor<(), FileHistory>,
    history: Option<PathBuf>,
    turns: Receiver<String>,
    typed: Sender<Typed>,
    waker: Arc<Waker>,
}

impl Reader {
    fn run(mut self) {
        if let Err(fault) = self.open_history() {
            self.history = None;
            self.tell(Typed::Notice(format!("what is typed is not remembered: {fault}")));
        }
        while let Ok(prompt) = self.turns.recv() {
            let typed = loop {
                match self.editor.readline(&prompt) {
                    Ok(line) => break Typed::Line(line),
                    Err(ReadlineError::Interrupted) => {}
                    Err(ReadlineError::Eof) => break Typed::End,
                    Err(error) => {
                        self.tell(Typed::Notice(format!("the terminal cannot be read: {error}")));
                        break Typed::End;
                    }
                }
            };
            if let Typed::Line(line) = &typed {
                self.remember(line);
            }
            let is_end = typed == Typed::End;
            self.tell(typed);
            if is_end {
                break;
            }
        }
    }

    fn open_history(&mut self) -> Result<(), String> {
        let Some(path) = &self.history else { return Ok(()) };
        let directory = path.parent().expect("a file in a directory");
        std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        match self.editor.load_history(path) {
            Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|error| format!("{}: {error}", path.display())),
        }
    }

    fn remember(&mut self, line: &str) {
        let added = self.editor.add_history_entry(line).unwrap_or(false);
        if let (true, Some(path)) = (added, &self.history)
            && let Err(error) = self.editor.append_history(path)
        {
            let fault = format!("what is typed is not remembered: {}: {error}", path.display());
            self.history = None;
            self.tell(Typed::Notice(fault));
        }
    }

    fn tell(&self, typed: Typed) {
        if self.typed.send(typed).is_ok()
            && let Err(error) = self.waker.wake()
        {
            log::warn!("the poll cannot be woken: {error}");
        }
    }
}
