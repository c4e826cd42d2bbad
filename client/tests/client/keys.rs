//! What becomes of keys when there are several clusters, processes and creates, and what a private key keeps to itself.

use super::run::{Cluster, Said, wait, wait_until};
use std::fs::DirEntry;
use std::path::Path;
use std::process::{Child, Stdio};

/// Starts a client whose end is waited for later.
fn start(cluster: &Cluster, arguments: &[&str]) -> Child {
    let mut command = cluster.command(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the client starts")
}

/// Whether a key of the account alice is in a directory. Its file may have any name but that of a draft.
fn has_key(directory: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(directory) else { return false };
    let is_hidden = |entry: &DirEntry| entry.file_name().as_encoded_bytes().starts_with(b".");
    entries.filter_map(Result::ok).filter(|entry| !is_hidden(entry)).any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => has_key(&entry.path()),
        _ => std::fs::read_to_string(entry.path()).is_ok_and(|text| text.contains("\naccount alice\ned25519 ")),
    })
}

#[test]
fn deleting_an_account_keeps_the_key_of_its_namesake_in_another_cluster() {
    let (one, other) = (Cluster::start(1), Cluster::named("other", 1));
    let keys = one.path("keys");
    let keys = keys.to_str().expect("UTF-8");
    one.run(&["create", "alice"]).says("created alice\n");
    other.run(&["--keys", keys, "create", "alice"]).says("created alice\n");
    one.run(&["delete", "alice"]).says("deleted alice; what it has sent stays with those it was sent to\n");
    other.run(&["--keys", keys, "--as", "alice", "send", "alice", "x"]).says("sent to alice\n");
    // The key that opens nothing is kept as well.
    let kept = std::fs::read_dir(one.path("keys/test@1")).expect("readable").filter_map(Result::ok);
    let is_kept = |name: String| name.starts_with("alice.key.deleted-");
    assert!(kept.map(|entry| entry.file_name().into_string().expect("UTF-8")).any(is_kept));
}

#[test]
fn of_two_creates_the_one_that_fails_leaves_the_key_of_the_other_alone() {
    // In the view of the first process the name is taken, but it learns that last.
    let first = Cluster::start(1);
    let stranger = first.path("stranger");
    first.run(&["--keys", stranger.to_str().expect("UTF-8"), "create", "alice"]).says("created alice\n");
    first.replicas[0].set(|manners| manners.is_mute = true);
    let (keys, mut late) = (first.path("keys"), start(&first, &["create", "alice"]));
    wait_until("it has made a key", || has_key(&keys));

    // The second process finds the key, and has created the account meanwhile.
    let second = Cluster::start(1);
    let keys = keys.to_str().expect("UTF-8");
    second.run(&["--keys", keys, "create", "alice"]).says("created alice\n");
    assert!(late.try_wait().expect("it can be asked").is_none(), "the first still waits");
    first.replicas[0].set(|manners| manners.is_mute = false);
    Said::from(wait(late)).fails(1, "the name alice is taken");
    second.run(&["--keys", keys, "--as", "alice", "send", "alice", "x"]).says("sent to alice\n");
}

#[test]
fn many_creates_at_once_have_one_winner_and_its_key() {
    let cluster = Cluster::start(1);
    for round in 0..10 {
        let name = format!("alice{round}");
        let both = [start(&cluster, &["create", &name]), start(&cluster, &["create", &name])];
        let mut codes = both.map(|child| Said::from(wait(child)).code);
        codes.sort_unstable();
        assert_eq!(codes, [0, 1]);
        cluster.run(&["--as", &name, "send", &name, "x"]).says(&format!("sent to {name}\n"));
    }
}

#[test]
fn a_create_whose_answer_was_lost_leaves_a_key_that_works() {
    let cluster = Cluster::start(1);
    cluster.replicas[0].set(|manners| manners.is_mute = true);
    cluster.run(&["create", "alice"]).fails(75, "it is not known whether this took effect: the create");
    cluster.replicas[0].set(|manners| manners.is_mute = false);
    cluster.run(&["--as", "alice", "send", "alice", "x"]).says("sent to alice\n");
    cluster.run(&["create", "alice"]).fails(1, "the name alice is taken");
    cluster.run(&["--as", "alice", "send", "alice", "y"]).says("sent to alice\n");
}

#[test]
fn the_session_of_a_key_is_a_secret_of_the_account() {
    // All that a stranger knows of an account is the same in both clusters.
    let session = || {
        let cluster = Cluster::with_accounts(1, &["alice"]);
        let before = cluster.replicas[0].state().sessions();
        for _ in 0..2 {
            cluster.run(&["--as", "alice", "send", "--id", "guessed", "alice", "x"]).says("sent to alice\n");
        }
        let after = cluster.replicas[0].state().sessions();
        let new: Vec<_> = after.into_iter().filter(|session| !before.contains(session)).collect();
        assert_eq!(new.len(), 1, "a repetition is in the same session");
        new[0]
    };
    assert_ne!(session(), session());
}
