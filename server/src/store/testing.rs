//! Helpers for tests of the store: stores in memory, random streams of requests, and all rows of a store.

use super::database::family;
use super::schema::{self, StoreIdentity};
use super::state::keys::Column;
use super::{ChatStore, Location, Outcome, Repair, StoreError};
use crate::random::Random;
use rocksdb::{Env, IteratorMode};
use stablechat_protocol::command::Command;
use stablechat_protocol::conversation::{Conversation, ReadRange};
use stablechat_protocol::login::PublicKey;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::operator::{InitialSettings, InvitationCode, OPERATOR, Operation, Quota, Registration};
use stablechat_protocol::request::{Actor, Request, StampedRequest};
use stablechat_protocol::room::{RoomAction, RoomName, Topic};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::text::MessageText;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;

/// The replica that the tests' stores belong to.
pub fn identity() -> StoreIdentity {
    StoreIdentity { cluster: "test".into(), replica: "one".into() }
}

/// An empty location for a store.
pub fn memory() -> Location {
    Location::Memory(Env::mem_env().expect("there is memory"))
}

/// A new store.
pub fn store() -> ChatStore {
    ChatStore::open(&memory(), &identity(), &InitialSettings::OPEN).expect("a new store opens")
}

/// A store that got these requests in order and at once.
pub fn store_of<'a>(requests: impl IntoIterator<Item = &'a StampedRequest>) -> ChatStore {
    let mut store = store();
    for held in requests {
        apply(&mut store, held);
    }
    store.commit().expect("memory does not fail");
    store
}

/// Applies a request.
pub fn apply(store: &mut ChatStore, held: &StampedRequest) -> Outcome {
    store.apply(held.uid, &held.request).expect("memory does not fail")
}

impl ChatStore {
    /// Settles the log up to a uid, without asking other replicas.
    pub fn settle(&mut self, uid: Uid) {
        self.log.settle(&mut self.batch, uid);
    }

    /// Lets so many writes succeed and the next one fail, as when the disk is full.
    pub fn fail_after(&mut self, writes: usize) {
        self.database.writes_left = Some(writes);
    }

    /// Damages the entry of the log under a uid, or makes a damaged one, so that it cannot be read.
    pub fn damage_log(&mut self, uid: Uid) {
        let db = self.database.db();
        db.put_cf(family(db, schema::LOG), uid.to_bytes(), b"damaged").expect("memory does not fail");
    }

    /// Keeps a request as an orphan. Durable with the next commit.
    pub fn keep_orphan(&mut self, orphan: &StampedRequest) {
        self.batch.put(schema::ORPHANS, orphan.uid.to_bytes(), &orphan.request);
    }

    /// Puts requests in their places in the log, all at once.
    pub fn insert(&mut self, requests: Vec<StampedRequest>) -> Result<Repair, StoreError> {
        self.begin_inserting(requests)?;
        let mut whole = Repair::default();
        loop {
            let (Repair { inserted, undone, changed, ended, touched, closes_rooms, unplaceable }, is_done) =
                self.go_on_inserting()?;
            whole.inserted.extend(inserted);
            whole.undone += undone;
            whole.changed.extend(changed);
            whole.ended.extend(ended);
            whole.touched.extend(touched);
            whole.closes_rooms |= closes_rooms;
            whole.unplaceable.extend(unplaceable);
            if is_done {
                return Ok(whole);
            }
        }
    }
}

/// Everything in a store that a repair may touch: column family, key and value.
pub fn contents(store: &ChatStore) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let names = [schema::LOG, schema::UNDO, schema::UNDONE].into_iter().chain(Column::ALL.map(Column::name));
    let rows = |name| {
        let rows = store.database.db().iterator_cf(family(store.database.db(), name), IteratorMode::Start);
        rows.map(move |row| {
            let (key, value) = row.expect("memory does not fail");
            (name, key.into_vec(), value.into_vec())
        })
    };
    names.flat_map(rows).collect()
}

