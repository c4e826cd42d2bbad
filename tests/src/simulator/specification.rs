//! A second implementation of the service, as simple as possible: a chat in memory that executes one request after the other.
//!
//! It shares no code with the store and has none of its concerns: no disk, no undo, no pages cut by bytes, no housekeeping.
//! It leaves out what no run reaches: sessions that expire after a day, passwords, messages that are too old. Only the id of the
//! session in which a replica executes an orphan is computed by the store's code.
//!
//! Conversations are in [`talks`], rooms in [`rooms`].

mod rooms;
mod talks;

use super::plan::first_code;
use rooms::Rooms;
use stablechat_protocol::answer::{Answer, QueryAnswer, Rejection};
use stablechat_protocol::command::{BLOCKED_MAX, Command, PAGE_MAX, Query, UNREAD_MAX};
use stablechat_protocol::conversation::Conversation;
use stablechat_protocol::digest::Digest;
use stablechat_protocol::login::PublicKey;
use stablechat_protocol::name::{AccountName, Pattern};
use stablechat_protocol::operator::{
    ACCOUNTS_DEFAULT, InvitationCode, OpenInvitation, Operation, Quota, REQUESTS_DEFAULT, Registration, Settings,
};
use stablechat_protocol::request::{Actor, QueryRequest, Request};
use stablechat_protocol::room::{RoomAction, RoomName};
use stablechat_protocol::session::{ClientId, WINDOW};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use stablechat_server::store::in_own_session;
use std::collections::BTreeMap;
use talks::{Id, Talks};

/// A chat service in which anybody may create an account until operators change that.
pub struct Specification {
    accounts: BTreeMap<AccountName, Account>,
    registration: Registration,
    /// How many accounts there may be, how many messages one may have unread from another, and how many conversations one may have
    /// begun without an answer.
    accounts_max: u64,
    unread_max: u64,
    requests_max: u64,
    /// The open invitations, each with the time when it was opened; none for the one that was open in the beginning.
    invitations: BTreeMap<Digest, Option<Timestamp>>,
    talks: Talks,
    rooms: Rooms,
    /// The names of blocked accounts, by the account that blocks them and by themselves.
    blocked: BTreeMap<(Uid, Uid), AccountName>,
    sessions: BTreeMap<ClientId, Session>,
}

