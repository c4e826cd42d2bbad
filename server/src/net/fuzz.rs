//! The greeting, when a stranger sends any bytes: what nobody has proved is never passed on.

use super::ReplicaIdentity;
use super::greeting::{Greeting, Reaction};
use super::testing::FakeChannel;
use crate::fuzzing::{inputs, mutate};
use crate::random::Random;
use crate::replica::Body;
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::command::{Command, Query};
use stablechat_protocol::frame::{CLIENT_FRAME_MAX, Decoded, FrameBuffer, encode};
use stablechat_protocol::login::{Challenge, LoginProof, LoginStatement, SecretKey};
use stablechat_protocol::message::{MAGIC, Role, ToReplica};
use stablechat_protocol::name::{AccountName, Pattern};
use stablechat_protocol::request::Actor;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::version::Versions;

/// The most bytes of a frame before the greeting.
const GREETING_FRAME_MAX: usize = 4096;
const CHALLENGE: Challenge = Challenge([7; 32]);

/// The replica that is spoken to: the second of two.
fn us() -> ReplicaIdentity {
    let text =
        "name = 'demo'\nid = '1'\n[[replica]]\nname = 'a'\naddress = 'x:1'\n[[replica]]\nname = 'b'\naddress = 'x:2'\n";
    let cluster = Cluster::parse(text).expect("a good file");
    ReplicaIdentity::of(&cluster, &cluster.replicas[1].name).expect("one of the two")
}

/// The only account whose key anybody has.
fn alice() -> Actor {
    Actor { account: AccountName::parse("alice").expect("a name"), key: SecretKey::from_seed(&[1; 32]).public() }
}

/// What a client says: hello, a login that is good on this connection, and requests.
fn conversation(us: &ReplicaIdentity) -> Vec<ToReplica> {
    let Actor { account, key } = alice();
    let statement = LoginStatement {
        cluster: us.cluster.clone(),
        cluster_id: us.file.id.clone(),
        replica: us.replica.clone(),
        challenge: CHALLENGE,
        account: account.clone(),
        key,
        channel: FakeChannel::BINDING,
    };
    let signature = SecretKey::from_seed(&[1; 32]).sign(&statement);
    let list = |limit| ToReplica::Query {
        id: 3,
        timestamp: Timestamp(9),
        query: Query::List { pattern: Pattern::all(), after: None, limit },
    };
    vec![
        hello(us, Role::Client),
        list(5),
        ToReplica::Login { account, key, receive: true, proof: LoginProof::Signature { signature } },
        ToReplica::Request {
            client: ClientId([3; 16]),
            sequence: 1,
            timestamp: Timestamp(8),
            command: Command::Delete,
        },
        list(1),
        ToReplica::Ping { sent: Timestamp(1) },
        ToReplica::Status,
        ToReplica::PingPeers,
        ToReplica::Logout,
        list(1000),
    ]
}

fn hello(us: &ReplicaIdentity, role: Role) -> ToReplica {
    let (magic, cluster, Versions { min, max }) = (MAGIC.into(), us.cluster.clone(), Versions::OURS);
    ToReplica::Hello { magic, version_min: min, version_max: max, role, cluster }
}

fn frame(message: &ToReplica) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(message, &mut bytes).expect("short");
    bytes
}

/// Passes bytes to a greeting as a connection does. Returns how many messages it took.
fn greet(us: &ReplicaIdentity, bytes: &[u8]) -> usize {
    let (mut greeting, mut buffer) = (Greeting::new(CHALLENGE), FrameBuffer::with_limit(GREETING_FRAME_MAX));
    let (mut actor, mut taken) = (None, 0);
    buffer.push(bytes);
    while let Ok(Decoded::Frame(message)) = buffer.decode::<ToReplica>() {
        let was_greeted = greeting.is_done();
        let reaction = match greeting.on_message(message, &FakeChannel { is_certified: true }, us, Timestamp(5)) {
            Reaction::Check(attempt) => {
                let is_genuine = attempt.is_genuine();
                greeting.on_checked(*attempt, is_genuine)
            }
            reaction => reaction,
        };
        taken += 1;
        match reaction {
            Reaction::Close(_) | Reaction::RefusePeer(..) | Reaction::RefuseVersions(..) | Reaction::Peer(..) => break,
            Reaction::Welcome(_) => {
                assert!(!was_greeted && greeting.is_done());
                buffer.set_limit(CLIENT_FRAME_MAX);
                continue;
            }
            Reaction::LoggedIn(who, _) => {
                assert_eq!(who, alice(), "nobody has the key of another account");
                actor = Some(who);
            }
            Reaction::LoggedOut(_) => actor = None,
            Reaction::Request(_, Body::Request(request)) => assert_eq!(request.actor, actor),
            Reaction::Request(_, Body::Query(query)) => assert_eq!(query.actor, actor),
            Reaction::Reply(_) | Reaction::Check(_) | Reaction::Status | Reaction::PingPeers => {}
        }
        assert!(was_greeted, "a stranger says hello first");
    }
    taken
}

#[test]
fn nothing_is_passed_on_that_nobody_has_proved() {
    let us = us();
    let first = us.peers().next().map(|(_, peer)| peer.name.clone()).expect("there are two");
    let peer = Role::Replica { cluster_file: us.digest_with(&first), name: first };
    let messages = conversation(&us);
    let whole: Vec<u8> = messages.iter().flat_map(frame).collect();
    assert_eq!(greet(&us, &whole), messages.len(), "unchanged, it is all taken");

    let examples: Vec<Vec<u8>> = messages.iter().chain([&hello(&us, peer)]).map(frame).collect();
    let mut taken = 0;
    for input in inputs(10_000) {
        let random = &mut Random(input);
        let mut frames: Vec<Vec<u8>> = (0..random.below(8)).map(|_| random.one_of(&examples).clone()).collect();
        // Most begin well, or little would come after the hello.
        if random.percent(80) {
            frames.insert(0, examples[0].clone());
        }
        // Within a frame, whose length stays right; or anywhere.
        if random.percent(50) && !frames.is_empty() {
            let changed = random.below(frames.len());
            let mut item = frames[changed].split_off(4);
            mutate(random, &mut item, &examples);
            let length = u32::try_from(item.len()).expect("short").to_be_bytes();
            frames[changed] = [&length[..], &item].concat();
        }
        let mut bytes = frames.concat();
        if random.percent(50) {
            mutate(random, &mut bytes, &examples);
        }
        taken += greet(&us, &bytes);
    }
    assert!(taken > 0);
}
