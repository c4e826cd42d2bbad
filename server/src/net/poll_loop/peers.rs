//! The poll loop's connections with other replicas: one with each, from its greeting to its loss.

use super::{OtherSide, PollLoop, close_reason};
use crate::net::NetEvent;
use crate::net::connection::Connection;
use crate::net::peer_greeting::{DialerReaction, hello, on_answer, refusal_in_words};
use crate::replica::{ConnectionId, PeerId};
use mio::net::TcpStream;
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::frame::FrameError;
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::peer::PeerMessage;
use std::fmt::Display;
use std::time::Instant;

/// What the loop knows of a peer.
pub(super) struct Link {
    name: ReplicaName,
    /// The connection with it, from greeting to loss.
    connection: Option<ConnectionId>,
    /// How many [`NetEvent::PeerConnected`] the applier has not seen yet. Until then, what it sends to the peer was meant for an
    /// earlier connection, and is dropped.
    unseen: usize,
    /// Whether it has been logged that we refuse it, since it was last connected.
    refused: bool,
}

impl Link {
    /// A peer that is not connected.
    pub(super) fn to(name: ReplicaName) -> Link {
        Link { name, connection: None, unseen: 0, refused: false }
    }
}

impl PollLoop {
    /// Says hello to a peer that we have dialed.
    pub(super) fn greet(&mut self, id: ConnectionId, peer: PeerId, stream: TcpStream, now: Instant) {
        let mut connection = Connection::new(stream, now);
        connection.send(&hello(&self.identity, &self.identity.name_of(peer)), now);
        self.connections.insert(id, (connection, OtherSide::Dialed(peer)));
        // The event that told us of the connection may have told of an answer as well.
        self.intake.set_readable(id);
    }

    /// Handles a message from a peer, or from one that we have dialed.
    pub(super) fn on_peer_message(&mut self, id: ConnectionId, message: PeerMessage, now: Instant) {
        match self.connections.get(&id) {
            Some((_, OtherSide::Dialed(peer))) => self.on_answer(id, *peer, message, now),
            Some((_, OtherSide::Peer(peer))) => match message {
                PeerMessage::Greeting { .. } => {
                    let reason = CloseReason::OutOfPlace { detail: "a second greeting".into() };
                    self.close_peer(id, reason, &"it sent a second greeting", now);
                }
                PeerMessage::Closing { reason } => self.remove(id, &format_args!("it says that {reason}"), now),
                message => self.intake.push(NetEvent::Peer { time: self.clock.now(), peer: *peer, message }),
            },
            Some((_, OtherSide::Client(_))) | None => {}
        }
    }

    /// Handles the answer to our hello.
    fn on_answer(&mut self, id: ConnectionId, peer: PeerId, message: PeerMessage, now: Instant) {
        let Some(link) = self.links.get(&peer) else { return };
        match on_answer(message, &link.name, &self.identity) {
            DialerReaction::Connected { version } => self.begin_link(id, peer, version, now),
            DialerReaction::Refused(CloseReason::Stopping) => self.remove(id, &CloseReason::Stopping, now),
            DialerReaction::Refused(reason) => {
                self.intake.forget(id);
                self.connections.remove(&id);
                self.dialer.on_refused(peer, refusal_in_words(&reason, &self.identity), now);
            }
            DialerReaction::Close(reason) => self.close_peer(id, reason.clone(), &reason, now),
        }
    }

    /// Handles bytes of a peer, or of one that we have dialed, that are no message.
    pub(super) fn on_peer_error(&mut self, id: ConnectionId, error: &FrameError, now: Instant) {
        self.close_peer(id, close_reason(error.clone(), true), &format_args!("it sent {error}"), now);
    }

    /// Makes a connection the one with a peer, in place of an earlier one. Who connects again has lost the earlier one, even
    /// if we have not noticed.
    pub(super) fn begin_link(&mut self, id: ConnectionId, peer: PeerId, version: u16, now: Instant) {
        if let Some(earlier) = self.links.get(&peer).and_then(|link| link.connection) {
            self.remove(earlier, &"it has connected again", now);
        }
        let (Some(link), Some((connection, other_side))) = (self.links.get_mut(&peer), self.connections.get_mut(&id))
        else {
            return;
        };
        connection.on_greeted_by_peer();
        *other_side = OtherSide::Peer(peer);
        log::info!("connected to replica {}, speaking version {version} of the protocol", link.name);
        link.connection = Some(id);
        link.unseen += 1;
        link.refused = false;
        self.dialer.on_greeted(peer);
        self.intake.push(NetEvent::PeerConnected { peer });
    }

    /// Notes that the connection with a peer is no more.
    pub(super) fn end_link(&mut self, peer: PeerId, why: &dyn Display, now: Instant) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        log::info!("lost connection to replica {}: {why}", link.name);
        link.connection = None;
        self.dialer.on_lost(peer, now);
        self.intake.push(NetEvent::PeerDisconnected { peer });
    }

    /// Ends the connection with a peer, which is told the reason if it can take it at once.
    pub(super) fn close_peer(&mut self, id: ConnectionId, reason: CloseReason, why: &dyn Display, now: Instant) {
        if let Some((connection, _)) = self.connections.get_mut(&id) {
            connection.close(reason, now);
            connection.flush();
        }
        self.remove(id, why, now);
    }

    /// Logs that we refuse one that says it is the peer of this name: once, however often it tries.
    pub(super) fn on_peer_refused(&mut self, name: &ReplicaName, reason: &dyn Display) {
        match self.links.values_mut().find(|link| link.name == *name) {
            Some(link) if !link.refused => {
                log::warn!("refusing replica {name}: {reason}");
                link.refused = true;
            }
            _ => log::debug!("refusing replica {name}: {reason}"),
        }
    }

    /// Queues a message for a peer, if it is connected.
    pub(super) fn send_to_peer(&mut self, peer: PeerId, message: &PeerMessage, now: Instant) {
        let Some(id) = self.seen_connection(peer) else { return };
        let Some((connection, _)) = self.connections.get_mut(&id) else { return };
        connection.send(message, now);
        if connection.is_closing() {
            self.close_peer(id, CloseReason::SlowReader, &"it does not read what it is sent", now);
        }
    }

    /// Ends the connection with a peer because the applier wants a new one. What was queued before is sent as far as it can be.
    pub(super) fn disconnect(&mut self, peer: PeerId, now: Instant) {
        let Some(id) = self.seen_connection(peer) else { return };
        if let Some((connection, _)) = self.connections.get_mut(&id) {
            connection.flush();
        }
        self.remove(id, &"we begin again with it", now);
    }

    /// The connection that the applier means when it speaks of a peer's: none when it does not know of the present one yet.
    fn seen_connection(&self, peer: PeerId) -> Option<ConnectionId> {
        self.links.get(&peer).filter(|link| link.unseen == 0)?.connection
    }

    /// The applier knows of a connection with a peer.
    pub(super) fn on_connection_seen(&mut self, peer: PeerId) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.unseen = link.unseen.saturating_sub(1);
        }
    }
}
