//! Single commands: what they print and how they exit.

use super::run::{Cluster, mode, signal, wait_until};
use serde_json::{Value, json};
use stablechat_protocol::answer::{Answer, Rejection};
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::name::{AccountName, ClusterName};

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn accounts_are_created_listed_and_deleted() {
    let cluster = Cluster::start(3);
    cluster.run(&["create", "alice"]).says("created alice\n");
    cluster.run(&["create", "bob"]).says("created bob\n");
    assert_eq!(mode(&cluster.key("alice")), 0o600);
    cluster.run(&["list"]).says("alice\nbob\n");
    cluster.run(&["list", "a*"]).says("alice\n");
    cluster.run(&["list", "z*"]).says("");
    cluster.run(&["delete", "alice"]).says("deleted alice; what it has sent stays with those it was sent to\n");
    assert!(!cluster.key("alice").exists());
    cluster.run(&["list"]).says("bob\n");
    let said = cluster.run(&["delete", "alice"]);
    said.fails(78, &format!("there is no key for alice: {} does not exist", cluster.key("alice").display()));
}

#[test]
fn a_repeated_create_fails_and_keeps_the_key() {
    let cluster = Cluster::with_accounts(1, &["alice"]);
    let key = std::fs::read(cluster.key("alice")).expect("readable");
    cluster.run(&["create", "alice"]).fails(1, "the name alice is taken");
    assert_eq!(std::fs::read(cluster.key("alice")).expect("readable"), key);
    // A create that fails leaves no file behind that looks like the key of an account.
    let other = cluster.path("other");
    let keys = other.to_str().expect("UTF-8");
    cluster.run(&["--keys", keys, "create", "alice"]).fails(1, "the name alice is taken");
    assert!(!other.join("test/alice.key").exists());
}

#[test]
fn messages_are_sent_stored_shown_and_read() {
    let cluster = Cluster::with_accounts(3, &["alice", "bob"]);
    cluster.run(&["--as", "alice", "send", "bob", "hello,", " two  spaces", "-x"]).says("sent to bob\n");
    cluster.pipe(&["--as", "alice", "send", "bob"], b"from a pipe\n\n").says("sent to bob\n");
    let unread = cluster.run(&["--as", "bob", "unread"]);
    // Each client estimates the replicas' clock itself, so the timestamps may be in either order; a fake refuses no late ones.
    let mut texts = unread.texts();
    texts.sort_unstable();
    assert_eq!(texts, ["alice: from a pipe\u{240a}", "alice: hello,  two  spaces -x"]);
    assert_eq!(cluster.run(&["--as", "bob", "listen", "--once"]).texts(), unread.texts());
    cluster.run(&["--as", "bob", "listen", "--once"]).says("");
    let history = cluster.run(&["--as", "bob", "history", "alice", "1"]);
    assert_eq!(history.texts(), ["alice -> bob: from a pipe\u{240a}"]);
}

#[test]
fn the_environment_names_the_account_and_options_win() {
    let cluster = Cluster::with_accounts(1, &["alice", "bob"]);
    let mut command = cluster.command(&["send", "bob", "x"]);
    super::run::finish({
        command.env("STABLECHAT_USER", "alice");
        command
    })
    .says("sent to bob\n");
    let mut command = cluster.command(&["--as", "bob", "unread"]);
    command.env("STABLECHAT_USER", "nobody");
    assert_eq!(super::run::finish(command).texts(), ["alice: x"]);
}

#[test]
fn options_are_taken_before_and_after_the_command() {
    let cluster = Cluster::with_accounts(1, &["alice", "bob"]);
    let sent = |arguments: &[&str]| objects(&cluster.run(arguments).out)[0]["type"].clone();
    assert_eq!(sent(&["send", "--as", "alice", "bob", "1", "--json"]), json!("sent"));
    assert_eq!(sent(&["send", "bob", "2", "--as=alice", "--json", "--id=k"]), json!("sent"));
    assert_eq!(sent(&["--json", "send", "--as", "alice", "bob", "3", "-x"]), json!("sent"));
    cluster.run(&["send", "--as", "alice", "bob", "--", "--json", "help"]).says("sent to bob\n");
    cluster.run(&["send", "--as", "alice", "bob", "help"]).says("sent to bob\n");
    let texts = ["1", "2", "3 -x", "--json help", "help"];
    assert_eq!(cluster.replicas[0].state().sent, texts);

    let heard = objects(&cluster.run(&["listen", "--as", "bob", "--json", "--once"]).out);
    assert_eq!(heard.iter().map(|message| message["text"].clone()).collect::<Vec<_>>(), texts);
    let history = cluster.run(&["history", "--as", "bob", "alice", "--json", "1"]);
    assert_eq!(objects(&history.out)[0]["text"], json!("help"));
    let status = objects(&cluster.run(&["status", "--json"]).out);
    assert_eq!(status[0]["replica"], json!("a"));
    cluster.run(&["list", "--replies", "all"]).says("a: alice\na: bob\n");

    for (arguments, fault) in [
        (&["send", "--as", "alice", "bob", "-x"][..], "send has no option -x; if it is none, put -- before it"),
        (&["status", "--once"], "status has no option --once\nRun `stablechat status --help` for help."),
        (&["list", "--json=yes"], "the option --json takes no value"),
        (&["unread", "--as"], "the option --as lacks its value"),
        (&["dance", "--json"], "there is no command \"dance\""),
    ] {
        cluster.run(arguments).fails(2, fault);
    }
}

