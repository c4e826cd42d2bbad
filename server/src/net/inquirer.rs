//! Asking whether anybody listens at the address of a peer that we have lost the connection with.
//!
//! An address that refuses a connection proves that the process is dead that listened there. So the attempts begin at once and
//! follow each other quickly, from either side: a peer that has ended may take a moment to close its sockets, and the first
//! attempt may still be accepted. An attempt that is accepted, or gets no answer, says nothing. Nothing is sent on these
//! connections.

use super::ReplicaIdentity;
use super::channel::LoopFlags;
use super::dialer::register;
use super::registrar::Registrar;
use crate::replica::{ConnectionId, PeerId};
use stablechat_protocol::cluster::REPLICAS_MAX;
use stablechat_transport::{Dial, Pacing, Resolver};
use std::collections::BTreeMap;
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
    inquiries: BTreeMap<PeerId, Inquiry>,
    resolver: Resolver,
}

/// A question.
struct Inquiry {
    /// The number under which it was asked.
    number: u64,
    dial: Dial<Instant>,
    /// The number of the socket that was last registered for it.
    connecting: Option<ConnectionId>,
}

impl Inquirer {
    /// Nothing is asked yet.
    pub fn new(us: &ReplicaIdentity, flags: Arc<LoopFlags>) -> Inquirer {
        let addresses = us.peers().map(|(peer, entry)| (peer, entry.address.clone())).collect();
        let resolver = Resolver::new(REPLICAS_MAX, move || flags.wake());
        Inquirer { addresses, inquiries: BTreeMap::new(), resolver }
    }

    /// Asks, in place of an earlier question about this peer.
    pub fn ask(&mut self, peer: PeerId, number: u64, now: Instant) {
        if let Some(address) = self.addresses.get(&peer) {
            let dial = Dial::new(usize::from(peer.0), address.clone(), PACING, now);
            self.inquiries.insert(peer, Inquiry { number, dial, connecting: None });
        }
    }

    /// The peer is connected: it lives.
    pub fn on_connected(&mut self, peer: PeerId) {
        self.inquiries.remove(&peer);
    }

    /// When there is something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        self.inquiries.values().filter_map(|inquiry| inquiry.dial.deadline()).min()
    }

    /// Begins the attempts that are due, and gives up on those that take too long. Returns the questions that are answered: nobody
    /// listens there.
    pub fn step(&mut self, registrar: &mut Registrar, now: Instant) -> Vec<(PeerId, u64)> {
        for (number, addresses) in self.resolver.done() {
            let resolved = self.inquiries.iter_mut().find(|(PeerId(place), _)| usize::from(*place) == number);
            if let Some((_, Inquiry { dial, connecting, .. })) = resolved {
                note(dial.on_resolved(now, addresses, &mut register(registrar, connecting)));
            }
        }
        for Inquiry { dial, connecting, .. } in self.inquiries.values_mut() {
            note(dial.step(now, &self.resolver, &mut register(registrar, connecting)));
        }
        let refused = |(_, inquiry): &(&PeerId, &Inquiry)| inquiry.dial.is_refused();
        let answered: Vec<(PeerId, u64)> =
            self.inquiries.iter().filter(refused).map(|(peer, inquiry)| (*peer, inquiry.number)).collect();
        self.inquiries.retain(|_, inquiry| !inquiry.dial.is_refused());
        answered
    }

    /// Something happened to a socket that may be one of ours. Says whether it is.
    pub fn on_event(&mut self, id: ConnectionId, now: Instant) -> bool {
        let is_this = |inquiry: &&mut Inquiry| inquiry.dial.is_connecting() && inquiry.connecting == Some(id);
        let Some(Inquiry { dial, .. }) = self.inquiries.values_mut().find(is_this) else { return false };
        // A connection says nothing, so it is dropped, and another attempt follows.
        if let Ok(Some(_)) = dial.on_ready(now) {
            dial.retry(now);
        }
        true
    }
}

/// Notes an attempt that has failed. Whether that proves anything is looked at afterwards; the dialer tells the operator.
fn note(attempt: Result<(), String>) {
    if let Err(why) = attempt {
        log::trace!("asked a peer's address: {why}");
    }
}
