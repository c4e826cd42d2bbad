//! The account in use: connecting, keys that accounts get, and logins that end or are refused.
//!
//! A login ends when the account gets another key or is deleted. Requests under way are answered as the state says, so they are waited
//! for. Then a key that is in a file by now takes its place, or else the user is told.

use super::job::{Content, Job, Reply, Stage};
use super::{Controller, Effect};
use crate::account::{ActiveAccount, inbox};
use crate::cli::advice;
use crate::cli::exit::{self, Failure};
use crate::cli::mode::Mode;
use crate::cli::print::Item;
use crate::cli::secrets::{self, NewKey, load_credentials};
use crate::greeting::Credentials;
use crate::keys::{KeyError, Keys};
use stablechat_protocol::answer::{QueryAnswer, Rejection};
use stablechat_protocol::command::{Command, PAGE_MAX, Query};
use stablechat_protocol::login::{LoginRefusal, PublicKey, SecretKey};
use stablechat_protocol::name::{AccountName, Pattern};
use stablechat_protocol::operator::InvitationCode;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What is known of keys, beside the key files and the account in use.
#[derive(Default)]
pub(super) struct Logins {
    /// Credentials that are not in a file.
    typed: Option<Credentials>,
    /// The key that the first job gives an account, unless it makes one.
    new_key: Option<NewKey>,
    /// The key whose login has ended while it was in use.
    ended: Option<PublicKey>,
    /// All keys whose logins have ended so. None of them is used again.
    lost: Vec<PublicKey>,
    /// The links whose replicas refuse the login in use, and why.
    refused: BTreeMap<usize, LoginRefusal>,
}

impl Logins {
    /// Whether the login in use has ended, so that nothing more is to be started with it.
    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }
}

impl Controller {
    /// Uses an account from the start, without receiving its messages, and if `client` is given in the session of that id. To be
    /// called before any link is ready.
    pub fn use_account(&mut self, credentials: Credentials, client: Option<ClientId>) {
        let mut account = self.account.successor(Some(Rc::new(credentials)), false);
        if let Some(client) = client {
            account.use_session(client);
        }
        self.switch(account);
    }

    /// Credentials that are not in a file, and the key that the first job gives an account unless it makes one.
    pub fn use_keys(&mut self, typed: Option<Credentials>, new_key: Option<NewKey>) {
        (self.logins.typed, self.logins.new_key) = (typed, new_key);
    }

    /// Makes a key unless there is one, so that repeating a create whose outcome is not known makes no second one.
    pub(super) fn start_create(
        &mut self,
        now: Timestamp,
        name: AccountName,
        invitation: Option<InvitationCode>,
    ) -> Result<Stage, Failure> {
        let new_key = self.new_key(&name, |keys| keys.load_or_create(&name))?;
        let command = Command::Create { key: new_key.secret.public(), name, invitation };
        if let Some(job) = self.jobs.next(true) {
            job.new_key = Some(new_key);
        }
        Ok(self.command(now, command))
    }

    /// Gives the account in use another key.
    pub(super) fn start_set_key(&mut self, now: Timestamp, name: &AccountName) -> Result<Stage, Failure> {
        let present = self.key();
        let new_key = self.new_key(name, |keys| keys.next(name, present))?;
        let command = Command::SetKey { key: new_key.secret.public() };
        if let Some(job) = self.jobs.next(true) {
            job.new_key = Some(new_key);
        }
        Ok(self.command(now, command))
    }

    /// The key that was given for an account, or one that is made now.
    fn new_key(
        &mut self,
        name: &AccountName,
        make: impl Fn(&Keys) -> Result<SecretKey, KeyError>,
    ) -> Result<NewKey, Failure> {
        if name.is_operator() {
            // A key that no cluster file has would take the place of the operator's.
            let fault = "operator is no account; stablechatd operator-key makes keys of operators";
            return Err(Failure::new(exit::USAGE, fault));
        }
        if let Some(new_key) = self.logins.new_key.take() {
            return Ok(new_key);
        }
        let secret = make(&self.settings.keys).map_err(|error| Failure::new(exit::CONFIGURATION, error.to_string()))?;
        Ok(NewKey { secret, is_kept: true })
    }

