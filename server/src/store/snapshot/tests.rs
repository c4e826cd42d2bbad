//! Truncation and snapshots, by random streams of requests.

use super::*;
use crate::random::Random;
use crate::store::log;
use crate::store::schema::Applied;
use crate::store::state::keys::{Column, session_key};
use crate::store::state::values::Session;
use crate::store::testing::{
    actor, apply, assert_sound, contents, create, held, identity, memory, send, store, store_of, stream, uids,
};
use crate::store::{ChatStore, Location, Reconciliation};
use stablechat_protocol::command::Command;
use stablechat_protocol::conversation::Conversation;
use stablechat_protocol::digest::Digest;
use stablechat_protocol::operator::InitialSettings;
use stablechat_protocol::peer::BODIES_BYTES;
use stablechat_protocol::request::StampedRequest;
use stablechat_protocol::room::{RoomAction, RoomName};
use stablechat_protocol::text::MessageText;
use stablechat_protocol::uid::Uid;

/// A store of these requests, settled up to the one at this place, that keeps so many bytes of its log.
pub(super) fn truncated(requests: &[StampedRequest], settled: usize, retention: u64) -> ChatStore {
    let mut store = store_of(requests);
    store.retain(retention);
    store.settle(requests[settled].uid);
    store.truncate().expect("memory does not fail");
    store.commit().expect("memory does not fail");
    store
}

/// All parts of a snapshot.
pub(super) fn parts(store: &ChatStore) -> Vec<SnapshotPart> {
    let mut reader = store.read_snapshot().expect("there is a thread");
    std::iter::from_fn(|| reader.next_part().expect("memory does not fail")).collect()
}

/// Replaces the contents of a store by a snapshot.
pub(super) fn install(store: &mut ChatStore, parts: Vec<SnapshotPart>) -> Result<(), SnapshotError> {
    let mut receiver = store.begin_snapshot()?;
    for (rows, end) in parts {
        store.receive_rows(&mut receiver, rows)?;
        if let Some(end) = end {
            return store.install_snapshot(receiver, &end);
        }
    }
    Err(SnapshotError::Invalid("it has no end"))
}

/// The log from its settled end on, and all else.
fn contents_after_settled(store: &ChatStore) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let settled = store.log().settled().to_bytes();
    let is_kept = |(name, key, _): &(&str, Vec<u8>, Vec<u8>)| *name != schema::LOG || key[..] >= settled[..];
    contents(store).into_iter().filter(is_kept).collect()
}

#[test]
fn a_short_log_between_two_marks_of_a_long_one_is_found_by_its_own() {
    let ann = actor("ann", 1);
    // A request a second, and then none for an hour: the marks lie far apart.
    let seconds = (0..100).chain([3700]);
    let all: Vec<StampedRequest> =
        seconds.map(|second| held(1_000_000 + 1000 * second, 1, 1, &ann, create(&ann))).collect();
    let (long, short) = (store_of(&all), truncated(&all[..60], 50, 0));
    assert_eq!(short.log().common(&long.log().marks().expect("it reads")).expect("it reads"), None);
    let own = [short.log().last_mark(), short.log().settled_mark().expect("it reads"), short.log().base()];
    assert_eq!(long.log().common(&own).expect("it reads"), Some(short.log().last_mark()));
}

#[test]
fn a_truncated_log_says_where_it_begins() {
    let requests = stream(&mut Random(5), 60);
    let all = store_of(&requests);
    let mut store = truncated(&requests, 40, 0);
    assert_sound(&store);
    assert_eq!(uids(&store).first(), Some(&requests[40].uid), "the last settled request stays");
    assert_eq!((store.log().base().uid, store.log().base().position), (requests[39].uid, 40));
    assert_eq!(store.applied(), all.applied());
    let marks = store.log().marks().expect("it reads");
    assert_eq!(marks.last(), Some(&store.log().base()));
    assert!(marks.contains(&store.log().settled_mark().expect("it reads")));
    assert_eq!(all.log().common(&[store.log().base()]).expect("it reads"), Some(store.log().base()));
    assert_eq!(
        store.log().common(&all.log().marks().expect("it reads")).expect("it reads"),
        Some(all.log().last_mark())
    );
    assert_eq!(store.log().piece_after(requests[39].uid, 1 << 20).expect("it reads"), (requests[40..].to_vec(), true));

    let (late, early): (Vec<StampedRequest>, Vec<StampedRequest>) =
        requests.iter().cloned().enumerate().fold((Vec::new(), Vec::new()), |(mut late, mut early), (at, held)| {
            if at > 45 && at % 3 == 0 {
                late.push(held)
            } else {
                early.push(held)
            }
            (late, early)
        });
    let mut repaired = truncated(&early, 40, 0);
    let repair = repaired.insert(late).expect("memory does not fail");
    assert!(repair.undone > 3 && repair.unplaceable.is_empty());
    assert_sound(&repaired);
    assert_eq!(contents(&repaired), contents(&store));

    store.settle(Uid::MAX);
    store.truncate().expect("memory does not fail");
    store.commit().expect("memory does not fail");
    assert_sound(&store);
    assert_eq!(uids(&store), [requests[59].uid]);
}

