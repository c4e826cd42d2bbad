//! Attacks by strangers that have nothing to do with chat: sockets, greetings, logins and frames.

use super::attack::{Attack, By, Opening, Over, Rates, Reading, Step, Then, Turn};
use super::targets::Hostile;
use crate::cluster::CLUSTER;
use crate::raw::{frame, hello};
use crate::session::send;
use stablechat_protocol::command::Query;
use stablechat_protocol::digest::Digest;
use stablechat_protocol::frame::FRAME_MAX;
use stablechat_protocol::login::{LoginProof, Signature};
use stablechat_protocol::message::{MAGIC, Role, ToReplica};
use stablechat_protocol::name::{ClusterName, Pattern, ReplicaName};
use stablechat_protocol::time::Timestamp;

/// The most bytes of a step that repeats one frame.
const REPEATED_BYTES: usize = 64 * 1024;

pub static ATTACKS: &[Attack] = &[
    Attack {
        name: "silent-sockets",
        by: By::Stranger,
        summary: "connects and says nothing",
        rates: Rates { connections: 4500, opens: 3000, bytes: 0 },
        over: Over::Socket,
        reading: Reading::Never,
        opening: Opening::Nothing,
        next: |_| Step::hold(),
    },
    Attack {
        name: "half-handshakes",
        by: By::Stranger,
        summary: "begins a handshake, cut at any byte or with changed bytes, and waits",
        rates: Rates { connections: 3000, opens: 1000, bytes: 1_000_000 },
        over: Over::Socket,
        reading: Reading::Half,
        opening: Opening::Nothing,
        next: half_handshake,
    },
    Attack {
        name: "handshakes",
        by: By::Stranger,
        summary: "makes handshakes as they should be, and closes the connection after each",
        rates: Rates { connections: 300, opens: 1000, bytes: 1_000_000 },
        over: Over::Tls,
        reading: Reading::Always,
        opening: Opening::Nothing,
        next: |_| Step::bytes(vec![0], Then::Close),
    },
    Attack {
        name: "unencrypted",
        by: By::Stranger,
        summary: "sends a hello, or a request for a web page, without TLS",
        rates: Rates { connections: 300, opens: 1000, bytes: 1_000_000 },
        over: Over::Socket,
        reading: Reading::Half,
        opening: Opening::Nothing,
        next: unencrypted,
    },
    Attack {
        name: "partial-hellos",
        by: By::Stranger,
        summary: "sends the beginning of a hello, and waits",
        rates: Rates { connections: 3000, opens: 1000, bytes: 100_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::Nothing,
        next: |turn| cut(frame(&hello(CLUSTER)), turn, Then::Hold),
    },
    Attack {
        name: "half-frames",
        by: By::Stranger,
        summary: "greets, sends a frame of any length but its last byte, and waits",
        rates: Rates { connections: 3000, opens: 1000, bytes: 100_000_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::Greeting,
        next: half_frame,
    },
    Attack {
        name: "six-byte-frames",
        by: By::Stranger,
        summary: "sends frames of six bytes, which log out, without end",
        rates: Rates { connections: 24, opens: 100, bytes: 20_000_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::Greeting,
        next: |_| repeated(&ToReplica::Logout),
    },
    Attack {
        name: "status-requests",
        by: By::Stranger,
        summary: "asks for the status, or for pings of the peers, in frames of six bytes",
        rates: Rates { connections: 90, opens: 200, bytes: 1_000_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::Greeting,
        next: reports,
    },
    Attack {
        name: "unread-pings",
        by: By::Stranger,
        summary: "pings, and reads no pong",
        rates: Rates { connections: 900, opens: 500, bytes: 20_000_000 },
        over: Over::Tls,
        reading: Reading::Never,
        opening: Opening::Greeting,
        next: |turn| repeated(&ToReplica::Ping { sent: Timestamp(turn.random.u64(..)) }),
    },
    Attack {
        name: "wrong-hellos",
        by: By::Stranger,
        summary: "greets with a wrong magic, cluster, version or role, or twice",
        rates: Rates { connections: 300, opens: 1000, bytes: 500_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::Nothing,
        next: wrong_hello,
    },
    Attack {
        name: "bad-frames",
        by: By::Stranger,
        summary: "sends random bytes, oversized, malformed and mutated frames, before and after greeting",
        rates: Rates { connections: 300, opens: 1000, bytes: 5_000_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::Nothing,
        next: bad_frame,
    },
    Attack {
        name: "cut-connections",
        by: By::Stranger,
        summary: "closes the connection at any byte of a greeting, a login and a request",
        rates: Rates { connections: 300, opens: 2000, bytes: 5_000_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::Greeting,
        next: cut_conversation,
    },
    Attack {
        name: "bad-logins",
        by: By::Stranger,
        summary: "logs in with wrong signatures, without end",
        rates: Rates { connections: 60, opens: 100, bytes: 4_000_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::Greeting,
        next: |turn| logins(turn, false),
    },
    Attack {
        name: "good-logins",
        by: By::Stranger,
        summary: "logs in with good signatures of a key that no account has, without end",
        rates: Rates { connections: 60, opens: 100, bytes: 4_000_000 },
        over: Over::Tls,
        reading: Reading::Half,
        opening: Opening::Greeting,
        next: |turn| logins(turn, true),
    },
];

/// The beginning of a handshake.
fn half_handshake(turn: &mut Turn) -> Step {
    let name = &turn.targets.names[turn.replica];
    let mut tls = turn.targets.tls.dial(name).expect("the name of a replica");
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).expect("a vector takes everything");
    if turn.random.bool() {
        for _ in 0..turn.random.usize(1..4) {
            let at = turn.random.usize(0..bytes.len());
            bytes[at] = turn.random.u8(..);
        }
        return Step::bytes(bytes, Then::Hold);
    }
    cut(bytes, turn, Then::Hold)
}

/// What a program sends that does not know of the encryption.
fn unencrypted(turn: &mut Turn) -> Step {
    let page = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    Step::bytes(if turn.random.bool() { frame(&hello(CLUSTER)) } else { page }, Then::Hold)
}

/// A frame again and again.
pub fn repeated(message: &ToReplica) -> Step {
    repeated_frame(&frame(message))
}

fn repeated_frame(frame: &[u8]) -> Step {
    let times = REPEATED_BYTES / frame.len();
    Step { bytes: frame.repeat(times), frames: times as u64, then: Then::Continue }
}

/// The beginning of some bytes.
fn cut(mut bytes: Vec<u8>, turn: &mut Turn, then: Then) -> Step {
    bytes.truncate(turn.random.usize(0..bytes.len()));
    Step::bytes(bytes, then)
}

/// A frame of any length that a header can promise, without its last byte.
fn half_frame(turn: &mut Turn) -> Step {
    // As many of the short as of the long: the logarithm of the length is drawn.
    let length = (1 << turn.random.u32(0..=FRAME_MAX.ilog2())).min(FRAME_MAX);
    let length = turn.random.usize(length / 2 + 1..=length);
    let header = u32::try_from(length).expect("at most a frame").to_be_bytes();
    Step::bytes([&header[..], &vec![0x81; length - 1]].concat(), Then::Hold)
}

/// A request for a report.
fn reports(turn: &mut Turn) -> Step {
    repeated(if turn.random.bool() { &ToReplica::Status } else { &ToReplica::PingPeers })
}

/// A hello that is refused.
fn wrong_hello(turn: &mut Turn) -> Step {
    let cluster = ClusterName::parse(CLUSTER).expect("a name by the rules");
    let other = ClusterName::parse("other").expect("a name by the rules");
    let name = ReplicaName::parse(["a", "z"][turn.random.usize(0..2)]).expect("a name by the rules");
    // It is not the digest of the cluster file, so this is no greeting as a replica.
    let replica = Role::Replica { name, cluster_file: Digest([turn.random.u8(..); 32]) };
    let hello = |magic: &str, version, role: &Role, cluster: &ClusterName| {
        let (version_min, version_max) = (version, version);
        let (role, cluster) = (role.clone(), cluster.clone());
        frame(&ToReplica::Hello { magic: magic.into(), version_min, version_max, role, cluster })
    };
    let hellos = [
        hello("stablecat", 1, &Role::Client, &cluster),
        hello(MAGIC, 1, &Role::Client, &other),
        hello(MAGIC, turn.random.u16(2..), &Role::Client, &cluster),
        hello(MAGIC, 1, &replica, &cluster),
        hello(MAGIC, 1, &Role::Client, &cluster).repeat(2),
    ];
    let bytes = turn.random.choice(hellos).expect("there are some");
    Step { bytes, frames: 1, then: Then::Hold }
}

/// Bytes that no replica understands. The first step on half of the connections is a greeting.
fn bad_frame(turn: &mut Turn) -> Step {
    if turn.number == 0 && turn.random.bool() {
        return Step::messages([&hello(CLUSTER)], Then::AwaitWelcome);
    }
    let length = turn.random.usize(0..5000);
    let random: Vec<u8> = std::iter::repeat_with(|| turn.random.u8(..)).take(length).collect();
    let with_length = |length: u32, item: &[u8]| [&length.to_be_bytes()[..], item].concat();
    let bytes = match turn.random.u8(0..4) {
        0 => random,
        1 => with_length(turn.random.u32(FRAME_MAX as u32 + 1..), &random),
        2 => with_length(random.len() as u32, &random),
        _ => mutated(turn),
    };
    Step { bytes, frames: 1, then: Then::Hold }
}

/// A valid frame with a few changed bytes.
fn mutated(turn: &mut Turn) -> Vec<u8> {
    let query = Query::List { pattern: Pattern::parse("*").expect("a pattern"), after: None, limit: 1000 };
    let messages = [
        hello(CLUSTER),
        ToReplica::Query { id: 1, timestamp: crate::session::wall_clock(), query },
        turn.lone_request(send("vera", "x")),
        turn.lone_request(Hostile::new("mutant").create()),
    ];
    let mut bytes = frame(&turn.random.choice(messages).expect("there are some"));
    for _ in 0..turn.random.usize(1..4) {
        let at = turn.random.usize(0..bytes.len());
        bytes[at] = turn.random.u8(..);
    }
    bytes
}

/// A login and a request, up to any byte.
fn cut_conversation(turn: &mut Turn) -> Step {
    let person = &turn.targets.hostile[1];
    let login = turn.login(person, true);
    let request = turn.lone_request(send("vera", "cut"));
    cut([frame(&login), frame(&request)].concat(), turn, Then::Close)
}

/// Logins. The good one is signed once for each connection: to sign costs the attacker as much as it costs the replica to check.
fn logins(turn: &mut Turn, are_good: bool) -> Step {
    let mut login = turn.login(&turn.targets.hostile[2], false);
    if !are_good
        && let ToReplica::Login { proof: LoginProof::Signature { signature: Signature(bytes) }, .. } = &mut login
    {
        let at = turn.random.usize(0..bytes.len());
        bytes[at] ^= 1;
    }
    repeated(&login)
}
