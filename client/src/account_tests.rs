//! What an account does with messages, pages and ranges that are read.

use super::*;
use stablechat_protocol::answer::Stability;
use stablechat_protocol::conversation::InboxEntry;
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
    assert!(told(&mut bob, list(id, &[])).is_empty());
    let id = fetched(&mut bob);
    assert!(told(&mut bob, nobody_blocked(id)).is_empty());
    assert!(told(&mut bob, ToClient::LoggedIn { account: name("bob") }).is_empty());
    assert!(!bob.is_fetching());
    bob
}

/// A message from alice to bob, which has its time as its position.
fn message(time: u64) -> Message {
    let uid = Uid { timestamp: Timestamp(START.0 + time), digest: [0; 16] };
    let text = MessageText::parse("x").expect("a text");
    Message { uid, position: time, from: name("alice"), to: Conversation::with(&name("bob")), text }
}

fn push(time: u64) -> ToClient {
    ToClient::Delivery { message: message(time) }
}

/// The list of the conversations with these accounts.
fn list(id: u64, others: &[&str]) -> ToClient {
    let entry = |other: &&str| InboxEntry {
        conversation: Conversation::with(&name(other)),
        unread: 1,
        last: Uid::MIN,
        is_muted: false,
        is_request: false,
    };
    let entries = others.iter().map(entry).collect();
    let answer = QueryAnswer::Inbox { entries, invitations: Vec::new(), next: None };
    ToClient::QueryAnswer { id, answer, metadata: METADATA }
}

fn nobody_blocked(id: u64) -> ToClient {
    let answer = QueryAnswer::Accounts { names: Vec::new(), next: None };
    ToClient::QueryAnswer { id, answer, metadata: METADATA }
}

fn page(id: u64, messages: Vec<Message>) -> ToClient {
    let answer = QueryAnswer::Messages { messages, earlier: false, later: false };
    ToClient::QueryAnswer { id, answer, metadata: METADATA }
}

/// The number of the query that fetches the next page.
fn fetched(account: &mut ActiveAccount) -> u64 {
    match account.fetch(START) {
        Some(ToReplica::Query { id, .. }) => id,
        other => panic!("no page is asked for: {other:?}"),
    }
}

/// What the account has read: the command's number and timestamp, and its range.
fn read(account: &mut ActiveAccount) -> Option<(u64, Timestamp, ReadRange)> {
    let mut frames = account.read(START).into_iter();
    let frame = frames.next()?;
    assert_eq!(frames.next(), None, "one conversation");
    match frame {
        ToReplica::Request { sequence, timestamp, command: Command::Read { range, .. }, .. } => {
            Some((sequence, timestamp, range))
        }
        other => panic!("{other:?}"),
    }
}

/// The answer to a command of bob's.
fn answer(sequence: u64, timestamp: Timestamp, command: Command, answer: Answer) -> ToClient {
    let uid = Request { client: client(), sequence, actor: bob_credentials().actor().into(), command }.uid(timestamp);
    ToClient::Answer { client: client(), sequence, uid, answer, metadata: METADATA }
}

fn of_alice(range: ReadRange) -> Command {
    Command::Read { conversation: Conversation::with(&name("alice")), range }
}

/// The times of the messages that are handed out for a frame.
fn told(account: &mut ActiveAccount, frame: ToClient) -> Vec<u64> {
    let mut events = Vec::new();
    account.on_message(START, 0, frame, &mut events);
    let time = |event| match event {
        AccountEvent::Message(message) => Some(message.uid.timestamp.0 - START.0),
        AccountEvent::Answer(_) => None,
        other => panic!("{other:?}"),
    };
    events.into_iter().filter_map(time).collect()
}

#[test]
fn pushed_messages_are_handed_out_once_and_read_in_one_range() {
    let mut bob = bob();
    for time in [1, 1, 2] {
        told(&mut bob, push(time));
    }
    let (sequence, timestamp, range) = read(&mut bob).expect("what was handed out is read");
    assert_eq!(Some(range), ReadRange::of(&[message(1).uid, message(2).uid]));
    assert!(timestamp > message(2).uid.timestamp, "it comes after what it reads");

    told(&mut bob, push(3));
    assert!(read(&mut bob).is_none() && bob.is_reading(), "one range of a conversation at a time");
    let foreign = answer(sequence, timestamp, Command::Delete, Answer::Done);
    assert!(told(&mut bob, foreign).is_empty(), "another process has used the session");
    assert!(read(&mut bob).is_none());
    told(&mut bob, answer(sequence, timestamp, of_alice(range), Answer::Done));
    assert!(read(&mut bob).is_some_and(|(.., range)| range.count == 1));
}

