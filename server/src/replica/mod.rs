//! The replication protocol, as a pure state machine.
//!
//! **The problem.** Clients send each request to all replicas. Requests reach the replicas in different orders, some reach only a
//! few, and replicas die. Still every replica has to apply the same requests in the same order, and any N−1 of N replicas may be
//! down while the last one carries on.
//!
//! **The idea** is Schneider's (*Implementing fault-tolerant services using the state machine approach*, 1990): each request is
//! ordered by the timestamp that its client gave it, and a replica applies a request when it is *stable*, that is, when nothing can
//! arrive any more that is to be applied before it. There is no leader and no quorum. In their place stands an assumption, the
//! *delivery bound* Δ: clocks of live replicas agree, and messages between them arrive, well within Δ.
//!
//! **One request's way.** A client sends it to all replicas. Each one that serves and has not *closed* its timestamp holds it, and
//! *announces* its uid to its peers; a peer that lacks it *fetches* it. A replica applies it once all its peers have announced it
//! and have closed its timestamp (the closed test, a few message delays), or else once more than Δ has passed (the real-time
//! test).
//!
//! | module | what it does | source of the idea |
//! |---|---|---|
//! | `agreement` | a request that one replica accepts reaches all | Cristian, Aghili, Strong, Dolev 1985: hop windows |
//! | `closing`, `grace` | how far a replica has closed, and how far behind its clock | CockroachDB: closed timestamps; Nezha 2023: adaptive deadlines |
//! | `stability` | the two tests, and losing peers that are silent or slow | Schneider 1990 |
//! | `deaths` | what makes a death certain, and what follows | Birman and Joseph 1987: flushing |
//! | `joining` | starting, joining, being consulted, rejoining | Schneider 1990: integrating a repaired replica |
//! | `restarts` | waiting before a join, after many restarts | |
//! | `logs`, `catch_up` | comparing logs, and transferring what ours lacks | Bayou 1995: undo, insert, apply again |
//! | `snapshot` | catching up when the logs cannot be brought together | |
//! | `clocks` | comparing clocks, and believing none that is wrong | Cristian 1989: the fastest round trip |
//! | `invariants` | the rules that hold after every step | |
//!
//! The other modules are objects with their own invariants: `peers`, `pending`, `missing`, `refused`, `recent`, `announcer`.
//!
//! **When the assumption breaks** (a partition, a pause longer than Δ), a request may become known below the last applied one. It
//! is inserted there, and everything after it is undone and applied again (a *repair*). Replicas that have diverged further
//! rejoin one after the other, and take over each other's entries while they catch up. So nothing acknowledged is lost.
//!
//! **How it is driven.** [`Replica::step`] takes one [`Input`] and appends [`Output`]s, which the driver performs in their order.
//! [`Replica::deadline`] says when the next wake is wanted. There is no socket, disk, clock, thread or randomness in here, so that
//! the simulator can drive this very type, and a seed reproduces a run exactly.
//!
//! **Time is an input**, and there are two kinds of it. The time of a message, and of a wake, is the clock's reading then.
//! The time of an [`Input::Drained`] was read *before* the sockets were last read until empty: everything that
//! had arrived by then has been put in before. Only this one decides that something can no longer arrive: that a request is
//! stable by the real-time test, or that a peer is silent. A replica that was suspended therefore reads what arrived meanwhile
//! before it believes that time has passed.
//!
//! **What is left out.** Replicas that lie: a peer's word is taken, except that a body must have the digest in its uid. Changes of
//! membership: the peers are those of the cluster file. What a request means: the store applies it, and no rule here looks into it.

mod agreement;
mod announcer;
mod catch_up;
mod clocks;
mod closing;
mod deaths;
mod grace;
mod interface;
mod invariants;
mod joining;
mod logs;
mod missing;
mod overview;
mod peers;
mod pending;
mod recent;
mod refused;
mod restarts;
mod snapshot;
mod stability;

pub use agreement::in_messages;
use announcer::Announcer;
use catch_up::CatchUp;
use clocks::ClockCheck;
pub use clocks::ClockStanding;
use closing::Closing;
use deaths::Deaths;
pub use interface::{Body, Effect, Input, LogPart, LogRead, Output, Sender, StoreChange, Submission};
use invariants::HighWater;
use missing::MissingRequests;
pub use overview::{Overview, PeerOverview};
use peers::Peers;
pub use peers::{Loss, PeerState};
use pending::PendingRequests;
use recent::RecentlyApplied;
use refused::RefusedRequests;
use restarts::Restarts;

