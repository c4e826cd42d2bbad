//! An account in use: the requests that it makes, and the messages that it receives.
//!
//! This joins the parts of one login: a [`Session`] of commands, [`OpenQueries`] and an [`Inbox`]. Unread messages are fetched
//! page by page, and messages that were handed out are read in ranges. A session that replicas may have forgotten, or
//! that one of them cannot follow, is replaced by a new one.
//!
//! Its owner calls it when links come and go and with each frame, and sends the frames that it returns. It reads no clock and
//! knows no socket. One process may use many accounts, each with links of its own, since a connection speaks for one account.
//!
//! Left out: which answers somebody waits for. The driver keeps the sequence numbers and query numbers that it was given.

use crate::greeting::Credentials;
use crate::inbox::{Inbox, Scope};
use crate::queries::{OpenQueries, OutgoingQuery};
use crate::reach::LinkSet;
use crate::session::{AnswerKind, Change, Outgoing, Session};
use stablechat_protocol::answer::{Answer, AnswerMetadata, QueryAnswer, Refusal, Rejection};
use stablechat_protocol::command::{Command, PAGE_MAX, Query};
use stablechat_protocol::conversation::{Conversation, Message, ReadRange};
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::RequestId;
use stablechat_protocol::room::{RoomAction, RoomInvitation, RoomNews};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Replicas forget sessions that are unused for 24 h. A session that was idle for half of it is not used again.
const SESSION_IDLE_MAX: Duration = Duration::from_secs(12 * 3600);
/// How many ranges may be on their way to be read. One of each conversation is.
const READING_MAX: usize = 64;
/// How long to wait before fetching a conversation that has changed again, right after it was fetched because it had changed; doubles
/// from one time to the next. Replicas that are cut off from each other can go on disagreeing.
const REFETCH_MIN: Duration = Duration::from_millis(100);
/// How many requests that room news were about are remembered.
const NEWS_MAX: usize = 256;
/// Where the doubling of [`REFETCH_MIN`] stops.
const REFETCH_MAX: Duration = Duration::from_secs(10);

/// News of an account for its owner.
#[derive(Debug)]
pub enum AccountEvent {
    /// A replica answered a command. Each replica does, so several answers come to one command.
    Answer(CommandAnswer),
    /// A replica answered a query.
    QueryAnswer {
        link: usize,
        /// The number that [`ActiveAccount::ask`] gave.
        number: u64,
        answer: QueryAnswer,
        metadata: AnswerMetadata,
    },
    /// A message that was not handed out before. It will be read: show it before you send what [`ActiveAccount::read`] returns.
    Message(Message),
    /// Something has happened in a room of the account, or the account is invited to one. Each replica tells it.
    RoomNews(RoomNews),
    /// Unread messages cannot be fetched.
    FetchRejected(Rejection),
    /// A replica learned of earlier requests, and the answer to a command is another one now.
    Changed { sequence: u64, uid: Uid, change: Change, after: Answer },
    /// A replica did not take a command.
    Refused { reason: Refusal },
}

/// One replica's answer to a command.
#[derive(Debug)]
pub struct CommandAnswer {
    pub link: usize,
    pub sequence: u64,
    pub uid: Uid,
    pub answer: Answer,
    pub metadata: AnswerMetadata,
    /// How it compares with the answers that came before it.
    pub kind: AnswerKind,
}

/// An account in use, or nobody.
pub struct ActiveAccount {
    /// `None` for nobody, who may create accounts.
    credentials: Option<Rc<Credentials>>,
    /// Whether replicas push the account's messages, which are then read.
    receives: bool,
    session: Session,
    queries: OpenQueries,
    /// Nobody has none.
    inbox: Option<Inbox>,
    /// The query that fetches a page for the inbox; at most one does.
    page: Option<u64>,
    /// The ranges that are being read, by the sequence numbers of the commands; at most [`READING_MAX`].
    reading: BTreeMap<u64, (Conversation, ReadRange)>,
    /// Before this time, no page is fetched.
    fetch_at: Option<Timestamp>,
    /// How long to wait if the next range is rejected as well because its conversation has changed.
    refetch_after: Duration,
    /// The links on which this login is accepted. What is pushed on others was for the account before.
    logged_in: LinkSet,
    /// The last requests that room news were about, at most [`NEWS_MAX`]: each replica tells of them.
    news: VecDeque<Uid>,
    /// When a command was last issued.
    issued_at: Timestamp,
    /// Makes the client ids of new sessions, which nobody may have used before.
    new_client: fn() -> ClientId,
}