    /// Logs in, with a key that is in a file or was given, or else with one from a password that is asked for.
    pub(super) fn start_connect(&mut self, now: Timestamp, name: &AccountName) -> Result<Stage, Failure> {
        let typed = self.logins.typed.take_if(|typed| typed.account == *name);
        if let Some(credentials) = typed {
            return Ok(self.connect(now, credentials));
        }
        if self.settings.mode == Mode::Prompt && secrets::load(&self.settings.keys, name)?.is_none() {
            self.effects.push(Effect::AskPassword { account: name.clone() });
            return Ok(Stage::Password);
        }
        let credentials = load_credentials(&self.settings.keys, name)?;
        Ok(self.connect(now, credentials))
    }

    /// Takes the answer to [`Effect::AskPassword`].
    pub fn on_password(&mut self, now: Timestamp, answer: Result<Credentials, Failure>) {
        if self.jobs.awaiting_password().is_none() {
            return;
        }
        let stage = answer.map(|credentials| self.connect(now, credentials));
        let Some(job) = self.jobs.awaiting_password() else { return };
        match stage {
            Ok(stage) => job.enter(stage),
            Err(failure) => {
                job.task = Err(failure);
                job.enter(Stage::Local);
            }
        }
    }

    /// Logs in, and asks for the inbox: the answer says whether the account is ours.
    fn connect(&mut self, now: Timestamp, credentials: Credentials) -> Stage {
        let account = self.receiving(credentials);
        self.previous = Some(self.switch(account));
        self.query(now, inbox())
    }

    /// An account whose messages are shown, or have a command run for them.
    fn receiving(&self, credentials: Credentials) -> ActiveAccount {
        let mut account = self.account.successor(Some(Rc::new(credentials)), true);
        account.set_scope(self.settings.scope.clone());
        if self.settings.executes {
            account.read_by_hand();
        }
        account
    }

    /// Deletes an account in its own name, if need be by using it for that one command.
    pub(super) fn start_delete(&mut self, now: Timestamp, name: &AccountName) -> Result<Stage, Failure> {
        if self.account.name() != Some(name) {
            let typed = self.logins.typed.take_if(|typed| typed.account == *name);
            let credentials = typed.map_or_else(|| load_credentials(&self.settings.keys, name), Ok)?;
            let account = self.account.successor(Some(Rc::new(credentials)), false);
            self.previous = Some(self.switch(account));
        }
        Ok(self.command(now, Command::Delete))
    }

    pub(super) fn finish_connect(&mut self, now: Timestamp, job: &Job, name: AccountName, replies: Vec<Reply>) {
        // A connect that only follows from `--as` is no result that a script has asked for.
        let is_asked_for = job.line.is_some() || self.settings.mode == Mode::Prompt;
        let mut first_page = None;
        for reply in replies {
            let by = self.answerer(&reply);
            if let Content::Query(page @ QueryAnswer::Inbox { .. }) = reply.content {
                if is_asked_for {
                    self.show(Item::Connected { name: name.clone() }, Some(by));
                }
                first_page.get_or_insert(page);
            }
        }

        let Some(page) = first_page else {
            self.switch_back();
            return;
        };
        self.previous = None;
        self.input.set_talk(None);
        let mut events = Vec::new();
        self.account.on_page(now, page, &mut events);
        events.into_iter().for_each(|event| self.on_event(now, event));
        if self.settings.mode == Mode::Prompt {
            self.ask_for_names(now);
        }
    }

    /// Asks for names that the prompt can complete: a page each of accounts and of rooms.
    fn ask_for_names(&mut self, now: Timestamp) {
        let (pattern, limit) = (Pattern::all(), PAGE_MAX);
        let accounts = Query::List { pattern: pattern.clone(), after: None, limit };
        for query in [accounts, Query::Rooms { pattern, after: None, limit }] {
            if self.account.can_ask()
                && let Stage::Query { number } = self.query(now, query)
            {
                self.learning.insert(number);
            }
        }
    }

