//! The rows of the replicated state: RocksDB, overlaid with what has been written since the last commit.
//!
//! Every write goes through [`Rows::write`], which updates the state digest and the [`StateContents`], and keeps the old value for
//! the undo record. So no command can change the state without them.
//!
//! Rows that are read again and again are kept in memory once they are committed ([`RowCache`]).

use super::StoreError;
use super::cache::{RowCache, Value};
use super::keys::{Column, ORPHAN_SESSION, SESSION_USE, SETTINGS, TOMBSTONE};
use super::values::{Bytes, OldRow, UndoRecord};
use crate::store::database::{decode, family};
use rocksdb::{DB, DBIteratorWithThreadMode, IteratorMode, ReadOptions, WriteBatch};
use stablechat_protocol::digest::Digest;
use stablechat_protocol::operator::{InitialSettings, Settings};
use stablechat_protocol::status::StateContents;
use stablechat_protocol::wire::to_cbor;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::collections::btree_map::{Entry, Range};
use std::iter::Peekable;
use std::sync::Arc;

/// A row's key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Rows not yet committed: the new value, or `None` for a row that was removed.
type Overlay = BTreeMap<Vec<u8>, Value>;

/// Memory for committed rows that are read again and again, in bytes.
const CACHE: usize = 16 * 1024 * 1024;

/// The order in which rows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Backward,
}

/// Rows of which each request wants the first, in the order of their keys.
///
/// RocksDB only marks a removed row, and drops it in a later compaction. A search that begins at the front of a queue passes over
/// all marks. So [`Rows`] remembers for each queue a key below which it has no rows. While a queue is empty, it is not searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Sessions in the order of their last use.
    SessionUse = 0,
    /// The tombstones of deleted accounts and closed rooms.
    Tombstones = 1,
    /// Sessions of orphans.
    OrphanSessions = 2,
}

impl Queue {
    const ALL: [Queue; 3] = [Queue::SessionUse, Queue::Tombstones, Queue::OrphanSessions];

    /// The column of its rows, and the beginning of their keys.
    fn place(self) -> (Column, &'static [u8]) {
        match self {
            Queue::SessionUse => (Column::Sessions, SESSION_USE),
            Queue::Tombstones => (Column::Members, TOMBSTONE),
            Queue::OrphanSessions => (Column::Sessions, ORPHAN_SESSION),
        }
    }
}

/// The rows of all columns.
pub struct Rows {
    /// The committed rows.
    db: Arc<DB>,
    /// The rows written since the last commit, per column.
    overlay: [Overlay; Column::ALL.len()],
    /// Committed rows that were read or written lately.
    cache: RefCell<RowCache>,
    /// The XOR of the [`row_digest`]s of all rows, the overlay included.
    digest: Digest,
    /// How many rows there are of some kinds, the overlay included.
    contents: StateContents,
    /// The settings that hold where no row says otherwise.
    initial: InitialSettings,
    /// The settings as they were last read, until they are written: each `send` asks for them.
    settings: OnceCell<Settings>,
    /// The values that the current request has replaced so far, each row once, with its value before the request.
    replaced: BTreeMap<(Column, Vec<u8>), Value>,
    /// Bytes of keys and values written since the last commit; a row that was written twice counts twice.
    written_bytes: usize,
    /// For each [`Queue`], a key below which it has no rows.
    queue_fronts: [Vec<u8>; Queue::ALL.len()],
}

impl Rows {
    /// The rows of a database whose state has this digest and these contents, and which was made with these settings.
    pub fn new(db: Arc<DB>, digest: Digest, contents: StateContents, initial: InitialSettings) -> Rows {
        let queue_fronts = Queue::ALL.map(|queue| queue.place().1.to_vec());
        let (overlay, replaced) = Default::default();
        let (cache, settings, written_bytes) = (RefCell::new(RowCache::new(CACHE)), OnceCell::new(), 0);
        Rows { db, overlay, cache, digest, contents, initial, settings, replaced, written_bytes, queue_fronts }
    }

    /// The settings that the store was made with.
    pub fn initial(&self) -> &InitialSettings {
        &self.initial
    }

    /// The row of the settings; none before the first change of them.
    pub fn settings(&self) -> Result<Option<Settings>, StoreError> {
        if let Some(settings) = self.settings.get() {
            return Ok(Some(*settings));
        }
        let settings = self.read(Column::Settings, SETTINGS)?;
        Ok(settings.map(|settings| *self.settings.get_or_init(|| settings)))
    }

    /// The digest over all rows.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How much there is in the state.
    pub fn contents(&self) -> StateContents {
        self.contents
    }

