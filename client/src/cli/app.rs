//! The event loop: one thread, one mio poll over standard input, signals and one connection per replica.
//!
//! Each round receives lines and frames, passes them to the controller, and performs its effects. Time is read when the poll
//! returns, before anything is received: a client that was suspended reads the frames that came meanwhile before it believes that
//! time has passed.

use crate::cli::completion::Names;
use crate::cli::controller::{Controller, ControllerSettings, Effect};
use crate::cli::execution::Execution;
use crate::cli::exit::{self, Failure};
use crate::cli::input::Input;
use crate::cli::messages::MessageStyle;
use crate::cli::mode::Mode;
use crate::cli::places;
use crate::cli::print::{Item, Output, Printer};
use crate::cli::prompt::{Prompt, Typed};
use crate::cli::screen::{Screen, not_written};
use crate::cli::secrets::NewKey;
use crate::cli::signals::Signals;
use crate::cli::verb::Verb;
use crate::clock::{LocalClock, Offsets};
use crate::greeting::Credentials;
use crate::inbox::Scope;
use crate::keys::Keys;
use crate::link::LinkEvent;
use crate::links::Links;
use mio::{Events, Interest, Poll, Token, Waker};
use stablechat_protocol::cluster::{Cluster, REPLICAS_MAX};
use stablechat_protocol::conversation::Conversation;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use stablechat_transport::TlsDialer;
use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

/// Links have the tokens from 0 on.
const WAKER: Token = Token(REPLICAS_MAX);
const INPUT: Token = Token(REPLICAS_MAX + 1);
const SIGNALS: Token = Token(REPLICAS_MAX + 2);
/// How long the first request waits for the other replicas once one has welcomed us, so that all of them see it. Ten times a slow
/// round trip; a replica that hangs must not delay every command.
const GATHERING: Duration = Duration::from_millis(300);
/// How long the client waits at its end, beside a delivery bound, for a replica that has not read everything.
const PARTING: Duration = Duration::from_secs(1);
/// How long the prompt for the next line waits for a connect or delete, which changes the name in it.
const TURN_PATIENCE: Duration = Duration::from_secs(5);
/// The most conversations that a notice of unread messages names.
const NAMED_MAX: usize = 3;

/// The parsed command line.
pub struct AppSettings {
    pub mode: Mode,
    pub json: bool,
    /// Whether every replica's answer is shown, rather than the first.
    pub all_replies: bool,
    pub cluster: Cluster,
    pub tls: TlsDialer,
    pub keys: Keys,
    pub colours: Colours,
    pub start: Start,
}

/// When names and times have colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// At a terminal, unless the environment has `NO_COLOR` (<https://no-color.org>).
    Auto,
    Always,
    Never,
}

/// The first action, and whether anything follows.
#[derive(Default)]
pub struct Start {
    /// The verb that is done before any line is read.
    pub first: Vec<Verb>,
    /// The account in use from the start, and the client id of its session if the user chose one.
    pub account: Option<(Credentials, Option<ClientId>)>,
    /// The credentials of the account that `first` connects, if they are not in a file.
    pub typed: Option<Credentials>,
    /// The key that `first` gives an account, unless it makes one.
    pub new_key: Option<NewKey>,
    /// Whether the client ends when `first` is done.
    pub ends: bool,
    /// Whether lines are read from standard input.
    pub reads_lines: bool,
    /// The conversations to listen to; all if there are none.
    pub listens_to: BTreeSet<Conversation>,
    /// The command that is run for each message.
    pub executes: Option<String>,
}

/// Runs the command line. Returns the exit code.
///
/// # Errors
/// The operating system refuses something, or results or lines are lost. A failure of the service or of the configuration is an
/// exit code instead.
pub fn run(settings: AppSettings) -> Result<u8, Failure> {
    let mut app = App::new(settings)?;
    let code = app.run();
    if let Some(prompt) = app.prompt.take() {
        prompt.close();
    }
    app.account_for_loss(code?)
}

/// The event loop's state.
struct App {
    poll: Poll,
    clock: LocalClock,
    offsets: Offsets,
    links: Links,
    controller: Controller,
    screen: Screen,
    /// Standard input, when lines are read and it is not the prompt's.
    input: Option<Input>,
    /// The prompt, at a terminal.
    prompt: Option<Prompt>,
    /// Runs the command for each message, if there is one.
    execution: Option<Execution>,
    /// The conversations with unread messages of which the prompt, or a notice since, has told.
    told_unread: BTreeSet<Conversation>,
    /// The names that the prompt completes.
    names: Names,
    /// Caught signals, when they mean an orderly end.
    signals: Option<Signals>,
    /// The cluster, for its names.
    cluster: Cluster,
    /// The account whose password is to be asked for.
    asked: Option<AccountName>,
    /// When it began.
    began: Timestamp,
    /// When the last line was typed.
    typed_at: Timestamp,
    /// Whether somebody insists on an end at once.
    is_killed: bool,
}

