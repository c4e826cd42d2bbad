//! What the service does for clients that keep to the protocol: accounts, messages, reads, sessions.

use crate::people::{DELIVERY_BOUND, logged_in, read, rejected, with_accounts};
use stablechat_client::session::AnswerKind;
use stablechat_protocol::answer::{Answer, QueryAnswer, Refusal, Rejection};
use stablechat_protocol::command::{Command, PAGE_BYTES, Query};
use stablechat_protocol::conversation::{Message, Page};
use stablechat_protocol::login::LoginProof;
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::name::Pattern;
use stablechat_protocol::request::Actor;
use stablechat_protocol::session::WINDOW;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use stablechat_tests::cluster::Cluster;
use stablechat_tests::pipeline::Pipeline;
use stablechat_tests::raw::{Answered, RawClient, create_accounts, send_message};
use stablechat_tests::session::{Person, Session, account, conversation, send, stamp_ahead, wall_clock};
use std::time::Duration;

fn history(with: &str, page: Page, limit: u16) -> Query {
    Query::History { conversation: conversation(with), page, limit }
}

fn texts<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Vec<&'a str> {
    messages.into_iter().map(|message| message.text.as_str()).collect()
}

#[test]
fn only_its_owner_speaks_for_an_account() {
    let (alice, bob) = (Person::new("alice"), Person::new("bob"));
    let (cluster, [mut alice_client, mut bob_client]) = with_accounts([&alice, &bob]);
    send_message(&mut bob_client, "alice", "for alice only");
    assert_eq!(alice_client.delivery().text.as_str(), "for alice only");

    // Mallory's key signs, which proves that key and nothing about the account.
    let impostor = Person::new("alice");
    let mut client = logged_in(&cluster, &impostor);
    let not_owner = || Rejection::NotOwner { name: account("alice") };
    for command in [send("bob", "as alice"), Command::Delete, read("bob", &[Uid::MAX.before()])] {
        assert_eq!(client.call(command), rejected(not_owner()));
    }
    let history = || history("bob", Page::Latest, 10);
    for query in [Query::Inbox { all: false, after: None, limit: 10 }, history()] {
        assert_eq!(client.ask(query), QueryAnswer::Rejected { reason: not_owner() });
    }

    // Without a login.
    let mut client = cluster.greet("a");
    for command in [send("bob", "as nobody"), Command::Delete, read("bob", &[Uid::MAX.before()])] {
        assert_eq!(client.call(command), rejected(Rejection::LoginRequired));
    }
    assert_eq!(client.ask(history()), QueryAnswer::Rejected { reason: Rejection::LoginRequired });

    // An account that is not there.
    let mut client = logged_in(&cluster, &Person::new("nobody"));
    assert_eq!(client.call(send("bob", "x")), rejected(Rejection::NotOwner { name: account("nobody") }));

    send_message(&mut bob_client, "alice", "still for alice only");
    assert_eq!(alice_client.delivery().text.as_str(), "still for alice only");
    assert_eq!(texts(&alice_client.unread()), ["for alice only", "still for alice only"]);
    assert_eq!(bob_client.unread(), []);
}

#[test]
fn a_login_needs_a_signature_of_this_connection() {
    let (alice, bob) = (Person::new("alice"), Person::new("bob"));
    let (cluster, [_, mut bob_client]) = with_accounts([&alice, &bob]);
    let overheard = cluster.greet("a").login_message(&alice, true);
    let forged = |client: &RawClient, change: &dyn Fn(&mut LoginProof)| {
        let mut message = client.login_message(&alice, true);
        if let ToReplica::Login { proof, .. } = &mut message {
            change(proof);
        }
        message
    };
    let mut client = cluster.greet("a");
    let flipped = forged(&client, &|LoginProof::Signature { signature }| signature.0[5] ^= 1);
    let empty = forged(&client, &|LoginProof::Signature { signature }| signature.0 = [0; 64]);
    // The signature is for alice; the name on it is changed.
    let mut renamed = forged(&client, &|_| {});
    if let ToReplica::Login { account: name, .. } = &mut renamed {
        *name = account("bob");
    }
    for attempt in [&flipped, &empty, &overheard, &renamed] {
        // A failed login ends the login before it.
        client.login(&alice, true);
        client.send(attempt).expect("the connection stands");
        assert!(matches!(client.receive(), ToClient::LoginRefused { .. }), "{attempt:?}");
        client.send(&Session::default().next(send("bob", "x"))).expect("the connection stands");
        assert!(matches!(client.receive(), ToClient::Refused { reason: Refusal::LoginRefused, .. }));
    }
    client.login(&alice, true);
    client.send(&ToReplica::Logout).expect("the connection stands");
    assert_eq!(client.attempt(&Session::default(), 1, &send("bob", "x")), rejected(Rejection::LoginRequired));

    // After a logout the connection gets no messages.
    send_message(&mut bob_client, "alice", "too late");
    client.ping();
    assert_eq!(client.delivered(), 0);
}

