//! The checks after every step: they compare what replicas write and send with each other, and with what they wrote and sent
//! before.
//!
//! The checks implement the rules of order and of sessions a second time, from the log alone: which request of a log takes
//! effect, which repeats an earlier one, and which comes too early in its session. Answers and deliveries have to agree with
//! that. Whether the answers are right is checked at the end, by `history`.

use super::{Check, Mode, Violation};
use stablechat_protocol::answer::{Answer, QueryAnswer, Rejection};
use stablechat_protocol::command::Command;
use stablechat_protocol::conversation::Conversation;
use stablechat_protocol::digest::{Digest, LogMark};
use stablechat_protocol::message::ToClient;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::request::{QueryRequest, Request};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::uid::Uid;
use stablechat_server::applier::Applier;
use stablechat_server::net::{NetCommand, NetEvent};
use stablechat_server::replica::{Body, ConnectionId, PeerId, Submission};
use stablechat_server::store::{ChatStore, in_own_session};
use std::collections::{BTreeMap, BTreeSet};

/// The part of a uid that all attempts at a request have in common.
type RequestDigest = [u8; 16];

/// Everything that the checks remember.
pub struct Checks {
    mode: Mode,
    /// Whether the faults have ended, so that all replicas answer alike.
    is_epilogue: bool,
    /// The longest log of any replica. Within bounds only, like everything that is compared between replicas.
    order: Vec<Uid>,
    /// The first answer of any replica to each request.
    pub answers: BTreeMap<Uid, Answer>,
    /// The queries that replicas have read, with their places in the order, by client and number.
    queries: BTreeMap<(usize, u64), (Uid, QueryRequest)>,
    /// The first answer of any replica to each query, by the query's place.
    pub pages: BTreeMap<Uid, AnsweredQuery>,
    /// The log digest and the state digest at each position, the same at all replicas.
    digests: BTreeMap<u64, (Digest, Digest)>,
    /// The requests for which a client has an answer.
    pub answered: BTreeSet<(ClientId, u64)>,
    /// All requests that were ever in a log.
    pub requests: BTreeMap<Uid, Request>,
    /// The highest uid of the requests and queries for which a client has an answer.
    frontier: Uid,
    /// All attempts at requests that clients have made. Everything else in a log was submitted again by a replica.
    attempts: BTreeSet<Uid>,
    /// The frontier when each request was first sent, by the digest in its uids: the request takes effect above it.
    issued: BTreeMap<RequestDigest, Uid>,
    /// The requests that took effect in some replica's log, for however long.
    executed: BTreeSet<RequestDigest>,
    /// The sessions of their own that the requests in logs would get as orphans.
    own_sessions: BTreeMap<ClientId, RequestDigest>,
    /// The frontier when each query was first sent: its place is above it.
    asked: BTreeMap<(usize, u64), Uid>,
    /// The messages that were delivered, each with the client that got it.
    pub delivered: BTreeSet<(usize, Uid)>,
    /// The number of snapshots that were read to their end.
    pub snapshots: u64,
    pub seen: Vec<Seen>,
}

/// A query and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnsweredQuery {
    pub query: QueryRequest,
    pub answer: QueryAnswer,
    /// The length of the log that it was answered from.
    pub position: u64,
}

/// What the checks remember of one replica.
#[derive(Default)]
pub struct Seen {
    pub log: Vec<Uid>,
    /// The place of each request of the log in its session.
    pub places: BTreeMap<Uid, Place>,
    /// The sequence number of the last request of each session that took effect.
    sessions: BTreeMap<ClientId, u64>,
    /// The requests that took effect.
    pub effects: BTreeMap<(ClientId, u64), Effect>,
    /// The answers that it has sent since its log was last read.
    answered: Vec<(Uid, Answer)>,
    /// The messages that it has delivered since its log was last read.
    delivered: Vec<Uid>,
    /// How many requests it has undone and applied again since its start.
    undone: u64,
    /// The same before its start.
    undone_before: u64,
    /// Whether it has read the end of a snapshot and not yet installed one since: if it is killed, its log may be another one when
    /// it starts.
    may_be_replaced: bool,
    /// How many snapshots it had installed when its log was last read.
    installed: u64,
    /// The last message delivered on each connection.
    last_delivered: BTreeMap<ConnectionId, Uid>,
}

