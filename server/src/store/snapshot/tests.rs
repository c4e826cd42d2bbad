//! Truncation and snapshots, by random streams of requests.

use super::super::testing::{
    Dice, actor, apply, assert_sound, contents, create, held, identity, memory, send, store, store_of, stream, uids,
};
use super::super::{Medium, Parting};
use super::*;
use stablechat_protocol::request::StampedRequest;

/// A store of these requests, settled up to the one at this place, that keeps so many bytes of its log.
fn truncated(requests: &[StampedRequest], settled: usize, retention: u64) -> ChatStore {
    let mut store = store_of(requests);
    store.retain(retention);
    store.settle(requests[settled].uid);
    store.truncate().expect("memory does not fail");
    store.commit().expect("memory does not fail");
    store
}

/// All parts of a snapshot.
fn parts(store: &ChatStore) -> Vec<Part> {
    let mut export = store.export().expect("there is a thread");
    std::iter::from_fn(|| export.next_part().expect("memory does not fail")).collect()
}

/// Puts a snapshot in the place of what a store has.
fn install(store: &mut ChatStore, parts: Vec<Part>) -> Result<(), ImportError> {
    let mut import = store.begin_import()?;
    for (rows, end) in parts {
        store.import(&mut import, rows)?;
        if let Some(end) = end {
            return store.install(import, &end);
        }
    }
    Err(ImportError::Refused("it has no end"))
}

/// The log from its settled end on, and all else.
fn contents_after_settled(store: &ChatStore) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let settled = store.settled().to_bytes();
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
    assert_eq!(short.common(&long.marks().expect("it reads")).expect("it reads"), None);
    let own = [short.last_mark(), short.settled_mark().expect("it reads"), short.base()];
    assert_eq!(long.common(&own).expect("it reads"), Some(short.last_mark()));
}

#[test]
fn a_truncated_log_says_where_it_begins() {
    let requests = stream(&mut Dice(3), 60);
    let all = store_of(&requests);
    let mut store = truncated(&requests, 40, 0);
    assert_sound(&store);
    assert_eq!(uids(&store).first(), Some(&requests[40].uid), "the last settled request stays");
    assert_eq!((store.base().uid, store.base().position), (requests[39].uid, 40));
    assert_eq!(store.applied(), all.applied());
    let marks = store.marks().expect("it reads");
    assert_eq!(marks.last(), Some(&store.base()));
    assert!(marks.contains(&store.settled_mark().expect("it reads")));
    assert_eq!(all.common(&[store.base()]).expect("it reads"), Some(store.base()));
    assert_eq!(store.common(&all.marks().expect("it reads")).expect("it reads"), Some(all.last_mark()));
    assert_eq!(store.tail(requests[39].uid, 1 << 20).expect("it reads"), (requests[40..].to_vec(), true));

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
    let requests = stream(&mut Dice(4), 60);
    let bytes = store_of(&requests).log_bytes;
    let store = truncated(&requests, 59, bytes);
    assert_eq!(store.base(), log::BEGIN, "it is not too long");
    let store = truncated(&requests, 59, bytes / 2);
    assert_sound(&store);
    assert!(store.log_bytes <= bytes / 2 && store.log_bytes > bytes / 3, "{} of {bytes}", store.log_bytes);
    let store = truncated(&requests, 0, 0);
    assert_eq!(store.base(), log::BEGIN, "only the last settled one could go, and it stays");
}

#[test]
fn of_two_logs_that_cannot_meet_one_gives_way() {
    let requests = stream(&mut Dice(5), 60);
    let ahead = truncated(&requests, 40, 0);
    let parting = |ours: &ChatStore, theirs: &ChatStore| {
        let common = theirs.common(&ours.marks().expect("it reads")).expect("it reads");
        ours.parting(common, theirs.base(), theirs.settled_mark().expect("it reads")).expect("it reads")
    };
    let behind = store_of(&requests[..30]);
    assert_eq!(parting(&behind, &ahead), Parting::GiveWay);
    assert_eq!(parting(&ahead, &behind), Parting::TheyGiveWay);
    assert_eq!(parting(&store(), &ahead), Parting::GiveWay);
    let near = store_of(&requests[..50]);
    assert_eq!((parting(&near, &ahead), parting(&ahead, &near)), (Parting::Follow, Parting::Follow));
    let mut other = requests.clone();
    other.remove(39);
    let differs = store_of(&other);
    assert_eq!(parting(&differs, &ahead), Parting::GiveWay, "what it lacks can no longer be had, or not be put there");
}

