//! Tests of the state machine: golden scripts in `store/scripts`, one scenario per file, and tests that need more than a script.

mod limits;
mod script;

use super::database::{decode, family};
use super::state::keys::{Column, ConversationId, SESSION_USE, prefix_end};
use super::state::rows::{Direction, Row};
use super::state::values::{Head, Point, UndoRecord};
use super::*;
use crate::golden::golden_scripts;
use rocksdb::Options;
use script::Script;
use stablechat_protocol::answer::{Answer, Rejection};
use stablechat_protocol::command::{Command, UNREAD_MAX};
use stablechat_protocol::conversation::{Conversation, ReadRange};
use stablechat_protocol::digest::Digest;
use stablechat_protocol::login::PublicKey;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::operator::InitialSettings;
use stablechat_protocol::request::Actor;
use stablechat_protocol::room::{RoomAction, RoomName, Topic};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::text::MessageText;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::wire::to_cbor;
use std::sync::Arc;

fn identity(replica: &str) -> StoreIdentity {
    StoreIdentity { cluster: "test".into(), replica: replica.into() }
}

fn account(name: &str) -> AccountName {
    AccountName::parse(name).expect("a name")
}

/// A key that belongs to this name; nobody has its private half.
fn key(name: &str) -> PublicKey {
    PublicKey(*blake3::hash(name.as_bytes()).as_bytes())
}

fn actor(name: &str) -> Actor {
    Actor { account: account(name), key: key(name) }
}

fn create(name: &str) -> Command {
    Command::Create { name: account(name), key: key(name), invitation: None }
}

fn send(to: &str) -> Command {
    Command::Send { to: Conversation::with(&account(to)), text: MessageText::parse("hello").expect("a text") }
}

fn read(with: &str, uids: &[Uid]) -> Command {
    let range = ReadRange::of(uids).expect("there are some");
    Command::Read { conversation: Conversation::with(&account(with)), range }
}

/// A command that changes nothing.
fn idle() -> Command {
    Command::Block { name: account("nobody"), is_blocked: false }
}

/// Applies requests to a store, each at its own second of log time, as the first of a session of its own.
struct Applying<'a>(&'a mut ChatStore, u8);

impl Applying<'_> {
    fn apply(&mut self, actor: Option<Actor>, command: Command) -> (Uid, Answer) {
        self.1 += 1;
        let request = Request { client: ClientId([self.1; 16]), sequence: 1, actor, command };
        let uid = request.uid(Timestamp(u64::from(self.1) * 1_000_000_000));
        (uid, self.0.apply(uid, &request).expect("storage works").answer)
    }
}

fn in_memory() -> ChatStore {
    let location = Location::in_memory().expect("memory can be had");
    ChatStore::open(&location, &identity("a"), &InitialSettings::OPEN).expect("a new store opens")
}

golden_scripts!(
    "src/store/scripts",
    Script::new,
    a_deleted_account_leaves_nothing_to_its_successor,
    a_list_with_few_matches_takes_more_pages,
    a_request_takes_effect_once,
    a_room_is_its_owners,
    a_session_has_no_gaps,
    a_session_is_its_first_actors,
    a_successor_with_another_key_is_another_owner,
    another_command_under_a_number_is_not_executed,
    another_key_takes_the_place_of_the_first,
    answers_are_forgotten_beyond_the_window,
    history_comes_in_pages_from_its_end,
    lists_come_in_sorted_pages,
    names_are_taken_once,
    names_that_come_back_are_others,
    old_messages_are_removed,
    only_the_owner_acts_for_an_account,
    people_choose_whom_they_hear,
    rooms_are_public_or_for_those_who_are_invited,
    sessions_end_after_a_day_of_log_time,
    tombstones_are_emptied_a_bounded_number_at_a_time,
    timelines_go_with_the_last_of_their_accounts,
    uncommitted_requests_are_seen_and_lost_in_a_crash,
    unread_messages_outlive_their_senders_accounts,
    unread_messages_come_in_pages,
    what_is_read_is_named_exactly,
);

