//! What an account does with messages, pages and acknowledgements.

use super::*;
use stablechat_protocol::answer::Stability;
use stablechat_protocol::digest::Digest;
use stablechat_protocol::login::SecretKey;
use stablechat_protocol::request::Request;
use stablechat_protocol::text::MessageText;

const START: Timestamp = Timestamp(1_000_000_000_000);

const METADATA: AnswerMetadata =
    AnswerMetadata { position: 1, log_digest: Digest::ZERO, stability: Stability::Closed, copies: 1 };

fn bob_credentials() -> Credentials {
    Credentials { account: name("bob"), secret: SecretKey::from_seed(&[7; 32]), is_from_password: false }
}

fn name(text: &str) -> AccountName {
    AccountName::parse(text).expect("a name")
}

fn client() -> ClientId {
    ClientId([1; 16])
}

/// bob, whose messages are pushed, with one link in reach and nothing unread.
fn bob() -> ActiveAccount {
    let mut nobody = ActiveAccount::nobody(client, Duration::from_secs(1));
    nobody.on_link_ready(0);
    let mut bob = nobody.successor(Some(Rc::new(bob_credentials())), true);
    let Some(ToReplica::Query { id, .. }) = bob.fetch(START) else { panic!("what came before the login is fetched") };
    assert!(bob.fetch(START).is_none(), "one page at a time");
    assert!(told(&mut bob, page(id, Vec::new())).is_empty());
    assert!(!bob.is_fetching());
    bob
}

fn message(to: &str, time: u64) -> Message {
    let uid = Uid { timestamp: Timestamp(START.0 + time), digest: [0; 16] };
    Message { uid, from: name("alice"), to: recipient(&name(to)), text: MessageText::parse("x").expect("a text") }
}

fn page(id: u64, messages: Vec<Message>) -> ToClient {
    let answer = QueryAnswer::Messages { messages, more: false };
    ToClient::QueryAnswer { id, answer, metadata: METADATA }
}

/// The times of the messages that are handed out for a frame.
fn told(account: &mut ActiveAccount, frame: ToClient) -> Vec<u64> {
    let mut events = Vec::new();
    account.on_message(START, 0, frame, &mut events);
    let time = |event| match event {
        AccountEvent::Message(message) => message.uid.timestamp.0 - START.0,
        other => panic!("{other:?}"),
    };
    events.into_iter().map(time).collect()
}

#[test]
fn pushed_messages_are_handed_out_once_and_acknowledged_in_one_batch() {
    let mut bob = bob();
    for time in [1, 1, 2] {
        told(&mut bob, ToClient::Delivery { message: message("bob", time) });
    }
    let Some(ToReplica::Request { command: Command::Ack { uids }, sequence, timestamp, .. }) = bob.acknowledge(START)
    else {
        panic!("what was handed out is acknowledged")
    };
    assert_eq!(uids, [message("bob", 1).uid, message("bob", 2).uid]);
    assert!(timestamp > message("bob", 2).uid.timestamp, "it comes after what it acknowledges");

    told(&mut bob, ToClient::Delivery { message: message("bob", 3) });
    assert!(bob.acknowledge(START).is_none() && bob.is_acknowledging(), "one acknowledgement at a time");
    let request = |command| Request { client: client(), sequence, actor: bob_credentials().actor().into(), command };
    let answer = |command| {
        let uid = request(command).uid(timestamp);
        ToClient::Answer { client: client(), sequence, uid, answer: Answer::Done, metadata: METADATA }
    };
    assert!(told(&mut bob, answer(Command::Delete)).is_empty(), "another process has used the session");
    assert!(bob.acknowledge(START).is_none());
    bob.on_message(START, 0, answer(Command::Ack { uids }), &mut Vec::new());
    assert!(bob.acknowledge(START).is_some());
}

#[test]
fn messages_of_the_account_before_are_left_unread() {
    let mut bob = bob();
    assert!(told(&mut bob, ToClient::Delivery { message: message("carol", 1) }).is_empty());
    let mut nobody = bob.successor(None, false);
    assert!(told(&mut nobody, ToClient::Delivery { message: message("bob", 2) }).is_empty());
    assert!(nobody.acknowledge(START).is_none());
}

#[test]
fn an_account_that_is_resumed_fetches_what_came_meanwhile() {
    let mut bob = bob();
    let mut nobody = bob.successor(None, false);
    let (asked, _) = nobody.ask(START, unread(None));
    bob.resume_after(&nobody);
    assert!(bob.is_fetching());
    let Some(ToReplica::Query { id, .. }) = bob.fetch(START) else { panic!("a page is asked for") };
    assert_ne!(id, asked, "an answer to the other account's query must not be taken for this one's");
    assert_eq!(told(&mut bob, page(id, vec![message("bob", 5)])), [5]);
}

#[test]
fn acknowledgements_of_an_abandoned_session_are_issued_again() {
    let mut bob = bob();
    told(&mut bob, ToClient::Delivery { message: message("bob", 1) });
    assert!(bob.acknowledge(START).is_some());
    bob.abandon_session();
    assert!(!bob.is_acknowledging());
    let Some(ToReplica::Request { command: Command::Ack { uids }, sequence: 1, .. }) = bob.acknowledge(START) else {
        panic!("it is acknowledged in the new session")
    };
    assert_eq!(uids, [message("bob", 1).uid]);
}

#[test]
fn a_command_that_came_too_fast_is_sent_again_when_the_replica_wants_it() {
    let mut bob = bob();
    let (sequence, frame) = bob.issue(START, Command::Delete);
    let ToReplica::Request { timestamp, .. } = frame else { panic!("{frame:?}") };
    let request = RequestId::Command { client: client(), sequence };
    let reason = Refusal::TooFast { wait_ms: 20_000 };
    bob.on_message(START, 0, ToClient::Refused { request, timestamp, reason, clock: START }, &mut Vec::new());
    let wanted = START.after(Duration::from_secs(20));
    assert_eq!(bob.deadline(), Some(wanted));
    assert_eq!((bob.due(Timestamp(wanted.0 - 1)).len(), bob.due(wanted).len()), (0, 1));
}