/// Fails unless a store agrees with itself.
pub fn assert_sound(store: &ChatStore) {
    let report = store.check();
    assert!(report.faults.is_empty() && report.unapplied == 0, "{report:#?}");
}

/// The uids of the log.
pub fn uids(store: &ChatStore) -> Vec<Uid> {
    let uids: Result<Vec<Uid>, StoreError> =
        store.log().entries(Uid::MIN).map(|entry| entry.map(|(uid, _)| uid)).collect();
    uids.expect("memory does not fail")
}

/// The account with this name and its key's number.
pub fn actor(name: &str, key: u8) -> Actor {
    Actor { account: AccountName::parse(name).expect("a name"), key: PublicKey([key; 32]) }
}

/// Makes an actor's account.
pub fn create(actor: &Actor) -> Command {
    Command::Create { name: actor.account.clone(), key: actor.key, invitation: None }
}

/// A random thing that operators do.
fn operation(random: &mut Random, actors: &[Actor]) -> Operation {
    let Actor { account: name, key } = random.one_of(actors).clone();
    match random.below(24) {
        0 => Operation::SetRegistration { registration: Registration::Closed },
        1..4 => Operation::SetRegistration { registration: Registration::ByInvitation },
        4..12 => Operation::SetRegistration { registration: Registration::Open },
        12..15 => Operation::Invite { invitation: code(random).digest() },
        15 => Operation::Revoke { invitation: code(random).digest() },
        16..18 => {
            let quotas = [(Quota::Accounts, 2), (Quota::Accounts, 9), (Quota::Unread, 3), (Quota::Unread, 900)];
            let (quota, limit) = *random.one_of(&quotas);
            Operation::SetQuota { quota, limit }
        }
        18 => Operation::RemoveAccount { name },
        19 => Operation::CloseRoom { room: room(random) },
        20 => Operation::SetQuota { quota: Quota::Requests, limit: random.below(4) as u64 },
        21..23 => Operation::SetRetention { seconds: *random.one_of(&[0, 5, 3600]) },
        _ => Operation::ReplaceKey { name, key },
    }
}

/// One of two codes.
fn code(random: &mut Random) -> InvitationCode {
    InvitationCode::from_random([random.below(2) as u8; 16])
}

/// Sends a message.
pub fn send(to: &Actor, text: &str) -> Command {
    Command::Send { to: Conversation::with(&to.account), text: MessageText::parse(text).expect("a text") }
}

/// A request at so many milliseconds.
pub fn held(milliseconds: u64, client: u8, sequence: u64, actor: &Actor, command: Command) -> StampedRequest {
    let request = Request { client: ClientId([client; 16]), sequence, actor: Some(actor.clone()), command };
    StampedRequest { uid: request.uid(Timestamp(milliseconds * 1_000_000)), request }
}

/// A random stream of requests in order: few accounts and sessions, so that they get in each other's way. It has every
/// command, repetitions, gaps, strangers, and pauses in which sessions end.
pub fn stream(random: &mut Random, length: usize) -> Vec<StampedRequest> {
    let actors = [actor("ann", 1), actor("bob", 2), actor("bob", 3), actor("cid", 4), actor(OPERATOR, 5)];
    let mut issued = [0; 5];
    let mut stream: Vec<StampedRequest> = Vec::new();
    let mut milliseconds = 1_000_000_000;
    while stream.len() < length {
        milliseconds += match random.below(100) {
            0..80 => random.below(300) as u64,
            80..97 => random.below(4000) as u64,
            _ => 15 * 3_600_000,
        };
        if !stream.is_empty() && random.percent(15) {
            let StampedRequest { request, .. } = random.one_of(&stream).clone();
            stream.push(StampedRequest { uid: request.uid(Timestamp(milliseconds * 1_000_000)), request });
            continue;
        }
        let client = random.below(issued.len());
        let stranger = random.percent(5);
        let speaker = &actors[if stranger { random.below(actors.len()) } else { client % actors.len() }];
        let sequence = match random.below(100) {
            0..88 => {
                issued[client] += 1;
                issued[client]
            }
            88..93 => issued[client] + 2,
            _ => {
                issued[client] = 1;
                1
            }
        };
        let command = command(random, &actors, speaker, &stream);
        stream.push(held(milliseconds, client as u8, sequence, speaker, command));
    }
    stream.sort_by_key(|held| held.uid);
    stream.dedup_by_key(|held| held.uid);
    stream
}

