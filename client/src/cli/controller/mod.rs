//! What was asked, what is under way, and what is shown: the client's logic between its lines and its links.
//!
//! Lines become [`Job`]s in a queue. Jobs are started in order, many at a time, and their results shown in order; one that
//! changes who one speaks as is done alone (`jobs`). Beside them runs the receipt of messages (`post`), and a watch over how
//! long nothing has been answered (`patience`).
//!
//! The controller has no socket, terminal or clock: what happens is told to it, and what it wants done is taken from it with
//! [`Controller::take_effects`]. It does read and write key files.

pub mod job;
mod jobs;
mod patience;
mod person;
mod post;
mod survey;

use crate::cli::advice;
use crate::cli::controller::job::{Content, Job, Reply, Stage};
use crate::cli::exit::{self, Failure};
use crate::cli::lines::LineError;
use crate::cli::print::{Answerer, Say, What};
use crate::cli::verb::Verb;
use crate::greeting::Credentials;
use crate::keys::Keys;
use crate::queries::{OpenQueries, OutgoingQuery};
use crate::reach::LinkSet;
use crate::session::{Change, Session, Verdict};
pub use jobs::identity;
use patience::Patience;
use person::{Person, request};
use stablechat_protocol::answer::{Answer, AnswerMetadata, QueryAnswer};
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::command::{Command, Query};
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::RequestId;
use stablechat_protocol::session::{ClientId, WINDOW};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use survey::Inquiry;

/// How many jobs are queued before no more lines are read; a chunk of lines may be on its way already.
const JOBS_MAX: usize = 2 * WINDOW as usize;

/// What kind of user one works for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A person at a terminal, who is told what matters and decides when to give up.
    Prompt,
    /// A script that pipes lines in.
    Filter,
    /// A single command.
    Once,
    /// Somebody who waits for messages.
    Listen,
}

/// What does not change.
pub struct ControllerSettings {
    /// For whom one works.
    pub mode: Mode,
    /// Whether every replica's answer is waited for and shown.
    pub all_replies: bool,
    /// The cluster.
    pub cluster: Cluster,
    /// The user's keys.
    pub keys: Keys,
    /// Makes identities of new sessions.
    pub new_client: fn() -> ClientId,
}

/// What a controller wants done.
pub enum Effect {
    /// Send a frame on one link, or on all that are ready.
    Send {
        /// Which link.
        link: Option<usize>,
        /// The frame.
        message: ToReplica,
    },
    /// Speak for this account, or nobody, on all links from here on.
    LogIn {
        /// The account.
        identity: Option<Rc<Credentials>>,
        /// Whether its messages shall be pushed.
        receive: bool,
    },
    /// Show something.
    Say(Say),
}

/// The controller.
pub struct Controller {
    settings: ControllerSettings,
    /// Whom one speaks as.
    person: Person,
    /// Whom one spoke as before a connect that may fail or a deletion, both of which are alone while they run.
    before: Option<Person>,
    /// Open queries.
    queries: OpenQueries,
    /// Lines' work that is not shown yet, in the order of the lines.
    jobs: VecDeque<Job>,
    /// How many of `jobs`, at its front, are started.
    started: usize,
    /// How many jobs were ever taken off the front of `jobs`; with a place in it this makes a number that stays.
    finished: u64,
    /// The numbers of the jobs whose commands are in flight, by sequence number in the person's session.
    by_sequence: BTreeMap<u64, u64>,
    /// The survey that is under way.
    inquiry: Option<Inquiry>,
    /// The links that are ready.
    reach: LinkSet,
    /// Whether all links have been ready or failed once.
    are_all_tried: bool,
    /// Whether requests may be sent: the links had their chance to become ready.
    is_open: bool,
    /// Whether no more lines will come.
    has_ended: bool,
    /// Whether the end was reached by a failure that leaves nothing to do.
    is_over: bool,
    /// How often a line came.
    lines: u64,
    /// The exit code so far.
    code: u8,
    /// How far the replicas' clocks are ahead, in nanoseconds.
    clock_offset: i64,
    /// How long one has been waiting.
    patience: Patience,
    /// What is to be done.
    effects: Vec<Effect>,
}

