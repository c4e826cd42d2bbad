//! Reading the log: what peers compare, fetch and catch up with.
//!
//! All of it sees what is committed and nothing else, so what a replica says of its log is still so after a crash.

use super::error::StoreError;
use super::rows::{decode, family};
use super::schema::{self, LogEntry};
use super::{ChatStore, Uid};
use rocksdb::{DB, IteratorMode};
use stablechat_protocol::digest::{Digest, LogMark};
use stablechat_protocol::request::StampedRequest;
use std::time::Duration;

/// Before the first request of every log.
pub const BEGIN: LogMark = LogMark { uid: Uid::MIN, position: 0, log_digest: Digest::ZERO };

impl ChatStore {
    /// Whether the log has this request.
    ///
    /// # Errors
    /// Storage failed, or is corrupt; as for all that follows.
    pub fn contains(&self, uid: Uid) -> Result<bool, StoreError> {
        Ok(value(self.rows.db(), uid)?.is_some())
    }

    /// Those of these requests that are in the log, in the given order, until they come to `bytes_max` bytes; the last one
    /// may go beyond.
    pub fn bodies(&self, uids: &[Uid], bytes_max: usize) -> Result<Vec<StampedRequest>, StoreError> {
        let mut piece = Piece::new(bytes_max);
        for uid in uids {
            if piece.is_full() {
                break;
            }
            if let Some(value) = value(self.rows.db(), *uid)? {
                piece.push(*uid, &value)?;
            }
        }
        Ok(piece.requests)
    }

    /// The last request of the log.
    pub fn last_mark(&self) -> LogMark {
        self.committed
    }

    /// Marks for finding where another log parts from this one, newest first: the last request, the last ones that are
    /// more than 1 s, 2 s, 4 s, … older, the last one that is settled, and the first, or the one before if it is known. At
    /// most 39, since timestamps have 64 bits; none of an empty log.
    pub fn marks(&self) -> Result<Vec<LogMark>, StoreError> {
        let db = self.rows.db();
        let Some(first) = entries(db, self.base.uid).next().transpose()? else { return Ok(Vec::new()) };
        let first = mark(first.0, &first.1);
        let mut marks = vec![self.committed];
        let mut distance = Duration::from_secs(1);
        loop {
            let bound = self.committed.uid.timestamp.before(distance);
            let Some((uid, entry)) = last_before(db, Uid { timestamp: bound, digest: [0; 16] })? else { break };
            if marks.last().is_none_or(|last| last.uid != uid) {
                marks.push(mark(uid, &entry));
            }
            distance *= 2;
        }
        marks.extend([first, self.settled_mark()?, self.base].into_iter().filter(|mark| mark.position > 0));
        marks.sort_by_key(|mark| std::cmp::Reverse(mark.position));
        marks.dedup();
        Ok(marks)
    }

    /// The first of these marks up to which this log is the same.
    pub fn common(&self, marks: &[LogMark]) -> Result<Option<LogMark>, StoreError> {
        for other in marks {
            if *other == self.base {
                return Ok(Some(*other));
            }
            if let Some(entry) = entry(self.rows.db(), other.uid)?
                && mark(other.uid, &entry) == *other
            {
                return Ok(Some(*other));
            }
        }
        Ok(None)
    }

    /// The requests after a uid, in order, until they come to `bytes_max` bytes; the last one may go beyond. Also whether the log
    /// ends with them.
    pub fn tail(&self, after: Uid, bytes_max: usize) -> Result<(Vec<StampedRequest>, bool), StoreError> {
        piece_after(self.rows.db(), after, bytes_max, usize::MAX)
    }

    /// The applied requests in their order, from the first whose uid is not below `from`.
    pub fn log(&self, from: Uid) -> impl Iterator<Item = Result<(Uid, LogEntry), StoreError>> + '_ {
        entries(self.rows.db(), from)
    }
}

