//! The column families beside those of the state: the log, the records for undoing it, and facts about the store as a whole.
//!
//! The rows of the state are in `store::state::keys` and `store::state::values`.

use stablechat_protocol::answer::Answer;
use stablechat_protocol::digest::{Digest, LogMark};
use stablechat_protocol::request::Request;
use stablechat_protocol::uid::Uid;
use stablechat_protocol::wire::append_cbor;
use stablechat_protocol::wire_struct;
use std::fmt;

/// The version of the stored format, `store::state::keys` and `values` included. A program opens stores of its own version only.
pub const FORMAT: u64 = 6;

/// The column family of [`LogEntry`] by uid. Entries up to [`META_APPLIED`] are applied. Entries after it exist only during a
/// repair, which is going to apply them; until then their positions and chain hashes mean nothing.
pub const LOG: &str = "log";
/// The column family of `UndoRecord` by uid: one for each applied request after
/// [`META_SETTLED`], and no others.
pub const UNDO: &str = "undo";
/// The column family of [`Undone`] by uid: the former answers of the requests that a repair has undone and will apply again.
/// Empty when no repair is under way.
pub const UNDONE: &str = "undone";
/// The column family of a snapshot that is being received: rows by the number of their column family, then their key.
pub const INCOMING: &str = "incoming";
/// The column family of [`Request`] by the uid that it had: orphans, which have lost their place in the log and are submitted
/// again.
pub const ORPHANS: &str = "orphans";
/// The column family of facts about this replica and its state as a whole.
pub const META: &str = "meta";

/// In [`META`]: the [`FORMAT`] in which the directory is written.
pub const META_FORMAT: &[u8] = b"format";
/// In [`META`]: the [`StoreIdentity`] that the directory belongs to.
pub const META_IDENTITY: &[u8] = b"identity";
/// In [`META`]: the [`stablechat_protocol::operator::InitialSettings`] that the store was made with. They are never changed: applied
/// again from its beginning, the log has to give the same state.
pub const META_INITIAL: &[u8] = b"initial settings";
/// In [`META`]: the epoch, the number of this replica's incarnation. It only grows.
pub const META_EPOCH: &[u8] = b"epoch";
/// In [`META`]: the number of incarnations before the present one since one was stable, except those that have left. After an
/// incarnation that has left it is that of the one before; absent if there was none.
pub const META_RESTARTS: &[u8] = b"restarts";
/// In [`META`]: how far the log has been applied, [`Applied`].
pub const META_APPLIED: &[u8] = b"applied";
/// In [`META`]: the [`stablechat_protocol::status::StateContents`] after the last applied request; absent when there is none.
pub const META_CONTENTS: &[u8] = b"contents";
/// In [`META`]: the uid up to which the log is settled, so that nothing is undone any more; [`Uid::MIN`] when nothing is.
pub const META_SETTLED: &[u8] = b"settled";
/// In [`META`]: the [`LogMark`] of the last request that was truncated, after which the log begins; absent when the log is whole.
pub const META_BASE: &[u8] = b"base";
/// In [`META`]: how many bytes the applied entries of the log take.
pub const META_LOG_BYTES: &[u8] = b"log bytes";
/// In [`META`]: the [`stablechat_protocol::peer::SnapshotEnd`] of the snapshot in [`INCOMING`], once it is complete. From then
/// on it has to replace the log and the state.
pub const META_INSTALLING: &[u8] = b"installing";
/// In [`META`]: present from when the requests that this snapshot lacks are among the [`ORPHANS`] until it is installed.
pub const META_ORPHANS_KEPT: &[u8] = b"orphans kept";

/// The number of [`LOG`] in a snapshot; the state's columns have their own numbers, from 0.
pub const LOG_NUMBER: u8 = 254;
/// The number of [`UNDO`] in a snapshot.
pub const UNDO_NUMBER: u8 = 255;

wire_struct! {
    /// The replica that a store belongs to.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct StoreIdentity {
        pub cluster: String,
        pub replica: String,
    }
}

impl fmt::Display for StoreIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "replica {} of cluster {}", self.replica, self.cluster)
    }
}

wire_struct! {
    /// How far the log has been applied, and the digests there.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Applied {
        /// The last applied request; [`Uid::MIN`] before the first.
        pub uid: Uid,
        /// How many requests have been applied.
        pub position: u64,
        /// The chain hash over them.
        pub log_digest: Digest,
        /// The XOR of the digests of all rows of the state.
        pub state_digest: Digest,
    }
}

impl Applied {
    /// Before the first request.
    pub const NOTHING: Applied =
        Applied { uid: Uid::MIN, position: 0, log_digest: Digest::ZERO, state_digest: Digest::ZERO };

    /// The place in the log.
    pub fn mark(&self) -> LogMark {
        LogMark { uid: self.uid, position: self.position, log_digest: self.log_digest }
    }
}

wire_struct! {
    /// An applied request.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct LogEntry {
        /// Its place in the log, from 1.
        pub position: u64,
        /// The chain hash over the log up to and with it.
        pub log_digest: Digest,
        pub request: Request,
    }
}

impl LogEntry {
    /// The encoding of an entry whose request is encoded already.
    pub fn encode(position: u64, log_digest: &Digest, request: &[u8]) -> Vec<u8> {
        // An array of three.
        let mut bytes = vec![0x83];
        append_cbor(&position, &mut bytes);
        append_cbor(log_digest, &mut bytes);
        bytes.extend(request);
        bytes
    }
}

wire_struct! {
    /// The answer of a request before it was undone. A repair compares it with the new one.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Undone {
        pub answer: Answer,
    }
}
