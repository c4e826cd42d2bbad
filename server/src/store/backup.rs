//! Backups: a directory of them for each replica, incremental, by RocksDB's backup engine.
//!
//! A backup is a database as of one moment. The backups of a directory share the sorted files that they have in common. The
//! next backup removes the files that an interrupted one has left. The directory says which replica its backups are of, so that
//! the backups of two replicas are not mixed.
//!
//! A replica with a restored store has been away since the backup, as it were, and catches up. The store can be restored under the
//! name of another replica: the name is the only thing in which the stores of replicas that have settled the same log differ.

use super::database::{family, read_meta, synced};
use super::directory::{DataDirectory, remove_tree};
use super::error::{OpenError, StoreError};
use super::open::open_copy;
use super::schema::{self, Applied, StoreIdentity};
use rocksdb::backup::{BackupEngine, BackupEngineInfo, BackupEngineOptions, RestoreOptions};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, Env};
use serde::{Deserialize, Serialize};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::wire::to_cbor;
use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// In the directory of backups: the replica that they are of.
const OWNER: &str = "owner.toml";
/// In the directory of backups: locked by the process that writes or reads them.
const LOCK: &str = "lock";

/// A directory of backups, locked for this process.
pub struct Backups {
    directory: PathBuf,
    owner: StoreIdentity,
    _lock: File,
}

/// The content of the file [`OWNER`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Owner {
    cluster: String,
    replica: String,
}

/// A backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Its number, from 1. Later ones have higher numbers.
    pub id: u32,
    /// When it was made; in whole seconds.
    pub made: Timestamp,
    /// Its size, including the files that it shares with others.
    pub bytes: u64,
}

/// Why a backup could not be made, listed or restored.
#[derive(Debug)]
pub enum BackupError {
    /// There are no backups in this directory.
    NoBackups(PathBuf),
    /// The directory for backups has other files in it, and no backups.
    NotForBackups(PathBuf),
    /// The directory has the backups of another replica.
    OthersBackups { directory: PathBuf, found: StoreIdentity, wanted: StoreIdentity },
    /// Another process uses the directory of backups.
    InUse(PathBuf),
    /// There is no backup with this number.
    NoSuchBackup { wanted: u32, found: Vec<Backup> },
    /// The data directory to restore to is not empty.
    NotEmpty {
        data: PathBuf,
        /// The name of a file in it.
        found: String,
    },
    /// The operating system refused something.
    System {
        /// The operation that failed, as an infinitive.
        doing: String,
        error: io::Error,
    },
    /// The store or the backup cannot be opened, read or written.
    Store(OpenError),
}

impl fmt::Display for BackupError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackupError::NoBackups(directory) => {
                write!(
                    formatter,
                    "there are no backups in {}; give the directory that `backup` wrote to",
                    directory.display()
                )
            }
            BackupError::NotForBackups(directory) => write!(
                formatter,
                "{} is not empty and has no backups; give a directory that is new, empty, or has this replica's backups",
                directory.display()
            ),
            BackupError::OthersBackups { directory, found, wanted } => write!(
                formatter,
                "{} has the backups of {found}, not of {wanted}; give each replica a directory of its own",
                directory.display()
            ),
            BackupError::InUse(directory) => {
                write!(formatter, "the backups in {} are in use by another process; wait for it", directory.display())
            }
            BackupError::NoSuchBackup { wanted, found } => {
                let found: Vec<String> = found.iter().map(|backup| backup.id.to_string()).collect();
                write!(formatter, "there is no backup {wanted}; there are {}", found.join(", "))
            }
            BackupError::NotEmpty { data, found } => write!(
                formatter,
                "the data directory {} has {found} in it; give a new or empty one, or move its contents away",
                data.display()
            ),
            BackupError::System { doing, error } => write!(formatter, "cannot {doing}: {error}"),
            BackupError::Store(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for BackupError {}

impl From<OpenError> for BackupError {
    fn from(error: OpenError) -> Self {
        BackupError::Store(error)
    }
}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> Self {
        BackupError::Store(error.into())
    }
}

/// A store that was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    pub backup: Backup,
    /// The replica that it belongs to now.
    pub identity: StoreIdentity,
    pub applied: Applied,
}

impl Backups {
    /// Opens a directory for the backups of a replica, or creates it.
    ///
    /// # Errors
    /// It has other files in it, is in use, or cannot be written.
    pub fn of(owner: StoreIdentity, directory: &Path) -> Result<Backups, BackupError> {
        let refused = |error| system("create the directory for backups", directory, error);
        std::fs::create_dir_all(directory).map_err(refused)?;
        let directory = directory.to_path_buf();
        match read_owner(&directory)? {
            Some(found) if found != owner => {
                return Err(BackupError::OthersBackups { directory, found, wanted: owner });
            }
            Some(_) => {}
            None if !entries(&directory, &[LOCK])?.is_empty() => return Err(BackupError::NotForBackups(directory)),
            None => {}
        }
        let lock = lock(&directory)?;
        write_owner(&directory, &owner)?;
        Ok(Backups { directory, owner, _lock: lock })
    }

