//! A user's program: works off a plan with the real session, queries, inbox and clock correction.
//!
//! A plan is a row of stages, each in a session of its own: make the account, speak as it, say everything once more in the
//! same session as after a lost outcome, delete the account. A stage ends when everything in it is answered. Some clients do not
//! wait for that before they say everything once more, as if the same command was given to two processes.

mod saying;

use super::DELIVERY_BOUND;
use super::label::{Label, label};
use super::plan::{OPERATOR_KEY, Stage, devices_plan, draw_plan, operators_plan};
use fastrand::Rng;
use stablechat_client::clock::Offsets;
use stablechat_client::inbox::Inbox;
use stablechat_client::queries::{OpenQueries, OutgoingQuery};
use stablechat_client::session::{AnswerKind, Outgoing, Session};
use stablechat_protocol::answer::{Answer, QueryAnswer};
use stablechat_protocol::clock_offset::Exchange;
use stablechat_protocol::command::{Command, Query};
use stablechat_protocol::conversation::{Conversation, InboxEntry, Message, ReadRange};
use stablechat_protocol::login::{LoginProof, PublicKey, Signature};
use stablechat_protocol::message::{MAGIC, Role, ToClient, ToReplica};
use stablechat_protocol::name::{AccountName, ClusterName};
use stablechat_protocol::request::{Actor, Request, RequestId};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use stablechat_protocol::version::{VERSION_MAX, VERSION_MIN};
use stablechat_server::replica::ConnectionId;
use stablechat_server::store::{ChatStore, StoreError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How far a client's clock is off at most, in nanoseconds: it is corrected.
const SKEW_MAX: i64 = 20_000_000_000;
/// The most pauses between bursts, in milliseconds.
const PAUSE_MAX_MS: u64 = 900;
/// How often a replica is pinged, as by the real client: clocks are set, and the correction has to follow.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// The most messages in a page of unread ones: small, so that pages are turned.
const PAGE: u16 = 7;

/// A connection to a replica, from the client's side.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// The connection, from hello on.
    pub connection: Option<ConnectionId>,
    /// When the hello was sent, by the client's clock.
    hello: Timestamp,
    /// Whether it has been welcomed.
    pub ready: bool,
    /// When the next ping is due, once it has been welcomed.
    ping_at: Timestamp,
}

/// A user's program.
pub struct Client {
    pub actor: Actor,
    /// The account with the other one of its two keys, once it has asked for another key. If a repair has changed the answer to
    /// that, this is the one that owns the account.
    other: Option<Actor>,
    /// Whether the account has got the key that it asked for, by the first answer.
    is_rekeyed: bool,
    /// Whether its account is never deleted.
    pub lasting: bool,
    /// Its connections, by replica.
    pub links: Vec<Link>,
    /// How far its clock is ahead of the true time, in nanoseconds.
    skew: i64,
    offsets: Offsets,
    session: Session,
    queries: OpenQueries,
    /// The page that the inbox has asked for, by query number.
    page: Option<u64>,
    inbox: Inbox,
    /// The ranges that are being read, by the sequence numbers of the commands.
    reading: BTreeMap<u64, (Conversation, ReadRange)>,
    stage: Stage,
    plan: VecDeque<Stage>,
    /// The commands that were issued in the stage.
    issued: VecDeque<Command>,
    /// The accounts that it writes to.
    others: Vec<AccountName>,
    /// Messages that were shown.
    pub shown: BTreeSet<Uid>,
    /// The last message that was shown of each conversation.
    last_shown: BTreeMap<Conversation, Uid>,
    /// The requests that sent them. One that took effect under two uids is shown twice.
    senders: BTreeSet<Label>,
    /// The number of messages that were shown after later ones of their conversation.
    pub misplaced: u64,
    /// The number of messages whose request was shown before under another uid, perhaps with another text.
    pub doubled: u64,
    /// When it goes on with its plan, by the true time.
    next_burst: Timestamp,
    /// The messages to send: on one link, or on all that are ready.
    outbox: Vec<(Option<usize>, ToReplica)>,
}

