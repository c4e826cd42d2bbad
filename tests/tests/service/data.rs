//! Backing up, restoring and checking the data of running replicas.

use rustix::process::{Signal, geteuid};
use stablechat_protocol::answer::{Answer, Rejection};
use stablechat_tests::cluster::Cluster;
use stablechat_tests::ledger::assert_same;
use stablechat_tests::process::{Program, assert_ends, stablechatd};
use stablechat_tests::raw::{RawClient, create_accounts};
use stablechat_tests::session::{Person, Session, send};
use stablechat_tests::wait::{SOON, wait_until};
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const DELIVERY_BOUND: Duration = Duration::from_millis(300);
/// How long replicas may take to become the same.
const SAME: Duration = Duration::from_secs(60);

/// A cluster, and a directory for the backups of each replica.
struct Place {
    cluster: Cluster,
    alice: Person,
    bob: Person,
}

impl Place {
    /// Starts the replicas, and creates two accounts.
    fn start(names: &[&str]) -> Place {
        let place = Place {
            cluster: Cluster::start(names, DELIVERY_BOUND),
            alice: Person::new("alice"),
            bob: Person::new("bob"),
        };
        create_accounts(&mut place.cluster.greet(names[0]), &[&place.alice, &place.bob]);
        place
    }

    fn backups(&self, name: &str) -> PathBuf {
        self.cluster.path().join("backups").join(name)
    }

    /// A connection to a replica, logged in as alice.
    fn alice_at(&self, name: &str) -> RawClient {
        let mut client = self.cluster.greet(name);
        client.login(&self.alice, false);
        client
    }

    /// Sends bob so many messages, and waits until they are answered.
    fn send(&self, at: &str, count: usize) {
        let mut client = self.alice_at(at);
        let answers = client.call_all((0..count).map(|number| send("bob", number.to_string())));
        assert!(answers.iter().all(|settled| settled.answer == Answer::Done));
    }

    /// The number of messages that bob has not acknowledged.
    fn unread(&self, at: &str) -> usize {
        let mut client = self.cluster.greet(at);
        client.login(&self.bob, false);
        client.unread().len()
    }

    /// The command that backs up a replica.
    fn backup(&self, name: &str) -> Command {
        with_paths("backup", &[("--data", &self.cluster.data(name)), ("--to", &self.backups(name))])
    }

    /// The command that restores a replica from the last backup of a replica, itself or another.
    fn restore(&self, name: &str, from: &str) -> Command {
        let mut command =
            with_paths("restore", &[("--from", &self.backups(from)), ("--data", &self.cluster.data(name))]);
        command.args(["--name", name]);
        command
    }
}

/// A subcommand with paths.
fn with_paths(subcommand: &str, paths: &[(&str, &Path)]) -> Command {
    let mut command = stablechatd(&[subcommand]);
    for (option, path) in paths {
        command.arg(option).arg(path);
    }
    command
}

#[test]
fn one_replica_restored_from_an_old_backup_becomes_the_same_as_the_others() {
    let mut place = Place::start(&["a", "b", "c"]);
    place.send("a", 200);
    let mut backup = place.backup("a");
    backup.stdout(Stdio::null());
    let mut backup = Program::spawn(backup);
    place.send("a", 300);
    assert!(backup.wait().success());
    place.cluster.kill("a");
    place.cluster.wipe("a");
    place.send("b", 100);
    assert_ends(place.restore("a", "a"), 0, "restored backup 1 of replica a of cluster test");
    assert_ends(check(&place.cluster.data("a")), 0, "replica a of cluster test is in order: position");
    place.cluster.start_replica("a");
    place.send("c", 100);
    place.cluster.wait_until_same(SAME);
    assert_eq!(place.unread("a"), 700);
    for name in ["a", "b", "c"] {
        assert!(place.cluster.stop(name).success());
    }
    assert_same(&place.cluster, &["a", "b", "c"]);
}

