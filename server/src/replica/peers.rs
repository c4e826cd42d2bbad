//! What a replica knows of the others.

use super::PeerId;
use stablechat_protocol::clock_offset::ClockOffset;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::BTreeMap;

/// What a peer is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// We have not heard what it is. It may be serving, so nothing is stable by the closed test.
    Unknown,
    /// It has not joined: it accepts nothing, holds nothing, and is not consulted.
    CatchingUp,
    /// It has joined: the closed test consults it.
    Linked,
    /// It is dead, has been silent for the delivery bound, or has left.
    Down,
}

/// How a peer came to be down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It is dead for certain.
    Dead,
    /// It was silent for the delivery bound.
    Silent,
    /// It lives, but was too slow.
    TooSlow,
    /// It has handed over everything, and left.
    Left,
}

/// How a peer's log compares with ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogSync {
    /// The two are being compared, or what ours lacks is being transferred.
    Comparing,
    /// It has what ours lacks. One log is transferred at a time; this one waits for its turn.
    Queued,
    /// It has entries so far below the end of ours that inserting them would keep us from serving.
    Diverged,
    /// At this time ours had everything that it had.
    InSync(Timestamp),
}

/// Another replica, as far as this incarnation of ours knows it.
#[derive(Debug)]
pub struct Peer {
    pub state: PeerState,
    /// How it was last lost; none if it never was.
    pub loss: Option<Loss>,
    /// The incarnation of it that we last met; none before we met any.
    pub epoch: Option<u64>,
    /// Nothing is taken from its incarnations up to this one.
    pub fenced: u64,
    /// The incarnations of other replicas up to which it takes nothing from them. Before it said so, it had listed to us all that
    /// it held.
    pub fences: BTreeMap<PeerId, u64>,
    /// The last incarnation of it that another peer has fenced and we have not, if there is one.
    pub accused: Option<u64>,
    /// The number under which we have last asked whether anybody listens at its address; none since we know more.
    pub asked: Option<u64>,
    pub is_connected: bool,
    /// Whether it has said on this connection that it is an incarnation which is not fenced.
    pub is_met: bool,
    /// Whether it has welcomed this incarnation of ours, so consults us from then on.
    pub has_welcomed: bool,
    pub log: LogSync,
    /// On this connection its log has been transferred up to here. If our log has entries that it lacks, the two part long before,
    /// so the next transfer begins here and not where they part.
    pub transferred_to: Uid,
    /// The timestamp of the last request in its log, when that was last compared; none while it is not known, or if the log lacks
    /// requests that are settled in ours.
    pub log_end: Option<Timestamp>,
    /// It accepts no client's request up to here, and has listed to us all that it accepted up to here.
    pub closed: Timestamp,
    /// When we last heard from it, or began to wait for it.
    pub heard: Timestamp,
    /// How far its clock is ahead of ours.
    pub offset: ClockOffset,
    /// Whether it has said that its clock shows the time of its log, not that of its machine.
    pub is_log_time: bool,
}

impl Peer {
    /// A peer that is not connected and of which nothing is known. Its silence counts from `heard`.
    fn new(heard: Timestamp) -> Peer {
        Peer {
            state: PeerState::Unknown,
            loss: None,
            epoch: None,
            fenced: 0,
            fences: BTreeMap::new(),
            accused: None,
            asked: None,
            is_connected: false,
            is_met: false,
            has_welcomed: false,
            log: LogSync::Comparing,
            transferred_to: Uid::MIN,
            log_end: None,
            closed: Timestamp::ZERO,
            heard,
            offset: ClockOffset::default(),
            is_log_time: false,
        }
    }

    /// Compares its log with ours from the beginning: how far it was transferred before no longer tells where to resume.
    pub fn compare_anew(&mut self) {
        (self.log, self.transferred_to) = (LogSync::Comparing, Uid::MIN);
    }
}

/// All other replicas of the cluster file. Messages from any others are ignored.
#[derive(Debug)]
pub struct Peers(BTreeMap<PeerId, Peer>);

impl Peers {
    /// Peers of which nothing is known. Their silence counts from `heard`.
    pub fn new(ids: &[PeerId], heard: Timestamp) -> Peers {
        Peers(ids.iter().map(|id| (*id, Peer::new(heard))).collect())
    }

    /// Forgets everything about all of them, as a new incarnation of ours does.
    pub fn forget_all(&mut self, heard: Timestamp) {
        self.0.values_mut().for_each(|peer| *peer = Peer::new(heard));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, id: PeerId) -> Option<&Peer> {
        self.0.get(&id)
    }

    pub fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.0.get_mut(&id)
    }

    /// The peer, if there is a connection to it. After we have ended one, what still comes from it is of another time.
    pub fn get_connected(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.0.get_mut(&id).filter(|peer| peer.is_connected)
    }

    pub fn iter(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.0.iter().map(|(id, peer)| (*id, peer))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (PeerId, &mut Peer)> {
        self.0.iter_mut().map(|(id, peer)| (*id, peer))
    }

    /// The peers for which something holds.
    pub fn those(&self, holds: impl Fn(PeerId, &Peer) -> bool) -> PeerSet {
        self.iter().filter(|(id, peer)| holds(*id, peer)).map(|(id, _)| id).collect()
    }

    /// The peers that messages can be sent to.
    pub fn connected(&self) -> PeerSet {
        self.those(|_, peer| peer.is_connected)
    }

    /// The peers that the closed test consults.
    pub fn linked(&self) -> PeerSet {
        self.those(|_, peer| peer.state == PeerState::Linked)
    }

    /// Whether something holds for each peer that is not down.
    pub fn all_up(&self, holds: impl Fn(&Peer) -> bool) -> bool {
        self.0.values().all(|peer| peer.state == PeerState::Down || holds(peer))
    }

    /// Notes where a peer's log ends.
    pub fn set_log_end(&mut self, id: PeerId, end: Option<Timestamp>) {
        if let Some(peer) = self.0.get_mut(&id) {
            peer.log_end = end;
        }
    }

    /// Notes how a peer's log compares with ours.
    pub fn set_log(&mut self, id: PeerId, log: LogSync) {
        if let Some(peer) = self.0.get_mut(&id) {
            peer.log = log;
        }
    }
}

/// A set of peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerSet(u16);

impl PeerSet {
    pub fn insert(&mut self, PeerId(peer): PeerId) {
        self.0 |= 1 << peer;
    }

    pub fn remove(&mut self, PeerId(peer): PeerId) {
        self.0 &= !(1 << peer);
    }

    pub fn contains(self, PeerId(peer): PeerId) -> bool {
        self.0 & (1 << peer) != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn len(self) -> u8 {
        self.0.count_ones() as u8
    }

    /// The peers in both sets.
    pub fn both(self, other: PeerSet) -> PeerSet {
        PeerSet(self.0 & other.0)
    }

    /// The peers of this set that are not in the other.
    pub fn without(self, other: PeerSet) -> PeerSet {
        PeerSet(self.0 & !other.0)
    }

    /// Its members, in the order of the cluster file.
    pub fn iter(self) -> impl Iterator<Item = PeerId> {
        (0..16).map(PeerId).filter(move |peer| self.contains(*peer))
    }
}

impl FromIterator<PeerId> for PeerSet {
    fn from_iter<I: IntoIterator<Item = PeerId>>(peers: I) -> PeerSet {
        let mut set = PeerSet::default();
        peers.into_iter().for_each(|peer| set.insert(peer));
        set
    }
}
