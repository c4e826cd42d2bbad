//! Opening a store: the lock, the format, the identity, and RocksDB's settings.

use super::ChatStore;
use super::database::{Batch, Database, Incarnation, family, last_incarnation, next_incarnation, read_meta, synced};
use super::directory::DataDirectory;
use super::error::{OpenError, StoreError};
use super::log::Log;
use super::log::repair::Repairs;
use super::schema::{self, StoreIdentity};
use super::state::keys::Column;
use super::state::rows::Rows;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Env,
    LogLevel, Options, WriteBatch,
};
use rustix::fs::statvfs;
use stablechat_protocol::operator::InitialSettings;
use stablechat_protocol::wire::to_cbor;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a store lives.
#[derive(Clone)]
pub enum Location {
    /// In a directory of the file system, which is created when it is not there.
    Directory(PathBuf),
    /// In memory. It lives as long as the environment does, and is not locked.
    Memory(Env),
    /// In a database that is open already. It is not locked: see [`Location::kept_open`].
    Open(Arc<DB>),
}

impl Location {
    /// An empty location in memory. Stores that are opened on it or on its clones, one after the other, find what the ones before
    /// have committed.
    ///
    /// # Errors
    /// RocksDB could not make it.
    pub fn in_memory() -> Result<Location, StoreError> {
        Env::mem_env()
            .map(Location::Memory)
            .map_err(|error| StoreError::Rocks("making an environment in memory", error))
    }

    /// The database at this location, opened. A store that is opened on it finds what the ones before have committed, as if the
    /// database had been closed in between, but without the time that RocksDB takes to open.
    ///
    /// # Errors
    /// The database is in use, or cannot be read or written.
    pub fn kept_open(&self) -> Result<Location, OpenError> {
        open_database(self).map(|(db, _)| Location::Open(db))
    }
}

/// Memory for rows not yet in sorted files, over all column families, in bytes. The more, the more seldom are heads, memberships and
/// sessions written to sorted files, of which only the last values count.
const WRITE_BUFFERS: usize = 64 * 1024 * 1024;
/// [`WRITE_BUFFERS`] are at most this fraction of the file system: a quarter.
const SMALL_FILE_SYSTEM_FRACTION: u64 = 4;
/// Memory for the rows of one column family that are not yet in sorted files, in bytes. RocksDB preallocates disk space by this.
const WRITE_BUFFER: usize = 16 * 1024 * 1024;
/// Memory for blocks of sorted files, their indexes and filters, over all column families, in bytes.
const CACHE: usize = 32 * 1024 * 1024;
/// About the size of a block of an index or filter, in bytes. A file with a million small rows has a filter of more than a MiB. In one
/// piece it would not fit into the share of the cache that RocksDB keeps it in (1/64), so that it would be read, and its checksum
/// computed, for each row that is looked up.
const INDEX_BLOCK: usize = 4096;
/// The size of the write-ahead log above which RocksDB writes rows to sorted files so that it can be deleted, in bytes. Opening
/// reads the write-ahead log, so this bounds the time that it takes.
const WRITE_AHEAD_LOG_MAX: u64 = 64 * 1024 * 1024;
/// RocksDB's own log of events: files kept, and the size of each in bytes.
const INFO_LOGS: usize = 2;
const INFO_LOG_SIZE: usize = 1024 * 1024;
/// Files that RocksDB keeps open.
const OPEN_FILES: i32 = 256;

/// A sorted file is compacted soon when this many of so many neighbouring entries are deletions, or this share of all.
const DELETIONS_TO_COMPACT: (usize, usize, f64) = (128, 64, 0.5);

/// See [`ChatStore::open`].
pub fn open(location: &Location, identity: &StoreIdentity, initial: &InitialSettings) -> Result<ChatStore, OpenError> {
    let mut store = open_as_left(location, identity, initial)?;
    store.resume_install()?;
    store.resume_repair()?;
    Ok(store)
}

/// Opens a store as the last process left it, perhaps in the middle of a repair.
pub fn open_as_left(
    location: &Location,
    identity: &StoreIdentity,
    initial: &InitialSettings,
) -> Result<ChatStore, OpenError> {
    let (db, lock) = open_database(location)?;
    claim(&db, location, identity, initial)?;
    let incarnation = next_incarnation(&db)?;
    Ok(load(db, incarnation, lock)?)
}

/// See [`ChatStore::open_to_read`].
pub fn open_to_read(directory: &DataDirectory) -> Result<ChatStore, OpenError> {
    let lock = directory.lock_to_read()?;
    let (options, families) = settings(&Location::Directory(directory.0.clone()), &directory.store())?;
    let db = DB::open_cf_descriptors_read_only(&options, directory.store(), families, false)
        .map_err(|error| StoreError::Rocks("opening the store", error))?;
    known_format(&db, &directory.0)?;
    let incarnation = last_incarnation(&db)?;
    Ok(load(Arc::new(db), incarnation, lock)?)
}

/// Opens an existing database, whichever replica it belongs to: a copy, or one that no process uses. The caller holds the lock.
pub fn open_copy(path: &Path) -> Result<DB, OpenError> {
    let (mut options, families) = settings(&Location::Directory(path.to_path_buf()), path)?;
    options.create_if_missing(false);
    // It is closed soon, and the files that a compaction writes would have to be backed up anew.
    options.set_disable_auto_compactions(true);
    let db = DB::open_cf_descriptors(&options, path, families)
        .map_err(|error| StoreError::Rocks("opening the store", error))?;
    known_format(&db, path)?;
    Ok(db)
}