#[test]
fn no_more_is_truncated_than_is_too_much_and_settled() {
    let requests = stream(&mut Random(4), 60);
    let bytes = store_of(&requests).log().bytes();
    let store = truncated(&requests, 59, bytes);
    assert_eq!(store.log().base(), log::BEGIN, "it is not too long");
    let store = truncated(&requests, 59, bytes / 2);
    assert_sound(&store);
    assert!(store.log().bytes() <= bytes / 2 && store.log().bytes() > bytes / 3, "{} of {bytes}", store.log().bytes());
    let store = truncated(&requests, 0, 0);
    assert_eq!(store.log().base(), log::BEGIN, "only the last settled one could go, and it stays");
}

#[test]
fn of_two_logs_that_cannot_be_merged_a_snapshot_replaces_one() {
    let requests = stream(&mut Random(5), 60);
    let ahead = truncated(&requests, 40, 0);
    let reconciliation = |ours: &ChatStore, theirs: &ChatStore| {
        let common = theirs.log().common(&ours.log().marks().expect("it reads")).expect("it reads");
        ours.log()
            .reconciliation(common, theirs.log().base(), theirs.log().settled_mark().expect("it reads"))
            .expect("it reads")
    };
    let behind = store_of(&requests[..30]);
    assert_eq!(reconciliation(&behind, &ahead), Reconciliation::TakeSnapshot);
    assert_eq!(reconciliation(&ahead, &behind), Reconciliation::GiveSnapshot);
    assert_eq!(reconciliation(&store(), &ahead), Reconciliation::TakeSnapshot);
    let near = store_of(&requests[..50]);
    assert_eq!(
        (reconciliation(&near, &ahead), reconciliation(&ahead, &near)),
        (Reconciliation::Insert, Reconciliation::Insert)
    );
    let mut other = requests.clone();
    other.remove(39);
    let differs = store_of(&other);
    assert_eq!(
        reconciliation(&differs, &ahead),
        Reconciliation::TakeSnapshot,
        "what it lacks can no longer be had, or not be put there"
    );
}

#[test]
fn a_snapshot_makes_the_same_store() {
    for seed in 0..20 {
        let random = &mut Random(seed);
        let requests = stream(random, 60);
        let (most, last) = requests.split_at(50);
        let settled = random.below(50);
        let mut source = truncated(most, settled, *random.one_of(&[0, 2000, 1 << 20]));
        let mut reader = source.read_snapshot().expect("there is a thread");
        let before = contents_after_settled(&source);
        last.iter().for_each(|held| drop(apply(&mut source, held)));
        source.commit().expect("memory does not fail");

        let location = memory();
        let mut store = ChatStore::open(&location, &identity(), &InitialSettings::OPEN).expect("a new store opens");
        stream(random, 20).iter().for_each(|held| drop(apply(&mut store, held)));
        store.commit().expect("memory does not fail");
        let parts = std::iter::from_fn(|| reader.next_part().expect("memory does not fail")).collect();
        install(&mut store, parts).expect("the parts are unchanged");
        drop(store);
        let mut store = ChatStore::open(&location, &identity(), &InitialSettings::OPEN).expect("the store opens");
        assert_sound(&store);
        assert_eq!(contents(&store), before, "seed {seed}: requests applied after the export are not in it");
        assert_eq!(store.log().settled(), most[settled].uid);
        let (late, rest) = last.split_at(5);
        rest.iter().for_each(|held| drop(apply(&mut store, held)));
        store.insert(late.to_vec()).expect("memory does not fail");
        assert_sound(&store);
        assert_eq!((store.applied(), contents(&store)), (source.applied(), contents_after_settled(&source)));
    }
}

