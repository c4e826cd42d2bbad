//! Passwords: from files, at a terminal, wrong ones, and keys that take the place of others.

use super::run::{Cluster, Said, mode, wait_until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FIRST: &str = "correct horse battery staple";
const SECOND: &str = "another one, as long";

/// A file with this text, and its path.
fn file(cluster: &Cluster, name: &str, text: &str) -> String {
    let path = cluster.path(name);
    fs::write(&path, text).expect("written");
    path.to_str().expect("UTF-8").to_string()
}

/// Runs a client on a machine without the keys, with this password.
fn elsewhere(cluster: &Cluster, password_file: &str, arguments: &[&str]) -> Said {
    let keys = cluster.path("no-keys");
    let options = ["--keys", keys.to_str().expect("UTF-8"), "--password-file", password_file];
    cluster.run(&[&options[..], arguments].concat())
}

/// The files of an account's keys, by what follows its name.
fn key_files(cluster: &Cluster) -> Vec<String> {
    let directory: PathBuf = cluster.key("alice").parent().expect("a directory").into();
    let names = fs::read_dir(directory).expect("it is there").map(|entry| entry.expect("readable").file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.retain(|name| name.starts_with("alice"));
    names.sort();
    names
}

#[test]
fn an_account_with_a_password_can_be_used_from_anywhere() {
    let cluster = Cluster::with_accounts(1, &["bob"]);
    let (good, bad) = (file(&cluster, "good", &format!("{FIRST}\n")), file(&cluster, "bad", "not my password\n"));
    cluster.run(&["--password-file", &good, "create", "alice"]).says("created alice\n");
    assert_eq!(mode(&cluster.key("alice")), 0o600);
    cluster.run(&["--as", "alice", "send", "bob", "from the machine with the key"]).says("sent to bob\n");

    elsewhere(&cluster, &good, &["--as", "alice", "send", "bob", "from another one"]).says("sent to bob\n");
    assert!(!cluster.path("no-keys").exists(), "nothing is left there");
    elsewhere(&cluster, &good, &["--as", "alice", "listen", "--once"]).says("");
    let wrong = "there is no account alice with this password";
    elsewhere(&cluster, &bad, &["--as", "alice", "send", "bob", "x"]).fails(77, wrong);
    elsewhere(&cluster, &bad, &["--as", "alice", "listen", "--once"]).fails(77, wrong);
    elsewhere(&cluster, &good, &["--as", "nobody", "unread"])
        .fails(77, "there is no account nobody with this password");
    elsewhere(&cluster, &bad, &["delete", "alice"]).fails(77, wrong);
    elsewhere(&cluster, &good, &["delete", "alice"])
        .says("deleted alice; what it has sent stays with those it was sent to\n");
}

#[test]
fn password_files_are_refused_with_a_reason() {
    let cluster = Cluster::with_accounts(1, &["bob"]);
    let long = "x".repeat(1025);
    for (text, fault) in
        [("", "it is empty"), ("\n", "it is empty"), ("one\ntwo\n", "more than one line"), (&long, "1024 bytes")]
    {
        let path = file(&cluster, "password", text);
        elsewhere(&cluster, &path, &["--as", "alice", "unread"]).fails(78, fault);
    }
    elsewhere(&cluster, "/nowhere", &["--as", "alice", "unread"]).fails(78, "/nowhere");
    fs::write(cluster.path("password"), [0xff, b'\n']).expect("written");
    elsewhere(&cluster, &file(&cluster, "short", "too short"), &["create", "alice"]).fails(2, "needs 10");
    cluster.run(&["create", "alice", "--password"]).fails(2, "typed at a terminal, or read from the file");
    cluster.run(&["--as", "alice", "unread"]).fails(78, "name a file with that by --password-file");
    assert_eq!(cluster.run(&["list"]).texts(), ["bob"]);
}

#[test]
fn a_password_takes_the_place_of_a_key_and_another_one_of_it() {
    let cluster = Cluster::with_accounts(1, &["alice", "bob"]);
    let (first, second) = (file(&cluster, "first", FIRST), file(&cluster, "second", SECOND));
    cluster.run(&["--as", "alice", "password", "--new-password-file", &first]).says("alice has another key\n");
    let files = key_files(&cluster);
    assert!(files.len() == 2 && files[0] == "alice.key" && files[1].starts_with("alice.key.replaced-"), "{files:?}");
    cluster.run(&["--as", "alice", "send", "bob", "x"]).says("sent to bob\n");

    // From a machine without the key, which gets none.
    let change = ["--as", "alice", "password", "--new-password-file", &second];
    elsewhere(&cluster, &second, &change).fails(77, "there is no account alice with this password");
    elsewhere(&cluster, &first, &change).says("alice has another key\n");
    elsewhere(&cluster, &first, &change).says("alice has another key\n");
    assert!(!cluster.path("no-keys").exists());
    elsewhere(&cluster, &second, &["--as", "alice", "send", "bob", "x"]).says("sent to bob\n");
    elsewhere(&cluster, &first, &["--as", "alice", "unread"]).fails(77, "with this password");
    cluster.run(&["--as", "alice", "unread"]).fails(77, "there is no account alice with your key");
}

#[test]
fn a_listener_that_has_missed_a_new_key_learns_of_it_when_it_returns() {
    let cluster = Cluster::with_accounts(1, &["alice", "bob"]);
    let copy = cluster.path("copy");
    let copied = Command::new("cp").arg("-a").args([cluster.path("keys"), copy.clone()]).status().expect("cp runs");
    assert!(copied.success());
    let elsewhere = cluster.talk(&["--keys", copy.to_str().expect("UTF-8"), "--as", "alice", "listen"]);
    let here = cluster.talk(&["--as", "alice", "listen"]);
    // Each asks for its inbox as it connects, and again as it begins to listen.
    wait_until("both listen, and have fetched what there is", || cluster.replicas[0].state().inboxes == 4);

    // This replica tells nobody, and looks at no key when it pushes messages.
    cluster.run(&["--as", "alice", "key", "rotate"]).says("alice has another key\n");
    cluster.run(&["--as", "bob", "send", "alice", "hello"]).says("sent to alice\n");
    assert_eq!((here.line(), elsewhere.line()), ("bob: hello".into(), "bob: hello".into()));
    assert_eq!(cluster.replicas[0].state().unread(), 1, "the earlier key reads nothing");
    cluster.replicas[0].kill();
    cluster.replicas[0].restart();
    elsewhere.end().fails(77, "alice has got another key, or was deleted");
    wait_until("it is read with the new key", || cluster.replicas[0].state().unread() == 0);
    drop(here);
}

#[test]
fn a_key_that_no_replica_has_confirmed_is_rotated_too() {
    let cluster = Cluster::with_accounts(1, &["alice"]);
    let before = fs::read_to_string(cluster.key("alice")).expect("it is there");
    fs::rename(cluster.key("alice"), format!("{}.new", cluster.key("alice").display())).expect("it can be renamed");
    cluster.run(&["--as", "alice", "key", "rotate"]).says("alice has another key\n");
    assert_ne!(fs::read_to_string(cluster.key("alice")).expect("it is there"), before);
    cluster.run(&["--as", "alice", "send", "alice", "x"]).says("sent to alice\n");
}

#[test]
fn a_key_is_rotated_and_the_attempt_can_be_repeated() {
    let cluster = Cluster::with_accounts(1, &["alice", "bob"]);
    let key = || fs::read_to_string(cluster.key("alice")).expect("it is there");
    let before = key();
    // Its answer is lost, and the client has given up.
    cluster.replicas[0].set(|manners| manners.is_mute = true);
    let said = cluster.run(&["--as", "alice", "key", "rotate"]);
    assert!([69, 75].contains(&said.code), "{said:?}");
    assert_eq!(key(), before);
    assert!(Path::new(&format!("{}.new", cluster.key("alice").display())).exists(), "{:?}", key_files(&cluster));
    let next = fs::read_to_string(format!("{}.new", cluster.key("alice").display())).expect("it is there");
    cluster.replicas[0].set(|manners| manners.is_mute = false);

    cluster.run(&["--as", "alice", "key", "rotate"]).says("alice has another key\n");
    assert_eq!(key(), next, "the one of the first attempt, which may have taken effect");
    let files = key_files(&cluster);
    assert!(files.len() == 2 && files[1].starts_with("alice.key.replaced-"), "{files:?}");
    cluster.run(&["--as", "alice", "send", "bob", "x"]).says("sent to bob\n");
}
