//! Ours: three replicas. A client has a connection with each, and sends every request to all of them.

use super::load::connections;
use crate::cluster::Cluster;
use crate::load::{Load, LoadResult};
use crate::raw::{RawClient, call_everywhere};
use crate::session::{Person, send};
use stablechat_protocol::command::Command;
use std::io;
use std::time::Duration;

/// The names of the replicas.
const NAMES: [&str; 3] = ["a", "b", "c"];
/// How long they may take to find each other.
const WHOLE: Duration = Duration::from_secs(60);
/// How many accounts get messages in turn.
const RECIPIENTS: usize = 64;

/// Three replicas that run.
pub struct Stablechat {
    cluster: Cluster,
    recipients: Vec<Person>,
    /// How many accounts have sent messages. Each measurement has an account of its own, since replicas limit how fast one sends.
    senders: usize,
}

impl Stablechat {
    /// Starts three replicas with this delivery bound.
    pub fn start(delivery_bound: Duration) -> Stablechat {
        let cluster = Cluster::start(&NAMES, delivery_bound);
        cluster.wait_until_same(WHOLE);
        let mut clients = NAMES.map(|name| cluster.greet(name));
        let recipients: Vec<Person> =
            (0..RECIPIENTS).map(|number| Person::new(&format!("recipient-{number}"))).collect();
        recipients.iter().for_each(|person| call_everywhere(&mut clients, &person.create()));
        Stablechat { cluster, recipients, senders: 0 }
    }

    /// Keeps so many requests in flight for a time, and then waits until everything is answered.
    ///
    /// # Errors
    /// A connection broke.
    pub fn run(&mut self, in_flight: usize, text: &str, time: Duration) -> io::Result<LoadResult> {
        self.senders += 1;
        let sender = Person::new(&format!("sender-{}", self.senders));
        call_everywhere(&mut NAMES.map(|name| self.cluster.greet(name)), &sender.create());
        let connect = |name: &str| -> RawClient {
            let mut client = self.cluster.greet(name);
            client.login(&sender, false);
            client
        };
        let sessions = connections(in_flight);
        let links = (0..sessions).map(|_| NAMES.iter().map(|name| connect(name)).collect()).collect();
        let commands: Vec<Command> = self.recipients.iter().map(|person| send(person.account.as_str(), text)).collect();
        Load::new(links, commands, in_flight / sessions)?.run(time)
    }
}
