//! Limits that take many requests to reach, and the cost of a page of many messages.

use super::*;
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
use stablechat_protocol::answer::QueryAnswer;
use stablechat_protocol::command::Query;
use stablechat_protocol::conversation::Page;
use stablechat_protocol::request::QueryRequest;
use stablechat_protocol::room::{MEMBERS_MAX, MEMBERSHIPS_MAX};

/// A store, and the number of requests that it got.
struct Busy {
    store: ChatStore,
    requests: u64,
}

impl Busy {
    fn new() -> Busy {
        Busy { store: in_memory(), requests: 0 }
    }

    /// Applies a request, a millisecond after the last one, as the first of a session of its own.
    fn act(&mut self, name: &str, command: Command) -> (Uid, Answer) {
        self.requests += 1;
        let actor = (!matches!(command, Command::Create { .. })).then(|| actor(name));
        let client = ClientId(u128::from(self.requests).to_be_bytes());
        let request = Request { client, sequence: 1, actor, command };
        let uid = request.uid(Timestamp(self.requests * 1_000_000));
        let answer = self.store.apply(uid, &request).expect("memory does not fail").answer;
        if self.store.is_batch_full() {
            self.store.commit().expect("memory does not fail");
        }
        (uid, answer)
    }

    fn done(&mut self, name: &str, command: Command) -> Uid {
        let (uid, answer) = self.act(name, command);
        assert_eq!(answer, Answer::Done, "{name}");
        uid
    }
}

fn room(name: &str, action: RoomAction) -> Command {
    Command::Room { room: RoomName::parse(name).expect("a name"), action }
}

fn rejected(reason: Rejection) -> Answer {
    Answer::Rejected { reason }
}

#[test]
fn an_account_is_a_member_of_a_thousand_rooms_at_most() {
    let mut busy = Busy::new();
    for name in ["alice", "bob"] {
        busy.done(name, create(name));
    }
    busy.done("bob", room("#of-bob", RoomAction::Create { is_private: false }));
    for number in 0..MEMBERSHIPS_MAX {
        busy.done("alice", room(&format!("#room-{number}"), RoomAction::Create { is_private: false }));
    }
    let too_many = rejected(Rejection::TooManyRooms);
    assert_eq!(busy.act("alice", room("#of-bob", RoomAction::Join)).1, too_many);
    assert_eq!(busy.act("alice", room("#one-more", RoomAction::Create { is_private: true })).1, too_many);
    busy.done("alice", room("#room-0", RoomAction::Leave));
    busy.done("alice", room("#of-bob", RoomAction::Join));
    assert_eq!(busy.act("alice", room("#one-more", RoomAction::Create { is_private: true })).1, too_many);
}

#[test]
fn a_room_has_ten_thousand_members_at_most() {
    let mut busy = Busy::new();
    busy.done("owner", create("owner"));
    busy.done("owner", room("#ops", RoomAction::Create { is_private: false }));
    for number in 1..=MEMBERS_MAX {
        busy.done("", create(&format!("member-{number}")));
    }
    for number in 1..MEMBERS_MAX {
        busy.done(&format!("member-{number}"), room("#ops", RoomAction::Join));
    }
    let last = format!("member-{MEMBERS_MAX}");
    let full = rejected(Rejection::RoomFull { room: RoomName::parse("#ops").expect("a name") });
    assert_eq!(busy.act(&last, room("#ops", RoomAction::Join)).1, full);
    busy.done("member-5", room("#ops", RoomAction::Leave));
    busy.done(&last, room("#ops", RoomAction::Join));
    assert_eq!(busy.act("member-5", room("#ops", RoomAction::Join)).1, full);
}

/// How many steps in the memory of the store it takes to find the messages around the middle of a conversation that has so many.
fn steps_to_the_middle(count: usize) -> u64 {
    let mut busy = Busy::new();
    for name in ["alice", "bob"] {
        busy.done(name, create(name));
    }
    let mut uids = Vec::new();
    for number in 0..count {
        let [from, to] = if number % 2 == 0 { ["alice", "bob"] } else { ["bob", "alice"] };
        uids.push(busy.done(from, send(to)));
        busy.done(to, read(from, &uids[number..]));
    }
    busy.store.commit().expect("memory does not fail");
    let query = QueryRequest {
        id: 1,
        actor: Some(actor("alice")),
        query: Query::History {
            conversation: Conversation::with(&account("bob")),
            page: Page::Around { uid: uids[count / 2] },
            limit: 20,
        },
    };
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut counters = PerfContext::default();
    counters.reset();
    let answer = busy.store.query(&query).expect("memory does not fail");
    let metrics = [PerfMetric::SeekOnMemtableCount, PerfMetric::NextOnMemtableCount, PerfMetric::PrevOnMemtableCount];
    let steps = metrics.into_iter().map(|metric| counters.metric(metric)).sum();
    set_perf_stats(PerfStatsLevel::Disable);
    let QueryAnswer::Messages { messages, earlier: true, later: true } = answer else { panic!("{answer:?}") };
    let found: Vec<Uid> = messages.iter().map(|message| message.uid).collect();
    assert_eq!(found, uids[count / 2 - 10..count / 2 + 10]);
    steps
}

#[test]
fn a_page_from_the_middle_of_many_messages_costs_as_much_as_one_of_few() {
    let [of_few, of_many] = [100, 10_000].map(steps_to_the_middle);
    assert!(of_few >= 20, "the steps are counted: {of_few}");
    assert_eq!(of_many, of_few);
}
