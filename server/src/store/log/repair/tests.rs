//! Repair: single cases, and random streams of requests of which some come late.

use super::*;
use crate::random::Random;
use crate::store::state::keys::Column;
use crate::store::testing::{
    actor, apply, assert_sound, contents, create, held, identity, memory, send, store, store_of, stream, uids,
};
use crate::store::{Audience, Location, open};
use stablechat_protocol::answer::{QueryAnswer, Rejection};
use stablechat_protocol::command::Query;
use stablechat_protocol::conversation::{Conversation, InboxEntry, Page, ReadRange};
use stablechat_protocol::operator::InitialSettings;
use stablechat_protocol::request::QueryRequest;
use stablechat_protocol::room::RoomName;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::text::MessageText;
use stablechat_protocol::time::Timestamp;

/// The answers and messages that clients have received. Every account has a connection for each of its keys.
#[derive(Default)]
struct ClientView {
    answers: BTreeMap<Uid, Answer>,
    delivered: BTreeSet<(Actor, Uid)>,
}

impl ClientView {
    /// The outcome of a request has been sent to clients, as the store is now.
    fn outcome(&mut self, store: &ChatStore, uid: Uid, answer: &Answer, delivery: Option<&Delivery>) {
        self.answers.insert(uid, answer.clone());
        let Some(Delivery { message, audience }) = delivery else { return };
        let to = match audience {
            Audience::Pair { sender, recipient } => vec![sender.clone(), recipient.clone()],
            Audience::Room { id } => {
                let is_member = |actor: &Actor| store.rooms_of(actor).expect("memory does not fail").contains(id);
                logins().into_iter().filter(is_member).collect()
            }
        };
        self.delivered.extend(to.into_iter().map(|actor| (actor, message.uid)));
    }

    /// The report of a repair has been sent to clients. Those whose conversations it has touched get nothing of it, and fetch
    /// everything when it is over.
    fn repair(&mut self, store: &ChatStore, repair: &Repair) {
        let before = self.delivered.clone();
        for Changed { uid, answer, delivery, .. } in &repair.changed {
            assert!(self.answers[uid] != *answer, "{uid} has not changed");
            self.outcome(store, *uid, answer, delivery.as_ref());
        }
        for (held, outcome) in &repair.inserted {
            assert!(!self.answers.contains_key(&held.uid), "{} was known", held.uid);
            self.outcome(store, held.uid, &outcome.answer, outcome.delivery.as_ref());
        }
        self.delivered
            .retain(|(actor, uid)| !repair.touched.contains(&actor.account) || before.contains(&(actor.clone(), *uid)));
        for actor in logins().iter().filter(|actor| repair.touched.contains(&actor.account)) {
            self.delivered.extend(all_messages(store, actor).into_iter().map(|uid| (actor.clone(), uid)));
        }
    }
}

/// All accounts, with all keys that any of them can have.
fn logins() -> Vec<Actor> {
    let names = ["ann", "bob", "cid"];
    names.iter().flat_map(|name| (1..6).map(|key| actor(name, key))).collect()
}

/// The uids of all messages that an account can read.
fn all_messages(store: &ChatStore, actor: &Actor) -> Vec<Uid> {
    let ask = |query| {
        let query = QueryRequest { id: 1, actor: Some(actor.clone()), query };
        store.query(&query).expect("memory does not fail")
    };
    let QueryAnswer::Inbox { entries, .. } = ask(Query::Inbox { all: true, after: None, limit: 1000 }) else {
        return Vec::new();
    };
    let mut uids = Vec::new();
    for InboxEntry { conversation, .. } in entries {
        let query = Query::History { conversation, page: Page::Latest, limit: 1000 };
        if let QueryAnswer::Messages { messages, .. } = ask(query) {
            uids.extend(messages.iter().map(|message| message.uid));
        }
    }
    uids
}

/// What is unread of each conversation of each account.
fn unread(store: &ChatStore) -> Vec<QueryAnswer> {
    let inbox = |actor| {
        let query =
            QueryRequest { id: 1, actor: Some(actor), query: Query::Inbox { all: true, after: None, limit: 1000 } };
        store.query(&query).expect("memory does not fail")
    };
    logins().into_iter().map(inbox).collect()
}

