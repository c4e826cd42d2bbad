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

/// Refused requests, and the connections that would get the answer.
#[derive(Debug, Default)]
pub struct RefusedRequests(BTreeMap<Uid, Vec<ConnectionId>>);

impl RefusedRequests {
    pub fn insert(&mut self, uid: Uid, from: ConnectionId) {
        self.0.entry(uid).or_default().push(from);
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
