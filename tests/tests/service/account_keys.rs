//! Accounts whose keys change, and keys that are tried without being an account's.

use stablechat_protocol::answer::{Answer, QueryAnswer, Rejection};
use stablechat_protocol::command::{Command as ChatCommand, Query};
use stablechat_protocol::login::LoginRefusal;
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_tests::cluster::Cluster;
use stablechat_tests::process::{built, run_to_end};
use stablechat_tests::raw::{RawClient, create_accounts, send_message};
use stablechat_tests::session::{Person, account, send};
use stablechat_tests::wait::{SOON, wait_until};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

const DELIVERY_BOUND: Duration = Duration::from_millis(200);

fn logged_in(cluster: &Cluster, replica: &str, person: &Person) -> RawClient {
    let mut client = cluster.greet(replica);
    client.login(person, true);
    client
}

/// Waits until the applier has answered. It tells the poll loop about a wrong key before that.
fn await_applier(client: &mut RawClient) {
    client.send(&ToReplica::Status).expect("the connection stands");
    client.receive_other();
}

fn unread(client: &mut RawClient) -> QueryAnswer {
    client.ask(Query::Inbox { all: false, after: None, limit: 10 })
}

#[test]
fn a_new_key_ends_the_logins_with_the_earlier_one() {
    let (alice, bob) = (Person::new("alice"), Person::new("bob"));
    let renewed = Person::new("alice");
    let cluster = Cluster::start(&["a", "b"], DELIVERY_BOUND);
    cluster.wait_until_same(SOON);
    create_accounts(&mut cluster.greet("a"), &[&alice, &bob]);
    let mut clients = ["a", "a", "b"].map(|replica| logged_in(&cluster, replica, &alice));
    let mut bob_client = logged_in(&cluster, "b", &bob);

    let key = renewed.secret.public();
    assert_eq!(clients[0].call(ChatCommand::SetKey { key }), Answer::Done);
    for client in &mut clients {
        let told = client.receive_other();
        assert_eq!(told, ToClient::LoggedOut { account: account("alice"), key: alice.secret.public() });
        let not_owner = Rejection::NotOwner { name: account("alice") };
        assert_eq!(unread(client), QueryAnswer::Rejected { reason: not_owner.clone() });
        assert_eq!(client.call(send("bob", "x")), Answer::Rejected { reason: not_owner });
    }
    // A client that was not told that it is done may ask for it again.
    assert_eq!(clients[2].call(ChatCommand::SetKey { key }), Answer::Done);

    clients[1].login(&renewed, true);
    send_message(&mut bob_client, "alice", "for the owner");
    assert_eq!(clients[1].delivery().text.as_str(), "for the owner");
    let QueryAnswer::Rejected { .. } = unread(&mut clients[0]) else { panic!("the earlier key opens the mailbox") };
    assert_eq!([clients[0].delivered(), clients[2].delivered()], [0, 0], "and has got the message");

    // A deleted account has no logins either.
    let mut other = logged_in(&cluster, "b", &renewed);
    assert_eq!(clients[1].call(ChatCommand::Delete), Answer::Done);
    assert!(matches!(other.receive_other(), ToClient::LoggedOut { .. }));
}

