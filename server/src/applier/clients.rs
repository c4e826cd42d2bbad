//! The connections of clients, as far as the applier knows them: which there are, which accounts they speak for, how much they may
//! ask, and where answers and messages go that nobody waits for.
//!
//! Nothing but the connection of a session outlives a connection here, so the memory is bounded by the poll loop's limit for
//! connections.
//!
//! It never knows the order of requests, and changes nothing in the store.

mod query_budget;
mod senders;
mod sessions;
mod subscribers;

use super::outbox::Outbox;
use super::stopwatch::Stopwatch;
use crate::replica::{Body, ConnectionId, Effect, Input, Submission};
use crate::store::{Audience, Changed, ChatStore, Delivery, RoomOutcome, StoreError};
use query_budget::QueryBudget;
use senders::Senders;
use sessions::Sessions;
use stablechat_protocol::answer::Refusal;
use stablechat_protocol::message::ToClient;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::{Actor, Request};
use stablechat_protocol::room::{RoomAction, RoomNews};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::uid::Uid;
use std::collections::BTreeSet;
use std::time::Duration;
use subscribers::Subscribers;

/// The connections of clients.
pub struct Clients {
    budget: QueryBudget,
    senders: Senders,
    sessions: Sessions,
    subscribers: Subscribers,
    /// The connections that are to be told that their inboxes have changed in other ways than by deliveries.
    outdated: BTreeSet<ConnectionId>,
    /// The rooms whose members' connections are to be told the same. Looked up when they are told, once for many messages.
    outdated_rooms: BTreeSet<Uid>,
    /// The logins with another key than the account has, which the poll loop counts.
    wrong_keys: Vec<(ConnectionId, AccountName)>,
    /// Tells when a connection is greeted and when it asks.
    stopwatch: Stopwatch,
}

impl Clients {
    /// No connections.
    pub fn new(stopwatch: Stopwatch) -> Clients {
        Clients {
            budget: QueryBudget::new(stopwatch),
            senders: Senders::default(),
            sessions: Sessions::default(),
            subscribers: Subscribers::default(),
            outdated: BTreeSet::new(),
            outdated_rooms: BTreeSet::new(),
            wrong_keys: Vec::new(),
            stopwatch,
        }
    }

    /// A connection has been greeted.
    pub fn on_greeted(&mut self, connection: ConnectionId) {
        self.budget.on_greeted(connection, self.stopwatch.read());
    }

    /// A connection speaks for an account now, and gets its messages if it asked for them. `is_wrong`: there is no account
    /// with this key. `store`: to read the account's rooms from, unless they are set later ([`Clients::resume`]).
    pub fn on_logged_in(
        &mut self,
        connection: ConnectionId,
        actor: Actor,
        receive: bool,
        is_wrong: bool,
        store: Option<&ChatStore>,
    ) -> Result<(), StoreError> {
        if is_wrong {
            self.wrong_keys.push((connection, actor.account.clone()));
        }
        let is_first = self.subscribers.log_in(connection, actor.clone(), receive);
        if let Some(store) = store.filter(|_| is_first) {
            self.subscribers.set_rooms(&actor, store.rooms_of(&actor)?);
        }
        Ok(())
    }

    /// Takes out the logins that are with another key than the account has.
    pub fn take_wrong_keys(&mut self) -> Vec<(ConnectionId, AccountName)> {
        std::mem::take(&mut self.wrong_keys)
    }

    /// A connection speaks for nobody any more.
    pub fn on_logged_out(&mut self, connection: ConnectionId) {
        self.subscribers.log_out(connection);
        self.outdated.remove(&connection);
        self.senders.forget(connection);
    }

    /// A connection is gone.
    pub fn on_closed(&mut self, connection: ConnectionId) {
        self.budget.on_closed(connection);
        self.on_logged_out(connection);
    }

    /// The store is closed. Accounts that were not committed are gone when it is opened again, so they are looked up anew.
    pub fn on_store_closed(&mut self) {
        self.senders = Senders::default();
    }

