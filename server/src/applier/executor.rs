//! Executes changes of the store, and gathers the messages that follow from them: answers for the connections that wait, deliveries for
//! subscribers, and changed answers after a repair.
//!
//! Only one change is half done at a time: an insertion, which takes many batches. Until it is done, the store is between two states
//! of the log, and no other change is executed. Changes become durable with [`Executor::commit`]; the outbox must not be released
//! before.
//!
//! It never decides what is executed when. The result of a change is an input for the protocol, which the applier passes on.

use super::clients::Clients;
use super::measurements::Measurements;
use super::outbox::Outbox;
use super::resubmission::Resubmission;
use super::snapshots::{Snapshots, Taken};
use super::stopwatch::Stopwatch;
use crate::replica::{Body, ConnectionId, Input, Output, Replica, StoreChange};
use crate::store::{ChatStore, Outcome, Repair, StoreError};
use stablechat_protocol::answer::{Answer, AnswerMetadata, Stability};
use stablechat_protocol::command::Command;
use stablechat_protocol::message::ToClient;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::{Actor, QueryRequest, Request, StampedRequest};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::{BTreeMap, BTreeSet};

/// The store, and the objects that its changes concern.
pub struct Executor {
    /// Declared before the store, so dropped before it: the store must not be closed while a snapshot of it is read.
    pub snapshots: Snapshots,
    pub store: ChatStore,
    pub clients: Clients,
    pub measurements: Measurements,
    /// Begins anew whenever a change has left orphans.
    resubmission: Resubmission,
    /// The insertion that is under way.
    insertion: Option<RunningInsertion>,
    /// Tells how long each query takes.
    stopwatch: Stopwatch,
}

/// An insertion that is under way.
pub(super) struct RunningInsertion {
    /// The connections that wait for an answer to one of the inserted requests.
    waiting: BTreeMap<Uid, Vec<ConnectionId>>,
    began: Timestamp,
    /// How many requests have been inserted so far.
    inserted: usize,
    /// How many of our own requests have been undone and applied again.
    undone: u64,
    /// How many of those have another answer now.
    changed: usize,
    /// The accounts that get nothing from rooms until the end.
    suspended: BTreeSet<AccountName>,
    /// Whether a room may have been closed, or not have been closed after all.
    closes_rooms: bool,
}

impl RunningInsertion {
    pub(super) fn new(began: Timestamp, waiting: Vec<(Uid, Vec<ConnectionId>)>) -> RunningInsertion {
        let waiting = waiting.into_iter().collect();
        RunningInsertion {
            waiting,
            began,
            inserted: 0,
            undone: 0,
            changed: 0,
            suspended: BTreeSet::new(),
            closes_rooms: false,
        }
    }
}

impl Executor {
    /// For a store, without connections and with all counters at zero.
    pub fn new(store: ChatStore, stopwatch: Stopwatch) -> Executor {
        Executor {
            snapshots: Snapshots::default(),
            store,
            clients: Clients::new(stopwatch),
            measurements: Measurements::default(),
            resubmission: Resubmission::default(),
            insertion: None,
            stopwatch,
        }
    }

    /// The same with another stopwatch, before any connection.
    pub fn timed_by(self, stopwatch: Stopwatch) -> Executor {
        Executor { clients: Clients::new(stopwatch), stopwatch, ..self }
    }

    /// The same with connections and counters from [`Executor::close`].
    ///
    /// # Errors
    /// Storage failed.
    pub fn with(self, mut clients: Clients, measurements: Measurements) -> Result<Executor, StoreError> {
        clients.on_store_opened(&self.store)?;
        Ok(Executor { clients, measurements, ..self })
    }

    /// Closes the store; changes that are not committed are lost. Connections and counters outlive it.
    pub fn close(mut self) -> (Clients, Measurements) {
        self.clients.on_store_closed();
        self.measurements.on_halt();
        (self.clients, self.measurements)
    }

    /// A connection speaks for an account. `is_serving`: whether the state is recent enough to say whether the account has this key.
    pub fn on_logged_in(
        &mut self,
        connection: ConnectionId,
        actor: Actor,
        receive: bool,
        is_serving: bool,
    ) -> Result<(), StoreError> {
        let is_wrong = is_serving && !actor.account.is_operator() && !self.store.owns(&actor)?;
        let name = actor.account.clone();
        let store = self.insertion.is_none().then_some(&self.store);
        self.clients.on_logged_in(connection, actor, receive, is_wrong, store)?;
        if let Some(insertion) = &mut self.insertion {
            insertion.suspended.insert(name);
        }
        Ok(())
    }

    /// Whether an insertion is under way, so that the store is between two states of the log.
    pub fn is_inserting(&self) -> bool {
        self.insertion.is_some()
    }