/// Inserts without a failure.
fn insert(store: &mut ChatStore, requests: Vec<StampedRequest>) -> Repair {
    store.insert(requests).expect("memory does not fail")
}

/// Applies the stream with a third of it late, in random groups. Returns the view of the clients, and how many requests were undone
/// and how many answers changed.
fn apply_late(store: &mut ChatStore, stream: &[StampedRequest], random: &mut Random) -> (ClientView, u64, u64) {
    let mut view = ClientView::default();
    let (mut undone, mut changed) = (0, 0);
    let mut late = Vec::new();
    let mut rest = stream.iter().peekable();
    while rest.peek().is_some() || !late.is_empty() {
        if let Some(next) = rest.next() {
            if random.percent(33) {
                late.push(next.clone());
            } else if !view.answers.contains_key(&next.uid) {
                let Outcome { answer, delivery, .. } = apply(store, next);
                view.outcome(store, next.uid, &answer, delivery.as_ref());
            }
            if random.percent(20) {
                store.commit().expect("memory does not fail");
            }
        }
        if rest.peek().is_none() || random.percent(8) {
            let count = 1 + random.below(6);
            let mut group = random.take(&mut late, count);
            // Some that are known, and one or two that are next anyway.
            group.extend(
                (0..random.below(3))
                    .map(|_| random.one_of(stream).clone())
                    .filter(|held| view.answers.contains_key(&held.uid)),
            );
            group.extend(rest.by_ref().take(random.below(3)).cloned());
            let repair = insert(store, group);
            undone += repair.undone;
            changed += repair.changed.len() as u64;
            view.repair(store, &repair);
            assert_sound(store);
        }
    }
    (view, undone, changed)
}

#[test]
fn late_requests_come_out_as_if_they_had_been_in_time() {
    let (mut undone, mut changed, mut done) = (0, 0, 0);
    for seed in 0..60 {
        let random = &mut Random(seed);
        let stream = stream(random, 60);
        let (all, later) = stream.split_at(50);
        let mut ordered = store();
        let mut expected = ClientView::default();
        for held in all {
            let Outcome { answer, delivery, .. } = apply(&mut ordered, held);
            expected.outcome(&ordered, held.uid, &answer, delivery.as_ref());
        }
        ordered.commit().expect("memory does not fail");
        let mut repaired = store();
        repaired.repair_in_batches_of(*random.one_of(&[1, 1000, 2000, 4000, 1 << 20]));
        let (view, undone_here, changed_here) = apply_late(&mut repaired, all, random);

        assert_sound(&ordered);
        assert_eq!(repaired.applied(), ordered.applied(), "seed {seed}");
        assert_eq!(contents(&repaired), contents(&ordered), "seed {seed}");
        assert_eq!(unread(&repaired), unread(&ordered), "seed {seed}");
        assert_eq!(view.answers, expected.answers, "seed {seed}: clients know the answers that hold");
        for actor in logins() {
            let readable = all_messages(&ordered, &actor).into_iter().map(|uid| (actor.clone(), uid));
            let expected = readable.filter(|delivered| expected.delivered.contains(delivered));
            let missing: Vec<_> = expected.filter(|delivered| !view.delivered.contains(delivered)).collect();
            assert!(missing.is_empty(), "seed {seed}: not delivered: {missing:?}");
        }
        let last = all.last().map_or(0, |held| held.uid.timestamp.0 / 1_000_000_000);
        for second in (last - 30..last + 3).chain(all.iter().map(|held| held.uid.timestamp.0 / 1_000_000_000)) {
            assert_eq!(repaired.log().boundary(second), ordered.log().boundary(second), "seed {seed}: second {second}");
        }
        for held in later {
            assert_eq!(apply(&mut repaired, held), apply(&mut ordered, held), "seed {seed}");
        }
        undone += undone_here;
        changed += changed_here;
        done += expected.answers.values().filter(|answer| **answer == Answer::Done).count();
    }
    assert!(undone > 3000 && changed > 500 && done > 600, "a weak test: {undone} {changed} {done}");
}

