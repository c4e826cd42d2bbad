//! What is checked after every step: what replicas write and send, against each other and against what they said before.
//!
//! The checks know the rules of order and of sessions a second time, from the log alone: which request of a log takes
//! effect, which repeats one that did, and which comes too early. Answers and messages have to fit.

use super::{Check, Mode, REPLICAS, Violation};
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
    mode: Mode,
    /// Whether nothing goes wrong any more, so that all replicas answer alike.
    is_epilogue: bool,
    /// What replicas have applied, as far as the first of them has come. Within bounds only, as all else that is compared.
    order: Vec<Uid>,
    /// What replicas answered.
    answers: BTreeMap<Uid, Answer>,
    /// What replicas answered to questions, by client and number.
    pages: BTreeMap<(usize, u64), QueryAnswer>,
    /// The log and state digests, by position.
    digests: BTreeMap<u64, (Digest, Digest)>,
    /// Requests that clients take for answered.
    pub answered: BTreeSet<(ClientId, u64)>,
    /// The latest in the order of what clients take for answered.
    frontier: Uid,
    /// The frontier when a request was first sent: it takes effect after that.
    issued: BTreeMap<(ClientId, u64), Uid>,
    /// The frontier when a question was sent: it is answered from a state after that.
    asked: BTreeMap<(usize, u64), Uid>,
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
    /// How many requests it has undone and applied again since its start.
    undone: u64,
    /// And before that.
    undone_before: u64,
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
    pub fn new(mode: Mode) -> Checks {
        Checks {
            mode,
            is_epilogue: false,
            order: Vec::new(),
            answers: BTreeMap::new(),
            pages: BTreeMap::new(),
            digests: BTreeMap::new(),
            answered: BTreeSet::new(),
            frontier: Uid::MIN,
            issued: BTreeMap::new(),
            asked: BTreeMap::new(),
            seen: (0..REPLICAS).map(|_| Seen::default()).collect(),
        }
    }

    /// A client takes a request for answered.
    pub fn on_answered(&mut self, request: (ClientId, u64), uid: Uid) {
        self.answered.insert(request);
        self.frontier = self.frontier.max(uid);
    }

    /// A client sends a request.
    pub fn on_issued(&mut self, request: (ClientId, u64)) {
        self.issued.entry(request).or_insert(self.frontier);
    }

    /// A client sends a question.
    pub fn on_asked(&mut self, question: (usize, u64)) {
        self.asked.entry(question).or_insert(self.frontier);
    }

    /// From here on nothing goes wrong.
    pub fn on_epilogue(&mut self) {
        self.is_epilogue = true;
    }

    /// Whether all replicas have to agree in all they say.
    fn is_strict(&self) -> bool {
        self.mode == Mode::Bounds || self.is_epilogue
    }

    /// A replica has sent this, to these clients.
    pub fn on_sent(&mut self, node: usize, sent: &[Sent], client_of: impl Fn(ConnectionId) -> usize) -> Check {
        for sent in sent {
            let Sent::ToClient { to, message } = sent else { continue };
            match message {
                ToClient::Answer { uid, answer, .. } => self.seen[node].answered.push((*uid, answer.clone())),
                ToClient::QueryAnswer { id, answer, note } if self.is_strict() => {
                    self.check_page((client_of(*to), *id), answer, note.position)?;
                }
                ToClient::Delivery { message } => {
                    let seen = &mut self.seen[node];
                    seen.delivered.push(message.uid);
                    let before = seen.last_delivered.insert(*to, message.uid);
                    if self.mode == Mode::Bounds && before.is_some_and(|before| before >= message.uid) {
                        return Err(Violation::at(node, format!("message {} comes after a later one", message.uid)));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A question is answered alike by all, from a state that has what had been answered before it was asked.
    fn check_page(&mut self, question: (usize, u64), answer: &QueryAnswer, position: u64) -> Check {
        let first = self.pages.entry(question).or_insert_with(|| answer.clone());
        if first != answer {
            let what = format!("question {} is answered {answer:?}, and was answered {first:?}", question.1);
            return Err(Violation::among_all(what));
        }
        if self.mode == Mode::Beyond {
            return Ok(());
        }
        let frontier = self.asked.get(&question).copied().unwrap_or(Uid::MIN);
        let before = self.order.partition_point(|uid| *uid <= frontier) as u64;
        if position < before {
            let what = format!("question {} is answered as of {position}, but asked after {before}", question.1);
            return Err(Violation::among_all(what));
        }
        Ok(())
    }

    /// A replica has started: everything it had is there, and fits together.
    pub fn on_start(&mut self, node: usize, store: &ChatStore) -> Check {
        let log = store.log(Uid::MIN).map(|entry| entry.map(|(uid, _)| uid)).collect::<Result<Vec<Uid>, _>>();
        let log = log.map_err(|error| Violation::at(node, error.to_string()))?;
        let is_kept = match self.mode {
            Mode::Bounds => log.starts_with(&self.seen[node].log),
            Mode::Beyond => self.seen[node].log.iter().all(|uid| log.binary_search(uid).is_ok()),
        };
        if !is_kept {
            return Err(Violation::at(node, "a part of the log is gone after the restart"));
        }
        if self.mode == Mode::Beyond {
            self.forget_log(node);
        }
        self.seen[node].undone_before += self.seen[node].undone;
        self.seen[node].undone = 0;
        self.on_written(node, store, 0)
    }

    /// A replica has lost its disk.
    pub fn on_wiped(&mut self, node: usize) {
        self.seen[node] = Seen::default();
    }

    /// A replica's log is to be looked at from its beginning again: it has been repaired.
    fn forget_log(&mut self, node: usize) {
        let seen = &mut self.seen[node];
        seen.log.clear();
        seen.places.clear();
        seen.sessions.clear();
        seen.effects.clear();
        seen.answered.clear();
        seen.delivered.clear();
    }

    /// A replica may have written: looks at what is new in its log, and whether what it sent is in it.
    pub fn on_written(&mut self, node: usize, store: &ChatStore, undone: u64) -> Check {
        if undone > self.seen[node].undone {
            if self.mode == Mode::Bounds || self.is_epilogue {
                return Err(Violation::at(
                    node,
                    format!("it has repaired its log: {undone} requests are applied again"),
                ));
            }
            self.forget_log(node);
            self.seen[node].undone = undone;
        }
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
        if self.mode == Mode::Beyond {
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
        if self.mode == Mode::Beyond {
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
        let is_strict = self.is_strict();
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
            if is_strict && *self.answers.entry(uid).or_insert_with(|| answer.clone()) != answer {
                return Err(Violation::among_all(format!("{uid} has different answers")));
            }
        }
        Ok(())
    }

    /// How many requests have been applied.
    pub fn applied(&self) -> usize {
        self.seen[0].log.len()
    }

    /// How many requests were undone and applied again.
    pub fn undone(&self) -> u64 {
        self.seen.iter().map(|seen| seen.undone + seen.undone_before).sum()
    }

    /// Whether all of a replica's log is in that of one of these.
    pub fn is_elsewhere(&self, node: usize, others: &[usize]) -> bool {
        let is_in = |uid: &Uid| others.iter().any(|other| self.seen[*other].log.binary_search(uid).is_ok());
        self.seen[node].log.iter().all(is_in)
    }

    /// Requests take effect after all that was answered before they were first sent, whoever sent them.
    pub fn check_order(&self) -> Check {
        for ((client, sequence), effect) in &self.seen[0].effects {
            if let Some(frontier) = self.issued.get(&(*client, *sequence)).filter(|frontier| effect.uid <= **frontier) {
                let what = format!("{client} {sequence} takes effect as {}, but {frontier} was answered", effect.uid);
                return Err(Violation::among_all(what));
            }
        }
        Ok(())
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
