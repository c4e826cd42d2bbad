//! Dialing the replicas that the cluster file names after this one, again and again until they answer.
//!
//! Of two replicas, the one that comes first in the cluster file dials, so that each pair has one connection. How a connection is
//! made is [`stablechat_transport::Dial`]'s business; this module logs what an operator should know, once for each outage.

use super::ReplicaIdentity;
use super::channel::LoopFlags;
use super::registrar::Registrar;
use crate::replica::{ConnectionId, PeerId};
use mio::net::TcpStream;
use stablechat_protocol::cluster::REPLICAS_MAX;
use stablechat_protocol::name::ReplicaName;
use stablechat_transport::{Dial, Pacing, Resolver};
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
    resolver: Resolver,
}

/// One replica to be dialed.
struct DialedPeer {
    name: ReplicaName,
    dial: Dial<Instant>,
    /// The number of the socket that was last registered for it.
    connecting: Option<ConnectionId>,
    /// Whether it was logged that the replica cannot be reached, since it last greeted us.
    is_failure_logged: bool,
    /// The last reason for which it refused us, as logged.
    logged_refusal: Option<String>,
}

impl Dialer {
    /// Will dial the replicas after us, at once.
    pub fn new(us: &ReplicaIdentity, flags: Arc<LoopFlags>, now: Instant) -> Dialer {
        let later = us.peers().filter(|(peer, _)| *peer > us.place);
        let peers = later.map(|(peer, entry)| {
            let dial = Dial::new(usize::from(peer.0), entry.address.clone(), PACING, now);
            (peer, DialedPeer::new(entry.name.clone(), dial))
        });
        Dialer { peers: peers.collect(), resolver: Resolver::new(REPLICAS_MAX, move || flags.wake()) }
    }

    /// When there is something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        self.peers.values().filter_map(|peer| peer.dial.deadline()).min()
    }

    /// Begins the attempts that are due, and gives up on those that take too long.
    pub fn step(&mut self, registrar: &mut Registrar, now: Instant) {
        for (number, addresses) in self.resolver.done() {
            let resolved = self.peers.iter_mut().find(|(PeerId(place), _)| usize::from(*place) == number);
            if let Some((_, peer)) = resolved {
                let DialedPeer { dial, connecting, .. } = peer;
                let attempt = dial.on_resolved(now, addresses, &mut register(registrar, connecting));
                peer.note_attempt(attempt);
            }
        }
        for peer in self.peers.values_mut() {
            let DialedPeer { dial, connecting, .. } = peer;
            let attempt = dial.step(now, &self.resolver, &mut register(registrar, connecting));
            peer.note_attempt(attempt);
        }
    }

    /// Something happened to a socket that may be one of ours. Returns the peer and the socket once it is connected.
    pub fn take_connected(&mut self, id: ConnectionId, now: Instant) -> Option<(PeerId, TcpStream)> {
        let is_this = |peer: &DialedPeer| peer.dial.is_connecting() && peer.connecting == Some(id);
        let (id, peer) = self.peers.iter_mut().find(|(_, peer)| is_this(peer))?;
        match peer.dial.on_ready(now) {
            Ok(socket) => socket.map(|socket| (*id, socket)),
            Err(why) => {
                peer.note_attempt(Err(why));
                None
            }
        }
    }

    /// The peer has greeted us.
    pub fn on_greeted(&mut self, peer: PeerId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.dial.on_success();
            peer.is_failure_logged = false;
            peer.logged_refusal = None;
        }
    }

    /// The peer does not want us. Only an operator can change that, so there is no hurry to ask again.
    pub fn on_refused(&mut self, peer: PeerId, reason: String, now: Instant) {
        let Some(peer) = self.peers.get_mut(&peer) else { return };
        if peer.logged_refusal.as_ref() != Some(&reason) {
            log::warn!("replica {} refuses us: {reason}", peer.name);
            peer.logged_refusal = Some(reason);
        }
        peer.dial.retry_slowly(now);
    }

    /// The connection came to nothing before the peer had greeted us.
    pub fn on_failed(&mut self, peer: PeerId, why: &dyn Display, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.dial.retry(now);
            peer.note_attempt(Err(why.to_string()));
        }
    }

    /// The connection is lost, if it was one of ours.
    pub fn on_lost(&mut self, peer: PeerId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.dial.retry(now);
        }
    }
}

impl DialedPeer {
    fn new(name: ReplicaName, dial: Dial<Instant>) -> DialedPeer {
        DialedPeer { name, dial, connecting: None, is_failure_logged: false, logged_refusal: None }
    }

    /// Logs the first failed attempt of an outage.
    fn note_attempt(&mut self, attempt: Result<(), String>) {
        if let Err(why) = attempt
            && !std::mem::replace(&mut self.is_failure_logged, true)
        {
            log::info!(
                "cannot reach replica {} at {}, trying again until it answers: {why}",
                self.name,
                self.dial.address()
            );
        }
    }
}

/// Registers a new socket, and notes its number.
pub(super) fn register(
    registrar: &mut Registrar,
    connecting: &mut Option<ConnectionId>,
) -> impl FnMut(&mut TcpStream) -> std::io::Result<()> {
    move |socket| {
        *connecting = Some(registrar.register(socket)?);
        Ok(())
    }
}