/// A random command.
fn command(random: &mut Random, actors: &[Actor], speaker: &Actor, before: &[StampedRequest]) -> Command {
    let others: Vec<&Actor> = actors.iter().filter(|actor| !actor.account.is_operator()).collect();
    let name = random.one_of(&others).account.clone();
    match random.below(100) {
        _ if speaker.account.is_operator() => Command::Operate { operation: operation(random, actors) },
        0..18 => {
            let Actor { account: name, key } = speaker.clone();
            let invitation = random.percent(50).then(|| code(random));
            Command::Create { name, key, invitation }
        }
        18..23 => Command::Delete,
        23..27 => Command::SetKey { key: random.one_of(actors).key },
        27..42 => match some_range(random, speaker, before) {
            Some((conversation, range)) => Command::Read { conversation, range },
            None => Command::Delete,
        },
        42..60 => Command::Room { room: room(random), action: action(random, name) },
        60..63 => Command::Block { name, is_blocked: random.percent(50) },
        63..65 => Command::Mute { conversation: Conversation::with(&name), is_muted: random.percent(70) },
        65..75 => {
            let text = MessageText::parse(format!("message {}", before.len())).expect("a text");
            Command::Send { to: Conversation::Room { name: room(random) }, text }
        }
        _ => {
            let text = format!("message {}", before.len());
            send(random.one_of(actors), &text)
        }
    }
}

/// One of two rooms.
fn room(random: &mut Random) -> RoomName {
    RoomName::parse(*random.one_of(&["#ops", "#tea"])).expect("a name")
}

/// A random action, with this account if it is about one.
fn action(random: &mut Random, name: AccountName) -> RoomAction {
    match random.below(16) {
        0..4 => RoomAction::Create { is_private: random.percent(50) },
        4..8 => RoomAction::Join,
        8..10 => RoomAction::Leave,
        10..12 => RoomAction::Invite { name },
        12 => RoomAction::Remove { name },
        13 => RoomAction::SetTopic { topic: Topic::parse("tea").expect("a topic") },
        14 => RoomAction::GiveTo { name },
        _ => RoomAction::Close,
    }
}

/// A range of up to three messages of a conversation of the speaker. They are there in most cases.
fn some_range(random: &mut Random, speaker: &Actor, before: &[StampedRequest]) -> Option<(Conversation, ReadRange)> {
    let place = |held: &StampedRequest| match (&held.request.command, &held.request.actor) {
        (Command::Send { to: to @ Conversation::Room { .. }, .. }, _) => Some(to.clone()),
        (Command::Send { to, .. }, Some(from)) if from.account == speaker.account => Some(to.clone()),
        (Command::Send { to, .. }, Some(from)) if *to == Conversation::with(&speaker.account) => {
            Some(Conversation::with(&from.account))
        }
        _ => None,
    };
    let sends: Vec<(Conversation, Uid)> = before.iter().filter_map(|held| Some((place(held)?, held.uid))).collect();
    let conversation = sends.get(random.below(sends.len().max(1)))?.0.clone();
    let mut uids: Vec<Uid> = sends.iter().filter(|(of, _)| *of == conversation).map(|(_, uid)| *uid).collect();
    uids.sort();
    let (from, length) = (random.below(uids.len()), 1 + random.below(3));
    let range = ReadRange::of(&uids[from..(from + length).min(uids.len())])?;
    Some((conversation, range))
}
