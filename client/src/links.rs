//! The links to all replicas of a cluster.

use crate::greeting::{Credentials, Greeting};
use crate::link::{Link, LinkEvent};
use mio::{Registry, Waker};
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::frame;
use stablechat_protocol::message::ToReplica;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::version::Versions;
use stablechat_transport::Resolver;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

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
    resolver: Resolver,
}

impl Links {
    /// Links to the replicas of a cluster, which connect at the first [`Links::on_time`].
    pub fn new(cluster: &Cluster, registry: Registry, waker: Arc<Waker>) -> Links {
        let resolver = Resolver::new(cluster.replicas.len(), move || {
            if let Err(error) = waker.wake() {
                log::warn!("cannot wake the poll after a name lookup, which delays the connection: {error}");
            }
        });
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
            resolver,
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
        if let Some(link) = self.links.get_mut(event.token().0) {
            link.on_ready(now, &self.greeting, events);
        }
    }

    /// Does what is due: attempts to connect, pings, and giving up on connections that hang.
    pub fn on_time(&mut self, now: Timestamp, events: &mut Vec<LinkEvent>) {
        for (number, addresses) in self.resolver.done() {
            self.links[number].on_resolved(now, addresses, &self.registry);
        }
        for link in &mut self.links {
            link.on_time(now, self.limit, &self.resolver, &self.registry, events);
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
}
