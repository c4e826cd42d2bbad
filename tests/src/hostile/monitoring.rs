//! Attacks on the port for monitoring.

use super::attack::{Attack, By, Opening, Over, Rates, Reading, Step, Then, Turn};

pub static ATTACKS: &[Attack] = &[
    Attack {
        name: "slow-http",
        by: By::Monitor,
        summary: "sends a request byte by byte",
        rates: Rates { connections: 120, opens: 200, bytes: 500 },
        over: Over::Socket,
        reading: Reading::Half,
        opening: Opening::Nothing,
        next: slow,
    },
    Attack {
        name: "half-http",
        by: By::Monitor,
        summary: "sends the beginning of a request, or nothing, and waits",
        rates: Rates { connections: 300, opens: 300, bytes: 50_000 },
        over: Over::Socket,
        reading: Reading::Half,
        opening: Opening::Nothing,
        next: half,
    },
    Attack {
        name: "long-http",
        by: By::Monitor,
        summary: "sends requests without end, and bytes that are not HTTP",
        rates: Rates { connections: 120, opens: 300, bytes: 5_000_000 },
        over: Over::Socket,
        reading: Reading::Half,
        opening: Opening::Nothing,
        next: long,
    },
    Attack {
        name: "scrapes",
        by: By::Monitor,
        summary: "asks for metrics and health, as often as it can",
        rates: Rates { connections: 48, opens: 500, bytes: 50_000 },
        over: Over::Socket,
        reading: Reading::Half,
        opening: Opening::Nothing,
        next: scrape,
    },
];

const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: monitored\r\nAccept: text/plain\r\n\r\n";

fn slow(turn: &mut Turn) -> Step {
    match REQUEST.get(turn.number as usize) {
        Some(byte) => Step::bytes(vec![*byte], Then::Continue),
        None => Step::hold(),
    }
}

fn half(turn: &mut Turn) -> Step {
    let length = turn.random.usize(0..REQUEST.len());
    Step::bytes(REQUEST[..length].to_vec(), Then::Hold)
}

fn long(turn: &mut Turn) -> Step {
    let bytes = match turn.random.u8(0..4) {
        // A head without end, and one with more fields than are read.
        0 => [b"GET /metrics HTTP/1.1\r\nCookie: ", &vec![b'x'; 100_000][..]].concat(),
        1 => [b"GET /metrics HTTP/1.1\r\n", "a: b\r\n".repeat(2000).as_bytes()].concat(),
        2 => REQUEST.repeat(500),
        _ => std::iter::repeat_with(|| turn.random.u8(..)).take(10_000).collect(),
    };
    Step { bytes, frames: 1, then: Then::Continue }
}

fn scrape(turn: &mut Turn) -> Step {
    let path = ["/metrics", "/healthz", "/readyz", "/none"][turn.random.usize(0..4)];
    let method = ["GET", "HEAD", "POST"][turn.random.usize(0..3)];
    let bytes = format!("{method} {path} HTTP/1.1\r\nHost: monitored\r\n\r\n").into_bytes();
    Step { bytes, frames: 1, then: Then::Hold }
}