/// A store in which the first commits of an insertion of `late` are durable and the next one is not; none when there are not
/// so many.
fn crashed(
    early: &[StampedRequest],
    settled: Uid,
    late: &[StampedRequest],
    batch_bytes: usize,
    commits: usize,
) -> Option<Location> {
    let location = memory();
    let mut store = ChatStore::open(&location, &identity(), &InitialSettings::OPEN).expect("a new store opens");
    for held in early {
        apply(&mut store, held);
    }
    store.settle(settled);
    store.commit().expect("memory does not fail");
    store.repair_in_batches_of(batch_bytes);
    store.database.writes_left = Some(commits);
    store.insert(late.to_vec()).is_err().then_some(location)
}

/// Fails unless the state of a store is that of the requests in its log up to the last applied one.
fn assert_applied_exactly(store: &ChatStore, all: &[StampedRequest]) {
    let applied = store.applied();
    let log: BTreeSet<Uid> = uids(store).into_iter().collect();
    let ordered = store_of(all.iter().filter(|held| held.uid <= applied.uid && log.contains(&held.uid)));
    assert_eq!(applied, ordered.applied());
    let state = |store: &ChatStore| {
        let is_state = |name: &str| Column::ALL.iter().any(|column| column.name() == name);
        contents(store).into_iter().filter(|(name, ..)| is_state(name)).collect::<Vec<_>>()
    };
    assert_eq!(state(store), state(&ordered));
}

#[test]
fn a_crash_between_any_two_batches_is_harmless() {
    let mut crashes = 0;
    for seed in 0..6 {
        let random = &mut Random(seed);
        let all = stream(random, 18);
        let (mut early, mut late) = (Vec::new(), Vec::new());
        let settled = all[random.below(6)].uid;
        for held in &all {
            let is_late = held.uid > settled && random.percent(35);
            if is_late { late.push(held.clone()) } else { early.push(held.clone()) }
        }
        let mut expected = store_of(&all);
        expected.settle(settled);
        expected.commit().expect("memory does not fail");
        let batch_bytes = *random.one_of(&[1, 500, 1500]);
        for commits in 0.. {
            let Some(location) = crashed(&early, settled, &late, batch_bytes, commits) else { break };
            crashes += 1;
            let mut left = open::open_as_left(&location, &identity(), &InitialSettings::OPEN).expect("the store opens");
            assert_applied_exactly(&left, &all);
            left.repair_in_batches_of(batch_bytes);
            left.database.writes_left = Some(random.below(5));
            let crashed_again = left.resume_repair().is_err();
            assert_applied_exactly(&left_or_reopened(left, &location, crashed_again), &all);

            let mut store = ChatStore::open(&location, &identity(), &InitialSettings::OPEN).expect("the store opens");
            assert_sound(&store);
            let log: BTreeSet<Uid> = uids(&store).into_iter().collect();
            assert!(early.iter().all(|held| log.contains(&held.uid)), "seed {seed}, {commits} commits: lost");
            let resumed: Vec<Uid> =
                store.take_resumed_repair().inserted.into_iter().map(|(held, _)| held.uid).collect();
            assert!(resumed.iter().all(|uid| late.iter().any(|held| held.uid == *uid)), "seed {seed}: reported as new");
            let repair = insert(&mut store, late.clone());
            assert!(repair.unplaceable.is_empty());
            assert_sound(&store);
            assert_eq!(contents(&store), contents(&expected), "seed {seed}, {commits} commits");
        }
    }
    assert!(crashes > 50, "a weak test: {crashes} crashes");
}

/// The store itself, or as it is found after a crash.
fn left_or_reopened(store: ChatStore, location: &Location, crashed: bool) -> ChatStore {
    if !crashed {
        return store;
    }
    drop(store);
    open::open_as_left(location, &identity(), &InitialSettings::OPEN).expect("the store opens")
}

