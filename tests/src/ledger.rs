//! What replicas have in their stores once they have stopped: compared with each other, and with what clients were told.

use crate::cluster::{CLUSTER, Cluster};
use crate::session::Person;
use crate::talker::Told;
use stablechat_protocol::answer::{Message, QueryAnswer};
use stablechat_protocol::command::Query;
use stablechat_protocol::request::{Actor, QueryRequest};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::uid::Uid;
use stablechat_server::store::schema::{Applied, StoreIdentity};
use stablechat_server::store::{ChatStore, Location};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The store of a replica that does not run.
pub struct Ledger {
    /// Whose it is.
    pub name: String,
    store: ChatStore,
}

impl Ledger {
    /// Opens the store of a replica of a cluster, which does not run.
    pub fn open(cluster: &Cluster, name: &str) -> Ledger {
        let identity = StoreIdentity { cluster: CLUSTER.into(), replica: name.into() };
        let store = ChatStore::open(&Location::Directory(cluster.data(name)), &identity).expect("a store");
        Ledger { name: name.into(), store }
    }

    /// How far it is, and what came of it.
    pub fn applied(&self) -> &Applied {
        self.store.applied()
    }

    /// Where each request of the log stands in its session.
    pub fn log(&self) -> BTreeMap<Uid, (ClientId, u64)> {
        let entries = self.store.log().entries(Uid::MIN);
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
            match self.store.query(&QueryRequest { id: 0, actor: actor.clone(), query }).expect("the store can be read")
            {
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
    same(cluster, names).unwrap_or_else(|why| panic!("{why}"))
}

/// Opens the stores of replicas, none of which runs.
///
/// # Errors
/// One is not in order, or two are not the same: where they part.
pub fn same(cluster: &Cluster, names: &[&str]) -> Result<Vec<Ledger>, String> {
    let ledgers: Vec<Ledger> = names.iter().map(|name| Ledger::open(cluster, name)).collect();
    for ledger in &ledgers {
        let report = ledger.store.check();
        if !report.faults.is_empty() || report.unapplied > 0 {
            let (faults, unapplied) = (report.faults.join("; "), report.unapplied);
            return Err(format!("the store of replica {}: {faults}; {unapplied} to be applied", ledger.name));
        }
    }
    match ledgers[1..].iter().find(|ledger| ledger.applied() != ledgers[0].applied()) {
        Some(ledger) => Err(difference(&ledgers[0], ledger)),
        None => Ok(ledgers),
    }
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
    let mut heard = heard(ledger, bob);
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

/// What became of the messages that talkers were answered, in one account's mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// How many were answered.
    pub answered: usize,
    /// How many of those are there once, after those of their session that were sent before.
    pub once: usize,
    /// How many of those are not there.
    pub lost: usize,
    /// How many of those are there more than once, or at the wrong place.
    pub wrong: usize,
}

/// Counts what became of what talkers were answered.
pub fn kept(ledger: &Ledger, told: &[Told], bob: &Person) -> Kept {
    let heard = heard(ledger, bob);
    let mut kept = Kept::default();
    for told in told {
        let numbers = heard.get(told.account.as_str()).map_or(&[][..], Vec::as_slice);
        kept.add(numbers, told.samples.iter().map(|sample| sample.sequence));
    }
    kept
}

impl fmt::Display for Kept {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kept { answered, once, lost, wrong } = self;
        write!(formatter, "Answered: {answered} messages. Delivered: {once}, each once, in order. Lost: {lost}.")?;
        match wrong {
            0 => Ok(()),
            _ => write!(formatter, " More than once, or out of order: {wrong}."),
        }
    }
}

impl Kept {
    /// Adds the messages of one session: these are there, and those were answered.
    fn add(&mut self, there: &[u64], answered: impl Iterator<Item = u64>) {
        let mut places: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (place, number) in there.iter().enumerate() {
            places.entry(*number).or_default().push(place);
        }
        for number in answered {
            self.answered += 1;
            match places.get(&number).map(Vec::as_slice) {
                None => self.lost += 1,
                Some(&[place]) if place == 0 || there[place - 1] < number => self.once += 1,
                Some(_) => self.wrong += 1,
            }
        }
    }
}

/// The numbers of what each talker has in an account's mailbox, in order.
fn heard(ledger: &Ledger, bob: &Person) -> BTreeMap<String, Vec<u64>> {
    let mut heard: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for message in ledger.unread(bob) {
        let (sender, number) = message.text.as_str().split_once(' ').expect("a talker and a number");
        heard.entry(sender.into()).or_default().push(number.parse().expect("a number"));
    }
    heard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_or_repeated_is_counted() {
        let mut kept = Kept::default();
        kept.add(&[1, 2, 2, 4, 3, 6], 1..=6);
        assert_eq!(kept, Kept { answered: 6, once: 3, lost: 1, wrong: 2 });
    }
}
