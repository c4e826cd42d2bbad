//! `stablechat probe`: whether Δ is enough for this network and these clocks.
//!
//! For some seconds this machine pings each replica, and has each replica ping its peers. Both yield readings of two
//! clocks. All arithmetic is done here, in pure parts: [`delays`] computes delays and clock offsets from the readings, and
//! [`findings`] judges Δ by them.
//!
//! A replica answers a client's ping in its poll loop, as it reads requests there. It answers a peer's ping in its applier, as it
//! handles announcements there. So the measurement includes pauses and busy disks, but only those that occur while it runs.

pub mod delays;
pub mod findings;
mod json;
pub mod paths;
mod text;

use crate::cli::exit::{self, Failure};
use crate::cli::lookout::Lookout;
use crate::cli::screen::{remark, write_results};
use crate::cli::visible::visible;
use crate::greeting::Credentials;
use crate::link::LinkEvent;
use crate::reach::{LinkFaults, LinkSet};
use findings::{Findings, Verdict};
use paths::{Path, Place};
use stablechat_protocol::clock_offset::Exchange;
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::time::Timestamp;
use stablechat_transport::TlsDialer;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::Duration;

/// How many seconds are measured by default: a thousand rounds.
pub const SECONDS_DEFAULT: u32 = 10;
/// The most seconds.
pub const SECONDS_MAX: u32 = 3600;
/// How long to wait from one round of pings to the next, at least.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// The most rounds, which bounds memory: when it takes longer, they come more slowly.
const ROUNDS_MAX: u32 = 10_000;
/// How long the measurement waits at its beginning for replicas that have neither welcomed us nor failed.
const GATHERING: Duration = Duration::from_secs(2);
/// How long the measurement waits at its end for answers, beside a delivery bound. Later answers count as missing.
const PARTING: Duration = Duration::from_secs(1);

pub struct ProbeSettings {
    pub cluster: Cluster,
    pub tls: TlsDialer,
    /// The account that asks. Strangers are told little.
    pub credentials: Option<Credentials>,
    pub seconds: u32,
    pub json: bool,
}

/// Measures, and prints the findings. Returns the exit code.
///
/// # Errors
/// The operating system refuses something, or the results cannot be written.
pub fn run(mut settings: ProbeSettings) -> Result<u8, Failure> {
    let credentials = settings.credentials.take();
    let mut lookout = Lookout::open(&settings.cluster, settings.tls.clone(), credentials)?;
    let mut probe = Probe::new(&settings.cluster);
    let limit = lookout.now().after(GATHERING);
    probe.go_on(&mut lookout, limit, |_, lookout| lookout.links().are_tried())?;
    if lookout.links().are_misconfigured() {
        return Ok(exit::CONFIGURATION);
    }
    if probe.ready.is_empty() {
        remark(&format!("stablechat: {}\n", visible(&probe.faults.unreachable(&settings.cluster))));
        return Ok(exit::UNREACHABLE);
    }
    if io::stderr().is_terminal() {
        remark(&format!("measuring for {} s; Ctrl-C ends it sooner\n", settings.seconds));
    }
    probe.measure(&mut lookout, Duration::from_secs(settings.seconds.into()))?;
    let findings = Findings::of(&settings.cluster, &probe.paths, lookout.now());
    let text = if settings.json { json::lines(&findings) } else { text::text(&findings) };
    write_results(&text)?;
    Ok(match findings.verdict() {
        Verdict::Holds => exit::DONE,
        Verdict::Fails | Verdict::Unknown => exit::REFUSED,
    })
}

/// A measurement in progress.
struct Probe<'a> {
    cluster: &'a Cluster,
    /// The links that are ready.
    ready: LinkSet,
    /// Why the others are not.
    faults: LinkFaults,
    /// Whether pings have gone out: a link that becomes ready later is not measured all the time.
    has_begun: bool,
    paths: BTreeMap<(Place, Place), Path>,
    /// The links whose replicas have yet to say that they have pinged their peers.
    owed: LinkSet,
}

