//! Orphans: requests that had their effect in our log and have lost their place, because a snapshot has replaced the log.
//!
//! An orphan may be in no other log, and its client may have been answered. So it is kept until it has been submitted again with a
//! new timestamp and has had its effect. It must not have its effect twice: the client may have sent the request again meanwhile,
//! and another replica may have the same orphan.
//!
//! A request that our log had and that was not executed there is no orphan. Nobody was told that it took effect. Its client may
//! have been told that it did not, because another command had its number ([`Rejection::DifferentCommand`]) or its session belongs
//! to somebody else; it must not take effect after that, and a session of its own would let it. A request that was executed and
//! rejected by its command has used its number, so it is an orphan: the requests of its session after it need that number used.
//!
//! 1. While its session lives, the session knows which of its numbers were used. If another command has used the number of an
//!    orphan, the orphan is dropped: of two commands under one number, which the replicas executed while they were apart, one stays.
//! 2. A session ends after a day without use, and its knowledge is lost. But a message that was sent has a row, and the uid in it
//!    has the digest of the request, which does not depend on the timestamp.
//! 3. A session that has ended, or lacks an earlier request, cannot take the orphan. Then it is submitted in a session of its own,
//!    whose id is derived from the request, so it is the same at all replicas. Should the client send the request after that in its
//!    own session, it gets the answer that the orphan got ([`in_own_session`]). Other commands than messages may be executed twice:
//!    a create or a read does no harm then, but a deletion could end an account that was created again with the same
//!    key.
//!
//! [`Rejection::DifferentCommand`]: stablechat_protocol::answer::Rejection::DifferentCommand

use super::entries::{key_after, uid_of_key};
use crate::store::database::{decode, family};
use crate::store::error::StoreError;
use crate::store::state::housekeeping::SESSION_LIFETIME;
use crate::store::state::keys::{Column, ConversationId, message_key, prefix_end, session_key, uid_at_end};
use crate::store::state::rows::{Direction, Rows};
use crate::store::state::session::in_own_session;
use crate::store::state::values::Session;
use crate::store::state::{rooms, users};
use crate::store::{ChatStore, schema};
use rocksdb::IteratorMode;
use stablechat_protocol::command::Command;
use stablechat_protocol::conversation::Conversation;
use stablechat_protocol::request::{Actor, StampedRequest};
use stablechat_protocol::uid::Uid;

/// The most messages of a conversation that are looked at for the one of an orphan: some 20 ms. If there are more since the day
/// before it, the orphan counts as one that had no effect. A message that is there twice is better than one that is lost.
const MESSAGES_MAX: usize = 20_000;

/// Whether an orphan has had its effect, and how many rows were read to find that out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrphanEffect {
    pub is_there: bool,
    /// Whether its session has executed the request before it, so that it can be executed there.
    pub is_next: bool,
    pub rows_read: usize,
}

impl ChatStore {
    /// The first orphans after a uid that are committed, in the order of their uids.
    ///
    /// # Errors
    /// Storage failed, or is corrupt.
    pub fn orphans(&self, after: Uid, requests_max: usize) -> Result<Vec<StampedRequest>, StoreError> {
        let db = self.database.db();
        let from = key_after(after);
        let mode = IteratorMode::From(&from, rocksdb::Direction::Forward);
        let rows = db.iterator_cf(family(db, schema::ORPHANS), mode).take(requests_max);
        let orphans = rows.map(|row| {
            let (key, value) = row.map_err(|error| StoreError::Rocks("reading orphans", error))?;
            Ok(StampedRequest { uid: uid_of_key(&key)?, request: decode(schema::ORPHANS, &value)? })
        });
        orphans.collect()
    }

    /// Removes an orphan that has had its effect. Durable with the next commit.
    pub fn remove_orphan(&mut self, orphan: &StampedRequest) {
        self.batch.delete(schema::ORPHANS, orphan.uid.to_bytes());
    }

    /// Whether the state has the effect of an orphan, so that it need not be submitted again.
    ///
    /// # Errors
    /// Storage failed, or is corrupt.
    pub fn effect_of(&self, orphan: &StampedRequest) -> Result<OrphanEffect, StoreError> {
        let request = &orphan.request;
        let session: Option<Session> = self.rows.read(Column::Sessions, &session_key(request.client))?;
        let executed = session.map_or(0, |session| session.sequence);
        let own = self.rows.get(Column::Sessions, &session_key(in_own_session(request).client))?;
        if executed >= request.sequence || own.is_some() {
            return Ok(OrphanEffect { is_there: true, is_next: false, rows_read: 0 });
        }
        // A session that lives, and that this request is next in, has not executed it.
        if executed > 0 && executed + 1 == request.sequence {
            return Ok(OrphanEffect { is_there: false, is_next: true, rows_read: 0 });
        }
        find_message(&self.rows, orphan)
    }
}

/// Looks for the message that an orphan sent, under its own uid or when it was submitted again.
fn find_message(rows: &Rows, StampedRequest { uid, request }: &StampedRequest) -> Result<OrphanEffect, StoreError> {
    let mut effect = OrphanEffect { is_there: false, is_next: false, rows_read: 0 };
    let (Some(actor), Command::Send { to, .. }) = (&request.actor, &request.command) else { return Ok(effect) };
    let Some(conversation) = conversation_of(rows, actor, to)? else { return Ok(effect) };

    // Attempts at one request have different timestamps, and one digest.
    let digests = [uid.digest, in_own_session(request).uid(uid.timestamp).digest];
    let first = Uid { timestamp: uid.timestamp.before(SESSION_LIFETIME), digest: [0; 16] };
    let (begin, end) = (message_key(&conversation, first), prefix_end(&conversation));
    for row in rows.scan(Column::Timelines, &begin, &end, Direction::Forward).take(MESSAGES_MAX) {
        let (key, _) = row?;
        effect.rows_read += 1;
        if uid_at_end(&key).is_some_and(|uid| digests.contains(&uid.digest)) {
            effect.is_there = true;
            break;
        }
    }
    Ok(effect)
}

