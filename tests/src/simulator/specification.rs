//! A second implementation of the service, as simple as possible: a chat in memory that executes one request after the other.
//!
//! It shares no code with the store and has none of its concerns: no disk, no undo, no pages cut by bytes, no housekeeping.
//! It leaves out what no run reaches: sessions that expire after a day, passwords. Only the id of the session in which a replica
//! executes an orphan is computed by the store's code.

use super::plan::first_code;
use stablechat_protocol::answer::{Answer, Message, QueryAnswer, Rejection};
use stablechat_protocol::command::{ACK_MAX, Command, MAILBOX_MAX, PAGE_MAX, Query, Recipient};
use stablechat_protocol::digest::Digest;
use stablechat_protocol::login::PublicKey;
use stablechat_protocol::name::{AccountName, Pattern};
use stablechat_protocol::operator::{
    ACCOUNTS_DEFAULT, InvitationCode, OpenInvitation, Operation, Quota, Registration, Settings,
};
use stablechat_protocol::request::{Actor, QueryRequest, Request};
use stablechat_protocol::session::{ClientId, WINDOW};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use stablechat_server::store::in_own_session;
use std::collections::BTreeMap;

/// A chat service in which anybody may create an account until operators change that.
pub struct Specification {
    accounts: BTreeMap<AccountName, Account>,
    registration: Registration,
    /// How many accounts there may be, and how many unread messages of each.
    accounts_max: u64,
    unread_max: u64,
    /// The open invitations, each with the time when it was opened; none for the one that was open in the beginning.
    invitations: BTreeMap<Digest, Option<Timestamp>>,
    /// All messages that were ever sent, oldest first.
    messages: Vec<Sent>,
    sessions: BTreeMap<ClientId, Session>,
}

/// An account.
struct Account {
    /// The request that made it: another account of the same name, before or after it, was made by another.
    made_by: Uid,
    key: PublicKey,
    /// The key that it had before, if its owner has changed it.
    earlier_key: Option<PublicKey>,
    /// The messages that it has not acknowledged, each with the request that made its sender's account.
    unread: BTreeMap<Uid, (Uid, Message)>,
}

/// A message, and between which accounts.
struct Sent {
    /// The request that made the sender's account.
    from: Uid,
    /// The request that made the recipient's account.
    to: Uid,
    message: Message,
}

/// A session.
struct Session {
    actor: Option<Actor>,
    /// Its commands and their answers, from the first on.
    answers: Vec<(Command, Answer)>,
}

/// A result, or the reason why there is none.
type Outcome<T> = Result<T, Rejection>;

impl Default for Specification {
    fn default() -> Specification {
        Specification {
            accounts: BTreeMap::new(),
            registration: Registration::Open,
            accounts_max: ACCOUNTS_DEFAULT,
            unread_max: MAILBOX_MAX,
            invitations: BTreeMap::from([(first_code().digest(), None)]),
            messages: Vec::new(),
            sessions: BTreeMap::new(),
        }
    }
}

impl Specification {
    /// Executes a request at its place in its session, and answers it.
    pub fn execute(&mut self, uid: Uid, request: &Request) -> Answer {
        let Request { client, sequence, actor, .. } = request;
        let answers = match self.sessions.get(client) {
            Some(session) if session.actor != *actor => return rejected(Rejection::NotYourSession),
            Some(session) => &session.answers[..],
            None => &[],
        };
        let done = answers.len() as u64;
        if *sequence == 0 || *sequence > done + 1 {
            return rejected(Rejection::OutOfSequence { expected: done + 1 });
        }
        if let Some((command, answer)) = answers.get(*sequence as usize - 1) {
            return if sequence + WINDOW <= done {
                rejected(Rejection::AnswerForgotten)
            } else if *command != request.command {
                rejected(Rejection::DifferentCommand)
            } else {
                answer.clone()
            };
        }
        let in_own = self.sessions.get(&in_own_session(request).client).and_then(|session| session.answers.first());
        let answer = match in_own {
            Some((_, answer)) => answer.clone(),
            None => match self.perform(uid, actor.as_ref(), &request.command) {
                Ok(()) => Answer::Done,
                Err(reason) => rejected(reason),
            },
        };
        let session = Session { actor: actor.clone(), answers: Vec::new() };
        self.sessions.entry(*client).or_insert(session).answers.push((request.command.clone(), answer.clone()));
        answer
    }

