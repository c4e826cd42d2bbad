//! Reading entries of the log from the database.

use super::{StoreError, schema};
use crate::store::database::{decode, family};
use crate::store::schema::LogEntry;
use rocksdb::{DB, Direction, IteratorMode};
use stablechat_protocol::digest::LogMark;
use stablechat_protocol::request::StampedRequest;
use stablechat_protocol::uid::Uid;

/// The entries in their order, from the first whose uid is not below `from`.
pub fn entries(db: &DB, from: Uid) -> impl Iterator<Item = Result<(Uid, LogEntry), StoreError>> + '_ {
    let from = from.to_bytes();
    let mode = IteratorMode::From(&from, Direction::Forward);
    db.iterator_cf(family(db, schema::LOG), mode).map(|row| {
        let (key, value) = row.map_err(|error| StoreError::Rocks("reading the log", error))?;
        Ok((uid_of_key(&key)?, decode(schema::LOG, &value)?))
    })
}

/// The requests after a uid, in their order, until they come to `bytes_max` bytes; the last one may exceed it. Also whether the
/// log ends with them.
pub fn piece_after(db: &DB, after: Uid, bytes_max: usize) -> Result<(Vec<StampedRequest>, bool), StoreError> {
    let from = key_after(after);
    let mut piece = Piece::new(bytes_max);
    for row in db.iterator_cf(family(db, schema::LOG), IteratorMode::From(&from, Direction::Forward)) {
        let (key, value) = row.map_err(|error| StoreError::Rocks("reading the log", error))?;
        if piece.is_full() {
            return Ok((piece.requests, false));
        }
        piece.push(uid_of_key(&key)?, &value)?;
    }
    Ok((piece.requests, true))
}

/// Requests that were looked for in the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Bodies {
    /// Those that are in the log.
    pub requests: Vec<StampedRequest>,
    /// Those that are not.
    pub absent: Vec<Uid>,
}

/// Looks for requests in the log, in the given order, until those that it has come to `bytes_max` bytes; the last one may exceed
/// it. The rest is in neither list.
pub fn bodies(db: &DB, uids: &[Uid], bytes_max: usize) -> Result<Bodies, StoreError> {
    let (mut piece, mut absent) = (Piece::new(bytes_max), Vec::new());
    for uid in uids {
        if piece.is_full() {
            break;
        }
        match value(db, *uid)? {
            Some(value) => piece.push(*uid, &value)?,
            None => absent.push(*uid),
        }
    }
    Ok(Bodies { requests: piece.requests, absent })
}

/// The last entry whose uid is below this one.
pub fn last_before(db: &DB, uid: Uid) -> Result<Option<(Uid, LogEntry)>, StoreError> {
    let key = uid.to_bytes();
    let mode = IteratorMode::From(&key, Direction::Reverse);
    for row in db.iterator_cf(family(db, schema::LOG), mode) {
        let (key, value) = row.map_err(|error| StoreError::Rocks("reading the log", error))?;
        let found = uid_of_key(&key)?;
        if found < uid {
            return Ok(Some((found, decode(schema::LOG, &value)?)));
        }
    }
    Ok(None)
}

/// The entry under a uid, if there is one.
pub fn entry(db: &DB, uid: Uid) -> Result<Option<LogEntry>, StoreError> {
    value(db, uid)?.map(|value| decode(schema::LOG, &value)).transpose()
}

/// The place of an entry in the log.
pub fn mark(uid: Uid, entry: &LogEntry) -> LogMark {
    LogMark { uid, position: entry.position, log_digest: entry.log_digest }
}

/// The least key after that of a uid.
pub fn key_after(uid: Uid) -> Vec<u8> {
    [&uid.to_bytes()[..], b"\0"].concat()
}

/// The entry under a uid, encoded.
pub fn value(db: &DB, uid: Uid) -> Result<Option<Vec<u8>>, StoreError> {
    let value = db.get_cf(family(db, schema::LOG), uid.to_bytes());
    value.map_err(|error| StoreError::Rocks("reading the log", error))
}

/// The uid in a key of the log.
pub fn uid_of_key(key: &[u8]) -> Result<Uid, StoreError> {
    Uid::from_bytes(key).ok_or_else(|| StoreError::Corrupt(format!("the key {key:02x?} in the log is no uid")))
}

/// Requests that are gathered until they come to a number of bytes.
struct Piece {
    requests: Vec<StampedRequest>,
    bytes: usize,
    bytes_max: usize,
}

impl Piece {
    fn new(bytes_max: usize) -> Piece {
        Piece { requests: Vec::new(), bytes: 0, bytes_max }
    }

    /// Whether the piece is complete. It never is before the first request, so that a large one cannot stop a transfer.
    fn is_full(&self) -> bool {
        !self.requests.is_empty() && self.bytes >= self.bytes_max
    }

    fn push(&mut self, uid: Uid, value: &[u8]) -> Result<(), StoreError> {
        let LogEntry { request, .. } = decode(schema::LOG, value)?;
        self.requests.push(StampedRequest { uid, request });
        self.bytes += Uid::LENGTH + value.len();
        Ok(())
    }
}
