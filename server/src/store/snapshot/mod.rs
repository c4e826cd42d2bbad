//! Snapshots: log and state as of one moment, in parts, for a replica that lacks truncated requests.
//!
//! A snapshot has every row of the replicated state, the log from the last settled request on, and the undo records after it. So
//! the replica that installs it can repair as far back as the one that sent it.
//!
//! [`SnapshotReader`] reads one from a store that goes on meanwhile. [`SnapshotReceiver`] gathers the parts in a column family of
//! its own. When they are complete and their digests are right, one synced write says so; from then on the old rows are removed and
//! the new ones are put in their places, in batches. Requests that were executed in the old log only become orphans first, to be
//! submitted again. All of this can be done twice, so after a crash [`crate::store::ChatStore::open`] does it again from the beginning; the
//! last batch says how far the new log is applied, and that all is done. A crash before that first write leaves the old store.

mod reading;
mod receiving;

pub use reading::SnapshotReader;
pub use receiving::{SnapshotError, SnapshotReceiver};

use super::schema;
use super::state::keys::Column;
use stablechat_protocol::digest::Digest;
use stablechat_protocol::peer::{SnapshotEnd, SnapshotRow};

/// A part of a snapshot: the next rows, and after the last ones the sums over all.
pub type SnapshotPart = (Vec<SnapshotRow>, Option<SnapshotEnd>);

/// The column family that has this number in a snapshot.
fn family_name(number: u8) -> Option<&'static str> {
    match number {
        schema::LOG_NUMBER => Some(schema::LOG),
        schema::UNDO_NUMBER => Some(schema::UNDO),
        _ => Column::from_number(number).map(Column::name),
    }
}

/// The digest of an undo record. The digests of all, added up, are in the snapshot's end: neither the digest of the state nor
/// that of the log covers them.
fn undo_digest(key: &[u8], value: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("stablechat undo record of a snapshot, version 1");
    hasher.update(&(key.len() as u64).to_be_bytes()).update(key).update(value);
    Digest(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
