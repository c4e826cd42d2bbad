//! Rooms, several devices, and the receivers of messages.

use crate::people::{DELIVERY_BOUND, logged_in, read, rejected, with_accounts};
use rustix::process::Signal;
use stablechat_protocol::answer::{Answer, QueryAnswer, Rejection};
use stablechat_protocol::command::{Command, Query};
use stablechat_protocol::conversation::{Conversation, ReadRange};
use stablechat_protocol::message::ToClient;
use stablechat_protocol::room::{RoomAction, RoomName};
use stablechat_protocol::uid::Uid;
use stablechat_tests::cluster::Cluster;
use stablechat_tests::process::{built, run_to_end};
use stablechat_tests::raw::{RawClient, send_message};
use stablechat_tests::session::{Person, conversation, send};
use stablechat_tests::wait::SOON;
use std::process::Command as Process;

fn room_name(name: &str) -> RoomName {
    RoomName::parse(name).expect("a name by the rules")
}

fn act(client: &mut RawClient, room: &str, action: RoomAction) -> Answer {
    client.call(Command::Room { room: room_name(room), action })
}

/// The texts that were delivered by the time at which the replica answers.
fn delivered(client: &mut RawClient) -> Vec<String> {
    client.ping();
    (0..client.delivered()).map(|_| client.delivery().text.as_str().to_string()).collect()
}

#[test]
fn a_room_reaches_its_members_as_long_as_they_are() {
    let (ann, bob, cid) = (Person::new("ann"), Person::new("bob"), Person::new("cid"));
    let (cluster, [mut ann_client, mut bob_client, mut cid_client]) = with_accounts([&ann, &bob, &cid]);
    assert_eq!(act(&mut ann_client, "#ops", RoomAction::Create { is_private: false }), Answer::Done);
    assert_eq!(act(&mut bob_client, "#ops", RoomAction::Join), Answer::Done);
    assert_eq!((ann_client.news().by, ann_client.news().action), (ann.account.clone(), RoomAction::Join));
    // A device that logs in later knows its rooms, too.
    let mut second = logged_in(&cluster, &bob);

    send_message(&mut ann_client, "#ops", "to members");
    for client in [&mut bob_client, &mut second] {
        let message = client.delivery();
        assert_eq!((message.to, message.position), (conversation("#ops"), 1));
    }
    assert_eq!(delivered(&mut cid_client), [""; 0]);
    let no_member = rejected(Rejection::NotAMember { room: room_name("#ops") });
    assert_eq!(cid_client.call(send("#ops", "from outside")), no_member);

    assert_eq!(act(&mut cid_client, "#ops", RoomAction::Join), Answer::Done);
    assert_eq!(act(&mut ann_client, "#ops", RoomAction::Remove { name: bob.account.clone() }), Answer::Done);
    send_message(&mut ann_client, "#ops", "without bob");
    assert_eq!(delivered(&mut cid_client), ["without bob"]);
    assert_eq!((delivered(&mut bob_client), delivered(&mut second)), (vec![], vec![]));
    assert_eq!(bob_client.call(send("#ops", "still here")), no_member);

    assert_eq!(act(&mut ann_client, "#ops", RoomAction::Close), Answer::Done);
    let gone = rejected(Rejection::NoSuchRoom { room: room_name("#ops") });
    assert_eq!(cid_client.call(send("#ops", "under way")), gone);
    assert_eq!(act(&mut ann_client, "#ops", RoomAction::Create { is_private: false }), Answer::Done);
    send_message(&mut ann_client, "#ops", "in another room of the name");
    assert_eq!(delivered(&mut cid_client), [""; 0]);
}

#[test]
fn a_private_room_is_told_to_those_who_are_invited() {
    let (ann, bob) = (Person::new("ann"), Person::new("bob"));
    let (_cluster, [mut ann_client, mut bob_client]) = with_accounts([&ann, &bob]);
    assert_eq!(act(&mut ann_client, "#plans", RoomAction::Create { is_private: true }), Answer::Done);
    send_message(&mut ann_client, "#plans", "before bob");
    let unknown = rejected(Rejection::NoSuchRoom { room: room_name("#plans") });
    assert_eq!(act(&mut bob_client, "#plans", RoomAction::Join), unknown);
    assert_eq!(bob_client.call(send("#plans", "x")), unknown);
    bob_client.ping();
    assert_eq!((bob_client.delivered(), bob_client.news_left()), (0, 0));

    let invite = RoomAction::Invite { name: bob.account.clone() };
    assert_eq!(act(&mut ann_client, "#plans", invite.clone()), Answer::Done);
    let news = bob_client.news();
    assert_eq!((news.room, news.by, news.action), (room_name("#plans"), ann.account.clone(), invite));
    assert_eq!(act(&mut bob_client, "#plans", RoomAction::Join), Answer::Done);
    send_message(&mut ann_client, "#plans", "welcome");
    assert_eq!(bob_client.delivery().text.as_str(), "welcome");
    let texts: Vec<String> = bob_client.timeline("#plans").iter().map(|message| message.text.to_string()).collect();
    assert_eq!(texts, ["welcome"]);
}

