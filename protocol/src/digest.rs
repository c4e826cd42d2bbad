//! Digests of logs and states, by which replicas compare what they have without sending it.
//!
//! The digest of a log is a chain of hashes, one link per request: equal digests mean equal logs. The digest of a state is the
//! exclusive or of the digests of its rows: it can be brought up to date from the rows that a request writes, whatever the size
//! of the state.

use crate::request::Request;
use crate::time::Timestamp;
use crate::uid::Uid;
use crate::wire::to_cbor;

wire_bytes! {
    /// A BLAKE3 digest: of a log up to a position, or of a whole state.
    pub struct Digest([u8; 32]);
}

impl Digest {
    /// The digest of an empty log, and of a state without rows.
    pub const ZERO: Digest = Digest([0; 32]);

    /// The digest of a log with this digest after this request is appended.
    ///
    /// A uid holds 128 bits of its request's digest: whoever writes a request can make two bodies of one uid with about 2^64 hashes
    /// (a birthday attack). So the chain has the whole digest of the body, and shows when two logs have different bodies.
    pub fn chain(self, uid: Uid, request: &Request) -> Digest {
        self.chain_encoded(uid, &to_cbor(request))
    }

    /// The same for a request that is encoded already.
    pub fn chain_encoded(self, uid: Uid, request: &[u8]) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(&uid.to_bytes()).update(blake3::hash(request).as_bytes());
        Digest(*hasher.finalize().as_bytes())
    }

    /// Adds a row to the digest of a state, or removes one that was added before (exclusive or is its own inverse).
    pub fn toggle(&mut self, row: Digest) {
        self.0.iter_mut().zip(row.0).for_each(|(byte, other)| *byte ^= other);
    }
}

wire_struct! {
    /// A position in a log. Two logs that have the same mark are equal up to it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct LogMark {
        /// The request at this position; [`Uid::MIN`] before the first.
        pub uid: Uid,
        /// The number of requests up to and including this one, from the beginning of the log (truncated ones count too).
        pub position: u64,
        pub log_digest: Digest,
    }
}

wire_struct! {
    /// A log and a state as of a *boundary*, a whole second of timestamps: after all requests with an earlier timestamp, and
    /// before all others. At a boundary replicas can be compared although none of them ever stands still.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct BoundaryDigests {
        /// Seconds since the Unix epoch.
        pub second: u64,
        /// The number of requests below the boundary.
        pub position: u64,
        pub log_digest: Digest,
        pub state_digest: Digest,
    }
}

impl BoundaryDigests {
    /// The boundary that they are of.
    pub fn boundary(&self) -> Timestamp {
        Timestamp(self.second.saturating_mul(1_000_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::session::ClientId;

    #[test]
    fn logs_with_different_bodies_of_one_uid_differ() {
        let request = |sequence| Request { client: ClientId([1; 16]), sequence, actor: None, command: Command::Delete };
        let chain = |request: &Request| Digest::ZERO.chain(Uid::MAX, request);
        assert_eq!(chain(&request(1)), chain(&request(1)));
        assert_ne!(chain(&request(1)), chain(&request(2)), "the chain does not cover the bodies");
        assert_ne!(chain(&request(1)), Digest::ZERO.chain(Uid::MIN, &request(1)), "nor the uids");
    }

    #[test]
    fn toggling_a_row_twice_changes_nothing() {
        let mut digest = Digest([3; 32]);
        digest.toggle(Digest([5; 32]));
        assert_eq!(digest, Digest([6; 32]));
        digest.toggle(Digest([5; 32]));
        assert_eq!(digest, Digest([3; 32]));
    }
}