#[test]
fn changed_answers_and_touched_accounts_are_reported() {
    let (ann, bob, other_bob) = (actor("ann", 1), actor("bob", 2), actor("bob", 3));
    let late = held(20, 3, 1, &other_bob, create(&other_bob));
    let early = [
        held(10, 1, 1, &ann, create(&ann)),
        held(30, 2, 1, &bob, create(&bob)),
        held(40, 1, 2, &ann, send(&bob, "hello")),
        held(50, 1, 3, &ann, send(&ann, "note")),
    ];
    let mut store = store_of(&early);
    let repair = insert(&mut store, vec![late.clone()]);
    assert_eq!(repair.undone, 3);
    assert_eq!(repair.inserted, [(late, Outcome::done())]);
    let taken = Answer::Rejected { reason: Rejection::AlreadyExists { name: bob.account.clone() } };
    let [created] = &repair.changed[..] else { panic!("{:?}", repair.changed) };
    assert_eq!((created.uid, created.request.client, created.request.sequence), (early[1].uid, ClientId([2; 16]), 1));
    assert_eq!((&created.answer, &created.delivery), (&taken, &None));
    let bobs = BTreeSet::from([bob.account.clone()]);
    assert_eq!(repair.touched, bobs, "the message to bob is another bob's now, who fetches it");
}

#[test]
fn an_inserted_message_is_unread_and_reopens_the_range_that_it_falls_into() {
    let (ann, bob) = (actor("ann", 1), actor("bob", 2));
    let read = |uids: &[Uid]| {
        let range = ReadRange::of(uids).expect("there are some");
        Command::Read { conversation: Conversation::with(&ann.account), range }
    };
    let sent: Vec<StampedRequest> =
        (1..=6).map(|number| held(30 + number, 1, 1 + number, &ann, send(&bob, &format!("{number}")))).collect();
    let uids: Vec<Uid> = sent.iter().map(|held| held.uid).collect();
    let mut early = vec![held(10, 1, 1, &ann, create(&ann)), held(20, 2, 1, &bob, create(&bob))];
    early.extend(sent);
    early.push(held(50, 2, 2, &bob, read(&uids[..2])));
    early.push(held(51, 2, 3, &bob, read(&uids[2..4])));
    early.push(held(52, 2, 4, &bob, read(&uids[4..])));
    let mut store = store_of(&early);
    assert_eq!(unread_of(&store, &bob), 0);

    // Between the third and the fourth: the second range does not hold, and what was inserted is unread with it.
    let late = held(33, 3, 1, &ann, send(&bob, "late"));
    let late = StampedRequest { uid: late.request.uid(Timestamp(33_500_000)), ..late };
    let repair = insert(&mut store, vec![late.clone()]);
    let outdated = Answer::Rejected { reason: Rejection::Outdated };
    assert_eq!(
        repair.changed.iter().map(|changed| (changed.uid, &changed.answer)).collect::<Vec<_>>(),
        [(early[9].uid, &outdated)]
    );
    assert_eq!(repair.touched, BTreeSet::from([bob.account.clone()]));
    assert_eq!(unread_of(&store, &bob), 3);
    let again = held(60, 2, 5, &bob, read(&[uids[2], late.uid, uids[3]]));
    assert_eq!(apply(&mut store, &again).answer, Answer::Done);
    assert_eq!(unread_of(&store, &bob), 0);
    store.commit().expect("memory does not fail");
    assert_sound(&store);
}

/// A message comes into a range, and another one goes from it: there are as many as before.
#[test]
fn a_range_with_another_message_in_it_is_not_read() {
    let (ann, bob, cid) = (actor("ann", 1), actor("bob", 2), actor("cid", 3));
    let name = RoomName::parse("#ops").expect("a name");
    let room = |action| Command::Room { room: name.clone(), action };
    let say = |text: &str| Command::Send {
        to: Conversation::Room { name: name.clone() },
        text: MessageText::parse(text).expect("a text"),
    };
    let early = [
        held(10, 1, 1, &ann, create(&ann)),
        held(11, 2, 1, &bob, create(&bob)),
        held(12, 3, 1, &cid, create(&cid)),
        held(20, 1, 2, &ann, room(RoomAction::Create { is_private: false })),
        held(21, 2, 2, &bob, room(RoomAction::Join)),
        held(22, 3, 2, &cid, room(RoomAction::Join)),
        held(30, 1, 3, &ann, say("first")),
        held(40, 3, 3, &cid, say("from one who has left before")),
    ];
    let shown = [early[6].uid, early[7].uid];
    let range = ReadRange::of(&shown).expect("two");
    let read = Command::Read { conversation: Conversation::Room { name: name.clone() }, range };
    let mut store = store_of(early.iter().chain(&[held(50, 2, 3, &bob, read)]));
    assert_eq!(unread_of(&store, &bob), 0);

    let late = vec![held(25, 4, 1, &cid, room(RoomAction::Leave)), held(35, 5, 1, &ann, say("late"))];
    let repair = insert(&mut store, late);
    let answers: Vec<&Answer> = repair.changed.iter().map(|changed| &changed.answer).collect();
    let no_member = Answer::Rejected { reason: Rejection::NotAMember { room: name } };
    assert_eq!(answers, [&no_member, &Answer::Rejected { reason: Rejection::Outdated }]);
    assert_eq!(unread_of(&store, &bob), 2);
    assert_sound(&store);
}

