//! An account in use: the requests that it makes, and the messages that it receives.
//!
//! This joins the parts of one login: a [`Session`] of commands, [`OpenQueries`] and an [`Inbox`]. Unread messages are fetched
//! page by page, and messages that were handed out are acknowledged in batches. A session that replicas may have forgotten, or
//! that one of them cannot follow, is replaced by a new one.
//!
//! Its owner calls it when links come and go and with each frame, and sends the frames that it returns. It reads no clock and
//! knows no socket. One process may use many accounts, each with links of its own, since a connection speaks for one account.
//!
//! Left out: which answers somebody waits for. The driver keeps the sequence numbers and query numbers that it was given.

use crate::greeting::Credentials;
use crate::inbox::Inbox;
use crate::queries::{OpenQueries, OutgoingQuery};
use crate::session::{AnswerKind, Change, Outgoing, Session};
use stablechat_protocol::answer::{Answer, AnswerMetadata, Message, QueryAnswer, Refusal, Rejection};
use stablechat_protocol::command::{Command, PAGE_MAX, Query, Recipient};
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::RequestId;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::rc::Rc;
use std::time::Duration;

/// Replicas forget sessions that are unused for 24 h. A session that was idle for half of it is not used again.
const SESSION_IDLE_MAX: Duration = Duration::from_secs(12 * 3600);

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
    /// A message that was not handed out before. It will be acknowledged: show it before you send what
    /// [`ActiveAccount::acknowledge`] returns.
    Message(Message),
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
    /// Whether replicas push the account's messages, which are then acknowledged.
    receives: bool,
    session: Session,
    queries: OpenQueries,
    inbox: Inbox,
    /// The query that fetches a page for the inbox; at most one does.
    page: Option<u64>,
    /// The acknowledgement in flight, by its sequence number, with the messages that it acknowledges; at most one is.
    acknowledging: Option<(u64, Vec<Uid>)>,
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
            inbox: Inbox::default(),
            page: None,
            acknowledging: None,
            issued_at: Timestamp::ZERO,
            new_client,
        }
    }

    /// An account, or nobody, that takes this one's place on the same links.
    pub fn successor(&self, credentials: Option<Rc<Credentials>>, receives: bool) -> ActiveAccount {
        let mut inbox = Inbox::default();
        if receives {
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
            acknowledging: None,
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
        self.session.resume_after(&other.session);
        self.queries.resume_after(&other.queries);
        if self.receives {
            // Messages that arrived between the two logins were not pushed.
            self.inbox.begin();
        }
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

    /// Whether every command is answered, and everything that was handed out is acknowledged.
    pub fn is_quiet(&self) -> bool {
        self.session.is_idle() && !self.inbox.has_acknowledgements()
    }

    /// Whether unread messages are being fetched.
    pub fn is_fetching(&self) -> bool {
        self.inbox.is_fetching()
    }

    /// Whether an acknowledgement is in flight.
    pub fn is_acknowledging(&self) -> bool {
        self.acknowledging.is_some()
    }

    /// Whether another query may be asked.
    pub fn can_ask(&self) -> bool {
        self.queries.can_ask()
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
        let outgoing = self.session.issue(now, command);
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

    /// Asks for the next page of unread messages, if there is one to be fetched and none is on its way.
    pub fn fetch(&mut self, now: Timestamp) -> Option<ToReplica> {
        if !self.inbox.is_fetching() || self.page.is_some() || !self.queries.can_ask() {
            return None;
        }
        let (number, frame) = self.ask(now, unread(self.inbox.cursor()));
        self.page = Some(number);
        Some(frame)
    }

    /// Acknowledges the messages that were handed out: one command at a time, with all messages that have gathered.
    pub fn acknowledge(&mut self, now: Timestamp) -> Option<ToReplica> {
        if self.acknowledging.is_some() || !self.inbox.has_acknowledgements() || !self.session.can_issue() {
            return None;
        }
        let uids = self.inbox.take_acknowledgements();
        let (sequence, frame) = self.issue(now, Command::Ack { uids: uids.clone() });
        self.acknowledging = Some((sequence, uids));
        Some(frame)
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
        self.session.on_link_lost(now, link);
        self.queries.on_link_lost(now, link);
    }

    /// A replica is in reach again after none was. Fetches the messages that arrived meanwhile, since they were not pushed.
    pub fn on_reach_regained(&mut self) {
        if self.receives {
            self.inbox.begin();
        }
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
                    self.acknowledging.take_if(|(of, _)| *of == sequence);
                }
                events.push(AccountEvent::Answer(CommandAnswer { link, sequence, uid, answer, metadata, kind }));
            }
            ToClient::QueryAnswer { id, answer, metadata } => {
                let Some(number) = self.queries.on_answer(id) else { return };
                match self.page == Some(number) {
                    true => self.on_page(now, number, answer, events),
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
            ToClient::Delivery { message } => self.on_delivery(now, message, events),
            ToClient::Changed { client, sequence, uid, answer: after } if client == self.session.client() => {
                let change = self.session.on_changed(now, sequence, uid, &after);
                events.extend(change.map(|change| AccountEvent::Changed { sequence, uid, change, after }));
            }
            // Answers in a session that is over, and frames that are not about an account.
            _ => {}
        }
    }

    /// Takes a page of unread messages, and hands out those that were not handed out before.
    pub fn on_unread(&mut self, now: Timestamp, page: Vec<Message>, more: bool, events: &mut Vec<AccountEvent>) {
        for message in self.inbox.on_page(page, more) {
            self.session.observe(now, message.uid.timestamp);
            self.hand_out(message, events);
        }
    }

    /// The requests that have to be sent again now, on all links.
    pub fn due(&mut self, now: Timestamp) -> Vec<ToReplica> {
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
        self.session.deadline().into_iter().chain(self.queries.deadline()).min()
    }

    /// Gives up all commands in flight and goes on in a new session. Acknowledgements are issued again there; of other commands
    /// it is not known whether they took effect.
    pub fn abandon_session(&mut self) {
        if let Some((_, uids)) = self.acknowledging.take() {
            uids.into_iter().for_each(|uid| self.inbox.on_shown(uid));
        }
        self.session = self.session.successor((self.new_client)());
    }

    /// Whether a new session has to take the place of this one: replicas may have forgotten it, or one of them cannot follow it.
    /// The commands of both are in order, by their timestamps.
    fn needs_session(&self, now: Timestamp) -> bool {
        let is_forgotten = self.session.next_sequence() > 1 && now.since(self.issued_at) > SESSION_IDLE_MAX;
        self.session.is_idle() && (is_forgotten || self.session.has_gap())
    }

    fn on_delivery(&mut self, now: Timestamp, message: Message, events: &mut Vec<AccountEvent>) {
        let is_ours = self.name().is_some_and(|name| message.to == recipient(name));
        if !self.receives || !is_ours {
            // It was on its way to the account that this one took the place of, for which it stays unread.
            return;
        }
        self.session.observe(now, message.uid.timestamp);
        if let Some(message) = self.inbox.on_push(message) {
            self.hand_out(message, events);
        }
    }

    /// Takes the page that [`ActiveAccount::fetch`] asked for.
    fn on_page(&mut self, now: Timestamp, number: u64, answer: QueryAnswer, events: &mut Vec<AccountEvent>) {
        self.queries.close(number);
        self.page = None;
        match answer {
            QueryAnswer::Messages { messages, more } => self.on_unread(now, messages, more, events),
            QueryAnswer::Rejected { reason } => {
                self.on_unread(now, Vec::new(), false, events);
                events.push(AccountEvent::FetchRejected(reason));
            }
            QueryAnswer::Accounts { .. } | QueryAnswer::Settings { .. } => {
                self.on_unread(now, Vec::new(), false, events)
            }
        }
    }

    fn hand_out(&mut self, message: Message, events: &mut Vec<AccountEvent>) {
        self.inbox.on_shown(message.uid);
        events.push(AccountEvent::Message(message));
    }
}

/// An account as the recipient of a message.
pub fn recipient(name: &AccountName) -> Recipient {
    Recipient::Account { name: name.clone() }
}

/// A page of unread messages.
pub fn unread(after: Option<Uid>) -> Query {
    Query::Unread { after, limit: PAGE_MAX }
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