    /// About how many bytes the rows take that wait for the next commit.
    pub fn written_bytes(&self) -> usize {
        self.written_bytes
    }

    /// A row's value.
    pub fn get(&self, column: Column, key: &[u8]) -> Result<Value, StoreError> {
        if let Some(value) = self.overlay[column as usize].get(key) {
            return Ok(value.clone());
        }
        let mut cache = self.cache.borrow_mut();
        if let Some(value) = cache.get(column, key) {
            return Ok(value);
        }
        let committed = self.db.get_pinned_cf(family(&self.db, column.name()), key);
        let value = committed.map_err(|error| StoreError::Rocks("reading", error))?.map(|bytes| Arc::from(&bytes[..]));
        cache.note(column, key, &value);
        Ok(value)
    }

    /// A row's value, decoded.
    pub fn read<T: serde::de::DeserializeOwned>(&self, column: Column, key: &[u8]) -> Result<Option<T>, StoreError> {
        self.get(column, key)?.map(|bytes| decode(column.name(), &bytes)).transpose()
    }

    /// Writes a row, encoded.
    pub fn put<T: serde::Serialize>(&mut self, column: Column, key: Vec<u8>, value: &T) -> Result<(), StoreError> {
        self.write(column, key, Some(to_cbor(value)))
    }

    /// Adds a row, encoded. Its key must be new by the way in which it is made, so it is not looked for.
    pub fn add<T: serde::Serialize>(&mut self, column: Column, key: Vec<u8>, value: &T) {
        self.add_bytes(column, key, to_cbor(value));
    }

    /// The same with the bytes of its value.
    pub fn add_bytes(&mut self, column: Column, key: Vec<u8>, value: Vec<u8>) {
        #[cfg(test)]
        assert_eq!(self.get(column, &key).expect("it can be read"), None, "{key:02x?} is not new in {column:?}");
        self.replace(column, key, None, Some(value.into()));
    }

    /// Removes a row, which need not be there.
    pub fn remove(&mut self, column: Column, key: Vec<u8>) -> Result<(), StoreError> {
        self.write(column, key, None)
    }

    /// Writes or removes a row.
    pub fn write(&mut self, column: Column, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        let (old, value) = (self.get(column, &key)?, value.map(Arc::from));
        if old != value {
            self.replace(column, key, old, value);
        }
        Ok(())
    }

    /// Puts a value into the place of another one.
    fn replace(&mut self, column: Column, key: Vec<u8>, old: Value, value: Value) {
        // A row counts for the digest by XOR: toggling it twice takes it out again.
        [&old, &value].into_iter().flatten().for_each(|value| self.digest.toggle(row_digest(column, &key, value)));
        if let Some(old) = &old {
            self.contents = with_row(self.contents, column, &key, old, u64::wrapping_sub);
        }
        if let Some(value) = &value {
            self.contents = with_row(self.contents, column, &key, value, u64::wrapping_add);
        }
        if let Entry::Vacant(place) = self.replaced.entry((column, key.clone())) {
            place.insert(old);
        }
        if value.is_some() {
            self.note_in_queues(column, &key);
        }
        if (column, &key[..]) == (Column::Settings, SETTINGS) {
            self.settings.take();
        }
        self.written_bytes += key.len() + value.as_ref().map_or(0, |value| value.len());
        self.overlay[column as usize].insert(key, value);
    }

    /// Keeps `queue_fronts` true when a row is added.
    fn note_in_queues(&mut self, column: Column, key: &[u8]) {
        for queue in Queue::ALL {
            let front = &mut self.queue_fronts[queue as usize];
            if queue.place().0 == column && key < &front[..] && key.starts_with(queue.place().1) {
                *front = key.to_vec();
            }
        }
    }

    /// The first row of a queue, if its key is below `to`. `to` must not lie behind the end of the queue.
    pub fn first(&mut self, queue: Queue, to: &[u8]) -> Result<Option<Row>, StoreError> {
        let front = &self.queue_fronts[queue as usize];
        if front.as_slice() >= to {
            return Ok(None);
        }
        let row = self.scan(queue.place().0, front, to, Direction::Forward).next().transpose()?;
        self.queue_fronts[queue as usize] = row.as_ref().map_or(to, |(key, _)| key).to_vec();
        Ok(row)
    }

    /// The rows with `from <= key < to`, in the given direction.
    pub fn scan(&self, column: Column, from: &[u8], to: &[u8], direction: Direction) -> Scan<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(to);
        let mode = match direction {
            Direction::Forward => IteratorMode::Start,
            Direction::Backward => IteratorMode::End,
        };