/// The store in a database.
fn load(db: Arc<DB>, incarnation: Incarnation, lock: Option<File>) -> Result<ChatStore, StoreError> {
    let log = Log::load(Arc::clone(&db))?;
    let initial = read_meta(&db, schema::META_INITIAL)?
        .ok_or_else(|| StoreError::Corrupt("it does not say with which settings it was made".into()))?;
    let contents = read_meta(&db, schema::META_CONTENTS)?.unwrap_or_default();
    Ok(ChatStore {
        rows: Rows::new(Arc::clone(&db), log.applied().state_digest, contents, initial),
        log,
        repairs: Repairs::default(),
        batch: Batch::new(Arc::clone(&db)),
        database: Database::new(db, incarnation, lock),
    })
}

/// Opens the database at a location, and locks the directory that it is in, if any.
fn open_database(location: &Location) -> Result<(Arc<DB>, Option<File>), OpenError> {
    let (path, lock) = match location {
        Location::Directory(directory) => {
            let directory = DataDirectory(directory.clone());
            (directory.store(), Some(directory.lock()?))
        }
        Location::Memory(_) => (PathBuf::from("/store"), None),
        Location::Open(db) => return Ok((Arc::clone(db), None)),
    };
    let (options, families) = settings(location, &path)?;
    let db = DB::open_cf_descriptors(&options, path, families)
        .map_err(|error| StoreError::Rocks("opening the store", error))?;
    Ok((Arc::new(db), lock))
}

/// RocksDB's settings for the database at a path as a whole, and for all column families, which share a cache.
fn settings(location: &Location, path: &Path) -> Result<(Options, Vec<ColumnFamilyDescriptor>), StoreError> {
    let options = options(location, &Cache::new_lru_cache(CACHE), write_buffers(location));
    let mut names: BTreeSet<String> = all_families().map(String::from).collect();
    // RocksDB opens all column families or none. So those of a newer format are opened too, before its number is read.
    if matches!(location, Location::Directory(_)) && path.join("CURRENT").exists() {
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

/// How much memory rows that are not yet in sorted files may take, in bytes: [`WRITE_BUFFERS`], or less on a small file system. What is in
/// memory is in the write-ahead log as well, and takes as much room again when it is written to sorted files.
fn write_buffers(location: &Location) -> usize {
    let Location::Directory(directory) = location else { return WRITE_BUFFERS };
    let Ok(system) = statvfs(directory) else { return WRITE_BUFFERS };
    let share = system.f_blocks.saturating_mul(system.f_frsize) / SMALL_FILE_SYSTEM_FRACTION;
    usize::try_from(share).unwrap_or(WRITE_BUFFERS).min(WRITE_BUFFERS)
}

/// RocksDB's settings, the same for the database and each column family.
fn options(location: &Location, cache: &Cache, write_buffers: usize) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_metadata_block_size(INDEX_BLOCK);
    blocks.set_pin_top_level_index_and_filter(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_compression_type(DBCompressionType::Lz4);
    // Files at the first two levels are soon written again.
    options.set_min_level_to_compress(2);
    options.set_db_write_buffer_size(write_buffers);
    options.set_write_buffer_size(WRITE_BUFFER.min(write_buffers));
    options.set_max_total_wal_size(WRITE_AHEAD_LOG_MAX);
    // A crash may cut off the last record, which then was never acknowledged. Any other damage must not go unnoticed.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_open_files(OPEN_FILES);
    // Answers that leave the window, undo records and truncated requests leave deletions in the sorted files, which searches have to
    // step over.
    let (window, deletions, ratio) = DELETIONS_TO_COMPACT;
    options.add_compact_on_deletion_collector_factory(window, deletions, ratio);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(INFO_LOGS);
    options.set_max_log_file_size(INFO_LOG_SIZE);
    // Statistics would wake an idle process.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    if let Location::Memory(env) = location {
        options.set_env(env);
        // Nothing is gained by opening files in parallel when they are in memory.
        options.set_max_file_opening_threads(1);
    }
    options
}

/// Checks the format, the identity and the initial settings of a store, or writes them if it is new.
fn claim(db: &DB, location: &Location, identity: &StoreIdentity, initial: &InitialSettings) -> Result<(), OpenError> {
    let directory = match location {
        Location::Directory(directory) => directory.clone(),
        Location::Memory(_) | Location::Open(_) => PathBuf::from("in memory"),
    };
    match read_meta::<u64>(db, schema::META_FORMAT)? {
        None => {
            let meta = family(db, schema::META);
            let mut batch = WriteBatch::default();
            batch.put_cf(meta, schema::META_FORMAT, to_cbor(&schema::FORMAT));
            batch.put_cf(meta, schema::META_IDENTITY, to_cbor(identity));
            batch.put_cf(meta, schema::META_INITIAL, to_cbor(initial));
            db.write_opt(batch, &synced()).map_err(|error| StoreError::Rocks("making the store", error))?;
            return Ok(());
        }
        Some(_) => known_format(db, &directory)?,
    }
    match read_meta::<StoreIdentity>(db, schema::META_IDENTITY)? {
        Some(found) if found == *identity => {}
        Some(found) => {
            return Err(OpenError::OtherReplica { directory, found: found.to_string(), wanted: identity.to_string() });
        }
        None => return Err(StoreError::Corrupt("it has a format, but does not say whose it is".into()).into()),
    }
    match read_meta::<InitialSettings>(db, schema::META_INITIAL)? {
        Some(found) if found != *initial => Err(OpenError::OtherSettings { directory, found }),
        _ => Ok(()),
    }
}

/// Checks that a database has the format of this program.
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
