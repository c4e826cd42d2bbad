//! Asking whether anybody listens at the address of a peer that we have lost the connection with.
//!
//! An address that refuses a connection proves that the process is dead that listened there. So the attempts begin at once and
//! follow each other quickly, from either side: a peer that has ended may take a moment to close its sockets, and the first
//! attempt may still be accepted. An attempt that is accepted, or gets no answer, says nothing. Nothing is sent on these
//! connections.
//!
//! A name may lead to several addresses, and to other ones than when the peer was connected. All of them have to refuse.

use super::ReplicaIdentity;
use super::channel::LoopFlags;
use super::dials::Dials;
use super::registrar::Registrar;
use crate::replica::{ConnectionId, PeerId};
use stablechat_protocol::cluster::REPLICAS_MAX;
use stablechat_transport::{Dial, Pacing, Resolver};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A local network answers within a millisecond. Attempts that go on for long, since the peer lives and the way to it is broken,
/// are rare enough to cost little.
const PACING: Pacing = Pacing {
    first_wait: Duration::from_millis(1),
    longest_wait: Duration::from_millis(50),
    connect_limit: Duration::from_millis(300),
};

/// The questions that are not answered.
pub struct Inquirer {
    /// The address of each peer, as the cluster file has it.
    addresses: BTreeMap<PeerId, String>,
    /// Where the name in that address led to when the peer was last connected. Not for addresses that are numbers.
    known: BTreeMap<PeerId, Vec<SocketAddr>>,
    /// The peers whose names are being looked up, since they are connected.
    looked_up: BTreeSet<PeerId>,
    lookups: Resolver,
    /// The number under which it was asked about each peer.
    numbers: BTreeMap<PeerId, u64>,
    dials: Dials,
}

impl Inquirer {
    /// Nothing is asked yet.
    pub fn new(us: &ReplicaIdentity, flags: Arc<LoopFlags>) -> Inquirer {
        let waker = flags.clone();
        Inquirer {
            addresses: us.peers().map(|(peer, entry)| (peer, entry.address.clone())).collect(),
            known: BTreeMap::new(),
            looked_up: BTreeSet::new(),
            lookups: Resolver::new(REPLICAS_MAX, move || waker.wake()),
            numbers: BTreeMap::new(),
            dials: Dials::new(flags),
        }
    }

    /// Asks, in place of an earlier question about this peer.
    pub fn ask(&mut self, peer: PeerId, number: u64, now: Instant) {
        let Some(address) = self.addresses.get(&peer) else { return };
        let known = self.known.get(&peer).cloned().unwrap_or_default();
        let dial = Dial::new(usize::from(peer.0), address.clone(), PACING, now).with_also(known);
        self.numbers.insert(peer, number);
        self.dials.insert(peer, dial);
    }

    /// The answer is not wanted any more.
    pub fn forget(&mut self, peer: PeerId) {
        self.numbers.remove(&peer);
        self.dials.remove(peer);
    }

    /// The peer is connected: it lives. Looks up where it does, so that all these addresses are asked when it is lost.
    pub fn on_connected(&mut self, peer: PeerId) {
        self.forget(peer);
        let Some(address) = self.addresses.get(&peer).filter(|address| address.parse::<SocketAddr>().is_err()) else {
            return;
        };
        if self.looked_up.insert(peer)
            && let Err(error) = self.lookups.resolve(usize::from(peer.0), address)
        {
            self.looked_up.remove(&peer);
            log::debug!("cannot look up {address}: {error}");
        }
    }

    /// When there is something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        self.dials.deadline()
    }

    /// Begins the attempts that are due, and gives up on those that take too long. Returns the questions that are answered: nobody
    /// listens there.
    pub fn step(&mut self, registrar: &mut Registrar, now: Instant) -> Vec<(PeerId, u64)> {
        for (place, addresses) in self.lookups.done() {
            let Some(peer) = self.looked_up.iter().copied().find(|peer| usize::from(peer.0) == place) else { continue };
            self.looked_up.remove(&peer);
            if let Ok(addresses) = addresses {
                self.known.insert(peer, addresses);
            }
        }

        // An attempt that has failed is tried again; the dialer tells the operator.
        for (peer, why) in self.dials.step(registrar, now) {
            log::trace!("asked the address of peer {}: {why}", peer.0);
        }
        let is_refused = |peer: &PeerId| self.dials.get(*peer).is_some_and(Dial::is_refused);
        let answered: Vec<(PeerId, u64)> =
            self.numbers.iter().filter(|(peer, _)| is_refused(peer)).map(|(peer, number)| (*peer, *number)).collect();
        answered.iter().for_each(|(peer, _)| self.forget(*peer));
        answered
    }

    /// Something happened to a socket that may be one of ours. Says whether it is.
    pub fn on_event(&mut self, id: ConnectionId, now: Instant) -> bool {
        let Some((peer, attempt)) = self.dials.on_event(id, now) else { return false };
        // A connection says nothing, so it is dropped, and another attempt follows.
        if let Ok(Some(_)) = attempt
            && let Some(dial) = self.dials.get_mut(peer)
        {
            dial.retry(now);
        }
        true
    }
}
