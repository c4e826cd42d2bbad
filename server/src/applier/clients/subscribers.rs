//! Which connections are logged in to an account, and which of them get the messages of which conversations.
//!
//! A message in a room goes to connections of its members. To find them, this remembers for each account that somebody is logged in
//! to, its rooms: read from the store at the first login that gets messages, and kept up by what requests change. While a repair goes
//! on, the rooms of an account may change in ways that nobody tells: those accounts get nothing from rooms then, and their rooms are
//! read again at the end ([`Subscribers::suspend`], [`Subscribers::set_rooms`]).

use crate::replica::ConnectionId;
use crate::store::Audience;
use stablechat_protocol::login::PublicKey;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::Actor;
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeMap, BTreeSet};

/// The logins. A connection has at most one, an account may have many.
#[derive(Default)]
pub struct Subscribers {
    /// The account that a connection is logged in to.
    accounts: BTreeMap<ConnectionId, Actor>,
    /// The inverse of `accounts`. None has no connection.
    logins: BTreeMap<Actor, Login>,
    /// The connections that get the messages of a room: those of `logins` that receive. None is empty.
    rooms: BTreeMap<Uid, BTreeSet<ConnectionId>>,
}

/// The connections that are logged in to an account.
#[derive(Default)]
struct Login {
    /// Each with whether it gets the account's messages.
    connections: BTreeMap<ConnectionId, bool>,
    /// The ids of the rooms that the account is a member of. Not known while no connection gets its messages.
    rooms: BTreeSet<Uid>,
}

impl Login {
    /// The connections that get the account's messages.
    fn receiving(&self) -> impl Iterator<Item = ConnectionId> {
        self.connections.iter().filter(|(_, receives)| **receives).map(|(connection, _)| *connection)
    }

    /// Whether any connection gets the account's messages.
    fn receives(&self) -> bool {
        self.receiving().next().is_some()
    }
}

impl Subscribers {
    /// A connection speaks for this account and no other, and gets its messages if it is to `receive` them. Returns whether it is the
    /// first one that does, so that the account's rooms are not known.
    pub fn log_in(&mut self, connection: ConnectionId, actor: Actor, receive: bool) -> bool {
        self.log_out(connection);
        let login = self.logins.entry(actor.clone()).or_default();
        let is_first = receive && !login.receives();
        login.connections.insert(connection, receive);
        if receive {
            for room in &login.rooms {
                self.rooms.entry(*room).or_default().insert(connection);
            }
        }
        self.accounts.insert(connection, actor);
        is_first
    }

    /// A connection speaks for no account.
    pub fn log_out(&mut self, connection: ConnectionId) {
        let Some(actor) = self.accounts.remove(&connection) else { return };
        let Some(login) = self.logins.get_mut(&actor) else { return };
        login.connections.remove(&connection);
        login.rooms.iter().for_each(|room| remove(&mut self.rooms, *room, [connection]));
        if !login.receives() {
            login.rooms.clear();
        }
        if login.connections.is_empty() {
            self.logins.remove(&actor);
        }
    }

    /// The account that a connection is logged in to.
    pub fn actor(&self, connection: ConnectionId) -> Option<&Actor> {
        self.accounts.get(&connection)
    }

    /// All accounts that somebody is logged in to.
    pub fn actors(&self) -> Vec<Actor> {
        self.logins.keys().cloned().collect()
    }

    /// The accounts of this name, by their keys, that somebody is logged in to.
    pub fn actors_named(&self, name: &AccountName) -> Vec<Actor> {
        let keys = |key| Actor { account: name.clone(), key };
        let range = keys(PublicKey([0; 32]))..=keys(PublicKey([0xff; 32]));
        self.logins.range(range).map(|(actor, _)| actor.clone()).collect()
    }

    /// Ends all logins with this key of an account. Returns their connections.
    pub fn end(&mut self, actor: &Actor) -> Vec<ConnectionId> {
        let connections: Vec<ConnectionId> =
            self.logins.get(actor).map_or(Vec::new(), |login| login.connections.keys().copied().collect());
        connections.iter().for_each(|connection| self.log_out(*connection));
        connections
    }

    /// The account is a member of this room.
    pub fn join(&mut self, actor: &Actor, room: Uid) {
        if let Some(login) = self.logins.get_mut(actor).filter(|login| login.receives()) {
            login.rooms.insert(room);
            self.rooms.entry(room).or_default().extend(login.receiving());
        }
    }

    /// The account is no member of this room.
    pub fn leave(&mut self, actor: &Actor, room: Uid) {
        let Some(login) = self.logins.get_mut(actor) else { return };
        login.rooms.remove(&room);
        remove(&mut self.rooms, room, login.receiving());
    }

    /// The room is gone.
    pub fn close(&mut self, room: Uid) {
        for connection in self.rooms.remove(&room).unwrap_or_default() {
            if let Some(login) = self.accounts.get(&connection).and_then(|actor| self.logins.get_mut(actor)) {
                login.rooms.remove(&room);
            }
        }
    }

    /// The account gets nothing from rooms until its rooms are set.
    pub fn suspend(&mut self, actor: &Actor) {
        self.set_rooms(actor, Vec::new());
    }

