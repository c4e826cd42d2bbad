//! Stores that are damaged: each kind of damage has to be found.

use super::*;
use crate::random::Random;
use crate::store::directory::DataDirectory;
use crate::store::testing::{identity, stream};
use crate::store::{Location, open_copy};
use rocksdb::WriteBatch;
use stablechat_protocol::operator::InitialSettings;
use std::path::{Path, PathBuf};

/// A store with rows in every column family in which a replica at rest has some.
fn make(directory: &Path) -> DataDirectory {
    let location = Location::Directory(directory.join("data"));
    let mut store = ChatStore::open(&location, &identity(), &InitialSettings::OPEN).expect("a store");
    let requests = stream(&mut Random(7), 400);
    for held in &requests {
        store.apply(held.uid, &held.request).expect("storage works");
    }
    store.keep_orphan(&requests[399]);
    store.settle(requests[200].uid);
    store.retain(20_000);
    store.commit().expect("storage works");
    store.truncate().expect("storage works");
    store.commit().expect("storage works");
    drop(store);
    let data = DataDirectory(directory.join("data"));
    // Opened again, it has everything in sorted files.
    open_copy(&data.store()).expect("a database");
    data
}

/// The faults of a store. That it cannot be opened counts as one.
fn faults(data: &DataDirectory) -> Vec<String> {
    match ChatStore::open_to_read(data) {
        Ok(store) => store.check().faults,
        Err(error) => vec![error.to_string()],
    }
}

/// The faults of a store after it was changed through RocksDB.
fn faults_after(data: &DataDirectory, change: impl FnOnce(&DB, &mut WriteBatch)) -> Vec<String> {
    let db = open_copy(&data.store()).expect("a database");
    let mut batch = WriteBatch::default();
    change(&db, &mut batch);
    db.write(batch).expect("storage works");
    drop(db);
    faults(data)
}

/// The first row of a column family.
fn first_row(db: &DB, name: &'static str) -> Option<Row> {
    pairs(db, name).next().transpose().expect("storage works")
}

/// A copy of a directory.
fn copy(data: &DataDirectory, to: &Path) -> DataDirectory {
    let copy = DataDirectory(to.to_path_buf());
    std::fs::create_dir_all(copy.store()).expect("a directory can be made");
    for entry in std::fs::read_dir(data.store()).expect("a directory") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), copy.store().join(entry.file_name())).expect("it can be copied");
    }
    copy
}

#[test]
fn a_row_that_is_missing_or_changed_or_added_is_found() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let data = make(directory.path());
    assert_eq!(faults(&data), [""; 0]);
    let with_rows =
        [schema::LOG, schema::UNDO, "users", "timelines", "heads", "members", "rooms", "sessions", "settings"];
    for name in with_rows {
        let damaged = copy(&data, &directory.path().join(format!("without-{name}")));
        let found = faults_after(&damaged, |db, batch| {
            let (key, _) = first_row(db, name).expect("a row");
            batch.delete_cf(family(db, name), key);
        });
        assert!(!found.is_empty(), "a row of {name} is missing");
        let damaged = copy(&data, &directory.path().join(format!("other-{name}")));
        let found = faults_after(&damaged, |db, batch| {
            let (key, mut value) = first_row(db, name).expect("a row");
            value.push(0);
            batch.put_cf(family(db, name), key, value);
        });
        assert!(!found.is_empty(), "a row of {name} is changed");
    }
    let strange = [schema::UNDONE, schema::ORPHANS];
    for name in strange {
        let damaged = copy(&data, &directory.path().join(format!("more-{name}")));
        let found = faults_after(&damaged, |db, batch| batch.put_cf(family(db, name), [7; 24], b"strange"));
        assert!(!found.is_empty(), "{name} has a row too many");
    }
}

#[test]
fn a_fact_that_is_missing_is_found() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let data = make(directory.path());
    let facts = [
        schema::META_FORMAT,
        schema::META_IDENTITY,
        schema::META_INITIAL,
        schema::META_EPOCH,
        schema::META_APPLIED,
        schema::META_SETTLED,
        schema::META_BASE,
        schema::META_LOG_BYTES,
    ];
    for fact in facts {
        let name = String::from_utf8_lossy(fact).into_owned();
        let damaged = copy(&data, &directory.path().join(&name));
        let found = faults_after(&damaged, |db, batch| {
            assert!(db.get_cf(family(db, schema::META), fact).expect("storage works").is_some(), "there is {name}");
            batch.delete_cf(family(db, schema::META), fact);
        });
        assert!(!found.is_empty(), "{name} is missing");
    }
}

#[test]
fn a_byte_that_the_disk_has_changed_is_found() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let data = make(directory.path());
    let files = std::fs::read_dir(data.store()).expect("a directory").map(|entry| entry.expect("an entry").path());
    let files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "sst")).collect();
    assert!(files.len() > 5, "{files:?}");
    for path in files {
        let bytes = std::fs::read(&path).expect("it can be read");
        // The first block has rows; the second byte of it is in the first of them.
        let mut changed = bytes.clone();
        changed[1] ^= 0x10;
        std::fs::write(&path, changed).expect("it can be written");
        assert!(!faults(&data).is_empty(), "{} is changed", path.display());
        std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("it can be written");
        assert!(!faults(&data).is_empty(), "{} is cut off", path.display());
        std::fs::remove_file(&path).expect("it can be removed");
        assert!(!faults(&data).is_empty(), "{} is missing", path.display());
        std::fs::write(&path, bytes).expect("it can be written");
    }
    assert_eq!(faults(&data), [""; 0]);
}

#[test]
fn a_repair_that_a_crash_has_interrupted_is_no_damage() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let location = Location::Directory(directory.path().to_path_buf());
    let requests = stream(&mut Random(8), 60);
    let mut store = ChatStore::open(&location, &identity(), &InitialSettings::OPEN).expect("a store");
    for held in requests.iter().filter(|held| held.uid != requests[20].uid) {
        store.apply(held.uid, &held.request).expect("storage works");
    }
    store.repair_in_batches_of(500);
    store.begin_inserting(vec![requests[20].clone()]).expect("storage works");
    store.go_on_inserting().expect("storage works");
    store.go_on_inserting().expect("storage works");
    drop(store);
    let report = ChatStore::open_to_read(&DataDirectory(directory.path().to_path_buf())).expect("a store").check();
    assert_eq!(report.faults, [""; 0]);
    assert!((1..39).contains(&report.unapplied), "{} of 39 are undone", report.unapplied);
    let store = ChatStore::open(&location, &identity(), &InitialSettings::OPEN).expect("a store");
    assert_eq!((&store.check().faults[..], store.check().unapplied), (&[][..], 0));
}
