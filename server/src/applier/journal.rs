//! What the log says of the replica's part in the protocol: a line whenever it changes.

use crate::net::Identity;
use crate::replica::{PeerId, Replica, Standing, Status};
use std::collections::BTreeMap;

/// What was last logged.
#[derive(Default)]
pub struct Journal {
    /// What the replica was.
    status: Option<Status>,
    /// Whether it answered nothing.
    is_muted: bool,
    /// What each peer was to it.
    standings: BTreeMap<PeerId, Standing>,
}

impl Journal {
    /// Logs what has changed. `position` is that of the last applied request.
    pub fn note(&mut self, replica: &Replica, identity: &Identity, position: u64) {
        let status = replica.status();
        if self.status.replace(status) != Some(status) {
            let epoch = replica.epoch();
            match status {
                Status::CatchingUp => log::info!("catching up in epoch {epoch}, from position {position}"),
                Status::Joining => log::info!("joining at position {position}"),
                Status::Serving => log::info!("serving from position {position} on"),
            }
        }
        for (peer, standing, is_silent) in replica.standings() {
            let before = self.standings.insert(peer, standing).unwrap_or(Standing::Unknown);
            if before != standing {
                let name = identity.name_of(peer);
                match standing {
                    Standing::Unknown => {}
                    Standing::Reader => log::info!("replica {name} catches up"),
                    Standing::Linked => log::info!("replica {name} takes part"),
                    Standing::Down if is_silent => {
                        log::warn!("replica {name} is down: it has been silent for too long")
                    }
                    Standing::Down => log::info!("replica {name} has left, or was too slow"),
                }
            }
        }
        let is_muted = status == Status::Serving && replica.is_muted();
        if is_muted != std::mem::replace(&mut self.is_muted, is_muted) {
            match is_muted {
                true => log::warn!(
                    "answering nothing: the clock is off, or fewer others are in reach than min_live asks for"
                ),
                false if status == Status::Serving => log::info!("answering again"),
                false => {}
            }
        }
    }
}