impl App {
    fn new(settings: AppSettings) -> io::Result<App> {
        let AppSettings { mode, json, all_replies, cluster, tls, keys, colours, start } = settings;
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let clock = LocalClock::start();
        let began = clock.now();
        let scope = match start.listens_to.is_empty() {
            true => Scope::All,
            false => Scope::Only(start.listens_to),
        };
        let executes = start.executes.is_some();
        let settings =
            ControllerSettings { mode, all_replies, cluster: cluster.clone(), keys, scope, executes, new_client };
        let execution = start.executes.map(|command| Execution::start(command, waker.clone())).transpose()?;
        let names = Names::default();
        let mut controller = Controller::new(settings, began);
        if let Some((credentials, client)) = start.account {
            controller.use_account(credentials, client);
        }
        if mode == Mode::Prompt && start.first.is_empty() {
            controller.greet();
        }
        controller.use_keys(start.typed, start.new_key);
        start.first.into_iter().for_each(|verb| controller.do_first(verb));
        if start.ends {
            controller.on_end_of_lines();
        }
        let (mut input, mut prompt, mut signals) = (None, None, None);
        if start.reads_lines && mode == Mode::Prompt {
            prompt = Some(Prompt::open(waker.clone(), places::history_file(), names.clone())?);
        } else if start.reads_lines {
            input = Some(Input::open(poll.registry().try_clone()?, INPUT)?);
        }
        if matches!(mode, Mode::Prompt | Mode::Listen) {
            let mut caught = Signals::catch()?;
            poll.registry().register(caught.source(), SIGNALS, Interest::READABLE)?;
            signals = Some(caught);
        }
        Ok(App {
            offsets: Offsets::new(cluster.replicas.len()),
            links: Links::new(&cluster, tls, poll.registry().try_clone()?, waker),
            screen: Screen::new(Printer {
                json,
                all_replies,
                name_remarks: mode != Mode::Prompt,
                messages: message_style(colours, began),
            }),
            poll,
            clock,
            controller,
            input,
            prompt,
            execution,
            told_unread: BTreeSet::new(),
            names,
            signals,
            cluster,
            asked: None,
            began,
            typed_at: began,
            is_killed: false,
        })
    }

    fn run(&mut self) -> io::Result<u8> {
        let mut events = Events::with_capacity(64);
        let mut heard = Vec::new();
        let mut now = self.began;
        loop {
            self.links.on_time(now, &mut heard);
            self.hear(now, &mut heard);
            self.read(now);
            self.controller.on_time(now);
            self.tell_of_unread();
            self.perform(&mut heard, now);
            self.give_turn(now);
            if let Some(code) = self.ending() {
                self.part(now, &mut events)?;
                return Ok(code);
            }
            let timeout = if heard.is_empty() { self.timeout(now) } else { Some(Duration::ZERO) };
            now = self.wait(&mut events, timeout, &mut heard)?;
        }
    }

