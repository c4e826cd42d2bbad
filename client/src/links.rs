//! The links to all replicas of a cluster.

use crate::greeting::{Credentials, Greeting};
use crate::link::{Link, LinkEvent};
use mio::{Registry, Waker};
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::frame;
use stablechat_protocol::message::ToReplica;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::version::Versions;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Addresses that were looked up for a link.
type Lookup = (usize, io::Result<Vec<SocketAddr>>);

/// The links to all replicas, numbered as in the cluster file.
pub struct Links {
    /// By number.
    links: Vec<Link>,
    /// What new connections begin with.
    greeting: Greeting,
    /// How long a replica may take to answer a ping: beyond two delivery bounds and two seconds it hangs.
    limit: Duration,
    /// Where sockets are registered, under their link's number.
    registry: Registry,
    /// Ends the poll when a lookup is done.
    waker: Arc<Waker>,
    /// Lookups that are done; at most one for each link.
    lookups: crossbeam_channel::Receiver<Lookup>,
    /// For threads that look up.
    looked_up: crossbeam_channel::Sender<Lookup>,
}

impl Links {
    /// Links to the replicas of a cluster, which connect at the first [`Links::on_time`].
    pub fn new(cluster: &Cluster, registry: Registry, waker: Arc<Waker>) -> Links {
        let (looked_up, lookups) = crossbeam_channel::bounded(cluster.replicas.len());
        let links = cluster.replicas.iter().enumerate().map(|(number, replica)| Link::new(number, replica.clone()));
        Links {
            links: links.collect(),
            greeting: Greeting {
                cluster: cluster.name.clone(),
                identity: None,
                receive: false,
                versions: Versions::OURS,
            },
            limit: cluster.delivery_bound * 2 + Duration::from_secs(2),
            registry,
            waker,
            lookups,
            looked_up,
        }
    }

    /// The same links, speaking these versions of the protocol, for tests of upgrades.
    pub fn speaking(mut self, versions: Versions) -> Links {
        self.greeting.versions = versions;
        self
    }

    /// Whether each link was ready or has failed, so that there is nothing to wait for before the first request.
    pub fn are_tried(&self) -> bool {
        self.links.iter().all(Link::is_tried)
    }

    /// Whether no replica is what the cluster file says.
    pub fn are_misconfigured(&self) -> bool {
        self.links.iter().all(Link::is_misconfigured)
    }

    /// The links that are ready.
    pub fn ready(&self) -> impl Iterator<Item = usize> {
        self.links.iter().enumerate().filter(|(_, link)| link.is_ready()).map(|(number, _)| number)
    }

    /// Speaks for this account, or for nobody, from here on, on all connections, now and later.
    pub fn log_in(&mut self, identity: Option<Rc<Credentials>>, receive: bool) {
        self.greeting.identity = identity;
        self.greeting.receive = receive;
        self.links.iter_mut().for_each(|link| link.log_in(&self.greeting));
    }

    /// Queues a frame on one link, or on all that are ready.
    pub fn send(&mut self, link: Option<usize>, message: &ToReplica) {
        let mut bytes = Vec::new();
        frame::encode(message, &mut bytes).expect("the limits of texts and acknowledgements keep frames short");
        match link {
            Some(link) => self.links[link].send(&bytes),
            None => self.links.iter_mut().for_each(|link| link.send(&bytes)),
        }
    }

    /// Handles readiness of a link's socket.
    pub fn on_ready(&mut self, now: Timestamp, event: &mio::event::Event, events: &mut Vec<LinkEvent>) {
        let is_readable = event.is_readable() || event.is_read_closed() || event.is_error();
        let is_writable = event.is_writable() || event.is_error();
        if let Some(link) = self.links.get_mut(event.token().0) {
            link.on_ready(now, is_readable, is_writable, &self.greeting, events);
        }
    }

    /// Does what is due, and writes what can be written.
    pub fn on_time(&mut self, now: Timestamp, events: &mut Vec<LinkEvent>) {
        for (number, addresses) in self.lookups.try_iter() {
            self.links[number].on_addresses(now, addresses, &self.registry, events);
        }
        for number in 0..self.links.len() {
            if self.links[number].on_time(now, self.limit, events) {
                self.look_up(number, now, events);
            }
        }
    }

    /// Writes what can be written.
    pub fn flush(&mut self, now: Timestamp, events: &mut Vec<LinkEvent>) {
        self.links.iter_mut().for_each(|link| link.flush(now, events));
    }

    /// Ends all connections, once everything queued is sent and read.
    pub fn end(&mut self) {
        self.links.iter_mut().for_each(Link::end);
    }

    /// Whether all connections are ended.
    pub fn have_ended(&self) -> bool {
        self.links.iter().all(Link::has_ended)
    }

    /// When [`Links::on_time`] will have something to do.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.links.iter().filter_map(|link| link.deadline(self.limit)).min()
    }

    /// Finds a replica's addresses: at once when they are numbers, and in another thread when there is a name to be looked
    /// up, which can take seconds.
    fn look_up(&mut self, number: usize, now: Timestamp, events: &mut Vec<LinkEvent>) {
        let address = self.links[number].replica().address.clone();
        if let Ok(address) = address.parse::<SocketAddr>() {
            return self.links[number].on_addresses(now, Ok(vec![address]), &self.registry, events);
        }
        let (looked_up, waker) = (self.looked_up.clone(), self.waker.clone());
        let thread = std::thread::Builder::new().name("lookup".into()).spawn(move || {
            let addresses = address.to_socket_addrs().map(Iterator::collect);
            if looked_up.send((number, addresses)).is_ok()
                && let Err(error) = waker.wake()
            {
                log::warn!("the poll cannot be woken: {error}");
            }
        });
        if let Err(error) = thread {
            self.links[number].on_addresses(now, Err(error), &self.registry, events);
        }
    }
}
