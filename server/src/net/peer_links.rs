//! Which connection is each peer's.
//!
//! The applier and the poll loop learn of a new connection at different times. Messages that the applier addressed to a peer
//! before it knew of the present connection were meant for an earlier one. They must not go out on this one: something between
//! them may have been lost, and what follows a gap could make the peer believe that it has been told everything.

use crate::replica::{ConnectionId, PeerId};
use stablechat_protocol::name::ReplicaName;
use std::collections::BTreeMap;

/// The links to all peers.
pub struct PeerLinks {
    peers: BTreeMap<PeerId, Link>,
}

/// The link to one peer.
struct Link {
    name: ReplicaName,
    /// The peer's connection, from its greeting to its loss.
    connection: Option<ConnectionId>,
    /// How many connections the applier has been told of and has not acknowledged.
    unacknowledged: usize,
    /// Whether it was logged that we refuse the peer, since it was last connected.
    is_refusal_logged: bool,
}

impl PeerLinks {
    /// Links to these peers, none of them connected.
    pub fn new(peers: impl IntoIterator<Item = (PeerId, ReplicaName)>) -> PeerLinks {
        let link = |name| Link { name, connection: None, unacknowledged: 0, is_refusal_logged: false };
        PeerLinks { peers: peers.into_iter().map(|(peer, name)| (peer, link(name))).collect() }
    }

    /// The name of a peer.
    pub fn name(&self, peer: PeerId) -> Option<&ReplicaName> {
        self.peers.get(&peer).map(|link| &link.name)
    }

    /// The present connection of a peer.
    pub fn connection(&self, peer: PeerId) -> Option<ConnectionId> {
        self.peers.get(&peer)?.connection
    }

    /// The connection that the applier means when it speaks of a peer's: none while it has not acknowledged the present one.
    pub fn acknowledged(&self, peer: PeerId) -> Option<ConnectionId> {
        self.peers.get(&peer).filter(|link| link.unacknowledged == 0)?.connection
    }

    /// Makes a connection the peer's. The applier is to be told.
    pub fn begin(&mut self, peer: PeerId, connection: ConnectionId) {
        if let Some(link) = self.peers.get_mut(&peer) {
            link.connection = Some(connection);
            link.unacknowledged += 1;
            link.is_refusal_logged = false;
        }
    }

    /// The peer's connection is no more.
    pub fn end(&mut self, peer: PeerId) {
        if let Some(link) = self.peers.get_mut(&peer) {
            link.connection = None;
        }
    }

    /// The applier knows of one more connection with a peer.
    pub fn on_acknowledged(&mut self, peer: PeerId) {
        if let Some(link) = self.peers.get_mut(&peer) {
            link.unacknowledged = link.unacknowledged.saturating_sub(1);
        }
    }

    /// Whether the refusal of a peer of this name is to be logged: once until it is connected, however often it tries. Names that
    /// the cluster file does not have are not logged, since anybody can make them up.
    pub fn logs_refusal(&mut self, name: &ReplicaName) -> bool {
        let link = self.peers.values_mut().find(|link| link.name == *name);
        link.is_some_and(|link| !std::mem::replace(&mut link.is_refusal_logged, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId(1);

    fn links() -> PeerLinks {
        PeerLinks::new([(PEER, ReplicaName::parse("b").expect("a name"))])
    }

    #[test]
    fn messages_for_an_earlier_connection_have_none() {
        let mut links = links();
        links.begin(PEER, ConnectionId(1));
        assert_eq!((links.connection(PEER), links.acknowledged(PEER)), (Some(ConnectionId(1)), None));
        links.on_acknowledged(PEER);
        assert_eq!(links.acknowledged(PEER), Some(ConnectionId(1)));

        links.end(PEER);
        links.begin(PEER, ConnectionId(2));
        links.end(PEER);
        links.begin(PEER, ConnectionId(3));
        links.on_acknowledged(PEER);
        assert_eq!(links.acknowledged(PEER), None, "that was the second");
        links.on_acknowledged(PEER);
        assert_eq!(links.acknowledged(PEER), Some(ConnectionId(3)));
    }

    #[test]
    fn a_refusal_is_logged_once_per_outage() {
        let (mut links, name) = (links(), ReplicaName::parse("b").expect("a name"));
        assert!(links.logs_refusal(&name) && !links.logs_refusal(&name));
        links.begin(PEER, ConnectionId(1));
        assert!(links.logs_refusal(&name));
        assert!(!links.logs_refusal(&ReplicaName::parse("unknown").expect("a name")));
    }
}
