//! A line in the program's log whenever the replica's part in the protocol changes.

use crate::net::ReplicaIdentity;
use crate::replica::{PeerId, PeerState, Phase, Replica};
use std::collections::BTreeMap;

/// The state that was last logged.
#[derive(Default)]
pub struct StateLog {
    phase: Option<Phase>,
    is_muted: bool,
    /// Whether the replica waited before it joins.
    waits: bool,
    peer_states: BTreeMap<PeerId, PeerState>,
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

        for (peer, state, is_silent) in replica.peer_states() {
            let before = self.peer_states.insert(peer, state).unwrap_or(PeerState::Unknown);
            if before != state {
                let name = identity.name_of(peer);
                match state {
                    PeerState::Unknown => {}
                    PeerState::CatchingUp => log::info!("replica {name} is catching up"),
                    PeerState::Linked => log::info!("replica {name} has joined, and is consulted"),
                    PeerState::Down if is_silent => {
                        log::warn!(
                            "replica {name} is down: nothing was heard from it for longer than the delivery bound"
                        )
                    }
                    PeerState::Down => log::info!("replica {name} is down: it has left, or was too slow"),
                }
            }
        }

        let is_muted = phase == Phase::Serving && replica.is_muted();
        if is_muted != std::mem::replace(&mut self.is_muted, is_muted) {
            match is_muted {
                true => log::warn!(
                    "answering nothing: the clock is off, or fewer replicas are in contact than min_live asks for"
                ),
                false if phase == Phase::Serving => log::info!("answering again"),
                false => {}
            }
        }
    }
}