    /// Whether a connection speaks for an operator, or for an account that exists, so that it is told more than strangers are.
    pub fn is_known(&self, connection: ConnectionId, store: &ChatStore) -> Result<bool, StoreError> {
        match self.subscribers.actor(connection) {
            None => Ok(false),
            Some(actor) => Ok(actor.account.is_operator() || store.owns(actor)?),
        }
    }

    /// Whether a connection speaks for an operator.
    pub fn is_operator(&self, connection: ConnectionId) -> bool {
        self.subscribers.actor(connection).is_some_and(|actor| actor.account.is_operator())
    }

    /// Passes on a request or query to the protocol, while so many queries are pending. The error is the refusal of a query that
    /// there is no time for.
    pub fn admit(
        &mut self,
        submission: Submission,
        pending_queries: usize,
        store: &ChatStore,
    ) -> Result<Result<Input, Effect>, StoreError> {
        let Submission { from, timestamp, ref body, .. } = submission;
        let may_pass = match body {
            Body::Request(request) => {
                self.sessions.on_heard(request.client, from);
                true
            }
            Body::Query(_) => self.budget.may_ask(from, pending_queries, self.stopwatch.read()),
        };
        if !may_pass {
            let (request, reason) = (body.id(), Refusal::Overloaded);
            return Ok(Err(Effect::Refuse { to: from, request, timestamp, reason }));
        }
        let sender = self.senders.sender(store, &submission)?;
        Ok(Ok(Input::Request { submission, sender }))
    }

    /// Those of these connections that are still there. There is no use in answering one that is gone.
    pub fn present(&self, mut waiting: Vec<ConnectionId>) -> Vec<ConnectionId> {
        waiting.retain(|connection| self.budget.is_there(*connection));
        waiting
    }

    /// Whether the connection on which a session was last heard is still there.
    pub fn is_connected(&self, client: ClientId) -> bool {
        self.sessions.connection(client).is_some_and(|connection| self.budget.is_there(connection))
    }

    /// A query of a connection has been answered. `reading` is how long the store was read for it, `bytes` the size of the answer.
    pub fn on_query_answered(&mut self, connection: ConnectionId, reading: Duration, bytes: usize) {
        self.budget.on_read(connection, reading, bytes);
    }

    /// The store is open: reads the rooms of all accounts that are logged in.
    pub fn on_store_opened(&mut self, store: &ChatStore) -> Result<(), StoreError> {
        self.subscribers.actors().iter().try_for_each(|actor| self.set_rooms(actor, store))
    }

    /// Reads the rooms of an account from the store.
    fn set_rooms(&mut self, actor: &Actor, store: &ChatStore) -> Result<(), StoreError> {
        self.subscribers.set_rooms(actor, store.rooms_of(actor)?);
        Ok(())
    }

    /// The logins of these accounts get nothing from rooms until [`Clients::resume`].
    pub fn suspend(&mut self, names: &BTreeSet<AccountName>) {
        self.actors(names).iter().for_each(|actor| self.subscribers.suspend(actor));
    }

    /// Reads the rooms of these accounts again. Their inboxes have changed.
    pub fn resume(&mut self, names: &BTreeSet<AccountName>, store: &ChatStore) -> Result<(), StoreError> {
        self.refresh(self.actors(names), store)
    }

    /// The logins of these accounts, with whatever keys.
    fn actors(&self, names: &BTreeSet<AccountName>) -> Vec<Actor> {
        names.iter().flat_map(|name| self.subscribers.actors_named(name)).collect()
    }

    /// The same for all accounts, as when the whole state is another one.
    pub fn refresh_all(&mut self, store: &ChatStore) -> Result<(), StoreError> {
        self.refresh(self.subscribers.actors(), store)
    }

    fn refresh(&mut self, actors: Vec<Actor>, store: &ChatStore) -> Result<(), StoreError> {
        for actor in actors {
            self.set_rooms(&actor, store)?;
            self.outdated.extend(self.subscribers.receiving(&actor));
        }
        Ok(())
    }