/// The log in its order, from the first uid that is not below `from`.
pub fn entries(db: &DB, from: Uid) -> impl Iterator<Item = Result<(Uid, LogEntry), StoreError>> + '_ {
    let from = from.to_bytes();
    let mode = IteratorMode::From(&from, rocksdb::Direction::Forward);
    db.iterator_cf(family(db, schema::LOG), mode).map(|row| {
        let (key, value) = row.map_err(|error| StoreError::Rocks("reading the log", error))?;
        Ok((uid_of_key(&key)?, decode(schema::LOG, &value)?))
    })
}

/// The requests after a uid, in order, until they come to this many bytes or requests. Also whether the log ends with them.
pub fn piece_after(
    db: &DB,
    after: Uid,
    bytes_max: usize,
    requests_max: usize,
) -> Result<(Vec<StampedRequest>, bool), StoreError> {
    let from = key_after(after);
    let mut piece = Piece::new(bytes_max);
    for row in db.iterator_cf(family(db, schema::LOG), IteratorMode::From(&from, rocksdb::Direction::Forward)) {
        let (key, value) = row.map_err(|error| StoreError::Rocks("reading the log", error))?;
        if piece.is_full() || piece.requests.len() == requests_max {
            return Ok((piece.requests, false));
        }
        piece.push(uid_of_key(&key)?, &value)?;
    }
    Ok((piece.requests, true))
}

/// The last entry whose uid is below this one.
pub fn last_before(db: &DB, uid: Uid) -> Result<Option<(Uid, LogEntry)>, StoreError> {
    let key = uid.to_bytes();
    let mode = IteratorMode::From(&key, rocksdb::Direction::Reverse);
    for row in db.iterator_cf(family(db, schema::LOG), mode) {
        let (key, value) = row.map_err(|error| StoreError::Rocks("reading the log", error))?;
        let found = uid_of_key(&key)?;
        if found < uid {
            return Ok(Some((found, decode(schema::LOG, &value)?)));
        }
    }
    Ok(None)
}

/// An entry of the log.
pub fn entry(db: &DB, uid: Uid) -> Result<Option<LogEntry>, StoreError> {
    value(db, uid)?.map(|value| decode(schema::LOG, &value)).transpose()
}

/// The mark that an entry is.
pub fn mark(uid: Uid, entry: &LogEntry) -> LogMark {
    LogMark { uid, position: entry.position, log_digest: entry.log_digest }
}

/// The least key after a uid's.
pub fn key_after(uid: Uid) -> Vec<u8> {
    [&uid.to_bytes()[..], b"\0"].concat()
}

/// An entry of the log, encoded.
fn value(db: &DB, uid: Uid) -> Result<Option<Vec<u8>>, StoreError> {
    let value = db.get_cf(family(db, schema::LOG), uid.to_bytes());
    value.map_err(|error| StoreError::Rocks("reading the log", error))
}

/// The uid that a key of the log is.
pub fn uid_of_key(key: &[u8]) -> Result<Uid, StoreError> {
    Uid::from_bytes(key).ok_or_else(|| StoreError::Corrupt("a key in the log is no uid".into()))
}

/// Requests up to a number of bytes.
struct Piece {
    requests: Vec<StampedRequest>,
    bytes: usize,
    bytes_max: usize,
}

impl Piece {
    /// Nothing yet.
    fn new(bytes_max: usize) -> Piece {
        Piece { requests: Vec::new(), bytes: 0, bytes_max }
    }

    /// Whether nothing more belongs into it; never before the first request.
    fn is_full(&self) -> bool {
        !self.requests.is_empty() && self.bytes >= self.bytes_max
    }

    /// Adds an entry of the log.
    fn push(&mut self, uid: Uid, value: &[u8]) -> Result<(), StoreError> {
        let LogEntry { request, .. } = decode(schema::LOG, value)?;
        self.requests.push(StampedRequest { uid, request });
        self.bytes += Uid::LENGTH + value.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Dice, actor, apply, create, held, store, store_of, stream, uids};
    use super::*;