#[test]
fn a_snapshot_makes_the_same_store() {
    for seed in 0..20 {
        let dice = &mut Dice(seed);
        let requests = stream(dice, 60);
        let (most, last) = requests.split_at(50);
        let settled = dice.below(50);
        let mut source = truncated(most, settled, *dice.one_of(&[0, 2000, 1 << 20]));
        let mut export = source.export().expect("there is a thread");
        let before = contents_after_settled(&source);
        last.iter().for_each(|held| drop(apply(&mut source, held)));
        source.commit().expect("memory does not fail");

        let medium = memory();
        let mut store = ChatStore::open(&medium, &identity()).expect("a new store opens");
        stream(dice, 20).iter().for_each(|held| drop(apply(&mut store, held)));
        store.commit().expect("memory does not fail");
        let parts = std::iter::from_fn(|| export.next_part().expect("memory does not fail")).collect();
        install(&mut store, parts).expect("it is what was sent");
        drop(store);
        let mut store = ChatStore::open(&medium, &identity()).expect("the store opens");
        assert_sound(&store);
        assert_eq!(contents(&store), before, "seed {seed}: what came after the export is not in it");
        assert_eq!(store.settled(), most[settled].uid);
        let (late, rest) = last.split_at(5);
        rest.iter().for_each(|held| drop(apply(&mut store, held)));
        store.insert(late.to_vec()).expect("memory does not fail");
        assert_sound(&store);
        assert_eq!((store.applied(), contents(&store)), (source.applied(), contents_after_settled(&source)));
    }
}

#[test]
fn an_empty_store_can_be_sent() {
    let mut store = store_of(&stream(&mut Dice(1), 5));
    install(&mut store, parts(&super::super::testing::store())).expect("it is what was sent");
    assert_sound(&store);
    assert_eq!((store.applied(), contents(&store)), (&Applied::NOTHING, Vec::new()));
}

#[test]
fn what_was_not_sent_is_not_installed() {
    let source = truncated(&stream(&mut Dice(2), 40), 10, 0);
    let all = parts(&source);
    let refused = |damage: &dyn Fn(&mut Vec<SnapshotRow>, &mut SnapshotEnd)| {
        let mut store = store_of(&stream(&mut Dice(3), 20));
        let before = contents(&store);
        let mut parts = all.clone();
        let (rows, end) = parts.last_mut().expect("there is one");
        damage(rows, end.as_mut().expect("it is the last"));
        let error = install(&mut store, parts).expect_err("it is not what was sent");
        assert!(matches!(error, ImportError::Refused(_)), "{error:?}");
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
    refused(&|_, end| end.state_digest = Digest::ZERO);
    refused(&|_, end| end.base.position += 1);
    refused(&|_, end| end.applied.position += 1);
}

#[test]
fn a_crash_leaves_the_old_state_or_the_new() {
    let source = truncated(&stream(&mut Dice(6), 40), 20, 0);
    let old = store_of(&stream(&mut Dice(7), 20));
    let (mut olds, mut news) = (0, 0);
    for commits in 0.. {
        let medium: Medium = memory();
        let mut store = ChatStore::open(&medium, &identity()).expect("a new store opens");
        stream(&mut Dice(7), 20).iter().for_each(|held| drop(apply(&mut store, held)));
        store.commit().expect("memory does not fail");
        store.commits_left = Some(commits);
        let is_done = install(&mut store, parts(&source)).is_ok();
        drop(store);
        if commits % 2 == 0 {
            let mut store = super::super::open::open_as_left(&medium, &identity()).expect("the store opens");
            store.commits_left = Some(1);
            assert!(store.resume_install().is_err() || contents(&store) == contents(&old) || is_done);
        }
        let store = ChatStore::open(&medium, &identity()).expect("the store opens");
        assert_sound(&store);
        if contents(&store) == contents(&old) {
            assert_eq!(store.orphans(100).expect("it reads"), []);
            assert_eq!((store.applied(), news), (old.applied(), 0));
            olds += 1;
        } else {
            assert_eq!(
                store.orphans(100).expect("it reads"),
                stream(&mut Dice(7), 20),
                "nothing of the old log is lost"
            );
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
fn what_came_in_without_its_effect_is_put_aside_with_all_that_comes_before_it() {
    let ann = actor("ann", 1);
    let all = [
        held(10, 1, 1, &ann, create(&ann)),
        held(20, 1, 2, &ann, send(&ann, "b")),
        held(30, 1, 3, &ann, send(&ann, "c")),
    ];
    // Whose snapshot it is has the third without the second, so that it skips a number.
    let source = store_of([&all[0], &all[2]]);
    let mut store = store_of(&all);
    install(&mut store, parts(&source)).expect("it is what was sent");
    assert_eq!(store.orphans(100).expect("it reads"), all[1..]);
    assert!(!store.has_effect(&all[2]).expect("it reads"));
}