#[test]
fn undoing_every_request_goes_back_through_every_state() {
    let mut store = in_memory();
    let mut before = Vec::new();
    let mut applying = Applying(&mut store, 0);
    let mut apply = |actor: Option<&str>, command| {
        let digest = applying.0.applied().state_digest;
        let (uid, answer) = applying.apply(actor.map(self::actor), command);
        assert_eq!(answer, Answer::Done);
        before.push((uid, digest));
        uid
    };
    apply(None, create("alice"));
    apply(None, create("bob"));
    let message = apply(Some("alice"), send("bob"));
    apply(Some("bob"), read("alice", &[message]));
    let answer = apply(Some("bob"), send("alice"));
    apply(Some("alice"), read("bob", &[answer]));
    let room = |action| Command::Room { room: RoomName::parse("#ops").expect("a name"), action };
    apply(Some("alice"), room(RoomAction::Create { is_private: true }));
    apply(Some("alice"), room(RoomAction::Invite { name: account("bob") }));
    apply(Some("bob"), room(RoomAction::Join));
    apply(Some("alice"), room(RoomAction::SetTopic { topic: Topic::parse("tea").expect("a topic") }));
    apply(Some("alice"), Command::Block { name: account("bob"), is_blocked: true });
    apply(Some("bob"), Command::Mute { conversation: Conversation::with(&account("alice")), is_muted: true });
    apply(Some("alice"), Command::Delete);
    apply(None, create("alice"));
    // Housekeeping empties the tombstone.
    apply(Some("bob"), send("alice"));
    store.commit().expect("storage works");

    for (uid, digest) in before.into_iter().rev() {
        let family = family(store.database.db(), schema::UNDO);
        let record =
            store.database.db().get_cf(family, uid.to_bytes()).expect("storage works").expect("there is a record");
        let record: UndoRecord = decode(schema::UNDO, &record).expect("it can be read");
        for row in record.rows {
            let column = Column::from_number(row.column).expect("a column");
            store.rows.write(column, row.key.0, row.value.map(|value| value.0)).expect("storage works");
        }
        assert_eq!(store.rows.digest(), digest, "before {uid}");
    }
    assert_eq!(store.rows.digest(), Digest::ZERO);
    for column in Column::ALL {
        let rows: Vec<Row> =
            store.rows.scan(column, &[], &[0xff], Direction::Forward).collect::<Result<_, _>>().expect("storage works");
        assert_eq!(rows, [], "{}", column.name());
    }
}

#[test]
fn a_sender_waits_until_something_is_read() {
    let mut store = in_memory();
    let mut applying = Applying(&mut store, 0);
    let (bob, _) = applying.apply(None, create("bob"));
    let (alice, _) = applying.apply(None, create("alice"));
    applying.apply(None, create("carol"));
    let (first, answer) = applying.apply(Some(actor("alice")), send("bob"));
    assert_eq!(answer, Answer::Done);

    // As if she had sent many more.
    let conversation = ConversationId::of_two(alice, bob).key();
    let head: Head = applying.0.rows.read(Column::Heads, &conversation).expect("storage works").expect("there is one");
    let end = Point { position: UNREAD_MAX, ..head.end };
    applying.0.rows.put(Column::Heads, conversation, &Head { end, ..head }).expect("storage works");

    let full = Answer::Rejected { reason: Rejection::TooManyUnread { name: account("bob") } };
    assert_eq!(applying.apply(Some(actor("alice")), send("bob")).1, full);
    assert_eq!(applying.apply(Some(actor("bob")), send("alice")).1, Answer::Done, "he can still write");
    let only_first = Command::Read {
        conversation: Conversation::with(&account("alice")),
        range: ReadRange { up_to: first, ..ReadRange::of(&[first]).expect("one") },
    };
    assert_eq!(applying.apply(Some(actor("bob")), only_first).1, Answer::Done);
    assert_eq!(applying.apply(Some(actor("alice")), send("bob")).1, full, "his own message is unread with the others");
    assert_eq!(applying.apply(Some(actor("carol")), send("bob")).1, Answer::Done);
}

