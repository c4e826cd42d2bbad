//! The poll loop's connections with clients, and with processes that have not said what they are.

use super::{PollLoop, close_reason};
use crate::net::connection::Connection;
use crate::net::connections::{ClientRoom, Remote};
use crate::net::greeting::{Greeting, Reaction};
use crate::net::{NetEvent, Source};
use crate::replica::{Body, ConnectionId, Submission};
use mio::net::TcpStream;
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::frame::Decoded;
use stablechat_protocol::login::Challenge;
use stablechat_protocol::message::{Role, ToClient};
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::version::Versions;
use stablechat_transport::ReadEnd;
use std::io;
use std::time::{Duration, Instant};

/// The most connections that are accepted in a turn, so that peers and clients are read in between.
const ACCEPTED_MAX: usize = 64;
/// The most connections whose handshakes go on in a turn. Each step takes up to about 0.3 ms, so all together keep peers waiting for
/// less than 5 ms, however many clients connect at once.
const HANDSHAKES_MAX: usize = 16;
/// The most messages of one client that are handled in a turn, and of all together. If many clients send, each has a smaller share of
/// the second.
const MESSAGES_MAX: usize = 64;
const ALL_MESSAGES_MAX: usize = 2048;
/// How many turns a client has had counts for this long: those that had fewer come first.
const STRETCH: Duration = Duration::from_millis(100);
/// How many version ranges of refused clients are logged, each once. A client that makes up more cannot fill the log.
const LOGGED_VERSIONS_MAX: usize = 16;

impl PollLoop {
    /// Takes in new connections.
    pub(super) fn accept(&mut self) {
        let now = Instant::now();
        for _ in 0..ACCEPTED_MAX {
            let Some((socket, source)) = self.listener.accept(now) else { return };
            for id in self.connections.make_room_for_stranger() {
                self.remove(id, &"another connection needs its place", now);
            }
            if let Err(error) = self.admit(socket, source, now) {
                log::warn!("cannot take in a new connection, which is closed: {error}");
            }
        }
    }