#[test]
fn a_send_with_an_id_happens_once() {
    let cluster = Cluster::with_accounts(2, &["alice", "bob"]);
    for _ in 0..3 {
        cluster.run(&["--as", "alice", "send", "--id", "k", "bob", "once"]).says("sent to bob\n");
    }
    cluster.run(&["--as", "alice", "send", "--id", "l", "bob", "other"]).says("sent to bob\n");
    cluster.has_got(&["once", "other"]);
    let said = cluster.run(&["--as", "alice", "send", "--id", "k", "bob", "something else"]);
    said.fails(1, "another command was given under the same id before");
}

#[test]
fn answers_to_another_command_under_the_same_id_are_not_taken_for_ours() {
    let cluster = Cluster::with_accounts(2, &["alice", "bob"]);
    let different = Answer::Rejected { reason: Rejection::DifferentCommand };
    for (number, other) in [Answer::Done, different].into_iter().enumerate() {
        for replica in &cluster.replicas {
            replica.set(|manners| manners.answers_another = Some(other.clone()));
        }
        let (id, stored) = (number.to_string(), "sent to bob (stored on 1 of 2)\n");
        let both = cluster.run(&["--replies", "all", "--as", "alice", "send", "--id", &id, "bob", "x"]);
        both.says(&format!("a: {stored}b: {stored}"));
    }

    let full = Rejection::TooManyUnread { name: AccountName::parse("bob").expect("a name") };
    for replica in &cluster.replicas {
        replica.set(|manners| {
            (manners.answers_another, manners.rejects_sends) = (Some(Answer::Done), Some(full.clone()));
        });
    }
    let said = cluster.run(&["--as", "alice", "send", "--id", "k", "bob", "x"]);
    said.fails(1, "bob has too many unread messages from you");
    assert!(!said.err.contains("disagree"), "{said:?}");
}

#[test]
fn json_is_one_object_a_line() {
    let cluster = Cluster::start(1);
    let created = objects(&cluster.run(&["--json", "create", "alice"]).out);
    assert_eq!(created, [json!({"type": "created", "name": "alice", "replica": "a"})]);
    cluster.run(&["create", "bob"]);
    let sent = &objects(&cluster.run(&["--json", "--as", "alice", "send", "bob", "a\nb"]).out)[0];
    assert_eq!((&sent["type"], &sent["to"], &sent["sequence"]), (&json!("sent"), &json!("bob"), &json!(1)));
    let message = &objects(&cluster.run(&["--json", "--as", "bob", "listen", "--once"]).out)[0];
    assert_eq!((&message["type"], &message["text"]), (&json!("message"), &json!("a\nb")));
    assert_eq!((&message["uid"], &message["from"]), (&sent["uid"], &json!("alice")));
    let listed = objects(&cluster.run(&["--json", "list"]).out);
    assert_eq!(listed[1], json!({"type": "account", "name": "bob", "replica": "a"}));
    let failed = cluster.run(&["--json", "--as", "alice", "send", "carol", "x"]);
    failed.fails(1, "there is no account carol");
    assert_eq!(failed.out, "");
}

#[test]
fn all_replies_are_shown_with_their_replicas() {
    let cluster = Cluster::start(3);
    let stored = |name: &str| format!("{name}: created alice (stored on 1 of 3)\n");
    let expected: String = ["a", "b", "c"].map(stored).concat();
    cluster.run(&["--replies", "all", "create", "alice"]).says(&expected);
    cluster.run(&["--replies", "all", "list"]).says("a: alice\nb: alice\nc: alice\n");
    cluster.replicas[1].kill();
    cluster.run(&["--replies", "all", "list"]).says("a: alice\nc: alice\n");
    cluster.replicas[2].set(|manners| manners.is_mute = true);
    let one = cluster.run(&["--replies", "all", "--as", "alice", "send", "alice", "x"]);
    one.says("a: sent to alice (stored on 1 of 3)\n");
}

