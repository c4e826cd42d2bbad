//! Dialing the replicas that the cluster file names after this one, again and again until they answer.
//!
//! Of two replicas, the one that comes first in the cluster file dials, so that each pair has one connection. How a connection is
//! made is [`stablechat_transport::Dial`]'s business; this module logs what an operator should know, once for each outage.

use super::ReplicaIdentity;
use super::channel::LoopFlags;
use super::dials::Dials;
use super::registrar::Registrar;
use crate::replica::{ConnectionId, PeerId};
use mio::net::TcpStream;
use stablechat_protocol::cluster::ReplicaEntry;
use stablechat_protocol::name::ReplicaName;
use stablechat_transport::{Dial, Pacing};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Waits are short, because a replica that starts waits for its peers before it serves alone.
const PACING: Pacing = Pacing {
    first_wait: Duration::from_millis(50),
    longest_wait: Duration::from_millis(150),
    connect_limit: Duration::from_millis(300),
};

/// The replicas to be dialed.
pub struct Dialer {
    peers: BTreeMap<PeerId, DialedPeer>,
    dials: Dials,
}

/// One replica to be dialed: what was logged of it.
struct DialedPeer {
    name: ReplicaName,
    address: String,
    /// Whether it was logged that the replica cannot be reached, since it last greeted us.
    is_failure_logged: bool,
    /// The last reason for which there was no connection, as logged.
    logged_refusal: Option<String>,
}

impl Dialer {
    /// Will dial the replicas after us, at once.
    pub fn new(us: &ReplicaIdentity, flags: Arc<LoopFlags>, now: Instant) -> Dialer {
        let mut dials = Dials::new(flags);
        let mut peers = BTreeMap::new();
        for (peer, ReplicaEntry { name, address }) in us.peers().filter(|(peer, _)| *peer > us.place) {
            dials.insert(peer, Dial::new(usize::from(peer.0), address.clone(), PACING, now));
            let (name, address) = (name.clone(), address.clone());
            peers.insert(peer, DialedPeer { name, address, is_failure_logged: false, logged_refusal: None });
        }
        Dialer { peers, dials }
    }

    /// When there is something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        self.dials.deadline()
    }

    /// Begins the attempts that are due, and gives up on those that take too long.
    pub fn step(&mut self, registrar: &mut Registrar, now: Instant) {
        for (peer, why) in self.dials.step(registrar, now) {
            self.note_failure(peer, &why);
        }
    }

    /// Something happened to a socket that may be one of ours. Returns the peer and the socket once it is connected.
    pub fn take_connected(&mut self, id: ConnectionId, now: Instant) -> Option<(PeerId, TcpStream)> {
        let (peer, attempt) = self.dials.on_event(id, now)?;
        match attempt {
            Ok(socket) => socket.map(|socket| (peer, socket)),
            Err(why) => {
                self.note_failure(peer, &why);
                None
            }
        }
    }

    /// The peer has greeted us.
    pub fn on_greeted(&mut self, peer: PeerId) {
        if let Some(dial) = self.dials.get_mut(peer) {
            dial.on_success();
        }
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.is_failure_logged = false;
            peer.logged_refusal = None;
        }
    }

    /// The peer does not want us, or is not who it should be. Only an operator can change that, so there is no hurry to ask again.
    pub fn on_refused(&mut self, peer: PeerId, reason: String, now: Instant) {
        if let Some(dial) = self.dials.get_mut(peer) {
            dial.retry_slowly(now);
        }
        let Some(peer) = self.peers.get_mut(&peer) else { return };
        if peer.logged_refusal.as_ref() != Some(&reason) {
            log::warn!("replica {}: {reason}", peer.name);
            peer.logged_refusal = Some(reason);
        }
    }

    /// The connection came to nothing before the peer had greeted us.
    pub fn on_failed(&mut self, peer: PeerId, why: &dyn Display, now: Instant) {
        self.on_lost(peer, now);
        self.note_failure(peer, why);
    }

    /// The connection is lost, if it was one of ours.
    pub fn on_lost(&mut self, peer: PeerId, now: Instant) {
        if let Some(dial) = self.dials.get_mut(peer) {
            dial.retry(now);
        }
    }

    /// Logs the first failed attempt of an outage.
    fn note_failure(&mut self, peer: PeerId, why: &dyn Display) {
        let Some(peer) = self.peers.get_mut(&peer) else { return };
        if !std::mem::replace(&mut peer.is_failure_logged, true) {
            log::info!("cannot reach replica {} at {}, trying again until it answers: {why}", peer.name, peer.address);
        }
    }
}