/// The requests of a program that makes a session for each of them: so many in each of these seconds.
fn one_shot_requests(seconds: std::ops::Range<u64>, in_each: u64) -> impl Iterator<Item = (Uid, Request)> {
    let numbers = seconds.flat_map(move |second| (0..in_each).map(move |number| (second, number)));
    numbers.map(|(second, number)| {
        let client = ClientId((u128::from(second) << 64 | u128::from(number)).to_be_bytes());
        let request = Request { client, sequence: 1, actor: Some(actor("alice")), command: idle() };
        (request.uid(Timestamp(second * 1_000_000_000 + number)), request)
    })
}

#[test]
fn sessions_end_as_fast_as_they_are_made() {
    let mut store = in_memory();
    let two_days_later = 48 * 3600;
    for (uid, request) in one_shot_requests(1..51, 40).chain(one_shot_requests(two_days_later..two_days_later + 50, 40))
    {
        store.apply(uid, &request).expect("storage works");
    }
    let places = store.rows.scan(Column::Sessions, SESSION_USE, &prefix_end(SESSION_USE), Direction::Forward);
    assert_eq!(places.count(), 50 * 40, "only the sessions of the last minute are left");
    store.commit().expect("storage works");
    assert_eq!(store.check().faults, Vec::<String>::new());
}

#[test]
fn a_request_ends_a_bounded_number_of_answers() {
    let mut store = in_memory();
    let mut request = Request { client: ClientId([1; 16]), sequence: 0, actor: None, command: idle() };
    for sequence in 1..=1000 {
        request.sequence = sequence;
        store.apply(request.uid(Timestamp(sequence)), &request).expect("storage works");
    }
    let rows = |store: &ChatStore| store.rows.scan(Column::Sessions, &[], &[0xff], Direction::Forward).count();
    let mut before = rows(&store);
    assert_eq!(before, 1002);
    for (number, (uid, request)) in one_shot_requests(90_001..90_003, 70).enumerate() {
        store.apply(uid, &request).expect("storage works");
        let removed = before + 3 - rows(&store);
        assert!(removed <= if number % 70 == 0 { 514 } else { 10 }, "request {number} has removed {removed} rows");
        before = rows(&store);
    }
    assert_eq!(before, 3 * 140, "the old session is gone");
}

#[test]
fn equal_requests_make_equal_states_however_they_are_batched() {
    let (mut one, mut other) = (in_memory(), in_memory());
    for (store, commits) in [(&mut one, true), (&mut other, false)] {
        let mut applying = Applying(store, 0);
        for name in ["alice", "bob", "carol"] {
            applying.apply(None, create(name));
            applying.apply(Some(actor(name)), send("alice"));
            if commits {
                applying.0.commit().expect("storage works");
            }
        }
    }
    assert_eq!(one.applied(), other.applied());
}

#[test]
fn a_store_that_was_tampered_with_is_found_out() {
    let mut store = in_memory();
    let mut applying = Applying(&mut store, 0);
    applying.apply(None, create("alice"));
    applying.apply(Some(actor("alice")), send("alice"));
    store.commit().expect("storage works");
    assert_eq!(store.check().faults, Vec::<String>::new());
    let db = store.database.db();
    db.delete_cf(family(db, Column::Users.name()), "alice").expect("storage works");
    let faults = store.check().faults.join("\n");
    assert!(faults.contains("the state digest is") && faults.contains("which is no account"), "{faults}");
}

