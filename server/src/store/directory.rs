//! A data directory: its entries and its locks.
//!
//! | entry | purpose |
//! |---|---|
//! | `store` | the database |
//! | `lock` | locked by the process that has the database open |
//! | `control` | the socket on which a backup asks a running replica for a copy of the database |
//! | `copy` | such a copy, made of links to the database's files; deleted when the backup ends |
//! | `backup.lock` | locked by the process that makes a backup, so that two do not share a copy |
//! | `restoring` | a database that is being restored; renamed to `store` when it is complete |

use super::error::OpenError;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The flag for opening a file that must not be a symbolic link.
const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// The data directory of a replica.
#[derive(Clone, Debug)]
pub struct DataDirectory(pub PathBuf);

impl DataDirectory {
    pub fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    pub fn control(&self) -> PathBuf {
        self.0.join("control")
    }

    pub fn copy(&self) -> PathBuf {
        self.0.join("copy")
    }

    pub fn restoring(&self) -> PathBuf {
        self.0.join("restoring")
    }

    /// Locks the directory for this process, and creates it if it is not there. The operating system releases the lock however the
    /// process ends.
    ///
    /// # Errors
    /// Another process has locked it, or the operating system refuses.
    pub fn lock(&self) -> Result<File, OpenError> {
        std::fs::create_dir_all(&self.0).map_err(|error| self.refused("create the data directory", error))?;
        self.lock_entry("lock")?.ok_or_else(|| OpenError::InUse(self.0.clone()))
    }

    /// Locks an existing directory for this process without writing anything. `None` when it was never locked, so that no replica
    /// has run in it.
    ///
    /// # Errors
    /// Another process has locked it, or the operating system refuses.
    pub fn lock_to_read(&self) -> Result<Option<File>, OpenError> {
        match File::open(self.0.join("lock")) {
            Ok(file) => self.try_lock(file)?.map(Some).ok_or_else(|| OpenError::InUse(self.0.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.refused("open the lock in the data directory", error)),
        }
    }

    /// Locks the directory for making a backup of it. `None` when another process is making one.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn lock_for_backup(&self) -> Result<Option<File>, OpenError> {
        self.lock_entry("backup.lock")
    }

    /// Removes the copy of the database, if there is one. The database keeps the files that both have links to.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn remove_copy(&self) -> io::Result<()> {
        // RocksDB makes a copy under the second name and then renames it, so a crash may leave either.
        remove_tree(&self.copy())?;
        remove_tree(&self.0.join("copy.tmp"))
    }

    /// Locks a file in the directory, and creates it if it is not there. `None` when another process has locked it.
    fn lock_entry(&self, name: &str) -> Result<Option<File>, OpenError> {
        let path = self.0.join(name);
        // Another user may have created the file. To lock it, reading is enough.
        // A link is not followed: where root makes a backup of another user's replica, that user could have root create a file.
        let options = |write: bool| File::options().read(!write).write(write).custom_flags(NOFOLLOW).clone();
        let file = match options(true).create(true).truncate(false).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => options(false).open(&path),
            opened => opened,
        };
        self.try_lock(file.map_err(|error| self.refused("open the lock in the data directory", error))?)
    }

    /// The file, locked; `None` when another process has locked it.
    fn try_lock(&self, file: File) -> Result<Option<File>, OpenError> {
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(self.refused("lock the data directory", error)),
        }
    }

    fn refused(&self, doing: &str, error: io::Error) -> OpenError {
        OpenError::System { doing: format!("{doing} {}", self.0.display()), error }
    }
}

/// Removes a directory and everything in it, if it is there.
pub fn remove_tree(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
