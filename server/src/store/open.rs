//! Opening a data directory: the lock, the identity, the format, RocksDB's settings.

use super::directory::DataDirectory;
use super::error::{OpenError, StoreError};
use super::repair::ChunkLimit;
use super::rows::{Rows, decode, family};
use super::schema::{self, Applied, Column, StoreIdentity};
use super::truncation::LOG_RETENTION;
use super::{BoundaryHistory, ChatStore, Repair, log, synced};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Env, LogLevel, Options,
    WriteBatch,
};
use stablechat_protocol::uid::Uid;
use stablechat_protocol::wire::to_cbor;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a store lives.
#[derive(Clone)]
pub enum Medium {
    /// In a directory of the file system, which is made when it is not there.
    Directory(PathBuf),
    /// In memory: it lives as long as the environment does, and is not locked.
    Memory(Env),
    /// In a database that is open, and not locked: see [`Medium::kept_open`].
    Open(Arc<DB>),
}

impl Medium {
    /// An empty medium in memory. What is written to it is there for all stores that are opened on it or on its clones, one
    /// after the other.
    ///
    /// # Errors
    /// RocksDB could not make it.
    pub fn in_memory() -> Result<Medium, StoreError> {
        Env::mem_env().map(Medium::Memory).map_err(|error| StoreError::Rocks("making an environment in memory", error))
    }

    /// The database on this medium, opened. A store that is opened on it finds what those before it have committed, as if the
    /// database had been closed in between, but without the time that RocksDB takes to open.
    ///
    /// # Errors
    /// The database is in use, or cannot be read or written.
    pub fn kept_open(&self) -> Result<Medium, OpenError> {
        open_database(self).map(|(db, _)| Medium::Open(db))
    }
}

/// Memory for rows not yet in sorted files, over all column families, in bytes.
const WRITE_BUFFERS: usize = 16 * 1024 * 1024;
/// Memory for blocks of sorted files, their indexes and filters, over all column families, in bytes.
const CACHE: usize = 32 * 1024 * 1024;
/// The write-ahead log above which RocksDB writes out what holds it, in bytes. Bounds the time that opening takes.
const WRITE_AHEAD_LOG_MAX: u64 = 64 * 1024 * 1024;
/// RocksDB's own log: files kept, and the size of each in bytes.
const INFO_LOGS: usize = 2;
const INFO_LOG_SIZE: usize = 1024 * 1024;
/// Files that RocksDB keeps open.
const OPEN_FILES: i32 = 256;

/// A sorted file is compacted soon when, of so many neighbouring entries, this many are deletions, or of all this share.
const DELETIONS_TO_COMPACT: (usize, usize, f64) = (128, 64, 0.5);

/// See [`ChatStore::open`].
pub fn open(medium: &Medium, identity: &StoreIdentity) -> Result<ChatStore, OpenError> {
    let mut store = open_as_left(medium, identity)?;
    store.resume_install()?;
    store.resume_repair()?;
    Ok(store)
}

/// Opens a store as the last process left it: a repair may be under way.
pub fn open_as_left(medium: &Medium, identity: &StoreIdentity) -> Result<ChatStore, OpenError> {
    let (db, lock) = open_database(medium)?;
    claim(&db, medium, identity)?;
    let epoch = next_epoch(&db)?;
    Ok(load(db, epoch, lock)?)
}

/// Opens what the last process left in a directory, whosever it is, for reading only. Nothing is written.
pub fn open_to_read(directory: &DataDirectory) -> Result<ChatStore, OpenError> {
    let lock = directory.lock_to_read()?;
    let (options, families) = settings(&Medium::Directory(directory.0.clone()), &directory.store())?;
    let db = DB::open_cf_descriptors_read_only(&options, directory.store(), families, false)
        .map_err(|error| StoreError::Rocks("opening the store", error))?;
    known_format(&db, &directory.0)?;
    let epoch = read_meta(&db, schema::META_EPOCH)?.unwrap_or(0);
    Ok(load(Arc::new(db), epoch, lock)?)
}

/// Opens a database that is there, whosever it is: a copy, or one that nobody uses. The caller holds the lock.
pub fn open_copy(path: &Path) -> Result<DB, OpenError> {
    let (mut options, families) = settings(&Medium::Directory(path.to_path_buf()), path)?;
    options.create_if_missing(false);
    // It is closed soon, and what a compaction writes would have to be backed up anew.
    options.set_disable_auto_compactions(true);
    let db = DB::open_cf_descriptors(&options, path, families)
        .map_err(|error| StoreError::Rocks("opening the store", error))?;
    known_format(&db, path)?;
    Ok(db)
}

/// The store in a database.
fn load(db: Arc<DB>, epoch: u64, lock: Option<File>) -> Result<ChatStore, StoreError> {
    let applied: Applied = read_meta(&db, schema::META_APPLIED)?.unwrap_or(Applied::NOTHING);
    let settled = read_meta(&db, schema::META_SETTLED)?.unwrap_or(Uid::MIN);
    let base = read_meta(&db, schema::META_BASE)?.unwrap_or(log::BEGIN);
    let log_bytes = read_meta(&db, schema::META_LOG_BYTES)?.unwrap_or(0);
    Ok(ChatStore {
        rows: Rows::new(db, applied.state_digest),
        committed: applied.mark(),
        applied,
        settled,
        base,
        log_bytes,
        retention: LOG_RETENTION,
        boundaries: BoundaryHistory::default(),
        pending: WriteBatch::default(),
        uncommitted: 0,
        chunk_limit: ChunkLimit::DEFAULT,
        insertion: None,
        resumed: Repair::default(),
        epoch,
        writes: Arc::default(),
        #[cfg(test)]
        commits_left: None,
        _lock: lock,
    })
}

