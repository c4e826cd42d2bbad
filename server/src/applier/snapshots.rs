//! Snapshots that are being transferred: one that we send to a peer, and one that a peer sends to us.
//!
//! Each part is sent when it is asked for, and asked for when the one before has been taken in. So either side needs memory for a
//! few parts only, and other messages on the connection are not delayed.

use super::outbox::Outbox;
use crate::replica::PeerId;
use crate::store::{ChatStore, SnapshotError, SnapshotPart, SnapshotReader, SnapshotReceiver, StoreError};
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::time::Timestamp;
use std::time::Duration;

/// A peer that has not asked for the next part for this long has given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The snapshots that are on their way.
#[derive(Default)]
pub struct Snapshots {
    /// The one that we send. While there is one, our log is not truncated.
    outgoing: Option<Outgoing>,
    /// The one that we receive.
    incoming: Option<Incoming>,
}

/// A snapshot for a peer.
struct Outgoing {
    to: PeerId,
    export: SnapshotReader,
    /// The number of the part that comes next.
    next: u64,
    /// When the last one was asked for.
    asked: Timestamp,
}

/// A snapshot from a peer.
struct Incoming {
    from: PeerId,
    import: SnapshotReceiver,
    /// The number of the part that comes next.
    next: u64,
}

/// The result of taking in a part.
pub enum Taken {
    /// The next one has been asked for.
    More,
    /// It was the last one: the snapshot is installed.
    Installed,
    /// The snapshot cannot be taken.
    Not,
}

impl Snapshots {
    /// Whether a peer is taking a snapshot from us.
    pub fn is_sending(&self) -> bool {
        self.outgoing.is_some()
    }

    /// Drops a snapshot that the peer has given up.
    pub fn expire(&mut self, now: Timestamp) {
        self.outgoing.take_if(|outgoing| now.since(outgoing.asked) > PATIENCE);
    }

    /// A connection has ended, and the transfers on it.
    pub fn on_disconnected(&mut self, peer: PeerId) {
        self.outgoing.take_if(|outgoing| outgoing.to == peer);
        self.incoming.take_if(|incoming| incoming.from == peer);
    }

    /// Sends a peer a part, or tells it to wait. Returns whether that was the last part.
    pub fn send(
        &mut self,
        now: Timestamp,
        to: PeerId,
        part: u64,
        store: &ChatStore,
        outbox: &mut Outbox,
    ) -> Result<bool, StoreError> {
        let message = match self.next_part(now, to, part, store)? {
            Some((rows, end)) => {
                let rows_total = self.outgoing.as_ref().map_or(0, |outgoing| outgoing.export.rows_total());
                PeerMessage::SnapshotPart { part, rows, end, rows_total }
            }
            None => PeerMessage::SnapshotBusy,
        };
        let is_last = matches!(message, PeerMessage::SnapshotPart { end: Some(_), .. });
        if is_last {
            self.outgoing = None;
        }
        outbox.for_peer(to, message);
        Ok(is_last)
    }

    /// The part that a peer asks for; none while another peer takes a snapshot, or when it is not the next one.
    fn next_part(
        &mut self,
        now: Timestamp,
        to: PeerId,
        part: u64,
        store: &ChatStore,
    ) -> Result<Option<SnapshotPart>, StoreError> {
        if part == 0 {
            self.outgoing.take_if(|outgoing| outgoing.to == to);
            if self.outgoing.is_none() {
                match store.read_snapshot() {
                    Ok(export) => {
                        self.outgoing = Some(Outgoing { to, export, next: 0, asked: now });
                    }
                    Err(error) => log::warn!("cannot read a snapshot for a peer: {error}"),
                }
            }
        }
        let wanted = self.outgoing.as_mut().filter(|outgoing| (outgoing.to, outgoing.next) == (to, part));
        let Some(outgoing) = wanted else { return Ok(None) };
        (outgoing.next, outgoing.asked) = (part + 1, now);
        outgoing.export.next_part()
    }

    /// Takes in a part from a peer, and asks for the next one.
    pub fn take(
        &mut self,
        from: PeerId,
        part: u64,
        (rows, end): SnapshotPart,
        store: &mut ChatStore,
        outbox: &mut Outbox,
    ) -> Result<Taken, StoreError> {
        if part == 0 {
            log::info!("our log can be brought together with the others' no more: taking a snapshot of one of them");
            let import = store.begin_snapshot()?;
            self.incoming = Some(Incoming { from, import, next: 0 });
        }
        let taken = self.incoming.take().filter(|incoming| (incoming.from, incoming.next) == (from, part));
        let Some(mut incoming) = taken else { return Ok(Taken::Not) };
        let taken = match store.receive_rows(&mut incoming.import, rows) {
            Ok(()) => match end {
                None => {
                    incoming.next += 1;
                    outbox.for_peer(from, PeerMessage::FetchSnapshot { part: incoming.next });
                    self.incoming = Some(incoming);
                    return Ok(Taken::More);
                }
                Some(end) => {
                    let (bytes, rows) = (incoming.import.bytes(), incoming.import.rows());
                    log::info!("the snapshot is complete, {rows} rows with {bytes} bytes: installing it");
                    store.install_snapshot(incoming.import, &end)
                }
            },
            refused => refused,
        };
        match taken {
            Ok(()) => Ok(Taken::Installed),
            Err(SnapshotError::Store(error)) => Err(error),
            Err(SnapshotError::Invalid(why)) => {
                log::error!("BUG: the snapshot cannot be taken: {why}");
                Ok(Taken::Not)
            }
        }
    }
}
