//! Which log or snapshot is being transferred to us, and how far.
//!
//! One transfer runs at a time. A piece is asked for when the one before has come and at most one insertion is still under way, so
//! no more is on its way than can be taken in.

use super::PeerId;
use super::pending::request_size;
use stablechat_protocol::request::StampedRequest;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;

/// The most requests of a peer's log that are gathered before they are inserted below the end of our own.
const GATHERED_MAX: usize = 100_000;
/// The most bytes that they may take.
const GATHERED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How many insertions may be under way when the next piece of a peer's log is asked for: while one is done, the next comes.
const INSERTING_MAX: usize = 2;

/// What we take over from peers.
#[derive(Debug, Default)]
pub struct CatchUp {
    transfer: Option<Transfer>,
    /// How many insertions into our log have been asked for and are not done. An insertion outlives the incarnation that asked for it.
    inserting: usize,
    /// When to ask again for a snapshot that could not be had.
    retry_snapshot_at: Option<Timestamp>,
}

/// What a peer is sending us.
#[derive(Debug)]
enum Transfer {
    Log(LogTransfer),
    Snapshot { from: PeerId },
}

impl Transfer {
    fn from(&self) -> PeerId {
        match self {
            Transfer::Log(log) => log.from,
            Transfer::Snapshot { from } => *from,
        }
    }
}

/// A peer's log, as it comes in.
#[derive(Debug)]
pub struct LogTransfer {
    from: PeerId,
    /// After which request the piece begins that was last asked for.
    asked: Uid,
    /// How many requests our log had after the common prefix, when the two were compared.
    depth: u64,
    /// The requests that have come and are not yet taken in.
    gathered: Vec<StampedRequest>,
    /// About how many bytes they take.
    bytes: usize,
    /// After which request the next piece is to be asked for, while it has not been.
    next: Option<Uid>,
}

impl LogTransfer {
    /// Adds requests that have come.
    pub fn add(&mut self, requests: impl IntoIterator<Item = StampedRequest>) {
        let from = self.gathered.len();
        self.gathered.extend(requests);
        self.bytes += self.gathered[from..].iter().map(|held| request_size(&held.request)).sum::<usize>();
    }

    /// Takes out the requests that have come.
    pub fn take(&mut self) -> Vec<StampedRequest> {
        self.bytes = 0;
        std::mem::take(&mut self.gathered)
    }

    /// The first request that has come and is not taken in.
    pub fn first(&self) -> Option<Uid> {
        self.gathered.first().map(|held| held.uid)
    }

    /// Whether no more may be gathered.
    pub fn is_full(&self) -> bool {
        self.gathered.len() >= GATHERED_MAX || self.bytes >= GATHERED_BYTES_MAX
    }

    /// How many requests of our log would be undone and applied again, at least, if these were inserted now; none would be if all of
    /// them come after `applied`.
    pub fn undone_by_inserting(&self, applied: Uid) -> u64 {
        match self.gathered.iter().filter(|held| held.uid <= applied).count() as u64 {
            0 => 0,
            below => self.depth.max(below),
        }
    }
}

impl CatchUp {
    /// Forgets the transfer, as a new incarnation does.
    pub fn reset(&mut self) {
        (self.transfer, self.retry_snapshot_at) = (None, None);
    }

    /// Whether something is being transferred.
    pub fn is_transferring(&self) -> bool {
        self.transfer.is_some()
    }

    /// Whether everything that came has been taken in, and nothing more was asked for.
    pub fn is_idle(&self) -> bool {
        self.transfer.is_none() && self.inserting == 0
    }

    /// The peer whose log or snapshot is being transferred.
    pub fn from(&self) -> Option<PeerId> {
        self.transfer.as_ref().map(Transfer::from)
    }

    /// Whether the transfer is from another peer than this one.
    pub fn is_busy_with_another_than(&self, peer: PeerId) -> bool {
        self.from().is_some_and(|from| from != peer)
    }

