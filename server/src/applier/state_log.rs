//! A line in the program's log whenever the replica's part in the protocol changes.

use crate::net::ReplicaIdentity;
use crate::replica::{ClockStanding, Loss, Overview, PeerId, PeerState, Phase, Replica};
use stablechat_protocol::name::ReplicaName;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The state that was last logged.
#[derive(Default)]
pub struct StateLog {
    phase: Option<Phase>,
    is_muted: bool,
    /// Whether the replica waited before it joins.
    waits: bool,
    peer_states: BTreeMap<PeerId, PeerState>,
    clock: ClockStanding,
    /// The peers whose clocks differ from ours.
    apart: BTreeSet<PeerId>,
}

impl StateLog {
    /// Logs the changes since the last call. `position` is that of the last applied request.
    pub fn note(&mut self, replica: &Replica, identity: &ReplicaIdentity, position: u64) {
        let phase = replica.phase();
        if self.phase.replace(phase) != Some(phase) {
            let epoch = replica.epoch();
            match phase {
                Phase::CatchingUp => log::info!("catching up in epoch {epoch}, from position {position}"),
                Phase::Joining => log::info!("joining at position {position}"),
                Phase::Serving => log::info!("serving from position {position} on"),
            }
        }

        let wait = replica.join_wait();
        if wait.is_some() != std::mem::replace(&mut self.waits, wait.is_some()) {
            match wait {
                Some(wait) => log::warn!(
                    "this replica has begun anew {} times without running for long: it waits for {:.1} s before it joins, so that \
                     the others need not wait for it each time; look in the lines above for what ends or suspends it",
                    replica.restarts(),
                    wait.as_secs_f64()
                ),
                None => log::info!("waiting no more before it joins"),
            }
        }

        for (peer, state) in replica.peer_states() {
            let before = self.peer_states.insert(peer, state).unwrap_or(PeerState::Unknown);
            if before != state {
                let name = identity.name_of(peer);
                match state {
                    // How a peer was lost is logged when that happens.
                    PeerState::Unknown | PeerState::Down => {}
                    PeerState::CatchingUp => log::info!("replica {name} is catching up"),
                    PeerState::Linked => log::info!("replica {name} has joined, and is consulted"),
                }
            }
        }

        let is_muted = phase == Phase::Serving && replica.is_muted();
        if is_muted != std::mem::replace(&mut self.is_muted, is_muted) {
            match is_muted {
                true => log::warn!("answering nothing: fewer replicas are in contact than min_live asks for"),
                false if phase == Phase::Serving => log::info!("answering again"),
                false => {}
            }
        }
    }

    /// Logs the peers whose clocks have come to differ from ours, or to agree again.
    pub fn note_clocks(&mut self, overview: &Overview, identity: &ReplicaIdentity) {
        for peer in &overview.peers {
            let is_news = match peer.clock_is_apart {
                true => self.apart.insert(peer.id),
                false => self.apart.remove(&peer.id),
            };
            let (name, offset_ns) = (identity.name_of(peer.id), peer.clock_offset_ns.unwrap_or(0));
            match peer.clock_is_apart {
                true if is_news => log::warn!(
                    "the clock of replica {name} is {} ours: one of the two is wrong; compare both with `date -u` and look at NTP",
                    distance(offset_ns)
                ),
                false if is_news => log::info!("the clock of replica {name} agrees with ours"),
                _ => {}
            }
        }

        let before = std::mem::replace(&mut self.clock, overview.clock);
        if std::mem::discriminant(&before) == std::mem::discriminant(&overview.clock) {
            return;
        }
        match overview.clock {
            ClockStanding::Outvoted { ahead_ns } => log::error!(
                "our clock is {} those of more replicas, which agree with each other: standing down until it is right; look at \
                 NTP on this machine",
                distance(ahead_ns)
            ),
            ClockStanding::Yielding { ahead_ns } => log::error!(
                "our clock is {} that of as many replicas as agree with ours, and nobody can say which is right: standing down, \
                 since the others serve or come first in the cluster file; set the wrong clock right",
                distance(ahead_ns)
            ),
            ClockStanding::Good => log::info!("our clock agrees with the others that are up"),
        }
    }
}

/// Logs how a peer was lost.
pub fn log_loss(name: &ReplicaName, loss: Loss) {
    match loss {
        Loss::Dead => {
            log::warn!("replica {name} is down: its process has ended or begun anew, so nobody has to wait for it")
        }
        Loss::Silent => log::warn!(
            "replica {name} is down: nothing was heard from it for longer than the delivery bound, and nobody knows whether it lives"
        ),
        Loss::TooSlow => log::warn!(
            "replica {name} is down for us: it was too slow for more than twice the delivery bound, and has to catch up and join again"
        ),
        Loss::Left => log::info!("replica {name} is down: it has left"),
    }
}

pub fn log_incomplete(name: &ReplicaName, lacking: usize) {
    log::warn!(
        "incomplete: replica {name} was lost before {lacking} request(s) came that only it has, and that it may have answered; serving \
         without them until it is back"
    );
}

/// How far a clock is from another, in words that end with "of" or "behind".
fn distance(ahead_ns: i64) -> String {
    let seconds = Duration::from_nanos(ahead_ns.unsigned_abs()).as_secs_f64();
    match ahead_ns {
        ..0 => format!("{seconds:.3} s behind"),
        0.. => format!("{seconds:.3} s ahead of"),
    }
}
