//! A replica's disk, in memory: it outlives the replica's processes.
//!
//! RocksDB takes longer to open its files than a replica to do everything between two starts. So only one in some starts
//! closes and opens the database; otherwise it stays open from one process to the next. Either way a process that starts finds
//! what was committed, and nothing else.

use super::plan::first_code;
use fastrand::Rng;
use stablechat_protocol::operator::InitialSettings;
use stablechat_server::store::schema::StoreIdentity;
use stablechat_server::store::{ChatStore, Location, OpenError};

/// One in so many starts, the database is closed and opened again.
const REOPENED_ONE_IN: u8 = 16;

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

    /// Opens the store that is on it. The store of the process before has been dropped.
    pub fn open(&mut self, random: &mut Rng, identity: &StoreIdentity) -> Result<ChatStore, OpenError> {
        if random.u8(..REOPENED_ONE_IN) == 0 {
            self.open = None;
        }
        let open = match self.open.take() {
            Some(open) => open,
            None => self.location.kept_open()?,
        };
        let initial = InitialSettings { invitation: Some(first_code().digest()), ..InitialSettings::OPEN };
        ChatStore::open(self.open.insert(open), identity, &initial)
    }
}