    /// Opens a directory that has backups.
    ///
    /// # Errors
    /// It has none, is in use, or cannot be read.
    pub fn open(directory: &Path) -> Result<Backups, BackupError> {
        let directory = directory.to_path_buf();
        let owner = read_owner(&directory)?.ok_or_else(|| BackupError::NoBackups(directory.clone()))?;
        let lock = lock(&directory)?;
        Ok(Backups { directory, owner, _lock: lock })
    }

    /// The replica that the backups are of.
    pub fn owner(&self) -> &StoreIdentity {
        &self.owner
    }

    /// All backups, oldest first.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn list(&self) -> Result<Vec<Backup>, BackupError> {
        let mut backups: Vec<Backup> = self.engine()?.get_backup_info().iter().map(described).collect();
        backups.sort_by_key(|backup| backup.id);
        Ok(backups)
    }

    /// Adds a backup of a database; if `keep` is given, removes all backups but the last `keep`. Returns the backup, and how many bytes
    /// had to be written for it.
    ///
    /// # Errors
    /// The database cannot be read, or the backup cannot be written. The earlier backups are unharmed.
    pub fn add(&self, db: &DB, keep: Option<usize>) -> Result<(Backup, u64), BackupError> {
        let before = bytes_in(&self.directory)?;
        let mut engine = self.engine()?;
        // Flush first: rows that are only in the write-ahead log would be copied again by every backup.
        engine.create_new_backup_flush(db, true).map_err(|error| StoreError::Rocks("writing the backup", error))?;
        let new_bytes = bytes_in(&self.directory)?.saturating_sub(before);
        if let Some(keep) = keep {
            engine.purge_old_backups(keep).map_err(|error| StoreError::Rocks("removing old backups", error))?;
        }
        drop(engine);
        let backup = self.list()?.pop().ok_or_else(|| BackupError::NoBackups(self.directory.clone()))?;
        Ok((backup, new_bytes))
    }

    /// Restores a backup into an empty data directory: backup number `id`, or the last one; as the store of the replica `name`, or of the
    /// one it was made of. The database gets the name of a store last, when it is complete and durable, so that no replica starts with
    /// half of one.
    ///
    /// # Errors
    /// The data directory is not empty; or the backup does not exist, cannot be read, or was changed since it was written.
    pub fn restore(
        &self,
        id: Option<u32>,
        data: &DataDirectory,
        name: Option<String>,
    ) -> Result<Restored, BackupError> {
        let found = self.list()?;
        let last = found.last().copied().ok_or_else(|| BackupError::NoBackups(self.directory.clone()))?;
        let wanted = id.unwrap_or(last.id);
        let backup = found.iter().find(|backup| backup.id == wanted).copied();
        let backup = backup.ok_or(BackupError::NoSuchBackup { wanted, found })?;

        let _lock = data.lock()?;
        let allowed = ["lock", "backup.lock", "control", "restoring"];
        if let Some(found) = entries(&data.0, &allowed)?.into_iter().next() {
            return Err(BackupError::NotEmpty { data: data.0.clone(), found });
        }

        let restoring = data.restoring();
        remove_tree(&restoring)
            .map_err(|error| system("remove the rest of an interrupted restoration,", &restoring, error))?;
        self.engine()?
            .restore_from_backup(&restoring, &restoring, &RestoreOptions::default(), wanted)
            .map_err(|error| StoreError::Rocks("restoring the backup", error))?;

        let identity =
            StoreIdentity { replica: name.unwrap_or_else(|| self.owner.replica.clone()), ..self.owner.clone() };
        let applied = claim(&restoring, &self.owner, &identity)?;

        sync_files(&restoring)?;
        let store = data.store();
        std::fs::rename(&restoring, &store)
            .map_err(|error| system("rename the restored database to", &store, error))?;
        sync(&data.0)?;
        Ok(Restored { backup, identity, applied })
    }

    fn engine(&self) -> Result<BackupEngine, StoreError> {
        let opened =
            BackupEngineOptions::new(&self.directory).and_then(|options| BackupEngine::open(&options, &Env::new()?));
        opened.map_err(|error| StoreError::Rocks("opening the backups", error))
    }
}

