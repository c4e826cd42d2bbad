//! Attacks by requests: of accounts, and of strangers who make accounts and sessions.

use super::attack::{Attack, By, Login, Opening, Over, Rates, Reading, Step, Then, Turn};
use super::targets::Hostile;
use crate::session::{conversation, send, wall_clock};
use fastrand::Rng;
use stablechat_protocol::command::Command;
use stablechat_protocol::conversation::{ReadRange, UidSum};
use stablechat_protocol::digest::Digest;
use stablechat_protocol::message::ToReplica;
use stablechat_protocol::operator::{OPERATOR, Operation, Registration};
use stablechat_protocol::room::{RoomAction, RoomName, TOPIC_MAX, Topic};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::time::Duration;

/// How many requests of a session are sent in one step.
const BATCH: u64 = 64;
/// The time between two timestamps at which the connections of a group send different requests.
const SLOT: Duration = Duration::from_millis(20);

pub static ATTACKS: &[Attack] = &[
    Attack {
        name: "many-sessions",
        by: By::Stranger,
        summary: "begins a session for each request",
        rates: Rates { connections: 30, opens: 30, bytes: 200_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::Greeting,
        next: |turn| Step::message(&turn.lone_request(Command::Delete)),
    },
    Attack {
        name: "account-churn",
        by: By::Stranger,
        summary: "creates accounts, sends a message from each, and deletes half of them",
        rates: Rates { connections: 30, opens: 30, bytes: 150_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::Greeting,
        next: short_lived_account,
    },
    Attack {
        name: "mailbox-floods",
        by: By::Account,
        summary: "sends to one account, or to half of the honest pair, as much as it can",
        rates: Rates { connections: 12, opens: 30, bytes: 1_000_000 },
        over: Over::Tls,
        reading: Reading::Always,
        opening: Opening::AS_MORDRED,
        next: flood,
    },
    Attack {
        name: "deaf-deliveries",
        by: By::Account,
        summary: "sends large messages to itself, and reads neither deliveries nor answers",
        rates: Rates { connections: 60, opens: 60, bytes: 5_000_000 },
        over: Over::Tls,
        reading: Reading::Never,
        opening: Opening::Login(|group| match group.is_multiple_of(2) {
            true => Login { account: 0, receive: true },
            false => Login { account: 1, receive: false },
        }),
        next: deaf,
    },
    Attack {
        name: "odd-timestamps",
        by: By::Account,
        summary: "stamps requests with any time from 1970 to 2554",
        rates: Rates { connections: 30, opens: 30, bytes: 200_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::AS_MORDRED,
        next: odd_timestamps,
    },
    Attack {
        name: "split-bodies",
        by: By::Account,
        summary: "sends a different request to each replica, in the same session, with the same number and timestamp",
        rates: Rates { connections: 30, opens: 30, bytes: 200_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::AS_MORDRED,
        next: split_bodies,
    },
    Attack {
        name: "odd-sequences",
        by: By::Account,
        summary: "sends requests of several accounts in one session, with gaps, repeated numbers and other bodies",
        rates: Rates { connections: 30, opens: 30, bytes: 200_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::Login(|group| Login { account: 1 + group as usize % 2, receive: false }),
        next: odd_sequences,
    },
    Attack {
        name: "odd-ranges",
        by: By::Account,
        summary: "says that it has read ranges that do not exist, overlap, or have other messages",
        rates: Rates { connections: 30, opens: 30, bytes: 3_000_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::AS_MORDRED,
        next: odd_range,
    },
    Attack {
        name: "room-floods",
        by: By::Account,
        summary: "makes and closes rooms, joins and leaves them, invites everybody, and talks there",
        rates: Rates { connections: 30, opens: 30, bytes: 1_000_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::AS_MORDRED,
        next: room_flood,
    },
    Attack {
        name: "repeated-requests",
        by: By::Account,
        summary: "sends the same request again and again, with the same timestamp or another",
        rates: Rates { connections: 30, opens: 30, bytes: 2_000_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::AS_MORDRED,
        next: repetitions,
    },
    Attack {
        name: "abandoned-requests",
        by: By::Account,
        summary: "sends requests to one replica, and closes the connection at once",
        rates: Rates { connections: 30, opens: 300, bytes: 500_000 },
        over: Over::Tls,
        reading: Reading::Never,
        opening: Opening::AS_MORDRED,
        next: |turn| Step { then: Then::Close, ..batch(turn, "vera", 40, 1) },
    },
    Attack {
        name: "false-operators",
        by: By::Account,
        summary: "asks for what only operators may do, as an account, and as an operator with a key that is none's",
        rates: Rates { connections: 30, opens: 30, bytes: 200_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::AS_MORDRED,
        next: operations,
    },
];

/// Requests of one new session that send messages of so many bytes.
fn batch(turn: &mut Turn, to: &str, length: usize, requests: u64) -> Step {
    let client = turn.client();
    let first = wall_clock();
    let request = |sequence: u64| {
        let timestamp = first.after(Duration::from_nanos(sequence));
        ToReplica::Request { client, sequence, timestamp, command: send(to, "x".repeat(length)) }
    };
    let requests: Vec<ToReplica> = (1..=requests).map(request).collect();
    Step::messages(&requests, Then::Continue)
}

/// The whole life of an account; half of them live on.
fn short_lived_account(turn: &mut Turn) -> Step {
    let person = Hostile::new(&format!("churn-{:016x}", turn.random.u64(..)));
    let (client, first) = (turn.client(), wall_clock());
    let request = |sequence, command| {
        let timestamp = first.after(Duration::from_nanos(sequence));
        ToReplica::Request { client, sequence, timestamp, command }
    };
    // A session belongs to the actor of its first request, which is nobody for the request that creates the account.
    let create = turn.lone_request(person.create());
    let mut messages = vec![create, turn.login(&person, true), request(1, send("vera", "hello"))];
    if turn.random.bool() {
        messages.push(request(2, Command::Delete));
    }
    messages.push(ToReplica::Logout);
    Step::messages(&messages, Then::Continue)
}

/// What only operators may do. Half of the connections try to log in as one.
fn operations(turn: &mut Turn) -> Step {
    let operation = match turn.random.u8(0..3) {
        0 => Operation::SetRegistration { registration: Registration::Closed },
        1 => Operation::Invite { invitation: Digest(std::array::from_fn(|_| turn.random.u8(..))) },
        _ => Operation::RemoveAccount { name: turn.targets.hostile[0].account.clone() },
    };
    let request = turn.lone_request(Command::Operate { operation });
    match turn.group.is_multiple_of(2) {
        true => Step::message(&request),
        false => Step::messages(&[turn.login(&Hostile::new(OPERATOR), false), request], Then::Continue),
    }
}

/// Messages to a victim, all of one connection to the same.
fn flood(turn: &mut Turn) -> Step {
    let victims = &turn.targets.victims;
    batch(turn, &victims[turn.group as usize % victims.len()], 40, BATCH)
}

/// Half of the connections receive the messages of the other half.
fn deaf(turn: &mut Turn) -> Step {
    let receiver = &turn.targets.hostile[0].account;
    match turn.group.is_multiple_of(2) {
        true => Step::hold(),
        false => batch(turn, receiver.as_str(), 4096, 4),
    }
}

fn odd_timestamps(turn: &mut Turn) -> Step {
    let (client, timestamp) = (turn.client(), turn.any_timestamp());
    Step::message(&ToReplica::Request { client, sequence: 1, timestamp, command: send("vera", "odd") })
}

/// The identity of a session that all connections of a group know, and no others.
fn shared_client(group: u64, number: u64) -> ClientId {
    let mut random = Rng::with_seed(group.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number);
    ClientId(std::array::from_fn(|_| random.u8(..)))
}

fn split_bodies(turn: &mut Turn) -> Step {
    let (client, timestamp) = slot(turn.group);
    let command = send("vera", format!("for replica {}", turn.replica));
    Step::message(&ToReplica::Request { client, sequence: 1, timestamp, command })
}

fn odd_sequences(turn: &mut Turn) -> Step {
    // Both accounts, at all replicas, use the session.
    let client = shared_client(turn.group / 2, 0);
    let sequence = match turn.random.u8(0..8) {
        0 => 0,
        1 => u64::MAX,
        2 => turn.random.u64(..),
        _ => turn.random.u64(1..200),
    };
    let command = send("vera", turn.random.u64(..).to_string());
    Step::message(&ToReplica::Request { client, sequence, timestamp: wall_clock(), command })
}

fn odd_range(turn: &mut Turn) -> Step {
    let mut uid = || match turn.random.u8(0..4) {
        0 => Uid::MIN,
        1 => Uid::MAX,
        _ => {
            Uid::new(wall_clock().before(Duration::from_micros(turn.random.u64(0..10_000_000))), &[turn.random.u8(..)])
        }
    };
    let (after, up_to) = (uid(), uid());
    let count = turn.random.choice([0, 1, 2, u64::MAX]).expect("there are four");
    let name = turn.random.choice(["mordred", "vera", "nobody"]).expect("there are three");
    let (conversation, sum) = (conversation(name), UidSum::ZERO);
    let range = ReadRange { after, up_to, count, sum };
    Step::message(&turn.lone_request(Command::Read { conversation, range }))
}

fn room_flood(turn: &mut Turn) -> Step {
    let room = RoomName::parse(format!("#r{}", turn.random.u8(0..200))).expect("a name by the rules");
    let name = turn.targets.hostile[1].account.clone();
    let action = match turn.random.u8(0..8) {
        0 => RoomAction::Create { is_private: turn.random.bool() },
        1 | 2 => RoomAction::Join,
        3 => RoomAction::Leave,
        4 => RoomAction::Invite { name },
        5 => RoomAction::SetTopic { topic: Topic::parse("x".repeat(TOPIC_MAX)).expect("short enough") },
        6 => RoomAction::Close,
        _ => return Step::message(&turn.lone_request(send(room.as_str(), "x".repeat(4096)))),
    };
    Step::message(&turn.lone_request(Command::Room { room, action }))
}

/// One request of the group many times: its copies are the same for all its connections.
fn repetitions(turn: &mut Turn) -> Step {
    let (client, at_slot) = slot(turn.group);
    let timestamp = if turn.random.bool() { at_slot } else { wall_clock() };
    let request = ToReplica::Request { client, sequence: 1, timestamp, command: send("vera", "again") };
    Step::messages(std::iter::repeat_n(&request, BATCH as usize), Then::Continue)
}

/// The session and timestamp that all connections of a group use at this time: those of the next slot, which is at most 20 ms
/// ahead and so not yet late.
fn slot(group: u64) -> (ClientId, Timestamp) {
    let length = SLOT.as_nanos() as u64;
    let slot = wall_clock().0 / length + 1;
    (shared_client(group, slot), Timestamp(slot * length))
}
