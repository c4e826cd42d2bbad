//! Backups: a directory of them for each replica, incremental, by RocksDB's backup engine.
//!
//! A backup is a database as of one moment. Those of one directory share the sorted files that they have in common, and an
//! interrupted one leaves nothing behind but what the next one removes. The directory says whose backups it has, since the data
//! of one replica must not get between those of another.
//!
//! A restored store is that of a replica that was away since the backup, and catches up like one. Under another name it is that of
//! the replica with that name: replicas differ in nothing that is stored but that.

use super::directory::{DataDirectory, remove_tree};
use super::error::{OpenError, StoreError};
use super::open::{open_copy, read_meta};
use super::rows::family;
use super::schema::{self, Applied, StoreIdentity};
use super::synced;
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

/// In the directory: whose backups it has.
const OWNER: &str = "owner.toml";
/// In the directory: locked by the process that writes or reads backups.
const LOCK: &str = "lock";

/// A directory of backups, locked for this process.
pub struct Backups {
    directory: PathBuf,
    owner: StoreIdentity,
    _lock: File,
}

/// What the file [`OWNER`] says.
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
    /// When it was made, to the second.
    pub made: Timestamp,
    /// How many bytes it has, those included that it shares with others.
    pub bytes: u64,
}

/// Why something about backups could not be done.
#[derive(Debug)]
pub enum BackupError {
    /// There are no backups in this directory.
    NoBackups(PathBuf),
    /// The directory for backups has other things in it.
    NotForBackups(PathBuf),
    /// It has those of another replica.
    OthersBackups {
        /// The directory.
        directory: PathBuf,
        /// Whose it has.
        found: StoreIdentity,
        /// Whose were to be added.
        wanted: StoreIdentity,
    },
    /// Another process uses it.
    InUse(PathBuf),
    /// It has no backup of this number.
    NoSuchBackup {
        /// The number.
        wanted: u32,
        /// Those that there are.
        found: Vec<Backup>,
    },
    /// Where a store was to be restored to, there is something.
    NotEmpty {
        /// The data directory.
        data: PathBuf,
        /// What is in it.
        found: String,
    },
    /// The operating system refused something.
    System {
        /// What was being done.
        doing: String,
        /// Its answer.
        error: io::Error,
    },
    /// The data directory, or what is in it or the backup, failed.
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
                "the data directory {} has {found} in it; give a new or empty one, or move away what is there",
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

/// What a restored store has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Which backup it was.
    pub backup: Backup,
    /// Whose store it is now.
    pub identity: StoreIdentity,
    /// How far its log has been applied.
    pub applied: Applied,
}

impl Backups {
    /// Opens a directory for the backups of a replica, or makes it.
    ///
    /// # Errors
    /// It is for something else, in use, or cannot be written.
    pub fn of(owner: StoreIdentity, directory: &Path) -> Result<Backups, BackupError> {
        let refused = |error| system("make the directory for backups", directory, error);
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

    /// Whose backups they are.
    pub fn owner(&self) -> &StoreIdentity {
        &self.owner
    }

    /// Those that there are, oldest first.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn list(&self) -> Result<Vec<Backup>, BackupError> {
        let mut backups: Vec<Backup> = self.engine()?.get_backup_info().iter().map(described).collect();
        backups.sort_by_key(|backup| backup.id);
        Ok(backups)
    }

    /// Adds a backup of a database, and keeps the last `keep` ones only, if that is given. Returns it, and how many bytes of it
    /// were not there before.
    ///
    /// # Errors
    /// It cannot be read, or the backup cannot be written. The backups that were there are there still.
    pub fn add(&self, db: &DB, keep: Option<usize>) -> Result<(Backup, u64), BackupError> {
        let before = bytes_in(&self.directory)?;
        let mut engine = self.engine()?;
        // What is not flushed is in the write-ahead log, which would be copied anew each time.
        engine.create_new_backup_flush(db, true).map_err(|error| StoreError::Rocks("writing the backup", error))?;
        let new_bytes = bytes_in(&self.directory)?.saturating_sub(before);
        if let Some(keep) = keep {
            engine.purge_old_backups(keep).map_err(|error| StoreError::Rocks("removing old backups", error))?;
        }
        drop(engine);
        let backup = self.list()?.pop().ok_or_else(|| BackupError::NoBackups(self.directory.clone()))?;
        Ok((backup, new_bytes))
    }