    /// Executes one change, or begins to. Returns the input for the protocol that follows, if one does. The protocol wants to know the
    /// requests from `horizon` on after a snapshot.
    pub fn execute(
        &mut self,
        change: StoreChange,
        horizon: Timestamp,
        clock: &impl Fn() -> Timestamp,
        outbox: &mut Outbox,
    ) -> Result<Option<Input>, StoreError> {
        debug_assert!(self.insertion.is_none(), "a change is executed while another one is half done");
        match change {
            StoreChange::Apply { uid, body: Body::Request(request), stability, copies, waiting } => {
                self.measurements.on_request(uid.timestamp, stability);
                let outcome = self.store.apply(uid, &request)?;
                audit(uid, &request, &outcome.answer);
                self.tell_outcome(uid, &request, outcome, (stability, copies), waiting, outbox)?;
                Ok(None)
            }
            StoreChange::Apply { uid, body: Body::Query(query), stability, copies, waiting } => {
                self.answer(uid, &query, (stability, copies), waiting, outbox)?;
                Ok(None)
            }
            StoreChange::Insert { requests, waiting } => {
                let began = clock();
                self.store.begin_inserting(requests)?;
                self.insertion = Some(RunningInsertion::new(began, waiting));
                Ok(None)
            }
            StoreChange::TakeSnapshotPart { from, part, rows, end } => {
                Ok(match self.snapshots.take(from, part, (rows, end), &mut self.store, outbox)? {
                    Taken::More => None,
                    Taken::Not => Some(Input::NotInstalled { peer: from }),
                    Taken::Installed => {
                        self.measurements.on_snapshot_installed();
                        self.resubmission.begin();
                        self.clients.refresh_all(&self.store)?;
                        let applied = self.store.applied().uid;
                        Some(Input::Installed { applied, recent: recent(&self.store, horizon)? })
                    }
                })
            }
        }
    }

    /// Makes everything that was executed durable, with one sync.
    pub fn commit(&mut self, clock: &impl Fn() -> Timestamp) -> Result<(), StoreError> {
        let began = (self.store.uncommitted_bytes() > 0).then(clock);
        self.store.commit()?;
        let now = clock();
        self.measurements.on_commit(now, began.map(|began| now.since(began)));
        Ok(())
    }

    /// Does a batch of the insertion that is under way. Returns the input for the protocol when that was the last one.
    pub fn go_on_inserting(
        &mut self,
        clock: &impl Fn() -> Timestamp,
        outbox: &mut Outbox,
    ) -> Result<Option<Input>, StoreError> {
        let Some(mut insertion) = self.insertion.take() else { return Ok(None) };
        let (repair, is_done) = self.store.go_on_inserting()?;
        self.tell(repair, &mut insertion, outbox);
        if !is_done {
            self.insertion = Some(insertion);
            return Ok(None);
        }

        let RunningInsertion { began, inserted, undone, changed, suspended, closes_rooms, .. } = insertion;
        match closes_rooms {
            true => self.clients.refresh_all(&self.store)?,
            false => self.clients.resume(&suspended, &self.store)?,
        }
        if undone > 0 {
            self.measurements.on_repair(undone, changed, clock().since(began));
            log::warn!(
                "repaired the log: {inserted} requests inserted, {undone} applied again, {changed} answers changed"
            );
        }
        Ok(Some(Input::Inserted { applied: self.store.applied().uid }))
    }

    /// Gathers the messages that follow from a batch: answers for connections that wait, and changed answers for the sessions that got
    /// other ones before. Notes whose inboxes have changed.
    pub(super) fn tell(&mut self, repair: Repair, insertion: &mut RunningInsertion, outbox: &mut Outbox) {
        insertion.inserted += repair.inserted.len();
        insertion.undone += repair.undone;
        insertion.changed += repair.changed.len();
        audit_repair(&repair);
        // Before anything is delivered: who was in a room in the log as it was, may not be in it at this place of the log as it is.
        insertion.suspended.extend(repair.touched);
        insertion.closes_rooms |= repair.closes_rooms;
        self.clients.suspend(&insertion.suspended);
        for (StampedRequest { uid, request }, outcome) in repair.inserted {
            let waiting = insertion.waiting.remove(&uid).unwrap_or_default();
            let Outcome { answer, delivery, room, ended } = outcome;
            self.answer_request(uid, &request, answer, (Stability::RealTime, 1), waiting, outbox);
            self.clients.note_inserted(request.actor.as_ref(), delivery, room);
            self.clients.end_logins(ended, outbox);
        }
        repair.changed.into_iter().for_each(|changed| self.clients.tell_changed(changed, outbox));
        repair.ended.into_iter().for_each(|ended| self.clients.end_logins(Some(ended), outbox));
        leave_out(&repair.unplaceable);
    }

