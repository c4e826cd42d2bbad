//! The chat that a fake replica serves: accounts, sessions and messages, by the rules that a client can see.

use stablechat_protocol::answer::{Answer, QueryAnswer, Rejection};
use stablechat_protocol::command::{Command, Query};
use stablechat_protocol::conversation::{Conversation, InboxEntry, Message, Page, ReadRange};
use stablechat_protocol::login::PublicKey;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::{Actor, Request};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeMap, BTreeSet};

/// Accounts, sessions and messages.
#[derive(Default)]
pub struct Chat {
    accounts: BTreeMap<AccountName, Account>,
    /// The requests that were executed in each session, by sequence number.
    sessions: BTreeMap<ClientId, BTreeMap<u64, Executed>>,
    /// All messages, in order.
    timeline: Vec<Message>,
}

/// A request that was executed, and its answer.
struct Executed {
    uid: Uid,
    command: Command,
    answer: Answer,
}

struct Account {
    key: PublicKey,
    /// What was read. Unlike a real replica, this one applies requests in the order in which they come, so that a range may be read
    /// before a message in it has come; and it believes what clients say that they were shown.
    read: Vec<(Conversation, ReadRange)>,
}

impl Chat {
    /// The sessions in which anything was applied.
    pub fn sessions(&self) -> impl Iterator<Item = ClientId> {
        self.sessions.keys().copied()
    }

    /// The requests that were executed: their sessions, numbers and uids.
    pub fn requests(&self) -> impl Iterator<Item = (ClientId, u64, Uid)> {
        let of_session = |(client, session): (&ClientId, &BTreeMap<u64, Executed>)| {
            let client = *client;
            let requests = session.iter().map(move |(sequence, executed)| (client, *sequence, executed.uid));
            requests.collect::<Vec<_>>()
        };
        self.sessions.iter().flat_map(of_session)
    }

    /// All messages, in order.
    pub fn messages(&self) -> &[Message] {
        &self.timeline
    }

    /// The key of an account, if it exists.
    pub fn key(&self, name: &AccountName) -> Option<PublicKey> {
        self.accounts.get(name).map(|account| account.key)
    }

    /// Makes an account exist, unless it does.
    pub fn create(&mut self, name: &AccountName, key: PublicKey) {
        self.accounts.entry(name.clone()).or_insert_with(|| Account { key, read: Vec::new() });
    }

    /// How many messages are unread.
    pub fn unread(&self) -> usize {
        let accounts = self.accounts.keys();
        accounts.map(|name| self.timeline.iter().filter(|message| self.is_unread(name, message)).count()).sum()
    }

    /// Whether a message is one that an account has got and not read.
    fn is_unread(&self, name: &AccountName, message: &Message) -> bool {
        let conversation = message.conversation(name);
        let mut read = self.accounts[name].read.iter().filter(|(of, _)| *of == conversation);
        message.to == Conversation::with(name)
            && !read.any(|(_, range)| range.after < message.uid && message.uid <= range.up_to)
    }

    /// The messages of a conversation of an account.
    fn messages_of(&self, name: &AccountName, conversation: &Conversation) -> impl Iterator<Item = &Message> {
        let takes_part = |message: &Message| message.from == *name || message.to == Conversation::with(name);
        self.timeline.iter().filter(move |message| takes_part(message) && message.conversation(name) == *conversation)
    }

    /// Applies a request at its place in its session. Returns the message that it sends, if it sends one. Each send is rejected with
    /// `rejects_sends`, if that is given.
    pub fn apply(
        &mut self,
        uid: Uid,
        request: Request,
        rejects_sends: Option<&Rejection>,
    ) -> (Answer, Option<Message>) {
        let (client, sequence) = (request.client, request.sequence);
        let session = self.sessions.entry(client).or_default();
        let expected = session.len() as u64 + 1;
        if let Some(executed) = session.get(&sequence) {
            let answer = match executed.command == request.command {
                true => executed.answer.clone(),
                false => Answer::Rejected { reason: Rejection::DifferentCommand },
            };
            return (answer, None);
        }
        if sequence != expected {
            return (Answer::Rejected { reason: Rejection::OutOfSequence { expected } }, None);
        }
        let command = request.command.clone();
        let (answer, message) = match self.perform(uid, request, rejects_sends) {
            Ok(message) => (Answer::Done, message),
            Err(reason) => (Answer::Rejected { reason }, None),
        };
        let executed = Executed { uid, command, answer: answer.clone() };
        self.sessions.entry(client).or_default().insert(sequence, executed);
        (answer, message)
    }