    /// Executes a command.
    fn perform(&mut self, uid: Uid, actor: Option<&Actor>, command: &Command) -> Outcome<()> {
        match command {
            Command::Create { name, key, invitation } => self.create(uid, name, *key, invitation.as_ref()),
            Command::Delete => {
                let (name, _) = self.own(actor)?;
                self.accounts.remove(name);
                Ok(())
            }
            Command::SetKey { key } => self.set_key(actor, *key),
            Command::Operate { operation } => self.operate(uid, actor, operation),
            Command::Send { to, text } => {
                let (name, sender) = self.own(actor)?;
                let from = sender.made_by;
                let message = Message { uid, from: name.clone(), to: to.clone(), text: text.clone() };
                let Recipient::Account { name } = to;
                let recipient = self.accounts.get_mut(name).ok_or_else(|| no_such_user(name))?;
                let from_sender = recipient.unread.values().filter(|(sender, _)| *sender == from).count();
                if (recipient.unread.len() + from_sender) as u64 >= self.unread_max {
                    return Err(Rejection::MailboxFull { name: name.clone() });
                }
                recipient.unread.insert(uid, (from, message.clone()));
                self.messages.push(Sent { from, to: recipient.made_by, message });
                Ok(())
            }
            Command::Ack { uids } => {
                let (name, _) = self.own(actor)?;
                if uids.len() > ACK_MAX {
                    return Err(Rejection::TooMany);
                }
                let account = self.accounts.get_mut(name).expect("it was there a moment ago");
                account.unread.retain(|uid, _| !uids.contains(uid));
                Ok(())
            }
        }
    }

    /// Creates an account.
    fn create(
        &mut self,
        uid: Uid,
        name: &AccountName,
        key: PublicKey,
        invitation: Option<&InvitationCode>,
    ) -> Outcome<()> {
        let invitation = invitation.map(InvitationCode::digest);
        match (self.registration, invitation) {
            (Registration::Open, _) => {}
            (Registration::Closed, _) => return Err(Rejection::RegistrationClosed),
            (Registration::ByInvitation, None) => return Err(Rejection::InvitationNeeded),
            (Registration::ByInvitation, Some(code)) if !self.invitations.contains_key(&code) => {
                return Err(Rejection::NoSuchInvitation);
            }
            (Registration::ByInvitation, Some(_)) => {}
        }
        if self.accounts.len() as u64 >= self.accounts_max {
            return Err(Rejection::TooManyAccounts);
        }
        if self.accounts.contains_key(name) || name.as_str() == "operator" {
            return Err(Rejection::AlreadyExists { name: name.clone() });
        }
        if let (Registration::ByInvitation, Some(code)) = (self.registration, invitation) {
            self.invitations.remove(&code);
        }
        let account = Account { made_by: uid, key, earlier_key: None, unread: BTreeMap::new() };
        self.accounts.insert(name.clone(), account);
        Ok(())
    }

    /// Gives the actor's account another key, or repeats that.
    fn set_key(&mut self, actor: Option<&Actor>, key: PublicKey) -> Outcome<()> {
        let Actor { account: name, key: signer } = actor.ok_or(Rejection::LoginRequired)?;
        let not_owner = Rejection::NotOwner { name: name.clone() };
        let account = self.accounts.get_mut(name).ok_or(not_owner.clone())?;
        let is_repetition = account.key == key && account.earlier_key == Some(*signer);
        if account.key != *signer && !is_repetition {
            return Err(not_owner);
        }
        if account.key != key {
            (account.key, account.earlier_key) = (key, Some(*signer));
        }
        Ok(())
    }

    /// Executes an operator's command.
    fn operate(&mut self, uid: Uid, actor: Option<&Actor>, operation: &Operation) -> Outcome<()> {
        operator(actor)?;
        match operation {
            Operation::SetRegistration { registration } => self.registration = *registration,
            Operation::SetQuota { quota: Quota::Accounts, limit } => self.accounts_max = *limit,
            Operation::SetQuota { quota: Quota::Unread, limit } if *limit > MAILBOX_MAX => {
                return Err(Rejection::TooMany);
            }
            Operation::SetQuota { quota: Quota::Unread, limit } => self.unread_max = *limit,
            Operation::Invite { invitation } => {
                self.invitations.entry(*invitation).or_insert(Some(uid.timestamp));
            }
            Operation::Revoke { invitation } => {
                self.invitations.remove(invitation).ok_or(Rejection::NoSuchInvitation)?;
            }
            Operation::RemoveAccount { name } => {
                self.accounts.remove(name).ok_or_else(|| no_such_user(name))?;
            }
            Operation::ReplaceKey { name, key } => {
                let account = self.accounts.get_mut(name).ok_or_else(|| no_such_user(name))?;
                if account.key != *key {
                    (account.key, account.earlier_key) = (*key, None);
                }
            }
        }
        Ok(())
    }

