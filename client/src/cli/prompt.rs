//! The prompt at a terminal: rustyline on a thread of its own.
//!
//! The thread reads one line per turn, so that each prompt can show the account in use, and wakes the poll with the line.
//! Text that is printed while a line is being read goes through rustyline's external printer. That printer has a thread of
//! its own, because it blocks if the line is finished at that very moment, until the next line is begun.

use crate::cli::completion::{LineCompleter, Names};
use crate::cli::exit::Failure;
use crate::cli::secrets;
use crate::greeting::Credentials;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use mio::Waker;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::config::{CompletionType, Config};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Editor, ExternalPrinter};
use stablechat_protocol::name::{AccountName, ClusterId};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

/// How many lines the history file keeps.
const HISTORY_LINES: usize = 1000;
/// How many texts may wait for the printer. When the queue is full, [`Prompt::print`] waits.
const PRINTER_QUEUE: usize = 1024;
/// How long [`Prompt::close`] waits for the printer's queue to drain.
const PRINTER_PATIENCE: Duration = Duration::from_millis(500);

/// The terminal's settings before the prompt changed them.
static ORIGINAL: OnceLock<Termios> = OnceLock::new();

/// A report of the prompt's thread.
pub enum Typed {
    /// A line was typed. The next is read when [`Prompt::give_turn`] is called.
    Line(String),
    /// A password was typed, or not: the answer to [`Prompt::ask_password`].
    Password(Result<Box<Credentials>, Failure>),
    /// A remark to show to the user.
    Notice(String),
    /// There will be no more lines.
    End,
}

/// Something to be read from the terminal.
enum Turn {
    /// A line, with the prompt that is shown.
    Line(String),
    /// The password of an account. The key is derived from it here, too, since that takes long.
    Password(ClusterId, AccountName),
}

pub struct Prompt {
    /// Lines and notices; at most one line, since the next waits for its turn.
    typed: Receiver<Typed>,
    /// Turns to read something.
    turns: Sender<Turn>,
    /// Whether the thread has a turn that has not yet ended.
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
    /// The terminal cannot be used, or a thread cannot be started.
    pub fn open(waker: Arc<Waker>, history: Option<PathBuf>, names: Names) -> io::Result<Prompt> {
        ORIGINAL.get_or_init(|| tcgetattr(io::stdin()).expect("standard input was found to be a terminal"));
        let config = Config::builder().max_history_size(HISTORY_LINES).map_err(io::Error::other)?;
        // Without bracketed paste, pasted lines are commands like any others, and a killed client cannot leave that mode on.
        let config = config.bracketed_paste(false).completion_type(CompletionType::List).build();
        let mut editor: Editor<LineCompleter, FileHistory> = Editor::with_config(config).map_err(io::Error::other)?;
        editor.set_helper(Some(LineCompleter::new(names)));
        let printer = editor.create_external_printer().ok();
        let (send_typed, typed) = bounded(4);
        let (turns, take_turn) = bounded(1);
        let (texts, printed) = start_printer(printer)?;
        let reader = Reader { editor, history, turns: take_turn, typed: send_typed, waker };
        thread::Builder::new().name("prompt".into()).spawn(move || reader.run())?;
        Ok(Prompt { typed, turns, is_reading: false, texts, printed })
    }

    /// Takes the next line or notice, if there is one.
    pub fn take(&mut self) -> Option<Typed> {
        let typed = self.typed.try_recv().ok()?;
        if !matches!(typed, Typed::Notice(_)) {
            self.is_reading = false;
        }
        Some(typed)
    }

    pub fn is_reading(&self) -> bool {
        self.is_reading
    }

    /// Has the next line read, with this prompt, unless a line is being read.
    pub fn give_turn(&mut self, prompt: String) {
        if !self.is_reading && self.turns.try_send(Turn::Line(prompt)).is_ok() {
            self.is_reading = true;
        }
    }

    /// Asks for the password of an account. No line may be being read. Returns whether it is asked for.
    pub fn ask_password(&mut self, cluster: &ClusterId, account: &AccountName) -> bool {
        let asks = !self.is_reading && self.turns.try_send(Turn::Password(cluster.clone(), account.clone())).is_ok();
        self.is_reading |= asks;
        asks
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
                // The printer may be blocked until the next line begins. Begin it, or both wait for ever.
                let texts = texts.clone();
                self.give_turn(String::new());
                texts.send(text).is_ok()
            }
            Err(TrySendError::Disconnected(_)) => false,
        };
        if sent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    /// Waits for the printer, but not for long, and restores the terminal.
    pub fn close(mut self) {
        drop(self.texts.take());
        if self.printed.recv_timeout(PRINTER_PATIENCE) == Err(RecvTimeoutError::Timeout) {
            log::debug!("the printer did not finish within {PRINTER_PATIENCE:?}; the last output is lost");
        }
        restore_terminal();
        if self.is_reading {
            // Moves the cursor off the prompt's line. If the terminal is gone, nobody sees the difference.
            drop(io::stdout().write_all(b"\n"));
        }
    }
}

/// Restores the terminal's settings, if the prompt has changed them. May be called from any thread, at any time.
pub fn restore_terminal() {
    if let Some(original) = ORIGINAL.get()
        && let Err(error) = tcsetattr(io::stdin(), OptionalActions::Now, original)
    {
        log::debug!("cannot restore the terminal: {error}");
    }
}

/// Starts the printer's thread. Returns the queue of its texts, and a channel that is disconnected when the thread ends.
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
                log::debug!("cannot print to the terminal: {error}");
                break;
            }
        }
    })?;
    Ok((Some(texts), printed))
}

/// The prompt's thread.
struct Reader {
    editor: Editor<LineCompleter, FileHistory>,
    history: Option<PathBuf>,
    turns: Receiver<Turn>,
    typed: Sender<Typed>,
    waker: Arc<Waker>,
}

impl Reader {
    fn run(mut self) {
        if let Err(problem) = self.open_history() {
            self.history = None;
            self.report(Typed::Notice(format!("the history is not kept: {problem}")));
        }
        while let Ok(turn) = self.turns.recv() {
            let typed = match turn {
                Turn::Line(prompt) => self.read_line(&prompt),
                Turn::Password(cluster, account) => Typed::Password(secrets::ask_for(&cluster, &account).map(Box::new)),
            };
            let is_end = matches!(typed, Typed::End);
            self.report(typed);
            if is_end {
                break;
            }
        }
    }

    fn read_line(&mut self, prompt: &str) -> Typed {
        loop {
            match self.editor.readline(prompt) {
                Ok(line) => {
                    self.remember(&line);
                    return Typed::Line(line);
                }
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => return Typed::End,
                Err(error) => {
                    self.report(Typed::Notice(format!("cannot read the terminal, so the client ends: {error}")));
                    return Typed::End;
                }
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
            let problem = format!("the history is not kept: {}: {error}", path.display());
            self.history = None;
            self.report(Typed::Notice(problem));
        }
    }

    fn report(&self, typed: Typed) {
        if self.typed.send(typed).is_ok()
            && let Err(error) = self.waker.wake()
        {
            log::warn!("cannot wake the poll, which delays a typed line: {error}");
        }
    }
}