impl Client {
    /// The user's program with this number among so many, on a cluster of so many replicas, with a plan of its own.
    pub fn new(random: &mut Rng, number: usize, clients: usize, replicas: usize, now: Timestamp) -> Client {
        let lasting = number < 2 || random.bool();
        let plan = draw_plan(random, number, lasting);
        let actor = Actor { account: account(number), key: PublicKey([number as u8; 32]) };
        let others = (0..clients).filter(|other| *other != number).map(account).collect();
        Client { lasting, ..Client::of(random, actor, plan, others, replicas, now) }
    }

    /// The program of an operator.
    pub fn operator(random: &mut Rng, replicas: usize, now: Timestamp) -> Client {
        let actor = Actor { account: AccountName::operator(), key: OPERATOR_KEY };
        let plan = operators_plan(random);
        Client::of(random, actor, plan, Vec::new(), replicas, now)
    }

    /// One more device of the account of the first client among so many.
    pub fn device(random: &mut Rng, clients: usize, replicas: usize, now: Timestamp) -> Client {
        let plan = devices_plan(random, now);
        let actor = Actor { account: account(0), key: PublicKey([0; 32]) };
        let others = (1..clients).map(account).collect();
        Client::of(random, actor, plan, others, replicas, now)
    }

    fn of(
        random: &mut Rng,
        actor: Actor,
        plan: VecDeque<Stage>,
        others: Vec<AccountName>,
        replicas: usize,
        now: Timestamp,
    ) -> Client {
        let inbox = Inbox::new(actor.account.clone());
        let mut client = Client {
            actor,
            other: None,
            is_rekeyed: false,
            lasting: false,
            links: vec![Link::default(); replicas],
            skew: random.i64(-SKEW_MAX..=SKEW_MAX),
            offsets: Offsets::new(replicas),
            session: Session::new(ClientId(random.u128(..).to_be_bytes()), None, DELIVERY_BOUND),
            queries: OpenQueries::new(DELIVERY_BOUND),
            page: None,
            inbox,
            reading: BTreeMap::new(),
            stage: Stage::Over,
            plan,
            issued: VecDeque::new(),
            others,
            shown: BTreeSet::new(),
            last_shown: BTreeMap::new(),
            senders: BTreeSet::new(),
            misplaced: 0,
            doubled: 0,
            next_burst: now.after(Duration::from_millis(500 + random.u64(..300))),
            outbox: Vec::new(),
        };
        client.next_stage(random, now);
        client
    }

