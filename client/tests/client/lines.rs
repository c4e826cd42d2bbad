//! The client as a filter: standard input of every kind, good and bad lines.

use super::run::{Cluster, wait_until};
use serde_json::{Value, json};
use std::process::Stdio;

#[test]
fn standard_input_may_be_a_pipe_a_file_nothing_or_closed() {
    let cluster = Cluster::with_accounts(2, &["alice"]);
    cluster.pipe(&["--as", "alice"], b"list").says("alice\n");
    cluster.read(&["--as", "alice"], b"list\nlist").says("alice\nalice\n");
    cluster.read(&[], b"").says("");
    cluster.run(&[]).says("");
    cluster.pipe(&[], b"").says("");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "exec \"$0\" <&-", env!("CARGO_BIN_EXE_stablechat")]);
    command.env("STABLECHAT_CLUSTER", cluster.path("cluster.toml")).env("STABLECHAT_KEYS", cluster.path("keys"));
    super::run::finish(command).says("");
}

#[test]
fn a_conversation_over_a_pipe_is_answered_line_by_line() {
    let cluster = Cluster::start(3);
    let mut talk = cluster.talk(&[]);
    for (line, expected) in [
        ("create alice", "created alice"),
        ("create bob", "created bob"),
        ("connect alice", "connected as alice"),
        ("send bob 1", "sent to bob"),
        ("connect bob", "connected as bob"),
        ("send bob 2", "alice: 1"),
        ("", "sent to bob"),
        ("", "bob: 2"),
        ("history alice", "alice -> bob: 1"),
        ("delete alice", "deleted alice; what it has sent stays with those it was sent to"),
        ("list", "bob"),
        ("delete bob", "deleted bob; what it has sent stays with those it was sent to"),
    ] {
        talk.type_line(line);
        let got = talk.line();
        // A push may come before or after the answer to the send that caused it.
        assert!(got == expected || (line.is_empty() || line == "send bob 2"), "{line:?}: {got:?} is not {expected:?}");
    }
    talk.type_line("send bob 3");
    let said = talk.end();
    said.fails(1, "you are not connected as anyone");
}

#[test]
fn bad_lines_are_reported_by_number_and_the_rest_is_done() {
    let cluster = Cluster::with_accounts(2, &["alice", "bob"]);
    let mut input = b"dance\n\n  \nsend nobody x\nsend bob \n\xff\xfe\nsend bob  kept, \"as typed\"  \n".to_vec();
    input.extend([b'x'; 70_000]);
    input.extend(b"\nsend Bob x\nlist a*");
    let said = cluster.pipe(&["--as", "alice"], &input);
    assert_eq!((said.out.as_str(), said.code), ("sent to bob\nalice\n", 1));
    let expected = [
        "line 1: there is no verb \"dance\"; help shows those there are",
        "line 4: there is no account nobody",
        "line 5: the text is empty; a message has 1 to 4096 bytes",
        "line 6: the line is not UTF-8",
        "line 8: the line is longer than 65536 bytes",
        "line 9: the name \"Bob\" has a character",
    ];
    assert_eq!(said.err.lines().count(), expected.len(), "{said:?}");
    for (line, expected) in said.err.lines().zip(expected) {
        assert!(line.starts_with(&format!("stablechat: {expected}")), "{line:?} is not {expected:?}");
    }
    cluster.has_got(&[" kept, \"as typed\"  "]);
}

#[test]
fn failures_of_lines_are_json_objects_too() {
    let cluster = Cluster::with_accounts(1, &["alice"]);
    let said = cluster.pipe(&["--json", "--as", "alice"], b"send alice x\nsend bob x\n");
    let objects: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let expected = json!({"type": "error", "line": 2, "verb": "send", "message": "there is no account bob", "code": 1,
        "replica": "a"});
    assert!(objects.contains(&expected), "{said:?}");
    assert!(objects.iter().any(|object| object["type"] == "sent"), "{said:?}");
    said.fails(1, "line 2: there is no account bob");
}

#[test]
fn results_come_in_the_order_of_the_lines_and_queries_see_earlier_sends() {
    let cluster = Cluster::with_accounts(3, &["alice", "bob"]);
    let said = cluster.pipe(&["--as", "alice"], b"send bob 1\nhistory bob\nsend bob 2\nlist a*\nhistory bob 1\n");
    let expected = ["sent to bob", "alice -> bob: 1", "sent to bob", "alice", "alice -> bob: 2"];
    assert_eq!((said.texts(), said.code), (expected.to_vec(), 0));
    for replica in &cluster.replicas {
        assert!(replica.state().timestamps.is_sorted(), "timestamps increase with the lines");
    }
}

#[test]
fn lines_after_quit_are_not_done() {
    let cluster = Cluster::with_accounts(1, &["alice"]);
    cluster.pipe(&["--as", "alice"], b"send alice x\nquit\nsend alice y\n").fails(0, "");
    assert_eq!(cluster.replicas[0].state().sent, ["x"]);
}

#[test]
fn connecting_as_somebody_else_is_fatal_at_the_start_and_not_later() {
    let cluster = Cluster::with_accounts(1, &["alice", "carol"]);
    cluster.pipe(&["--as", "bob"], b"list\n").fails(78, "there is no key for bob");
    let said = cluster.pipe(&["--as", "alice"], b"connect bob\nsend carol x\n");
    said.fails(1, "line 1: there is no key for bob");
    assert_eq!(said.out, "sent to carol\n");
}

#[test]
fn ten_thousand_lines_arrive_once_and_in_order() {
    let cluster = Cluster::with_accounts(3, &["alice", "bob"]);
    let lines: String = (0..10_000).map(|number| format!("send bob {number}\n")).collect();
    let expected: Vec<String> = (0..10_000).map(|number| number.to_string()).collect();
    let listener = cluster.talk(&["--as", "bob", "listen"]);
    wait_until("it listens", || cluster.replicas.iter().all(|replica| replica.state().listeners() == 1));
    cluster.pipe(&["--as", "alice"], lines.as_bytes()).says(&"sent to bob\n".repeat(10_000));
    cluster.has_got(&expected);
    for number in expected {
        assert_eq!(listener.line(), format!("alice: {number}"));
    }
    super::run::signal(listener.child.id(), "TERM");
    listener.end().says("");
}

#[test]
fn a_slow_reader_of_results_does_not_lose_any() {
    let cluster = Cluster::with_accounts(1, &["alice"]);
    let mut command = cluster.command(&[]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the client starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        stdin.write_all("help\n".repeat(2000).as_bytes()).expect("the client reads");
    });
    let mut reader = std::io::BufReader::with_capacity(64, child.stdout.take().expect("a pipe"));
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).expect("UTF-8");
    writer.join().expect("it does not panic");
    assert_eq!(text, (stablechat_client::cli::verb::HELP.to_string() + "\n").repeat(2000));
    assert!(child.wait().expect("it ends").success());
}