    /// The log of a store with a request at each of these seconds.
    fn log_at(seconds: impl IntoIterator<Item = u64>) -> (ChatStore, Vec<StampedRequest>) {
        let ann = actor("ann", 1);
        let requests: Vec<StampedRequest> =
            seconds.into_iter().map(|second| held(1000 * second, 1, 1, &ann, create(&ann))).collect();
        (store_of(&requests), requests)
    }

    #[test]
    fn what_is_not_committed_is_not_seen() {
        let (mut store, requests) = log_at(1..3);
        let (last, next) = (store.last_mark(), stream(&mut Dice(0), 1).remove(0));
        apply(&mut store, &next);
        assert!(!store.contains(next.uid).expect("it reads"));
        assert!(store.contains(requests[1].uid).expect("it reads"));
        assert_eq!(store.bodies(&[next.uid], 1000).expect("it reads"), []);
        assert_eq!((store.last_mark(), store.marks().expect("it reads")[0]), (last, last));
        assert_eq!(store.tail(Uid::MIN, 100_000).expect("it reads"), (requests, true));
        store.commit().expect("memory does not fail");
        assert!(store.contains(next.uid).expect("it reads"));
        assert_eq!(store.last_mark(), store.applied().mark());
    }

    #[test]
    fn marks_lie_further_and_further_back() {
        let (store, requests) = log_at(1000..1200);
        let marks = store.marks().expect("it reads");
        let seconds: Vec<u64> = marks.iter().map(|mark| mark.uid.timestamp.0 / 1_000_000_000).collect();
        assert_eq!(seconds, [1199, 1197, 1196, 1194, 1190, 1182, 1166, 1134, 1070, 1000]);
        for mark in marks {
            assert_eq!(requests[mark.position as usize - 1].uid, mark.uid);
        }
        let (store, _) = log_at([1, 17_000_000_000]);
        assert_eq!(store.marks().expect("it reads").len(), 2);
        assert_eq!(super::super::testing::store().marks().expect("it reads"), []);
    }

    #[test]
    fn the_common_mark_is_the_newest_with_the_same_log_before_it() {
        let (store, requests) = log_at(1..100);
        let other = store_of(requests.iter().filter(|held| held.uid != requests[85].uid));
        let common = store.common(&other.marks().expect("it reads")).expect("it reads").expect("there is one");
        assert_eq!(common.position, 82, "the marks are at 99, 97, 96, 94, 90 and 82 s, and what is missing at 86 s");
        assert_eq!(store.common(&store.marks().expect("it reads")).expect("it reads"), Some(store.last_mark()));
        assert_eq!(store.common(&[]).expect("it reads"), None);
        assert_eq!(log_at([7]).0.common(&store.marks().expect("it reads")).expect("it reads"), None);
    }

    #[test]
    fn a_tail_comes_in_pieces() {
        let (store, requests) = log_at(1..50);
        assert_eq!(uids(&store).len(), requests.len());
        let mut after = Uid::MIN;
        let mut got = Vec::new();
        loop {
            let (piece, is_end) = store.tail(after, 1000).expect("it reads");
            assert!(piece.len() < 20);
            after = piece.last().map_or(after, |held| held.uid);
            got.extend(piece);
            if is_end {
                break;
            }
        }
        assert_eq!(got, requests);
        assert_eq!(store.tail(after, 0).expect("it reads"), (vec![], true));
        assert_eq!(store.tail(Uid::MIN, 0).expect("it reads"), (requests[..1].to_vec(), false));
        let wanted = [requests[3].uid, Uid::MAX, requests[1].uid, requests[2].uid];
        assert_eq!(store.bodies(&wanted, 1000).expect("it reads"), [3, 1, 2].map(|at: usize| requests[at].clone()));
        assert_eq!(store.bodies(&wanted, 1).expect("it reads"), requests[3..4]);
    }

    #[test]
    fn an_empty_log_has_an_end() {
        let store = store();
        assert_eq!(store.last_mark(), BEGIN);
        assert_eq!(store.tail(Uid::MIN, 1000).expect("it reads"), (vec![], true));
    }
}
