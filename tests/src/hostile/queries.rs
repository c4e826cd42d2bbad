//! Attacks by queries, of strangers and of accounts.

use super::attack::{Attack, By, Login, Opening, Over, Rates, Reading, Step, Then, Turn};
use crate::raw::frame;
use crate::session::{conversation, wall_clock};
use stablechat_protocol::command::Query;
use stablechat_protocol::conversation::Page;
use stablechat_protocol::message::ToReplica;
use stablechat_protocol::name::Pattern;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::time::Duration;

/// How many queries one burst has: 1.4 MB.
const BURST: u64 = 60_000;
/// How many queries are sent in one step otherwise.
const FEW: u64 = 16;

pub static ATTACKS: &[Attack] = &[
    Attack {
        name: "query-bursts",
        by: By::Stranger,
        summary: "sends 60,000 queries in one write; half of the connections are closed then",
        rates: Rates { connections: 30, opens: 30, bytes: 5_000_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::Greeting,
        next: burst,
    },
    Attack {
        name: "list-pages",
        by: By::Account,
        summary: "asks for the largest pages of names",
        rates: Rates { connections: 1000, opens: 1000, bytes: 1_000_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::Login(|_| Login { account: 0, receive: false }),
        next: |turn| few(turn, |_| wall_clock(), &list("*")),
    },
    Attack {
        name: "wildcards",
        by: By::Account,
        summary: "asks for names by patterns that are slow to match, and that match nothing",
        rates: Rates { connections: 300, opens: 300, bytes: 1_000_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::Login(|_| Login { account: 0, receive: false }),
        next: |turn| few(turn, |_| wall_clock(), &list("*o*e*o*y*w*t*a*l*n*-*a*e*-*0*0*z")),
    },
    Attack {
        name: "stale-queries",
        by: By::Stranger,
        summary: "stamps queries with times up to ten seconds ago, on connections that come and go",
        rates: Rates { connections: 30, opens: 30, bytes: 150_000 },
        over: Over::Tls,
        reading: Reading::Always,
        opening: Opening::Greeting,
        next: |turn| coming_and_going(turn, stale),
    },
    Attack {
        name: "fresh-queries",
        by: By::Stranger,
        summary: "stamps queries with the time at which they are sent, or up to 50 ms later, on connections that come and go",
        rates: Rates { connections: 300, opens: 300, bytes: 150_000 },
        over: Over::Tls,
        reading: Reading::Always,
        opening: Opening::Greeting,
        next: |turn| coming_and_going(turn, fresh),
    },
    Attack {
        name: "message-pages",
        by: By::Account,
        summary: "asks for the largest pages of its inbox, of rooms, and of a conversation",
        rates: Rates { connections: 1000, opens: 1000, bytes: 1_000_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::Login(|_| Login { account: 0, receive: false }),
        next: message_pages,
    },
];

/// A query for names.
fn list(pattern: &str) -> Query {
    Query::List { pattern: Pattern::parse(pattern).expect("a pattern"), after: None, limit: 1000 }
}

fn burst(turn: &mut Turn) -> Step {
    let query = Query::List { pattern: Pattern::parse("v").expect("a pattern"), after: None, limit: 1 };
    let now = wall_clock();
    let query =
        |id| frame(&ToReplica::Query { id, timestamp: now.after(Duration::from_nanos(id)), query: query.clone() });
    let then = if turn.random.bool() { Then::Close } else { Then::Hold };
    Step { bytes: (0..BURST).flat_map(query).collect(), frames: BURST, then }
}

/// A few queries with timestamps of this kind.
fn few(turn: &mut Turn, timestamp: fn(&mut Turn) -> Timestamp, query: &Query) -> Step {
    let first = turn.number * FEW;
    let queries: Vec<ToReplica> = (first..first + FEW)
        .map(|id| ToReplica::Query { id, timestamp: timestamp(turn), query: query.clone() })
        .collect();
    Step::messages(&queries, Then::Continue)
}

/// A few small queries. A connection makes some fifty steps of them.
fn coming_and_going(turn: &mut Turn, timestamp: fn(&mut Turn) -> Timestamp) -> Step {
    let step = few(turn, timestamp, &list("nobody"));
    match turn.random.u8(0..50) {
        0 => Step { then: Then::Close, ..step },
        _ => step,
    }
}

fn stale(turn: &mut Turn) -> Timestamp {
    wall_clock().before(Duration::from_micros(turn.random.u64(0..10_000_000)))
}

fn fresh(turn: &mut Turn) -> Timestamp {
    let ahead = if turn.random.bool() { 0 } else { turn.random.u64(0..50_000) };
    wall_clock().after(Duration::from_micros(ahead))
}

fn message_pages(turn: &mut Turn) -> Step {
    let conversation = conversation(turn.targets.hostile[1].account.as_str());
    let page = turn.random.choice([Page::Latest, Page::Unread { after: Uid::MIN }]).expect("there are two");
    let queries = [
        Query::Inbox { all: true, after: None, limit: 1000 },
        Query::Rooms { pattern: Pattern::all(), after: None, limit: 1000 },
        Query::History { conversation, page, limit: 1000 },
    ];
    let query = turn.random.choice(queries).expect("there are three");
    few(turn, |_| wall_clock(), &query)
}