    /// Whether its plan is worked off.
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over) && self.plan.is_empty() && self.is_idle()
    }

    /// Where it is in its plan.
    pub fn describe(&self) -> String {
        format!("{} at {:?}, next request {}", self.actor.account, self.stage, self.session.next_sequence())
    }

    /// Adds so many messages to its plan.
    pub fn speak_again(&mut self, now: Timestamp, messages: u32) {
        self.plan.extend([Stage::Speak(messages), Stage::Over]);
        self.next_burst = now;
    }

    /// Goes on with its plan at this time at the earliest.
    pub fn hush(&mut self, until: Timestamp) {
        self.next_burst = self.next_burst.max(until);
    }

    /// The messages to send: on one link, or on all that are ready.
    pub fn take_outbox(&mut self) -> Vec<(Option<usize>, ToReplica)> {
        std::mem::take(&mut self.outbox)
    }

    /// The reading of its clock.
    fn clock(&self, now: Timestamp) -> Timestamp {
        now.offset_by(self.skew)
    }

    /// When it wants to be woken, by the true time.
    pub fn wants_wake(&self) -> Option<Timestamp> {
        let pings = self.links.iter().filter(|link| link.ready).map(|link| link.ping_at);
        let deadlines = self.session.deadline().into_iter().chain(self.queries.deadline()).chain(pings);
        let burst = (!self.is_over()).then_some(self.next_burst);
        deadlines.map(|deadline| deadline.offset_by(-self.skew)).chain(burst).min()
    }

    /// Sends what is due.
    pub fn wake(&mut self, random: &mut Rng, now: Timestamp) {
        let clock = self.clock(now);
        self.ping(clock);
        let again = self.session.due(clock);
        self.send(None, again);
        for number in self.queries.due(clock) {
            let timestamp = self.session.stamp(clock);
            if let Some(asking) = self.queries.ask_again(clock, timestamp, number) {
                self.outbox.push((None, frame(asking)));
            }
        }
        if self.next_burst <= now {
            self.next_burst = now.after(Duration::from_millis(random.u64(1..PAUSE_MAX_MS)));
            if let Stage::Away(until) = self.stage {
                self.next_burst = self.next_burst.max(until);
            }
            self.burst(random, clock);
        }
    }

    /// Pings the replicas whose last ping is an interval ago.
    fn ping(&mut self, clock: Timestamp) {
        for (number, link) in self.links.iter_mut().enumerate().filter(|(_, link)| link.ready && link.ping_at <= clock)
        {
            link.ping_at = clock.after(PING_INTERVAL);
            self.outbox.push((Some(number), ToReplica::Ping { sent: clock }));
        }
    }

    /// The account with the key that owns it by this store.
    ///
    /// # Errors
    /// Storage failed.
    pub fn owner(&self, store: &ChatStore) -> Result<Actor, StoreError> {
        match &self.other {
            Some(other) if store.owns(other)? => Ok(other.clone()),
            _ => Ok(self.actor.clone()),
        }
    }

    /// The actor of the commands of this stage.
    pub fn actor_of_stage(&self) -> Option<Actor> {
        (!matches!(self.stage, Stage::Create | Stage::Away(_))).then(|| self.actor.clone())
    }

    /// The request of this stage with this number.
    pub fn request(&self, sequence: u64) -> Option<Request> {
        let command = self.issued.get(usize::try_from(sequence).ok()?.checked_sub(1)?)?.clone();
        Some(Request { client: self.session.client(), sequence, actor: self.actor_of_stage(), command })
    }

    /// The message that logs a link in or out, as this stage needs it.
    fn login(&self) -> ToReplica {
        let Some(Actor { account, key }) = self.actor_of_stage() else { return ToReplica::Logout };
        let proof = LoginProof::Signature { signature: Signature([0; 64]) };
        ToReplica::Login { account, key, receive: true, proof }
    }

    /// Issues a command, to all links that are ready.
    fn issue(&mut self, clock: Timestamp, command: Command) {
        self.issued.push_back(command.clone());
        let is_message = matches!(command, Command::Send { .. });
        let outgoing = self.session.issue(clock, command);
        if let (true, Some(digest)) = (is_message, self.session.digest(outgoing.sequence)) {
            self.inbox.on_sent(digest);
        }
        self.send(None, vec![outgoing]);
    }

    /// Sends commands.
    fn send(&mut self, link: Option<usize>, outgoing: Vec<Outgoing>) {
        let client = self.session.client();
        self.outbox.extend(outgoing.into_iter().map(|Outgoing { sequence, timestamp, command }| {
            (link, ToReplica::Request { client, sequence, timestamp, command })
        }));
    }

    /// Sends a query on all links that are ready. Returns its number.
    fn ask(&mut self, clock: Timestamp, query: Query) -> u64 {
        let timestamp = self.session.stamp(clock);
        let asking = self.queries.ask(clock, timestamp, query);
        let number = asking.id;
        self.outbox.push((None, frame(asking)));
        number
    }

    /// Begins to fetch unread messages in a stage in which the account is there.
    fn fetch_if_listening(&mut self, clock: Timestamp) {
        if matches!(self.stage, Stage::Speak(_) | Stage::Over) {
            self.fetch(clock);
        }
    }

    /// Begins to fetch what is unread.
    fn fetch(&mut self, clock: Timestamp) {
        self.inbox.begin();
        self.fetch_page(clock);
    }

    /// Asks for the next page of what the inbox fetches, unless one is on its way. Pages are small, so that they are turned.
    fn fetch_page(&mut self, clock: Timestamp) {
        if self.page.is_some() || !self.queries.can_ask() {
            return;
        }
        let query = match self.inbox.query() {
            None => return,
            Some(Query::Inbox { all, after, .. }) => Query::Inbox { all, after, limit: PAGE },
            Some(Query::History { conversation, page, .. }) => Query::History { conversation, page, limit: PAGE },
            Some(other) => other,
        };
        self.page = Some(self.ask(clock, query));
    }

    /// A connection was made.
    pub fn on_connected(&mut self, now: Timestamp, link: usize, connection: ConnectionId) {
        let clock = self.clock(now);
        self.links[link] = Link { connection: Some(connection), hello: clock, ..Link::default() };
        self.outbox.push((Some(link), hello()));
    }

    /// A connection was lost.
    pub fn on_lost(&mut self, now: Timestamp, link: usize) {
        let clock = self.clock(now);
        self.links[link] = Link::default();
        self.offsets.on_lost(link);
        self.session.on_link_lost(clock, link);
        self.queries.on_link_lost(clock, link);
    }

    /// A message came. If it answers a command, returns the session's verdict on it.
    pub fn on_message(&mut self, now: Timestamp, link: usize, message: ToClient) -> Option<AnswerKind> {
        let clock = self.clock(now);
        if self.offsets.on_message(link, &message, clock) {
            self.session.set_clock_offset(self.offsets.offset());
        }
        match message {
            ToClient::Welcome { clock: theirs, .. } => self.on_welcome(clock, link, theirs),
            ToClient::Pong { sent, clock: theirs } => {
                self.offsets.observe(link, Exchange { sent, clock: theirs, received: clock });
                self.session.set_clock_offset(self.offsets.offset());
            }
            ToClient::Answer { client, sequence, uid, answer, .. } if client == self.session.client() => {
                let kind = self.session.on_answer(clock, link, sequence, uid, &answer);
                if matches!((&self.stage, &kind), (Stage::Rekey(_), AnswerKind::Answered)) {
                    self.is_rekeyed = answer == Answer::Done;
                }
                if kind == AnswerKind::Answered {
                    self.on_range_answered(clock, sequence, &answer);
                }
                return Some(kind);
            }
            ToClient::QueryAnswer { id, answer, .. } => self.on_query_answer(clock, id, answer),
            ToClient::Refused { request: RequestId::Command { client, sequence }, timestamp, reason, .. }
                if client == self.session.client() =>
            {
                self.session.on_refused(clock, link, sequence, timestamp, reason.wait());
            }
            ToClient::Refused { request: RequestId::Query { id }, .. } => self.queries.on_refused(clock, link, id),
            ToClient::Delivery { message } if self.actor_of_stage().is_some() => {
                self.session.observe(clock, message.uid.timestamp);
                if let Some(message) = self.inbox.on_push(message) {
                    self.show(message);
                }
            }
            ToClient::InboxChanged => self.fetch_if_listening(clock),
            ToClient::Changed { client, sequence, uid, answer } if client == self.session.client() => {
                let change = self.session.on_changed(clock, sequence, uid, &answer);
                if change.is_some_and(|change| matches!(change.command, Command::Read { .. })) {
                    self.fetch_if_listening(clock);
                }
            }
            _ => {}
        }
        None
    }

    /// A command is answered: if it reads a range, that is read, or not.
    fn on_range_answered(&mut self, clock: Timestamp, sequence: u64, answer: &Answer) {
        let Some((conversation, range)) = self.reading.remove(&sequence) else { return };
        match answer {
            Answer::Done => self.inbox.on_read(&conversation, &range),
            Answer::Rejected { reason } => drop(self.inbox.on_rejected(&conversation, reason)),
        }
        self.fetch_page(clock);
    }

    /// A replica welcomes us: corrects the clock, logs in, and sends everything that is not answered.
    fn on_welcome(&mut self, clock: Timestamp, link: usize, theirs: Timestamp) {
        self.offsets.observe(link, Exchange { sent: self.links[link].hello, clock: theirs, received: clock });
        self.session.set_clock_offset(self.offsets.offset());
        (self.links[link].ready, self.links[link].ping_at) = (true, clock.after(PING_INTERVAL));
        let login = self.login();
        self.outbox.push((Some(link), login));
        let outgoing = self.session.on_link_ready(link);
        self.send(Some(link), outgoing);
        for asking in self.queries.on_link_ready(link) {
            self.outbox.push((Some(link), frame(asking)));
        }
        self.fetch_if_listening(clock);
    }

    /// An answer to a query: only pages that the inbox fetches are of interest.
    fn on_query_answer(&mut self, clock: Timestamp, id: u64, answer: QueryAnswer) {
        let Some(number) = self.queries.on_answer(id) else { return };
        self.queries.close(number);
        if self.page != Some(number) {
            return;
        }
        self.page = None;
        let news = match answer {
            // It shows everything, so that it can be checked that everything is shown.
            QueryAnswer::Inbox { entries, next, .. } => {
                let unmuted = |entry| InboxEntry { is_muted: false, ..entry };
                self.inbox.on_list(entries.into_iter().map(unmuted).collect(), next)
            }
            QueryAnswer::Messages { messages, later, .. } => self.inbox.on_page(messages, later),
            QueryAnswer::Accounts { .. } => self.inbox.on_blocked(Vec::new()),
            _ if matches!(self.inbox.query(), Some(Query::Inbox { .. })) => self.inbox.on_list(Vec::new(), None),
            _ if self.inbox.query() == Some(Query::Blocked) => self.inbox.on_blocked(Vec::new()),
            _ => self.inbox.on_page_rejected(),
        };
        news.into_iter().for_each(|message| self.show(message));
        self.fetch_page(clock);
    }

    /// Shows a message to the user.
    fn show(&mut self, message: Message) {
        let uid = message.uid;
        let before = self.last_shown.insert(message.conversation(&self.actor.account), uid);
        self.misplaced += u64::from(before.is_some_and(|last| last > uid));
        self.doubled += u64::from(!self.senders.insert(Label::of(&message.text)));
        assert!(self.shown.insert(uid), "message {uid} is shown twice");
    }
}