    /// Adds a new connection to the table. Until its hello comes it is taken for a client's.
    fn admit(&mut self, mut socket: TcpStream, source: Source, now: Instant) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let mut challenge = [0; 32];
        getrandom::fill(&mut challenge).map_err(|error| io::Error::other(error.to_string()))?;
        let tls = self.tls.accept().map_err(io::Error::other)?;
        let id = self.registrar.register(&mut socket)?;
        let greeting = Greeting::new(Challenge(challenge));
        self.connections.insert(id, Connection::new(socket, tls, source, now), Remote::Client(greeting));
        Ok(())
    }

    /// Checks the signatures of logins, as many as the rate allows.
    pub(super) fn check_logins(&mut self) {
        let now = Instant::now();
        while let Some((id, attempt)) = self.logins.next(now, |id| self.connections.get(id).is_some()) {
            let Some((connection, Remote::Client(greeting))) = self.connections.get_mut(id) else { continue };
            let reaction = match self.rates.may_try_key(now, connection.source(), &attempt.statement.account) {
                Ok(()) => {
                    let is_genuine = attempt.is_genuine();
                    greeting.on_checked(attempt, is_genuine)
                }
                Err(wait) => greeting.on_too_many_keys(attempt, wait),
            };
            self.react(id, reaction, now);
        }
    }

    /// Reads from clients that may have sent something, and handles their messages, in turns.
    pub(super) fn serve_clients(&mut self) {
        let now = Instant::now();
        let stretch = self.stretch(now);
        let mut clients = self.intake.clients(|id| self.connections.is_peer(id));
        clients.retain(|id| !self.is_held_up(*id, now));
        self.connections.sort_by_turn(&mut clients, stretch);

        let share = (ALL_MESSAGES_MAX / clients.len().max(1)).clamp(1, MESSAGES_MAX);
        let (mut left, mut handshakes) = (ALL_MESSAGES_MAX, HANDSHAKES_MAX);
        for id in clients {
            if left == 0 || !self.intake.has_room(self.connections.may_be_peer(id)) {
                return;
            }
            match self.connections.get_mut(id) {
                Some((connection, _)) if connection.is_handshaking() && handshakes == 0 => continue,
                Some((connection, _)) => {
                    handshakes -= usize::from(connection.is_handshaking());
                    connection.on_turn(stretch);
                }
                None => self.intake.forget(id),
            }
            left = left.saturating_sub(self.serve(id, share, now).max(1));
        }
    }

    /// The number of the present stretch of time.
    fn stretch(&self, now: Instant) -> u64 {
        (now.saturating_duration_since(self.since).as_millis() / STRETCH.as_millis()) as u64
    }

    /// Whether nothing that a client sends is handled for now.
    pub(super) fn is_held_up(&self, id: ConnectionId, now: Instant) -> bool {
        match self.connections.get(id) {
            Some((connection, Remote::Client(greeting))) => connection.is_held_up(now) || greeting.is_logging_in(),
            _ => false,
        }
    }

    /// When the first of the clients that are not read because they were refused is read again.
    pub(super) fn paused_until(&self, now: Instant) -> Option<Instant> {
        let clients = self.intake.clients(|id| self.connections.is_peer(id));
        clients.into_iter().filter_map(|id| self.connections.get(id)?.0.paused_until(now)).min()
    }

    /// Handles the messages of a client that are there, then those that can be read, up to its share. Returns how many it handled.
    fn serve(&mut self, id: ConnectionId, share: usize, now: Instant) -> usize {
        let mut handled = self.handle_messages(id, share, now);
        if handled < share && self.intake.is_readable(id) && !self.is_held_up(id, now) {
            let Some((connection, _)) = self.connections.get_mut(id) else { return handled };
            let read = connection.read(&mut self.scratch, now);
            self.intake.on_read(id, &read);
            match read.end {
                ReadEnd::Drained | ReadEnd::More => {}
                ReadEnd::Closed => connection.on_finished(),
                ReadEnd::Failed(fault) => {
                    log::debug!("connection {} is broken: {fault}", id.0);
                    connection.on_finished();
                }
            }
            handled += self.handle_messages(id, share - handled, now);
        }

        let may_have_more = handled >= share || self.is_held_up(id, now);
        self.intake.set_unhandled(id, may_have_more && self.connections.get(id).is_some());
        // Messages that came before the end of the connection count.
        let is_over = self.connections.get(id).is_some_and(|(connection, _)| connection.is_finished());
        if is_over && !may_have_more {
            self.remove(id, &"the connection is broken", now);
        }
        handled
    }

    /// Handles messages that have come whole on a client's connection, at most so many. Returns how many.
    fn handle_messages(&mut self, id: ConnectionId, most: usize, now: Instant) -> usize {
        for handled in 0..most {
            if self.is_held_up(id, now) {
                return handled;
            }
            let Some((connection, Remote::Client(greeting))) = self.connections.get_mut(id) else {
                // It has turned out to be a peer.
                self.handle_peer_messages(id, now);
                return handled;
            };
            let reaction = match connection.next_message() {
                Ok(Decoded::NeedMore) => return handled,
                Ok(Decoded::Frame(message)) => {
                    greeting.on_message(message, connection, &self.identity, self.clock.now())
                }
                Err(error) => Reaction::Close(close_reason(error, greeting.is_done())),
            };
            if !matches!(reaction, Reaction::Request(..)) {
                connection.on_control_message(now);
            }
            self.react(id, reaction, now);
        }
        most
    }

    /// Does what a message asks for.
    fn react(&mut self, id: ConnectionId, reaction: Reaction, now: Instant) {
        let Some((connection, _)) = self.connections.get_mut(id) else { return };
        match reaction {
            Reaction::Reply(message) => connection.send(&message, now),
            Reaction::Welcome(message) => self.welcome(id, &message, now),
            Reaction::Peer(peer, version) => {
                connection.send(&PeerMessage::Greeting { version, replica: self.identity.replica.clone() }, now);
                self.begin_link(id, peer, version, now);
            }
            Reaction::RefusePeer(name, reason) => {
                self.log_refused_peer(&name, &reason);
                self.close(id, reason, now);
            }
            Reaction::RefuseVersions(role, theirs) => {
                self.log_refused_versions(&role, theirs);
                self.close(id, CloseReason::no_common_version(self.identity.versions), now);
            }
            Reaction::Check(attempt) => self.logins.push(connection.source(), id, *attempt),
            Reaction::LoggedIn(actor, receive) => {
                connection.send(&ToClient::LoggedIn { account: actor.account.clone() }, now);
                self.intake.push(NetEvent::LoggedIn { connection: id, actor, receive });
            }
            Reaction::LoggedOut(message) => {
                message.iter().for_each(|message| connection.send(message, now));
                self.intake.push(NetEvent::LoggedOut { connection: id });
            }
            Reaction::Request(timestamp, body) => {
                let too_fast = match &body {
                    Body::Request(request) => self.rates.admit(now, connection.source(), request).err(),
                    Body::Query(_) => {
                        connection.on_query(now);
                        None
                    }
                };
                let time = self.clock.now();
                self.intake.push(NetEvent::Request(Submission { time, from: id, timestamp, body, too_fast }));
            }
            Reaction::Status => self.intake.push(NetEvent::Status { from: id }),
            Reaction::PingPeers => self.intake.push(NetEvent::PingPeers { from: id }),
            Reaction::Close(reason) => self.close(id, reason, now),
        }
    }

    /// Welcomes a client if there is room for it, or can be made.
    fn welcome(&mut self, id: ConnectionId, welcome: &ToClient, now: Instant) {
        match self.connections.room_for_client(id) {
            ClientRoom::Free => {}
            ClientRoom::InPlaceOf(other) => self.close(other, CloseReason::Full, now),
            ClientRoom::None => return self.close(id, CloseReason::Full, now),
        }
        let Some((connection, _)) = self.connections.get_mut(id) else { return };
        connection.on_greeted();
        connection.send(welcome, now);
        self.intake.push(NetEvent::Greeted { connection: id });
    }

    /// Logs that we share no version with the other side: once for each replica, and for clients once for each range of versions.
    fn log_refused_versions(&mut self, role: &Role, theirs: Versions) {
        let why = self.identity.versions.mismatch(theirs);
        match role {
            Role::Replica { name, .. } => self.log_refused_peer(name, &why),
            Role::Client if self.logged_versions.len() < LOGGED_VERSIONS_MAX && self.logged_versions.insert(theirs) => {
                log::warn!("refusing a client (others like it are not logged): {why}");
            }
            Role::Client => log::debug!("refusing a client: {why}"),
        }
    }
}