    /// Waits until something happens, and takes it from where it happened. Returns the time before that was done.
    fn wait(
        &mut self,
        events: &mut Events,
        timeout: Option<Duration>,
        heard: &mut Vec<LinkEvent>,
    ) -> io::Result<Timestamp> {
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => result?,
        }
        let now = self.clock.now();
        for event in &*events {
            match event.token() {
                WAKER => {}
                INPUT => self.input.iter_mut().for_each(Input::on_ready),
                SIGNALS => self.on_signal(),
                _ => self.links.on_ready(now, event, heard),
            }
        }
        Ok(now)
    }

    /// Leaves the replicas, and waits until all have read the requests that were sent, unless one takes too long.
    fn part(&mut self, mut now: Timestamp, events: &mut Events) -> io::Result<()> {
        let limit = now.after(self.cluster.delivery_bound + PARTING);
        let mut heard = Vec::new();
        self.links.end();
        loop {
            self.links.flush(now, &mut heard);
            heard.clear();
            if self.links.have_ended() || self.is_killed || limit <= now {
                return Ok(());
            }
            now = self.wait(events, Some(limit.since(now)), &mut heard)?;
        }
    }

    /// Passes the events of the links to the controller.
    fn hear(&mut self, now: Timestamp, heard: &mut Vec<LinkEvent>) {
        for event in heard.drain(..) {
            match event {
                LinkEvent::Ready { link } => self.controller.on_ready(link),
                LinkEvent::Lost { link, reason } => {
                    self.offsets.on_lost(link);
                    self.controller.on_lost(now, link, reason);
                }
                LinkEvent::Unreachable { link, reason } => self.controller.on_unreachable(link, reason),
                LinkEvent::Message { link, message } => {
                    if self.offsets.on_message(link, &message, now) {
                        self.controller.set_clock_offset(self.offsets.offset());
                    }
                    self.controller.on_message(now, link, message);
                }
                LinkEvent::Sample { link, exchange } => {
                    self.offsets.observe(link, exchange);
                    self.controller.set_clock_offset(self.offsets.offset());
                }
                LinkEvent::Misconfigured { link, fault } => {
                    let replica = &self.cluster.replicas[link];
                    let text = format!("the replica {} at {}: {fault}", replica.name, replica.address);
                    self.notice(text);
                }
            }
        }
        if self.links.are_tried() {
            self.controller.on_all_tried();
        }
        let is_gathered = self.links.are_tried() || self.began.after(GATHERING) <= now;
        if !self.controller.is_open() && self.controller.has_reach() && is_gathered {
            self.controller.open(now);
        }
    }

    /// Takes lines, while there is room for them.
    fn read(&mut self, now: Timestamp) {
        if let Some(input) = &mut self.input {
            while input.is_ready() && self.controller.has_room() {
                match input.read(|line| self.controller.on_line(now, line)) {
                    Ok(false) => {}
                    Ok(true) => self.controller.on_end_of_lines(),
                    Err(error) => self.controller.on_input_lost(&error.to_string()),
                }
            }
        }
        if let Some(result) = self.execution.as_ref().and_then(Execution::take) {
            self.controller.on_executed(now, result);
        }
        while let Some(typed) = self.prompt.as_mut().and_then(Prompt::take) {
            match typed {
                Typed::Line(line) => {
                    self.typed_at = now;
                    self.controller.on_line(now, Ok(line));
                }
                Typed::Password(answer) => self.controller.on_password(now, answer.map(|typed| *typed)),
                Typed::Notice(text) => self.notice(text),
                Typed::End => self.controller.on_end_of_lines(),
            }
        }
    }

    /// Performs the controller's effects.
    fn perform(&mut self, heard: &mut Vec<LinkEvent>, now: Timestamp) {
        self.do_effects();
        self.screen.flush(self.prompt.as_mut());
        // A message is read only when it was written: one that was not stays unread.
        match self.screen.loss() {
            None => self.controller.on_shown(now),
            Some(_) => self.controller.on_output_lost(),
        }
        self.controller.end_after_failure(now);
        self.do_effects();
        self.links.flush(now, heard);
    }

    fn do_effects(&mut self) {
        for effect in self.controller.take_effects() {
            match effect {
                Effect::Send { link, message } => self.links.send(link, &message),
                Effect::LogIn { credentials, receive } => self.links.log_in(credentials, receive),
                Effect::AskPassword { account } => self.asked = Some(account),
                Effect::Show(output) => {
                    self.names.learn_from(&output.item);
                    self.screen.show(&output, self.prompt.as_mut());
                }
                Effect::Execute { message, conversation } => {
                    self.execution.iter().for_each(|execution| execution.run(message.clone(), conversation.clone()));
                }
                Effect::Learn(name) => self.names.learn(&name),
            }
        }
    }

    /// Tells a person something that is not the controller's.
    fn notice(&mut self, text: String) {
        self.screen.show(&Output { item: Item::Notice(text), by: None }, self.prompt.as_mut());
    }

    /// Lets the next line be typed, unless the last one asked for something that changes the prompt.
    fn give_turn(&mut self, now: Timestamp) {
        if let (Some(prompt), Some(account)) = (&mut self.prompt, self.asked.take()) {
            // A line that is being typed is finished first.
            if !prompt.ask_password(&self.cluster.id, &account) {
                self.asked = Some(account);
            }
            return;
        }
        let is_turn = !self.controller.is_changing() || self.turn_at() <= now;
        if let Some(prompt) = &mut self.prompt
            && is_turn
            && self.controller.has_room()
        {
            if !prompt.is_reading() {
                self.told_unread = self.controller.elsewhere().map(|(conversation, _)| conversation.clone()).collect();
            }
            prompt.give_turn(prompt_of(&self.controller));
        }
    }

    /// While a line is typed, its prompt cannot change. If messages come meanwhile in a conversation that is not shown, a notice names
    /// the conversation, once for each line.
    fn tell_of_unread(&mut self) {
        if !self.prompt.as_ref().is_some_and(Prompt::is_reading) {
            return;
        }
        let is_told = |conversation: &Conversation| self.told_unread.contains(conversation);
        let fresh: Vec<Conversation> = (self.controller.elsewhere().map(|(conversation, _)| conversation))
            .filter(|conversation| !is_told(conversation))
            .cloned()
            .collect();
        if !fresh.is_empty() {
            self.notice(unread_in(&fresh));
            self.told_unread.extend(fresh);
        }
    }

    /// When the next line is not kept waiting any longer.
    fn turn_at(&self) -> Timestamp {
        self.typed_at.after(TURN_PATIENCE)
    }

    fn on_signal(&mut self) {
        let count = self.signals.as_mut().map_or(0, Signals::take);
        // The first asks for an orderly end, the next for one at once.
        self.is_killed |= count > 1 || self.controller.is_ending();
        self.controller.on_end_of_lines();
    }

    /// The exit code, when everything is over.
    fn ending(&self) -> Option<u8> {
        if self.links.are_misconfigured() {
            return Some(exit::CONFIGURATION);
        }
        self.controller.ending().or(self.is_killed.then_some(exit::DONE))
    }

    /// The end's exit code, when the requests themselves came to `code`: a script has to know whether lines were not done, or
    /// results are missing from a file. If all was done, and the reader has read enough and closed the pipe, as `head` does, that
    /// is no failure.
    fn account_for_loss(&self, code: u8) -> Result<u8, Failure> {
        let Some(error) = self.screen.loss() else { return Ok(code) };
        let consequence = match self.controller.undone_from() {
            Some(line) => format!("; the lines from {line} on were not done"),
            None if error.kind() == io::ErrorKind::BrokenPipe => return Ok(code),
            None if code == exit::DONE => "; results are missing, but all requests were carried out".into(),
            None => String::new(),
        };
        let code = if matches!(code, exit::DONE | exit::REFUSED) { exit::IO } else { code };
        Err(Failure::new(code, not_written(error) + &consequence))
    }

    /// How long nothing has to be done unless something happens.
    fn timeout(&self, now: Timestamp) -> Option<Duration> {
        if self.input.as_ref().is_some_and(Input::is_ready) && self.controller.has_room() {
            return Some(Duration::ZERO);
        }
        let gathering =
            (!self.controller.is_open() && self.controller.has_reach()).then(|| self.began.after(GATHERING));
        let is_kept_waiting = self.prompt.as_ref().is_some_and(|prompt| !prompt.is_reading());
        let turn =
            (is_kept_waiting && self.controller.is_changing() && self.controller.has_room()).then(|| self.turn_at());
        let deadlines = [self.links.deadline(), self.controller.deadline(), gathering, turn];
        deadlines.into_iter().flatten().min().map(|deadline| deadline.since(now))
    }
}

