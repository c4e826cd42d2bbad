//! `status`, and the remark about an answer that has changed.

use super::run::{Cluster, run_within, wait_until};
use serde_json::{Value, json};
use stablechat_protocol::answer::{Answer, Rejection};
use stablechat_protocol::name::AccountName;
use std::time::Duration;

/// How long `status` waits for a replica that is connected and does not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn replicas_that_serve_and_are_the_same_exit_0() {
    let cluster = Cluster::with_accounts(3, &["alice", "bob"]);
    cluster.run(&["--as", "alice", "send", "bob", "x"]);
    let said = cluster.run(&["status"]);
    assert!(said.code == 0 && said.err.is_empty() && said.out.contains("\nstate: same, as of "), "{said:?}");
    let rows: Vec<&str> = said.out.lines().collect();
    assert!(rows.len() == 11 && rows[1].starts_with("a        serving ") && rows[1].contains(" d1d1d1d1 "), "{said:?}");
    assert!(rows.iter().all(|row| row.chars().count() <= 80), "{said:?}");
}

#[test]
fn a_replica_that_is_not_in_reach_is_listed_and_exits_1() {
    let cluster = Cluster::start(3);
    cluster.replicas[1].kill();
    let said = run_within(ANSWER_TIMEOUT, || cluster.run(&["status"]));
    assert!(said.code == 1 && said.out.contains("\nb        not in reach\nc        serving"), "{said:?}");
    assert!(said.out.contains("\nstate: same at the 2 of 3 that serve, as of "), "{said:?}");
    // A replica that hangs is waited for, but not for long.
    cluster.replicas[0].set(|manners| manners.hangs = true);
    let said = cluster.run(&["--json", "status"]);
    cluster.replicas[0].set(|manners| manners.hangs = false);
    let objects = objects(&said.out);
    assert_eq!((said.code, objects.len()), (1, 4), "{said:?}");
    assert_eq!(objects[0], json!({"type": "status", "replica": "a", "in_reach": false}));
    assert_eq!((&objects[2]["replica"], &objects[2]["status"]), (&json!("c"), &json!("serving")));
    let (verdict, detail) = (&objects[3], "only c serves, and there is none to compare it with");
    let expected = json!({"type": "verdict", "state": "unknown", "serving": 1, "replicas": 3, "detail": detail});
    assert_eq!(*verdict, expected);
}

#[test]
fn replicas_that_differ_or_do_not_serve_exit_1() {
    let cluster = Cluster::start(2);
    cluster.replicas[1].set(|manners| manners.state = 9);
    let said = cluster.run(&["status"]);
    assert!(said.code == 1 && said.out.contains("\nstate: different: a and b have come to different"), "{said:?}");
    cluster.replicas[1].set(|manners| manners.is_stopping = true);
    let said = cluster.run(&["status"]);
    assert!(said.code == 1 && said.out.contains("\nstate: unknown: only a serves"), "{said:?}");
}

#[test]
fn no_replica_in_reach_exits_69() {
    let cluster = Cluster::start(2);
    cluster.replicas.iter().for_each(super::fake::Replica::kill);
    let said = cluster.run(&["status"]);
    assert!(said.code == 69 && said.out.ends_with("state: unknown: no replica is in reach\n"), "{said:?}");
}

#[test]
fn status_may_be_a_line_among_others() {
    let cluster = Cluster::with_accounts(2, &["alice"]);
    let said = cluster.pipe(&["--as", "alice"], b"status\nsend alice x\nstatus\nsend alice y\n");
    let verdicts = said.out.lines().filter(|line| line.starts_with("state: ")).count();
    let sent = said.out.lines().filter(|line| *line == "sent to alice").count();
    assert_eq!((said.code, verdicts, sent), (0, 2, 2), "{said:?}");
}

#[test]
fn a_changed_answer_is_reported_once() {
    let gone = Answer::Rejected { reason: Rejection::NoSuchUser { name: AccountName::parse("bob").expect("a name") } };
    for json in [false, true] {
        let cluster = Cluster::with_accounts(2, &["alice", "bob"]);
        let options: &[&str] = if json { &["--json", "--as", "alice"] } else { &["--as", "alice"] };
        let mut talk = cluster.talk(options);
        talk.type_line("send bob hello");
        talk.line();
        wait_until("both replicas have applied the send", || {
            cluster.replicas.iter().all(|replica| replica.state().sent.len() == 1)
        });
        // Each replica reports its status after its answer to the send, which must be received before it changes.
        talk.type_line("status");
        let is_verdict = |line: &str| line.starts_with("state: ") || line.contains("\"type\":\"verdict\"");
        while !is_verdict(&talk.line()) {}
        cluster.replicas.iter().for_each(|replica| replica.change_answers(&gone));
        // The next reports arrive after the changes, which were sent on the same connections.
        talk.type_line("status");
        let said = talk.end();
        let remark = "the answer to send bob \"hello\" changed: it was done, it is rejected: there is no account bob\n";
        assert_eq!(said.err, format!("stablechat: {remark}"));
        if json {
            let changed = objects(&said.out).into_iter().find(|object| object["type"] == "changed").expect("a result");
            assert_eq!((&changed["verb"], &changed["sequence"]), (&json!("send"), &json!(1)));
            assert_eq!(
                (&changed["before"], &changed["after"]),
                (&json!("done"), &json!("rejected: there is no account bob"))
            );
        }
    }
}
