//! Receiving a snapshot and installing it.

use super::{family_name, undo_digest};
use crate::store::ChatStore;
use crate::store::database::{Batch, decode, family, read_meta};
use crate::store::error::StoreError;
use crate::store::log::{Log, entries};
use crate::store::schema::{self, LogEntry};
use crate::store::state::housekeeping::SESSION_LIFETIME;
use crate::store::state::keys::{Column, session_key};
use crate::store::state::rows::{Rows, row_digest, with_row};
use crate::store::state::session;
use crate::store::state::values::{Bytes, Session, UndoRecord};
use rocksdb::{DB, IteratorMode, WriteBatch};
use stablechat_protocol::digest::{Digest, LogMark};
use stablechat_protocol::peer::{SnapshotEnd, SnapshotRow};
use stablechat_protocol::request::Request;
use stablechat_protocol::status::StateContents;
use stablechat_protocol::uid::Uid;
use stablechat_protocol::wire::to_cbor;

/// Installing writes about so many bytes at a time.
const BATCH_BYTES: usize = 1024 * 1024;
/// A key after all keys: none is so long and begins like this.
const AFTER_ALL: [u8; 64] = [0xff; 64];
/// For errors: the operation during which a write failed.
const WRITING: &str = "writing a snapshot";

/// A snapshot that is being received: the sums over the rows that have come so far. The rows are in [`schema::INCOMING`].
pub struct SnapshotReceiver {
    /// The key of the last row in [`schema::INCOMING`]. Rows come in ascending order, so that none can come twice.
    last_key: Vec<u8>,
    /// The XOR of the digests of the state's rows.
    state_digest: Digest,
    /// The XOR of the digests of the undo records.
    undo_digest: Digest,
    /// The log so far, once there has been a request of it.
    log: Option<ReceivedLog>,
    log_bytes: u64,
    bytes: u64,
    rows: u64,
    /// The key in [`schema::INCOMING`] and the value so far of a row of which more pieces follow.
    begun: Option<(Vec<u8>, Vec<u8>)>,
}

/// The most bytes of a row's value: about ten times the longest undo record, that of an account in a thousand rooms that is deleted.
const VALUE_MAX: usize = 64 * 1024 * 1024;

/// The part of a log that has come. Its requests follow each other.
struct ReceivedLog {
    first: LogMark,
    first_request: Request,
    last: LogMark,
}

impl SnapshotReceiver {
    /// Bytes of the keys and values that have come.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The number of rows that have come.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

/// Why a snapshot was not installed.
#[derive(Debug)]
pub enum SnapshotError {
    /// It contradicts itself; how. The store is as it was, and the snapshot has to be fetched anew.
    Invalid(&'static str),
    Store(StoreError),
}

impl From<StoreError> for SnapshotError {
    fn from(error: StoreError) -> Self {
        SnapshotError::Store(error)
    }
}

impl ChatStore {
    /// Begins to receive a snapshot. The rows that have come of another one are dropped.
    ///
    /// # Errors
    /// Storage failed.
    pub fn begin_snapshot(&mut self) -> Result<SnapshotReceiver, StoreError> {
        let mut batch = self.new_batch();
        batch.delete_range(schema::INCOMING, b"", AFTER_ALL);
        self.database.write_unsynced(WRITING, batch.take())?;
        Ok(SnapshotReceiver {
            begun: None,
            last_key: Vec::new(),
            state_digest: Digest::ZERO,
            undo_digest: Digest::ZERO,
            log: None,
            log_bytes: 0,
            bytes: 0,
            rows: 0,
        })
    }