use stablechat_protocol::answer::Refusal;
use stablechat_protocol::clock_offset::Exchange;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::request::StampedRequest;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::BTreeSet;
use std::time::Duration;

/// A connection, by a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// No connection: the answer goes nowhere.
pub const NOBODY: ConnectionId = ConnectionId(u64::MAX);

/// Another replica, by its place in the cluster file, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u8);

/// The most time between two signs of life to the peers, whatever the delivery bound.
const HEARTBEAT_MAX: Duration = Duration::from_millis(50);

/// Everything that does not change while a replica runs.
#[derive(Clone, Debug)]
pub struct ProtocolSettings {
    /// Δ: nothing arrives later than this after its timestamp. Clock skew is part of it.
    pub delivery_bound: Duration,
    /// How far an accepted timestamp may be ahead of the clock.
    pub ahead: Duration,
    /// This replica's own place in the cluster file.
    pub place: PeerId,
    /// All other replicas.
    pub peers: Vec<PeerId>,
    /// With how many replicas, itself included, it must be in contact to answer anything.
    pub min_live: usize,
    /// Whether an address that refuses a connection proves that its replica is dead.
    pub refusal_is_proof: bool,
    /// The most requests that a replica undoes and applies again while clients and peers depend on it.
    pub depth_max: u64,
    /// About how many bytes of our log a peer gets at a time.
    pub piece_bytes: usize,
    /// How often this replica may begin anew before it waits longer each time before it joins.
    pub restarts_free: u32,
}

impl ProtocolSettings {
    /// The time between two signs of life to the peers: short enough that several may be lost before Δ is over.
    pub fn heartbeat(&self) -> Duration {
        HEARTBEAT_MAX.min(self.delivery_bound / 8)
    }

    /// As of when a peer counts as heard by a replica that begins now. A live one may be suspended for a hop, at most half the
    /// delivery bound, and then has to connect and to say what it is; together that can take longer than the bound.
    fn first_heard_by(&self, now: Timestamp) -> Timestamp {
        now.after(self.delivery_bound / 2)
    }

    /// How far back a replica remembers what it has applied. Nothing older is announced while the delivery bound holds.
    pub fn memory(&self) -> Duration {
        2 * self.delivery_bound + Duration::from_secs(2)
    }

    /// How long a replica waits for something that a peer owes it while everything else depends on that, before it goes on
    /// without the peer: a live peer that is no slower than the bound allows takes a fraction of it.
    fn patience(&self) -> Duration {
        2 * self.delivery_bound
    }

    /// Δ/N: the bound's share of each hop. The grace, the tolerance for clocks, the longest pause without a rejoin and parts of the
    /// barrier follow from it.
    pub fn hop(&self) -> Duration {
        self.delivery_bound / u32::try_from(self.peers.len() + 1).expect("at most nine replicas")
    }
}

/// The state that a replica begins with, from its store.
#[derive(Clone, Debug)]
pub struct Start {
    /// The number of this incarnation.
    pub epoch: u64,
    /// The number of incarnations before this one since one was stable, except those that have left.
    pub restarts: u32,
    /// The last applied request.
    pub applied: Uid,
    /// The applied requests of the last [`ProtocolSettings::memory`], as the log has them.
    pub recent: BTreeSet<Uid>,
    /// No client's request with a timestamp up to here is accepted.
    pub closed: Timestamp,
    /// The replica's clock.
    pub now: Timestamp,
}

/// What a replica is. It goes through them in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It takes over what it missed. It accepts nothing, and is not consulted.
    CatchingUp,
    /// It has asked its peers to consult it, and waits for their welcomes.
    Joining,
    /// It accepts clients' requests.
    Serving,
}

/// How far a replica is with stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    /// It accepts nothing more, and hands over what it holds.
    Asked,
    /// It has said [`Effect::Stopped`].
    Done,
}