/// The prompt: whose messages are sent, where to, and how much is unread elsewhere.
fn prompt_of(controller: &Controller) -> String {
    let name = controller.name().map_or("stablechat", |name| name.as_str());
    let to = controller.talk().map(|talk| format!(" to {talk}")).unwrap_or_default();
    let unread = match controller.elsewhere().map(|(_, unread)| unread).sum::<u64>() {
        0 => String::new(),
        unread => format!(" ({unread} unread elsewhere)"),
    };
    format!("{name}{to}{unread}> ")
}

/// A notice that there are unread messages in these conversations.
fn unread_in(conversations: &[Conversation]) -> String {
    let names: Vec<String> = conversations.iter().take(NAMED_MAX).map(Conversation::to_string).collect();
    let others = match conversations.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        count => format!(" and {count} others"),
    };
    format!("unread elsewhere: {}{others}", names.join(", "))
}

/// How messages are written to standard output.
fn message_style(colours: Colours, now: Timestamp) -> MessageStyle {
    let is_terminal = io::stdout().is_terminal();
    let is_colourful = match colours {
        Colours::Always => true,
        Colours::Never => false,
        Colours::Auto => is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    };
    match is_terminal {
        true => MessageStyle::at_terminal(is_colourful, now),
        false => MessageStyle::plain().coloured(is_colourful),
    }
}

/// A session that nobody had before.
fn new_client() -> ClientId {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system gives random bytes once it has begun to");
    ClientId(bytes)
}