impl ActiveAccount {
    /// Nobody, with no link in reach.
    pub fn nobody(new_client: fn() -> ClientId, delivery_bound: Duration) -> ActiveAccount {
        ActiveAccount {
            credentials: None,
            receives: false,
            session: Session::new(new_client(), None, delivery_bound),
            queries: OpenQueries::new(delivery_bound),
            inbox: None,
            page: None,
            reading: BTreeMap::new(),
            fetch_at: None,
            refetch_after: Duration::ZERO,
            logged_in: LinkSet::EMPTY,
            news: VecDeque::new(),
            issued_at: Timestamp::ZERO,
            new_client,
        }
    }

    /// An account, or nobody, that takes this one's place on the same links.
    pub fn successor(&self, credentials: Option<Rc<Credentials>>, receives: bool) -> ActiveAccount {
        let mut inbox = credentials.as_ref().map(|credentials| Inbox::new(credentials.account.clone()));
        if let (true, Some(inbox)) = (receives, &mut inbox) {
            // Nothing was pushed before the login.
            inbox.begin();
        }
        let actor = credentials.as_ref().map(|credentials| credentials.actor());
        ActiveAccount {
            credentials,
            receives,
            session: self.session.successor_of_actor((self.new_client)(), actor),
            queries: self.queries.successor(),
            inbox,
            page: None,
            reading: BTreeMap::new(),
            fetch_at: None,
            refetch_after: Duration::ZERO,
            logged_in: LinkSet::EMPTY,
            news: VecDeque::new(),
            issued_at: Timestamp::ZERO,
            new_client: self.new_client,
        }
    }

    /// Uses a session of this client id, so that a program which starts again repeats its commands under the same numbers. Nothing
    /// may have been issued yet.
    pub fn use_session(&mut self, client: ClientId) {
        self.session = self.session.successor(client);
    }

    /// Takes the place of another account, after that one had taken this one's. Nothing but a page may be in flight here.
    pub fn resume_after(&mut self, other: &ActiveAccount) {
        if let Some(number) = self.page.take() {
            self.queries.close(number);
        }
        self.logged_in = LinkSet::EMPTY;
        self.session.resume_after(&other.session);
        self.queries.resume_after(&other.queries);
        // Messages that arrived between the two logins were not pushed.
        self.begin_fetch();
    }

    pub fn credentials(&self) -> Option<Rc<Credentials>> {
        self.credentials.clone()
    }

    /// The account's name; `None` for nobody.
    pub fn name(&self) -> Option<&AccountName> {
        self.credentials.as_ref().map(|credentials| &credentials.account)
    }

