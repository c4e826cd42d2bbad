//! The disk that a replica's store is on: how much room it has, and closing and opening the store when there is none.
//!
//! Clients are refused while less than a *reserve* is free, so that the requests that are under way can still be written. The
//! reserve cannot prevent a full disk: other programs write to it too, and this replica has to apply what its peers go on
//! accepting. When a batch cannot be written, the store is closed, and it is opened again when there is room.

use crate::checkpoint::CheckpointServer;
use crate::store::{ChatStore, DataDirectory, Location, OpenError, StoreError, schema::StoreIdentity};
use rustix::fs::{StatVfs, statvfs};
use stablechat_protocol::operator::InitialSettings;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// The most bytes in the reserve: enough for the write-ahead log, for the memtables that are flushed, for a compaction, and for
/// the requests that are accepted and not yet applied.
const RESERVE_MAX: u64 = 256 * 1024 * 1024;
/// The reserve is at most this fraction of the file system: an eighth.
const RESERVE_FRACTION: u64 = 8;
/// Clients are accepted again when a quarter more than the reserve is free. Otherwise every temporary file of a compaction
/// would change whether they are.
const HYSTERESIS_FRACTION: u64 = 4;
/// The least time between two looks at the file system.
const INTERVAL: Duration = Duration::from_millis(250);

/// A replica's disk, and how to open the store on it.
pub struct Disk {
    data: DataDirectory,
    owner: StoreIdentity,
    /// The cluster file's settings that operators have not changed.
    initial: InitialSettings,
    /// How much of its log the store keeps, in bytes.
    log_retention: u64,
    /// None while the store is closed.
    checkpoints: Option<CheckpointServer>,
    /// Write operations of the store, over all times that it was opened.
    writes: Arc<AtomicU64>,
    /// When the free room was last looked at.
    checked_at: Option<Instant>,
    /// Whether there was enough then.
    has_room: bool,
}

impl Disk {
    /// Locks the data directory and opens the store in it.
    ///
    /// # Errors
    /// As for [`ChatStore::open`], or the socket for backups cannot be made in the directory.
    pub fn open(
        data: DataDirectory,
        owner: StoreIdentity,
        initial: InitialSettings,
        log_retention: u64,
    ) -> Result<(Disk, ChatStore), OpenError> {
        let (writes, checked_at, has_room) = (Arc::default(), None, true);
        let mut disk = Disk { data, owner, initial, log_retention, checkpoints: None, writes, checked_at, has_room };
        let store = disk.open_store()?;
        Ok((disk, store))
    }

    /// Opens the store, which must be closed.
    ///
    /// # Errors
    /// As for [`Disk::open`].
    pub fn open_store(&mut self) -> Result<ChatStore, OpenError> {
        let mut store = ChatStore::open(&Location::Directory(self.data.0.clone()), &self.owner, &self.initial)?;
        store.retain(self.log_retention);
        store.count_writes_with(Arc::clone(&self.writes));

        let checkpoints = CheckpointServer::start(self.data.clone(), store.shared_db());
        self.checkpoints = Some(checkpoints.map_err(|error| self.refused("listen for backups in", error))?);
        Ok(store)
    }

    /// Lets go of the database. Must be called before the store is dropped: the lock on the directory goes with the store, and
    /// the database must not stay open after it.
    pub fn release_store(&mut self) {
        self.checkpoints = None;
    }

    /// Whether there is room for what clients write. None when it was looked at less than 250 ms ago.
    ///
    /// # Errors
    /// The operating system does not say how much is free.
    pub fn check_room(&mut self) -> Result<Option<bool>, StoreError> {
        if self.checked_at.is_some_and(|checked_at| checked_at.elapsed() < INTERVAL) {
            return Ok(None);
        }
        self.checked_at = Some(Instant::now());

        let system = statvfs(&self.data.0);
        let system = system.map_err(|error| StoreError::System("asking how much room there is", error.into()))?;
        let (free, reserve) = (system.f_bavail * system.f_frsize, reserve(&system));
        let resume_at = reserve + reserve / HYSTERESIS_FRACTION;
        let has_room = free >= if self.has_room { reserve } else { resume_at };

        let directory = self.data.0.display();
        match (self.has_room, has_room) {
            (true, false) => log::error!(
                "the disk with {directory} is almost full: {} MiB are free; refusing clients' requests that write until {} MiB \
                 are free",
                free >> 20,
                resume_at >> 20
            ),
            (false, true) => log::info!("the disk with {directory} has room again: {} MiB are free", free >> 20),
            _ => {}
        }
        self.has_room = has_room;
        Ok(Some(has_room))
    }

    fn refused(&self, doing: &str, error: io::Error) -> OpenError {
        OpenError::System { doing: format!("{doing} {}", self.data.0.display()), error }
    }
}

/// The size of the reserve on this file system, in bytes.
fn reserve(system: &StatVfs) -> u64 {
    RESERVE_MAX.min(system.f_blocks * system.f_frsize / RESERVE_FRACTION)
}