impl Controller {
    /// A controller at which one speaks as nobody.
    pub fn new(settings: ControllerSettings, now: Timestamp) -> Controller {
        let bound = settings.cluster.delivery_bound;
        let session = Session::new((settings.new_client)(), bound);
        Controller {
            person: Person::new(None, false, session),
            before: None,
            queries: OpenQueries::new(bound),
            jobs: VecDeque::new(),
            started: 0,
            finished: 0,
            by_sequence: BTreeMap::new(),
            inquiry: None,
            reach: LinkSet::EMPTY,
            are_all_tried: false,
            is_open: false,
            has_ended: false,
            is_over: false,
            lines: 0,
            code: exit::DONE,
            clock_offset: 0,
            patience: Patience::new(now),
            effects: Vec::new(),
            settings,
        }
    }

    /// Speaks as an account from the start, in a session of this identity, without receiving its messages. To be called
    /// before any link is ready.
    pub fn speak_as(&mut self, identity: Credentials, client: Option<ClientId>) {
        let client = client.unwrap_or_else(self.settings.new_client);
        let session = Session::new(client, self.settings.cluster.delivery_bound);
        self.person = Person::new(Some(Rc::new(identity)), false, session);
        self.effects.push(self.person.login());
    }

    /// Takes what shall be done first, which is no line of standard input. After its failure nothing else is done, except
    /// at a prompt.
    pub fn do_first(&mut self, verb: Verb) {
        self.jobs.push_back(Job::new(None, Ok(verb)));
    }

    /// Tells a person who begins as nobody how to go on.
    pub fn greet(&mut self) {
        let advice = self.account_advice();
        self.notice(format!("you are not connected as anyone; {advice}; for all verbs: help"));
    }

    /// What to do for who speaks as nobody and must not.
    fn account_advice(&self) -> String {
        // A directory that cannot be read is told of when a key is needed.
        let accounts = self.settings.keys.accounts().unwrap_or_default();
        advice::not_connected(self.settings.mode, &accounts)
    }

    /// Takes a line of standard input.
    pub fn on_line(&mut self, now: Timestamp, line: Result<String, LineError>) {
        self.lines += 1;
        if self.jobs.is_empty() {
            self.patience.on_progress(now);
        }
        if self.has_ended {
            return;
        }
        let number = (self.settings.mode == Mode::Filter).then_some(self.lines);
        let verb = match line {
            Ok(line) => Verb::parse(&line),
            Err(error) => Err(error.to_string()),
        };
        match verb {
            Ok(None) => {}
            Ok(Some(Verb::Quit)) => self.has_ended = true,
            Ok(Some(verb)) => self.jobs.push_back(Job::new(number, Ok(verb))),
            Err(fault) => self.jobs.push_back(Job::new(number, Err(Failure::new(exit::USAGE, fault)))),
        }
    }

    /// No more lines will come: what was asked is finished, and then everything is over.
    pub fn on_end_of_lines(&mut self) {
        self.has_ended = true;
    }

    /// Whether no more lines will come.
    pub fn is_ending(&self) -> bool {
        self.has_ended
    }

    /// Whether more lines can be taken.
    pub fn has_room(&self) -> bool {
        !self.has_ended && self.jobs.len() < JOBS_MAX
    }

    /// Whether the next line should wait for what is being done, because it changes who one speaks as.
    pub fn is_changing(&self) -> bool {
        self.jobs.iter().any(Job::is_barrier)
    }

    /// Whom one speaks as.
    pub fn name(&self) -> Option<&AccountName> {
        self.before.as_ref().unwrap_or(&self.person).name()
    }

    /// The exit code, once everything is over.
    pub fn ending(&self) -> Option<u8> {
        let is_done =
            self.has_ended && self.jobs.is_empty() && self.person.is_quiet() && !self.person.inbox.is_fetching();
        (self.is_over || is_done).then_some(self.code)
    }

    /// Lets requests be sent: the links had their chance to become ready, so that all replicas see the same requests.
    pub fn open(&mut self, now: Timestamp) {
        self.is_open = true;
        self.patience.on_progress(now);
    }

    /// Whether [`Controller::open`] was called.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether any link is ready.
    pub fn has_reach(&self) -> bool {
        !self.reach.is_empty()
    }

    /// Sets how far the replicas' clocks are ahead of ours, in nanoseconds.
    pub fn set_clock_offset(&mut self, offset: i64) {
        self.clock_offset = offset;
        self.person.session.set_clock_offset(offset);
    }

