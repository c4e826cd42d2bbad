//! How far the transfer of a log or snapshot has come, for the program's log and for status reports.

use crate::replica::PeerId;
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::request::StampedRequest;
use stablechat_protocol::status::CatchUpProgress;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::wire::to_cbor;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often progress is logged.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// The transfer that is under way, and how the peers' logs compare with ours.
#[derive(Default)]
pub struct Progress {
    /// How many requests each peer's log had after the common prefix, when it was last compared with ours.
    ahead: BTreeMap<PeerId, u64>,
    transfer: Option<Transfer>,
}

/// A log or a snapshot that is being transferred to us.
struct Transfer {
    from: PeerId,
    is_snapshot: bool,
    began: Timestamp,
    /// When it was last logged.
    told: Timestamp,
    /// The size of everything received so far.
    bytes: u64,
    /// How many requests or rows have come.
    done: u64,
    /// About how many there are: more may be added meanwhile.
    total: u64,
}

impl Progress {
    /// A peer's log has so many requests after the common prefix.
    pub fn on_compared(&mut self, peer: PeerId, ahead: u64) {
        self.ahead.insert(peer, ahead);
        self.transfer.take_if(|transfer| transfer.from == peer);
    }

    /// Nothing is being transferred any more.
    pub fn end(&mut self) {
        self.transfer = None;
    }

    /// A piece of a peer's log has come.
    pub fn on_entries(&mut self, now: Timestamp, peer: PeerId, requests: &[StampedRequest], is_end: bool) {
        let total = self.ahead.get(&peer).copied().unwrap_or_default();
        let bytes = requests.iter().map(|held| to_cbor(held).len() as u64).sum();
        self.note(now, peer, false, (bytes, requests.len() as u64, total), is_end);
    }

    /// A part of a peer's snapshot has come: bytes, rows, and about how many there are in all.
    pub fn on_snapshot_part(&mut self, now: Timestamp, peer: PeerId, part: (u64, u64, u64), is_end: bool) {
        self.note(now, peer, true, part, is_end);
    }

    /// Adds a part to the transfer, or begins a new one with it.
    fn note(&mut self, now: Timestamp, from: PeerId, is_snapshot: bool, part: (u64, u64, u64), is_end: bool) {
        let (bytes, done, total) = part;
        let same = self.transfer.take().filter(|before| (before.from, before.is_snapshot) == (from, is_snapshot));
        let new = || Transfer { from, is_snapshot, began: now, told: now, bytes: 0, done: 0, total };
        let mut transfer = same.unwrap_or_else(new);
        (transfer.bytes, transfer.done, transfer.total) = (transfer.bytes + bytes, transfer.done + done, total);
        self.transfer = Some(transfer).filter(|_| !is_end);
    }

    /// A connection has ended, and a transfer on it.
    pub fn on_disconnected(&mut self, peer: PeerId) {
        self.ahead.remove(&peer);
        self.transfer.take_if(|transfer| transfer.from == peer);
    }

    /// A line for the program's log about the transfer, at most every [`TOLD_EVERY`].
    pub fn next_line(&mut self, now: Timestamp, name_of: impl Fn(PeerId) -> ReplicaName) -> Option<String> {
        let transfer = self.transfer.as_mut().filter(|transfer| now.since(transfer.told) >= TOLD_EVERY)?;
        transfer.told = now;
        let CatchUpProgress { from, is_snapshot, received_bytes, bytes_per_second, done_percent } =
            self.report(now, name_of)?;
        let what = if is_snapshot { "snapshot" } else { "log" };
        let mebibytes = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
        let (received, rate) = (mebibytes(received_bytes), mebibytes(bytes_per_second));
        Some(format!("transferring the {what} of replica {from}: {done_percent} %, {received:.1} MiB, {rate:.1} MiB/s"))
    }

    /// The transfer as a status report has it.
    pub fn report(&self, now: Timestamp, name_of: impl Fn(PeerId) -> ReplicaName) -> Option<CatchUpProgress> {
        let transfer = self.transfer.as_ref()?;
        let milliseconds = (now.since(transfer.began).as_millis() as u64).max(1);
        Some(CatchUpProgress {
            from: name_of(transfer.from),
            is_snapshot: transfer.is_snapshot,
            received_bytes: transfer.bytes,
            bytes_per_second: transfer.bytes.saturating_mul(1000) / milliseconds,
            // The total is an estimate. A transfer that has not ended is never shown as complete.
            done_percent: (100 * transfer.done / transfer.total.max(1)).min(99) as u8,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000_000_000);

    fn name(PeerId(peer): PeerId) -> ReplicaName {
        ReplicaName::parse(["a", "b", "c"][usize::from(peer)]).expect("a name")
    }

    #[test]
    fn parts_add_up_until_the_last() {
        let mut progress = Progress::default();
        assert_eq!(progress.report(NOW, name), None);
        progress.on_snapshot_part(NOW, PeerId(1), (1000, 10, 80), false);
        progress.on_snapshot_part(NOW.after(Duration::from_secs(1)), PeerId(1), (3000, 10, 80), false);
        let expected = CatchUpProgress {
            from: name(PeerId(1)),
            is_snapshot: true,
            received_bytes: 4000,
            bytes_per_second: 2000,
            done_percent: 25,
        };
        let now = NOW.after(Duration::from_secs(2));
        assert_eq!(progress.report(now, name), Some(expected));
        assert_eq!(progress.next_line(now, name), None);
        let later = NOW.after(TOLD_EVERY);
        assert!(progress.next_line(later, name).is_some_and(|text| text.contains("snapshot of replica b: 25 %")));
        assert_eq!(progress.next_line(later, name), None);
        progress.on_snapshot_part(later, PeerId(1), (1, 90, 80), false);
        assert_eq!(progress.report(later, name).map(|report| report.done_percent), Some(99));
        progress.on_snapshot_part(later, PeerId(1), (1, 1, 80), true);
        assert_eq!(progress.report(later, name), None);
    }

    #[test]
    fn a_transfer_from_another_peer_is_counted_from_zero() {
        let mut progress = Progress::default();
        progress.on_snapshot_part(NOW, PeerId(1), (1000, 10, 80), false);
        progress.on_compared(PeerId(2), 4);
        progress.on_entries(NOW, PeerId(2), &[], false);
        let report = progress.report(NOW, name).expect("something comes in");
        assert_eq!((report.from, report.is_snapshot, report.received_bytes), (name(PeerId(2)), false, 0));
        progress.on_disconnected(PeerId(1));
        assert!(progress.report(NOW, name).is_some());
        progress.on_disconnected(PeerId(2));
        assert_eq!(progress.report(NOW, name), None);
    }
}
