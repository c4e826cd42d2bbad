//! The links to all replicas of a cluster.

use crate::greeting::{Credentials, Greeting};
use crate::link::{Link, LinkEvent};
use mio::{Registry, Waker};
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::frame;
use stablechat_protocol::message::ToReplica;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::version::Versions;
use stablechat_transport::{Resolver, TlsDialer};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A link to every replica. Its number is the replica's position in the cluster file.
pub struct Links {
    links: Vec<Link>,
    greeting: Greeting,
    tls: TlsDialer,
    /// How long a replica may take to answer a ping, two delivery bounds and 2 s, before its connection is given up.
    ping_limit: Duration,
    /// Where sockets are registered, under their link's number.
    registry: Registry,
    resolver: Resolver,
}

impl Links {
    /// Links to the replicas of a cluster. They connect at the first [`Links::on_time`].
    pub fn new(cluster: &Cluster, tls: TlsDialer, registry: Registry, waker: Arc<Waker>) -> Links {
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
                cluster_id: cluster.id.clone(),
                credentials: None,
                receive: false,
                versions: Versions::OURS,
            },
            tls,
            ping_limit: cluster.delivery_bound * 2 + Duration::from_secs(2),
            registry,
            resolver,
        }
    }

    /// The same links, offering these versions of the protocol, for tests of upgrades.
    pub fn speaking(mut self, versions: Versions) -> Links {
        self.greeting.versions = versions;
        self
    }

    /// Whether each link was ready or has failed once. Until then the first request waits, so that all replicas get it.
    pub fn are_tried(&self) -> bool {
        self.links.iter().all(Link::is_tried)
    }

    /// Whether every replica has another cluster, name or protocol version than the client expects: trying again is no use.
    pub fn are_misconfigured(&self) -> bool {
        self.links.iter().all(Link::is_misconfigured)
    }

    pub fn ready(&self) -> impl Iterator<Item = usize> {
        self.links.iter().enumerate().filter(|(_, link)| link.is_ready()).map(|(number, _)| number)
    }

    /// Logs this account in on all connections, those of now and those to come; `None` logs out.
    pub fn log_in(&mut self, credentials: Option<Rc<Credentials>>, receive: bool) {
        self.greeting.credentials = credentials;
        self.greeting.receive = receive;
        self.links.iter_mut().for_each(|link| link.log_in(&self.greeting));
    }

    /// Queues a frame on one link, or with `None` on all. Links that are not ready drop it.
    pub fn send(&mut self, link: Option<usize>, message: &ToReplica) {
        let mut bytes = Vec::new();
        frame::encode(message, &mut bytes)
            .expect("texts and acknowledgements are limited, so every frame is below the frame limit");
        match link {
            Some(link) => self.links[link].send(&bytes),
            None => self.links.iter_mut().for_each(|link| link.send(&bytes)),
        }
    }

    /// Reads and writes a link whose socket the poll reports as ready.
    pub fn on_ready(&mut self, now: Timestamp, event: &mio::event::Event, events: &mut Vec<LinkEvent>) {
        let before = events.len();
        if let Some(link) = self.links.get_mut(event.token().0) {
            link.on_ready(now, &self.greeting, &self.tls, events);
        }
        self.after(now, &events[before..]);
    }

    /// Does what is due: connects, pings, and gives up connections whose pings are not answered.
    pub fn on_time(&mut self, now: Timestamp, events: &mut Vec<LinkEvent>) {
        let before = events.len();
        for (number, addresses) in self.resolver.done() {
            self.links[number].on_resolved(now, addresses, &self.registry, events);
        }
        for link in &mut self.links {
            link.on_time(now, self.ping_limit, &self.resolver, &self.registry, events);
        }
        self.after(now, &events[before..]);
    }

    /// Writes queued frames as far as the sockets take them.
    pub fn flush(&mut self, now: Timestamp, events: &mut Vec<LinkEvent>) {
        let before = events.len();
        self.links.iter_mut().for_each(|link| link.flush(now, events));
        self.after(now, &events[before..]);
    }

    /// Tries all other replicas at once when one is lost. They may have come back since they were last tried; and if the one that is
    /// lost was the last, every request would wait for the next try.
    fn after(&mut self, now: Timestamp, events: &[LinkEvent]) {
        for event in events {
            if let LinkEvent::Lost { link: lost, .. } = event {
                let others = self.links.iter_mut().enumerate().filter(|(number, _)| number != lost);
                others.for_each(|(_, link)| link.hurry(now));
            }
        }
    }

    /// Ends each connection once its queued frames are written and the replica has read them.
    pub fn end(&mut self) {
        self.links.iter_mut().for_each(Link::end);
    }

    pub fn have_ended(&self) -> bool {
        self.links.iter().all(Link::has_ended)
    }

    /// When [`Links::on_time`] will have something to do.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.links.iter().filter_map(|link| link.deadline(self.ping_limit)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll, Token};
    use stablechat_authority::Authority;
    use stablechat_protocol::name::ClusterName;
    use std::net::TcpListener;
    use std::time::Instant;

    #[test]
    fn when_a_replica_is_lost_the_others_are_tried_at_once() {
        // Bound, so that nobody else listens there, and closed again, so that nobody does.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let file = format!(
            "name = 'demo'\nid = '1'\n[[replica]]\nname = 'a'\naddress = '{address}'\n[[replica]]\nname = 'b'\naddress = '127.0.0.1:1'\n"
        );
        let mut poll = Poll::new().expect("a poll");
        let waker = Arc::new(Waker::new(poll.registry(), Token(9)).expect("a waker"));
        let registry = poll.registry().try_clone().expect("a registry");
        let authority = Authority::create(&ClusterName::parse("demo").expect("a name")).expect("random numbers");
        let tls = TlsDialer::for_client(authority.certificate()).expect("an authority");
        let mut links = Links::new(&Cluster::parse(&file).expect("a good file"), tls, registry, waker);
        let (start, mut events, mut ready) = (Instant::now(), Vec::new(), Events::with_capacity(8));
        let now = || Timestamp(1).after(start.elapsed());
        while !links.are_tried() {
            links.on_time(now(), &mut events);
            poll.poll(&mut ready, Some(Duration::from_millis(5))).expect("a poll");
            ready.iter().for_each(|event| links.on_ready(now(), event, &mut events));
            assert!(start.elapsed() < Duration::from_secs(60), "neither is refused");
        }

        // Both wait for their next try.
        let early = Timestamp(1);
        let deadline = |links: &Links, link: usize| links.links[link].deadline(links.ping_limit).expect("another try");
        links.after(early, &[LinkEvent::Unreachable { link: 1, reason: "a reason".into() }]);
        assert!(deadline(&links, 0) > early && deadline(&links, 1) > early);
        links.after(early, &[LinkEvent::Lost { link: 1, reason: "a reason".into() }]);
        assert_eq!(deadline(&links, 0), early);
        assert!(deadline(&links, 1) > early, "the next try of the one that is lost is not hurried");
    }
}
