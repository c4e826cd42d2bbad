//! A table of connections that are being made, at most one to each peer.

use super::channel::LoopFlags;
use super::registrar::Registrar;
use crate::replica::{ConnectionId, PeerId};
use mio::net::TcpStream;
use stablechat_protocol::cluster::REPLICAS_MAX;
use stablechat_transport::{Dial, Resolver};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// Dials to peers, and their sockets in the poll.
pub struct Dials {
    dials: BTreeMap<PeerId, Registered>,
    resolver: Resolver,
}

/// A dial, and its socket's number.
struct Registered {
    dial: Dial<Instant>,
    /// The number of the socket that was last registered for it.
    connecting: Option<ConnectionId>,
}

impl Dials {
    /// No dial yet.
    pub fn new(flags: Arc<LoopFlags>) -> Dials {
        Dials { dials: BTreeMap::new(), resolver: Resolver::new(REPLICAS_MAX, move || flags.wake()) }
    }

    /// Adds a dial to a peer, in place of an earlier one. Its number is the peer's.
    pub fn insert(&mut self, peer: PeerId, dial: Dial<Instant>) {
        self.dials.insert(peer, Registered { dial, connecting: None });
    }

    pub fn remove(&mut self, peer: PeerId) {
        self.dials.remove(&peer);
    }

    pub fn get(&self, peer: PeerId) -> Option<&Dial<Instant>> {
        self.dials.get(&peer).map(|registered| &registered.dial)
    }

    pub fn get_mut(&mut self, peer: PeerId) -> Option<&mut Dial<Instant>> {
        self.dials.get_mut(&peer).map(|registered| &mut registered.dial)
    }

    /// When there is something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        self.dials.values().filter_map(|registered| registered.dial.deadline()).min()
    }

    /// Begins the attempts that are due, and gives up on those that take too long. Returns the attempts that have failed, each with
    /// the reason.
    pub fn step(&mut self, registrar: &mut Registrar, now: Instant) -> Vec<(PeerId, String)> {
        let mut failed = Vec::new();
        for (number, addresses) in self.resolver.done() {
            let resolved = self.dials.iter_mut().find(|(PeerId(place), _)| usize::from(*place) == number);
            if let Some((peer, Registered { dial, connecting })) = resolved {
                let attempt = dial.on_resolved(now, addresses, &mut register(registrar, connecting));
                failed.extend(attempt.err().map(|why| (*peer, why)));
            }
        }
        for (peer, Registered { dial, connecting }) in &mut self.dials {
            let attempt = dial.step(now, &self.resolver, &mut register(registrar, connecting));
            failed.extend(attempt.err().map(|why| (*peer, why)));
        }
        failed
    }

    /// Something happened to a socket that may be one of ours. Returns whose it is, and the socket if it is connected.
    ///
    /// # Errors
    /// In the result: the attempt has failed.
    pub fn on_event(&mut self, id: ConnectionId, now: Instant) -> Option<(PeerId, Result<Option<TcpStream>, String>)> {
        let is_this = |registered: &Registered| registered.dial.is_connecting() && registered.connecting == Some(id);
        let (peer, registered) = self.dials.iter_mut().find(|(_, registered)| is_this(registered))?;
        Some((*peer, registered.dial.on_ready(now)))
    }
}

/// Registers a new socket, and notes its number.
fn register(
    registrar: &mut Registrar,
    connecting: &mut Option<ConnectionId>,
) -> impl FnMut(&mut TcpStream) -> io::Result<()> {
    move |socket| {
        *connecting = Some(registrar.register(socket)?);
        Ok(())
    }
}