    /// Whether this peer is sending us a snapshot.
    pub fn awaits_snapshot_of(&self, peer: PeerId) -> bool {
        matches!(self.transfer, Some(Transfer::Snapshot { from }) if from == peer)
    }

    /// Whether a peer is sending us a snapshot.
    pub fn awaits_snapshot(&self) -> bool {
        matches!(self.transfer, Some(Transfer::Snapshot { .. }))
    }

    /// Begins the transfer of a log, of which the requests after this one have been asked for. Ours has `depth` that follow the
    /// common prefix.
    pub fn begin_log(&mut self, from: PeerId, after: Uid, depth: u64) {
        let log = LogTransfer { from, asked: after, depth, gathered: Vec::new(), bytes: 0, next: None };
        self.transfer = Some(Transfer::Log(log));
    }

    /// Begins the transfer of a snapshot.
    pub fn begin_snapshot(&mut self, from: PeerId) {
        self.transfer = Some(Transfer::Snapshot { from });
    }

    /// Ends the transfer.
    pub fn end(&mut self) {
        self.transfer = None;
    }

    /// Ends the transfer, if it is from this peer. Returns the requests that have come and are not taken in; none when it was not.
    pub fn end_if_from(&mut self, peer: PeerId) -> Option<Vec<StampedRequest>> {
        match self.transfer.take_if(|transfer| transfer.from() == peer)? {
            Transfer::Log(log) => Some(log.gathered),
            Transfer::Snapshot { .. } => Some(Vec::new()),
        }
    }

    /// Takes out the transfer of a log if it is this piece that it awaits. [`CatchUp::resume`] puts it back.
    pub fn take_if_awaited(&mut self, peer: PeerId, after: Uid) -> Option<LogTransfer> {
        let is_awaited = |transfer: &mut Transfer| match transfer {
            Transfer::Log(log) => log.from == peer && log.asked == after,
            Transfer::Snapshot { .. } => false,
        };
        match self.transfer.take_if(is_awaited)? {
            Transfer::Log(log) => Some(log),
            Transfer::Snapshot { .. } => None,
        }
    }

    /// Goes on with the transfer of a log after this request.
    pub fn resume(&mut self, mut log: LogTransfer, next: Uid) {
        log.next = Some(next);
        self.transfer = Some(Transfer::Log(log));
    }

    /// The next piece to ask for, and of which peer, unless there is enough to insert already. It counts as asked for.
    pub fn next_piece(&mut self) -> Option<(PeerId, Uid)> {
        match &mut self.transfer {
            Some(Transfer::Log(log)) if self.inserting < INSERTING_MAX => {
                log.asked = log.next.take()?;
                Some((log.from, log.asked))
            }
            _ => None,
        }
    }

    /// An insertion into our log has been asked for.
    pub fn on_inserting(&mut self) {
        self.inserting += 1;
    }

    /// An insertion into our log is done.
    pub fn on_inserted(&mut self) {
        self.inserting -= 1;
    }

    /// The snapshot could not be had: asks again at this time.
    pub fn postpone_snapshot(&mut self, at: Timestamp) {
        (self.transfer, self.retry_snapshot_at) = (None, Some(at));
    }

    /// Whether a snapshot that could not be had is to be asked for again. It says so once.
    pub fn is_snapshot_due(&mut self, now: Timestamp) -> bool {
        self.transfer.is_none() && self.retry_snapshot_at.take_if(|at| *at <= now).is_some()
    }

    /// Whether the bytes of a transfer are those of its requests, and it waits for no more than one thing.
    pub fn is_sound(&self) -> bool {
        let Some(Transfer::Log(log)) = &self.transfer else { return true };
        log.bytes == log.gathered.iter().map(|held| request_size(&held.request)).sum::<usize>()
            && log.next.is_none_or(|next| next > log.asked)
    }
}