    /// Takes what is to be done, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// A link became ready, and is logged in.
    pub fn on_ready(&mut self, link: usize) {
        let was_out_of_reach = self.reach.is_empty();
        self.reach.insert(link);
        let client = self.person.session.client();
        for outgoing in self.person.session.on_link_ready(link) {
            self.effects.push(Effect::Send { link: Some(link), message: request(client, outgoing) });
        }
        for asking in self.queries.on_link_ready(link) {
            self.effects.push(Effect::Send { link: Some(link), message: query(asking) });
        }
        self.survey_link(link);
        if was_out_of_reach && self.before.is_none() && self.person.receive && self.is_open {
            // What came while no replica could push it to us is unread.
            self.person.inbox.begin();
        }
    }

    /// A link is no longer ready.
    pub fn on_lost(&mut self, now: Timestamp, link: usize) {
        self.reach.remove(link);
        self.person.session.on_link_lost(now, link);
        self.queries.on_link_lost(now, link);
        self.note_reach(now);
    }

    /// Takes a frame that is about requests or messages.
    pub fn on_message(&mut self, now: Timestamp, link: usize, message: ToClient) {
        match message {
            ToClient::Answer { client, sequence, uid, answer, metadata } if client == self.person.session.client() => {
                self.on_answer(now, link, sequence, uid, answer, metadata);
            }
            ToClient::QueryAnswer { id, answer, metadata } => self.on_query_answer(now, link, id, answer, metadata),
            ToClient::Refused { request: RequestId::Command { client, sequence }, timestamp, reason, .. }
                if client == self.person.session.client() =>
            {
                self.person.session.on_refused(now, link, sequence, timestamp);
                self.note_refusal(reason);
            }
            ToClient::Refused { request: RequestId::Query { id }, .. } => self.queries.on_refused(now, link, id),
            ToClient::Delivery { message } => self.on_delivery(message),
            ToClient::Status { report } => self.on_report(link, *report),
            ToClient::Changed { client, sequence, uid, answer } if client == self.person.session.client() => {
                self.on_changed(sequence, uid, answer);
            }
            ToClient::LoginRefused { account } => log::warn!("{} refuses {account}'s login", self.replica(link)),
            // Answers in a session that is over, and logins that went well: the answers that follow say the same.
            _ => {}
        }
    }

    /// Does what is due, and whatever has become possible. To be called after each batch of events.
    pub fn on_time(&mut self, now: Timestamp) {
        let repeated = self.person.session.due(now);
        let mut queries = self.queries.due(now);
        if !repeated.is_empty() {
            // Queries behind a command that is repeated shall still see its effect.
            queries = self.queries.unanswered();
        }
        let client = self.person.session.client();
        for outgoing in repeated {
            self.effects.push(Effect::Send { link: None, message: request(client, outgoing) });
        }
        for number in queries {
            let timestamp = self.person.session.stamp(now);
            if let Some(asking) = self.queries.ask_again(now, timestamp, number) {
                self.effects.push(Effect::Send { link: None, message: query(asking) });
            }
        }
        self.work(now);
        self.watch(now);
    }

    /// When [`Controller::on_time`] will have something to do.
    pub fn deadline(&self) -> Option<Timestamp> {
        let deadlines =
            [self.person.session.deadline(), self.queries.deadline(), self.replies_deadline(), self.watch_deadline()];
        deadlines.into_iter().chain([self.survey_deadline()]).flatten().min()
    }

    fn on_answer(
        &mut self,
        now: Timestamp,
        link: usize,
        sequence: u64,
        uid: Uid,
        answer: Answer,
        metadata: AnswerMetadata,
    ) {
        let verdict = self.person.session.on_answer(now, link, sequence, uid, &answer);
        if let Verdict::Differs { link: first, answer: other } = &verdict {
            self.notice(format!(
                "the replicas disagree on request {sequence}: {} says {}, {} says {}",
                self.replica(*first),
                in_words(other),
                self.replica(link),
                in_words(&answer)
            ));
        }
        if verdict == Verdict::Answered {
            self.patience.on_progress(now);
            self.person.acknowledging.take_if(|(of, _)| *of == sequence);
        }
        let Some(number) = self.by_sequence.get(&sequence) else { return };
        let place = usize::try_from(number - self.finished).expect("a place in the queue");
        let job = &mut self.jobs[place];
        if verdict == Verdict::Answered || self.settings.all_replies {
            job.on_reply(now, Reply { link, content: Content::Command { uid, answer }, metadata });
        }
    }

