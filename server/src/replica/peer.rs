//! What a replica knows of another.

use super::clocks::Offset;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;

/// What a peer is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// We have not heard what it is. It may be serving, so nothing is stable by the closed test.
    Unknown,
    /// It is catching up: it accepts nothing, and nobody waits for it.
    CatchingUp,
    /// It has joined: it has to be consulted.
    Linked,
    /// It has been silent for the delivery bound, or has left.
    Down,
}

/// How a peer's log stands to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogSync {
    /// It is being found out, or followed.
    Unknown,
    /// It has what ours lacks, and is asked for it when its turn comes.
    Waiting,
    /// It has what belongs so far below the end of ours that taking that in would keep us from serving.
    Apart,
    /// We had everything that it had at this time.
    CaughtUp(Timestamp),
}

/// Another replica, as far as this incarnation of ours knows it.
#[derive(Debug)]
pub struct Peer {
    /// What it is to us.
    pub standing: PeerState,
    /// The incarnation of it that we last heard of; 0 before we heard of any.
    pub epoch: u64,
    /// Whether there is a connection.
    pub is_connected: bool,
    /// Whether this incarnation of ours has been welcomed by it.
    pub has_welcomed: bool,
    /// How its log stands to ours.
    pub log: LogSync,
    /// Up to here we have followed its log on this connection. When ours has what it lacks, the two part long before.
    pub followed_to: Uid,
    /// It accepts no client's request up to here, and has listed to us all that it accepted up to here.
    pub closed: Timestamp,
    /// When we last heard from it, or began to wait for it.
    pub heard: Timestamp,
    /// How far its clock is ahead of ours.
    pub offset: Offset,
}

impl Peer {
    /// A peer that is not connected and of which nothing is known, and which is waited for as if it had been heard then.
    pub fn new(heard: Timestamp) -> Peer {
        Peer {
            standing: PeerState::Unknown,
            epoch: 0,
            is_connected: false,
            has_welcomed: false,
            log: LogSync::Unknown,
            followed_to: Uid::MIN,
            closed: Timestamp::ZERO,
            heard,
            offset: Offset::default(),
        }
    }
}