#[test]
fn what_one_device_has_read_is_read_on_all() {
    let (ann, bob) = (Person::new("ann"), Person::new("bob"));
    let (cluster, [mut ann_client, mut phone]) = with_accounts([&ann, &bob]);
    send_message(&mut ann_client, "bob", "one");
    send_message(&mut ann_client, "bob", "two");
    let shown = [phone.delivery().uid, phone.delivery().uid];
    assert_eq!(phone.call(read("ann", &shown)), Answer::Done);
    // An answer from there is shown here, and is read by then.
    send_message(&mut phone, "ann", "an answer");
    let mut laptop = logged_in(&cluster, &bob);
    assert_eq!(laptop.unread(), []);
    assert_eq!(laptop.timeline("ann").len(), 3);

    send_message(&mut ann_client, "bob", "three");
    assert_eq!((phone.delivery().text.as_str(), laptop.delivery().text.as_str()), ("three", "three"));
    let missed = laptop.unread();
    assert_eq!(missed.len(), 1);
    // Both read it.
    let uids = [missed[0].uid];
    assert_eq!((laptop.call(read("ann", &uids)), phone.call(read("ann", &uids))), (Answer::Done, Answer::Done));
    assert_eq!(phone.unread(), []);
}

/// A program that sends and never reads: its messages stay unread with earlier ones of others, and make no ranges.
#[test]
fn a_program_that_only_sends_is_never_refused() {
    let (ann, bot) = (Person::new("ann"), Person::new("bot"));
    let (_cluster, [mut ann_client, mut bot_client]) = with_accounts([&ann, &bot]);
    assert_eq!(act(&mut ann_client, "#ops", RoomAction::Create { is_private: false }), Answer::Done);
    assert_eq!(act(&mut bot_client, "#ops", RoomAction::Join), Answer::Done);
    send_message(&mut ann_client, "#ops", "hello");
    for number in 0..200 {
        send_message(&mut ann_client, "#ops", "busy");
        send_message(&mut bot_client, "#ops", format!("report {number}"));
    }
    let QueryAnswer::Inbox { entries, .. } = bot_client.ask(Query::Inbox { all: false, after: None, limit: 10 }) else {
        panic!("no inbox")
    };
    assert_eq!((entries[0].conversation.clone(), entries[0].unread), (conversation("#ops"), 401));
    let uids: Vec<Uid> = bot_client.timeline("#ops").iter().map(|message| message.uid).collect();
    assert_eq!(bot_client.call(read("#ops", &uids)), Answer::Done);
    assert_eq!(bot_client.unread(), []);
}

