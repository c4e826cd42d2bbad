//! The log: the marks, pieces and bodies that peers get, and its invariants.

use super::*;
use crate::random::Random;
use crate::store::ChatStore;
use crate::store::state::keys::{Column, ConversationId, session_answer_key};
use crate::store::state::values::{Head, Point};
use crate::store::testing::{actor, apply, create, held, send, store, store_of, stream, uids};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;

/// The log of a store with a request at each of these seconds.
fn log_at(seconds: impl IntoIterator<Item = u64>) -> (ChatStore, Vec<StampedRequest>) {
    let ann = actor("ann", 1);
    let requests: Vec<StampedRequest> =
        seconds.into_iter().map(|second| held(1000 * second, 1, 1, &ann, create(&ann))).collect();
    (store_of(&requests), requests)
}

#[test]
fn uncommitted_entries_are_not_read() {
    let (mut store, requests) = log_at(1..3);
    let (last, next) = (store.log().last_mark(), stream(&mut Random(0), 1).remove(0));
    apply(&mut store, &next);
    assert!(!store.log().contains(next.uid).expect("it reads"));
    assert!(store.log().contains(requests[1].uid).expect("it reads"));
    let none = Bodies { requests: vec![], absent: vec![next.uid] };
    assert_eq!(store.log().bodies(&[next.uid], 1000).expect("it reads"), none);
    assert_eq!((store.log().last_mark(), store.log().marks().expect("it reads")[0]), (last, last));
    assert_eq!(store.log().piece_after(Uid::MIN, 100_000).expect("it reads"), (requests, true));
    store.commit().expect("memory does not fail");
    assert!(store.log().contains(next.uid).expect("it reads"));
    assert_eq!(store.log().last_mark(), store.applied().mark());
}

#[test]
fn an_entry_is_encoded_from_its_encoded_request() {
    let (store, requests) = log_at(1..2);
    let entry = store.log().entries(Uid::MIN).next().expect("one").expect("it reads").1;
    let parts = LogEntry::encode(entry.position, &entry.log_digest, &to_cbor(&requests[0].request));
    assert_eq!(parts, to_cbor(&entry));
}

#[test]
fn marks_lie_further_and_further_back() {
    let (store, requests) = log_at(1000..1200);
    let marks = store.log().marks().expect("it reads");
    let seconds: Vec<u64> = marks.iter().map(|mark| mark.uid.timestamp.0 / 1_000_000_000).collect();
    assert_eq!(seconds, [1199, 1197, 1196, 1194, 1190, 1182, 1166, 1134, 1070, 1000]);
    for mark in marks {
        assert_eq!(requests[mark.position as usize - 1].uid, mark.uid);
    }
    let (store, _) = log_at([1, 17_000_000_000]);
    assert_eq!(store.log().marks().expect("it reads").len(), 2);
    assert_eq!(crate::store::testing::store().log().marks().expect("it reads"), []);
}

#[test]
fn the_common_mark_is_the_newest_with_the_same_log_before_it() {
    let (store, requests) = log_at(1..100);
    let other = store_of(requests.iter().filter(|held| held.uid != requests[85].uid));
    let common = store.log().common(&other.log().marks().expect("it reads")).expect("it reads").expect("there is one");
    assert_eq!(common.position, 82, "the marks are at 99, 97, 96, 94, 90 and 82 s, and the missing request is at 86 s");
    assert_eq!(
        store.log().common(&store.log().marks().expect("it reads")).expect("it reads"),
        Some(store.log().last_mark())
    );
    assert_eq!(store.log().common(&[]).expect("it reads"), None);
    assert_eq!(log_at([7]).0.log().common(&store.log().marks().expect("it reads")).expect("it reads"), None);
}