/// The place of a request in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the next, and takes effect.
    Next(ClientId, u64),
    /// It repeats one that took effect.
    Repetition(ClientId, u64),
    /// It comes too early: the request with this number has not taken effect.
    Early(u64),
}

/// A request that took effect.
pub struct Effect {
    pub uid: Uid,
    /// The sender and the conversation, if it is a message.
    pub message: Option<(AccountName, Conversation)>,
    /// The first answer that the replica gave, if it gave one.
    pub answer: Option<Answer>,
}

impl Checks {
    /// Nothing seen yet.
    pub fn new(mode: Mode, replicas: usize) -> Checks {
        Checks {
            mode,
            is_epilogue: false,
            order: Vec::new(),
            answers: BTreeMap::new(),
            queries: BTreeMap::new(),
            pages: BTreeMap::new(),
            digests: BTreeMap::new(),
            answered: BTreeSet::new(),
            requests: BTreeMap::new(),
            frontier: Uid::MIN,
            attempts: BTreeSet::new(),
            issued: BTreeMap::new(),
            executed: BTreeSet::new(),
            own_sessions: BTreeMap::new(),
            asked: BTreeMap::new(),
            delivered: BTreeSet::new(),
            snapshots: 0,
            seen: (0..replicas).map(|_| Seen::default()).collect(),
        }
    }

    /// A client has the answer to a request.
    pub fn on_answered(&mut self, request: (ClientId, u64), uid: Uid) {
        self.answered.insert(request);
        self.frontier = self.frontier.max(uid);
    }

    /// A client makes an attempt at a request.
    pub fn on_issued(&mut self, uid: Uid) {
        self.attempts.insert(uid);
        self.issued.entry(uid.digest).or_insert(self.frontier);
    }

    /// A client sends a query.
    pub fn on_asked(&mut self, query: (usize, u64)) {
        self.asked.entry(query).or_insert(self.frontier);
    }

    /// A client has the answer to a query.
    pub fn on_query_answered(&mut self, query: (usize, u64)) {
        let place = self.queries.get(&query).map(|(uid, _)| *uid);
        self.frontier = self.frontier.max(place.expect("a replica that answers a query has read it"));
    }

    /// A replica has read these events.
    pub fn on_read(&mut self, node: usize, read: &[NetEvent], client_of: impl Fn(ConnectionId) -> usize) -> Check {
        for event in read {
            if let NetEvent::Peer { message: PeerMessage::SnapshotPart { end: Some(_), .. }, .. } = event {
                self.seen[node].may_be_replaced = true;
                self.snapshots += 1;
            }
            let NetEvent::Request(Submission { from, timestamp, body: Body::Query(query), .. }) = event else {
                continue;
            };
            let asked = (query.uid(*timestamp), query.clone());
            let first = self.queries.entry((client_of(*from), query.id)).or_insert_with(|| asked.clone());
            if *first != asked {
                return Err(Violation::among_all(format!("{asked:?} is also {first:?}")));
            }
        }
        Ok(())
    }

    /// The faults have ended.
    pub fn on_epilogue(&mut self) {
        self.is_epilogue = true;
    }

    /// Whether all replicas have to agree in all they say.
    fn is_strict(&self) -> bool {
        self.mode == Mode::Bounds || self.is_epilogue
    }

    /// A replica has sent these messages.
    pub fn on_sent(&mut self, node: usize, sent: &[NetCommand], client_of: impl Fn(ConnectionId) -> usize) -> Check {
        for sent in sent {
            let NetCommand::ToClients { to, message } = sent else { continue };
            to.iter().try_for_each(|to| self.on_sent_to_client(node, *to, message, &client_of))?;
        }
        Ok(())
    }

