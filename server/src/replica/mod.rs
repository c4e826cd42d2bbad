//! The replication protocol, as a pure state machine.
//!
//! The problem: requests reach the replicas in different orders, and every replica has to apply the same ones in the same
//! order. Schneider's answer (1990): order them by the timestamps that their clients gave them, and apply a request when it
//! is *stable*, that is, when nothing can come any more that is to be applied before it. No leader, and no quorum.
//!
//! [`Replica::step`] takes one [`Input`] and appends [`Output`]s for whoever drives it to perform, in their order. There is
//! no socket, disk, clock or randomness in here: time comes with the inputs, and [`Replica::deadline`] says when the next
//! wake will be wanted. The simulator drives this very type.
//!
//! - `agreement`: what one replica accepts spreads to all, whoever dies on the way, by announcing and fetching.
//! - `stability`: closing, and the two tests by which a request is stable.
//! - `joining`: starting, joining, being consulted; losing peers.
//! - `following`: catching up with what peers' logs have and ours lacks.
//! - `replacing`: catching up by a snapshot, when the logs cannot be brought together.
//! - `clocks`: how the peers' clocks stand to ours.
//!
//! **Time is an input.** Two readings of the clock come in, and they differ. The time of a message, and of a wake, is simply
//! the clock then. That of an [`Input::Drained`] was taken *before* the sockets were last read until empty: everything that
//! had arrived by then has been put in before. Only this one decides that something can no longer come: that a request is
//! stable by the real-time test, or that a peer is silent. A replica that was suspended thereby reads what came meanwhile
//! before it believes that time has passed.

mod agreement;
mod catching_up;
mod clocks;
mod grace;
mod interface;
mod joining;
mod overview;
mod peer;
mod pending;
mod replacing;
mod stability;

pub use agreement::in_messages;
use catching_up::Following;
use grace::Grace;
pub use interface::{Body, Effect, Input, LogPart, LogRead, Output, StoreChange, Submission};
pub use overview::{Overview, PeerOverview};
use peer::Peer;
pub use peer::PeerState;
use pending::PendingRequests;

use stablechat_protocol::answer::Refusal;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::request::StampedRequest;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A connection, by a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// No connection: nobody waits for the answer.
pub const NOBODY: ConnectionId = ConnectionId(u64::MAX);

/// Another replica, by its place in the cluster file, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u8);

/// How often a replica says that it lives, at least, whatever the delivery bound.
const HEARTBEAT_MAX: Duration = Duration::from_millis(50);

/// What does not change while a replica runs.
#[derive(Clone, Debug)]
pub struct ProtocolSettings {
    /// Δ: nothing arrives later than this after its timestamp, and clock skew is within it.
    pub delivery_bound: Duration,
    /// How far an accepted timestamp may be ahead of the clock.
    pub ahead: Duration,
    /// This replica.
    pub place: PeerId,
    /// The other replicas.
    pub peers: Vec<PeerId>,
    /// With how many replicas, itself included, it must be in contact to answer anything.
    pub min_live: usize,
    /// The most requests that are undone and applied again while others wait for us.
    pub depth_max: u64,
    /// About how many bytes of our log a peer gets at a time.
    pub piece_bytes: usize,
}

/// What a replica begins with.
#[derive(Clone, Debug)]
pub struct Start {
    /// The number of this incarnation.
    pub epoch: u64,
    /// The last applied request.
    pub applied: Uid,
    /// The applied requests of the last [`ProtocolSettings::memory`], as the log has them.
    pub recent: BTreeSet<Uid>,
    /// The clock.
    pub now: Timestamp,
}

impl ProtocolSettings {
    /// How often a replica says that it lives, at least.
    pub fn heartbeat(&self) -> Duration {
        HEARTBEAT_MAX.min(self.delivery_bound / 8)
    }

    /// As of when a peer counts as heard by a replica that begins now. A live one may be suspended, but not for more than half the
    /// delivery bound, and then has to be connected and to say what it is; together that can take longer than the bound.
    fn first_heard_by(&self, now: Timestamp) -> Timestamp {
        now.after(self.delivery_bound / 2)
    }

    /// How far back a replica remembers what it has applied. Nothing older is announced while the delivery bound holds.
    pub fn memory(&self) -> Duration {
        2 * self.delivery_bound + Duration::from_secs(2)
    }
}