#[test]
fn a_tail_comes_in_pieces() {
    let (store, requests) = log_at(1..50);
    assert_eq!(uids(&store).len(), requests.len());
    let mut after = Uid::MIN;
    let mut got = Vec::new();
    loop {
        let (piece, is_end) = store.log().piece_after(after, 1000).expect("it reads");
        assert!(piece.len() < 20);
        after = piece.last().map_or(after, |held| held.uid);
        got.extend(piece);
        if is_end {
            break;
        }
    }
    assert_eq!(got, requests);
    assert_eq!(store.log().piece_after(after, 0).expect("it reads"), (vec![], true));
    assert_eq!(store.log().piece_after(Uid::MIN, 0).expect("it reads"), (requests[..1].to_vec(), false));
    let wanted = [requests[3].uid, Uid::MAX, requests[1].uid, requests[2].uid];
    let found = |at: &[usize]| at.iter().map(|at| requests[*at].clone()).collect();
    let all = Bodies { requests: found(&[3, 1, 2]), absent: vec![Uid::MAX] };
    assert_eq!(store.log().bodies(&wanted, 1000).expect("it reads"), all);
    let some = Bodies { requests: found(&[3]), absent: vec![] };
    assert_eq!(store.log().bodies(&wanted, 1).expect("it reads"), some, "the rest was not looked for");
}

#[test]
fn an_empty_log_has_an_end() {
    let store = store();
    assert_eq!(store.log().last_mark(), BEGIN);
    assert_eq!(store.log().piece_after(Uid::MIN, 1000).expect("it reads"), (vec![], true));
}

/// A sound store that is settled and truncated in the middle.
fn truncated() -> ChatStore {
    let requests = stream(&mut Random(9), 40);
    let mut store = store_of(&requests);
    store.settle(requests[20].uid);
    store.retain(0);
    store.truncate().expect("memory does not fail");
    store.commit().expect("memory does not fail");
    assert_eq!(store.check().faults, [""; 0]);
    store
}

#[test]
fn violated_invariants_are_found() {
    let faults = |damage: &dyn Fn(&mut Log)| {
        let mut store = truncated();
        damage(&mut store.log);
        store.check().faults.join("; ")
    };
    let found = faults(&|log| log.settled.timestamp = log.applied.uid.timestamp.next());
    assert!(found.contains("is settled, but only"), "{found}");
    let found = faults(&|log| log.settled = Uid::MIN);
    assert!(found.contains("the log is truncated up to"), "{found}");
    let found = faults(&|log| log.base.position = log.applied.position);
    assert!(found.contains("the log begins after"), "{found}");
    let found = faults(&|log| log.bytes = 0);
    assert!(found.contains("the log has 0 bytes in"), "{found}");
    let found = faults(&|log| log.applied = Applied { uid: log.applied.uid, ..Applied::NOTHING });
    assert!(found.contains("the state digest is"), "{found}");
    let found = faults(&|log| log.committed = BEGIN);
    assert!(found.contains("is not the last request"), "{found}");
    let found = faults(&|log| log.boundaries.go_on(&log.applied.clone(), Timestamp::MAX));
    assert!(found.contains("a second is remembered to end with"), "{found}");
}

#[test]
#[should_panic(expected = "is settled, but only")]
fn a_violated_invariant_stops_the_store() {
    let mut store = truncated();
    store.log.settled = Uid::MAX;
    let next = stream(&mut Random(10), 200).pop().expect("there are many");
    apply(&mut store, &next);
}

#[test]
fn counts_that_differ_from_their_rows_are_found() {
    let ann = actor("ann", 1);
    let mut store = store_of(&[held(1, 1, 1, &ann, create(&ann)), held(2, 1, 2, &ann, send(&ann, "a note"))]);
    let id = store.log().entries(Uid::MIN).next().expect("an entry").expect("it reads").0;
    let key = ConversationId::of_two(id, id).key();
    let head: Head = store.rows.read(Column::Heads, &key).expect("memory does not fail").expect("there is one");
    let end = Point { position: 2, ..head.end };
    store.rows.put(Column::Heads, key, &Head { end, ..head }).expect("memory does not fail");
    let forgotten = session_answer_key(ClientId([1; 16]), 1);
    store.rows.remove(Column::Sessions, forgotten).expect("memory does not fail");
    let faults = store.check().faults.join("; ");
    assert!(faults.contains("but its head is Point"), "{faults}");
    assert!(faults.contains("has 1 answers, and should have 2"), "{faults}");
}
