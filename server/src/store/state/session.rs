//! Sessions: a request takes effect at most once, and in its place.
//!
//! A session begins with the request with sequence number 1 and belongs to that request's actor. A request that was executed
//! before gets the answer that it got then. Another command under the number of one that was executed gets `DifferentCommand`:
//! the old answer would not be true of it. A request that skips a number gets `OutOfSequence` and has no effect, so a
//! client that keeps many requests in flight can resend from the gap.
//!
//! A replica may execute a request of a session that cannot take it, in another session ([`in_own_session`]). If the first session
//! can take the request after all, the request is not executed a second time.

use super::keys::{
    Column, ORPHAN_SESSION, ORPHAN_SESSION_ID, prefix_end, session_answer_key, session_key, session_use_key,
};
use super::rows::{Queue, Rows};
use super::values::{KeptAnswer, Session, UndoRecord};
use super::{Outcome, StoreError};
use stablechat_protocol::answer::{Answer, Rejection};
use stablechat_protocol::command::Command;
use stablechat_protocol::digest::Digest;
use stablechat_protocol::request::Request;
use stablechat_protocol::session::{ClientId, WINDOW};
use stablechat_protocol::uid::Uid;
use stablechat_protocol::wire::to_cbor;

/// Tells ids of sessions that are derived from requests from all other digests.
const OWN_SESSION: &str = "stablechat 2026-11 session of an orphan";

/// Applies a request at its place in its session.
pub fn apply(rows: &mut Rows, uid: Uid, request: &Request) -> Result<Outcome, StoreError> {
    let session = rows.read(Column::Sessions, &session_key(request.client))?;
    if let Some(answer) = answer_without_executing(rows, session.as_ref(), request)? {
        return Ok(Outcome::of(answer));
    }
    let outcome = match answer_in_own_session(rows, request)? {
        Some(answer) => Outcome::of(answer),
        None => super::execute(rows, uid, request)?,
    };
    record(rows, uid, request, session, &outcome.answer)?;
    Ok(outcome)
}

/// The answer to a request that was executed in a session of its own. This is asked for each request, and there is hardly ever such a
/// session, so the id is computed only while there is one.
fn answer_in_own_session(rows: &mut Rows, request: &Request) -> Result<Option<Answer>, StoreError> {
    if rows.first(Queue::OrphanSessions, &prefix_end(ORPHAN_SESSION))?.is_none() {
        return Ok(None);
    }
    let kept = rows.read(Column::Sessions, &session_answer_key(in_own_session(request).client, 1))?;
    Ok(kept.map(|KeptAnswer { answer, .. }| answer))
}

/// A request in a session of its own, for one that its session cannot take any more (`log::orphans`). The id is as secret as that of
/// the session, from which it is derived: anybody who knew it could use the session first.
pub fn in_own_session(request: &Request) -> Request {
    let digest = blake3::derive_key(OWN_SESSION, &to_cbor(request));
    let mut client = [0; 16];
    let (beginning, rest) = client.split_at_mut(ORPHAN_SESSION_ID.len());
    beginning.copy_from_slice(&ORPHAN_SESSION_ID);
    rest.copy_from_slice(&digest[..rest.len()]);
    Request { client: ClientId(client), sequence: 1, ..request.clone() }
}

/// The answer that a request got, read from the state right after it.
///
/// The session alone can tell: if the request was executed, its answer is kept; if not, the session is as the request found it,
/// and gives the same answer again.
pub fn given_answer(rows: &Rows, request: &Request) -> Result<Answer, StoreError> {
    let session = rows.read(Column::Sessions, &session_key(request.client))?;
    let answer = answer_without_executing(rows, session.as_ref(), request)?;
    let client = request.client;
    answer
        .ok_or_else(|| StoreError::Corrupt(format!("session {client} does not know a request that was applied in it")))
}

/// Whether a request was executed, by its undo record: then it has written its answer.
///
/// A request that was rejected because of its session, or repeated an earlier one, has not. (Its housekeeping may have removed an
/// old answer under the same number, of a session that was not used for a day. Then it counts as executed.)
pub fn was_executed(request: &Request, undo: &UndoRecord) -> bool {
    let answer = session_answer_key(request.client, request.sequence);
    undo.rows.iter().any(|row| row.column == Column::Sessions as u8 && row.key.0 == answer)
}