    /// Answers a query from the present state.
    pub fn answer(&self, query: &QueryRequest) -> QueryAnswer {
        let QueryRequest { actor, query, .. } = query;
        let page = match query {
            Query::List { pattern, after, limit } => operator(actor.as_ref())
                .or_else(|_| self.own(actor.as_ref()).map(drop))
                .map(|()| self.list(pattern, after.as_ref(), page_size(*limit))),
            Query::Settings => operator(actor.as_ref()).map(|()| self.settings()),
            Query::Unread { after, limit } => self.unread(actor.as_ref(), *after, page_size(*limit)),
            Query::History { with, before, limit } => self.history(actor.as_ref(), with, *before, page_size(*limit)),
        };
        page.unwrap_or_else(|reason| QueryAnswer::Rejected { reason })
    }

    /// The names that match, and where to go on if there are names left that begin as they have to.
    fn list(&self, pattern: &Pattern, after: Option<&AccountName>, limit: usize) -> QueryAnswer {
        let is_ahead = |name: &&AccountName| after.is_none_or(|after| *name > after);
        let begins_well = |name: &&AccountName| name.as_str().starts_with(pattern.literal_prefix());
        let ahead: Vec<&AccountName> = self.accounts.keys().filter(is_ahead).filter(begins_well).collect();
        let names: Vec<AccountName> =
            ahead.iter().filter(|name| pattern.matches(name)).take(limit).map(|name| (*name).clone()).collect();
        let is_cut = names.len() == limit && names.last() != ahead.last().copied();
        QueryAnswer::Accounts { next: names.last().filter(|_| is_cut).cloned(), names }
    }

    fn settings(&self) -> QueryAnswer {
        let open = |(invitation, opened): (&Digest, &Option<Timestamp>)| OpenInvitation {
            invitation: *invitation,
            opened: *opened,
        };
        let settings = Settings {
            registration: self.registration,
            accounts: self.accounts.len() as u64,
            accounts_max: self.accounts_max,
            unread_max: self.unread_max,
            invitations: self.invitations.iter().map(open).collect(),
        };
        QueryAnswer::Settings { settings }
    }

    fn unread(&self, actor: Option<&Actor>, after: Option<Uid>, limit: usize) -> Outcome<QueryAnswer> {
        let (_, account) = self.own(actor)?;
        let all = account.unread.values().map(|(_, message)| message);
        let all = all.filter(|message| after.is_none_or(|after| message.uid > after));
        let all: Vec<Message> = all.cloned().collect();
        let messages = all[..limit.min(all.len())].to_vec();
        Ok(QueryAnswer::Messages { more: messages.len() < all.len(), messages })
    }

    fn history(
        &self,
        actor: Option<&Actor>,
        with: &Recipient,
        before: Option<Uid>,
        limit: usize,
    ) -> Outcome<QueryAnswer> {
        let one = self.own(actor)?.1.made_by;
        let Recipient::Account { name } = with;
        let other = self.accounts.get(name).ok_or_else(|| no_such_user(name))?.made_by;
        let is_between = |sent: &&Sent| (sent.from, sent.to) == (one, other) || (sent.from, sent.to) == (other, one);
        let is_before = |sent: &&Sent| before.is_none_or(|before| sent.message.uid < before);
        let all = self.messages.iter().filter(is_between).filter(is_before);
        let all: Vec<Message> = all.map(|sent| sent.message.clone()).collect();
        let messages = all[all.len().saturating_sub(limit)..].to_vec();
        Ok(QueryAnswer::Messages { more: messages.len() < all.len(), messages })
    }

    /// The account of the actor, if it exists and has the actor's key.
    fn own<'a>(&self, actor: Option<&'a Actor>) -> Outcome<(&'a AccountName, &Account)> {
        let Actor { account: name, key } = actor.ok_or(Rejection::LoginRequired)?;
        let account = self.accounts.get(name).filter(|account| account.key == *key);
        account.map(|account| (name, account)).ok_or_else(|| Rejection::NotOwner { name: name.clone() })
    }

    /// The owners of all accounts.
    pub fn everyone(&self) -> Vec<Actor> {
        self.accounts.iter().map(|(name, account)| Actor { account: name.clone(), key: account.key }).collect()
    }
}

/// Whether the actor is an operator.
fn operator(actor: Option<&Actor>) -> Outcome<()> {
    match actor.ok_or(Rejection::LoginRequired)?.account.as_str() {
        "operator" => Ok(()),
        _ => Err(Rejection::NotAnOperator),
    }
}

fn rejected(reason: Rejection) -> Answer {
    Answer::Rejected { reason }
}

fn no_such_user(name: &AccountName) -> Rejection {
    Rejection::NoSuchUser { name: name.clone() }
}

/// How many entries a page has at most.
fn page_size(limit: u16) -> usize {
    usize::from(limit.clamp(1, PAGE_MAX))
}
