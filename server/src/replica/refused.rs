//! Refused requests that may yet arrive from a peer.
//!
//! Refusal is no verdict: another replica may have accepted the request. When it arrives from there, the connections that were
//! refused get the answer after all.

use super::ConnectionId;
use stablechat_protocol::uid::Uid;
use std::collections::BTreeMap;

/// The most refused requests that are remembered. Beyond it the oldest are forgotten: their clients get the answer from another
/// replica, or send the request again.
const REFUSED_MAX: usize = 10_000;

/// The most connections that are remembered for one request. Further ones get no answer from this replica: otherwise a client that
/// repeats one request without end would fill the memory.
const WAITING_MAX: usize = 16;

/// Refused requests, and the connections that would get the answer, each once.
#[derive(Debug, Default)]
pub struct RefusedRequests(BTreeMap<Uid, Vec<ConnectionId>>);

impl RefusedRequests {
    pub fn insert(&mut self, uid: Uid, from: ConnectionId) {
        let waiting = self.0.entry(uid).or_default();
        if waiting.len() < WAITING_MAX && !waiting.contains(&from) {
            waiting.push(from);
        }

        if self.0.len() > REFUSED_MAX {
            self.0.pop_first();
        }
    }

    /// The request is accepted now. Returns the connections that wait for its answer.
    pub fn take(&mut self, uid: Uid) -> Vec<ConnectionId> {
        self.0.remove(&uid).unwrap_or_default()
    }

    /// Forgets requests before this one.
    pub fn forget_before(&mut self, horizon: Uid) {
        self.0 = self.0.split_off(&horizon);
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn iter(&self) -> impl Iterator<Item = Uid> {
        self.0.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stablechat_protocol::time::Timestamp;

    fn uid(timestamp: usize) -> Uid {
        Uid::new(Timestamp(timestamp as u64), b"")
    }

    #[test]
    fn requests_and_connections_are_bounded() {
        let mut refused = RefusedRequests::default();
        (0..=REFUSED_MAX).for_each(|number| refused.insert(uid(number), ConnectionId(1)));
        assert_eq!((refused.iter().count(), refused.take(uid(0))), (REFUSED_MAX, vec![]));

        let connections: Vec<ConnectionId> = (0..100).map(ConnectionId).collect();
        connections.iter().chain(&connections).for_each(|connection| refused.insert(uid(5), *connection));
        assert_eq!(refused.take(uid(5)).len(), WAITING_MAX);
        refused.insert(uid(6), ConnectionId(1));
        assert_eq!(refused.take(uid(6)), [ConnectionId(1)]);
    }
}
