//! Accounts on a lone replica, and their requests, for several tests.

use stablechat_protocol::answer::{Answer, Rejection};
use stablechat_protocol::command::Command;
use stablechat_protocol::conversation::ReadRange;
use stablechat_protocol::uid::Uid;
use stablechat_tests::cluster::Cluster;
use stablechat_tests::raw::{RawClient, create_accounts};
use stablechat_tests::session::{Person, conversation};
use std::time::Duration;

pub const DELIVERY_BOUND: Duration = Duration::from_millis(200);

/// A cluster of one replica with these accounts, each on a connection of its own that receives messages.
pub fn with_accounts<const N: usize>(people: [&Person; N]) -> (Cluster, [RawClient; N]) {
    let cluster = Cluster::start(&["a"], DELIVERY_BOUND);
    create_accounts(&mut cluster.greet("a"), &people);
    let clients = people.map(|person| logged_in(&cluster, person));
    (cluster, clients)
}

/// A connection that has logged in as this person and receives messages.
pub fn logged_in(cluster: &Cluster, person: &Person) -> RawClient {
    let mut client = cluster.greet("a");
    client.login(person, true);
    client
}

/// The command that reads these messages of a conversation.
pub fn read(with: &str, uids: &[Uid]) -> Command {
    let range = ReadRange::of(uids).expect("there are some");
    Command::Read { conversation: conversation(with), range }
}

pub fn rejected(reason: Rejection) -> Answer {
    Answer::Rejected { reason }
}