#[test]
fn a_listener_goes_on_with_the_new_key_or_is_told_that_there_is_one() {
    let home = tempfile::tempdir().expect("a directory");
    let password = home.path().join("password");
    std::fs::write(&password, "correct horse battery staple\n").expect("written");
    let cluster = Cluster::start(&["a", "b"], DELIVERY_BOUND);
    cluster.wait_until_same(SOON);
    let command = |keys: &str, arguments: &[&str]| {
        let mut command = Command::new(built("stablechat"));
        command.env_clear().env("STABLECHAT_CLUSTER", cluster.file()).env("STABLECHAT_KEYS", home.path().join(keys));
        command.env("STABLECHAT_USER", "alice").args(arguments);
        command
    };
    let password = ["--password-file", password.to_str().expect("UTF-8")];
    let done = |command: Command| assert_eq!(run_to_end(command).status.code(), Some(0));
    done(command("keys", &[&password[..], &["create", "alice"]].concat()));

    let listen = |mut listener: Command| {
        let mut child =
            listener.arg("listen").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let (sender, heard) = channel();
        std::thread::spawn(move || lines.for_each(|line| drop(sender.send(line.expect("UTF-8")))));
        // A listener hears the next message after its login. An earlier one may be acknowledged by another listener.
        wait_until("it listens", SOON, || {
            done(command("keys", &["send", "alice", "is anybody there?"]));
            heard.recv_timeout(Duration::from_millis(200)).is_ok()
        });
        (child, heard)
    };
    let (elsewhere, _heard) = listen(command("no-keys", &password));
    let (mut here, heard) = listen(command("keys", &[]));

    done(command("keys", &["key", "rotate"]));
    let told = elsewhere.wait_with_output().expect("it ends");
    let said = String::from_utf8(told.stderr).expect("UTF-8");
    assert_eq!((told.status.code(), said.lines().count()), (Some(77), 1), "{said}");
    assert!(said.contains("alice has got another key, or was deleted"), "{said}");
    done(command("keys", &["send", "alice", "after"]));
    wait_until("the last message", SOON, || heard.recv_timeout(SOON).expect("a message").ends_with("alice: after"));
    here.kill().and_then(|()| here.wait()).expect("it was running");

    // Somebody at this address guesses. The owner beside them is told when to try again, whatever it is that they want.
    for replica in ["a", "b"] {
        let mut client = cluster.greet(replica);
        wait_until("too many keys were tried", SOON, || {
            client.send(&client.login_message(&Person::new("alice"), false)).expect("the connection stands");
            let is_refused = matches!(client.receive(), ToClient::LoginRefused { .. });
            await_applier(&mut client);
            is_refused
        });
    }
    for arguments in [&["send", "alice", "x"][..], &["unread"], &["key", "rotate"]] {
        let said = run_to_end(command("keys", arguments));
        let fault = String::from_utf8(said.stderr).expect("UTF-8");
        assert_eq!((said.status.code(), fault.lines().count()), (Some(77), 1), "{arguments:?} {fault}");
        assert!(fault.contains("try again in "), "{arguments:?} {fault}");
    }
}

#[test]
fn keys_that_are_not_the_accounts_are_tried_slowly_and_the_owner_does_not_notice() {
    let (alice, bob) = (Person::new("alice"), Person::new("bob"));
    let cluster = Cluster::start(&["a"], DELIVERY_BOUND);
    create_accounts(&mut cluster.greet("a"), &[&alice, &bob]);
    let mut owner = cluster.greet_from("a", [127, 0, 0, 9]);
    owner.login(&alice, true);

    let mut client = cluster.greet("a");
    let mut answers = Vec::new();
    for _ in 0..60 {
        client.send(&client.login_message(&Person::new("alice"), false)).expect("the connection stands");
        answers.push(client.receive());
        await_applier(&mut client);
    }
    let tried = answers.iter().filter(|answer| matches!(answer, ToClient::LoggedIn { .. })).count();
    assert!((20..=21).contains(&tried), "{tried} keys were tried");
    let refused = answers.last().expect("60 of them");
    let ToClient::LoginRefused { reason: LoginRefusal::TooManyKeys { wait_ms }, .. } = refused else {
        panic!("{refused:?}")
    };
    assert!((1..=30_000).contains(wait_ms), "{wait_ms} ms");

    // Another account of this address, and this account from another address.
    client.login(&bob, false);
    assert_eq!(client.call(send("alice", "hello")), Answer::Done);
    assert_eq!(owner.delivery().text.as_str(), "hello");
    let mut again = cluster.greet_from("a", [127, 0, 0, 9]);
    again.login(&alice, false);
    assert_eq!(again.unread().len(), 1);
}