/// One replica's part in the protocol.
#[derive(Debug)]
pub struct Replica {
    settings: ProtocolSettings,
    /// The number of this incarnation. It only grows.
    epoch: u64,
    phase: Phase,
    peers: Peers,
    closing: Closing,
    /// Up to here only the real-time test decides: another replica may have accepted something that nobody told us. Never moves
    /// back.
    barrier: Timestamp,
    /// The latest reading before which everything that had arrived has been put in. Never moves back.
    drained: Timestamp,
    /// The latest reading of the clock at a wake. Never moves back.
    now: Timestamp,
    /// When the latest message of a peer was read. A long wake also takes in what is read after it began.
    read: Timestamp,
    /// The last applied request. All that is pending comes after it.
    applied: Uid,
    recent: RecentlyApplied,
    pending: PendingRequests,
    missing: MissingRequests,
    refused: RefusedRequests,
    /// Requests of this wake that belong before the last applied one, and the connections that wait for them.
    late: Vec<(StampedRequest, Vec<ConnectionId>)>,
    catch_up: CatchUp,
    announcer: Announcer,
    clock_check: ClockCheck,
    restarts: Restarts,
    deaths: Deaths,
    /// How often we have asked whether anybody listens at a peer's address.
    asked_addresses: u64,
    /// Up to here we may have applied requests or answered queries by a test of our own: how far we had closed when we last served.
    served: Timestamp,
    /// When we were last muted.
    muted_at: Timestamp,
    /// Since when every request above the barrier has had to wait for the real-time test; none when the closed test does.
    slow_since: Option<Timestamp>,
    /// Whether there is room for what clients want to write. What peers hold is applied as long as it can be written.
    has_room: bool,
    stopping: Stopping,
    /// Kept for `check_invariants`, to compare each step with the one before.
    reached: HighWater,
}

impl Replica {
    /// A replica that starts.
    pub fn new(settings: ProtocolSettings, start: Start) -> Replica {
        let Start { epoch, restarts, applied, recent, closed, now } = start;
        let horizon = now.before(settings.memory());
        // A log that ends in the future is that of a wrong clock, or ours is wrong. Nothing is accepted before that is mended.
        let closed = closed.max(applied.timestamp.min(settings.latest_credible(now)));
        let mut replica = Replica {
            epoch,
            phase: Phase::CatchingUp,
            peers: Peers::new(&settings.peers, settings.first_heard_by(now)),
            closing: Closing::new(closed, settings.hop()),
            barrier: Timestamp::ZERO,
            drained: now,
            now,
            read: now,
            applied,
            recent: RecentlyApplied::new(horizon, recent),
            pending: PendingRequests::default(),
            missing: MissingRequests::default(),
            refused: RefusedRequests::default(),
            late: Vec::new(),
            catch_up: CatchUp::default(),
            announcer: Announcer::new(now),
            clock_check: ClockCheck::default(),
            restarts: Restarts::new(restarts, now),
            deaths: Deaths::default(),
            asked_addresses: 0,
            served: Timestamp::ZERO,
            muted_at: Timestamp::ZERO,
            slow_since: None,
            has_room: true,
            stopping: Stopping::No,
            reached: HighWater { epoch, closed, barrier: Timestamp::ZERO, drained: now, now, horizon, applied },
            settings,
        };
        replica.begin();

        // A replica without peers has nothing to catch up with: it serves at once, and there is nobody to tell.
        replica.advance(&mut Vec::new());
        replica
    }

