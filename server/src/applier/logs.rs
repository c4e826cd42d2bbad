//! Between the protocol and the store, about logs: messages about peers' logs become inputs, and parts of ours are read for peers.
//!
//! The protocol knows uids and no positions or hashes. So a peer's marks and entries are compared with our log here, and the
//! protocol gets the result.

use super::boundaries::Comparison;
use super::executor::leave_out;
use super::outbox::Outbox;
use super::peer_pings::Pong;
use super::{Applier, SENT_MAX};
use crate::replica::{Input, LogPart, LogRead, PeerId, in_messages};
use crate::store::{Bodies, ChatStore, Reconciliation, StoreError};
use stablechat_protocol::digest::{BoundaryDigests, LogMark};
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::request::StampedRequest;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;

impl Applier {
    /// The input for the protocol that a peer's message leads to; none when the message does not concern it.
    pub(super) fn input_from(
        &mut self,
        time: Timestamp,
        peer: PeerId,
        mut message: PeerMessage,
    ) -> Result<Option<Input>, StoreError> {
        match &mut message {
            PeerMessage::ProbePong { sent, clock } => {
                self.peer_pings.on_pong(peer, Pong { sent: *sent, clock: *clock, received: time });
                return Ok(None);
            }
            PeerMessage::Boundary { digests } => {
                self.compare(peer, digests);
                return Ok(None);
            }
            PeerMessage::CommonPrefix { common, last, base, settled } => {
                return self.compared(time, peer, *common, [*last, *settled, *base]).map(Some);
            }
            PeerMessage::LogEntries { after, requests, is_end } => {
                let (after, requests) = (*after, std::mem::take(requests));
                return self.entries(time, peer, after, requests, *is_end).map(Some);
            }
            PeerMessage::Listed { uids } | PeerMessage::Announce { uids, .. } => self.forget_known(uids)?,
            PeerMessage::Bodies { requests } => self.leave_out_unplaceable(requests)?,
            PeerMessage::SnapshotPart { rows, end, rows_total, .. } => {
                let bytes = rows.iter().map(|row| (row.key.0.len() + row.value.0.len()) as u64).sum();
                let part = (bytes, rows.len() as u64, *rows_total);
                self.progress.on_snapshot_part(time, peer, part, end.is_some());
            }
            _ => {}
        }
        Ok(Some(Input::Peer { time, peer, message }))
    }

    /// A peer's log, which ends at the first of `own` marks, is settled up to the second and begins after the third, has been
    /// compared with our marks.
    fn compared(
        &mut self,
        time: Timestamp,
        peer: PeerId,
        common: Option<LogMark>,
        own: [LogMark; 3],
    ) -> Result<Input, StoreError> {
        let [last, settled, base] = own;
        // Our marks lie far apart where its log ends, if it lacks much. Its own tell more: if its end lies in our log, it has
        // nothing for us.
        let of_its_own = self.executor.store.log().common(&own)?;
        let common = common.into_iter().chain(of_its_own).max_by_key(|mark| mark.position);
        let shared = common.map_or(0, |common| common.position);
        let depth = self.executor.store.applied().position.saturating_sub(shared);
        self.progress.on_compared(peer, last.position.saturating_sub(shared));
        let after = match self.executor.store.log().reconciliation(common, base, settled)? {
            // The snapshot of a log that ends in the future is of a replica with a wrong clock.
            Reconciliation::TakeSnapshot if last.uid.timestamp > self.replica.latest_credible() => None,
            Reconciliation::TakeSnapshot => return Ok(Input::Outdated { peer }),
            Reconciliation::Insert if last.position > shared => Some(common.map_or(Uid::MIN, |mark| mark.uid)),
            // Its log has nothing for us. If it has to give way, it will submit again the requests that only it has.
            Reconciliation::Insert | Reconciliation::GiveSnapshot => None,
        };
        let has_settled = shared >= self.executor.store.log().settled_mark()?.position;
        let end = has_settled.then_some(last.uid.timestamp);
        Ok(Input::LogCompared { time, peer, after, depth, end })
    }