    /// A replica has learned of earlier requests, and found that what it had answered is no longer so.
    fn on_changed(&mut self, sequence: u64, uid: Uid, after: Answer) {
        let Some(Change { command, before }) = self.person.session.on_changed(sequence, uid, &after) else { return };
        // Acknowledgements are ours; nobody has asked for them or seen what came of them.
        if !matches!(command, Command::Ack { .. }) {
            self.say(What::Changed { command, sequence, uid, before, after }, None);
        }
    }

    fn on_query_answer(&mut self, now: Timestamp, link: usize, id: u64, answer: QueryAnswer, metadata: AnswerMetadata) {
        let Some(number) = self.queries.on_answer(now, id) else { return };
        self.patience.on_progress(now);
        if self.person.page == Some(number) {
            return self.on_page(number, answer);
        }
        let is_asked_by = |job: &&mut Job| job.stage == Stage::Query { number };
        let Some(job) = self.jobs.iter_mut().take(self.started).find(is_asked_by) else { return };
        if job.replies.is_empty() || self.settings.all_replies {
            job.on_reply(now, Reply { link, content: Content::Query(answer), metadata });
        }
    }

    /// Issues a command in the person's session, which must have room. Returns its place there.
    fn issue(&mut self, now: Timestamp, command: Command) -> u64 {
        if self.person.needs_session(now) {
            let session = self.new_session();
            self.person.session = session;
        }
        self.person.issued_at = now;
        let outgoing = self.person.session.issue(now, command);
        let sequence = outgoing.sequence;
        let message = request(self.person.session.client(), outgoing);
        self.effects.push(Effect::Send { link: None, message });
        sequence
    }

    /// Asks a query. Returns the query's number.
    fn ask(&mut self, now: Timestamp, what: Query) -> u64 {
        let timestamp = self.person.session.stamp(now);
        let asking = self.queries.ask(now, timestamp, what);
        let number = asking.id;
        self.effects.push(Effect::Send { link: None, message: query(asking) });
        number
    }

    /// A session that continues in time where the person's is.
    fn new_session(&self) -> Session {
        let mut session = Session::new((self.settings.new_client)(), self.settings.cluster.delivery_bound);
        session.observe(self.person.session.highest());
        self.follow_links(Timestamp::ZERO, &mut session);
        session
    }

    /// Tells a session in which nothing is in flight what is known of links and clocks.
    fn follow_links(&self, now: Timestamp, session: &mut Session) {
        session.set_clock_offset(self.clock_offset);
        for link in 0..self.settings.cluster.replicas.len() {
            if self.reach.contains(link) {
                let in_flight = session.on_link_ready(link);
                debug_assert!(in_flight.is_empty());
            } else {
                session.on_link_lost(now, link);
            }
        }
    }

    /// Speaks as someone else from here on. Returns whom one spoke as.
    fn switch(&mut self, now: Timestamp, mut person: Person) -> Person {
        person.session.observe(self.person.session.highest());
        self.follow_links(now, &mut person.session);
        if let Some(number) = self.person.page.take() {
            self.queries.close(number);
        }
        self.by_sequence.clear();
        if person.receive {
            // What comes between two logins is not pushed.
            person.inbox.begin();
        }
        self.effects.push(person.login());
        std::mem::replace(&mut self.person, person)
    }

    fn say(&mut self, what: What, by: Option<Answerer>) {
        self.effects.push(Effect::Say(Say { what, by }));
    }

    fn notice(&mut self, text: String) {
        self.say(What::Notice(text), None);
    }

    /// A link's replica's name.
    fn replica(&self, link: usize) -> &str {
        self.settings.cluster.replicas[link].name.as_str()
    }
}

/// The frame for a query.
fn query(asking: OutgoingQuery) -> ToReplica {
    let OutgoingQuery { id, timestamp, query } = asking;
    ToReplica::Query { id, timestamp, query }
}

/// An answer for a person.
fn in_words(answer: &Answer) -> String {
    match answer {
        Answer::Done => "it is done".into(),
        Answer::Rejected { reason } => reason.to_string(),
    }
}