/// An account.
struct Account {
    /// The request that made it: another account of the same name, before or after it, was made by another.
    made_by: Uid,
    key: PublicKey,
    /// The key that it had before, if its owner has changed it.
    earlier_key: Option<PublicKey>,
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
            unread_max: UNREAD_MAX,
            requests_max: REQUESTS_DEFAULT,
            invitations: BTreeMap::from([(first_code().digest(), None)]),
            talks: Talks::default(),
            rooms: Rooms::default(),
            blocked: BTreeMap::new(),
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
                let (name, account) = self.own(actor)?;
                let account = account.made_by;
                self.delete(name, account);
                Ok(())
            }
            Command::SetKey { key } => self.set_key(actor, *key),
            Command::Operate { operation } => self.operate(uid, actor, operation),
            Command::Send { to, text } => {
                let (name, sender) = self.own(actor)?;
                let sender = sender.made_by;
                let id = match to {
                    Conversation::Account { name: other } => self.begin(name, sender, other)?,
                    Conversation::Room { name } => Id::Room(self.rooms.of_member(sender, name)?.made_by),
                    Conversation::Former { name, .. } => return Err(no_such_user(name)),
                };
                self.talks.say(id, sender, uid, name, text);
                Ok(())
            }
            Command::Read { conversation, range } => {
                let (_, account) = self.own(actor)?;
                let account = account.made_by;
                let (id, _) = self.named(account, conversation)?;
                if range.after >= range.up_to || range.up_to > uid {
                    return Err(Rejection::NoRange);
                }
                self.talks.read(account, id, range)
            }
            Command::Room { room, action } => self.act(uid, actor, room, action),
            Command::Block { name, is_blocked } => self.block(actor, name, *is_blocked),
            Command::Mute { conversation, is_muted } => {
                let (_, account) = self.own(actor)?;
                let account = account.made_by;
                let (id, _) = self.named(account, conversation)?;
                self.talks.mute(account, id, conversation, *is_muted)
            }
        }
    }

    /// The conversation with another account, which begins with this message if it has not yet.
    fn begin(&mut self, name: &AccountName, sender: Uid, other: &AccountName) -> Outcome<Id> {
        let recipient = self.accounts.get(other).ok_or_else(|| no_such_user(other))?.made_by;
        let id = Id::of_two(sender, recipient);
        let is_full = sender != recipient && self.talks.unread(recipient, id) >= self.unread_max;
        if is_full || self.blocked.contains_key(&(recipient, sender)) {
            return Err(Rejection::TooManyUnread { name: other.clone() });
        }
        if !self.talks.takes_part(recipient, id) {
            if sender != recipient && self.talks.requests(sender) >= self.requests_max {
                return Err(Rejection::TooManyRequests);
            }
            self.talks.begin(id, sender, recipient);
            self.talks.join(sender, id, Conversation::with(other), Uid::MIN);
            self.talks.join(
                recipient,
                id,
                Conversation::with(if sender == recipient { other } else { name }),
                Uid::MIN,
            );
        }
        Ok(id)
    }

    /// The conversation that an account names so, and whether it is in a private room. The account need not take part in one of two.
    fn named(&self, account: Uid, conversation: &Conversation) -> Outcome<(Id, bool)> {
        match conversation {
            Conversation::Account { name } => {
                let other = self.accounts.get(name).ok_or_else(|| no_such_user(name))?;
                Ok((Id::of_two(account, other.made_by), false))
            }
            Conversation::Room { name } => {
                let room = self.rooms.of_member(account, name)?;
                Ok((Id::Room(room.made_by), room.is_private))
            }
            Conversation::Former { name, account: former } => Ok((self.talks.former(account, name, *former)?, false)),
        }
    }

    /// Executes a command about a room.
    fn act(&mut self, uid: Uid, actor: Option<&Actor>, room: &RoomName, action: &RoomAction) -> Outcome<()> {
        let (by, account) = self.own(actor)?;
        let account = account.made_by;
        let id_of = |name: &AccountName| self.accounts.get(name).map(|other| other.made_by);
        let (rooms, talks) = (&mut self.rooms, &mut self.talks);
        match action {
            RoomAction::Create { is_private } => rooms.create(talks, uid, (by, account), room, *is_private),
            RoomAction::Join => rooms.join(talks, uid, (by, account), room),
            RoomAction::Leave => {
                rooms.of_member(account, room)?;
                rooms.take(talks, account, room);
                Ok(())
            }
            RoomAction::Invite { name } => {
                rooms.of_member(account, room)?;
                let guest = id_of(name).ok_or_else(|| no_such_user(name))?;
                if !self.blocked.contains_key(&(guest, account)) {
                    rooms.invite(uid, by, room, guest);
                }
                Ok(())
            }
            RoomAction::Remove { name } => rooms.remove(talks, account, room, name, id_of(name)),
            RoomAction::SetTopic { topic } => {
                rooms.of_owner(account, room)?.topic = topic.clone();
                Ok(())
            }
            RoomAction::GiveTo { name } => rooms.give_to(account, room, name, id_of(name)),
            RoomAction::Close => {
                rooms.of_owner(account, room)?;
                rooms.close(talks, room)
            }
        }
    }

    /// Blocks an account for the actor, or does so no longer.
    fn block(&mut self, actor: Option<&Actor>, name: &AccountName, is_blocked: bool) -> Outcome<()> {
        let (_, account) = self.own(actor)?;
        let account = account.made_by;
        if !is_blocked {
            self.blocked.retain(|(by, _), blocked| *by != account || blocked != name);
            return Ok(());
        }
        let other = self.accounts.get(name).ok_or_else(|| no_such_user(name))?.made_by;
        let count = self.blocked.keys().filter(|(by, _)| *by == account).count();
        if !self.blocked.contains_key(&(account, other)) && count >= BLOCKED_MAX as usize {
            return Err(Rejection::TooMany);
        }
        self.blocked.insert((account, other), name.clone());
        Ok(())
    }

    /// Deletes an account.
    fn delete(&mut self, name: &AccountName, account: Uid) {
        self.accounts.remove(name);
        self.rooms.take_everywhere(&mut self.talks, account);
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
        let account = Account { made_by: uid, key, earlier_key: None };
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
            Operation::SetQuota { quota: Quota::Unread, limit } if *limit > UNREAD_MAX => {
                return Err(Rejection::TooMany);
            }
            Operation::SetQuota { quota: Quota::Unread, limit } => self.unread_max = *limit,
            Operation::SetQuota { quota: Quota::Requests, limit } => self.requests_max = *limit,
            Operation::CloseRoom { room } => self.rooms.close(&mut self.talks, room)?,
            Operation::SetRetention { .. } => unreachable!("no operator of the simulation sets it"),
            Operation::Invite { invitation } => {
                self.invitations.entry(*invitation).or_insert(Some(uid.timestamp));
            }
            Operation::Revoke { invitation } => {
                self.invitations.remove(invitation).ok_or(Rejection::NoSuchInvitation)?;
            }
            Operation::RemoveAccount { name } => {
                let account = self.accounts.get(name).ok_or_else(|| no_such_user(name))?.made_by;
                self.delete(name, account);
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
            Query::Inbox { all, after, limit } => self.own(actor.as_ref()).map(|(_, account)| {
                let invitations = match after {
                    Some(_) => Vec::new(),
                    None => self.rooms.invitations(account.made_by),
                };
                self.talks.inbox(account.made_by, &self.ids(), (*all, after.as_ref(), *limit), invitations)
            }),
            Query::History { conversation, page, limit } => self.own(actor.as_ref()).and_then(|(name, account)| {
                let (id, is_private) = self.named(account.made_by, conversation)?;
                Ok(self.talks.page(name, account.made_by, id, is_private, *page, *limit))
            }),
            Query::Rooms { pattern, after, limit } => {
                let account = match operator(actor.as_ref()) {
                    Ok(()) => Ok(None),
                    Err(_) => self.own(actor.as_ref()).map(|(_, account)| Some(account.made_by)),
                };
                account.map(|account| self.rooms.page(account, pattern, after.as_ref(), *limit, &self.ids()))
            }
            Query::Members { room, after, limit } => self
                .own(actor.as_ref())
                .and_then(|(_, account)| self.rooms.members_page(account.made_by, room, *after, *limit)),
            Query::Blocked => self.own(actor.as_ref()).map(|(_, account)| {
                let all = self.blocked.iter().filter(|((by, _), _)| *by == account.made_by);
                let is_there =
                    |id, name| self.accounts.get(name).is_some_and(|account: &Account| account.made_by == id);
                let there = all.filter(|((_, id), name)| is_there(*id, name));
                let mut names: Vec<AccountName> = there.map(|(_, name)| name.clone()).collect();
                names.sort();
                QueryAnswer::Accounts { names, next: None }
            }),
        };
        page.unwrap_or_else(|reason| QueryAnswer::Rejected { reason })
    }

    /// The names that match, and where to go on if there are names left that begin as they have to.
    fn list(&self, pattern: &Pattern, after: Option<&AccountName>, limit: usize) -> QueryAnswer {
        let is_ahead = |name: &&AccountName| after.is_none_or(|after| *name > after);
        let begins_well = |name: &&AccountName| name.as_str().starts_with(pattern.literal_prefix());
        let ahead: Vec<&AccountName> = self.accounts.keys().filter(is_ahead).filter(begins_well).collect();
        let names: Vec<AccountName> = ahead
            .iter()
            .filter(|name| pattern.matches(name.as_str()))
            .take(limit)
            .map(|name| (*name).clone())
            .collect();
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
            requests_max: self.requests_max,
            retention_seconds: 0,
        };
        QueryAnswer::Settings { settings, invitations: self.invitations.iter().map(open).collect() }
    }

    /// The accounts by name.
    fn ids(&self) -> BTreeMap<AccountName, Uid> {
        self.accounts.iter().map(|(name, account)| (name.clone(), account.made_by)).collect()
    }

    /// The accounts that get a message: those that take part in its conversation.
    pub fn audience(&self, from: &AccountName, to: &Conversation) -> Vec<AccountName> {
        match to {
            Conversation::Account { name } => vec![from.clone(), name.clone()],
            Conversation::Room { name } => self.rooms.members(name),
            Conversation::Former { .. } => Vec::new(),
        }
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