        // The range of a map panics when it ends before it begins; here that is an empty page.
        let written = if from < to {
            self.overlay[column as usize]
                .range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Excluded(to)))
        } else {
            Range::default()
        };
        Scan {
            committed: self.db.iterator_cf_opt(family(&self.db, column.name()), options, mode).peekable(),
            written,
            next_written: None,
            direction,
        }
    }

    /// The rows that the current request has replaced. From here on, writes belong to the next one.
    pub fn take_undo(&mut self) -> UndoRecord {
        let rows = std::mem::take(&mut self.replaced).into_iter().map(|((column, key), value)| OldRow {
            column: column as u8,
            key: Bytes(key),
            value: value.map(|value| Bytes(value.to_vec())),
        });
        UndoRecord { rows: rows.collect() }
    }

    /// Puts back what a request had replaced. The digest goes back with the rows, since it is a function of them.
    pub fn undo(&mut self, undo: UndoRecord) -> Result<(), StoreError> {
        for OldRow { column, key: Bytes(key), value } in undo.rows {
            let column = Column::from_number(column).ok_or_else(|| {
                StoreError::Corrupt(format!("an undo record names column {column}, which does not exist"))
            })?;
            self.write(column, key, value.map(|Bytes(value)| value))?;
        }
        self.replaced.clear();
        Ok(())
    }

    /// Moves everything that was written into a batch.
    pub fn drain_into(&mut self, batch: &mut WriteBatch) {
        self.written_bytes = 0;
        let cache = self.cache.get_mut();
        for column in Column::ALL {
            let family = family(&self.db, column.name());
            for (key, value) in std::mem::take(&mut self.overlay[column as usize]) {
                cache.note(column, &key, &value);
                match value {
                    Some(value) => batch.put_cf(family, key, value),
                    None => batch.delete_cf(family, key),
                }
            }
        }
    }
}

/// Rows in order: the committed rows merged with those written since, which take precedence.
pub struct Scan<'a> {
    committed: Peekable<DBIteratorWithThreadMode<'a, DB>>,
    written: Range<'a, Vec<u8>, Value>,
    /// The next of `written`, once it has been looked at.
    next_written: Option<(&'a Vec<u8>, &'a Value)>,
    direction: Direction,
}

impl Scan<'_> {
    /// Whether the next row is among those written since the last commit; `None` at the end.
    fn next_is_written(&mut self) -> Option<bool> {
        if self.next_written.is_none() {
            self.next_written = match self.direction {
                Direction::Forward => self.written.next(),
                Direction::Backward => self.written.next_back(),
            };
        }
        match (self.next_written, self.committed.peek()) {
            (None, None) => None,
            (Some(_), None) => Some(true),
            (None, Some(_)) | (_, Some(Err(_))) => Some(false),
            (Some((written, _)), Some(Ok((committed, _)))) => Some(match self.direction {
                Direction::Forward => written[..] <= committed[..],
                Direction::Backward => written[..] >= committed[..],
            }),
        }
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Row, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if !self.next_is_written()? {
                let row = self.committed.next()?.map_err(|error| StoreError::Rocks("reading in order", error));
                return Some(row.map(|(key, value)| (key.into_vec(), value.into_vec())));
            }
            let (key, value) = self.next_written.take()?;
            self.committed.next_if(|committed| matches!(committed, Ok((other, _)) if other[..] == key[..]));
            if let Some(value) = value {
                return Some(Ok((key.clone(), value.to_vec())));
            }
        }
    }
}

/// The contents of a state, to which a row is added, or from which it is taken.
pub fn with_row(
    contents: StateContents,
    column: Column,
    key: &[u8],
    value: &[u8],
    change: fn(u64, u64) -> u64,
) -> StateContents {
    let StateContents { accounts, conversations, messages, message_bytes } = contents;
    match column {
        Column::Users => StateContents { accounts: change(accounts, 1), ..contents },
        Column::Heads => StateContents { conversations: change(conversations, 1), ..contents },
        Column::Timelines => StateContents {
            messages: change(messages, 1),
            message_bytes: change(message_bytes, (key.len() + value.len()) as u64),
            ..contents
        },
        Column::Members | Column::Rooms | Column::Sessions | Column::Settings => contents,
    }
}

/// The digest of one row: over its column, key and value, each with its length.
pub fn row_digest(column: Column, key: &[u8], value: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for part in [column.name().as_bytes(), key, value] {
        hasher.update(&(part.len() as u64).to_be_bytes()).update(part);
    }
    Digest(*hasher.finalize().as_bytes())
}
