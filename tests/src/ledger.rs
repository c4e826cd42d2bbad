//! The stores of stopped replicas: compared with each other, and with the answers that clients got.

use crate::cluster::{CLUSTER, Cluster};
use crate::session::{Person, unread};
use crate::talker::Transcript;
use stablechat_protocol::conversation::Message;
use stablechat_protocol::operator::InitialSettings;
use stablechat_protocol::request::{Actor, QueryRequest};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::uid::Uid;
use stablechat_server::store::schema::{Applied, StoreIdentity};
use stablechat_server::store::{ChatStore, Location};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The store of a replica that does not run.
pub struct Ledger {
    /// The replica's name.
    pub name: String,
    store: ChatStore,
}

impl Ledger {
    /// Opens the store of a replica of a cluster, which does not run.
    pub fn open(cluster: &Cluster, name: &str) -> Ledger {
        let identity = StoreIdentity { cluster: CLUSTER.into(), replica: name.into() };
        let store = ChatStore::open(&Location::Directory(cluster.data(name)), &identity, &InitialSettings::OPEN)
            .expect("a store");
        Ledger { name: name.into(), store }
    }

    /// The store's position in the log, and its digests.
    pub fn applied(&self) -> &Applied {
        self.store.applied()
    }

    /// The session and the sequence number of each request in the log.
    pub fn log(&self) -> BTreeMap<Uid, (ClientId, u64)> {
        let entries = self.store.log().entries(Uid::MIN);
        let place = entries.map(|entry| {
            let (uid, entry) = entry.expect("the store can be read");
            (uid, (entry.request.client, entry.request.sequence))
        });
        place.collect()
    }

    /// All unread messages of an account, oldest first.
    pub fn unread(&self, person: &Person) -> Vec<Message> {
        let actor = Some(Actor { account: person.account.clone(), key: person.secret.public() });
        let ask = |query| {
            let query = QueryRequest { id: 0, actor: actor.clone(), query };
            self.store.query(&query).expect("the store can be read")
        };
        unread(ask)
    }
}

/// Opens the stores of stopped replicas, and checks that each is consistent and that all are equal.
///
/// # Panics
/// A store is not consistent, or two differ. The message lists the differences.
pub fn assert_same(cluster: &Cluster, names: &[&str]) -> Vec<Ledger> {
    same(cluster, names).unwrap_or_else(|why| panic!("{why}"))
}

/// Opens the stores of stopped replicas.
///
/// # Errors
/// A store is not consistent, or two differ. The error lists the differences.
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

/// The differences between two stores.
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

/// Checks that every request that a talker got an answer to is in the store's log, under the uid of the answer.
///
/// # Panics
/// A request is not, or a talker saw a fault.
pub fn assert_logged(ledger: &Ledger, transcripts: &[Transcript]) {
    let log = ledger.log();
    for transcript in transcripts {
        assert_eq!(transcript.faults, [""; 0], "what {} saw", transcript.account);
        for sample in &transcript.samples {
            let place = Some(&(transcript.client, sample.sequence));
            let (account, name) = (&transcript.account, &ledger.name);
            assert_eq!(
                log.get(&sample.uid),
                place,
                "{account} got an answer to a request that is not in the log of replica {name}"
            );
        }
    }
}

/// [`assert_logged`] and [`assert_received`].
///
/// # Panics
/// As those do.
pub fn assert_kept(ledger: &Ledger, transcripts: &[Transcript], bob: &Person) {
    assert_logged(ledger, transcripts);
    assert_received(ledger, transcripts, bob);
}

/// Checks that each message of the talkers is in bob's mailbox exactly once, in the order of its session. This holds for a store
/// whose log has been cut as well.
///
/// # Panics
/// A message is not, or a talker saw a fault.
pub fn assert_received(ledger: &Ledger, transcripts: &[Transcript], bob: &Person) {
    let mut received = received(ledger, bob);
    for transcript in transcripts {
        assert_eq!(transcript.faults, [""; 0], "what {} saw", transcript.account);
        let numbers = received.remove(transcript.account.as_str()).unwrap_or_default();
        let wrong = numbers.iter().zip(1..).find(|(number, expected)| *number != expected);
        assert_eq!(
            (wrong, numbers.len()),
            (None, transcript.samples.len()),
            "each of {}'s messages once and in order at replica {}",
            transcript.account,
            ledger.name
        );
    }
}

/// How the answered messages of talkers ended up in one account's mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Messages that were answered.
    pub answered: usize,
    /// Answered messages that are in the mailbox once, after the earlier messages of their session.
    pub once: usize,
    /// Answered messages that are not in the mailbox.
    pub lost: usize,
    /// Answered messages that are in the mailbox more than once, or in the wrong order.
    pub wrong: usize,
}

/// Counts how the answered messages of talkers ended up in bob's mailbox.
pub fn kept(ledger: &Ledger, transcripts: &[Transcript], bob: &Person) -> Kept {
    let received = received(ledger, bob);
    let mut kept = Kept::default();
    for transcript in transcripts {
        let numbers = received.get(transcript.account.as_str()).map_or(&[][..], Vec::as_slice);
        kept.add(numbers, transcript.samples.iter().map(|sample| sample.sequence));
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
    /// Adds one session: the sequence numbers in the mailbox, in its order, and those that were answered.
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

/// The sequence numbers of each talker's messages in an account's mailbox, in the mailbox's order. The text of a talker's message
/// is its account and the number; other messages do not count.
pub fn received(ledger: &Ledger, bob: &Person) -> BTreeMap<String, Vec<u64>> {
    let mut numbers: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for message in ledger.unread(bob) {
        if let Some((sender, number)) = message.text.as_str().split_once(' ')
            && sender == message.from.as_str()
        {
            numbers.entry(sender.into()).or_default().push(number.parse().expect("a number"));
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_repeated_messages_are_counted() {
        let mut kept = Kept::default();
        kept.add(&[1, 2, 2, 4, 3, 6], 1..=6);
        assert_eq!(kept, Kept { answered: 6, once: 3, lost: 1, wrong: 2 });
    }
}
