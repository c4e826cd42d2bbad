//! A replica's disk, in memory: it outlives the replica's processes.
//!
//! To open its files takes RocksDB longer than all that a replica does between two starts, though there is hardly anything in
//! them. So it does this only now and then. Usually a database stays open from one process to the next; whoever starts finds
//! what was committed and nothing else, either way.

use fastrand::Rng;
use stablechat_server::store::schema::StoreIdentity;
use stablechat_server::store::{ChatStore, Location, OpenError};

/// One in so many starts, the database is closed and opened again.
const REOPENED_ONE_IN: u8 = 16;

/// A disk.
pub struct Disk {
    location: Location,
    /// The database on it, when it is open.
    open: Option<Location>,
}

impl Disk {
    /// An empty disk.
    pub fn empty() -> Disk {
        Disk { location: Location::in_memory().expect("memory can be had"), open: None }
    }

    /// Opens the store that is on it. Whoever had it open has been dropped.
    pub fn open(&mut self, random: &mut Rng, identity: &StoreIdentity) -> Result<ChatStore, OpenError> {
        if random.u8(..REOPENED_ONE_IN) == 0 {
            self.open = None;
        }
        let open = match self.open.take() {
            Some(open) => open,
            None => self.location.kept_open()?,
        };
        ChatStore::open(self.open.insert(open), identity)
    }
}