#[test]
fn what_is_pushed_before_the_login_is_accepted_is_left_unread() {
    let mut bob = bob();
    let mut carol = bob.successor(Some(Rc::new(Credentials { account: name("carol"), ..bob_credentials() })), true);
    let id = fetched(&mut carol);
    told(&mut carol, list(id, &[]));
    let id = fetched(&mut carol);
    told(&mut carol, nobody_blocked(id));
    assert!(told(&mut carol, push(1)).is_empty(), "it was on its way to bob");
    told(&mut carol, ToClient::LoggedIn { account: name("bob") });
    assert!(told(&mut carol, push(2)).is_empty());
    assert!(read(&mut carol).is_none());
    bob.on_link_lost(START, 0);
    assert!(told(&mut bob, push(3)).is_empty());
}

#[test]
fn an_account_that_is_resumed_fetches_what_came_meanwhile() {
    let mut bob = bob();
    let mut nobody = bob.successor(None, false);
    let (asked, _) = nobody.ask(START, inbox());
    bob.resume_after(&nobody);
    assert!(bob.is_fetching());
    let id = fetched(&mut bob);
    assert_ne!(id, asked, "an answer to the other account's query must not be taken for this one's");
    told(&mut bob, list(id, &["alice"]));
    let id = fetched(&mut bob);
    told(&mut bob, nobody_blocked(id));
    let id = fetched(&mut bob);
    assert_eq!(told(&mut bob, page(id, vec![message(5)])), [5]);
}

#[test]
fn what_was_being_read_in_an_abandoned_session_is_read_in_the_next() {
    let mut bob = bob();
    told(&mut bob, push(1));
    let (.., range) = read(&mut bob).expect("it is read");
    bob.abandon_session();
    assert!(!bob.is_reading());
    assert!(read(&mut bob).is_some_and(|(sequence, _, again)| (sequence, again) == (1, range)));
}

/// Replicas that are cut off from each other may answer differently for long.
#[test]
fn a_conversation_that_keeps_changing_is_fetched_less_and_less_often() {
    let mut bob = bob();
    told(&mut bob, push(1));
    let outdated = |bob: &mut ActiveAccount| {
        let (sequence, timestamp, range) = read(bob).expect("it is read");
        let reason = Rejection::Outdated;
        told(bob, answer(sequence, timestamp, of_alice(range), Answer::Rejected { reason }));
    };
    outdated(&mut bob);
    let id = fetched(&mut bob);
    assert!(told(&mut bob, page(id, vec![message(1)])).is_empty(), "it was handed out before");
    outdated(&mut bob);
    assert!(bob.fetch(START).is_none() && bob.is_fetching());
    let later = START.after(REFETCH_MIN);
    assert_eq!(bob.deadline(), Some(later));
    bob.due(later);
    assert!(bob.fetch(later).is_some());
}

#[test]
fn a_change_in_the_inbox_or_of_what_was_read_has_it_fetched() {
    let mut bob = bob();
    told(&mut bob, ToClient::InboxChanged);
    assert!(bob.is_fetching());
    let id = fetched(&mut bob);
    told(&mut bob, list(id, &[]));
    let id = fetched(&mut bob);
    told(&mut bob, nobody_blocked(id));
    told(&mut bob, push(1));
    let (sequence, timestamp, range) = read(&mut bob).expect("it is read");
    told(&mut bob, answer(sequence, timestamp, of_alice(range), Answer::Done));
    assert!(!bob.is_fetching());
    let ToClient::Answer { uid, .. } = answer(sequence, timestamp, of_alice(range), Answer::Done) else { panic!() };
    let after = Answer::Rejected { reason: Rejection::Outdated };
    bob.on_message(START, 0, ToClient::Changed { client: client(), sequence, uid, answer: after }, &mut Vec::new());
    assert!(bob.is_fetching());
}

#[test]
fn news_of_rooms_are_told_once() {
    let mut bob = bob();
    let news = RoomNews {
        room: stablechat_protocol::room::RoomName::parse("#ops").expect("a name"),
        uid: message(1).uid,
        by: name("alice"),
        action: stablechat_protocol::room::RoomAction::Join,
    };
    let told = [(); 2].map(|()| {
        let mut events = Vec::new();
        bob.on_message(START, 0, ToClient::RoomNews { news: news.clone() }, &mut events);
        events.len()
    });
    assert_eq!(told, [1, 0]);
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