/// What a replica is, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It learns what it missed. It accepts nothing, and nobody waits for it.
    CatchingUp,
    /// It has asked to be consulted, and waits to be welcomed.
    Joining,
    /// It accepts clients' requests.
    Serving,
}

/// One replica's part in the protocol.
#[derive(Debug)]
pub struct Replica {
    settings: ProtocolSettings,
    /// The number of this incarnation.
    epoch: u64,
    /// What this replica is.
    status: Phase,
    /// The others.
    peers: BTreeMap<PeerId, Peer>,
    /// The closed timestamp: no client's request with a timestamp up to it is accepted. Never moves back.
    closed: Timestamp,
    /// How far behind the clock it follows.
    grace: Grace,
    /// Up to here only the real-time test decides: someone whose word we did not hear may have accepted something.
    barrier: Timestamp,
    /// The latest reading before which everything that had arrived has been put in. Never moves back.
    drained: Timestamp,
    /// The latest reading of the clock.
    now: Timestamp,
    /// The last applied request.
    applied: Uid,
    /// From here on it is remembered what was applied: [`ProtocolSettings::memory`] ago, or longer when we were muted.
    horizon: Timestamp,
    /// The requests that were applied with timestamps from the horizon on.
    recent: BTreeSet<Uid>,
    /// What is held and not yet applied.
    pending: PendingRequests,
    /// Uids that peers hold and we do not.
    missing: BTreeMap<Uid, agreement::Missing>,
    /// What was refused and may yet come from a peer, and who would get the answer.
    refused: BTreeMap<Uid, Vec<ConnectionId>>,
    /// The peer that is sending us its log.
    following: Option<Following>,
    /// How many insertions have been asked for and are not done.
    inserting: usize,
    /// When to ask again for a snapshot that could not be had.
    snapshot_at: Option<Timestamp>,
    /// What has come in this wake and belongs before what is applied, and who waits for it.
    belated: Vec<(StampedRequest, Vec<ConnectionId>)>,
    /// What is held since the last announcement.
    unannounced: Vec<Uid>,
    /// The closed timestamp that was last announced.
    announced: Timestamp,
    /// When it was.
    announced_at: Timestamp,
    /// When the peers were last asked for their clocks.
    pinged_at: Timestamp,
    /// Whether our clock is off against those of others, who agree.
    clock_is_off: bool,
    /// When we were last muted: in contact with too few, or with a wrong clock.
    muted_at: Timestamp,
    /// Since when every request above the barrier has had to wait for the real-time test.
    slow_since: Option<Timestamp>,
    /// Whether there is room for what clients want to write. What peers hold is applied as long as it can be written.
    has_room: bool,
    /// Whether [`Input::Stop`] has come.
    stopping: bool,
    /// Whether [`Effect::Stopped`] has been said.
    stopped: bool,
}

impl Replica {
    /// A replica that starts.
    pub fn new(settings: ProtocolSettings, start: Start) -> Replica {
        let Start { epoch, applied, recent, now } = start;
        let share = settings.delivery_bound / u32::try_from(settings.peers.len() + 1).expect("few replicas");
        let mut replica = Replica {
            epoch,
            status: Phase::CatchingUp,
            peers: settings.peers.iter().map(|peer| (*peer, Peer::new(settings.first_heard_by(now)))).collect(),
            closed: applied.timestamp,
            grace: Grace::new(share),
            barrier: now,
            drained: now,
            horizon: now.before(settings.memory()),
            now,
            applied,
            recent,
            pending: PendingRequests::default(),
            missing: BTreeMap::new(),
            refused: BTreeMap::new(),
            following: None,
            inserting: 0,
            snapshot_at: None,
            belated: Vec::new(),
            unannounced: Vec::new(),
            announced: Timestamp::ZERO,
            announced_at: now,
            pinged_at: Timestamp::ZERO,
            clock_is_off: false,
            muted_at: Timestamp::ZERO,
            slow_since: None,
            has_room: true,
            stopping: false,
            stopped: false,
            settings,
        };
        replica.begin();
        // Who has no peers has nothing to wait for, and nobody to tell.
        replica.advance(&mut Vec::new());
        replica
    }

