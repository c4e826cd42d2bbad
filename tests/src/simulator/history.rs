//! Whether what happened in a run could have come from one chat service that does one thing at a time: linearizability
//! (Herlihy and Wing 1990).
//!
//! In general this takes a search for an order of all operations in which a sequential service gives the same answers, and in
//! which an operation that ended before another began comes first (Wing and Gong 1993; the testers of Knossos and stateright
//! search so). Here no search is needed, since the protocol names the order that it claims: that of uids, with each query at
//! its own uid. If this order passes, it is a witness, which proves the run linearizable. If it does not pass, that is a fault
//! even if another order would pass, since this order is the one that replicas promise.
//!
//! Three checks are made of it.
//! 1. *The answers are right*: every answer that any replica gave to a command is that of the [`Specification`], executing the
//!    log in its order; every answer to a query is that of the specification as it is at the query's place.
//! 2. *Real time is kept*: an operation's place is after those of all operations that were answered before it was first
//!    sent, whoever sent them, and whichever of the two is a query. `Checks` has noted the latest place of what was
//!    answered (the *frontier*) whenever something was first sent.
//! 3. *It is one order*: `Checks` has compared the logs of replicas entry by entry, and what different replicas answered.
//!
//! An attempt at a query is an operation of its own; repeated commands are one, whose place is where it took effect. What
//! was never answered may or may not have a place.
//!
//! Beyond bounds this is claimed of the last log only: answers given when nothing goes wrong any more are right.

use super::checks::{AnsweredQuery, Checks};
use super::plan::{OPERATOR_KEY, room_names};
use super::specification::Specification;
use super::{Check, Violation};
use stablechat_protocol::command::{Command, PAGE_MAX, Query};
use stablechat_protocol::conversation::{Conversation, Page};
use stablechat_protocol::name::AccountName;
use stablechat_protocol::name::Pattern;
use stablechat_protocol::request::{Actor, QueryRequest};
use stablechat_protocol::uid::Uid;
use stablechat_server::store::ChatStore;
use std::collections::BTreeMap;

/// Who was to get each message: those who took part in its conversation at its place in the log.
pub type Audiences = BTreeMap<Uid, Vec<AccountName>>;

/// Checks all answers against the specification, executing the log, which all replicas agree on in the end. Returns it as it
/// is after that, and who was to get each message.
pub fn check(checks: &Checks) -> Check<(Specification, Audiences)> {
    let (mut specification, mut audiences) = (Specification::default(), Audiences::new());
    let mut pages = checks.pages.iter().peekable();
    let mut position = 0;
    for uid in &checks.seen[0].log {
        while let Some((_, page)) = pages.next_if(|(asked, _)| *asked < uid) {
            check_page(&specification, position, page)?;
        }
        let request = &checks.requests[uid];
        let expected = specification.execute(*uid, request);
        position += 1;
        if let (Some(actor), Command::Send { to, .. }) = (&request.actor, &request.command) {
            audiences.insert(*uid, specification.audience(&actor.account, to));
        }
        if let Some(answer) = checks.answers.get(uid).filter(|answer| **answer != expected) {
            let what = format!("{request:?} ({uid}) is answered {answer:?}, and should be {expected:?}");
            return Err(Violation::among_all(what));
        }
    }
    pages.try_for_each(|(_, page)| check_page(&specification, position, page))?;
    Ok((specification, audiences))
}

/// A query was answered as at its place.
fn check_page(specification: &Specification, position: u64, page: &AnsweredQuery) -> Check {
    let expected = specification.answer(&page.query);
    if (&page.answer, page.position) == (&expected, position) {
        return Ok(());
    }
    let AnsweredQuery { query, answer, position: given } = page;
    let what = format!("{query:?} is answered {answer:?} as of {given}, and should be {expected:?} as of {position}");
    Err(Violation::among_all(what))
}

/// A store shows to everyone what the specification shows.
pub fn check_state(node: usize, store: &ChatStore, specification: &Specification) -> Check {
    let everyone = specification.everyone();
    let ask = |actor: Option<&Actor>, query| {
        let query = QueryRequest { id: 0, actor: actor.cloned(), query };
        let (expected, answer) = (specification.answer(&query), store.query(&query));
        match answer.map_err(|error| Violation::at(node, error.to_string()))? {
            answer if answer == expected => Ok(()),
            answer => {
                let what = format!("in the end {query:?} is answered {answer:?}, and should be {expected:?}");
                Err(Violation::at(node, what))
            }
        }
    };
    let operator = Actor { account: AccountName::operator(), key: OPERATOR_KEY };
    ask(Some(&operator), Query::Settings)?;
    ask(Some(&operator), Query::List { pattern: Pattern::all(), after: None, limit: PAGE_MAX })?;
    let rooms = Query::Rooms { pattern: Pattern::all(), after: None, limit: PAGE_MAX };
    ask(Some(&operator), rooms.clone())?;
    for one in &everyone {
        ask(Some(one), Query::Inbox { all: true, after: None, limit: PAGE_MAX })?;
        ask(Some(one), Query::Blocked)?;
        ask(Some(one), rooms.clone())?;
        let others = everyone.iter().map(|other| Conversation::with(&other.account));
        let names = room_names();
        for room in names.clone() {
            ask(Some(one), Query::Members { room, after: None, limit: PAGE_MAX })?;
        }
        for conversation in others.chain(names.map(|name| Conversation::Room { name })) {
            for page in [Page::Latest, Page::Unread { after: Uid::MIN }] {
                let conversation = conversation.clone();
                ask(Some(one), Query::History { conversation, page, limit: PAGE_MAX })?;
            }
        }
    }
    Ok(())
}