#[test]
fn names_are_taken_and_recipients_have_to_exist() {
    let alice = Person::new("alice");
    let (_cluster, [mut client]) = with_accounts([&alice]);
    let taken = Rejection::AlreadyExists { name: account("alice") };
    assert_eq!(client.call(Person::new("alice").create()), rejected(taken.clone()));
    assert_eq!(client.call(alice.create()), rejected(taken));
    assert_eq!(client.call(send("bob", "x")), rejected(Rejection::NoSuchUser { name: account("bob") }));
    let history = history("bob", Page::Latest, 1);
    let missing = Rejection::NoSuchUser { name: account("bob") };
    assert_eq!(client.ask(history), QueryAnswer::Rejected { reason: missing });
}

#[test]
fn texts_are_kept_as_they_are() {
    let alice = Person::new("alice");
    let (_cluster, [mut client]) = with_accounts([&alice]);
    let longest = "\u{1f600}".repeat(1024);
    let kept = [" ", "  a,  \"b\"\t ", "\u{1b}[2J\u{7}\0\r\n\u{202e}", "e\u{301} \u{e9}", &longest];
    for text in kept {
        send_message(&mut client, "alice", text);
        assert_eq!(client.delivery().text.as_str(), text);
    }
    assert_eq!(texts(&client.timeline("alice")), kept);
}

#[test]
fn timestamps_far_from_the_clock_are_refused_with_the_clock() {
    let alice = Person::new("alice");
    let (_cluster, [mut client]) = with_accounts([&alice]);
    let hour = Duration::from_secs(3600);
    let cases = [
        (Timestamp::ZERO, Refusal::Late),
        (wall_clock().before(hour), Refusal::Late),
        (wall_clock().before(DELIVERY_BOUND), Refusal::Late),
        (wall_clock().after(Duration::from_secs(10)), Refusal::Ahead),
        (wall_clock().after(hour), Refusal::Ahead),
        (Timestamp::MAX, Refusal::Ahead),
    ];
    for (timestamp, expected) in cases {
        let before = wall_clock();
        let attempts = [
            Session::default().attempt(1, timestamp, send("alice", "x")),
            ToReplica::Query { id: 7, timestamp, query: Query::Blocked },
        ];
        for attempt in attempts {
            client.send(&attempt).expect("the connection stands");
            let ToClient::Refused { timestamp: refused, reason, clock, .. } = client.receive() else {
                panic!("not refused")
            };
            assert_eq!((refused, reason), (timestamp, expected));
            // The replica read the wall clock at its start, and has counted by itself since.
            let second = Duration::from_secs(1);
            assert!(clock >= before.before(second) && clock <= wall_clock().after(second), "{clock} after {before}");
        }
    }
    assert_eq!(client.unread(), []);
    send_message(&mut client, "alice", "the clock is right");
}

#[test]
fn requests_take_effect_in_the_order_of_their_timestamps() {
    let alice = Person::new("alice");
    let (cluster, [mut client]) = with_accounts([&alice]);
    // Sent in reverse order, each over a connection of its own.
    let mut senders: Vec<RawClient> = (0..5).map(|_| logged_in(&cluster, &alice)).collect();
    let base = stamp_ahead().0;
    for (number, sender) in senders.iter_mut().enumerate().rev() {
        let timestamp = Timestamp(base + number as u64);
        let request = Session::default().attempt(1, timestamp, send("alice", number.to_string()));
        sender.send(&request).expect("the connection stands");
    }
    for number in 0..5 {
        assert_eq!(client.delivery().text.as_str(), number.to_string());
    }
}

