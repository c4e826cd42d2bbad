//! The disk that a replica's store is on: how much room there is, and opening the store again when there was none.
//!
//! A *reserve* is kept free for what is under way: clients are refused while there is less. It cannot keep the disk from being
//! full, since others write to it too, and since peers go on accepting what has to be applied here. When a batch cannot be
//! written, the store is closed, and opened again when there is room.

use crate::control::Control;
use crate::store::{ChatStore, DataDirectory, Location, OpenError, StoreError, schema::StoreIdentity};
use rustix::fs::{StatVfs, statvfs};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// The room that clients are not given, in bytes: what the write-ahead log, the memory that is written out, and a compaction
/// may take, and what has been accepted and is not yet applied.
const RESERVE_MAX: u64 = 256 * 1024 * 1024;
/// On a small file system it is this share of it.
const RESERVE_SHARE: u64 = 8;
/// Clients are given room again when there is more than the reserve, by this share of it, so that it does not change at every
/// file that comes and goes.
const SLACK_SHARE: u64 = 4;
/// How often it is looked how much room there is.
const INTERVAL: Duration = Duration::from_millis(250);

/// A replica's disk.
pub struct Disk {
    data: DataDirectory,
    owner: StoreIdentity,
    /// How much of the log the store keeps, in bytes.
    retention: u64,
    /// Who gives copies of the store; none while it is closed.
    control: Option<Control>,
    /// How often the store has written something, this one and those before it.
    writes: Arc<AtomicU64>,
    /// When it was last looked how much room there is.
    looked: Option<Instant>,
    /// Whether there was enough.
    has_room: bool,
}

impl Disk {
    /// The disk of a data directory, and the store on it, opened.
    ///
    /// # Errors
    /// As for [`ChatStore::open`], or there can be no socket in the directory.
    pub fn open(data: DataDirectory, owner: StoreIdentity, retention: u64) -> Result<(Disk, ChatStore), OpenError> {
        let mut disk =
            Disk { data, owner, retention, control: None, writes: Arc::default(), looked: None, has_room: true };
        let store = disk.open_store()?;
        Ok((disk, store))
    }

    /// Opens the store, which is not open.
    ///
    /// # Errors
    /// As for [`Disk::open`].
    pub fn open_store(&mut self) -> Result<ChatStore, OpenError> {
        let mut store = ChatStore::open(&Location::Directory(self.data.0.clone()), &self.owner)?;
        store.retain(self.retention);
        store.count_writes_with(Arc::clone(&self.writes));
        let control = Control::start(self.data.clone(), store.shared_db());
        self.control = Some(control.map_err(|error| self.refused("listen in the data directory", error))?);
        Ok(store)
    }

    /// The store is going to be closed.
    pub fn release(&mut self) {
        self.control = None;
    }

    /// Whether clients can be given room, if it is time to look.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn look(&mut self) -> Result<Option<bool>, StoreError> {
        if self.looked.is_some_and(|looked| looked.elapsed() < INTERVAL) {
            return Ok(None);
        }
        self.looked = Some(Instant::now());
        let system = statvfs(&self.data.0);
        let system = system.map_err(|error| StoreError::System("asking how much room there is", error.into()))?;
        let (room, reserve) = (system.f_bavail * system.f_frsize, reserve(&system));
        let enough = if self.has_room { reserve } else { reserve + reserve / SLACK_SHARE };
        let has_room = room >= enough;
        match (self.has_room, has_room) {
            (true, false) => log::error!(
                "the disk with {} is almost full, {} MiB are left: refusing what clients want to write until there are {} MiB",
                self.data.0.display(),
                room >> 20,
                (reserve + reserve / SLACK_SHARE) >> 20
            ),
            (false, true) => {
                log::info!("there is room on the disk with {} again, {} MiB", self.data.0.display(), room >> 20)
            }
            _ => {}
        }
        self.has_room = has_room;
        Ok(Some(has_room))
    }

    /// The operating system refused something.
    fn refused(&self, doing: &str, error: io::Error) -> OpenError {
        OpenError::System { doing: format!("{doing} {}", self.data.0.display()), error }
    }
}

/// The reserve on a file system.
fn reserve(system: &StatVfs) -> u64 {
    RESERVE_MAX.min(system.f_blocks * system.f_frsize / RESERVE_SHARE)
}
