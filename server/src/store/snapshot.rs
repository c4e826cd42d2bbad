//! Snapshots: the log and the state as of one moment, in parts, for a replica that lacks what was truncated.
//!
//! A snapshot has every row of the replicated state, the log from the last settled request on, and the undo records after it.
//! So whoever installs it can repair as far back as whoever sent it. While an [`Export`] is read, the store goes on.
//!
//! An [`Import`] gathers the parts in a column family of its own. When they are complete and come to what they should, one
//! synced write says so, and from there on the old rows are removed and the new ones are put in their places, in batches.
//! What only the old log has is put aside first, to be submitted again: [`ChatStore::aside`].
//! All of this can be done twice, so after a crash [`ChatStore::open`] does it again from the beginning; the last batch says
//! how far the log is applied, and that it is done. A crash before that write leaves the store as it was.

use super::error::StoreError;
use super::housekeeping::SESSION_LIFETIME;
use super::open::read_meta;
use super::rows::{Rows, decode, family, row_digest};
use super::schema::{self, Applied, Bytes, Column, LogEntry, Session, session_key};
use super::{BoundaryHistory, ChatStore, log, synced};
use crossbeam_channel::{Receiver, Sender, bounded};
use rocksdb::properties::ESTIMATE_NUM_KEYS;
use rocksdb::{DB, IteratorMode, ReadOptions, Snapshot, WriteBatch, WriteOptions};
use stablechat_protocol::digest::{Digest, LogMark};
use stablechat_protocol::peer::{BODIES_BYTES, SnapshotEnd, SnapshotRow};
use stablechat_protocol::uid::Uid;
use stablechat_protocol::wire::to_cbor;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

/// Installing writes about so many bytes at a time.
const BATCH_BYTES: usize = 1024 * 1024;
/// After all keys: none is so long and begins like this.
const AFTER_ALL: [u8; 64] = [0xff; 64];
/// Parts that are read ahead of being asked for, [`BODIES_BYTES`] each.
const PARTS_AHEAD: usize = 1;

/// A part of a snapshot: the next rows, and after the last ones what all come to.
pub type Part = (Vec<SnapshotRow>, Option<SnapshotEnd>);

/// A snapshot that is read, by a thread of its own, which holds it.
pub struct Export {
    /// None once nothing more is wanted.
    parts: Option<Receiver<Result<Part, StoreError>>>,
    /// About how many rows all parts have.
    rows_total: u64,
    thread: Option<JoinHandle<()>>,
}

impl Export {
    /// About how many rows all parts have together.
    pub fn rows_total(&self) -> u64 {
        self.rows_total
    }

    /// The next part; none after the last.
    ///
    /// # Errors
    /// Storage failed, or is corrupt.
    pub fn next_part(&mut self) -> Result<Option<Part>, StoreError> {
        let part = self.parts.as_ref().and_then(|parts| parts.recv().ok());
        part.transpose()
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // The thread ends when nobody receives; the database must not outlive the store's lock.
        self.parts = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a panic has ended the process");
        }
    }
}

impl ChatStore {
    /// Begins to read a snapshot of what is committed now.
    ///
    /// # Errors
    /// The operating system has no thread for it.
    pub fn export(&self) -> Result<Export, std::io::Error> {
        let (begun_sender, begun) = bounded(1);
        let (sender, parts) = bounded(PARTS_AHEAD);
        let db = self.rows.shared_db();
        let thread = std::thread::Builder::new().name("snapshot".into()).spawn(move || {
            let snapshot = db.snapshot();
            drop(begun_sender);
            Exporting { db: &db, snapshot, sender, rows: Vec::new(), bytes: 0 }.run();
        })?;
        // Until the snapshot is taken nothing may change: a repair would be seen half done.
        begun.recv().unwrap_or(());
        Ok(Export { parts: Some(parts), rows_total: self.about_how_many_rows(), thread: Some(thread) })
    }
}

impl ChatStore {
    /// About how many rows a snapshot has, as far as RocksDB can tell without counting.
    fn about_how_many_rows(&self) -> u64 {
        let names = Column::ALL.map(Column::name).into_iter().chain([schema::LOG, schema::UNDO]);
        names.map(|name| self.rows_about(name)).sum()
    }

    /// About how many rows a column family has, as far as RocksDB can tell without counting.
    pub(super) fn rows_about(&self, name: &str) -> u64 {
        let db = self.rows.db();
        // An estimate that cannot be had is as good as none.
        db.property_int_value_cf(family(db, name), ESTIMATE_NUM_KEYS).ok().flatten().unwrap_or(0)
    }
}