#[test]
fn names_are_listed_in_pages() {
    let people: Vec<Person> = (0..25).map(|number| Person::new(&format!("user-{number:02}"))).collect();
    let cluster = Cluster::start(&["a"], Duration::from_millis(50));
    let mut client = cluster.greet("a");
    create_accounts(&mut client, &people.iter().collect::<Vec<_>>());
    client.login(&people[0], false);
    let mut list = |pattern: &str, limit: u16| {
        let (mut pages, mut after) = (Vec::new(), None);
        loop {
            let pattern = Pattern::parse(pattern).expect("a pattern by the rules");
            let answer = client.ask(Query::List { pattern, after, limit });
            let QueryAnswer::Accounts { names, next } = answer else { panic!("{answer:?}") };
            pages.push(names.iter().map(ToString::to_string).collect::<Vec<_>>());
            after = next;
            if after.is_none() {
                return pages;
            }
        }
    };
    let all: Vec<String> = people.iter().map(|person| person.account.to_string()).collect();
    assert_eq!(list("*", 1000), std::slice::from_ref(&all));
    assert_eq!(list("*", u16::MAX), std::slice::from_ref(&all));
    assert_eq!(list("*", 0).concat(), all);
    assert_eq!(list("user-*", 10), [&all[..10], &all[10..20], &all[20..]]);
    assert_eq!(list("user-?4", 1000), [["user-04", "user-14", "user-24"]]);
    assert_eq!(list("*-2*", 2).concat(), all[20..]);
    assert_eq!(list("nobody", 10), [[""; 0]]);
}

#[test]
fn messages_are_read_in_pages_and_ranges() {
    let (alice, bob) = (Person::new("alice"), Person::new("bob"));
    let (_cluster, [mut alice_client, mut bob_client]) = with_accounts([&alice, &bob]);
    let long = "x".repeat(4000);
    let settled = alice_client.call_all((0..200).map(|number| send("bob", format!("{number} {long}"))));
    let uids: Vec<Uid> = settled.iter().map(|settled| settled.uid).collect();

    let mut page = |page: Page, limit: u16| match bob_client.ask(history("alice", page, limit)) {
        QueryAnswer::Messages { messages, earlier, later } => {
            (messages.iter().map(|message| message.uid).collect::<Vec<_>>(), earlier, later)
        }
        other => panic!("{other:?}"),
    };
    let unread = |after| Page::Unread { after };
    assert_eq!(page(unread(Uid::MIN), 30), (uids[..30].to_vec(), false, true));
    assert_eq!(page(unread(uids[29]), 30), (uids[30..60].to_vec(), false, true));
    assert_eq!(page(unread(uids[189]), 30), (uids[190..].to_vec(), false, false));
    assert_eq!(page(unread(Uid::MIN), 0), (uids[..1].to_vec(), false, true));
    assert_eq!(page(Page::Latest, 30), (uids[170..].to_vec(), true, false));
    assert_eq!(page(Page::Before { uid: uids[30] }, 60), (uids[..30].to_vec(), false, true));
    assert_eq!(page(Page::After { uid: uids[30] }, 5), (uids[31..36].to_vec(), true, true));
    assert_eq!(page(Page::Around { uid: uids[30] }, 4), (uids[28..32].to_vec(), true, true));
    // A page has a limit in bytes as well.
    let (greatest, _, more) = page(unread(Uid::MIN), u16::MAX);
    assert!(more && greatest.len() * 4000 <= PAGE_BYTES && greatest.len() > 100, "{} messages", greatest.len());
    assert_eq!(greatest, uids[..greatest.len()]);

    // Exactly these are read, wherever they are, once or twice.
    for range in [5..6, 100..103, 199..200, 100..103] {
        assert_eq!(bob_client.call(read("alice", &uids[range])), Answer::Done);
    }
    let left: Vec<Uid> = [&uids[..5], &uids[6..100], &uids[103..199]].concat();
    assert_eq!(bob_client.unread().iter().map(|message| message.uid).collect::<Vec<_>>(), left);
    // Those of a range that is not as it was shown, are not.
    assert_eq!(bob_client.call(read("alice", &[uids[6], uids[8]])), rejected(Rejection::Outdated));
    // Another account reads nothing for him.
    assert_eq!(alice_client.call(read("bob", &uids)), Answer::Done);
    assert_eq!(bob_client.unread().len(), left.len());
}

