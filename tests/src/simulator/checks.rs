//! What is checked after every step: what replicas write and send, against each other and against what they said before.
//!
//! The checks know the rules of order and of sessions a second time, from the log alone: which request of a log takes
//! effect, which repeats one that did, and which comes too early. Answers and messages have to fit.

use super::{Check, REPLICAS, Violation};
use stablechat_protocol::answer::{Answer, QueryAnswer, Rejection};
use stablechat_protocol::command::{Command, Recipient};
use stablechat_protocol::id::{ClientId, Digest};
use stablechat_protocol::message::ToClient;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::Request;
use stablechat_protocol::uid::Uid;
use stablechat_server::net::Sent;
use stablechat_server::replica::ConnectionId;
use stablechat_server::store::ChatStore;
use std::collections::{BTreeMap, BTreeSet};

/// What has been seen of all replicas.
pub struct Checks {
    /// Which replicas are steady.
    pub steady: [bool; REPLICAS],
    /// What the steady replicas have applied, as far as the first of them has come.
    order: Vec<Uid>,
    /// What steady replicas answered.
    answers: BTreeMap<Uid, Answer>,
    /// What steady replicas answered to questions, by client and number.
    pages: BTreeMap<(usize, u64), QueryAnswer>,
    /// The log and state digests of steady replicas, by position.
    digests: BTreeMap<u64, (Digest, Digest)>,
    /// Requests that clients take for answered.
    pub answered: BTreeSet<(ClientId, u64)>,
    /// What has been seen of each replica.
    pub seen: Vec<Seen>,
}

/// What has been seen of a replica.
#[derive(Default)]
pub struct Seen {
    /// Its log.
    pub log: Vec<Uid>,
    /// What each request of the log is in its session.
    pub places: BTreeMap<Uid, Place>,
    /// The last request of each session that took effect.
    sessions: BTreeMap<ClientId, u64>,
    /// The requests that took effect.
    pub effects: BTreeMap<(ClientId, u64), Effect>,
    /// What it has answered since its log was last looked at.
    answered: Vec<(Uid, Answer)>,
    /// What it has delivered since its log was last looked at.
    delivered: Vec<Uid>,
    /// The last message delivered on each connection.
    last_delivered: BTreeMap<ConnectionId, Uid>,
}

/// What a request is in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the next, and takes effect.
    Next(ClientId, u64),
    /// It repeats one that took effect.
    Repetition(ClientId, u64),
    /// It comes before this one, which is missing.
    Early(u64),
}

/// A request that took effect.
pub struct Effect {
    /// Under which uid.
    pub uid: Uid,
    /// From whom to whom, if it is a message.
    pub message: Option<(AccountName, AccountName)>,
    /// What was answered, when it was.
    pub answer: Option<Answer>,
}

impl Checks {
    /// Nothing seen yet.
    pub fn new(steady: [bool; REPLICAS]) -> Checks {
        Checks {
            steady,
            order: Vec::new(),
            answers: BTreeMap::new(),
            pages: BTreeMap::new(),
            digests: BTreeMap::new(),
            answered: BTreeSet::new(),
            seen: (0..REPLICAS).map(|_| Seen::default()).collect(),
        }
    }