    /// Submits orphans again, see [`Resubmission`].
    pub fn resubmit(
        &mut self,
        now: Timestamp,
        replica: &mut Replica,
        outputs: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        let is_connected = |client| self.clients.is_connected(client);
        self.resubmission.go_on(now, replica, &mut self.store, is_connected, outputs)
    }

    /// Tells the connections that wait for the answer to a request, and all others that its outcome concerns.
    fn tell_outcome(
        &mut self,
        uid: Uid,
        request: &Request,
        outcome: Outcome,
        (stability, copies): (Stability, u8),
        waiting: Vec<ConnectionId>,
        outbox: &mut Outbox,
    ) -> Result<(), StoreError> {
        let Outcome { answer, delivery, room, ended } = outcome;
        self.answer_request(uid, request, answer, (stability, copies), waiting, outbox);
        self.clients.deliver(request.actor.as_ref(), delivery, room, outbox);
        let named = ended.iter().map(|actor| actor.account.clone()).collect();
        self.clients.end_logins(ended, outbox);
        // Logins with the new key may have come before the account had it, so that no rooms were found for them.
        self.clients.resume(&named, &self.store)
    }

    /// Answers a request for the connections that wait.
    fn answer_request(
        &self,
        uid: Uid,
        request: &Request,
        answer: Answer,
        (stability, copies): (Stability, u8),
        waiting: Vec<ConnectionId>,
        outbox: &mut Outbox,
    ) {
        let (client, sequence, metadata) = (request.client, request.sequence, self.metadata((stability, copies)));
        outbox.for_clients(waiting, ToClient::Answer { client, sequence, uid, answer, metadata });
    }

    /// Answers a query for the connections that wait, unless all of them are gone.
    fn answer(
        &mut self,
        uid: Uid,
        query: &QueryRequest,
        (stability, copies): (Stability, u8),
        waiting: Vec<ConnectionId>,
        outbox: &mut Outbox,
    ) -> Result<(), StoreError> {
        let waiting = self.clients.present(waiting);
        let Some(first) = waiting.first() else { return Ok(()) };

        let (first, began, bytes) = (*first, self.stopwatch.read(), outbox.bytes());
        let answer = self.store.query(query)?;
        let took = self.stopwatch.read().saturating_sub(began);
        self.measurements.on_query(uid.timestamp, stability);

        let answer = ToClient::QueryAnswer { id: query.id, answer, metadata: self.metadata((stability, copies)) };
        outbox.for_clients(waiting, answer);
        self.clients.on_query_answered(first, took, outbox.bytes() - bytes);
        Ok(())
    }

    /// The facts that go with an answer. They may differ between replicas, so they are no part of it.
    fn metadata(&self, (stability, copies): (Stability, u8)) -> AnswerMetadata {
        let applied = self.store.applied();
        AnswerMetadata { position: applied.position, log_digest: applied.log_digest, stability, copies }
    }
}

/// Notes the operators' requests of a repair.
pub(super) fn audit_repair(repair: &Repair) {
    repair.inserted.iter().for_each(|(StampedRequest { uid, request }, outcome)| audit(*uid, request, &outcome.answer));
    repair.changed.iter().for_each(|changed| audit(changed.uid, &changed.request, &changed.answer));
}

/// Notes in this replica's log what an operator has asked for. A replica that gets a snapshot does not learn of the requests that
/// it replaces. Nothing is noted of others, who could fill the log.
fn audit(uid: Uid, Request { actor, command, .. }: &Request, answer: &Answer) {
    let (Command::Operate { operation }, Some(Actor { account, key })) = (command, actor) else { return };
    if !account.is_operator() {
        return;
    }
    let outcome = match answer {
        Answer::Done => "done".into(),
        Answer::Rejected { reason } => format!("not done, {reason}"),
    };
    log::info!("audit: the operator with the key {key} asked in request {uid}: {operation}: {outcome}");
}

/// The requests in the log from a horizon on.
pub(super) fn recent(store: &ChatStore, horizon: Timestamp) -> Result<BTreeSet<Uid>, StoreError> {
    let first = Uid { timestamp: horizon, digest: [0; 16] };
    store.log().entries(first).map(|entry| entry.map(|(uid, _)| uid)).collect()
}

/// Says that requests are not taken, since the log is settled beyond their places. They are no orphans here: it is not known
/// whether they had their effect in the log that they come from. If one had, the replica with that log submits it again when
/// a snapshot replaces it.
pub(super) fn leave_out(unplaceable: &[StampedRequest]) {
    if !unplaceable.is_empty() {
        log::warn!(
            "{} requests of other replicas belong below the settled end of the log and are left out: a replica that has applied \
             them takes over our log, and submits them again",
            unplaceable.len()
        );
    }
}