#[test]
fn two_connections_of_an_account_both_get_its_messages() {
    let (alice, bob) = (Person::new("alice"), Person::new("bob"));
    let (cluster, [mut sender, mut first]) = with_accounts([&alice, &bob]);
    let mut second = logged_in(&cluster, &bob);
    let mut deaf = cluster.greet("a");
    deaf.login(&bob, false);
    send_message(&mut sender, "bob", "to both");
    assert_eq!(first.delivery(), second.delivery());
    drop(first);
    for number in 0..10 {
        send_message(&mut sender, "bob", format!("to one: {number}"));
        assert_eq!(second.delivery().text.as_str(), format!("to one: {number}"));
    }
    deaf.ping();
    assert_eq!(deaf.delivered(), 0);
    assert_eq!(second.unread().len(), 11);
}

#[test]
fn a_new_account_of_a_name_sees_nothing_of_the_old() {
    let (alice, old, new) = (Person::new("alice"), Person::new("bob"), Person::new("bob"));
    let (cluster, [mut sender, mut old_client]) = with_accounts([&alice, &old]);
    let mut new_client = logged_in(&cluster, &new);
    let mut creator = cluster.greet("a");

    // All requests are pending at the same time, so their timestamps decide, not the order in which they come.
    let base = stamp_ahead().0;
    let at = |step: u64| Timestamp(base + step);
    let session = Session::default();
    let messages = [
        session.attempt(1, at(1), send("bob", "to the old")),
        session.attempt(2, at(3), send("bob", "to nobody")),
        session.attempt(3, at(5), send("bob", "to the new")),
    ];
    creator.send(&Session::default().attempt(1, at(4), new.create())).expect("the connection stands");
    sender.send_all(&messages).expect("the connection stands");
    old_client.send(&Session::default().attempt(1, at(2), Command::Delete)).expect("the connection stands");

    let mut answers = || sender.answer_or_refusal().expect("in time").answer;
    assert_eq!(answers(), Answer::Done);
    assert_eq!(answers(), rejected(Rejection::NoSuchUser { name: account("bob") }));
    assert_eq!(answers(), Answer::Done);
    assert_eq!(creator.answer_or_refusal().map(|answered| answered.answer), Ok(Answer::Done));
    assert_eq!(old_client.answer_or_refusal().map(|answered| answered.answer), Ok(Answer::Done));

    assert_eq!(old_client.delivery().text.as_str(), "to the old");
    assert!(matches!(old_client.receive_other(), ToClient::LoggedOut { .. }));
    assert_eq!(new_client.delivery().text.as_str(), "to the new");
    send_message(&mut sender, "bob", "one more");
    assert_eq!(new_client.delivery().text.as_str(), "one more");
    assert_eq!(texts(&new_client.unread()), ["to the new", "one more"]);
    let history = history("alice", Page::Latest, 10);
    let QueryAnswer::Messages { messages, earlier: false, .. } = new_client.ask(history) else { panic!("not a page") };
    assert_eq!(texts(&messages), ["to the new", "one more"]);

    old_client.ping();
    assert_eq!(old_client.delivered(), 0);
    assert_eq!(old_client.call(send("alice", "x")), rejected(Rejection::NotOwner { name: account("bob") }));
}