    /// Whether replicas shall push the account's messages.
    pub fn receives(&self) -> bool {
        self.receives
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Whether every command is answered, and everything that was handed out is read.
    pub fn is_quiet(&self) -> bool {
        self.session.is_idle() && !self.inbox.as_ref().is_some_and(Inbox::has_unread)
    }

    /// Whether unread messages are being fetched.
    pub fn is_fetching(&self) -> bool {
        self.inbox.as_ref().is_some_and(Inbox::is_fetching)
    }

    /// Whether messages are on their way to be read.
    pub fn is_reading(&self) -> bool {
        !self.reading.is_empty()
    }

    /// Whether a message that was handled is not known to be read.
    pub fn has_handled(&self) -> bool {
        self.inbox.as_ref().is_some_and(Inbox::has_handled)
    }

    /// Whether another query may be asked.
    pub fn can_ask(&self) -> bool {
        self.queries.can_ask()
    }

    /// Shows the messages of these conversations from here on, and fetches what is unread there.
    pub fn set_scope(&mut self, scope: Scope) {
        self.inbox.iter_mut().for_each(|inbox| inbox.set_scope(scope.clone()));
        self.begin_fetch();
    }

    /// Leaves messages unread until [`ActiveAccount::on_handled`] is called for them.
    pub fn read_by_hand(&mut self) {
        self.inbox.iter_mut().for_each(Inbox::read_by_hand);
    }

    /// A message was handled, so that it may be read.
    pub fn on_handled(&mut self, uid: Uid) {
        self.inbox.iter_mut().for_each(|inbox| inbox.on_handled(uid));
    }

    /// The conversations that are neither shown nor muted, and about how many messages are unread in each.
    pub fn elsewhere(&self) -> impl Iterator<Item = (&Conversation, u64)> {
        self.inbox.iter().flat_map(Inbox::elsewhere)
    }

    /// Since when no replica in reach can take the commands in flight, if that is so: they will get no answer.
    pub fn stranded_since(&self) -> Option<Timestamp> {
        self.session.is_stranded().then(|| self.session.progress().max(self.issued_at))
    }

    /// Sets how far the replicas' clocks are ahead of ours, in nanoseconds.
    pub fn set_clock_offset(&mut self, offset: i64) {
        self.session.set_clock_offset(offset);
    }

    /// Issues a command, for all links. [`Session::can_issue`] must hold. Returns its sequence number, and the frame.
    pub fn issue(&mut self, now: Timestamp, command: Command) -> (u64, ToReplica) {
        if self.needs_session(now) {
            self.session = self.session.successor((self.new_client)());
        }
        self.issued_at = now;
        let comes_back = matches!(command, Command::Send { .. } | Command::Room { .. });
        let outgoing = self.session.issue(now, command);
        if let (true, Some(inbox), Some(digest)) = (comes_back, &mut self.inbox, self.session.digest(outgoing.sequence))
        {
            inbox.on_sent(digest);
        }
        (outgoing.sequence, request(self.session.client(), outgoing))
    }

    /// Asks a query, on all links. [`ActiveAccount::can_ask`] must hold. Returns the query's number, and the frame.
    pub fn ask(&mut self, now: Timestamp, query: Query) -> (u64, ToReplica) {
        let timestamp = self.session.stamp(now);
        let outgoing = self.queries.ask(now, timestamp, query);
        (outgoing.id, query_frame(outgoing))
    }

    /// Closes a query: no more answers to it are waited for.
    pub fn close(&mut self, number: u64) {
        self.queries.close(number);
    }

    /// Asks for the next page of the inbox, if there is one to be fetched and none is on its way.
    pub fn fetch(&mut self, now: Timestamp) -> Option<ToReplica> {
        if self.page.is_some() || !self.queries.can_ask() || self.fetch_at.is_some_and(|at| now < at) {
            return None;
        }
        let query = self.inbox.as_ref()?.query()?;
        let (number, frame) = self.ask(now, query);
        self.page = Some(number);
        Some(frame)
    }

    /// Reads the messages that were handed out: of each conversation one range at a time, as long as it can be.
    pub fn read(&mut self, now: Timestamp) -> Vec<ToReplica> {
        let mut frames = Vec::new();
        while self.reading.len() < READING_MAX
            && self.session.can_issue()
            && let Some((conversation, range)) = self.inbox.as_mut().and_then(Inbox::next_range)
        {
            let (sequence, frame) = self.issue(now, Command::Read { conversation: conversation.clone(), range });
            self.reading.insert(sequence, (conversation, range));
            frames.push(frame);
        }
        frames
    }

    /// A link became ready, and is logged in. Returns what has to be sent on it.
    pub fn on_link_ready(&mut self, link: usize) -> Vec<ToReplica> {
        let client = self.session.client();
        let requests = self.session.on_link_ready(link).into_iter().map(|outgoing| request(client, outgoing));
        let queries = self.queries.on_link_ready(link).into_iter().map(query_frame);
        requests.chain(queries).collect()
    }

    /// A link is no longer ready.
    pub fn on_link_lost(&mut self, now: Timestamp, link: usize) {
        self.logged_in.remove(link);
        self.session.on_link_lost(now, link);
        self.queries.on_link_lost(now, link);
    }

    /// Fetches what is unread once more. To be called when what is shown has changed, and when a replica has come into reach: what it
    /// had applied before was not pushed, and another one, which was to push it, may be out of reach before it has.
    pub fn fetch_anew(&mut self) {
        self.begin_fetch();
    }

    /// Takes a frame of a replica, and appends the events that follow from it.
    pub fn on_message(&mut self, now: Timestamp, link: usize, message: ToClient, events: &mut Vec<AccountEvent>) {
        match message {
            ToClient::Answer { client, sequence, uid, answer, metadata } if client == self.session.client() => {
                let kind = self.session.on_answer(now, link, sequence, uid, &answer);
                if kind == AnswerKind::Foreign {
                    // Nobody here has given the command that it is for.
                    return;
                }
                if kind == AnswerKind::Answered {
                    self.on_range_answered(now, sequence, &answer);
                }
                events.push(AccountEvent::Answer(CommandAnswer { link, sequence, uid, answer, metadata, kind }));
            }
            ToClient::QueryAnswer { id, answer, metadata } => {
                let Some(number) = self.queries.on_answer(id) else { return };
                match self.page == Some(number) {
                    true => self.on_page(now, answer, events),
                    false => events.push(AccountEvent::QueryAnswer { link, number, answer, metadata }),
                }
            }
            ToClient::Refused { request: RequestId::Command { client, sequence }, timestamp, reason, .. }
                if client == self.session.client() =>
            {
                self.session.on_refused(now, link, sequence, timestamp, reason.wait());
                events.push(AccountEvent::Refused { reason });
            }
            ToClient::Refused { request: RequestId::Query { id }, .. } => self.queries.on_refused(now, link, id),
            ToClient::LoggedIn { account } if Some(&account) == self.name() => self.logged_in.insert(link),
            ToClient::Delivery { message } if self.logged_in.contains(link) => self.on_delivery(now, message, events),
            ToClient::Changed { client, sequence, uid, answer: after } if client == self.session.client() => {
                let change = self.session.on_changed(now, sequence, uid, &after);
                if let (Some(Change { command: Command::Read { .. }, .. }), true) = (&change, after != Answer::Done) {
                    self.begin_fetch();
                }
                events.extend(change.map(|change| AccountEvent::Changed { sequence, uid, change, after }));
            }
            ToClient::InboxChanged => self.begin_fetch(),
            ToClient::RoomNews { news } if self.logged_in.contains(link) => self.on_room_news(news, events),
            // Answers in a session that is over, and frames that are not about an account.
            _ => {}
        }
    }

    /// Takes a page of what the inbox has to fetch, and hands out its messages, except those that it has handed out before.
    pub fn on_page(&mut self, now: Timestamp, answer: QueryAnswer, events: &mut Vec<AccountEvent>) {
        if let Some(number) = self.page.take() {
            self.queries.close(number);
        }
        let Some(inbox) = &mut self.inbox else { return };
        let news = match answer {
            QueryAnswer::Inbox { entries, invitations, next } => {
                let news = inbox.on_list(entries, next);
                invitations.into_iter().for_each(|invitation| self.on_invitation(invitation, events));
                news
            }
            QueryAnswer::Messages { messages, later, .. } => inbox.on_page(messages, later),
            QueryAnswer::Rejected { reason } if matches!(inbox.query(), Some(Query::Inbox { .. })) => {
                events.push(AccountEvent::FetchRejected(reason));
                inbox.on_list(Vec::new(), None)
            }
            QueryAnswer::Accounts { names, .. } => inbox.on_blocked(names),
            _ if inbox.query() == Some(Query::Blocked) => inbox.on_blocked(Vec::new()),
            _ => inbox.on_page_rejected(),
        };
        for message in news {
            self.session.observe(now, message.uid.timestamp);
            events.push(AccountEvent::Message(message));
        }
    }

    /// The requests that have to be sent again now, on all links.
    pub fn due(&mut self, now: Timestamp) -> Vec<ToReplica> {
        self.fetch_at = self.fetch_at.filter(|at| *at > now);
        let client = self.session.client();
        let repeated = self.session.due(now);
        // Queries behind a command that is repeated shall still see its effect.
        let queries = if repeated.is_empty() { self.queries.due(now) } else { self.queries.unanswered() };

        let mut frames: Vec<ToReplica> = repeated.into_iter().map(|outgoing| request(client, outgoing)).collect();
        for number in queries {
            let timestamp = self.session.stamp(now);
            frames.extend(self.queries.ask_again(now, timestamp, number).map(query_frame));
        }
        frames
    }

    /// When [`ActiveAccount::due`] will have something to send.
    pub fn deadline(&self) -> Option<Timestamp> {
        [self.session.deadline(), self.queries.deadline(), self.fetch_at].into_iter().flatten().min()
    }

    /// Gives up all commands in flight and goes on in a new session. What was being read is read again there; of other commands
    /// it is not known whether they took effect.
    pub fn abandon_session(&mut self) {
        self.reading.clear();
        self.inbox.iter_mut().for_each(Inbox::forget_reading);
        self.session = self.session.successor((self.new_client)());
    }

    /// Whether a new session has to take the place of this one: replicas may have forgotten it, or one of them cannot follow it.
    /// The commands of both are in order, by their timestamps.
    fn needs_session(&self, now: Timestamp) -> bool {
        let is_forgotten = self.session.next_sequence() > 1 && now.since(self.issued_at) > SESSION_IDLE_MAX;
        self.session.is_idle() && (is_forgotten || self.session.has_gap())
    }

    /// Begins to fetch everything that is unread, if messages are wanted.
    fn begin_fetch(&mut self) {
        self.inbox.iter_mut().filter(|_| self.receives).for_each(Inbox::begin);
    }

    /// A command is answered: if it reads a range, that is read, or not.
    fn on_range_answered(&mut self, now: Timestamp, sequence: u64, answer: &Answer) {
        let Some((conversation, range)) = self.reading.remove(&sequence) else { return };
        let Some(inbox) = &mut self.inbox else { return };
        match answer {
            Answer::Done => {
                inbox.on_read(&conversation, &range);
                self.refetch_after = Duration::ZERO;
            }
            Answer::Rejected { reason } => {
                if inbox.on_rejected(&conversation, reason) {
                    self.fetch_at = Some(now.after(self.refetch_after)).filter(|at| *at > now);
                    self.refetch_after = (self.refetch_after * 2).clamp(REFETCH_MIN, REFETCH_MAX);
                }
            }
        }
    }

    fn on_delivery(&mut self, now: Timestamp, message: Message, events: &mut Vec<AccountEvent>) {
        if !self.receives {
            return;
        }
        self.session.observe(now, message.uid.timestamp);
        let news = self.inbox.as_mut().and_then(|inbox| inbox.on_push(message));
        events.extend(news.map(AccountEvent::Message));
    }

    /// An invitation is in the list of conversations: it has come while nobody was connected, or has been told already.
    fn on_invitation(&mut self, RoomInvitation { room, by, uid }: RoomInvitation, events: &mut Vec<AccountEvent>) {
        if let Some(name) = self.name().cloned() {
            self.on_room_news(RoomNews { room, uid, by, action: RoomAction::Invite { name } }, events);
        }
    }

    fn on_room_news(&mut self, news: RoomNews, events: &mut Vec<AccountEvent>) {
        let is_wanted = self.inbox.as_ref().is_some_and(|inbox| inbox.is_wanted(&news));
        if !self.receives || !is_wanted || self.news.contains(&news.uid) {
            return;
        }
        if self.news.len() == NEWS_MAX {
            self.news.pop_front();
        }
        self.news.push_back(news.uid);
        events.push(AccountEvent::RoomNews(news));
    }
}

/// The first page of an account's inbox.
pub fn inbox() -> Query {
    Query::Inbox { all: false, after: None, limit: PAGE_MAX }
}

fn request(client: ClientId, outgoing: Outgoing) -> ToReplica {
    let Outgoing { sequence, timestamp, command } = outgoing;
    ToReplica::Request { client, sequence, timestamp, command }
}

fn query_frame(outgoing: OutgoingQuery) -> ToReplica {
    let OutgoingQuery { id, timestamp, query } = outgoing;
    ToReplica::Query { id, timestamp, query }
}

#[cfg(test)]
#[path = "account_tests.rs"]
mod tests;