    /// Takes one input, and appends what is to be done about it.
    pub fn step(&mut self, input: Input, outputs: &mut Vec<Output>) {
        match input {
            Input::Woken { time } => self.notice_pause(time, outputs),
            Input::Request(submission) => self.on_request(submission, outputs),
            Input::PeerConnected { peer } => self.on_peer_connected(peer, outputs),
            Input::PeerDisconnected { peer } => self.on_peer_disconnected(peer, outputs),
            Input::Peer { time, peer, message } => self.on_peer(time, peer, message, outputs),
            Input::LogCompared { time, peer, after, depth } => {
                if self.hear(peer, time) {
                    self.on_compared(peer, after, depth, outputs);
                }
            }
            Input::LogEntries { time, peer, after, missing, next } => {
                if self.hear(peer, time) {
                    self.on_entries(peer, after, missing, next, outputs);
                }
            }
            Input::Drained { time } => self.on_drained(time, outputs),
            Input::Handled { time } => self.on_handled(time, outputs),
            Input::LogsDiffer { peer, is_ours_shorter } => self.on_logs_differ(peer, is_ours_shorter, outputs),
            Input::Inserted { applied } => self.on_inserted(applied, outputs),
            Input::Outdated { peer } => self.on_outdated(peer, outputs),
            Input::Installed { applied, recent } => self.on_installed(applied, recent, outputs),
            Input::NotInstalled { peer } => self.on_not_installed(peer),
            Input::Room { has_room } => self.has_room = has_room,
            Input::Halted => self.refuse_pending(Refusal::NoRoom, outputs),
            Input::Stop => self.stopping = true,
        }
        self.check_invariants();
    }

    /// What does not change.
    pub fn settings(&self) -> &ProtocolSettings {
        &self.settings
    }

    /// What the replica is.
    pub fn status(&self) -> Phase {
        self.status
    }

    /// The number of this incarnation.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// From here on it is remembered what was applied.
    pub fn horizon(&self) -> Timestamp {
        self.horizon
    }

    /// How many requests and queries are pending.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Passes a peer's message on to whom it concerns.
    fn on_peer(&mut self, time: Timestamp, from: PeerId, message: PeerMessage, outputs: &mut Vec<Output>) {
        if !self.hear(from, time) {
            return;
        }
        match message {
            PeerMessage::CatchingUp { epoch } => self.on_reading(from, epoch),
            PeerMessage::Listed { uids } => self.on_listed(from, uids),
            PeerMessage::Join { epoch, closed } => self.on_join(from, epoch, closed, outputs),
            PeerMessage::Welcome { to, closed } => self.on_welcome(from, to, closed),
            PeerMessage::Announce { closed, uids } => self.on_announce(from, closed, uids),
            PeerMessage::Fetch { uids } => self.on_fetch(from, uids, outputs),
            PeerMessage::Bodies { requests } => self.on_bodies(from, requests),
            PeerMessage::Leave => self.on_leave(from),
            PeerMessage::LogMarks { marks } => outputs.push(Output::read(from, LogPart::CommonPrefix { marks })),
            PeerMessage::FetchLog { after } => outputs.push(Output::read(from, LogPart::Entries { after })),
            PeerMessage::Ping { sent } => self.on_ping(from, time, sent, outputs),
            PeerMessage::Pong { sent, clock } => self.on_pong(from, time, sent, clock),
            PeerMessage::TooSlow => self.on_too_slow(outputs),
            PeerMessage::FetchSnapshot { part } => {
                outputs.push(Output::read(from, LogPart::SnapshotPart { number: part }))
            }
            PeerMessage::SnapshotPart { part, rows, end, .. } => self.on_snapshot_part(from, part, rows, end, outputs),
            PeerMessage::SnapshotBusy => self.on_not_installed(from),
            // The poll loop keeps these to itself, and the applier those.
            PeerMessage::Greeting { .. } | PeerMessage::Closing { .. } => {}
            PeerMessage::Boundary { .. } | PeerMessage::CommonPrefix { .. } | PeerMessage::LogEntries { .. } => {}
        }
    }

    /// Notes that a peer lives. After we have ended a connection, what still comes from it is of another time, and says nothing.
    fn hear(&mut self, from: PeerId, time: Timestamp) -> bool {
        let peer = self.peers.get_mut(&from).filter(|peer| peer.is_connected);
        peer.map(|peer| peer.heard = peer.heard.max(time)).is_some()
    }

    /// What holds between any two inputs.
    fn check_invariants(&self) {
        debug_assert!(
            self.pending.first().is_none_or(|(uid, _)| uid > self.applied),
            "what is pending comes after what is applied"
        );
        debug_assert!(
            self.missing.keys().all(|uid| self.pending.get(*uid).is_none()),
            "nothing that is held is missing"
        );
    }
}

#[cfg(test)]
mod tests;