    /// Sends the message of a request that was applied in its turn, and the news of a room, to the connections that they concern.
    pub fn deliver(
        &mut self,
        actor: Option<&Actor>,
        delivery: Option<Delivery>,
        change: Option<RoomOutcome>,
        outbox: &mut Outbox,
    ) {
        if let Some(Delivery { message, audience }) = delivery {
            outbox.for_clients(self.subscribers.of(&audience), ToClient::Delivery { message });
        }
        if let Some((to, news)) = self.follow(actor, change) {
            outbox.for_clients(to, ToClient::RoomNews { news });
        }
    }

    /// The same for a request that was inserted into the log, as while we catch up. Its message may be an old one, which the account
    /// has read elsewhere: a connection that knows nothing of that would show it as new. So the connections are told later to look at
    /// their inboxes, once for many messages ([`Clients::tell_outdated`]).
    pub fn note_inserted(&mut self, actor: Option<&Actor>, delivery: Option<Delivery>, change: Option<RoomOutcome>) {
        match delivery.map(|delivery| delivery.audience) {
            None => {}
            Some(Audience::Room { id }) => drop(self.outdated_rooms.insert(id)),
            Some(pair) => self.outdated.extend(self.subscribers.of(&pair)),
        }
        if let Some((to, _)) = self.follow(actor, change) {
            self.outdated.extend(to);
        }
    }

    /// Asks the connections whose inboxes have changed in other ways than by deliveries to look at them.
    pub fn tell_outdated(&mut self, outbox: &mut Outbox) {
        let mut outdated = std::mem::take(&mut self.outdated);
        let rooms = std::mem::take(&mut self.outdated_rooms);
        outdated.extend(rooms.into_iter().flat_map(|id| self.subscribers.in_room(id)));
        outbox.for_clients(outdated.into_iter().collect(), ToClient::InboxChanged);
    }

    /// Follows a change of a room. Returns the connections that are to be told of it.
    fn follow(&mut self, actor: Option<&Actor>, change: Option<RoomOutcome>) -> Option<(Vec<ConnectionId>, RoomNews)> {
        let (actor, RoomOutcome { id, news, other }) = (actor?, change?);
        if let RoomAction::Create { .. } | RoomAction::Join = news.action {
            self.subscribers.join(actor, id);
        }
        let to = match (&news.action, &other) {
            (RoomAction::Invite { .. }, Some(guest)) => self.subscribers.receiving(guest),
            _ => self.subscribers.in_room(id),
        };

        match news.action {
            RoomAction::Leave => self.subscribers.leave(actor, id),
            RoomAction::Remove { .. } => other.iter().for_each(|other| self.subscribers.leave(other, id)),
            RoomAction::Close => self.subscribers.close(id),
            _ => {}
        }
        Some((to, news))
    }

    /// Ends the logins of an account that has another key or is gone, and tells their connections.
    pub fn end_logins(&mut self, ended: Option<Actor>, outbox: &mut Outbox) {
        let Some(actor) = ended else { return };
        for connection in self.subscribers.end(&actor) {
            self.outdated.remove(&connection);
            self.senders.forget(connection);
            let Actor { account, key } = actor.clone();
            outbox.for_client(connection, ToClient::LoggedOut { account, key });
        }
    }

    /// Tells a client that a repair has changed the answer to its request. The recipients of its message are told later.
    pub fn tell_changed(&mut self, changed: Changed, outbox: &mut Outbox) {
        let Changed { uid, request: Request { client, sequence, .. }, answer, delivery } = changed;
        log::debug!("the answer to request {sequence} of session {client} has changed");
        self.note_inserted(None, delivery, None);
        if let Some(to) = self.sessions.connection(client) {
            outbox.for_client(to, ToClient::Changed { client, sequence, uid, answer });
        }
    }

    /// The connections that get the messages of an account.
    #[cfg(test)]
    pub fn subscribers_of(&self, actor: &Actor) -> Vec<ConnectionId> {
        self.subscribers.receiving(actor)
    }
}