    /// Takes in the next rows.
    ///
    /// # Errors
    /// The rows are out of order or the log has a gap, and the snapshot has to be fetched anew; or storage failed.
    pub fn receive_rows(
        &mut self,
        receiver: &mut SnapshotReceiver,
        rows: Vec<SnapshotRow>,
    ) -> Result<(), SnapshotError> {
        let mut batch = WriteBatch::default();
        let incoming = family(self.database.db(), schema::INCOMING);
        for SnapshotRow { family: number, key: Bytes(key), value: Bytes(value), continues } in rows {
            let place = [&[number][..], &key].concat();
            receiver.bytes += (key.len() + value.len()) as u64;
            let value = match receiver.begun.take() {
                None => value,
                Some((begun, mut before)) if begun == place && before.len() + value.len() <= VALUE_MAX => {
                    before.extend(value);
                    before
                }
                Some(_) => return Err(SnapshotError::Invalid("a row of it is not complete, or too long")),
            };
            if continues {
                receiver.begun = Some((place, value));
                continue;
            }
            if place <= receiver.last_key || family_name(number).is_none() {
                return Err(SnapshotError::Invalid("its rows are not in order"));
            }
            if let Some(column) = Column::from_number(number) {
                receiver.state_digest.toggle(row_digest(column, &key, &value));
            }
            if number == schema::UNDO_NUMBER {
                receiver.undo_digest.toggle(undo_digest(&key, &value));
            }
            if number == schema::LOG_NUMBER {
                receiver.log = Some(follow(receiver.log.take(), &key, &value).ok_or(SnapshotError::Invalid(
                    "its log has a gap, or a request under a uid that is not its own",
                ))?);
                receiver.log_bytes += value.len() as u64;
            }
            receiver.rows += 1;
            batch.put_cf(incoming, &place, value);
            receiver.last_key = place;
        }
        Ok(self.database.write_unsynced(WRITING, batch)?)
    }

    /// Replaces log and state by a snapshot that has come completely.
    ///
    /// # Errors
    /// Its rows do not give the sums in `end`, and the snapshot has to be fetched anew; or storage failed, and the store must not be
    /// used any more. Opening it again completes the installation.
    pub fn install_snapshot(&mut self, receiver: SnapshotReceiver, end: &SnapshotEnd) -> Result<(), SnapshotError> {
        let (is_begin, last) = match receiver.log {
            None => (true, end.base),
            Some(log) => (is_next(end.base, log.first, &log.first_request), log.last),
        };
        if receiver.state_digest != end.state_digest {
            return Err(SnapshotError::Invalid("its state has another digest than it says"));
        }
        if receiver.undo_digest != end.undo_digest {
            return Err(SnapshotError::Invalid("its undo records have another digest than it says"));
        }
        if !is_begin || (last, receiver.log_bytes) != (end.applied, end.log_bytes) {
            return Err(SnapshotError::Invalid("its log begins, ends or is long otherwise than it says"));
        }

        self.commit()?;
        let mut batch = self.new_batch();
        batch.put(schema::META, schema::META_INSTALLING, end);
        self.database.write(WRITING, batch.take())?;
        Ok(self.resume_install()?)
    }

    /// Installs the snapshot that is complete, if there is one; drops the rows of one that is not.
    pub(in crate::store) fn resume_install(&mut self) -> Result<(), StoreError> {
        let db = self.database.db();
        let Some(end) = read_meta::<SnapshotEnd>(db, schema::META_INSTALLING)? else {
            let is_empty = db.iterator_cf(family(db, schema::INCOMING), IteratorMode::Start).next().is_none();
            return if is_empty { Ok(()) } else { self.begin_snapshot().map(drop) };
        };

        // After a crash the log may be the new one already, in which there is nothing to look for.
        if read_meta::<bool>(db, schema::META_ORPHANS_KEPT)?.is_none() {
            self.keep_orphans(self.log.settled(), end.applied)?;
        }
        self.remove_all()?;
        let contents = self.move_incoming()?;

        let mut batch = self.new_batch();
        Log::put_snapshot(&mut batch, &end);
        batch.put(schema::META, schema::META_CONTENTS, &contents);
        batch.delete(schema::META, schema::META_INSTALLING);
        batch.delete(schema::META, schema::META_ORPHANS_KEPT);
        batch.delete_range(schema::INCOMING, b"", AFTER_ALL);
        self.database.write(WRITING, batch.take())?;

        self.rows = Rows::new(self.database.shared(), end.state_digest, contents, self.rows.initial().clone());
        self.log.reload()
    }