/// What the thread of an [`Export`] does.
struct Exporting<'a> {
    db: &'a DB,
    snapshot: Snapshot<'a>,
    sender: Sender<Result<Part, StoreError>>,
    /// What the next part has so far.
    rows: Vec<SnapshotRow>,
    /// How much that is.
    bytes: usize,
}

/// Why reading ended before the last part.
enum Stop {
    /// Nobody wants more.
    Unwanted,
    /// Storage failed, or is corrupt.
    Failed(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Failed(error)
    }
}

impl Exporting<'_> {
    /// Sends all parts, as long as they are wanted.
    fn run(mut self) {
        let last = match self.read() {
            Ok(end) => Ok((std::mem::take(&mut self.rows), Some(end))),
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::Unwanted) => return,
        };
        // Whether it is still wanted no longer matters.
        self.sender.send(last).unwrap_or(());
    }

    /// Sends all parts but the last.
    fn read(&mut self) -> Result<SnapshotEnd, Stop> {
        let applied = self.meta(schema::META_APPLIED)?.unwrap_or(Applied::NOTHING);
        let settled: Uid = self.meta(schema::META_SETTLED)?.unwrap_or(Uid::MIN);
        for column in Column::ALL {
            self.send_family(column as u8, column.name(), &[])?;
        }
        let from = settled.to_bytes();
        let base = self.mark_before(&from)?;
        let log_bytes = self.send_family(schema::LOG_NUMBER, schema::LOG, &from)?;
        self.send_family(schema::UNDO_NUMBER, schema::UNDO, &from)?;
        let (applied, state_digest) = (applied.mark(), applied.state_digest);
        Ok(SnapshotEnd { base, settled, applied, state_digest, log_bytes })
    }

    /// Sends the rows of a column family from a key on. Returns how many bytes their values take.
    fn send_family(&mut self, number: u8, name: &str, from: &[u8]) -> Result<u64, Stop> {
        let mode = IteratorMode::From(from, rocksdb::Direction::Forward);
        let mut options = ReadOptions::default();
        // Everything is read once: what others read again and again is not to make way for it.
        options.fill_cache(false);
        let mut total = 0;
        for row in self.snapshot.iterator_cf_opt(family(self.db, name), options, mode) {
            let (key, value) = row.map_err(|error| StoreError::Rocks("reading a snapshot", error))?;
            total += value.len() as u64;
            self.bytes += key.len() + value.len();
            self.rows.push(SnapshotRow { family: number, key: Bytes(key.into_vec()), value: Bytes(value.into_vec()) });
            if self.bytes >= BODIES_BYTES {
                self.bytes = 0;
                let rows = std::mem::take(&mut self.rows);
                self.sender.send(Ok((rows, None))).map_err(|_| Stop::Unwanted)?;
            }
        }
        Ok(total)
    }

    /// The last request of the log before this key.
    fn mark_before(&self, key: &[u8]) -> Result<LogMark, StoreError> {
        let base = self.meta(schema::META_BASE)?.unwrap_or(log::BEGIN);
        let mode = IteratorMode::From(key, rocksdb::Direction::Reverse);
        for row in self.snapshot.iterator_cf(family(self.db, schema::LOG), mode) {
            let (found, value) = row.map_err(|error| StoreError::Rocks("reading a snapshot", error))?;
            if found[..] < *key {
                return Ok(log::mark(log::uid_of_key(&found)?, &decode(schema::LOG, &value)?));
            }
        }
        Ok(base)
    }

    /// A fact.
    fn meta<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        let bytes = self.snapshot.get_cf(family(self.db, schema::META), key);
        let bytes = bytes.map_err(|error| StoreError::Rocks("reading a snapshot", error))?;
        bytes.map(|bytes| decode(schema::META, &bytes)).transpose()
    }
}

/// A snapshot that comes in: what its rows come to so far.
pub struct Import {
    /// Where the last row was put, after which all others belong.
    last_key: Vec<u8>,
    /// The digest over the rows of the state.
    state_digest: Digest,
    /// The first request of its log and the last, when there has been one.
    log: Option<(LogMark, LogMark)>,
    /// How many bytes the log has.
    log_bytes: u64,
    /// How many bytes have come.
    bytes: u64,
    /// And how many rows.
    rows: u64,
}