#[test]
fn a_request_takes_effect_once_however_often_it_is_sent() {
    let alice = Person::new("alice");
    let (cluster, [mut first, mut second]) = with_accounts([&alice, &Person::new("bob")]);
    second.login(&alice, true);
    let session = Session::default();
    let request = session.attempt(1, stamp_ahead(), send("alice", "once"));
    // The same attempt twice on one connection and once on another: one place in the order, an answer for each connection.
    first.send_all([&request, &request]).expect("the connection stands");
    second.send(&request).expect("the connection stands");
    let answered = first.answer_or_refusal();
    assert_eq!(answered.as_ref().map(|answered| &answered.answer), Ok(&Answer::Done));
    assert_eq!(second.answer_or_refusal(), answered);
    // Further attempts, also after the message is gone.
    let message = first.delivery();
    for repetition in 0..10 {
        let client = if repetition % 2 == 0 { &mut first } else { &mut second };
        assert_eq!(client.attempt(&session, 1, &send("alice", "once")), Answer::Done);
        if repetition == 5 {
            assert_eq!(client.call(read("alice", &[message.uid])), Answer::Done);
        }
    }
    // Another command under the same number does nothing, and is told so.
    for command in [send("alice", "twice"), send("nobody", "once"), Command::Delete] {
        assert_eq!(first.attempt(&session, 1, &command), rejected(Rejection::DifferentCommand));
    }
    assert_eq!(first.unread(), []);
    assert_eq!(second.delivery(), message);
    assert_eq!((first.delivered(), second.delivered()), (0, 0));
    cluster.greet("a").ping();
}

#[test]
fn two_commands_in_flight_under_one_number_are_told_apart() {
    let alice = Person::new("alice");
    let (_cluster, [mut client, _]) = with_accounts([&alice, &Person::new("bob")]);
    let numbers = Session::default();
    let actor = Actor { account: alice.account.clone(), key: alice.secret.public() };
    let mut session = stablechat_client::session::Session::new(numbers.client, Some(actor), DELIVERY_BOUND);
    session.on_link_ready(0);

    let first = numbers.attempt(1, stamp_ahead(), send("bob", "one"));
    let ours = session.issue(stamp_ahead(), send("bob", "other"));
    let second = numbers.attempt(ours.sequence, ours.timestamp, ours.command);
    client.send_all([&first, &second]).expect("the connection stands");
    let heard = [(); 2].map(|()| {
        let Answered { uid, answer, .. } = client.answer_or_refusal().expect("in time");
        (session.on_answer(wall_clock(), 0, 1, uid, &answer), answer)
    });
    let expected = [(AnswerKind::Foreign, Answer::Done), (AnswerKind::Answered, rejected(Rejection::DifferentCommand))];
    assert_eq!(heard, expected);
}

#[test]
fn sessions_keep_their_order_their_owner_and_the_last_answers() {
    let (alice, bob) = (Person::new("alice"), Person::new("bob"));
    let (_cluster, [mut client, mut other]) = with_accounts([&alice, &bob]);
    let mut pipeline = Pipeline::default();
    let mut frames = Vec::new();
    for number in 1..=WINDOW {
        pipeline.issue(send("alice", number.to_string()), &mut frames);
    }
    client.settle(&mut pipeline, &frames);
    let session = pipeline.session().clone();
    let text = |sequence: u64| send("alice", sequence.to_string());
    let attempt = |client: &mut RawClient, sequence: u64| client.attempt(&session, sequence, &text(sequence));
    assert_eq!(attempt(&mut client, WINDOW + 2), rejected(Rejection::OutOfSequence { expected: WINDOW + 1 }));
    assert_eq!(attempt(&mut client, u64::MAX), rejected(Rejection::OutOfSequence { expected: WINDOW + 1 }));
    assert_eq!(attempt(&mut other, WINDOW + 1), rejected(Rejection::NotYourSession));
    assert_eq!(attempt(&mut client, 1), Answer::Done);
    assert!(matches!(attempt(&mut client, 0), Answer::Rejected { .. }), "there is no request 0");
    // One more than a session keeps answers: the first answer is dropped.
    assert_eq!(attempt(&mut client, WINDOW + 1), Answer::Done);
    assert_eq!(attempt(&mut client, 1), rejected(Rejection::AnswerForgotten));
    assert_eq!(attempt(&mut client, 2), Answer::Done);
    let numbers: Vec<String> = (1..=WINDOW + 1).map(|number| number.to_string()).collect();
    assert_eq!(texts(&client.timeline("alice")), numbers);
}