#[test]
fn all_replicas_are_restored_from_the_backup_of_one() {
    let names = ["a", "b", "c"];
    let mut place = Place::start(&names);
    place.send("b", 50);
    let said = assert_ends(place.backup("b"), 0, "backed up replica b of cluster test");
    let position = position_in(&said);
    let mut client = place.alice_at("b");
    let ahead = Session::default();
    (1..=9).for_each(|number| assert_eq!(client.attempt(&ahead, number, &send("bob", "lost")), Answer::Done));
    for name in names {
        place.cluster.kill(name);
        place.cluster.wipe(name);
        let said = assert_ends(place.restore(name, "b"), 0, &format!("as replica {name} of cluster test: position "));
        assert_eq!(position_in(&said), position);
    }
    names.iter().for_each(|name| place.cluster.start_replica(name));
    assert_eq!(place.cluster.wait_until_same(SAME), position);
    assert_eq!(names.map(|name| place.unread(name)), [50; 3]);
    // A session that is ahead of the backup gets an error, and a new session works.
    let answer = place.alice_at("c").attempt(&ahead, 10, &send("bob", "ahead"));
    assert_eq!(answer, Answer::Rejected { reason: Rejection::OutOfSequence { expected: 1 } });
    let answer = place.alice_at("c").attempt(&Session::default(), 1, &send("bob", "anew"));
    assert_eq!(answer, Answer::Done);
    place.cluster.wait_until_same(SAME);
    for name in names {
        assert!(place.cluster.stop(name).success());
    }
    let ledgers = assert_same(&place.cluster, &names);
    assert_eq!(ledgers.len(), 3);
}

#[test]
fn a_killed_backup_leaves_complete_backups_intact() {
    let place = Place::start(&["a"]);
    place.send("a", 500);
    let first = position_in(&assert_ends(place.backup("a"), 0, "1 backups there"));
    let copy = place.cluster.data("a").join("copy");
    for round in 0..6 {
        place.send("a", 50);
        let mut backup = Program::spawn(place.backup("a"));
        // Half of them are killed while they read the copy, the others when they have begun to write.
        let begun = match round % 2 {
            0 => copy.clone(),
            _ => place.backups("a").join("private").join("2"),
        };
        wait_until("a backup has begun", SOON, || begun.exists() || backup.ended().is_some());
        if backup.ended().is_none() {
            backup.signal(Signal::KILL);
            backup.wait();
        }
        wait_until("the replica removes its checkpoint", SOON, || !copy.exists());
    }
    let said = assert_ends(list(&place.backups("a")), 0, "backups of replica a of cluster test:");
    let complete = said.lines().count() - 1;
    place.send("a", 1);
    let last = position_in(&assert_ends(place.backup("a"), 0, &format!("{} backups there", complete + 1)));
    assert!(last > first + 300);
    for (options, position) in [(&["--backup", "1"][..], first), (&[], last)] {
        let restored = place.cluster.path().join(format!("restored-{position}"));
        let mut restore = with_paths("restore", &[("--from", &place.backups("a")), ("--data", &restored)]);
        restore.args(options);
        assert_ends(restore, 0, &format!("position {position} "));
        assert_ends(check(&restored), 0, &format!("{position} requests in the log"));
    }
}

#[test]
fn a_stopped_replica_can_be_backed_up_and_old_backups_are_deleted() {
    let mut place = Place::start(&["a"]);
    place.send("a", 20);
    place.cluster.kill("a");
    for number in 1..=3 {
        let mut backup = place.backup("a");
        backup.args(["--keep", "2"]);
        assert_ends(backup, 0, &format!("backup {number}, position "));
    }
    let said = assert_ends(list(&place.backups("a")), 0, "backups of replica a of cluster test:");
    let ids: Vec<&str> = said.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(ids, ["2", "3"]);
    // A backup does not change the replica's epoch.
    place.cluster.start_replica("a");
    assert_eq!(place.unread("a"), 20);
}

#[test]
fn errors_of_backup_and_restore_name_their_cause() {
    let mut place = Place::start(&["a", "b"]);
    let (data, backups, missing) = (place.cluster.data("a"), place.backups("a"), place.cluster.path().join("missing"));
    assert_ends(place.backup("a"), 0, "backup 1");
    let backup = |data: &Path, to: &Path| with_paths("backup", &[("--data", data), ("--to", to)]);
    assert_ends(backup(&missing, &backups), 78, "there is no store in");
    assert_ends(backup(&data, &data.join("backups").join("a")), 78, "is in the data directory; give one elsewhere");
    assert_ends(backup(&data, place.cluster.path()), 78, "is not empty and has no backups");
    assert_ends(backup(&place.cluster.data("b"), &backups), 78, "has the backups of replica a of cluster test, not of");
    assert_ends(backup(&data, &place.cluster.file()), 74, "cannot create the directory for backups");
    let mut none = place.backup("a");
    none.args(["--keep", "0"]);
    assert_ends(none, 2, "give 1 or more");

    assert_ends(list(&missing), 78, "there are no backups in");
    let restore = |to: &Path| with_paths("restore", &[("--from", &backups), ("--data", to)]);
    assert_ends(restore(&data), 69, "is in use by another process; stop that replica first");
    let mut second = restore(&missing);
    second.args(["--backup", "2"]);
    assert_ends(second, 78, "there is no backup 2; there are 1");
    assert!(!missing.exists());

    assert_ends(check(&data), 69, "is in use by another process; stop that replica first");
    assert_ends(check(&missing), 78, "there is no store in");
    place.cluster.kill("a");
    assert_ends(restore(&data), 78, "has store in it; give a new or empty one");
    assert_ends(check(&data), 0, "replica a of cluster test is in order");
}