/// The key of the conversation of an actor, if there is one.
fn conversation_of(rows: &Rows, actor: &Actor, to: &Conversation) -> Result<Option<Vec<u8>>, StoreError> {
    let id = match to {
        Conversation::Account { name } => {
            let ids = users::find(rows, &actor.account)?.zip(users::find(rows, name)?);
            ids.map(|(from, to)| ConversationId::of_two(from.id, to.id))
        }
        Conversation::Room { name } => rooms::find(rows, name)?.map(|room| ConversationId::Room { id: room.id }),
        Conversation::Former { .. } => None,
    };
    Ok(id.map(ConversationId::key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{actor, apply, create, held, send, store};
    use stablechat_protocol::name::AccountName;
    use stablechat_protocol::time::Timestamp;

    /// In milliseconds.
    const HOUR: u64 = 3_600_000;

    /// A store with the accounts ann and bob, at one hour of log time.
    fn with_accounts() -> (ChatStore, Actor, Actor) {
        let (mut store, ann, bob) = (store(), actor("ann", 1), actor("bob", 2));
        apply(&mut store, &held(HOUR, 1, 1, &ann, create(&ann)));
        apply(&mut store, &held(HOUR + 1, 2, 1, &bob, create(&bob)));
        (store, ann, bob)
    }

    /// Applies the request of an orphan in a session of its own.
    fn apply_in_own_session(store: &mut ChatStore, orphan: &StampedRequest, milliseconds: u64) {
        let request = in_own_session(&orphan.request);
        let uid = request.uid(Timestamp(milliseconds * 1_000_000));
        apply(store, &StampedRequest { uid, request });
    }

    /// A command that changes nothing.
    fn idle() -> Command {
        Command::Block { name: AccountName::parse("nobody").expect("a name"), is_blocked: false }
    }

    /// Applies requests that change nothing, in a new session of ann: the first in each second ends old sessions.
    fn let_time_pass(store: &mut ChatStore, milliseconds: u64) {
        let ann = actor("ann", 1);
        for sequence in 1..=5 {
            apply(store, &held(milliseconds + 1000 * sequence, (milliseconds / HOUR) as u8, sequence, &ann, idle()));
        }
    }

    fn is_there(store: &ChatStore, orphan: &StampedRequest) -> bool {
        store.effect_of(orphan).expect("memory does not fail").is_there
    }

    #[test]
    fn each_request_has_a_session_of_its_own() {
        let (ann, bob) = (actor("ann", 1), actor("bob", 2));
        let own = |sequence, text| in_own_session(&held(1, 1, sequence, &ann, send(&bob, text)).request);
        assert_eq!(own(2, "hi"), own(2, "hi"));
        assert_eq!(own(2, "hi").sequence, 1);
        let clients = [own(2, "hi"), own(2, "ho"), own(3, "hi"), held(1, 1, 1, &ann, send(&bob, "hi")).request];
        for (at, one) in clients.iter().enumerate() {
            assert!(clients[at + 1..].iter().all(|other| other.client != one.client), "{one:?}");
        }
    }

    #[test]
    fn an_orphan_that_was_executed_in_its_own_session_has_had_its_effect() {
        let (mut store, ann, _) = with_accounts();
        // Nothing but the session tells of it.
        let orphan = held(HOUR + 10, 1, 3, &ann, idle());
        assert!(!is_there(&store, &orphan));
        apply_in_own_session(&mut store, &orphan, HOUR + 20);
        assert!(is_there(&store, &orphan));
    }

    #[test]
    fn a_message_is_found_when_its_sessions_have_ended() {
        let (mut store, ann, bob) = with_accounts();
        let orphan = held(10 * HOUR, 1, 3, &ann, send(&bob, "hi"));
        let other = held(10 * HOUR, 1, 3, &ann, send(&bob, "ho"));
        apply_in_own_session(&mut store, &orphan, 11 * HOUR);
        let_time_pass(&mut store, 36 * HOUR);
        assert!(is_there(&store, &orphan), "it was executed in a session of its own");
        assert!(!is_there(&store, &other));

        // An earlier attempt was executed in the session itself.
        let (mut store, ann, bob) = with_accounts();
        apply(&mut store, &held(9 * HOUR, 1, 2, &ann, send(&bob, "hi")));
        let orphan = held(10 * HOUR, 1, 2, &ann, send(&bob, "hi"));
        let_time_pass(&mut store, 36 * HOUR);
        assert!(is_there(&store, &orphan), "it has another timestamp");
    }

    #[test]
    fn a_message_is_found_when_its_own_session_has_ended_and_the_first_goes_on() {
        let (mut store, ann, bob) = with_accounts();
        let orphan = held(10 * HOUR, 1, 4, &ann, send(&bob, "hi"));
        apply_in_own_session(&mut store, &orphan, 11 * HOUR);
        apply(&mut store, &held(20 * HOUR, 1, 2, &ann, idle()));
        let_time_pass(&mut store, 36 * HOUR);
        assert!(is_there(&store, &orphan), "the session lives, lacks an earlier request and does not know it");
    }
}