    /// Restores a backup, the last one if none is given, as the store of a replica of that name, its owner if none is given. Only a
    /// store that is complete and durable gets the name of one.
    ///
    /// # Errors
    /// There is something in the data directory; the backup is not there, cannot be read, or is not what was written.
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
            .map_err(|error| system("remove what is left of another restoration,", &restoring, error))?;
        self.engine()?
            .restore_from_backup(&restoring, &restoring, &RestoreOptions::default(), wanted)
            .map_err(|error| StoreError::Rocks("restoring the backup", error))?;
        let identity =
            StoreIdentity { replica: name.unwrap_or_else(|| self.owner.replica.clone()), ..self.owner.clone() };
        let applied = claim(&restoring, &self.owner, &identity)?;
        sync_files(&restoring)?;
        let store = data.store();
        std::fs::rename(&restoring, &store).map_err(|error| system("put the store in its place", &store, error))?;
        sync(&data.0)?;
        Ok(Restored { backup, identity, applied })
    }

    /// RocksDB's engine for the directory.
    fn engine(&self) -> Result<BackupEngine, StoreError> {
        let opened =
            BackupEngineOptions::new(&self.directory).and_then(|options| BackupEngine::open(&options, &Env::new()?));
        opened.map_err(|error| StoreError::Rocks("opening the backups", error))
    }
}

/// Makes a copy of a database as it is now: links to its sorted files, in a directory that is not there yet, on the same file
/// system. The database can be used meanwhile.
///
/// # Errors
/// RocksDB could not make it.
pub fn copy_database(db: &DB, to: &Path) -> Result<(), StoreError> {
    let made = Checkpoint::new(db).and_then(|checkpoint| checkpoint.create_checkpoint(to));
    made.map_err(|error| StoreError::Rocks("copying the store", error))
}

/// Whose database this is.
///
/// # Errors
/// Storage failed, or it does not say.
pub fn owner_of(db: &DB) -> Result<StoreIdentity, StoreError> {
    read_meta(db, schema::META_IDENTITY)?.ok_or_else(|| StoreError::Corrupt("it does not say whose it is".into()))
}

/// How far the log of a database has been applied.
///
/// # Errors
/// Storage failed.
pub fn applied_of(db: &DB) -> Result<Applied, StoreError> {
    Ok(read_meta(db, schema::META_APPLIED)?.unwrap_or(Applied::NOTHING))
}

/// Makes a restored database, which was its owner's, that of another replica. Returns how far it has been applied.
fn claim(path: &Path, owner: &StoreIdentity, identity: &StoreIdentity) -> Result<Applied, BackupError> {
    let db = open_copy(path)?;
    let found = owner_of(&db)?;
    if found != *owner {
        return Err(StoreError::Corrupt(format!("the backup is of {found}, not of {owner}")).into());
    }
    if identity != owner {
        db.put_cf_opt(family(&db, schema::META), schema::META_IDENTITY, to_cbor(identity), &synced())
            .map_err(|error| StoreError::Rocks("writing whose store it is", error))?;
    }
    Ok(applied_of(&db)?)
}

/// A backup, as RocksDB describes it.
fn described(info: &BackupEngineInfo) -> Backup {
    let seconds = u64::try_from(info.timestamp).unwrap_or(0);
    Backup { id: info.backup_id, made: Timestamp(seconds.saturating_mul(1_000_000_000)), bytes: info.size }
}

/// Locks a directory of backups for this process.
fn lock(directory: &Path) -> Result<File, BackupError> {
    let path = directory.join(LOCK);
    let opened = File::options().create(true).truncate(false).write(true).open(&path);
    // A backup can be restored from where nothing can be written.
    let file = opened.or_else(|error| File::open(&path).map_err(|_| error));
    let file = file.map_err(|error| system("lock the backups", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(BackupError::InUse(directory.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(system("lock the backups", &path, error)),
    }
}

/// Whose backups a directory has; none if it has none.
fn read_owner(directory: &Path) -> Result<Option<StoreIdentity>, BackupError> {
    let path = directory.join(OWNER);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(system("read whose backups these are,", &path, error)),
    };
    match toml::from_str(&text) {
        Ok(Owner { cluster, replica }) => Ok(Some(StoreIdentity { cluster, replica })),
        Err(error) => Err(system("read whose backups these are,", &path, io::Error::other(error))),
    }
}

/// Writes whose backups a directory has.
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
    write().map_err(|error| system("write whose backups these are,", &path, error))
}

/// The names of what is in a directory, beside some.
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

/// How many bytes the files in a directory and those below it have.
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

/// Makes a directory's files durable, and their names.
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

/// What the operating system refused.
fn system(doing: &str, path: &Path, error: io::Error) -> BackupError {
    BackupError::System { doing: format!("{doing} {}", path.display()), error }
}

#[cfg(test)]
mod tests;
