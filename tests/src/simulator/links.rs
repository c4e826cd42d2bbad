//! Connections between replicas: each direction delivers in order, until it is cut.
//!
//! A pair has at most one that works. The one that is named first dials, again and again while there is none.

use super::DELIVERY_BOUND;
use super::bounds::Bounds;
use super::network::DELAY_MIN;
use fastrand::Rng;
use stablechat_protocol::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// What no message takes longer than in a scene, in nanoseconds, unless it is held up.
pub const BRISK_MAX: u64 = 5_000_000;

/// A connection between two replicas, by a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(u64);

/// A connection between incarnations of two replicas.
#[derive(Debug)]
struct Link {
    /// The replica that dialed, and the one that was dialed.
    nodes: [usize; 2],
    /// Their incarnations.
    incarnations: [u64; 2],
    /// When the last message to each of them arrives.
    last: [Timestamp; 2],
    /// Whether messages under way to each of them are lost.
    lost: [bool; 2],
    /// Whether it has ended, so that nothing more is sent.
    ended: bool,
}

/// All connections between replicas there are or were.
#[derive(Debug)]
pub struct Links {
    links: BTreeMap<LinkId, Link>,
    next: u64,
    /// What most messages take at most, in nanoseconds.
    usual_delay: u64,
    /// What no message within bounds takes longer than, in nanoseconds: δ.
    delay_max: u64,
    /// Whether no message takes longer than [`BRISK_MAX`].
    pub is_brisk: bool,
    /// One message in so many takes longer than the bounds allow; none when 0.
    pub late_one_in: u32,
    /// Until when nothing gets from one to the other.
    blocked: Vec<Vec<Timestamp>>,
    /// Until when a firewall refuses connections from one to the other, in the other's name.
    walled: Vec<Vec<Timestamp>>,
    /// How much longer messages from one to the other take, and until when.
    slowed: BTreeMap<(usize, usize), (Duration, Timestamp)>,
    /// How much longer one takes to send the other a body that was asked for, and until when.
    slow_bodies: BTreeMap<(usize, usize), (Duration, Timestamp)>,
}

impl Links {
    /// No connections yet, among so many replicas, over a network of this usual delay.
    pub fn new(replicas: usize, bounds: Bounds, usual_delay: u64) -> Links {
        Links {
            links: BTreeMap::new(),
            next: 1,
            usual_delay,
            delay_max: bounds.delay_max(),
            is_brisk: false,
            late_one_in: 0,
            blocked: vec![vec![Timestamp::ZERO; replicas]; replicas],
            walled: vec![vec![Timestamp::ZERO; replicas]; replicas],
            slowed: BTreeMap::new(),
            slow_bodies: BTreeMap::new(),
        }
    }

    /// Makes a connection between these incarnations, under a number that is never used again.
    pub fn open(&mut self, nodes: [usize; 2], incarnations: [u64; 2]) -> LinkId {
        let id = LinkId(self.next);
        self.next += 1;
        let link = Link { nodes, incarnations, last: [Timestamp::ZERO; 2], lost: [false; 2], ended: false };
        self.links.insert(id, link);
        id
    }

    /// The replica at the other end.
    pub fn peer(&self, id: LinkId, node: usize) -> usize {
        self.links[&id].nodes[1 - self.end_of(id, node)]
    }

    /// Whether a connection is one of this incarnation of a replica.
    pub fn is_of(&self, id: LinkId, node: usize, incarnation: u64) -> bool {
        self.links[&id].incarnations[self.end_of(id, node)] == incarnation
    }