#[test]
fn a_directory_belongs_to_one_replica() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let location = Location::Directory(directory.path().join("data"));
    let mut store = ChatStore::open(&location, &identity("a"), &InitialSettings::OPEN).expect("a new store opens");
    assert_eq!(store.epoch(), 1);
    Applying(&mut store, 0).apply(None, create("alice"));
    store.commit().expect("storage works");
    let applied = store.applied().clone();
    let refused = |identity: &StoreIdentity| match ChatStore::open(&location, identity, &InitialSettings::OPEN) {
        Ok(_) => panic!("it must not open"),
        Err(error) => error,
    };
    assert!(matches!(refused(&identity("a")), OpenError::InUse(_)));
    drop(store);

    let error = refused(&identity("b"));
    assert!(matches!(error, OpenError::OtherReplica { .. }), "{error}");
    assert!(error.to_string().contains("belongs to replica a of cluster test"), "{error}");
    let other = StoreIdentity { cluster: "other".into(), replica: "a".into() };
    assert!(matches!(refused(&other), OpenError::OtherReplica { .. }));

    let store = ChatStore::open(&location, &identity("a"), &InitialSettings::OPEN).expect("its owner opens it");
    assert_eq!((store.epoch(), store.applied()), (2, &applied), "opening it for another replica has changed nothing");
}

#[test]
fn a_newer_format_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let location = Location::Directory(directory.path().to_path_buf());
    let store = ChatStore::open(&location, &identity("a"), &InitialSettings::OPEN).expect("a new store opens");
    drop(store);
    let Ok(Location::Open(mut db)) = location.kept_open() else { panic!("it is not in use") };
    let owned = Arc::get_mut(&mut db).expect("nobody else has it");
    owned.create_cf("of a later time", &Options::default()).expect("storage works");
    let newer = schema::FORMAT + 1;
    db.put_cf(family(&db, schema::META), schema::META_FORMAT, to_cbor(&newer)).expect("storage works");
    drop(db);
    match ChatStore::open(&location, &identity("a"), &InitialSettings::OPEN) {
        Err(OpenError::NewerFormat { found, .. }) => assert_eq!(found, newer),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it must not open"),
    }
}

#[test]
fn an_older_format_is_not_misread() {
    let location = Location::in_memory().expect("memory");
    let store = ChatStore::open(&location, &identity("a"), &InitialSettings::OPEN).expect("a new store opens");
    let db = store.database.db();
    db.put_cf(family(db, schema::META), schema::META_FORMAT, to_cbor(&(schema::FORMAT - 1))).expect("storage works");
    drop(store);
    let error = ChatStore::open(&location, &identity("a"), &InitialSettings::OPEN).err().expect("it must not open");
    assert!(matches!(error, OpenError::OlderFormat { .. }), "{error}");
}

#[test]
fn restarts_count_until_a_replica_is_stable_except_after_it_has_left() {
    let location = testing::memory();
    let open = || ChatStore::open(&location, &identity("one"), &InitialSettings::OPEN).expect("it opens");
    assert_eq!(open().restarts(), 0);
    assert_eq!(open().restarts(), 1);
    let mut left = open();
    assert_eq!(left.restarts(), 2);
    left.note_left().expect("memory does not fail");
    drop(left);
    let mut rejoining = open();
    assert_eq!(rejoining.restarts(), 2, "the one before has left");
    rejoining.begin_epoch(rejoining.epoch() + 1, 3).expect("memory does not fail");
    drop(rejoining);
    let mut stable = open();
    assert_eq!(stable.restarts(), 4);
    stable.note_stable().expect("memory does not fail");
    assert_eq!(stable.restarts(), 0);
    drop(stable);
    assert_eq!(open().restarts(), 1);

    let location = testing::memory();
    let open = || ChatStore::open(&location, &identity("one"), &InitialSettings::OPEN).expect("it opens");
    open().note_left().expect("memory does not fail");
    assert_eq!(open().restarts(), 0, "there was none before the one that left");
}
