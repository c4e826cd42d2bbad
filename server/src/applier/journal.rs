//! What the log says of the replica's part in the protocol: a line whenever it changes.

use crate::net::ReplicaIdentity;
use crate::replica::{PeerId, PeerState, Phase, Replica};
use std::collections::BTreeMap;

/// What was last logged.
#[derive(Default)]
pub struct Journal {
    /// What the replica was.
    phase: Option<Phase>,
    /// Whether it answered nothing.
    is_muted: bool,
    /// What each peer was to it.
    peer_states: BTreeMap<PeerId, PeerState>,
}

impl Journal {
    /// Logs what has changed. `position` is that of the last applied request.
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
        for (peer, standing, is_silent) in replica.peer_states() {
            let before = self.peer_states.insert(peer, standing).unwrap_or(PeerState::Unknown);
            if before != standing {
                let name = identity.name_of(peer);
                match standing {
                    PeerState::Unknown => {}
                    PeerState::CatchingUp => log::info!("replica {name} catches up"),
                    PeerState::Linked => log::info!("replica {name} takes part"),
                    PeerState::Down if is_silent => {
                        log::warn!("replica {name} is down: it has been silent for too long")
                    }
                    PeerState::Down => log::info!("replica {name} has left, or was too slow"),
                }
            }
        }
        let is_muted = phase == Phase::Serving && replica.is_muted();
        if is_muted != std::mem::replace(&mut self.is_muted, is_muted) {
            match is_muted {
                true => log::warn!(
                    "answering nothing: the clock is off, or fewer others are in reach than min_live asks for"
                ),
                false if phase == Phase::Serving => log::info!("answering again"),
                false => {}
            }
        }
    }
}