#[test]
fn answers_that_differ_are_reported() {
    let cluster = Cluster::with_accounts(2, &["alice", "bob"]);
    let full = Rejection::TooManyUnread { name: AccountName::parse("bob").expect("a name") };
    cluster.replicas[1].set(|manners| manners.rejects_sends = Some(full));
    let said = cluster.run(&["--replies", "all", "--as", "alice", "send", "bob", "x"]);
    assert!(said.err.contains("the replicas disagree on request 1"), "{said:?}");
    assert!(said.err.contains("b: bob has too many unread messages from you"), "{said:?}");
    assert!(said.out.starts_with("a: sent to bob"), "{said:?}");
}

#[test]
fn long_results_come_in_pages() {
    let names: Vec<String> = (0..7).map(|number| format!("u{number}")).collect();
    let cluster = Cluster::with_accounts(2, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let lines: String = (0..9).map(|number| format!("send u1 {number}\n")).collect();
    cluster.pipe(&["--as", "u0"], lines.as_bytes()).says(&"sent to u1\n".repeat(9));
    cluster.replicas.iter().for_each(|replica| replica.set(|manners| manners.page = Some(2)));
    cluster.run(&["list"]).says(&(names.join("\n") + "\n"));
    let expected: Vec<String> = (0..9).map(|number| format!("u0: {number}")).collect();
    assert_eq!(cluster.run(&["--as", "u1", "unread"]).texts(), expected);
    let expected: Vec<String> = (4..9).map(|number| format!("u0 -> u1: {number}")).collect();
    assert_eq!(cluster.run(&["--as", "u1", "history", "u0", "5"]).texts(), expected);
    let expected: Vec<String> = (0..9).map(|number| format!("u0: {number}")).collect();
    assert_eq!(cluster.run(&["--as", "u1", "listen", "--once"]).texts(), expected);
}

#[test]
fn usage_errors_exit_2_and_help_exits_0() {
    let cluster = Cluster::start(1);
    for arguments in [
        &["dance"][..],
        &["--dance"],
        &["create"],
        &["create", "Not A Name"],
        &["list", "[a]"],
        &["--replies", "some", "list"],
        &["send", "bob", "no account"],
        &["--as", "alice", "history", "bob", "none"],
        &["--as", "alice", "send", "bob", ""],
        &["--as", "alice", "send", "bob", &"x".repeat(4097)],
        &["--as", "alice", "send", "bob"],
    ] {
        let said = cluster.run(arguments);
        assert!(said.code == 2 && said.out.is_empty() && !said.err.is_empty(), "{arguments:?} {said:?}");
    }
    cluster.pipe(&["--as", "alice", "send", "bob"], b"\xff").fails(2, "not UTF-8");
    cluster.pipe(&["--as", "alice", "send", "bob"], &[b'x'; 4098]).fails(2, "more than 4096 bytes");
    for arguments in [&["--help"][..], &["send", "--help"], &["listen", "--help"], &["history", "--help"]] {
        let said = cluster.run(arguments);
        assert!(said.code == 0 && said.err.is_empty() && said.out.contains("Examples:"), "{said:?}");
    }
}

#[test]
fn commands_with_a_wrong_key_exit_77() {
    let cluster = Cluster::with_accounts(1, &["alice", "bob"]);
    // A key that is not the account's.
    let other = Cluster::with_accounts(1, &["alice"]);
    std::fs::copy(other.key("alice"), cluster.key("alice")).expect("copied");
    for arguments in [&["send", "bob", "x"][..], &["unread"], &["listen"], &["delete", "alice"]] {
        let said = cluster.run(&[&["--as", "alice"], arguments].concat());
        said.fails(77, "there is no account alice with your key");
    }
    assert!(cluster.key("alice").exists());
}

#[test]
fn configuration_errors_exit_78() {
    let cluster = Cluster::with_accounts(1, &["alice"]);
    let missing = cluster.path("missing");
    let said = cluster.run(&["--cluster", missing.to_str().expect("UTF-8"), "list"]);
    said.fails(78, "missing (named by --cluster): No such file");
    std::fs::write(&missing, "name = 'Test'").expect("written");
    cluster.run(&["--cluster", missing.to_str().expect("UTF-8"), "list"]).fails(78, "has a character");
    let text = std::fs::read_to_string(cluster.path("cluster.toml")).expect("readable");
    std::fs::write(&missing, text.replace("CERTIFICATE", "SOMETHING")).expect("written");
    let said = cluster.run(&["--cluster", missing.to_str().expect("UTF-8"), "list"]);
    said.fails(78, "its `ca`, the certificate of the cluster's authority: it has no certificate");
    cluster.run(&["--as", "bob", "unread"]).fails(78, "there is no key for bob");
    cluster.run(&["--as", "bob", "listen"]).fails(78, "there is no key for bob");
    std::fs::write(cluster.key("alice"), "nonsense").expect("written");
    cluster.run(&["--as", "alice", "unread"]).fails(78, "not a key file");
}

#[test]
fn a_new_user_is_told_what_to_do_next() {
    let cluster = Cluster::start(1);
    for arguments in [&["list"][..], &[], &["send", "--as", "alice", "bob", "x"]] {
        let mut command = cluster.command(arguments);
        command.env_remove("STABLECHAT_CLUSTER");
        let said = super::run::finish(command);
        said.fails(78, ".config/stablechat/cluster.toml does not exist");
        said.fails(78, "\n  export STABLECHAT_CLUSTER=\"$PWD/cluster.toml\"\n");
        said.fails(78, "\n  stablechatd init --dir demo --replica a=HOST:7400 ");
    }

    let said = cluster.run(&["unread"]);
    said.fails(2, "unread needs an account, and neither --as nor STABLECHAT_USER names one");
    said.fails(2, "to make one:\n  stablechat create NAME\n");
    cluster.run(&["listen", "--as", "bob"]).fails(78, "make it with: create bob");
    for name in ["bob", "alice"] {
        cluster.run(&["create", name]).says(&format!("created {name}\n"));
    }
    let said = cluster.run(&["send", "bob", "x"]);
    said.fails(2, "Your accounts on this machine: alice, bob. Either of:\n  stablechat send --as alice ...\n");
    said.fails(2, "\n  export STABLECHAT_USER=alice\n");
    cluster.pipe(&[], b"send bob x\n").fails(1, "begin with --as NAME, or with the line: connect NAME");
}

#[test]
fn a_wrong_cluster_or_version_is_reported_once_and_exits_78_if_all_replicas_have_one() {
    let cluster = Cluster::start(2);
    let theirs = ClusterName::parse("theirs").expect("a name");
    cluster.replicas[0].set(|manners| manners.closes = Some(CloseReason::WrongCluster { cluster: theirs }));
    let said = cluster.run(&["list"]);
    said.fails(77, "the replica a at 127.");
    assert_eq!(said.err.matches("it belongs to the cluster theirs").count(), 1, "{said:?}");
    let version = CloseReason::Version { version_min: 8, version_max: 9 };
    cluster.replicas[1].set(|manners| manners.closes = Some(version));
    cluster.run(&["list"]).fails(78, "it speaks versions 8 to 9");
}

#[test]
fn listen_shows_messages_as_they_come_and_ends_by_a_signal() {
    let cluster = Cluster::with_accounts(3, &["alice", "bob"]);
    cluster.run(&["--as", "alice", "send", "bob", "before"]);
    let listener = cluster.talk(&["--as", "bob", "listen"]);
    assert_eq!(listener.line(), "alice: before");
    cluster.run(&["--as", "alice", "send", "bob", "\x1b[31mred"]);
    assert_eq!(listener.line(), "alice: \u{241b}[31mred");
    // Every replica has pushed the message. They push it once more; it is shown once.
    cluster.replicas.iter().for_each(super::fake::Replica::push_all_again);
    cluster.run(&["--as", "alice", "send", "bob", "after"]);
    assert_eq!(listener.line(), "alice: after");
    wait_until("the messages are read", || cluster.replicas.iter().all(|replica| replica.state().unread() == 0));
    signal(listener.child.id(), "TERM");
    listener.end().says("");
    cluster.run(&["--as", "bob", "unread"]).says("");
}

#[test]
fn two_clients_of_one_account_both_get_messages() {
    let cluster = Cluster::with_accounts(2, &["alice", "bob"]);
    let listeners = [cluster.talk(&["--as", "bob", "listen"]), cluster.talk(&["--as", "bob", "listen"])];
    let mut number = 0;
    // Before both listen, a message could be read by the one before the other fetches it.
    wait_until("both listen", || cluster.replicas.iter().all(|replica| replica.state().listeners() == 2));
    for listener in listeners {
        number += 1;
        cluster.run(&["--as", "alice", "send", "bob", &number.to_string()]);
        for expected in 1..=number {
            assert_eq!(listener.line(), format!("alice: {expected}"));
        }
        signal(listener.child.id(), "INT");
        listener.end().says("");
    }
}