    /// A piece of a peer's log has come. Requests that have no place in ours any more are left out.
    fn entries(
        &mut self,
        time: Timestamp,
        peer: PeerId,
        after: Uid,
        requests: Vec<StampedRequest>,
        is_end: bool,
    ) -> Result<Input, StoreError> {
        self.progress.on_entries(time, peer, &requests, is_end);
        self.compare_bodies(peer, &requests)?;
        let next = requests.last().map(|held| held.uid).filter(|_| !is_end);
        let (mut missing, mut failure) = (requests, None);
        missing.retain(|held| is_missing(&self.executor.store, held.uid, &mut failure));
        failure.map_or(Ok(()), Err)?;
        self.leave_out_unplaceable(&mut missing)?;
        Ok(Input::LogEntries { time, peer, after, missing, next })
    }

    /// Looks for requests of which a peer's log has another body than ours. Either data is damaged, or an author has computed about
    /// 2^64 hashes to find two bodies of one uid. No rule tells which body is right, so this is only logged.
    fn compare_bodies(&mut self, peer: PeerId, requests: &[StampedRequest]) -> Result<(), StoreError> {
        for StampedRequest { uid, request } in requests {
            if self.executor.store.log().request(*uid)?.is_some_and(|ours| ours != *request) {
                self.executor.measurements.on_other_body();
                let name = self.identity.name_of(peer);
                log::error!(
                    "replica {name} has another request under uid {uid} than this replica, so their logs and states differ: the \
                     client of session {} has forged it, or data is damaged, which `stablechatd check` tells; remove the data of \
                     one of the two replicas, and start it again",
                    request.client
                );
            }
        }
        Ok(())
    }

    /// Takes out requests of a peer that the log lacks and has no place for any more, since it is settled there. The protocol must not
    /// see them: it would list requests that we cannot send to anybody.
    fn leave_out_unplaceable(&self, requests: &mut Vec<StampedRequest>) -> Result<(), StoreError> {
        let settled = self.executor.store.log().settled();
        let (mut unplaceable, mut failure) = (Vec::new(), None);
        for held in requests.extract_if(.., |held| held.uid <= settled).filter(StampedRequest::is_genuine) {
            if is_missing(&self.executor.store, held.uid, &mut failure) {
                unplaceable.push(held);
            }
        }
        leave_out(&unplaceable);
        failure.map_or(Ok(()), Err)
    }

    /// Drops uids from a peer's list that are not to be fetched: those that are settled, so can no longer be inserted, and those before
    /// the protocol's horizon that are in the log.
    fn forget_known(&self, uids: &mut Vec<Uid>) -> Result<(), StoreError> {
        let (horizon, settled) = (self.replica.horizon(), self.executor.store.log().settled());
        let mut failure = None;
        uids.retain(|uid| {
            *uid > settled && (uid.timestamp >= horizon || is_missing(&self.executor.store, *uid, &mut failure))
        });
        failure.map_or(Ok(()), Err)
    }

    /// Compares a peer's log and state as of a boundary with ours.
    fn compare(&mut self, peer: PeerId, theirs: &BoundaryDigests) {
        // Reports of a wrong clock's future would take the place of the present ones.
        if theirs.boundary() > self.replica.latest_credible() {
            return;
        }
        let comparison = self.boundaries.compare(peer, theirs, &self.replica, &self.executor.store);
        self.executor.measurements.on_comparison(comparison);
        match comparison {
            Comparison::Same | Comparison::Unknown => {}
            Comparison::LogsDiffer { is_ours_shorter } => {
                self.step(Input::LogsDiffer { peer, is_ours_shorter });
            }
            Comparison::StatesDiffer => {
                let name = self.identity.name_of(peer);
                log::error!("BUG: the state at position {} differs from that of replica {name}", theirs.position);
            }
        }
    }

