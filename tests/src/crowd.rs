//! Many rooms at once: messages to all of them, and an account that comes back to all of them.

use crate::cluster::Cluster;
use crate::fan_out::{PER_ADDRESS, address};
use crate::load::{Load, LoadResult};
use crate::raw::{RawClient, create_accounts};
use crate::session::{Person, send, unread_conversations};
use stablechat_protocol::answer::{Answer, QueryAnswer};
use stablechat_protocol::command::{Command, PAGE_MAX, Query};
use stablechat_protocol::conversation::{Conversation, Message, Page, ReadRange};
use stablechat_protocol::room::{RoomAction, RoomName};
use stablechat_protocol::uid::Uid;
use std::io;
use std::time::{Duration, Instant};

/// Rooms, and how many accounts are in each. Two more accounts are in all of them: one that sends, and one that comes back.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    pub rooms: usize,
    /// The members of each room, at most as many as there are rooms. Each account is in as many rooms.
    pub members: usize,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct CrowdResult {
    /// How many times an account joined a room.
    pub joins: usize,
    /// How long all of them took, the connections included.
    pub joining: Duration,
    /// Messages to the rooms in turn.
    pub load: LoadResult,
    /// The processor time of the replica meanwhile.
    pub processor: Duration,
    pub back: Back,
}

/// What an account finds that has been away.
#[derive(Clone, Copy, Debug)]
pub struct Back {
    /// How many conversations have something unread.
    pub conversations: usize,
    /// How long the list of them took.
    pub inbox: Duration,
    pub messages: usize,
    /// How long it took to fetch all messages, and to mark each page of them as read.
    pub reading: Duration,
}

/// How many messages are in flight.
pub const WINDOW: usize = 64;

/// Makes the rooms at the replica `name`, sends messages with texts of so many bytes to them for `time`, and lets an account that
/// was away read them.
///
/// # Errors
/// A connection broke.
pub fn measure(
    cluster: &Cluster,
    name: &str,
    crowd: Crowd,
    text_bytes: usize,
    time: Duration,
) -> io::Result<CrowdResult> {
    let start = Instant::now();
    let joins = make(cluster, name, crowd);
    let [sender, away] = ["sender-to-all", "away-from-all"].map(Person::new);
    for person in [&sender, &away] {
        let mut client = cluster.greet(name);
        create_accounts(&mut client, &[person]);
        client.login(person, false);
        settle(&mut client, (0..crowd.rooms).map(|room| act(room, RoomAction::Join)));
    }
    let (joins, joining) = (joins + 2 * crowd.rooms, start.elapsed());

    let mut client = cluster.greet(name);
    client.login(&sender, false);
    let text = "x".repeat(text_bytes);
    let commands = (0..crowd.rooms).map(|number| send(room(number).as_str(), text.clone())).collect();
    let mut load = Load::new(vec![vec![client]], commands, WINDOW)?;
    let before = cluster.usage(name).processor;
    let load = load.run(time)?;
    let processor = cluster.usage(name).processor - before;
    Ok(CrowdResult { joins, joining, load, processor, back: come_back(&mut cluster.greet(name), &away) })
}

/// Makes the rooms and lets their members join. Returns how many times one joined.
fn make(cluster: &Cluster, name: &str, Crowd { rooms, members }: Crowd) -> usize {
    let people: Vec<Person> = (0..rooms).map(|number| Person::new(&format!("in-{members}-rooms-{number}"))).collect();
    let mut clients = Vec::new();
    for (number, some) in people.chunks(PER_ADDRESS).enumerate() {
        let mut client = cluster.greet_from(name, address(number));
        create_accounts(&mut client, &some.iter().collect::<Vec<&Person>>());
        clients.push(client);
    }
    for (number, person) in people.iter().enumerate() {
        let client = &mut clients[number / PER_ADDRESS];
        client.login(person, false);
        settle(client, [act(number, RoomAction::Create { is_private: false })]);
    }
    for (number, person) in people.iter().enumerate() {
        let client = &mut clients[number / PER_ADDRESS];
        client.login(person, false);
        settle(client, (1..members).map(|next| act((number + next) % rooms, RoomAction::Join)));
    }
    rooms * members.saturating_sub(1)
}

/// Logs in an account, fetches all that it has not read, and reads it.
fn come_back(client: &mut RawClient, person: &Person) -> Back {
    client.login(person, false);
    let start = Instant::now();
    let conversations = unread_conversations(|query| client.ask(query));
    let inbox = start.elapsed();
    let start = Instant::now();
    let messages = conversations.iter().map(|conversation| read(client, conversation)).sum();
    let reading = start.elapsed();
    assert_eq!(unread_conversations(|query| client.ask(query)), [], "everything is read");
    Back { conversations: conversations.len(), inbox, messages, reading }
}

/// Fetches the unread messages of a conversation, page by page, and marks each page as read. Returns how many there were.
fn read(client: &mut RawClient, conversation: &Conversation) -> usize {
    let unread =
        Query::History { conversation: conversation.clone(), page: Page::Unread { after: Uid::MIN }, limit: PAGE_MAX };
    let mut count = 0;
    loop {
        let (messages, later) = match client.ask(unread.clone()) {
            QueryAnswer::Messages { messages, later, .. } => (messages, later),
            other => panic!("the answer to a query for messages is {other:?}"),
        };
        count += messages.len();
        let uids: Vec<Uid> = messages.iter().map(|message: &Message| message.uid).collect();
        let range = ReadRange::of(&uids).expect("a conversation in the inbox has unread messages");
        settle(client, [Command::Read { conversation: conversation.clone(), range }]);
        if !later {
            return count;
        }
    }
}

/// The room with this number.
fn room(number: usize) -> RoomName {
    RoomName::parse(format!("#crowd-{number}")).expect("a name by the rules")
}

fn act(number: usize, action: RoomAction) -> Command {
    Command::Room { room: room(number), action }
}

/// Sends commands, all in flight at the same time, and waits until all are done.
fn settle(client: &mut RawClient, commands: impl IntoIterator<Item = Command>) {
    for settled in client.call_all(commands) {
        assert_eq!(settled.answer, Answer::Done, "request {}", settled.sequence);
    }
}