/// How many messages an account has not read.
fn unread_of(store: &ChatStore, actor: &Actor) -> u64 {
    let query = Query::Inbox { all: false, after: None, limit: 1000 };
    let query = QueryRequest { id: 1, actor: Some(actor.clone()), query };
    match store.query(&query).expect("memory does not fail") {
        QueryAnswer::Inbox { entries, .. } => entries.iter().map(|entry| entry.unread).sum(),
        other => panic!("no inbox: {other:?}"),
    }
}

#[test]
fn a_resumed_repair_reports_what_changed() {
    let (ann, other_ann) = (actor("ann", 1), actor("ann", 2));
    let early = [held(20, 1, 1, &ann, create(&ann)), held(30, 1, 2, &ann, Command::Delete)];
    let late = held(10, 2, 1, &other_ann, create(&other_ann));
    let location =
        crashed(&early, Uid::MIN, std::slice::from_ref(&late), REPAIR_BATCH_BYTES, 2).expect("there are three batches");
    let mut store = ChatStore::open(&location, &identity(), &InitialSettings::OPEN).expect("the store opens");
    let repair = store.take_resumed_repair();
    assert_eq!(repair.undone, 2);
    assert_eq!(repair.changed.iter().map(|changed| changed.uid).collect::<Vec<_>>(), [early[0].uid, early[1].uid]);
    assert_eq!(repair.inserted.iter().map(|(held, _)| held.uid).collect::<Vec<_>>(), [late.uid]);
    assert_eq!(store.take_resumed_repair(), Repair::default());
}

#[test]
fn nothing_is_inserted_into_the_settled_prefix() {
    let requests = stream(&mut Random(1), 20);
    let every_other = |from: usize| requests.iter().skip(from).step_by(2).cloned().collect::<Vec<StampedRequest>>();
    let (late, early) = (every_other(0), every_other(1));
    let location = memory();
    let mut store = ChatStore::open(&location, &identity(), &InitialSettings::OPEN).expect("a new store opens");
    early.iter().for_each(|held| drop(apply(&mut store, held)));
    store.commit().expect("memory does not fail");
    store.settle(early[5].uid);
    store.settle(early[3].uid);
    assert_eq!(store.log().settled(), early[5].uid, "it does not go back");
    store.commit().expect("memory does not fail");
    drop(store);

    let mut store = ChatStore::open(&location, &identity(), &InitialSettings::OPEN).expect("the store opens");
    assert_sound(&store);
    assert_eq!(store.log().settled(), early[5].uid, "it is remembered");
    let repair = insert(&mut store, requests.clone());
    let (lost, placed): (Vec<StampedRequest>, Vec<StampedRequest>) =
        late.into_iter().partition(|held| held.uid <= early[5].uid);
    assert_eq!(repair.unplaceable, lost);
    assert_eq!(repair.inserted.into_iter().map(|(held, _)| held).collect::<Vec<_>>(), placed);
    assert_sound(&store);
    store.settle(Uid::MAX);
    assert_eq!(store.log().settled(), store.applied().uid, "requests that are not applied are not settled");
    store.commit().expect("memory does not fail");
    assert_sound(&store);
}