#[test]
fn a_damaged_store_is_found() {
    let mut place = Place::start(&["a"]);
    place.send("a", 100);
    assert_ends(place.backup("a"), 0, "backup 1");
    place.cluster.stop("a");
    let data = place.cluster.data("a");
    let mut files =
        std::fs::read_dir(data.join("store")).expect("a store").map(|entry| entry.expect("an entry").path());
    let sorted = files.find(|path| path.extension().is_some_and(|end| end == "sst")).expect("a sorted file");
    let mut bytes = std::fs::read(&sorted).expect("it can be read");
    bytes[1] ^= 0x10;
    std::fs::write(&sorted, bytes).expect("it can be written");
    let output = check(&data).output().expect("it runs");
    assert_eq!(output.status.code(), Some(65));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let name = sorted.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(stdout.contains("damaged: ") && stdout.contains(&name), "{stdout}");
    assert!(stderr.contains("is damaged") && stderr.contains("restore a backup"), "{stderr}");
}

/// The position in the output of a subcommand. Under load it is larger than the number of requests, since repeated attempts count.
fn position_in(said: &str) -> u64 {
    let after = said.split("position ").nth(1).and_then(|rest| rest.split_whitespace().next());
    after.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("there is no position in: {said}"))
}

/// The command that checks a data directory.
fn check(data: &Path) -> Command {
    let mut command = stablechatd(&["check"]);
    command.arg(data);
    command
}

/// The command that lists backups.
fn list(backups: &Path) -> Command {
    let mut command = stablechatd(&["backups"]);
    command.arg(backups);
    command
}

/// All files in a directory and below it.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn a_backup_by_root_follows_no_link_of_another_user() {
    const NOBODY: u32 = 65534;
    if !geteuid().is_root() {
        eprintln!("skipped: only root can give the data to another user");
        return;
    }
    let mut place = Place::start(&["a"]);
    place.send("a", 50);
    assert!(place.cluster.stop("a").success());
    let data = place.cluster.data("a");
    let store = data.join("store");
    files_below(&data).iter().chain([&data, &store]).for_each(|path| {
        chown(path, Some(NOBODY), Some(NOBODY)).expect("root may do this");
    });

    let listed = || {
        let mut files = files_below(&store);
        files.sort();
        files.into_iter().map(|path| (path.symlink_metadata().expect("a file").len(), path)).collect::<Vec<_>>()
    };

    // Whoever controls the replica's user makes a link of a file that RocksDB creates when it opens a database.
    let (lock, victim) = (store.join("LOCK"), place.cluster.path().join("victim"));
    std::fs::remove_file(&lock).expect("it is there");
    symlink(&victim, &lock).expect("a link can be made");
    let before = listed();
    assert_ends(place.backup("a"), 0, "backed up replica a of cluster test");
    assert!(!victim.exists(), "root has created a file where the link leads to");
    assert_eq!(listed(), before, "the database has been written to");
    std::fs::remove_file(&lock).expect("it is there");

    // Nor can a file that only root may read get into the backup.
    let (link, secret) = (store.join("000999.sst"), place.cluster.path().join("secret"));
    std::fs::write(&secret, "secret").expect("a file can be written");
    symlink(&secret, &link).expect("a link can be made");
    assert_ends(place.backup("a"), 74, "000999.sst");
    std::fs::remove_file(&link).expect("it is there");

    place.cluster.start_replica("a");
    assert_ends(place.backup("a"), 0, "backed up replica a of cluster test");
    assert_eq!(place.unread("a"), 50);
}
