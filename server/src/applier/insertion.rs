//! Inserting requests into the log, batch by batch, and telling clients and subscribers the results.

use super::Applier;
use super::outbox::Outbox;
use crate::replica::{ConnectionId, Input};
use crate::store::{Outcome, Repair, StoreError};
use stablechat_protocol::answer::Stability;
use stablechat_protocol::message::ToClient;
use stablechat_protocol::request::StampedRequest;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::BTreeMap;

/// An insertion that is under way.
pub struct RunningInsertion {
    /// The connections that wait for an answer to one of the inserted requests.
    waiting: BTreeMap<Uid, Vec<ConnectionId>>,
    began: Timestamp,
    /// How many requests have been inserted so far.
    inserted: usize,
    /// How many of our own requests have been undone and applied again.
    undone: u64,
    /// How many of those have another answer now.
    changed: usize,
}

impl RunningInsertion {
    pub fn new(began: Timestamp, waiting: Vec<(Uid, Vec<ConnectionId>)>) -> RunningInsertion {
        RunningInsertion { waiting: waiting.into_iter().collect(), began, inserted: 0, undone: 0, changed: 0 }
    }
}

impl Applier {
    /// Begins to insert requests where they belong, which undoes and applies again what follows them.
    pub(super) fn begin_inserting(
        &mut self,
        now: Timestamp,
        requests: Vec<StampedRequest>,
        waiting: Vec<(Uid, Vec<ConnectionId>)>,
    ) -> Result<(), StoreError> {
        self.store.begin_inserting(requests)?;
        self.insertion = Some(RunningInsertion::new(now, waiting));
        Ok(())
    }

    /// Does a batch of the insertion that is under way, and gathers the messages that follow from it.
    pub(super) fn go_on_inserting(
        &mut self,
        clock: &impl Fn() -> Timestamp,
        outbox: &mut Outbox,
    ) -> Result<(), StoreError> {
        let Some(mut insertion) = self.insertion.take() else { return Ok(()) };
        let (repair, is_done) = self.store.go_on_inserting()?;
        self.tell(repair, &mut insertion, outbox)?;
        if !is_done {
            self.insertion = Some(insertion);
            return Ok(());
        }
        let RunningInsertion { began, inserted, undone, changed, .. } = insertion;
        if undone > 0 {
            self.measurements.on_repair(undone, changed, clock().since(began));
            log::warn!(
                "repaired the log: {inserted} requests inserted, {undone} applied again, {changed} answers changed"
            );
        }
        self.replica.step(Input::Inserted { applied: self.store.applied().uid }, self.backlog.outputs());
        Ok(())
    }

    /// Gathers the messages that follow from a batch: answers for connections that wait, deliveries for subscribers, and changed answers
    /// for the sessions that got other ones before.
    pub(super) fn tell(
        &mut self,
        repair: Repair,
        insertion: &mut RunningInsertion,
        outbox: &mut Outbox,
    ) -> Result<(), StoreError> {
        insertion.inserted += repair.inserted.len();
        insertion.undone += repair.undone;
        insertion.changed += repair.changed.len();
        for (StampedRequest { uid, request }, Outcome { answer, delivery }) in repair.inserted {
            let metadata = self.metadata(Stability::RealTime, 1);
            let answer = ToClient::Answer { client: request.client, sequence: request.sequence, uid, answer, metadata };
            outbox.for_clients(insertion.waiting.remove(&uid).unwrap_or_default(), &answer);
            self.clients.deliver(delivery, outbox);
        }
        repair.changed.into_iter().for_each(|changed| self.clients.tell_changed(changed, outbox));
        self.orphan(&repair.unplaceable)
    }

    /// Keeps requests as orphans that have no place in the log any more, since it is settled there. They are submitted again.
    pub(super) fn orphan(&mut self, unplaceable: &[StampedRequest]) -> Result<(), StoreError> {
        if !unplaceable.is_empty() {
            log::warn!(
                "{} requests belong below the settled end of the log: submitting them again with new timestamps",
                unplaceable.len()
            );
            unplaceable.iter().for_each(|held| self.store.keep_orphan(held));
            self.store.commit()?;
            self.resubmission.begin();
        }
        Ok(())
    }
}