    pub(super) fn finish_delete(&mut self, name: &AccountName, is_done: bool) {
        let credentials = self.account.credentials();
        if !self.switch_back() && is_done {
            let nobody = self.account.successor(None, false);
            self.switch(nobody);
            self.input.set_talk(None);
        }
        if let (true, Some(credentials)) = (is_done, credentials) {
            self.retire_key(name, &credentials.secret);
        }
    }

    /// Keeps a key that a replica has confirmed, if it is to be kept.
    pub(super) fn confirm_key(&mut self, name: &AccountName, new_key: &NewKey) {
        if new_key.is_kept
            && let Err(error) = self.settings.keys.confirm(name, &new_key.secret)
        {
            self.notice(error.to_string());
        }
    }

    /// Sets the key of a deleted account aside. A person is told where it is kept; a script knows from the manual.
    fn retire_key(&mut self, name: &AccountName, key: &SecretKey) {
        match self.settings.keys.retire(name, key) {
            Ok(Some(path)) if self.settings.mode == Mode::Prompt => {
                self.notice(format!("its key, which opens nothing any more, is kept as {}", path.display()));
            }
            Ok(_) => {}
            Err(error) => self.notice(error.to_string()),
        }
    }

    /// A replica no longer refuses the login: it has accepted it, or is out of reach.
    pub(super) fn forget_refusal(&mut self, link: usize) {
        self.logins.refused.remove(&link);
    }

    /// A replica refuses a login.
    pub(super) fn on_login_refused(&mut self, link: usize, account: &AccountName, reason: LoginRefusal) {
        log::info!("{} refuses {account}'s login: {reason:?}", self.replica(link));
        self.logins.refused.insert(link, reason);
    }

    /// Why nothing can be done as the account in use, if all replicas in reach refuse its login.
    fn locked_out(&self) -> Option<Failure> {
        let links = 0..self.settings.cluster.replicas.len();
        let mut reasons = links.filter(|link| self.reach.is_ready(*link)).map(|link| self.logins.refused.get(&link));
        let (reason, name) = (reasons.next()??, self.account.name()?);
        let mut wait_ms = wait_of(reason);
        for reason in reasons {
            wait_ms = wait_ms.min(wait_of(reason?));
        }
        let fault = match reason {
            LoginRefusal::TooManyKeys { .. } => format!(
                "too many wrong passwords or keys of {name} have come from this address; try again in {} s",
                wait_ms.div_ceil(1000)
            ),
            LoginRefusal::NotAnOperator => {
                "this key is not an operator's: the replicas have other keys in their cluster files".into()
            }
            LoginRefusal::BadProof => {
                format!("the replicas do not accept the proof that this key of {name} is at hand")
            }
        };
        Some(Failure::new(exit::NOT_ALLOWED, fault))
    }

    /// Fails the jobs in flight if all replicas in reach refuse the login, and with it everything that is asked for under it.
    pub(super) fn fail_if_locked_out(&mut self) {
        let Some(failure) = self.locked_out() else { return };
        let fail = |job: &mut Job| {
            job.task = Err(failure.clone());
            job.enter(Stage::Local);
        };
        if self.jobs.has_commands() {
            self.jobs.end_session(fail);
            self.account.abandon_session();
        }
        for job in self.jobs.unanswered_queries() {
            if let Stage::Query { number } = job.stage {
                self.account.close(number);
            }
            fail(job);
        }
        // A listener that is back after a time without any replica in reach has no job.
        if self.settings.mode == Mode::Listen && self.jobs.is_empty() && !self.outcome.is_over() {
            self.outcome.end(failure.code);
            self.show(Item::Failed { line: None, verb: None, failure }, None);
        }
    }

    /// A login is good for nothing any more: the account has another key, or was deleted.
    pub(super) fn on_logged_out(&mut self, account: &AccountName, key: PublicKey) {
        let is_ours = self.account.name() == Some(account) && self.key() == Some(key);
        if is_ours && !self.jobs.changes_key() {
            self.logins.ended = Some(key);
        }
    }

    /// Unread messages cannot be fetched. After a time without any replica in reach, this tells that the login has ended meanwhile.
    pub(super) fn on_fetch_rejected(&mut self, reason: &Rejection) {
        match reason {
            Rejection::NotOwner { .. } | Rejection::NoSuchUser { .. } => self.logins.ended = self.key(),
            _ => self.notice(format!("no messages can be received: {}", self.failure(reason))),
        }
    }

