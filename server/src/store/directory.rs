//! A data directory: what lies in it, and whose it is for the moment.
//!
//! | entry | what it is |
//! |---|---|
//! | `store` | the database |
//! | `lock` | locked by the process that has the database open |
//! | `control` | the socket on which a running replica can be asked for a copy of the database |
//! | `copy` | such a copy, made of links to the database's files, for as long as it is wanted |
//! | `backup.lock` | locked by the process that makes a backup |
//! | `restoring` | a database that is being restored, before it is the `store` |

use super::error::OpenError;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The parts of a data directory.
#[derive(Clone, Debug)]
pub struct DataDirectory(pub PathBuf);

impl DataDirectory {
    /// The database.
    pub fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// The socket on which a running replica can be asked for a copy of the database.
    pub fn control(&self) -> PathBuf {
        self.0.join("control")
    }

    /// A copy of the database.
    pub fn copy(&self) -> PathBuf {
        self.0.join("copy")
    }

    /// A database that is being restored.
    pub fn restoring(&self) -> PathBuf {
        self.0.join("restoring")
    }

    /// Makes the directory when it is not there, and locks it for this process; the operating system frees the lock however the
    /// process ends.
    ///
    /// # Errors
    /// Another process has it, or the operating system refuses.
    pub fn lock(&self) -> Result<File, OpenError> {
        std::fs::create_dir_all(&self.0).map_err(|error| self.refused("make the data directory", error))?;
        self.lock_entry("lock")?.ok_or_else(|| OpenError::InUse(self.0.clone()))
    }

    /// Locks an existing directory for this process without writing anything. None when it was never locked: then no replica
    /// has run in it.
    ///
    /// # Errors
    /// Another process has it, or the operating system refuses.
    pub fn lock_to_read(&self) -> Result<Option<File>, OpenError> {
        match File::open(self.0.join("lock")) {
            Ok(file) => self.try_lock(file)?.map(Some).ok_or_else(|| OpenError::InUse(self.0.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.refused("open the lock in the data directory", error)),
        }
    }

    /// Locks the directory for whoever makes a backup of it. None when someone does.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn lock_for_backup(&self) -> Result<Option<File>, OpenError> {
        self.lock_entry("backup.lock")
    }

    /// Removes the copy of the database, if there is one. What it shares with the database stays.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn remove_copy(&self) -> io::Result<()> {
        // RocksDB makes a copy under the second name, and renames it.
        remove_tree(&self.copy())?;
        remove_tree(&self.0.join("copy.tmp"))
    }

    /// Locks a file in the directory, which is made when it is not there. None when another process has locked it.
    fn lock_entry(&self, name: &str) -> Result<Option<File>, OpenError> {
        let path = self.0.join(name);
        // Who may only read it, since another user made it, can lock it all the same.
        let file = match File::options().create(true).truncate(false).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(&path),
            opened => opened,
        };
        self.try_lock(file.map_err(|error| self.refused("open the lock in the data directory", error))?)
    }

    /// The file, locked; none when another process has locked it.
    fn try_lock(&self, file: File) -> Result<Option<File>, OpenError> {
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(self.refused("lock the data directory", error)),
        }
    }

    /// The operating system refused something.
    fn refused(&self, doing: &str, error: io::Error) -> OpenError {
        OpenError::System { doing: format!("{doing} {}", self.0.display()), error }
    }
}

/// Removes a directory with all that is in it, if it is there.
pub fn remove_tree(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