impl Import {
    /// How many bytes have come.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many rows have come.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

/// Why a snapshot was not taken.
#[derive(Debug)]
pub enum ImportError {
    /// It is not what it should be: what is wrong.
    Refused(&'static str),
    /// Storage failed, or is corrupt.
    Store(StoreError),
}

impl From<StoreError> for ImportError {
    fn from(error: StoreError) -> Self {
        ImportError::Store(error)
    }
}

impl ChatStore {
    /// Begins to take in a snapshot; what has come of another is dropped.
    ///
    /// # Errors
    /// Storage failed.
    pub fn begin_import(&mut self) -> Result<Import, StoreError> {
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(family(self.rows.db(), schema::INCOMING), &[][..], &AFTER_ALL[..]);
        self.write(batch, false)?;
        Ok(Import { last_key: Vec::new(), state_digest: Digest::ZERO, log: None, log_bytes: 0, bytes: 0, rows: 0 })
    }

    /// Takes in the next rows.
    ///
    /// # Errors
    /// They are not what they should be, and the import has to begin again; or storage failed.
    pub fn import(&mut self, import: &mut Import, rows: Vec<SnapshotRow>) -> Result<(), ImportError> {
        let mut batch = WriteBatch::default();
        let incoming = family(self.rows.db(), schema::INCOMING);
        for SnapshotRow { family: number, key: Bytes(key), value: Bytes(value) } in rows {
            let place = [&[number][..], &key].concat();
            if place <= import.last_key || family_name(number).is_none() {
                return Err(ImportError::Refused("its rows are not in order"));
            }
            if let Some(column) = Column::from_number(number) {
                import.state_digest.toggle(row_digest(column, &key, &value));
            }
            if number == schema::LOG_NUMBER {
                import.log = Some(follow(import.log, &key, &value).ok_or(ImportError::Refused("its log has a gap"))?);
                import.log_bytes += value.len() as u64;
            }
            import.bytes += (key.len() + value.len()) as u64;
            import.rows += 1;
            batch.put_cf(incoming, &place, value);
            import.last_key = place;
        }
        Ok(self.write(batch, false)?)
    }

    /// Puts a snapshot that has come in completely in the place of all that was there.
    ///
    /// # Errors
    /// It does not come to what was said, and the import has to begin again; or storage failed, and the store must not be used
    /// any more. Opening it again completes what was begun.
    pub fn install(&mut self, import: Import, end: &SnapshotEnd) -> Result<(), ImportError> {
        let (is_begin, last) = match import.log {
            None => (true, end.base),
            Some((first, last)) => (is_next(end.base, first), last),
        };
        if import.state_digest != end.state_digest {
            return Err(ImportError::Refused("its state is not what was said"));
        }
        if !is_begin || (last, import.log_bytes) != (end.applied, end.log_bytes) {
            return Err(ImportError::Refused("its log is not what was said"));
        }
        self.commit()?;
        let mut batch = WriteBatch::default();
        batch.put_cf(family(self.rows.db(), schema::META), schema::META_INSTALLING, to_cbor(end));
        self.write(batch, true)?;
        Ok(self.resume_install()?)
    }

    /// Installs the snapshot that is complete, if one is; drops what has come of one that is not.
    pub(super) fn resume_install(&mut self) -> Result<(), StoreError> {
        let Some(end) = read_meta::<SnapshotEnd>(self.rows.db(), schema::META_INSTALLING)? else {
            let db = self.rows.db();
            let is_empty = db.iterator_cf(family(db, schema::INCOMING), IteratorMode::Start).next().is_none();
            return if is_empty { Ok(()) } else { self.begin_import().map(drop) };
        };
        // Done again, the log may be the one that came in already.
        if read_meta::<bool>(self.rows.db(), schema::META_IS_ASIDE)?.is_none() {
            self.orphan(self.settled, end.applied)?;
        }
        self.remove_all()?;
        self.move_incoming()?;
        let SnapshotEnd { base, settled, applied, state_digest, log_bytes } = end;
        let LogMark { uid, position, log_digest } = applied;
        let applied = Applied { uid, position, log_digest, state_digest };
        let mut batch = WriteBatch::default();
        let meta = family(self.rows.db(), schema::META);
        batch.put_cf(meta, schema::META_APPLIED, to_cbor(&applied));
        batch.put_cf(meta, schema::META_SETTLED, to_cbor(&settled));
        batch.put_cf(meta, schema::META_BASE, to_cbor(&base));
        batch.put_cf(meta, schema::META_LOG_BYTES, to_cbor(&log_bytes));
        batch.delete_cf(meta, schema::META_INSTALLING);
        batch.delete_cf(meta, schema::META_IS_ASIDE);
        batch.delete_range_cf(family(self.rows.db(), schema::INCOMING), &[][..], &AFTER_ALL[..]);
        self.write(batch, true)?;
        self.rows = Rows::new(self.rows.shared_db(), state_digest);
        self.committed = applied.mark();
        (self.applied, self.settled, self.base, self.log_bytes) = (applied, settled, base, log_bytes);
        self.boundaries = BoundaryHistory::default();
        Ok(())
    }

