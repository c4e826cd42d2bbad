//! Backups of stores in directories: they are restored, listed and deleted.

use super::super::directory::DataDirectory;
use super::super::testing::{contents, identity, store_of, stream};
use super::super::{ChatStore, Location};
use super::*;
use crate::random::Random;
use stablechat_protocol::operator::InitialSettings;
use stablechat_protocol::request::StampedRequest;

/// A directory with a store that has applied requests, and one for its backups.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { directory: tempfile::tempdir().expect("a directory can be made") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn data(&self, name: &str) -> DataDirectory {
        DataDirectory(self.path(name))
    }

    fn backups(&self) -> Backups {
        Backups::of(identity(), &self.path("backups")).expect("a directory for backups")
    }
}

fn open(data: &DataDirectory, identity: &StoreIdentity) -> ChatStore {
    ChatStore::open(&Location::Directory(data.0.clone()), identity, &InitialSettings::OPEN).expect("a store")
}

/// Applies requests to a store, and backs it up.
fn apply_and_back_up(place: &Place, requests: &[StampedRequest], keep: Option<usize>) -> (Backup, u64) {
    let mut store = open(&place.data("one"), &identity());
    for held in requests {
        store.apply(held.uid, &held.request).expect("storage works");
    }
    store.commit().expect("storage works");
    place.backups().add(&store.shared_db(), keep).expect("a backup")
}

/// Fails unless a restored store is the one that these requests give.
fn assert_restored(place: &Place, id: Option<u32>, name: &str, requests: &[StampedRequest]) {
    let data = place.data(&format!("{name}-{id:?}"));
    let restored = place.backups().restore(id, &data, Some(name.to_string())).expect("a restored store");
    let identity = StoreIdentity { replica: name.into(), ..identity() };
    assert_eq!(restored.identity, identity);
    let store = open(&data, &identity);
    assert_eq!(store.applied(), &restored.applied);
    assert_eq!(contents(&store), contents(&store_of(requests)));
    let report = store.check();
    assert_eq!((&report.faults[..], report.unapplied), (&[][..], 0));
}

#[test]
fn each_backup_is_the_store_as_it_was() {
    let place = Place::new();
    let requests = stream(&mut Random(1), 300);
    let parts = [&requests[..100], &requests[100..101], &requests[101..]];
    let ids = parts.map(|part| apply_and_back_up(&place, part, None).0.id);
    assert_eq!(ids, [1, 2, 3]);
    assert_restored(&place, Some(1), "one", &requests[..100]);
    assert_restored(&place, Some(2), "other", &requests[..101]);
    assert_restored(&place, None, "third", &requests);
}

#[test]
fn unchanged_files_are_not_copied_again_and_old_backups_are_removed() {
    let place = Place::new();
    let requests = stream(&mut Random(2), 2000);
    let (first, first_new) = apply_and_back_up(&place, &requests[..1990], None);
    assert!(first_new >= first.bytes, "all of the first is new");
    let (second, second_new) = apply_and_back_up(&place, &requests[1990..], Some(1));
    assert!(second_new < second.bytes / 2, "{second_new} of {} bytes are new", second.bytes);
    assert_eq!(place.backups().list().expect("backups"), [second]);
    let missing = place.backups().restore(Some(1), &place.data("x"), None).expect_err("it is gone");
    assert_eq!(missing.to_string(), "there is no backup 1; there are 2");
    assert_restored(&place, None, "one", &requests);
}

#[test]
fn a_copy_is_the_store_as_it_was_and_shares_what_a_backup_has() {
    let place = Place::new();
    let requests = stream(&mut Random(3), 2000);
    apply_and_back_up(&place, &requests[..1990], None);
    let data = place.data("one");
    let mut store = open(&data, &identity());
    copy_database(&store.shared_db(), &data.copy()).expect("a copy");
    for held in &requests[1990..] {
        store.apply(held.uid, &held.request).expect("storage works");
    }
    store.commit().expect("storage works");
    let copy = open_copy(&data.copy()).expect("the copy is a database");
    let (backup, new_bytes) = place.backups().add(&copy, None).expect("a backup");
    assert!(new_bytes < backup.bytes / 2, "{new_bytes} of {} bytes are new", backup.bytes);
    drop(copy);
    data.remove_copy().expect("it can be removed");
    data.remove_copy().expect("there is none, which is fine");
    assert_restored(&place, None, "one", &requests[..1990]);
}

#[test]
fn a_directory_has_the_backups_of_one_replica() {
    let place = Place::new();
    apply_and_back_up(&place, &stream(&mut Random(4), 5), None);
    let of = |replica: &str, directory: &str| {
        let owner = StoreIdentity { replica: replica.into(), ..identity() };
        Backups::of(owner, &place.path(directory)).map(drop).map_err(|error| error.to_string())
    };
    assert!(of("two", "backups").is_err_and(|error| error.contains("has the backups of replica one of cluster test")));
    assert!(of("one", "one").is_err_and(|error| error.contains("is not empty and has no backups")));
    let held = place.backups();
    assert!(of("one", "backups").is_err_and(|error| error.contains("in use by another process")));
    drop(held);
    assert_eq!(of("one", "backups"), Ok(()));
    assert!(
        Backups::open(&place.path("one")).is_err_and(|error| error.to_string().contains("there are no backups in"))
    );
    assert!(
        Backups::open(&place.path("missing")).is_err_and(|error| error.to_string().contains("there are no backups"))
    );
    assert!(!place.path("missing").exists());
}

#[test]
fn a_store_is_restored_only_where_there_is_nothing() {
    let place = Place::new();
    let requests = stream(&mut Random(5), 50);
    apply_and_back_up(&place, &requests, None);
    let restore = |data: &DataDirectory| place.backups().restore(None, data, None).map_err(|error| error.to_string());
    assert!(restore(&place.data("one")).is_err_and(|error| error.contains("one has store in it")));
    let running = open(&place.data("one"), &identity());
    assert!(restore(&place.data("one")).is_err_and(|error| error.contains("in use by another process")));
    drop(running);
    // The rest of an interrupted restoration does not count as a store, and the next one removes it.
    let data = place.data("two");
    std::fs::create_dir_all(data.restoring()).expect("a directory can be made");
    std::fs::write(data.restoring().join("CURRENT"), "rubbish").expect("a file can be written");
    restore(&data).expect("a restored store");
    assert!(!data.restoring().exists());
}

#[test]
fn a_damaged_backup_is_not_restored() {
    let place = Place::new();
    apply_and_back_up(&place, &stream(&mut Random(6), 500), None);
    let shared = place.path("backups").join("shared_checksum");
    let file = std::fs::read_dir(shared).expect("files").next().expect("one").expect("its name").path();
    let mut bytes = std::fs::read(&file).expect("it can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).expect("it can be written");
    let data = place.data("two");
    let error = place.backups().restore(None, &data, None).expect_err("it is damaged");
    assert!(error.to_string().contains("Corruption"), "{error}");
    assert!(!data.store().exists());
}