    /// The account is a member of these rooms and no others.
    pub fn set_rooms(&mut self, actor: &Actor, rooms: Vec<Uid>) {
        let before = self.logins.get(actor).map_or(Vec::new(), |login| login.rooms.iter().copied().collect());
        before.into_iter().for_each(|room| self.leave(actor, room));
        rooms.into_iter().for_each(|room| self.join(actor, room));
    }

    /// The connections that get a message of this audience. They are logged in with the keys of its members: an account of the same
    /// name that was deleted before is another actor.
    pub fn of(&self, audience: &Audience) -> Vec<ConnectionId> {
        match audience {
            Audience::Pair { sender, recipient } if sender == recipient => self.receiving(recipient),
            Audience::Pair { sender, recipient } => [self.receiving(recipient), self.receiving(sender)].concat(),
            Audience::Room { id } => self.in_room(*id),
        }
    }

    /// The connections that get the messages of a room.
    pub fn in_room(&self, room: Uid) -> Vec<ConnectionId> {
        self.rooms.get(&room).map_or(Vec::new(), |connections| connections.iter().copied().collect())
    }

    /// The connections that get the messages of an account.
    pub fn receiving(&self, actor: &Actor) -> Vec<ConnectionId> {
        self.logins.get(actor).map_or(Vec::new(), |login| login.receiving().collect())
    }
}

/// Takes connections from a room, and the room if it has none left.
fn remove(
    rooms: &mut BTreeMap<Uid, BTreeSet<ConnectionId>>,
    room: Uid,
    connections: impl IntoIterator<Item = ConnectionId>,
) {
    let Some(left) = rooms.get_mut(&room) else { return };
    for connection in connections {
        left.remove(&connection);
    }
    if left.is_empty() {
        rooms.remove(&room);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stablechat_protocol::time::Timestamp;

    fn actor(name: &str, key: u8) -> Actor {
        Actor { account: AccountName::parse(name).expect("a name"), key: PublicKey([key; 32]) }
    }

    fn room(number: u64) -> Uid {
        Uid::new(Timestamp(number), b"")
    }

    fn connections(numbers: &[u64]) -> Vec<ConnectionId> {
        numbers.iter().copied().map(ConnectionId).collect()
    }

    #[test]
    fn rooms_reach_the_connections_that_receive() {
        let (mut subscribers, ann, bob) = (Subscribers::default(), actor("ann", 1), actor("bob", 2));
        assert!(subscribers.log_in(ConnectionId(1), ann.clone(), true));
        subscribers.set_rooms(&ann, vec![room(1), room(2)]);
        assert!(!subscribers.log_in(ConnectionId(2), ann.clone(), true));
        assert!(!subscribers.log_in(ConnectionId(3), ann.clone(), false));
        assert!(subscribers.log_in(ConnectionId(4), bob.clone(), true));
        subscribers.join(&bob, room(2));
        assert_eq!(subscribers.in_room(room(1)), connections(&[1, 2]));
        assert_eq!(subscribers.in_room(room(2)), connections(&[1, 2, 4]));

        subscribers.leave(&ann, room(2));
        assert_eq!(subscribers.in_room(room(2)), connections(&[4]));
        assert!(!subscribers.log_in(ConnectionId(5), actor("cid", 3), false));
        subscribers.join(&actor("cid", 3), room(3));
        assert!(subscribers.logins[&actor("cid", 3)].rooms.is_empty(), "nothing is kept for who gets no messages");
        assert!(subscribers.log_in(ConnectionId(6), actor("cid", 3), true));
        subscribers.log_out(ConnectionId(1));
        assert_eq!(subscribers.in_room(room(1)), connections(&[2]));
        subscribers.suspend(&ann);
        assert_eq!(subscribers.in_room(room(1)), []);
        subscribers.set_rooms(&ann, vec![room(3)]);
        assert_eq!(subscribers.in_room(room(3)), connections(&[2]));
    }

    #[test]
    fn nothing_is_left_of_what_is_over() {
        let (mut subscribers, ann, bob) = (Subscribers::default(), actor("ann", 1), actor("bob", 2));
        subscribers.log_in(ConnectionId(1), ann.clone(), true);
        subscribers.log_in(ConnectionId(2), bob.clone(), false);
        for number in 1..4 {
            subscribers.join(&ann, room(number));
            subscribers.join(&bob, room(number));
        }
        subscribers.close(room(1));
        assert_eq!(subscribers.in_room(room(1)), []);
        assert_eq!(subscribers.end(&ann), connections(&[1]));
        subscribers.log_out(ConnectionId(2));
        assert!(subscribers.rooms.is_empty() && subscribers.logins.is_empty() && subscribers.accounts.is_empty());
    }

    #[test]
    fn an_account_is_found_under_all_keys_that_are_logged_in() {
        let mut subscribers = Subscribers::default();
        for (number, (name, key)) in
            [("ann", 1), ("bob", 1), ("bob", 0xff), ("bob", 0), ("bobo", 1)].into_iter().enumerate()
        {
            subscribers.log_in(ConnectionId(number as u64), actor(name, key), true);
        }
        let name = AccountName::parse("bob").expect("a name");
        assert_eq!(subscribers.actors_named(&name), [actor("bob", 0), actor("bob", 1), actor("bob", 0xff)]);
    }
}