    fn perform(
        &mut self,
        uid: Uid,
        request: Request,
        rejects_sends: Option<&Rejection>,
    ) -> Result<Option<Message>, Rejection> {
        if let Command::Create { name, key, .. } = request.command {
            if self.accounts.contains_key(&name) {
                return Err(Rejection::AlreadyExists { name });
            }
            self.accounts.insert(name, Account { key, read: Vec::new() });
            return Ok(None);
        }
        if let (Command::SetKey { key }, Some(actor)) = (&request.command, &request.actor)
            && self.accounts.get(&actor.account).is_some_and(|account| account.key == *key)
        {
            return Ok(None);
        }
        let from = self.owner(request.actor.as_ref())?;
        match request.command {
            Command::Create { .. }
            | Command::Operate { .. }
            | Command::Room { .. }
            | Command::Block { .. }
            | Command::Mute { .. } => Ok(None),
            Command::SetKey { key } => {
                self.accounts.get_mut(&from).expect("it has an owner").key = key;
                Ok(None)
            }
            Command::Delete => {
                self.accounts.remove(&from);
                Ok(None)
            }
            Command::Read { conversation, range } => {
                self.accounts.get_mut(&from).expect("it has an owner").read.push((conversation, range));
                Ok(None)
            }
            Command::Send { to, text } => {
                if let Some(reason) = rejects_sends {
                    return Err(reason.clone());
                }
                let name = AccountName::parse(to.to_string()).expect("a name");
                if !self.accounts.contains_key(&name) {
                    return Err(Rejection::NoSuchUser { name });
                }
                let position = self.messages_of(&from, &to).count() as u64 + 1;
                let message = Message { uid, position, from, to, text };
                self.timeline.push(message.clone());
                Ok(Some(message))
            }
        }
    }

    fn owner(&self, actor: Option<&Actor>) -> Result<AccountName, Rejection> {
        let Actor { account: name, key } = actor.cloned().ok_or(Rejection::LoginRequired)?;
        match self.accounts.get(&name) {
            None => Err(Rejection::NoSuchUser { name }),
            Some(account) if account.key != key => Err(Rejection::NotOwner { name }),
            Some(_) => Ok(name),
        }
    }

    /// Answers a query, with at most `page` entries if that is given.
    pub fn read(&self, actor: Option<&Actor>, query: Query, page: Option<usize>) -> Result<QueryAnswer, Rejection> {
        let most = |limit: u16| usize::from(limit).min(page.unwrap_or(usize::MAX));
        match query {
            Query::Settings => Err(Rejection::NotAnOperator),
            Query::List { pattern, after, limit } => {
                self.owner(actor)?;
                let later = |name: &&AccountName| after.as_ref().is_none_or(|after| *name > after);
                let names = self.accounts.keys().filter(later).filter(|name| pattern.matches(name.as_str()));
                let mut names: Vec<AccountName> = names.cloned().collect();
                let more = names.len() > most(limit);
                names.truncate(most(limit));
                Ok(QueryAnswer::Accounts { next: names.last().filter(|_| more).cloned(), names })
            }
            Query::Inbox { .. } => {
                let name = self.owner(actor)?;
                let unread = self.timeline.iter().filter(|message| self.is_unread(&name, message));
                let conversations: BTreeSet<Conversation> = unread.map(|message| message.conversation(&name)).collect();
                let entry = |conversation| InboxEntry {
                    conversation,
                    unread: 1,
                    last: Uid::MIN,
                    is_muted: false,
                    is_request: false,
                };
                let entries = conversations.into_iter().map(entry).collect();
                Ok(QueryAnswer::Inbox { entries, invitations: Vec::new(), next: None })
            }
            Query::History { conversation, page, limit } => {
                let name = self.owner(actor)?;
                let all = self.messages_of(&name, &conversation);
                let wanted = |message: &&Message| match page {
                    Page::Unread { after } => message.uid > after && self.is_unread(&name, message),
                    Page::Before { uid } => message.uid < uid,
                    _ => true,
                };
                let mut messages: Vec<Message> = all.filter(wanted).cloned().collect();
                let more = messages.len() > most(limit);
                let (mut earlier, mut later) = (more, false);
                match page {
                    Page::Unread { .. } => {
                        messages.truncate(most(limit));
                        (earlier, later) = (false, more);
                    }
                    _ => drop(messages.drain(..messages.len().saturating_sub(most(limit)))),
                }
                Ok(QueryAnswer::Messages { messages, earlier, later })
            }
            Query::Rooms { .. } => Ok(QueryAnswer::Rooms { rooms: Vec::new(), next: None }),
            Query::Members { .. } => Ok(QueryAnswer::Members { members: Vec::new(), next: None }),
            Query::Blocked => Ok(QueryAnswer::Accounts { names: Vec::new(), next: None }),
        }
    }
}