/// Everything that a client sends that issues one message from `from` to `to` and dies, and the uid of its request.
pub fn speech(from: &Client, to: &Client, client: ClientId, timestamp: Timestamp) -> (Uid, Vec<ToReplica>) {
    let actor = from.actor.clone();
    let proof = LoginProof::Signature { signature: Signature([0; 64]) };
    let login = ToReplica::Login { account: actor.account.clone(), key: actor.key, receive: false, proof };
    let to = Conversation::with(&to.actor.account);
    let command = Command::Send { to, text: label(client, 1) };
    let request = ToReplica::Request { client, sequence: 1, timestamp, command: command.clone() };
    let uid = Request { client, sequence: 1, actor: Some(actor), command }.uid(timestamp);
    (uid, vec![hello(), login, request])
}

/// The first message on a connection.
fn hello() -> ToReplica {
    let cluster = ClusterName::parse("simulated").expect("a name");
    let (magic, version_min, version_max) = (MAGIC.to_string(), VERSION_MIN, VERSION_MAX);
    ToReplica::Hello { magic, version_min, version_max, role: Role::Client, cluster }
}

/// A query as it is sent.
fn frame(OutgoingQuery { id, timestamp, query }: OutgoingQuery) -> ToReplica {
    ToReplica::Query { id, timestamp, query }
}

/// The name of the client with this number.
fn account(number: usize) -> AccountName {
    AccountName::parse(format!("user{number}")).expect("letters and a digit")
}