    /// Takes one input, and appends the outputs that it causes.
    pub fn step(&mut self, input: Input, outputs: &mut Vec<Output>) {
        match input {
            Input::Woken { time } => self.notice_pause(time, outputs),
            Input::Request { submission, sender } => self.on_request(submission, &sender, outputs),
            Input::PeerConnected { peer } => self.on_peer_connected(peer, outputs),
            Input::PeerDisconnected { peer } => self.on_peer_disconnected(peer, outputs),
            Input::AddressRefused { peer, number } => self.on_address_refused(peer, number, outputs),
            Input::Peer { time, peer, message } => self.on_peer(time, peer, message, outputs),
            Input::LogCompared { time, peer, after, depth, end } => {
                if self.hear(peer, time) {
                    self.peers.set_log_end(peer, end);
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
            Input::ApplyNext => self.apply_next(outputs),
            Input::Applied => self.on_applied(outputs),
            Input::LogsDiffer { peer, is_ours_shorter } => self.on_logs_differ(peer, is_ours_shorter, outputs),
            Input::Inserted { applied } => self.on_inserted(applied, outputs),
            // What is missing there has no place any more. If it is in a peer's log, the comparison of logs finds that out.
            Input::Settled { uid } => self.missing.forget_up_to(uid),
            Input::Outdated { peer } => self.on_outdated(peer, outputs),
            Input::Installed { applied, recent } => self.on_installed(applied, recent, outputs),
            Input::NotInstalled { peer } => self.on_not_installed(peer),
            Input::Room { has_room } => self.has_room = has_room,
            Input::WallClock { unfollowed_ns } => self.clock_check.note_unfollowed(unfollowed_ns),
            Input::Halted => self.refuse_pending(Refusal::NoRoom, outputs),
            Input::Stop => self.on_stop(),
        }
        self.check_invariants();
    }

    pub fn settings(&self) -> &ProtocolSettings {
        &self.settings
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Applied requests with timestamps from here on are remembered.
    pub fn horizon(&self) -> Timestamp {
        self.recent.horizon()
    }

    /// How many requests and queries are pending.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// How many of the pending are queries.
    pub fn pending_queries(&self) -> usize {
        self.pending.queries()
    }

    /// Whether a request is held, as far as we remember: it is pending, or it is in the log or about to be put there.
    pub fn is_held(&self, uid: Uid) -> bool {
        self.is_known(uid)
    }

    /// The requests that we remember as applied, in their order. Each is in the log or about to be put there, unless it was
    /// truncated since.
    pub fn remembered(&self) -> impl Iterator<Item = Uid> {
        self.recent.iter()
    }

    /// Whether a request or query is held and not yet applied.
    pub fn is_pending(&self, uid: Uid) -> bool {
        self.pending.get(uid).is_some()
    }

    /// What each message of a peer leads to.
    fn on_peer(&mut self, time: Timestamp, from: PeerId, message: PeerMessage, outputs: &mut Vec<Output>) {
        if let PeerMessage::Incarnation { epoch, has_joined } = message {
            return self.on_incarnation(time, from, (epoch, has_joined), outputs);
        }
        if !self.hear(from, time) {
            return;
        }
        match message {
            PeerMessage::Listed { uids } => self.on_listed(from, uids),
            PeerMessage::Join { closed } => self.on_join(from, closed, outputs),
            PeerMessage::Welcome { to, applied, grace_ns } => {
                self.on_welcome(from, to, applied, Duration::from_nanos(grace_ns));
            }
            PeerMessage::Announce { closed, uids } => self.on_announce(from, closed, uids),
            PeerMessage::Fetch { uids } => self.on_fetch(from, uids, outputs),
            PeerMessage::Bodies { requests } => self.on_bodies(from, requests),
            PeerMessage::NotHeld { uids } => self.on_not_held(from, uids),
            PeerMessage::Leave => self.on_leave(from, outputs),
            PeerMessage::LogMarks { marks } => self.on_log_marks(from, marks, outputs),
            PeerMessage::FetchLog { after } => outputs.push(Output::read(from, LogPart::Entries { after })),
            PeerMessage::Ping { sent } => {
                let is_log_time = self.clock_check.is_log_time();
                outputs.push(Output::send(from, PeerMessage::Pong { sent, clock: time, is_log_time }));
            }
            PeerMessage::ProbePing { sent } => {
                outputs.push(Output::send(from, PeerMessage::ProbePong { sent, clock: time }));
            }
            PeerMessage::Pong { sent, clock, is_log_time } => {
                self.on_pong(from, Exchange { sent, clock, received: time }, is_log_time);
            }
            PeerMessage::Rejoin { above } => self.on_rejoin(above, outputs),
            PeerMessage::Fenced { replica, epoch } => self.on_fenced(from, PeerId(replica), epoch, outputs),
            PeerMessage::FetchSnapshot { part } => {
                outputs.push(Output::read(from, LogPart::SnapshotPart { number: part }))
            }
            PeerMessage::SnapshotPart { part, rows, end, .. } => self.on_snapshot_part(from, part, rows, end, outputs),
            PeerMessage::SnapshotBusy => self.on_not_installed(from),
            // The poll loop answers these, and passes none on.
            PeerMessage::Greeting { .. } | PeerMessage::Closing { .. } => {}
            PeerMessage::Incarnation { .. } => {}
            // The applier makes inputs of its own of these.
            PeerMessage::Boundary { .. } | PeerMessage::CommonPrefix { .. } | PeerMessage::LogEntries { .. } => {}
            // The applier measures by these.
            PeerMessage::ProbePong { .. } => {}
        }
    }

    /// Notes that a peer lives. What comes from a connection that we have ended is of another time, and says nothing; nor does
    /// what a fenced incarnation says.
    fn hear(&mut self, from: PeerId, time: Timestamp) -> bool {
        self.read = self.read.max(time);
        let peer = self.peers.get_connected(from).filter(|peer| peer.is_met);
        peer.map(|peer| peer.heard = peer.heard.max(time)).is_some()
    }

    /// Begins to stop, once.
    fn on_stop(&mut self) {
        if self.stopping == Stopping::No {
            self.stopping = Stopping::Asked;
        }
    }
}

#[cfg(test)]
mod tests;
