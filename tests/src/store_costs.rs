//! What a message costs in the store of a replica, without any network: rows and bytes that are written, and time.

use crate::session::{Person, send, wall_clock};
use stablechat_protocol::command::Command;
use stablechat_protocol::operator::InitialSettings;
use stablechat_protocol::request::{Actor, Request};
use stablechat_protocol::room::{RoomAction, RoomName};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use stablechat_server::store::schema::StoreIdentity;
use stablechat_server::store::{ChatStore, Location, OpenError, StoreError};
use std::fmt;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// To whom messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipients {
    /// To one account.
    Person,
    /// To a room with so many members, the sender included.
    Room(usize),
}

impl fmt::Display for Recipients {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recipients::Person => formatter.pad("a person"),
            Recipients::Room(members) => formatter.pad(&format!("a room of {members}")),
        }
    }
}

/// What one message costs.
#[derive(Clone, Copy, Debug)]
pub struct SendCost {
    /// Rows that are written or deleted: state, log, undo record, and facts about the store. Each message is committed alone, which
    /// is the most that it can cost.
    pub rows: f64,
    /// Their keys and values.
    pub bytes: f64,
    /// The time to apply it, without the commit.
    pub time: Duration,
}

/// Messages over which the cost is averaged.
const SENDS: u32 = 1000;
/// Requests in a commit where the time is measured.
const BATCH: u32 = 64;
/// Between two requests.
const STEP: Duration = Duration::from_millis(1);

/// Measures what messages with texts of so many bytes cost.
///
/// # Errors
/// The store cannot be made or written.
pub fn measure(recipients: Recipients, text_bytes: usize) -> Result<SendCost, OpenError> {
    let mut chat = Chat::new()?;
    let to = chat.prepare(recipients)?;
    let command = send(&to, "x".repeat(text_bytes));

    let first = chat.store.shared_db().latest_sequence_number();
    let mut bytes = 0;
    for _ in 0..SENDS {
        chat.apply(0, command.clone())?;
        bytes += chat.store.uncommitted_bytes();
        chat.store.commit()?;
    }
    let rows = chat.store.shared_db().latest_sequence_number() - first;

    let mut time = Duration::ZERO;
    for number in 1..=SENDS {
        let start = Instant::now();
        chat.apply(0, command.clone())?;
        time += start.elapsed();
        if number % BATCH == 0 {
            chat.store.commit()?;
        }
    }
    let sends = f64::from(SENDS);
    Ok(SendCost { rows: rows as f64 / sends, bytes: bytes as f64 / sends, time: time / SENDS })
}

/// A store, and accounts with a session each.
struct Chat {
    store: ChatStore,
    now: Timestamp,
    /// Each account, and the sequence number of the last request in its session.
    people: Vec<(Person, u64)>,
    /// Last, so that it is removed after the store has been closed.
    _directory: TempDir,
}

impl Chat {
    fn new() -> Result<Chat, OpenError> {
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        let identity = StoreIdentity { cluster: "costs".into(), replica: "a".into() };
        let location = Location::Directory(directory.path().to_path_buf());
        let store = ChatStore::open(&location, &identity, &InitialSettings::OPEN)?;
        Ok(Chat { store, now: wall_clock(), people: Vec::new(), _directory: directory })
    }

    /// Makes the accounts, and the room if it is one. Returns the name to which the first account sends.
    fn prepare(&mut self, recipients: Recipients) -> Result<String, StoreError> {
        let accounts = match recipients {
            Recipients::Person => 2,
            Recipients::Room(members) => members,
        };
        for number in 0..accounts {
            let person = Person::new(&format!("account-{number}"));
            let create = person.create();
            self.people.push((person, 0));
            self.apply(number, create)?;
            self.commit_if_full()?;
        }
        let Recipients::Room(members) = recipients else { return Ok(self.people[1].0.account.to_string()) };
        let room = RoomName::parse("#room").expect("a name by the rules");
        let act = |action| Command::Room { room: room.clone(), action };
        self.apply(0, act(RoomAction::Create { is_private: false }))?;
        for member in 1..members {
            self.apply(member, act(RoomAction::Join))?;
            self.commit_if_full()?;
        }
        self.store.commit()?;
        Ok(room.to_string())
    }

    /// Applies a command of an account.
    ///
    /// # Panics
    /// It is rejected.
    fn apply(&mut self, account: usize, command: Command) -> Result<(), StoreError> {
        let (person, sequence) = &mut self.people[account];
        *sequence += 1;
        self.now = self.now.after(STEP);
        let actor = Some(Actor { account: person.account.clone(), key: person.secret.public() });
        let client = ClientId((account as u128).to_be_bytes());
        let request = Request { client, sequence: *sequence, actor, command };
        let uid: Uid = request.uid(self.now);
        let outcome = self.store.apply(uid, &request)?;
        assert_eq!(outcome.answer, stablechat_protocol::answer::Answer::Done, "{request:?}");
        Ok(())
    }

    fn commit_if_full(&mut self) -> Result<(), StoreError> {
        if self.store.is_batch_full() { self.store.commit() } else { Ok(()) }
    }
}