/// Makes a copy of a database as it is now, which can be used meanwhile. The copy consists of links to the sorted files, so the
/// directory has to be new and on the same file system.
///
/// # Errors
/// RocksDB cannot make it.
pub fn copy_database(db: &DB, to: &Path) -> Result<(), StoreError> {
    let made = Checkpoint::new(db).and_then(|checkpoint| checkpoint.create_checkpoint(to));
    made.map_err(|error| StoreError::Rocks("copying the store", error))
}

/// The replica that a database belongs to.
///
/// # Errors
/// Storage failed, or the database does not say.
pub fn owner_of(db: &DB) -> Result<StoreIdentity, StoreError> {
    read_meta(db, schema::META_IDENTITY)?
        .ok_or_else(|| StoreError::Corrupt("it does not say which replica it belongs to".into()))
}

/// How far the log of a database has been applied.
///
/// # Errors
/// Storage failed.
pub fn applied_of(db: &DB) -> Result<Applied, StoreError> {
    Ok(read_meta(db, schema::META_APPLIED)?.unwrap_or(Applied::NOTHING))
}

/// Gives a restored database to the replica `identity`. Returns how far it has been applied.
fn claim(path: &Path, owner: &StoreIdentity, identity: &StoreIdentity) -> Result<Applied, BackupError> {
    let db = open_copy(path)?;
    let found = owner_of(&db)?;
    if found != *owner {
        return Err(StoreError::Corrupt(format!("the backup is of {found}, not of {owner}")).into());
    }
    if identity != owner {
        db.put_cf_opt(family(&db, schema::META), schema::META_IDENTITY, to_cbor(identity), &synced())
            .map_err(|error| StoreError::Rocks("writing the owner of the store", error))?;
    }
    Ok(applied_of(&db)?)
}

fn described(info: &BackupEngineInfo) -> Backup {
    let seconds = u64::try_from(info.timestamp).unwrap_or(0);
    Backup { id: info.backup_id, made: Timestamp(seconds.saturating_mul(1_000_000_000)), bytes: info.size }
}

/// Locks a directory of backups for this process.
fn lock(directory: &Path) -> Result<File, BackupError> {
    let path = directory.join(LOCK);
    let opened = File::options().create(true).truncate(false).write(true).open(&path);
    // A backup can be restored from a directory that cannot be written.
    let file = opened.or_else(|error| File::open(&path).map_err(|_| error));
    let file = file.map_err(|error| system("lock the backups", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(BackupError::InUse(directory.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(system("lock the backups", &path, error)),
    }
}

/// The replica whose backups a directory has; `None` if it has none.
fn read_owner(directory: &Path) -> Result<Option<StoreIdentity>, BackupError> {
    let path = directory.join(OWNER);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(system("read the owner of the backups in", &path, error)),
    };
    match toml::from_str(&text) {
        Ok(Owner { cluster, replica }) => Ok(Some(StoreIdentity { cluster, replica })),
        Err(error) => Err(system("read the owner of the backups in", &path, io::Error::other(error))),
    }
}

/// Writes which replica's backups a directory has. Renames a complete file, so that no half of one is ever read.
fn write_owner(directory: &Path, StoreIdentity { cluster, replica }: &StoreIdentity) -> Result<(), BackupError> {
    let (path, new) = (directory.join(OWNER), directory.join("owner.toml.new"));
    let text = format!(
        "# Backups of a stablechat replica; see `stablechatd restore --help`.\ncluster = '{cluster}'\nreplica = '{replica}'\n"
    );
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &path)
    };
    write().map_err(|error| system("write the owner of the backups in", &path, error))
}

/// The names of the files in a directory, except some.
fn entries(directory: &Path, but: &[&str]) -> Result<Vec<String>, BackupError> {
    let refused = |error| system("read the directory", directory, error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(refused)? {
        let name = entry.map_err(refused)?.file_name().to_string_lossy().into_owned();
        if !but.contains(&name.as_str()) {
            names.push(name);
        }
    }
    Ok(names)
}

/// The size of all files in a directory and below it.
fn bytes_in(directory: &Path) -> Result<u64, BackupError> {
    let refused = |error| system("read the directory", directory, error);
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory).map_err(refused)? {
        let entry = entry.map_err(refused)?;
        let metadata = entry.metadata().map_err(refused)?;
        bytes += if metadata.is_dir() { bytes_in(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Makes the files of a directory durable, then their names.
fn sync_files(directory: &Path) -> Result<(), BackupError> {
    for name in entries(directory, &[])? {
        sync(&directory.join(name))?;
    }
    sync(directory)
}

/// Makes a file or a directory durable.
fn sync(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| system("make durable", path, error))
}

fn system(doing: &str, path: &Path, error: io::Error) -> BackupError {
    BackupError::System { doing: format!("{doing} {}", path.display()), error }
}

#[cfg(test)]
mod tests;