    /// Goes on after the end of the login in use, once nothing is under way. Returns whether there was anything to do.
    pub(super) fn replace_login(&mut self) -> bool {
        let is_free = self.jobs.first_started().is_none() && !self.outcome.is_over();
        let Some(key) = self.logins.ended.take_if(|_| is_free) else { return false };
        let Some(name) = self.account.name().cloned().filter(|_| self.key() == Some(key)) else { return true };
        self.logins.lost.push(key);

        // Another program of this user may have changed it, or be about to put it into its place.
        if let Ok(Some(secret)) = self.settings.keys.load_another(&name, &self.logins.lost) {
            let credentials = Credentials { account: name, secret, is_from_password: false };
            let successor = match self.account.receives() {
                true => self.receiving(credentials),
                false => self.account.successor(Some(Rc::new(credentials)), false),
            };
            self.switch(successor);
            self.input.set_talk(None);
            self.executions.forget_waiting();
            return true;
        }
        let what = format!("{name} has got another key, or was deleted");
        match self.settings.mode {
            Mode::Prompt => {
                let nobody = self.account.successor(None, false);
                self.switch(nobody);
                self.input.set_talk(None);
                self.notice(format!("{what}, so you are not connected any more; if it is yours: connect {name}"));
            }
            Mode::Listen => {
                let failure = Failure::new(exit::NOT_ALLOWED, format!("{what} while it was in use"));
                self.outcome.end(failure.code);
                self.show(Item::Failed { line: None, verb: None, failure }, None);
            }
            Mode::Filter => self.notice(what),
            // Its command has been answered, or will be told so itself.
            Mode::Once => {}
        }
        true
    }

    /// A rejection, with what the user can do about it.
    pub(super) fn failure(&self, reason: &Rejection) -> Failure {
        let credentials = self.account.credentials();
        let is_typed = |name: &AccountName| {
            credentials.as_ref().is_some_and(|typed| typed.is_from_password && typed.account == *name)
        };
        let mut failure = Failure::from(reason);
        match reason {
            Rejection::LoginRequired => failure.message += &format!("; {}", self.account_advice()),
            Rejection::InvitationNeeded => {
                failure.message += &format!("; {}", advice::with_invitation(self.settings.mode))
            }
            Rejection::NotOwner { name } | Rejection::NoSuchUser { name } if is_typed(name) => {
                failure = Failure::new(exit::NOT_ALLOWED, format!("there is no account {name} with this password"));
            }
            _ => {}
        }
        failure
    }

    /// Uses another account from here on. Returns the one that was in use.
    fn switch(&mut self, account: ActiveAccount) -> ActiveAccount {
        // Commands without an answer will not get one any more.
        self.jobs.end_session(|_| {});
        self.learning.clear();
        self.logins.refused.clear();
        self.effects.push(Effect::LogIn { credentials: account.credentials(), receive: account.receives() });
        std::mem::replace(&mut self.account, account)
    }

    /// Uses the previous account again, if there is one. Returns whether there is.
    pub(super) fn switch_back(&mut self) -> bool {
        let Some(mut previous) = self.previous.take() else { return false };
        previous.resume_after(&self.account);
        self.switch(previous);
        true
    }

    /// Advice for the case that a verb needs an account and none is in use.
    pub(super) fn account_advice(&self) -> String {
        // A directory that cannot be read is told of when a key is needed.
        let accounts = self.settings.keys.accounts().unwrap_or_default();
        advice::not_connected(self.settings.mode, &accounts)
    }

    /// The key of the account in use.
    fn key(&self) -> Option<PublicKey> {
        self.account.credentials().map(|credentials| credentials.secret.public())
    }
}

/// How many milliseconds to wait before trying to log in again after this.
fn wait_of(reason: &LoginRefusal) -> u32 {
    match reason {
        LoginRefusal::TooManyKeys { wait_ms } => *wait_ms,
        LoginRefusal::BadProof | LoginRefusal::NotAnOperator => 0,
    }
}