    /// Puts aside what the log has after a request and what came in, up to `applied`, has not, or has without an effect, since
    /// its session lacked one before it there.
    fn orphan(&mut self, after: Uid, applied: LogMark) -> Result<(), StoreError> {
        let db: Arc<DB> = self.rows.shared_db();
        let mut batch = WriteBatch::default();
        let sessions_since = applied.uid.timestamp.before(SESSION_LIFETIME);
        for entry in log::entries(&db, after).skip_while(|entry| entry.as_ref().is_ok_and(|(uid, _)| *uid <= after)) {
            let (uid, LogEntry { request, .. }) = entry?;
            let session = incoming(&db, Column::Sessions as u8, &session_key(request.client))?;
            let session: Option<Session> = session.map(|value| decode(schema::INCOMING, &value)).transpose()?;
            let had_effect = match session {
                Some(session) => session.sequence >= request.sequence,
                None => uid.timestamp < sessions_since,
            };
            if !had_effect || incoming(&db, schema::LOG_NUMBER, &uid.to_bytes())?.is_none() {
                batch.put_cf(family(&db, schema::ORPHANS), uid.to_bytes(), to_cbor(&request));
            }
            if batch.size_in_bytes() >= BATCH_BYTES {
                self.write(std::mem::take(&mut batch), false)?;
            }
        }
        batch.put_cf(family(&db, schema::META), schema::META_IS_ASIDE, to_cbor(&true));
        self.write(batch, false)
    }

    /// Removes the log and the state.
    fn remove_all(&mut self) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        let others = [schema::LOG, schema::UNDO, schema::UNDONE];
        for name in others.into_iter().chain(Column::ALL.map(Column::name)) {
            batch.delete_range_cf(family(self.rows.db(), name), &[][..], &AFTER_ALL[..]);
        }
        self.write(batch, false)
    }

    /// Puts the rows that came in in their places.
    fn move_incoming(&mut self) -> Result<(), StoreError> {
        let db: Arc<DB> = self.rows.shared_db();
        let mut batch = WriteBatch::default();
        for row in db.iterator_cf(family(&db, schema::INCOMING), IteratorMode::Start) {
            let (place, value) = row.map_err(|error| StoreError::Rocks("reading what came in", error))?;
            let named = place.split_first().and_then(|(number, key)| Some((family_name(*number)?, key)));
            let (name, key) = named.ok_or_else(|| StoreError::Corrupt("what came in has no place".into()))?;
            batch.put_cf(family(&db, name), key, value);
            if batch.size_in_bytes() >= BATCH_BYTES {
                self.write(std::mem::take(&mut batch), false)?;
            }
        }
        self.write(batch, false)
    }

    /// Writes a batch of its own. What is not synced is durable, or lost together with all that follows, with the next that is.
    fn write(&mut self, batch: WriteBatch, is_synced: bool) -> Result<(), StoreError> {
        #[cfg(test)]
        self.count_commit()?;
        let options = if is_synced { synced() } else { WriteOptions::default() };
        self.rows.db().write_opt(batch, &options).map_err(|error| StoreError::Rocks("writing a snapshot", error))?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A row of the snapshot that came in.
fn incoming(db: &DB, number: u8, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let value = db.get_cf(family(db, schema::INCOMING), [&[number][..], key].concat());
    value.map_err(|error| StoreError::Rocks("reading what came in", error))
}

/// The column family that has this number in a snapshot.
fn family_name(number: u8) -> Option<&'static str> {
    match number {
        schema::LOG_NUMBER => Some(schema::LOG),
        schema::UNDO_NUMBER => Some(schema::UNDO),
        _ => Column::from_number(number).map(Column::name),
    }
}

/// The first request of a log and the last, with its next entry: none when this is not the next one, or not genuine.
fn follow(log: Option<(LogMark, LogMark)>, key: &[u8], value: &[u8]) -> Option<(LogMark, LogMark)> {
    let uid = Uid::from_bytes(key)?;
    let entry: LogEntry = decode(schema::LOG, value).ok()?;
    let mark = log::mark(uid, &entry);
    let first = match log {
        None => mark,
        Some((first, last)) => is_next(last, mark).then_some(first)?,
    };
    (entry.request.uid(uid.timestamp) == uid).then_some((first, mark))
}

/// Whether one place in a log follows another at once.
fn is_next(before: LogMark, mark: LogMark) -> bool {
    (before.position.checked_add(1), before.log_digest.chain(mark.uid)) == (Some(mark.position), mark.log_digest)
}

#[cfg(test)]
mod tests;