impl Probe<'_> {
    fn new(cluster: &Cluster) -> Probe<'_> {
        Probe {
            cluster,
            ready: LinkSet::EMPTY,
            faults: LinkFaults::default(),
            has_begun: false,
            paths: BTreeMap::new(),
            owed: LinkSet::EMPTY,
        }
    }

    /// Pings for this duration, or until a signal, and waits for the answers.
    fn measure(&mut self, lookout: &mut Lookout, duration: Duration) -> io::Result<()> {
        let interval = INTERVAL_MIN.max(duration / ROUNDS_MAX);
        let mut next = lookout.now();
        let end = next.after(duration);
        while next < end && !lookout.is_ended() {
            self.ping(lookout);
            // After a pause of ours, rounds that were missed are not made up for.
            next = next.after(interval).max(lookout.now());
            self.go_on(lookout, next, |_, lookout| lookout.is_ended())?;
        }
        let limit = lookout.now().after(self.cluster.delivery_bound + PARTING);
        self.go_on(lookout, limit, |probe, _| probe.is_answered())
    }

    /// Pings all replicas that are in reach, and asks them to ping their peers.
    fn ping(&mut self, lookout: &mut Lookout) {
        self.has_begun = true;
        let now = lookout.now();
        lookout.send(None, &ToReplica::Ping { sent: now });
        lookout.send(None, &ToReplica::PingPeers);
        for link in self.links().filter(|link| self.ready.contains(*link)).collect::<Vec<usize>>() {
            self.owed.insert(link);
            if let Some(path) = self.path(Place::Here, Place::Replica(link)) {
                path.on_ping(now, now);
            }
        }
    }

    /// Listens until `is_enough` or it is time.
    fn go_on(
        &mut self,
        lookout: &mut Lookout,
        until: Timestamp,
        is_enough: impl Fn(&Self, &Lookout) -> bool,
    ) -> io::Result<()> {
        let mut heard = Vec::new();
        while !is_enough(self, lookout) && lookout.now() < until {
            lookout.listen(until, &mut heard)?;
            heard.drain(..).for_each(|event| self.on_event(lookout.now(), event));
        }
        Ok(())
    }

    fn on_event(&mut self, now: Timestamp, event: LinkEvent) {
        match event {
            LinkEvent::Ready { link } => self.on_ready(link),
            LinkEvent::Lost { link, reason } => self.on_lost(link, reason),
            LinkEvent::Unreachable { link, reason } => self.faults.on_fault(link, reason),
            LinkEvent::Sample { link, exchange } => {
                self.on_pong(Place::Here, Place::Replica(link), exchange);
            }
            LinkEvent::Message { link, message: ToClient::PeersPinged { sent, peers } } => {
                self.on_peers_pinged(now, link, sent, &peers);
            }
            LinkEvent::Message { link, message: ToClient::PeerPong { peer, sent, clock, received } } => {
                if let Some(peer) = self.place(&peer) {
                    self.on_pong(Place::Replica(link), peer, Exchange { sent, clock, received });
                }
            }
            LinkEvent::Message { .. } => {}
            LinkEvent::Misconfigured { link, fault } => {
                let replica = &self.cluster.replicas[link];
                remark(&format!("stablechat: the replica {} at {}: {fault}\n", replica.name, replica.address));
            }
        }
    }

    fn on_ready(&mut self, link: usize) {
        self.ready.insert(link);
        self.faults.on_ready(link);
        let is_whole = !self.has_begun;
        for ends in self.paths_by(link) {
            self.paths.entry(ends).or_insert_with(|| Path::new(is_whole));
        }
    }

    fn on_lost(&mut self, link: usize, reason: String) {
        self.ready.remove(link);
        self.faults.on_fault(link, reason);
        self.owed.remove(link);
        for ends in self.paths_by(link) {
            self.paths.get_mut(&ends).into_iter().for_each(Path::interrupt);
        }
    }

    fn on_pong(&mut self, from: Place, to: Place, exchange: Exchange) {
        if let Some(path) = self.path(from, to) {
            path.on_pong(exchange);
        }
    }

    /// A replica has pinged those of its peers that it is connected with.
    fn on_peers_pinged(&mut self, now: Timestamp, link: usize, sent: Timestamp, peers: &[ReplicaName]) {
        self.owed.remove(link);
        let from = Place::Replica(link);
        for other in self.links().filter(|other| *other != link).collect::<Vec<usize>>() {
            let is_pinged = peers.contains(&self.cluster.replicas[other].name);
            match self.path(from, Place::Replica(other)) {
                Some(path) if is_pinged => path.on_ping(sent, now),
                Some(path) => path.interrupt(),
                None => {}
            }
        }
    }

    /// Whether every ping is answered.
    fn is_answered(&self) -> bool {
        self.owed.is_empty() && self.paths.values().all(Path::is_answered)
    }

    /// The paths that are measured through a link: to its replica, and from there to its peers.
    fn paths_by(&self, link: usize) -> Vec<(Place, Place)> {
        let replica = Place::Replica(link);
        let peers = self.links().filter(|other| *other != link).map(|other| (replica, Place::Replica(other)));
        peers.chain([(Place::Here, replica)]).collect()
    }

    fn links(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.cluster.replicas.len()
    }

    fn place(&self, name: &ReplicaName) -> Option<Place> {
        self.cluster.replicas.iter().position(|replica| replica.name == *name).map(Place::Replica)
    }

    /// A path; none when it could not be measured yet, because its link has not been ready.
    fn path(&mut self, from: Place, to: Place) -> Option<&mut Path> {
        self.paths.get_mut(&(from, to))
    }
}