/// The answer to a request that must not be executed; `None` for the one that is next in its session.
fn answer_without_executing(
    rows: &Rows,
    session: Option<&Session>,
    request: &Request,
) -> Result<Option<Answer>, StoreError> {
    let next = session.map_or(0, |session| session.sequence) + 1;
    let reason = match session {
        Some(session) if session.actor != request.actor => Rejection::NotYourSession,
        Some(session) if (1..session.kept_from).contains(&request.sequence) => Rejection::AnswerForgotten,
        Some(session) if (session.kept_from..next).contains(&request.sequence) => {
            let kept = rows.read(Column::Sessions, &session_answer_key(request.client, request.sequence))?;
            let KeptAnswer { command, answer } = kept.ok_or_else(|| no_answer(request))?;
            if command == digest_of(&request.command) {
                return Ok(Some(answer));
            }
            Rejection::DifferentCommand
        }
        _ if request.sequence != next => Rejection::OutOfSequence { expected: next },
        _ => return Ok(None),
    };
    Ok(Some(Answer::Rejected { reason }))
}

fn no_answer(request: &Request) -> StoreError {
    StoreError::Corrupt(format!("session {} has no answer to request {}", request.client, request.sequence))
}

/// The digest that tells a command from another.
fn digest_of(command: &Command) -> Digest {
    Digest(*blake3::hash(&to_cbor(command)).as_bytes())
}

/// Records that a request has been executed, with its answer. Forgets the answer that leaves the window.
fn record(
    rows: &mut Rows,
    uid: Uid,
    request: &Request,
    before: Option<Session>,
    answer: &Answer,
) -> Result<(), StoreError> {
    let client = request.client;
    let used = uid.timestamp;

    // The order of last use is coarse, so most requests find their session at its place already and write nothing here.
    let (place, old_place) =
        (session_use_key(used, client), before.as_ref().map(|before| session_use_key(before.used, client)));
    if old_place.as_ref() != Some(&place) {
        if let Some(old_place) = old_place {
            rows.remove(Column::Sessions, old_place)?;
        }
        rows.add_bytes(Column::Sessions, place, Vec::new());
    }

    let mut kept_from = before.map_or(1, |before| before.kept_from);
    if request.sequence - kept_from >= WINDOW {
        rows.remove(Column::Sessions, session_answer_key(client, kept_from))?;
        kept_from += 1;
    }
    let session = Session { actor: request.actor.clone(), sequence: request.sequence, used, kept_from };
    rows.put(Column::Sessions, session_key(client), &session)?;
    let answer = KeptAnswer { command: digest_of(&request.command), answer: answer.clone() };
    rows.add(Column::Sessions, session_answer_key(client, request.sequence), &answer);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::in_own_session;
    use crate::store::testing::{actor, apply, create, held, send, store};
    use stablechat_protocol::answer::Answer;
    use stablechat_protocol::request::StampedRequest;
    use stablechat_protocol::time::Timestamp;

    /// A replica has executed the third request of a session in another session, since this one lacked the second. Then the client
    /// comes back and sends both.
    #[test]
    fn a_request_that_was_executed_in_a_session_of_its_own_is_not_executed_again() {
        let mut store = store();
        let ann = actor("ann", 1);
        let third = held(40, 1, 3, &ann, send(&ann, "third"));
        let own = in_own_session(&third.request);
        let orphan = StampedRequest { uid: own.uid(Timestamp(20_000_000)), request: own };
        let second = held(30, 1, 2, &ann, send(&ann, "second"));
        let fourth = held(50, 1, 4, &ann, send(&ann, "fourth"));

        let deliveries = [&held(10, 1, 1, &ann, create(&ann)), &orphan, &second, &third, &fourth].map(|held| {
            let outcome = apply(&mut store, held);
            assert_eq!(outcome.answer, Answer::Done);
            outcome.delivery.map(|delivery| delivery.message.text.as_str().to_owned())
        });
        let texts = deliveries.iter().map(Option::as_deref).collect::<Vec<_>>();
        assert_eq!(texts, [None, Some("third"), Some("second"), None, Some("fourth")]);
        assert_eq!(apply(&mut store, &held(60, 1, 3, &ann, send(&ann, "third"))).answer, Answer::Done);
    }
}