#[test]
fn check_finds_what_a_repair_must_not_leave() {
    let requests = stream(&mut Random(2), 10);
    let key = requests[4].uid.to_bytes();
    let faults = |damage: &dyn Fn(&rocksdb::DB) -> Result<(), rocksdb::Error>| {
        let store = store_of(&requests);
        damage(store.database.db()).expect("memory does not fail");
        store.check().faults.len()
    };
    assert_eq!(faults(&|_| Ok(())), 0);
    assert_eq!(faults(&|db| db.delete_cf(family(db, schema::UNDO), key)), 1);
    assert_eq!(faults(&|db| db.put_cf(family(db, schema::UNDO), [9; 24], b"")), 1);
    assert_eq!(faults(&|db| db.put_cf(family(db, schema::UNDONE), key, b"")), 1);
}

/// A replica that catches up does a batch in each wake, and takes a wake of more than half the delivery bound for a pause.
#[test]
fn a_batch_of_short_messages_is_done_soon() {
    let ann = actor("ann", 1);
    let late = held(2, 2, 1, &ann, send(&ann, "late"));
    let sent = (3..1000).map(|at| held(at, 1, at - 1, &ann, send(&ann, "a message of thirty characters")));
    let early: Vec<StampedRequest> = std::iter::once(held(1, 1, 1, &ann, create(&ann))).chain(sent).collect();
    let mut store = store_of(&early);
    store.begin_inserting(vec![late]).expect("memory does not fail");

    let (mut most_undone, mut most_applied, mut is_done) = (0, 0, false);
    while !is_done {
        let before = store.applied().position;
        is_done = store.go_on_inserting().expect("memory does not fail").1;
        most_undone = most_undone.max(before.saturating_sub(store.applied().position));
        most_applied = most_applied.max(store.applied().position.saturating_sub(before));
    }
    assert!((400..600).contains(&most_undone), "{most_undone} requests undone in one batch");
    assert!((150..300).contains(&most_applied), "{most_applied} requests applied in one batch");
    assert_eq!(store.applied().position, early.len() as u64 + 1);
}

/// A batch that is bounded by bytes, not by requests: a few long messages fill it, many short requests do not.
#[test]
fn a_batch_is_full_when_it_has_many_bytes() {
    let ann = actor("ann", 1);
    let text = "x".repeat(4000);
    let mut requests = vec![held(1, 1, 1, &ann, create(&ann))];
    requests.extend((2..50).map(|at| held(at, 1, at, &ann, send(&ann, if at % 2 == 0 { &text } else { "x" }))));
    let (late, early) = (requests.remove(1), requests);
    let mut store = store_of(&early);
    store.repair_in_batches_of(20_000);
    store.begin_inserting(vec![late]).expect("memory does not fail");
    let (mut batches, mut largest, mut is_done) = (0, 0, false);
    while !is_done {
        let (repair, done) = store.go_on_inserting().expect("memory does not fail");
        (batches, largest, is_done) = (batches + 1, largest.max(repair.undone), done);
    }
    assert!(batches > 8, "some 100 kB of messages do not fit into {batches} batches of 20 kB");
    assert!((2..20).contains(&largest), "{largest} requests in one batch");
    assert_eq!(store.uncommitted_bytes(), 0);
    assert_sound(&store);
}

/// Batches of no bytes at all: each does one request nevertheless.
#[test]
fn the_smallest_batches_end() {
    let ann = actor("ann", 1);
    let mut requests = vec![held(1, 1, 1, &ann, create(&ann))];
    requests.extend((2..8).map(|at| held(at, 1, at, &ann, send(&ann, "x"))));
    let (late, early) = (requests.drain(1..3).collect::<Vec<_>>(), requests);
    let mut store = store_of(&early);
    store.repair_in_batches_of(0);
    store.begin_inserting(late.clone()).expect("memory does not fail");

    // Four requests are undone, two are inserted, and six are applied.
    let ended = (0..4 + 2 + 6).any(|_| store.go_on_inserting().expect("memory does not fail").1);
    assert!(ended);
    assert_eq!(store.applied().position, (early.len() + late.len()) as u64);
    assert_sound(&store);
}