/// An undo record has the old values of all rows that a request has written: here, of hundreds of messages of a room that was closed.
#[test]
fn a_row_that_is_longer_than_a_part_comes_in_pieces() {
    let ann = actor("ann", 1);
    let room = |action| Command::Room { room: RoomName::parse("#ops").expect("a name"), action };
    let say = || {
        let to = Conversation::Room { name: RoomName::parse("#ops").expect("a name") };
        Command::Send { to, text: MessageText::parse("x".repeat(4096)).expect("a text") }
    };
    let makes = [create(&ann), room(RoomAction::Create { is_private: false })];
    let commands = makes.into_iter().chain((0..600).map(|_| say())).chain([room(RoomAction::Close)]);
    let mut requests: Vec<StampedRequest> =
        (1..).zip(commands).map(|(number, command)| held(number, 1, number, &ann, command)).collect();
    // The first request of another second removes most of the messages.
    requests.push(held(5000, 1, requests.len() as u64 + 1, &ann, send(&ann, "hi")));
    let source = store_of(&requests);
    let parts = parts(&source);
    let longest = |rows: &[SnapshotRow]| rows.iter().map(|row| row.key.0.len() + row.value.0.len()).sum::<usize>();
    assert!(parts.iter().all(|(rows, _)| longest(rows) < 2 * BODIES_BYTES + 1000));
    assert!(parts.iter().flat_map(|(rows, _)| rows).any(|row| row.continues), "no row is long");

    let mut store = store_of([]);
    install(&mut store, parts.clone()).expect("the parts are unchanged");
    assert_sound(&store);
    assert_eq!(contents(&store), contents(&source));

    let cut = |damage: &dyn Fn(&mut SnapshotRow)| {
        let mut parts = parts.clone();
        let mut rows = parts.iter_mut().flat_map(|(rows, _)| rows);
        damage(rows.find(|row| row.continues).expect("there is one"));
        matches!(install(&mut store_of([]), parts), Err(SnapshotError::Invalid(_)))
    };
    assert!(cut(&|row| row.continues = false), "the next piece is no row of its own");
    assert!(cut(&|row| row.key.0.push(0)), "the next piece is of another row");
}

#[test]
fn an_empty_store_can_be_sent() {
    let mut store = store_of(&stream(&mut Random(1), 5));
    install(&mut store, parts(&crate::store::testing::store())).expect("the parts are unchanged");
    assert_sound(&store);
    assert_eq!((store.applied(), contents(&store)), (&Applied::NOTHING, Vec::new()));
}

#[test]
fn a_snapshot_that_was_changed_on_its_way_is_not_installed() {
    let source = truncated(&stream(&mut Random(2), 40), 10, 0);
    let all = parts(&source);
    let refused = |damage: &dyn Fn(&mut Vec<SnapshotRow>, &mut SnapshotEnd)| {
        let mut store = store_of(&stream(&mut Random(3), 20));
        let before = contents(&store);
        let mut parts = all.clone();
        let (rows, end) = parts.last_mut().expect("there is one");
        damage(rows, end.as_mut().expect("it is the last"));
        let error = install(&mut store, parts).expect_err("the parts were changed");
        assert!(matches!(error, SnapshotError::Invalid(_)), "{error:?}");
        assert_eq!(contents(&store), before);
        assert_sound(&store);
    };
    refused(&|rows, _| drop(rows.remove(0)));
    refused(&|rows, _| rows[0].value.0.push(0));
    refused(&|rows, _| rows.swap(0, 1));
    refused(&|rows, _| rows[0].family = 77);
    let log =
        |rows: &Vec<SnapshotRow>| rows.iter().position(|row| row.family == schema::LOG_NUMBER).expect("there is a log");
    refused(&|rows, _| drop(rows.remove(log(rows))));
    refused(&|rows, _| drop(rows.remove(log(rows) + 1)));
    refused(&|rows, _| rows.last_mut().expect("it has undo records").value.0.push(0));
    refused(&|_, end| end.state_digest = Digest::ZERO);
    refused(&|_, end| end.undo_digest = Digest::ZERO);
    refused(&|_, end| end.base.position += 1);
    refused(&|_, end| end.applied.position += 1);
}

#[test]
fn a_request_under_a_uid_that_is_not_its_own_is_not_installed() {
    let ann = actor("ann", 1);
    let (first, second) = (held(1, 1, 1, &ann, create(&ann)), held(2, 1, 2, &ann, send(&ann, "hi")));
    for (uid, is_genuine) in [(second.uid, true), (Uid::new(second.uid.timestamp, b"another"), false)] {
        let mut source = store_of([&first]);
        source.apply(uid, &second.request).expect("memory does not fail");
        source.commit().expect("memory does not fail");
        let installed = install(&mut store_of([]), parts(&source));
        assert_eq!(installed.is_ok(), is_genuine, "{installed:?}");
    }
}