    /// When a message that is sent now arrives at a replica; none after the end.
    pub fn send(&mut self, random: &mut Rng, now: Timestamp, id: LinkId, to: usize) -> Option<Timestamp> {
        let end = self.end_of(id, to);
        let link = self.links.get_mut(&id).filter(|link| !link.ended)?;
        let usual = if random.u8(..20) == 0 { self.delay_max } else { self.usual_delay };
        let most = if self.is_brisk { usual.min(BRISK_MAX) } else { usual };
        let mut delay = random.u64(DELAY_MIN..=most);
        if self.late_one_in > 0 && random.u32(..self.late_one_in) == 0 {
            delay += random.u64(..3 * DELIVERY_BOUND.as_nanos() as u64);
        }
        let from = link.nodes[1 - end];
        if let Some((longer, _)) = self.slowed.get(&(from, to)).filter(|(_, until)| *until > now) {
            delay += longer.as_nanos() as u64;
        }
        let begins = now.max(self.blocked[from][to]);
        let arrives = Timestamp(begins.0 + delay);
        link.last[end] = arrives.max(link.last[end].next());
        Some(link.last[end])
    }

    /// How much later than other messages a body leaves that one sends to the other now: it waits in the sender, and they overtake
    /// it.
    pub fn body_wait(&self, now: Timestamp, from: usize, to: usize) -> Option<Duration> {
        self.slow_bodies.get(&(from, to)).filter(|(_, until)| *until > now).map(|(wait, _)| *wait)
    }

    /// Lets nothing more arrive at a replica until then. Nothing is lost, and order is kept.
    pub fn hold(&mut self, id: LinkId, to: usize, until: Timestamp) {
        let end = self.end_of(id, to);
        let link = self.links.get_mut(&id).expect("links are kept");
        link.last[end] = link.last[end].max(until);
    }

    /// Ends a connection, losing what is under way to these replicas.
    pub fn end(&mut self, id: LinkId, lost_to: &[usize]) {
        let ends: Vec<usize> = lost_to.iter().map(|node| self.end_of(id, *node)).collect();
        let link = self.links.get_mut(&id).expect("links are kept");
        link.ended = true;
        ends.into_iter().for_each(|end| link.lost[end] = true);
    }

    /// The connections of an incarnation of a replica that have not ended.
    pub fn of(&self, node: usize, incarnation: u64) -> Vec<LinkId> {
        let whole = self.links.iter().filter(|(_, link)| !link.ended);
        let is_its = |link: &Link| (0..2).any(|end| (link.nodes[end], link.incarnations[end]) == (node, incarnation));
        whole.filter(|(_, link)| is_its(link)).map(|(id, _)| *id).collect()
    }

    /// Whether messages that would arrive at a replica are lost.
    pub fn is_lost(&self, id: LinkId, to: usize) -> bool {
        self.links[&id].lost[self.end_of(id, to)]
    }

    /// Lets nothing get from one replica to the other until then.
    pub fn block(&mut self, from: usize, to: usize, until: Timestamp) {
        self.blocked[from][to] = self.blocked[from][to].max(until);
    }

    /// Refuses connections from one replica to the other until then, in the other's name.
    pub fn wall(&mut self, from: usize, to: usize, until: Timestamp) {
        self.walled[from][to] = self.walled[from][to].max(until);
    }

    /// Whether connections from one to the other are refused in the other's name.
    pub fn is_walled(&self, now: Timestamp, from: usize, to: usize) -> bool {
        self.walled[from][to] > now
    }

    /// Lets messages get from each of the two to the other again.
    pub fn reunite(&mut self, one: usize, other: usize) {
        self.blocked[one][other] = Timestamp::ZERO;
        self.blocked[other][one] = Timestamp::ZERO;
    }

    /// Makes every message from one replica to the other take longer, until then.
    pub fn slow_down(&mut self, from: usize, to: usize, longer: Duration, until: Timestamp) {
        self.slowed.insert((from, to), (longer, until));
    }

    /// Makes one take longer to send the other bodies, until then.
    pub fn slow_bodies_down(&mut self, from: usize, to: usize, wait: Duration, until: Timestamp) {
        self.slow_bodies.insert((from, to), (wait, until));
    }

    /// Whether nothing gets from one to the other, or back.
    pub fn is_blocked(&self, now: Timestamp, one: usize, other: usize) -> bool {
        self.blocked[one][other] > now || self.blocked[other][one] > now
    }

    /// Which end of a connection a replica is.
    fn end_of(&self, id: LinkId, node: usize) -> usize {
        usize::from(self.links[&id].nodes[1] == node)
    }
}