#[test]
fn a_bot_gets_messages_again_from_the_one_on_whose_command_has_failed() {
    let cluster = Cluster::start(&["a"], DELIVERY_BOUND);
    let run = |arguments: &[&str]| {
        let output = run_to_end(cluster.client(arguments));
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let done = |arguments: &[&str]| assert_eq!(run(arguments).0, Some(0), "{arguments:?}");
    done(&["create", "ann"]);
    done(&["create", "bot"]);
    done(&["room", "create", "#ops", "--as", "ann"]);
    done(&["join", "#ops", "--as", "bot"]);
    for text in ["one", "two", "three", "four"] {
        done(&["send", "#ops", text, "--as", "ann"]);
    }
    let listen = |command| run(&["listen", "#ops", "--once", "--exec", command, "--as", "bot"]);
    let (code, said) = listen("read text; echo $text; test $text != three");
    assert_eq!((code, said.as_str()), (Some(1), "one\ntwo\nthree\n"));
    assert_eq!(listen("cat; echo"), (Some(0), "three\n\nfour\n\n".into()));
    assert_eq!(listen("cat"), (Some(0), String::new()));
    assert_eq!(run(&["listen", "#tpyo", "--as", "bot"]).0, Some(1), "it would wait for ever");
}

#[test]
fn an_account_that_is_deleted_leaves_its_rooms_and_what_it_has_said() {
    let (ann, bob) = (Person::new("ann"), Person::new("bob"));
    let (_cluster, [mut ann_client, mut bob_client]) = with_accounts([&ann, &bob]);
    assert_eq!(act(&mut ann_client, "#ops", RoomAction::Create { is_private: false }), Answer::Done);
    assert_eq!(act(&mut bob_client, "#ops", RoomAction::Join), Answer::Done);
    send_message(&mut ann_client, "#ops", "in the room");
    send_message(&mut ann_client, "bob", "between us");
    assert_eq!(ann_client.call(Command::Delete), Answer::Done);
    assert!(matches!(ann_client.receive_other(), ToClient::LoggedOut { .. }));

    let topic = RoomAction::SetTopic { topic: "bob's".parse().expect("a topic") };
    assert_eq!(act(&mut bob_client, "#ops", topic), Answer::Done, "he owns it");
    assert_eq!(bob_client.timeline("#ops").len(), 1);
    let unread = bob_client.unread();
    assert_eq!(unread.iter().map(|message| message.text.as_str()).collect::<Vec<_>>(), ["in the room", "between us"]);
    let QueryAnswer::Inbox { entries, .. } = bob_client.ask(Query::Inbox { all: true, after: None, limit: 10 }) else {
        panic!("no inbox")
    };
    let former = entries
        .into_iter()
        .map(|entry| entry.conversation)
        .find(|conversation| matches!(conversation, Conversation::Former { name, .. } if *name == ann.account));
    let range = ReadRange::of(&[unread[1].uid]).expect("one");
    let conversation = former.expect("the conversation with her is there");
    assert_eq!(bob_client.call(Command::Read { conversation, range }), Answer::Done);
    assert_eq!(bob_client.unread().len(), 1);
}

#[test]
fn a_room_goes_on_when_two_of_three_replicas_are_dead() {
    const NAMES: [&str; 3] = ["a", "b", "c"];
    let mut cluster = Cluster::start(&NAMES, DELIVERY_BOUND);
    cluster.wait_until_same(SOON);
    let (file, keys) = (cluster.file(), cluster.path().join("people"));
    let run = |line: &str| {
        let mut command = Process::new(built("stablechat"));
        command.env_clear().env("STABLECHAT_CLUSTER", &file).env("STABLECHAT_KEYS", &keys);
        command.args(line.split(' '));
        let output = run_to_end(command);
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().expect("it was not killed"), String::from_utf8(said).expect("UTF-8"))
    };
    let says = |line: &str, expected: &str| {
        let (code, said) = run(line);
        // Times differ.
        let said: String = said
            .lines()
            .map(|line| line.split_once("] ").map_or(line, |(_, rest)| rest))
            .collect::<Vec<_>>()
            .join("\n");
        assert_eq!((code, &*said), (0, expected), "{line}");
    };
    for name in ["ann", "bob", "cid"] {
        says(&format!("create {name}"), &format!("created {name}"));
    }
    says("room create #ops --as ann", "created #ops");
    says("join ops --as bob", "joined #ops");
    says("topic ops what runs --as ann", "the topic of #ops is: what runs");
    says("rooms --as cid", "#ops (2 members, of ann): what runs");
    assert_eq!(run("send --as cid #ops hello"), (1, "stablechat: you are no member of #ops; join it first\n".into()));

    cluster.program("b").signal(Signal::KILL);
    cluster.program("c").signal(Signal::KILL);
    says("send --as ann #ops two are dead", "sent to #ops");
    says("inbox --as bob", "#ops: 1 unread");
    says("listen --as bob --once", "#ops ann: two are dead");
    says("inbox --as bob", "");
    says("send --as bob #ops noted", "sent to #ops");
    says("history #ops --as ann", "ann -> #ops: two are dead\nbob -> #ops: noted");
    says("members ops --as ann", "ann\nbob");
    says("leave ops --as ann", "left #ops");
    says("rooms --as bob", "#ops (1 member, of bob, you are a member): what runs");
    says("block cid --as bob", "cid is blocked");
    assert_eq!(run("send --as cid bob hello").0, 1);
    says("unblock cid --as bob", "cid is not blocked");
    says("send --as cid bob hello", "sent to bob");
    says("inbox --as bob", "cid: 1 unread, not answered yet");
}