    fn on_sent_to_client(
        &mut self,
        node: usize,
        to: ConnectionId,
        message: &ToClient,
        client_of: &impl Fn(ConnectionId) -> usize,
    ) -> Check {
        match message {
            ToClient::Answer { uid, answer, .. } => self.seen[node].answered.push((*uid, answer.clone())),
            ToClient::QueryAnswer { id, answer, metadata } if self.is_strict() => {
                self.check_page((client_of(to), *id), answer, metadata.position)?;
            }
            ToClient::Delivery { message } => {
                let seen = &mut self.seen[node];
                seen.delivered.push(message.uid);
                self.delivered.insert((client_of(to), message.uid));
                let before = seen.last_delivered.insert(to, message.uid);
                if self.mode == Mode::Bounds && before.is_some_and(|before| before >= message.uid) {
                    return Err(Violation::at(node, format!("message {} comes after a later one", message.uid)));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A replica that tells peers that it holds a request must be able to send it: the request is in its log, or pending.
    pub fn check_listed(node: usize, sent: &[NetCommand], applier: &Applier) -> Check {
        let store = applier.store();
        for sent in sent {
            let NetCommand::ToPeer {
                message: PeerMessage::Listed { uids } | PeerMessage::Announce { uids, .. }, ..
            } = sent
            else {
                continue;
            };
            for uid in uids.iter().filter(|uid| **uid > store.log().base().uid && !applier.replica().is_pending(**uid))
            {
                if !store.log().contains(*uid).map_err(|error| Violation::at(node, error.to_string()))? {
                    return Err(Violation::at(node, format!("it lists {uid}, which it does not hold")));
                }
            }
        }
        Ok(())
    }

    /// A replica remembers nothing as applied that is not in its log, unless that is still to be written or has been truncated. And
    /// of the requests that it still owes a peer, which has asked for them, it holds each: so it will be able to send it. It owes nothing
    /// to an incarnation that it has fenced, which rejoins and asks anew.
    pub fn check_held(&self, node: usize, owed: &[(PeerId, Uid)], applier: &Applier) -> Check {
        let (store, replica) = (applier.store(), applier.replica());
        if !applier.has_written_all() {
            return Ok(());
        }

        let log = &self.seen[node].log;
        let is_logged = |uid: &Uid| log.binary_search(uid).is_ok();
        if let Some(uid) = replica.remembered().find(|uid| *uid > store.log().base().uid && !is_logged(uid)) {
            return Err(Violation::at(node, format!("it remembers {uid} as applied, which is not in its log")));
        }
        let is_owed =
            |(peer, uid): &&(PeerId, Uid)| replica.hears(*peer) && !replica.is_pending(*uid) && !is_logged(uid);
        match owed.iter().find(is_owed) {
            Some((_, uid)) => {
                Err(Violation::at(node, format!("it is asked for {uid} and does not say that it has none")))
            }
            None => Ok(()),
        }
    }

    /// Checks that all replicas answer a query alike.
    fn check_page(&mut self, query: (usize, u64), answer: &QueryAnswer, position: u64) -> Check {
        let (uid, query) = self.queries.get(&query).expect("a replica that answers a query has read it");
        let page = AnsweredQuery { query: query.clone(), answer: answer.clone(), position };
        let first = self.pages.entry(*uid).or_insert_with(|| page.clone());
        if *first != page {
            return Err(Violation::among_all(format!("{page:?} was answered otherwise: {first:?}")));
        }
        Ok(())
    }

    /// A replica has started: checks that everything that was on its disk is there, and consistent.
    pub fn on_start(&mut self, node: usize, store: &ChatStore) -> Check {
        let log = store.log().entries(Uid::MIN).map(|entry| entry.map(|(uid, _)| uid)).collect::<Result<Vec<Uid>, _>>();
        let log = log.map_err(|error| Violation::at(node, error.to_string()))?;
        let base = store.log().base();
        let is_there = |uid: &Uid| *uid <= base.uid || log.binary_search(uid).is_ok();
        let seen = &self.seen[node];
        let is_kept = match self.mode {
            // Of what a snapshot has replaced, all that was answered has to be there in the end, under whatever uid.
            _ if seen.may_be_replaced => true,
            Mode::Bounds => log.starts_with(&seen.log[seen.log.partition_point(|uid| *uid <= base.uid)..]),
            Mode::Beyond => seen.log.iter().all(is_there),
        };
        if !is_kept {
            return Err(Violation::at(node, "a part of the log is gone after the restart"));
        }
        if std::mem::take(&mut self.seen[node].may_be_replaced) || self.mode == Mode::Beyond {
            self.begin_log(node, base)?;
        }
        self.seen[node].undone_before += self.seen[node].undone;
        (self.seen[node].undone, self.seen[node].installed) = (0, 0);
        self.on_written(node, store, 0, 0)
    }

    /// A replica has lost its disk.
    pub fn on_wiped(&mut self, node: usize) {
        self.seen[node] = Seen::default();
    }

    /// Reads a replica's log from its beginning again, since it has been repaired or replaced. If a snapshot has left out what came
    /// before `base`, the log of some replica has that part.
    fn begin_log(&mut self, node: usize, base: LogMark) -> Check {
        let digest = |log: &[Uid]| log.iter().fold(Digest::ZERO, |digest, uid| digest.chain(*uid, &self.requests[uid]));
        let left_out = self.seen.iter().filter_map(|seen| seen.log.get(..base.position as usize));
        let mut left_out = left_out.filter(|log| digest(log) == base.log_digest);
        let Some(left_out) = left_out.next().map(<[Uid]>::to_vec) else {
            return Err(Violation::at(node, format!("the log begins after {base:?}, which nobody has")));
        };
        let seen = &mut self.seen[node];
        seen.log.clear();
        seen.places.clear();
        seen.sessions.clear();
        seen.effects.clear();
        seen.answered.clear();
        seen.delivered.clear();
        left_out.into_iter().try_for_each(|uid| {
            let request = self.requests[&uid].clone();
            self.on_entry(node, uid, &request)
        })
    }

    /// A replica may have written: checks the new entries of its log, and that what it sent is in the log. So many requests has it
    /// undone and so many snapshots installed since its start.
    pub fn on_written(&mut self, node: usize, store: &ChatStore, undone: u64, installed: u64) -> Check {
        if store.is_inserting() {
            // While the log is being repaired, nothing may be read from it.
            return Ok(());
        }
        if undone > self.seen[node].undone {
            if self.mode == Mode::Bounds || self.is_epilogue {
                return Err(Violation::at(
                    node,
                    format!("it has repaired its log: {undone} requests are applied again"),
                ));
            }
            self.begin_log(node, store.log().base())?;
            self.seen[node].undone = undone;
        }
        if installed > self.seen[node].installed {
            self.begin_log(node, store.log().base())?;
            (self.seen[node].installed, self.seen[node].may_be_replaced) = (installed, false);
        }
        let applied = store.applied();
        let (last, length) = (self.seen[node].log.last().copied().unwrap_or(Uid::MIN), self.seen[node].log.len());
        if (applied.uid, applied.position) != (last, length as u64) {
            for entry in store.log().entries(last) {
                let (uid, entry) = entry.map_err(|error| Violation::at(node, error.to_string()))?;
                if uid > last {
                    self.on_entry(node, uid, &entry.request)?;
                }
            }
        }
        self.check_sent(node)?;
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

    /// Checks a new entry of a replica's log.
    fn on_entry(&mut self, node: usize, uid: Uid, request: &Request) -> Check {
        self.check_resubmitted(node, uid, request)?;
        let seen = &mut self.seen[node];
        if seen.log.last().is_some_and(|last| *last >= uid) {
            return Err(Violation::at(node, format!("the log has {uid} after a later one")));
        }
        let position = seen.log.len();
        seen.log.push(uid);
        self.requests.entry(uid).or_insert_with(|| request.clone());
        let (client, sequence) = (request.client, request.sequence);
        let last = seen.sessions.entry(client).or_default();
        let place = if sequence == *last + 1 {
            *last = sequence;
            // If a replica has executed it in a session of its own, the message is there already.
            let is_executed = seen.effects.contains_key(&(in_own_session(request).client, 1));
            let effect = Effect { uid, message: parties(request).filter(|_| !is_executed), answer: None };
            seen.effects.insert((client, sequence), effect);
            self.executed.insert(uid.digest);
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

    /// Checks that a replica submits nothing again but what took effect before. Otherwise a client would have been told that its
    /// command was rejected, and the command would take effect later.
    fn check_resubmitted(&mut self, node: usize, uid: Uid, request: &Request) -> Check {
        if self.requests.contains_key(&uid) {
            return Ok(());
        }
        self.own_sessions.entry(in_own_session(request).client).or_insert(uid.digest);
        if self.attempts.contains(&uid) {
            return Ok(());
        }
        let original = *self.own_sessions.get(&request.client).unwrap_or(&uid.digest);
        match self.executed.contains(&original) {
            true => Ok(()),
            false => {
                let (client, sequence) = (request.client, request.sequence);
                let what = format!("{client} {sequence} ({uid}) was submitted again, though it never took effect");
                Err(Violation::at(node, what))
            }
        }
    }

    /// Checks that what a replica sent is in its log, and agrees with the request's place in its session.
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
                    let is_different = self.requests[&uid].command != self.requests[&effect.uid].command;
                    let is_about_session = matches!(
                        answer,
                        Answer::Rejected { reason: Rejection::OutOfSequence { .. } | Rejection::NotYourSession }
                    );
                    if is_different {
                        answer == Answer::Rejected { reason: Rejection::DifferentCommand }
                    } else {
                        !is_about_session && *effect.answer.get_or_insert_with(|| answer.clone()) == answer
                    }
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

    /// How many messages to rooms and how many ranges to be read were answered with `Done`.
    pub fn done(&self) -> (u64, u64) {
        let done = self
            .answers
            .iter()
            .filter(|(_, answer)| **answer == Answer::Done)
            .filter_map(|(uid, _)| self.requests.get(uid));
        done.fold((0, 0), |(in_rooms, read), request| match &request.command {
            Command::Send { to: Conversation::Room { .. }, .. } => (in_rooms + 1, read),
            Command::Read { .. } => (in_rooms, read + 1),
            _ => (in_rooms, read),
        })
    }

    /// The number of requests that were applied.
    pub fn applied(&self) -> usize {
        self.seen[0].log.len()
    }

    /// The number of requests that were undone and applied again.
    pub fn undone(&self) -> u64 {
        self.seen.iter().map(|seen| seen.undone + seen.undone_before).sum()
    }

    /// Whether every entry of a replica's log is in the log of at least one of these.
    pub fn is_elsewhere(&self, node: usize, others: &[usize]) -> bool {
        let is_in = |uid: &Uid| others.iter().any(|other| self.seen[*other].log.binary_search(uid).is_ok());
        self.seen[node].log.iter().all(is_in)
    }

    /// The number of answers that are compared with those of the specification.
    pub fn compared(&self) -> usize {
        self.answers.len() + self.pages.len()
    }

    /// Checks real-time order: requests and queries have their places above everything that was answered, to any client, before
    /// they were first sent.
    pub fn check_order(&self) -> Check {
        let effects = self.seen[0].effects.values();
        let requests = effects.filter_map(|effect| Some((effect.uid, *self.issued.get(&effect.uid.digest)?)));
        let queries = self.queries.iter().filter_map(|(query, (uid, _))| Some((*uid, *self.asked.get(query)?)));
        let answered = queries.filter(|(uid, _)| self.pages.contains_key(uid));
        match requests.chain(answered).find(|(uid, frontier)| uid <= frontier) {
            Some((uid, frontier)) => {
                Err(Violation::among_all(format!("{uid} has its place before {frontier}, which was answered before")))
            }
            None => Ok(()),
        }
    }
}

/// Checks that a store is consistent, and has applied its whole log.
pub fn check_store(node: usize, store: &ChatStore) -> Check {
    let report = store.check();
    match report.faults.first() {
        Some(fault) => Err(Violation::at(node, fault)),
        None if report.unapplied > 0 => Err(Violation::at(node, "its log has requests that are not applied")),
        None => Ok(()),
    }
}

/// The sender and the conversation of a message, if the request is one.
fn parties(request: &Request) -> Option<(AccountName, Conversation)> {
    match (&request.actor, &request.command) {
        (Some(actor), Command::Send { to, .. }) => Some((actor.account.clone(), to.clone())),
        _ => None,
    }
}