/// Opens the database on a medium, and locks it if it is in a directory.
fn open_database(medium: &Medium) -> Result<(Arc<DB>, Option<File>), OpenError> {
    let (path, lock) = match medium {
        Medium::Directory(directory) => {
            let directory = DataDirectory(directory.clone());
            (directory.store(), Some(directory.lock()?))
        }
        Medium::Memory(_) => (PathBuf::from("/store"), None),
        Medium::Open(db) => return Ok((Arc::clone(db), None)),
    };
    let (options, families) = settings(medium, &path)?;
    let db = DB::open_cf_descriptors(&options, path, families)
        .map_err(|error| StoreError::Rocks("opening the store", error))?;
    Ok((Arc::new(db), lock))
}

/// RocksDB's settings for the database at a path as a whole, and for all column families, which share a cache.
fn settings(medium: &Medium, path: &Path) -> Result<(Options, Vec<ColumnFamilyDescriptor>), StoreError> {
    let options = options(medium, &Cache::new_lru_cache(CACHE));
    let mut names: BTreeSet<String> = all_families().map(String::from).collect();
    // RocksDB opens all column families or none: those of a newer format too, which is found to be one next.
    if matches!(medium, Medium::Directory(_)) && path.join("CURRENT").exists() {
        let found = DB::list_cf(&options, path);
        names.extend(found.map_err(|error| StoreError::Rocks("opening the store", error))?);
    }
    let families = names.into_iter().map(|name| ColumnFamilyDescriptor::new(name, options.clone()));
    Ok((options.clone(), families.collect()))
}

/// The names of all column families.
pub fn all_families() -> impl Iterator<Item = &'static str> {
    let others = [schema::LOG, schema::UNDO, schema::UNDONE, schema::INCOMING, schema::ORPHANS, schema::META];
    others.into_iter().chain(Column::ALL.map(Column::name))
}

/// RocksDB's settings, the same for the database and each column family.
fn options(medium: &Medium, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_db_write_buffer_size(WRITE_BUFFERS);
    // No family can have more, and RocksDB sets room aside by this.
    options.set_write_buffer_size(WRITE_BUFFERS);
    options.set_max_total_wal_size(WRITE_AHEAD_LOG_MAX);
    // A record that a crash cut off was never acknowledged; any other damage to the log must not go unnoticed.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_open_files(OPEN_FILES);
    // Acknowledged messages leave tombstones that every reading of unread messages would step over.
    let (window, deletions, ratio) = DELETIONS_TO_COMPACT;
    options.add_compact_on_deletion_collector_factory(window, deletions, ratio);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(INFO_LOGS);
    options.set_max_log_file_size(INFO_LOG_SIZE);
    // Statistics would wake an idle process.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    if let Medium::Memory(env) = medium {
        options.set_env(env);
        // There is no file whose opening has to be waited for.
        options.set_max_file_opening_threads(1);
    }
    options
}

/// Checks format and identity, or writes them into a new store.
fn claim(db: &DB, medium: &Medium, identity: &StoreIdentity) -> Result<(), OpenError> {
    let directory = match medium {
        Medium::Directory(directory) => directory.clone(),
        Medium::Memory(_) | Medium::Open(_) => PathBuf::from("in memory"),
    };
    match read_meta::<u64>(db, schema::META_FORMAT)? {
        None => {
            let meta = family(db, schema::META);
            let mut batch = WriteBatch::default();
            batch.put_cf(meta, schema::META_FORMAT, to_cbor(&schema::FORMAT));
            batch.put_cf(meta, schema::META_IDENTITY, to_cbor(identity));
            db.write_opt(batch, &synced()).map_err(|error| StoreError::Rocks("making the store", error))?;
            return Ok(());
        }
        Some(_) => known_format(db, &directory)?,
    }
    match read_meta::<StoreIdentity>(db, schema::META_IDENTITY)? {
        Some(found) if found == *identity => Ok(()),
        Some(found) => {
            Err(OpenError::OtherReplica { directory, found: found.to_string(), wanted: identity.to_string() })
        }
        None => Err(StoreError::Corrupt("it has a format but no identity".into()).into()),
    }
}

/// Checks that a database is written in a format that this program knows.
fn known_format(db: &DB, directory: &Path) -> Result<(), OpenError> {
    match read_meta::<u64>(db, schema::META_FORMAT)? {
        Some(found) if found > schema::FORMAT => {
            Err(OpenError::NewerFormat { directory: directory.to_path_buf(), found })
        }
        Some(found) if found < schema::FORMAT => {
            Err(OpenError::OlderFormat { directory: directory.to_path_buf(), found })
        }
        _ => Ok(()),
    }
}

/// Increases the epoch, durably, and returns the new one.
fn next_epoch(db: &DB) -> Result<u64, StoreError> {
    let epoch = read_meta::<u64>(db, schema::META_EPOCH)?.unwrap_or(0) + 1;
    write_epoch(db, epoch)?;
    Ok(epoch)
}

/// Writes the epoch, durably.
pub fn write_epoch(db: &DB, epoch: u64) -> Result<(), StoreError> {
    db.put_cf_opt(family(db, schema::META), schema::META_EPOCH, to_cbor(&epoch), &synced())
        .map_err(|error| StoreError::Rocks("writing the epoch", error))
}

/// A fact from the column family of facts.
pub fn read_meta<T: serde::de::DeserializeOwned>(db: &DB, key: &[u8]) -> Result<Option<T>, StoreError> {
    let bytes = db.get_cf(family(db, schema::META), key).map_err(|error| StoreError::Rocks("reading", error))?;
    bytes.map(|bytes| decode(schema::META, &bytes)).transpose()
}