    /// Keeps as orphans those of the requests that were executed in our log, after a uid, that the snapshot, which is applied up to
    /// `applied`, does not have, or that were not executed in it, since an earlier request of their session is missing there.
    fn keep_orphans(&mut self, after: Uid, applied: LogMark) -> Result<(), StoreError> {
        let db = self.database.shared();
        let mut batch = WriteBatch::default();
        let sessions_since = applied.uid.timestamp.before(SESSION_LIFETIME);

        for entry in entries::entries(&db, after).skip_while(|entry| entry.as_ref().is_ok_and(|(uid, _)| *uid <= after))
        {
            let (uid, LogEntry { request, .. }) = entry?;
            if !session::was_executed(&request, &undo_record(&db, uid)?) {
                continue;
            }
            let session = incoming(&db, Column::Sessions as u8, &session_key(request.client))?;
            let session: Option<Session> = session.map(|value| decode(schema::INCOMING, &value)).transpose()?;
            let had_effect = match session {
                Some(session) => session.sequence >= request.sequence,
                // Either the session has ended there, a day after its last request, or it has not begun.
                None => uid.timestamp < sessions_since,
            };
            if !had_effect || incoming(&db, schema::LOG_NUMBER, &uid.to_bytes())?.is_none() {
                batch.put_cf(family(&db, schema::ORPHANS), uid.to_bytes(), to_cbor(&request));
            }
            if batch.size_in_bytes() >= BATCH_BYTES {
                self.database.write_unsynced(WRITING, std::mem::take(&mut batch))?;
            }
        }

        batch.put_cf(family(&db, schema::META), schema::META_ORPHANS_KEPT, to_cbor(&true));
        self.database.write_unsynced(WRITING, batch)
    }

    /// An empty batch, to be written apart from uncommitted requests.
    fn new_batch(&self) -> Batch {
        Batch::new(self.database.shared())
    }

    /// Removes the log and the state.
    fn remove_all(&mut self) -> Result<(), StoreError> {
        let mut batch = self.new_batch();
        let others = [schema::LOG, schema::UNDO, schema::UNDONE];
        for name in others.into_iter().chain(Column::ALL.map(Column::name)) {
            batch.delete_range(name, b"", AFTER_ALL);
        }
        self.database.write_unsynced(WRITING, batch.take())
    }

    /// Moves the rows of the snapshot to their places.
    fn move_incoming(&mut self) -> Result<StateContents, StoreError> {
        let db = self.database.shared();
        let mut contents = StateContents::default();
        let mut batch = WriteBatch::default();
        for row in db.iterator_cf(family(&db, schema::INCOMING), IteratorMode::Start) {
            let (place, value) = row.map_err(|error| StoreError::Rocks("reading a received snapshot", error))?;
            let named = place.split_first().and_then(|(number, key)| Some((family_name(*number)?, key)));
            let unnamed = || StoreError::Corrupt(format!("the key {place:02x?} of a snapshot names no column family"));
            let (name, key) = named.ok_or_else(unnamed)?;
            if let Some(column) = Column::from_number(place[0]) {
                contents = with_row(contents, column, key, &value, u64::wrapping_add);
            }
            batch.put_cf(family(&db, name), key, value);
            if batch.size_in_bytes() >= BATCH_BYTES {
                self.database.write_unsynced(WRITING, std::mem::take(&mut batch))?;
            }
        }
        self.database.write_unsynced(WRITING, batch)?;
        Ok(contents)
    }
}

/// The value of a row of the snapshot that was received.
fn incoming(db: &DB, number: u8, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let value = db.get_cf(family(db, schema::INCOMING), [&[number][..], key].concat());
    value.map_err(|error| StoreError::Rocks("reading a received snapshot", error))
}

/// The undo record of a request that is not settled.
fn undo_record(db: &DB, uid: Uid) -> Result<UndoRecord, StoreError> {
    let undo = db.get_cf(family(db, schema::UNDO), uid.to_bytes());
    let undo = undo.map_err(|error| StoreError::Rocks("reading undo records", error))?;
    let undo = undo.ok_or_else(|| StoreError::Corrupt(format!("request {uid} has no undo record")))?;
    decode(schema::UNDO, &undo)
}

/// A log once its next entry has come; `None` when the entry does not follow the last one, or is not the request that its uid names.
fn follow(log: Option<ReceivedLog>, key: &[u8], value: &[u8]) -> Option<ReceivedLog> {
    let uid = Uid::from_bytes(key)?;
    let entry: LogEntry = decode(schema::LOG, value).ok()?;
    if entry.request.uid(uid.timestamp) != uid {
        return None;
    }
    let mark = entries::mark(uid, &entry);
    match log {
        None => Some(ReceivedLog { first: mark, first_request: entry.request, last: mark }),
        Some(log) => is_next(log.last, mark, &entry.request).then_some(ReceivedLog { last: mark, ..log }),
    }
}

/// Whether `mark` is the place of this request right after `before`.
fn is_next(before: LogMark, mark: LogMark, request: &Request) -> bool {
    let log_digest = before.log_digest.chain(mark.uid, request);
    (before.position.checked_add(1), log_digest) == (Some(mark.position), mark.log_digest)
}