#[test]
fn a_crash_leaves_the_old_state_or_the_new() {
    let source = truncated(&stream(&mut Random(6), 40), 20, 0);
    let old = store_of(&stream(&mut Random(9), 20));
    let executed = executed(&stream(&mut Random(9), 20));
    let (mut olds, mut news) = (0, 0);
    for commits in 0.. {
        let location: Location = memory();
        let mut store = ChatStore::open(&location, &identity(), &InitialSettings::OPEN).expect("a new store opens");
        stream(&mut Random(9), 20).iter().for_each(|held| drop(apply(&mut store, held)));
        store.commit().expect("memory does not fail");
        store.database.writes_left = Some(commits);
        let is_done = install(&mut store, parts(&source)).is_ok();
        drop(store);
        if commits % 2 == 0 {
            let mut store = crate::store::open::open_as_left(&location, &identity(), &InitialSettings::OPEN)
                .expect("the store opens");
            store.database.writes_left = Some(1);
            assert!(store.resume_install().is_err() || contents(&store) == contents(&old) || is_done);
        }
        let store = ChatStore::open(&location, &identity(), &InitialSettings::OPEN).expect("the store opens");
        assert_sound(&store);
        if contents(&store) == contents(&old) {
            assert_eq!(store.orphans(Uid::MIN, 100).expect("it reads"), []);
            assert_eq!((store.applied(), news), (old.applied(), 0));
            olds += 1;
        } else {
            let orphans = store.orphans(Uid::MIN, 100).expect("it reads");
            assert_eq!(orphans, executed, "nothing that took effect in the old log is lost");
            assert_eq!((store.applied(), contents(&store)), (source.applied(), contents_after_settled(&source)));
            news += 1;
        }
        if is_done {
            break;
        }
    }
    assert!(olds >= 2 && news >= 3, "a weak test: {olds} {news}");
}

#[test]
fn requests_that_have_no_effect_in_a_snapshot_become_orphans() {
    let ann = actor("ann", 1);
    let all = [
        held(10, 1, 1, &ann, create(&ann)),
        held(20, 1, 2, &ann, send(&ann, "b")),
        held(30, 1, 3, &ann, send(&ann, "c")),
    ];
    // The source of the snapshot has the third without the second, so the third skips a number.
    let source = store_of([&all[0], &all[2]]);
    let mut store = store_of(&all);
    install(&mut store, parts(&source)).expect("the parts are unchanged");
    assert_eq!(store.orphans(Uid::MIN, 100).expect("it reads"), all[1..]);
    assert!(!store.effect_of(&all[2]).expect("it reads").is_there);
}

/// Those of these requests that are executed when they are applied in order: their session notes when it was used last.
fn executed(requests: &[StampedRequest]) -> Vec<StampedRequest> {
    let mut store = store();
    let mut is_executed = |held: &&StampedRequest| {
        apply(&mut store, held);
        let session: Option<Session> =
            store.rows.read(Column::Sessions, &session_key(held.request.client)).expect("it reads");
        session.is_some_and(|session| session.used == held.uid.timestamp)
    };
    let executed: Vec<StampedRequest> = requests.iter().filter(|held| is_executed(held)).cloned().collect();
    assert!(executed.len() > requests.len() / 2 && executed.len() < requests.len(), "a weak test");
    executed
}

#[test]
fn requests_that_were_rejected_because_of_their_session_are_no_orphans() {
    let (ann, bob) = (actor("ann", 1), actor("bob", 2));
    let all = [
        held(10, 1, 1, &ann, create(&ann)),
        held(20, 1, 2, &ann, send(&ann, "first")),
        held(30, 1, 2, &ann, send(&ann, "another command")),
        held(40, 1, 2, &bob, send(&ann, "another actor")),
        held(50, 1, 4, &ann, send(&ann, "a number skipped")),
        held(60, 1, 2, &ann, send(&ann, "first")),
        held(70, 2, 1, &ann, send(&bob, "rejected by the command itself")),
    ];
    let mut store = store_of(&all);
    install(&mut store, parts(&store_of(&all[..1]))).expect("the parts are unchanged");
    let orphans = store.orphans(Uid::MIN, 100).expect("it reads");
    assert_eq!(orphans, [all[1].clone(), all[6].clone()]);
}