    /// A replica has sent this, to these clients.
    pub fn on_sent(&mut self, node: usize, sent: &[Sent], client_of: impl Fn(ConnectionId) -> usize) -> Check {
        for Sent { to, message } in sent {
            match message {
                ToClient::Answer { uid, answer, .. } => self.seen[node].answered.push((*uid, answer.clone())),
                ToClient::QueryAnswer { id, answer, .. } if self.steady[node] => {
                    let first = self.pages.entry((client_of(*to), *id)).or_insert_with(|| answer.clone());
                    if first != answer {
                        let what = format!("question {id} is answered {answer:?}, and was answered {first:?}");
                        return Err(Violation::among_all(what));
                    }
                }
                ToClient::Delivery { message } => {
                    let seen = &mut self.seen[node];
                    seen.delivered.push(message.uid);
                    let before = seen.last_delivered.insert(*to, message.uid);
                    if before.is_some_and(|before| before >= message.uid) {
                        return Err(Violation::at(node, format!("message {} comes after a later one", message.uid)));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A replica has started: everything it had is there, and fits together.
    pub fn on_start(&mut self, node: usize, store: &ChatStore) -> Check {
        let log = store.log(Uid::MIN).map(|entry| entry.map(|(uid, _)| uid)).collect::<Result<Vec<Uid>, _>>();
        let log = log.map_err(|error| Violation::at(node, error.to_string()))?;
        if !log.starts_with(&self.seen[node].log) {
            return Err(Violation::at(node, "a part of the log is gone after the restart"));
        }
        check_store(node, store)?;
        self.on_written(node, store)
    }

    /// A replica may have written: looks at what is new in its log, and whether what it sent is in it.
    pub fn on_written(&mut self, node: usize, store: &ChatStore) -> Check {
        let last = self.seen[node].log.last().copied();
        for entry in store.log(last.unwrap_or(Uid::MIN)).skip(usize::from(last.is_some())) {
            let (uid, entry) = entry.map_err(|error| Violation::at(node, error.to_string()))?;
            self.on_entry(node, uid, &entry.request)?;
        }
        self.check_sent(node)?;
        let applied = store.applied();
        if self.seen[node].log.last().copied().unwrap_or(Uid::MIN) != applied.uid {
            return Err(Violation::at(node, format!("the log does not end with {}, which is applied", applied.uid)));
        }
        if !self.steady[node] {
            return Ok(());
        }
        let digests = (applied.log_digest, applied.state_digest);
        if *self.digests.entry(applied.position).or_insert(digests) != digests {
            return Err(Violation::among_all(format!("digests differ at position {}", applied.position)));
        }
        Ok(())
    }

    /// A request is new in a replica's log.
    fn on_entry(&mut self, node: usize, uid: Uid, request: &Request) -> Check {
        let seen = &mut self.seen[node];
        if seen.log.last().is_some_and(|last| *last >= uid) {
            return Err(Violation::at(node, format!("the log has {uid} after a later one")));
        }
        let position = seen.log.len();
        seen.log.push(uid);
        let (client, sequence) = (request.client, request.sequence);
        let last = seen.sessions.entry(client).or_default();
        let place = if sequence == *last + 1 {
            *last = sequence;
            let effect = Effect { uid, message: parties(request), answer: None };
            seen.effects.insert((client, sequence), effect);
            Place::Next(client, sequence)
        } else if sequence <= *last {
            Place::Repetition(client, sequence)
        } else {
            Place::Early(*last + 1)
        };
        seen.places.insert(uid, place);
        if !self.steady[node] {
            return Ok(());
        }
        match self.order.get(position) {
            None => self.order.push(uid),
            Some(other) if *other == uid => {}
            Some(other) => {
                let what =
                    format!("position {position} has {uid} at {}, and {other} elsewhere", super::node::name(node));
                return Err(Violation::among_all(what));
            }
        }
        Ok(())
    }

    /// What a replica sent is in its log, and fits the request's place in its session.
    fn check_sent(&mut self, node: usize) -> Check {
        let seen = &mut self.seen[node];
        for uid in std::mem::take(&mut seen.delivered) {
            if !matches!(seen.places.get(&uid), Some(Place::Next(..))) {
                return Err(Violation::at(node, format!("message {uid} is delivered, but took no effect")));
            }
        }
        for (uid, answer) in std::mem::take(&mut seen.answered) {
            let Some(place) = seen.places.get(&uid) else {
                return Err(Violation::at(node, format!("{uid} is answered, but is not in the log")));
            };
            let fits = match *place {
                Place::Early(expected) => answer == Answer::Rejected { reason: Rejection::OutOfSequence { expected } },
                Place::Next(client, sequence) | Place::Repetition(client, sequence) => {
                    let effect = seen.effects.get_mut(&(client, sequence)).expect("it took effect");
                    let is_about_session = matches!(
                        answer,
                        Answer::Rejected { reason: Rejection::OutOfSequence { .. } | Rejection::NotYourSession }
                    );
                    !is_about_session && *effect.answer.get_or_insert_with(|| answer.clone()) == answer
                }
            };
            if !fits {
                return Err(Violation::at(node, format!("{uid}, which is {place:?}, is answered {answer:?}")));
            }
            if self.steady[node] && *self.answers.entry(uid).or_insert_with(|| answer.clone()) != answer {
                return Err(Violation::among_all(format!("{uid} has different answers")));
            }
        }
        Ok(())
    }

    /// How many requests the steady replicas have applied.
    pub fn applied(&self) -> usize {
        self.order.len()
    }

    /// Whether a uid is in the steady replicas' logs.
    pub fn is_in_order(&self, uid: Uid) -> bool {
        self.order.binary_search(&uid).is_ok()
    }
}

/// A store agrees with itself.
pub fn check_store(node: usize, store: &ChatStore) -> Check {
    let report = store.check().map_err(|error| Violation::at(node, error.to_string()))?;
    match report.faults.first() {
        Some(fault) => Err(Violation::at(node, fault)),
        None => Ok(()),
    }
}

/// From whom to whom a message goes, if the request is one.
fn parties(request: &Request) -> Option<(AccountName, AccountName)> {
    match (&request.actor, &request.command) {
        (Some(actor), Command::Send { to: Recipient::Account { name }, .. }) => {
            Some((actor.account.clone(), name.clone()))
        }
        _ => None,
    }
}
