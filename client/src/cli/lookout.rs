//! Links to all replicas, a clock and signals, for commands that read no lines and issue no requests: `probe` and
//! `status --watch`.

use crate::cli::signals::Signals;
use crate::clock::LocalClock;
use crate::greeting::Credentials;
use crate::link::LinkEvent;
use crate::links::Links;
use mio::{Events, Interest, Poll, Token, Waker};
use stablechat_protocol::cluster::{Cluster, REPLICAS_MAX};
use stablechat_protocol::message::ToReplica;
use stablechat_protocol::time::Timestamp;
use stablechat_transport::TlsDialer;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Links have the tokens from 0 on.
const WAKER: Token = Token(REPLICAS_MAX);
const SIGNALS: Token = Token(REPLICAS_MAX + 1);

/// A link to each replica, and the poll that waits for all of them.
pub struct Lookout {
    poll: Poll,
    events: Events,
    clock: LocalClock,
    links: Links,
    signals: Signals,
    /// Whether SIGINT or SIGTERM has come.
    is_ended: bool,
}

impl Lookout {
    /// Connects to the replicas of a cluster, logs in there if there are credentials, and catches SIGINT and SIGTERM.
    ///
    /// # Errors
    /// The operating system refuses a socket, a signal handler or the poll.
    pub fn open(cluster: &Cluster, tls: TlsDialer, credentials: Option<Credentials>) -> io::Result<Lookout> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let mut signals = Signals::catch()?;
        poll.registry().register(signals.source(), SIGNALS, Interest::READABLE)?;
        let mut links = Links::new(cluster, tls, poll.registry().try_clone()?, waker);
        links.log_in(credentials.map(Rc::new), false);
        let events = Events::with_capacity(64);
        Ok(Lookout { poll, events, clock: LocalClock::start(), links, signals, is_ended: false })
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Whether SIGINT or SIGTERM has come.
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Queues a frame on one link, or on all that are ready, for the next [`Lookout::listen`].
    pub fn send(&mut self, link: Option<usize>, message: &ToReplica) {
        self.links.send(link, message);
    }

    /// Waits until something happens on a link, a signal comes, or it is `until`. Appends the links' events.
    ///
    /// # Errors
    /// The poll failed.
    pub fn listen(&mut self, until: Timestamp, heard: &mut Vec<LinkEvent>) -> io::Result<()> {
        let now = self.now();
        self.links.on_time(now, heard);
        self.links.flush(now, heard);
        let until = self.links.deadline().map_or(until, |deadline| deadline.min(until));
        let timeout = if heard.is_empty() { until.since(self.now()) } else { Duration::ZERO };

        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => result?,
        }

        let now = self.now();
        for event in &self.events {
            match event.token() {
                WAKER => {}
                SIGNALS => self.is_ended |= self.signals.take() > 0,
                _ => self.links.on_ready(now, event, heard),
            }
        }
        Ok(())
    }
}
