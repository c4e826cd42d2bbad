//! The poll loop's connections with other replicas: one with each, from its greeting to its loss.

use super::{PollLoop, close_reason};
use crate::net::connection::Connection;
use crate::net::connections::Remote;
use crate::net::peer_greeting::{DialerReaction, hello, on_answer, refusal_in_words};
use crate::net::{NetEvent, Source};
use crate::replica::{ConnectionId, PeerId};
use mio::net::TcpStream;
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::frame::FrameError;
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::peer::PeerMessage;
use stablechat_transport::ReadEnd;
use std::fmt::Display;
use std::time::Instant;

impl PollLoop {
    /// Says hello to a peer that we have dialed.
    pub(super) fn greet(&mut self, id: ConnectionId, peer: PeerId, socket: TcpStream, now: Instant) {
        let name = self.identity.name_of(peer);
        let tls = match self.tls.dial(&name) {
            Ok(tls) => tls,
            Err(error) => return self.dialer.on_refused(peer, error.to_string(), now),
        };
        let source = socket.peer_addr().map_or(Source::LOCAL, |address| Source::of(address.ip()));
        let mut connection = Connection::new(socket, tls, source, now);
        connection.send(&hello(&self.identity, &name), now);
        self.connections.insert(id, connection, Remote::Dialed(peer));
        // The event that reported the connection may have reported bytes on it as well.
        self.intake.set_readable(id);
    }

    /// Handles a message from a peer, or from a peer that we have dialed.
    pub(super) fn on_peer_message(&mut self, id: ConnectionId, message: PeerMessage, now: Instant) {
        match self.connections.get_mut(id) {
            Some((_, Remote::Dialed(peer))) => {
                let peer = *peer;
                self.on_answer(id, peer, message, now);
            }
            Some((_, Remote::Peer(peer))) => match message {
                PeerMessage::Greeting { .. } => {
                    let reason = CloseReason::OutOfPlace { detail: "a second greeting".into() };
                    self.close_peer(id, reason, &"it sent a second greeting", now);
                }
                PeerMessage::Closing { reason } => self.remove(id, &format_args!("it says that {reason}"), now),
                message => self.intake.push(NetEvent::Peer { time: self.clock.now(), peer: *peer, message }),
            },
            Some((_, Remote::Client(_))) | None => {}
        }
    }

    /// Handles the answer to our hello.
    fn on_answer(&mut self, id: ConnectionId, peer: PeerId, message: PeerMessage, now: Instant) {
        let Some(name) = self.peer_links.name(peer) else { return };
        match on_answer(message, name, &self.identity) {
            DialerReaction::Connected { version } => self.begin_link(id, peer, version, now),
            // A replica that stops comes back soon: it is dialed again like one that is down.
            DialerReaction::Refused(CloseReason::Stopping) => self.remove(id, &CloseReason::Stopping, now),
            DialerReaction::Refused(reason) => {
                self.intake.forget(id);
                self.connections.remove(id);
                let reason = format!("it refuses us: {}", refusal_in_words(&reason, &self.identity));
                self.dialer.on_refused(peer, reason, now);
            }
            DialerReaction::Close(reason) => self.close_peer(id, reason.clone(), &reason, now),
        }
    }

    /// Handles bytes of a peer, or of a peer that we have dialed, that are no message.
    pub(super) fn on_peer_error(&mut self, id: ConnectionId, error: &FrameError, now: Instant) {
        self.close_peer(id, close_reason(error.clone(), true), &format_args!("it sent {error}"), now);
    }

    /// A connection with a peer, or one that we have dialed, is broken.
    pub(super) fn on_peer_broken(&mut self, id: ConnectionId, end: &ReadEnd, now: Instant) {
        match (end, self.connections.get_mut(id)) {
            // An operator has to do something about it.
            (ReadEnd::Failed(fault), Some((_, Remote::Dialed(peer)))) if fault.is_lasting() => {
                let peer = *peer;
                self.intake.forget(id);
                self.connections.remove(id);
                self.dialer.on_refused(peer, fault.to_string(), now);
            }
            (ReadEnd::Failed(fault), _) => self.remove(id, fault, now),
            _ => self.remove(id, &"it has ended the connection", now),
        }
    }

    /// Makes a connection the peer's. A peer that connects again has lost its earlier connection, even if we have not noticed.
    pub(super) fn begin_link(&mut self, id: ConnectionId, peer: PeerId, version: u16, now: Instant) {
        if let Some(earlier) = self.peer_links.connection(peer) {
            self.remove(earlier, &"it has connected again", now);
        }
        let (Some(name), Some((connection, remote))) = (self.peer_links.name(peer), self.connections.get_mut(id))
        else {
            return;
        };

        log::info!("connected to replica {name}, speaking version {version} of the protocol");
        connection.on_greeted_by_peer();
        *remote = Remote::Peer(peer);
        self.peer_links.begin(peer, id);
        self.dialer.on_greeted(peer);
        self.inquirer.on_connected(peer);
        self.intake.push(NetEvent::PeerConnected { peer });
    }

    /// Notes that the connection with a peer is gone.
    pub(super) fn end_link(&mut self, peer: PeerId, why: &dyn Display, now: Instant) {
        let Some(name) = self.peer_links.name(peer) else { return };
        log::info!("lost connection to replica {name}: {why}");
        self.peer_links.end(peer);
        self.dialer.on_lost(peer, now);
        self.intake.push(NetEvent::PeerDisconnected { peer });
    }

    /// Goes on asking whether anybody listens at the addresses of lost peers.
    pub(super) fn ask_addresses(&mut self) {
        for (peer, number) in self.inquirer.step(&mut self.registrar, Instant::now()) {
            self.intake.push(NetEvent::AddressRefused { peer, number });
        }
    }

    /// Ends the connection with a peer, which is told the reason if its socket takes it at once.
    pub(super) fn close_peer(&mut self, id: ConnectionId, reason: CloseReason, why: &dyn Display, now: Instant) {
        if let Some((connection, _)) = self.connections.get_mut(id) {
            connection.close(reason, now);
            connection.flush(now);
        }
        self.remove(id, why, now);
    }

    /// Logs that we refuse a process that says it is the replica of this name.
    pub(super) fn log_refused_peer(&mut self, name: &ReplicaName, reason: &dyn Display) {
        match self.peer_links.logs_refusal(name) {
            true => log::warn!("refusing replica {name}: {reason}"),
            false => log::debug!("refusing replica {name}: {reason}"),
        }
    }

    /// Queues a message for a peer, if it is connected.
    pub(super) fn send_to_peer(&mut self, peer: PeerId, message: &PeerMessage, now: Instant) {
        let Some(id) = self.peer_links.acknowledged(peer) else { return };
        let Some((connection, _)) = self.connections.get_mut(id) else { return };
        connection.send(message, now);
        if connection.is_closing() {
            self.close_peer(id, CloseReason::SlowReader, &"it does not read what it is sent", now);
        }
    }

    /// Ends the connection with a peer because the applier wants a new one. What was queued before is written as far as the socket
    /// takes it.
    pub(super) fn disconnect(&mut self, peer: PeerId, now: Instant) {
        let Some(id) = self.peer_links.acknowledged(peer) else { return };
        if let Some((connection, _)) = self.connections.get_mut(id) {
            connection.flush(now);
        }
        self.remove(id, &"this replica resynchronizes with it", now);
    }
}
