//! A cache of committed rows that are read again and again: accounts, heads, memberships, rooms and sessions in use.
//!
//! Most requests read rows that a request shortly before has written. RocksDB would look for them in its memtables and, once they
//! are flushed, in several sorted files. Messages and the answers of sessions are written once and hardly ever read, so they are not
//! kept.
//!
//! There are two generations. What is used goes into the young one. When that is full it becomes the old one, and the old one is
//! dropped: so a row stays if it is used at least once in each generation.

use super::keys::{Column, SESSION};
use std::collections::HashMap;
use std::sync::Arc;

/// A value, shared by those who hold it; `None` for a row that is not there.
pub type Value = Option<Arc<[u8]>>;

/// Bytes that a row takes beside its key and value, about: two allocations, and the places in the map.
const OVERHEAD: usize = 128;

/// The values of committed rows. It must be told each new value when that is committed.
pub struct RowCache {
    young: Generation,
    old: Generation,
    /// How many bytes a generation may take, about.
    bytes_max: usize,
}

/// Rows by column and key.
#[derive(Default)]
struct Generation {
    rows: [HashMap<Box<[u8]>, Value>; Column::ALL.len()],
    /// How many bytes they take, about.
    bytes: usize,
}

impl RowCache {
    /// Nothing, with room for about so many bytes.
    pub fn new(bytes_max: usize) -> RowCache {
        RowCache { young: Generation::default(), old: Generation::default(), bytes_max: bytes_max / 2 }
    }

    /// What is known of a row; `None` when nothing is.
    pub fn get(&mut self, column: Column, key: &[u8]) -> Option<Value> {
        if let Some(value) = self.young.rows[column as usize].get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.rows[column as usize].remove_entry(key)?;
        self.put(column, key, value.clone());
        Some(value)
    }

    /// Takes note of a row's committed value, if it is one of those that are kept.
    pub fn note(&mut self, column: Column, key: &[u8], value: &Value) {
        if is_kept(column, key) {
            self.put(column, key.into(), value.clone());
        }
    }

    fn put(&mut self, column: Column, key: Box<[u8]>, value: Value) {
        let young = &mut self.young;
        // A value that is replaced is about as long.
        let bytes = OVERHEAD + key.len() + value.as_ref().map_or(0, |value| value.len());
        if young.rows[column as usize].insert(key, value).is_none() {
            young.bytes += bytes;
        }
        // An older value of the row, if there is one, is in the generation that is dropped here.
        if young.bytes > self.bytes_max {
            self.old = std::mem::take(young);
        }
    }
}

/// Whether a row is one of those that are read again and again.
fn is_kept(column: Column, key: &[u8]) -> bool {
    match column {
        Column::Timelines | Column::Settings => false,
        Column::Sessions => key.starts_with(SESSION),
        Column::Users | Column::Heads | Column::Members | Column::Rooms => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Some(text.as_bytes().into())
    }

    /// Room for two rows of one byte and a value of one byte in each generation.
    fn cache() -> RowCache {
        RowCache::new(2 * 2 * (OVERHEAD + 2))
    }

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let mut cache = cache();
        cache.note(Column::Users, b"a", &value("1"));
        for key in [b"b", b"c", b"d", b"e", b"f"] {
            cache.note(Column::Users, key, &value("2"));
            assert_eq!(cache.get(Column::Users, b"a"), Some(value("1")), "{key:?}");
        }
        assert_eq!(cache.get(Column::Users, b"b"), None);
        assert_eq!(cache.get(Column::Heads, b"a"), None, "columns are apart");
    }

    #[test]
    fn the_last_value_counts_in_whichever_generation_it_is() {
        let mut cache = cache();
        for turn in 0..20 {
            let wanted = (turn % 3 != 0).then(|| turn.to_string().as_bytes().into());
            cache.note(Column::Users, b"a", &wanted);
            for other in 0..turn % 5 {
                cache.note(Column::Users, &[other], &None);
            }
            assert!(cache.get(Column::Users, b"a").is_none_or(|value| value == wanted), "{turn}");
        }
    }

    #[test]
    fn what_is_read_once_is_not_kept() {
        let mut cache = cache();
        for (column, key) in [(Column::Timelines, &b"x"[..]), (Column::Sessions, b"a123"), (Column::Sessions, b"t123")]
        {
            cache.note(column, key, &value("1"));
            assert_eq!(cache.get(column, key), None);
        }
        cache.note(Column::Sessions, b"s123", &value("1"));
        assert_eq!(cache.get(Column::Sessions, b"s123"), Some(value("1")));
    }
}