    /// Reads the log for a peer, and gathers what to send it.
    pub(super) fn read(&mut self, now: Timestamp, read: LogRead, outbox: &mut Outbox) -> Result<(), StoreError> {
        let to = read.to;
        match read.part {
            LogPart::Marks => outbox.for_peer(to, PeerMessage::LogMarks { marks: self.executor.store.log().marks()? }),
            LogPart::CommonPrefix { marks } => {
                let common = self.executor.store.log().common(&marks)?;
                outbox.for_peer(to, self.prefix(common)?);
            }
            // The next requests have been truncated meanwhile.
            LogPart::Entries { after } if after < self.executor.store.log().base().uid => {
                outbox.for_peer(to, self.prefix(None)?)
            }
            LogPart::Entries { after } => {
                let (requests, is_end) =
                    self.executor.store.log().piece_after(after, self.replica.settings().piece_bytes)?;
                outbox.for_peer(to, PeerMessage::LogEntries { after, requests, is_end });
            }
            LogPart::SnapshotPart { number } => {
                let is_last = self.executor.snapshots.send(now, to, number, &self.executor.store, outbox)?;
                self.executor.measurements.on_snapshot_part(is_last);
            }
        }
        Ok(())
    }

    /// Sends a peer requests, as many of those in the log as one wake may gather; it asks again for the rest. Takes back those
    /// that we do not hold, or it would ask for ever.
    pub(super) fn send_bodies(
        &self,
        to: PeerId,
        mut requests: Vec<StampedRequest>,
        logged: &[Uid],
        outbox: &mut Outbox,
    ) -> Result<(), StoreError> {
        let Bodies { requests: found, absent } = self.executor.store.log().bodies(logged, SENT_MAX)?;
        requests.extend(found);
        for requests in in_messages(requests) {
            outbox.for_peer(to, PeerMessage::Bodies { requests });
        }

        // A request that is still to be written will be there when it is asked for again. Nothing is written below the settled end.
        let settled = self.executor.store.log().settled();
        let is_lost = |uid: &Uid| *uid <= settled || !self.replica.is_held(*uid);
        let uids: Vec<Uid> = absent.into_iter().filter(is_lost).collect();
        if !uids.is_empty() {
            outbox.for_peer(to, PeerMessage::NotHeld { uids });
        }
        Ok(())
    }

    /// Settles the log as far as all replicas have said the same. Requests that are yet to be inserted must not lose their places:
    /// the protocol lists them already.
    pub(super) fn settle(&mut self) {
        if self.executor.is_inserting() || self.backlog.has_insertions() {
            return;
        }
        let before = self.executor.store.log().settled();
        self.boundaries.settle(&self.replica, &mut self.executor.store);
        let uid = self.executor.store.log().settled();
        if uid > before {
            self.step(Input::Settled { uid });
        }
    }

    /// Ends the transfers on a connection that is lost, or that the protocol ends.
    pub(super) fn end_transfers_with(&mut self, peer: PeerId) {
        self.executor.snapshots.on_disconnected(peer);
        self.progress.on_disconnected(peer);
        self.backlog.on_disconnected(peer);
    }

    /// The facts about our log that a peer compares its own with. `common` is the last of its marks that is in ours.
    fn prefix(&self, common: Option<LogMark>) -> Result<PeerMessage, StoreError> {
        let (last, base, settled) = (
            self.executor.store.log().last_mark(),
            self.executor.store.log().base(),
            self.executor.store.log().settled_mark()?,
        );
        Ok(PeerMessage::CommonPrefix { common, last, base, settled })
    }
}

/// Whether the log lacks a request. It lacks none after a failure, which is noted.
fn is_missing(store: &ChatStore, uid: Uid, failure: &mut Option<StoreError>) -> bool {
    match store.log().contains(uid) {
        Ok(is_there) => !is_there && failure.is_none(),
        Err(error) => {
            *failure = Some(error);
            false
        }
    }
}
