//! What replicas have in their stores once they have stopped: compared with each other, and with what clients were told.

use crate::cluster::{CLUSTER, Cluster};
use crate::session::Person;
use crate::talker::Told;
use stablechat_protocol::answer::{Message, QueryAnswer};
use stablechat_protocol::command::Query;
use stablechat_protocol::id::ClientId;
use stablechat_protocol::request::{Actor, Question};
use stablechat_protocol::uid::Uid;
use stablechat_server::store::schema::{Applied, Identity};
use stablechat_server::store::{ChatStore, Medium};
use std::collections::{BTreeMap, BTreeSet};

/// The store of a replica that does not run.
pub struct Ledger {
    /// Whose it is.
    pub name: String,
    store: ChatStore,
}

impl Ledger {
    /// Opens the store of a replica of a cluster, which does not run.
    pub fn open(cluster: &Cluster, name: &str) -> Ledger {
        let identity = Identity { cluster: CLUSTER.into(), replica: name.into() };
        let store = ChatStore::open(&Medium::Directory(cluster.data(name)), &identity).expect("a store");
        Ledger { name: name.into(), store }
    }

    /// How far it is, and what came of it.
    pub fn applied(&self) -> &Applied {
        self.store.applied()
    }

    /// Where each request of the log stands in its session.
    pub fn log(&self) -> BTreeMap<Uid, (ClientId, u64)> {
        let entries = self.store.log(Uid::MIN);
        let place = entries.map(|entry| {
            let (uid, entry) = entry.expect("the store can be read");
            (uid, (entry.request.client, entry.request.sequence))
        });
        place.collect()
    }

    /// All unread messages of an account.
    pub fn unread(&self, person: &Person) -> Vec<Message> {
        let actor = Some(Actor { account: person.account.clone(), key: person.secret.public() });
        let mut all: Vec<Message> = Vec::new();
        loop {
            let query = Query::Unread { after: all.last().map(|message| message.uid), limit: 1000 };
            match self.store.query(&Question { id: 0, actor: actor.clone(), query }).expect("the store can be read") {
                QueryAnswer::Messages { messages, more } => {
                    all.extend(messages);
                    if !more {
                        return all;
                    }
                }
                other => panic!("the answer to a query for unread messages is {other:?}"),
            }
        }
    }
}

/// Opens the stores of replicas, none of which runs: each is in order, and all are the same.
///
/// # Panics
/// Otherwise, saying where they part.
pub fn assert_same(cluster: &Cluster, names: &[&str]) -> Vec<Ledger> {
    let ledgers: Vec<Ledger> = names.iter().map(|name| Ledger::open(cluster, name)).collect();
    for ledger in &ledgers {
        let report = ledger.store.check();
        assert_eq!((&report.faults[..], report.unapplied), (&[][..], 0), "the store of replica {}", ledger.name);
    }
    for ledger in &ledgers[1..] {
        if ledger.applied() != ledgers[0].applied() {
            panic!("{}", difference(&ledgers[0], ledger));
        }
    }
    ledgers
}

/// Where two stores part.
fn difference(one: &Ledger, other: &Ledger) -> String {
    let (logs, applied) = ((one.log(), other.log()), (one.applied(), other.applied()));
    let uids = |log: &BTreeMap<Uid, (ClientId, u64)>| -> BTreeSet<Uid> { log.keys().copied().collect() };
    let (first, second) = (uids(&logs.0), uids(&logs.1));
    let only = |uids: &BTreeSet<Uid>, others: &BTreeSet<Uid>| -> Vec<String> {
        uids.difference(others).take(10).map(ToString::to_string).collect()
    };
    format!(
        "replicas {} and {} differ: {applied:?}; {} and {} requests, only the first has {:?}, only the second {:?}",
        one.name,
        other.name,
        first.len(),
        second.len(),
        only(&first, &second),
        only(&second, &first)
    )
}

/// Checks what talkers were told against a store: everything that was answered is in the log, under the uid that was given.
///
/// # Panics
/// Otherwise.
pub fn assert_logged(ledger: &Ledger, told: &[Told]) {
    let log = ledger.log();
    for told in told {
        assert_eq!(told.faults, [""; 0], "what {} saw", told.account);
        for sample in &told.samples {
            let place = Some(&(told.client, sample.sequence));
            let (account, name) = (&told.account, &ledger.name);
            assert_eq!(log.get(&sample.uid), place, "{account} was answered, and replica {name} has not got it");
        }
    }
}

/// Checks what talkers were told against a store: everything that was answered is in the log, and each of their messages is
/// in this account's mailbox exactly once, in its session's order.
///
/// # Panics
/// Otherwise.
pub fn assert_kept(ledger: &Ledger, told: &[Told], bob: &Person) {
    assert_logged(ledger, told);
    assert_heard(ledger, told, bob);
}

/// Checks what talkers were told against a store whose log need not go back so far: each of their messages is in this
/// account's mailbox exactly once, in its session's order.
///
/// # Panics
/// Otherwise.
pub fn assert_heard(ledger: &Ledger, told: &[Told], bob: &Person) {
    let mut heard: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for message in ledger.unread(bob) {
        let (sender, number) = message.text.as_str().split_once(' ').expect("a talker and a number");
        heard.entry(sender.into()).or_default().push(number.parse().expect("a number"));
    }
    for told in told {
        assert_eq!(told.faults, [""; 0], "what {} saw", told.account);
        let heard = heard.remove(told.account.as_str()).unwrap_or_default();
        let wrong = heard.iter().zip(1..).find(|(number, expected)| *number != expected);
        assert_eq!(
            (wrong, heard.len()),
            (None, told.samples.len()),
            "each of {}'s messages once and in order at replica {}",
            told.account,
            ledger.name
        );
    }
}
