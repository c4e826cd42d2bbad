//! Connections of other protocols and of broken clients: each is ended with the reason that the protocol gives for it, and other
//! connections are not affected.

use stablechat_protocol::answer::Answer;
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::digest::Digest;
use stablechat_protocol::frame::CLIENT_FRAME_MAX;
use stablechat_protocol::message::{MAGIC, Role, ToClient, ToReplica};
use stablechat_protocol::name::{ClusterName, ReplicaName};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::version::{VERSION_MAX, VERSION_MIN};
use stablechat_tests::cluster::{CLUSTER, Cluster};
use stablechat_tests::pipeline::Pipeline;
use stablechat_tests::raw::{RawClient, create_accounts, frame, hello};
use stablechat_tests::session::{Person, Session, send, stamp};
use std::time::Duration;

const DELIVERY_BOUND: Duration = Duration::from_millis(200);

/// A cluster of one replica.
fn lone_replica() -> Cluster {
    Cluster::start(&["a"], DELIVERY_BOUND)
}

/// A frame with these bytes, valid or not.
fn frame_of(item: &[u8]) -> Vec<u8> {
    let length = u32::try_from(item.len()).expect("short");
    [&length.to_be_bytes()[..], item].concat()
}

/// The reason with which the replica ends a connection that begins with these bytes.
fn reason_after(cluster: &Cluster, bytes: &[u8]) -> CloseReason {
    let mut client = cluster.connect("a");
    client.send_bytes(bytes).expect("the connection stands");
    client.closing()
}

#[test]
fn a_refused_hello_is_told_the_reason() {
    let cluster = lone_replica();
    let ours = ClusterName::parse(CLUSTER).expect("a name");
    let hello = |magic: &str, version_min, version_max, role, cluster: &str| {
        let cluster = ClusterName::parse(cluster).expect("a name");
        frame(&ToReplica::Hello { magic: magic.into(), version_min, version_max, role, cluster })
    };
    let versions = CloseReason::Version { version_min: VERSION_MIN, version_max: VERSION_MAX };
    let cases = [
        (hello(MAGIC, 1, 1, Role::Client, "prod"), CloseReason::WrongCluster { cluster: ours }),
        (hello(MAGIC, 0, 0, Role::Client, CLUSTER), versions.clone()),
        (hello(MAGIC, VERSION_MAX + 1, u16::MAX, Role::Client, CLUSTER), versions.clone()),
        (hello(MAGIC, 3, 1, Role::Client, CLUSTER), versions),
        (hello("stablecat", 1, 1, Role::Client, CLUSTER), CloseReason::NotStablechat),
        (hello("", 1, 1, Role::Client, CLUSTER), CloseReason::NotStablechat),
    ];
    for (hello, reason) in cases {
        assert_eq!(reason_after(&cluster, &hello), reason);
    }
    let name = ReplicaName::parse("a").expect("a name");
    let stranger = Role::Replica { name, cluster_file: Digest::ZERO };
    assert_eq!(reason_after(&cluster, &hello(MAGIC, 1, 1, stranger, CLUSTER)), CloseReason::NotCertified);

    // A client that speaks other versions as well is welcome.
    let mut newer = cluster.connect("a");
    newer.send_bytes(&hello(MAGIC, 0, u16::MAX, Role::Client, CLUSTER)).expect("the connection stands");
    assert!(matches!(newer.receive(), ToClient::Welcome { version: VERSION_MAX, .. }));
}

#[test]
fn connections_of_other_protocols_are_told_what_this_is() {
    let cluster = lone_replica();
    let strangers: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\nHost: chat.example\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        // The beginning of a TLS handshake.
        &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03],
        &[0; 4],
        &[0xff; 4096],
        &frame_of(b"\xff"),
        // Well-formed CBOR that is not a message.
        &frame_of(b"\xa1\x65hello\x65world"),
        // A frame of a length that is allowed only after the greeting.
        &4097u32.to_be_bytes(),
    ];
    for stranger in strangers {
        assert_eq!(reason_after(&cluster, stranger), CloseReason::NotStablechat, "{stranger:02x?}");
    }
    cluster.greet("a").ping();
}

#[test]
fn frames_out_of_place_end_the_connection() {
    let cluster = lone_replica();
    let ping = frame(&ToReplica::Ping { sent: Timestamp(1) });
    let hello = frame(&hello(CLUSTER));
    for first in [&ping, &frame(&ToReplica::Logout), &frame(&Session::default().next(send("bob", "x")))] {
        assert!(matches!(reason_after(&cluster, first), CloseReason::OutOfPlace { .. }));
    }
    let mut client = cluster.greet("a");
    // Frames behind the one that ends the connection are ignored.
    client.send_bytes(&[&hello[..], &ping, &ping].concat()).expect("the connection stands");
    assert!(matches!(client.closing(), CloseReason::OutOfPlace { .. }));
}

#[test]
fn frames_beyond_the_limit_are_refused_by_their_header() {
    let cluster = lone_replica();
    for length in [CLIENT_FRAME_MAX + 1, u32::MAX as usize] {
        let mut client = cluster.greet("a");
        client.send_bytes(&u32::try_from(length).expect("it fits").to_be_bytes()).expect("the connection stands");
        let limit = CLIENT_FRAME_MAX as u64;
        assert_eq!(client.closing(), CloseReason::TooLarge { length: length as u64, limit });
    }
    // A frame of the greatest length is read whole before it is found to be malformed.
    let mut client = cluster.greet("a");
    let greatest = frame_of(&vec![0xff; CLIENT_FRAME_MAX]);
    client.send_bytes(&greatest[..CLIENT_FRAME_MAX]).expect("the connection stands");
    client.send_bytes(&greatest[CLIENT_FRAME_MAX..]).expect("the connection stands");
    assert!(matches!(client.closing(), CloseReason::Malformed { .. }));
    cluster.greet("a").ping();
}

/// CBOR, item by item, so that tests can make malformed items.
mod cbor {
    /// The head of an item (RFC 8949, section 3).
    pub fn head(major: u8, value: u64) -> Vec<u8> {
        match value {
            0..24 => vec![major << 5 | u8::try_from(value).expect("below 24")],
            _ => [&[major << 5 | 27][..], &value.to_be_bytes()].concat(),
        }
    }

    pub fn number(value: u64) -> Vec<u8> {
        head(0, value)
    }

    pub fn bytes(value: &[u8]) -> Vec<u8> {
        [head(2, value.len() as u64), value.to_vec()].concat()
    }

    pub fn text(value: &[u8]) -> Vec<u8> {
        [head(3, value.len() as u64), value.to_vec()].concat()
    }

    pub fn array(items: &[Vec<u8>]) -> Vec<u8> {
        [head(4, items.len() as u64), items.concat()].concat()
    }
}

use cbor::{array, bytes, head, number, text};

/// A request that sends a message with these words to a name.
fn send_item(to: &[u8], words: &[u8]) -> Vec<u8> {
    let command = array(&[number(2), array(&[number(0), text(to)]), text(words)]);
    array(&[number(3), bytes(&[7; 16]), number(1), number(stamp().0), command])
}

/// A request that reads a range of the conversation with bob, with a sum of so many bytes.
fn read_item(sum: usize) -> Vec<u8> {
    let range = array(&[bytes(&[7; 24]), bytes(&[8; 24]), number(1), bytes(&vec![9; sum])]);
    let command = array(&[number(3), array(&[number(0), text(b"bob")]), range]);
    array(&[number(3), bytes(&[7; 16]), number(1), number(stamp().0), command])
}

/// A request that does something with a room of this name.
fn room_item(name: &[u8], action: Vec<u8>) -> Vec<u8> {
    let command = array(&[number(6), text(name), action]);
    array(&[number(3), bytes(&[7; 16]), number(1), number(stamp().0), command])
}

/// A query for the conversations after a place of so many bytes.
fn inbox_item(place: usize) -> Vec<u8> {
    let query = array(&[number(1), vec![0xf4], bytes(&vec![7; place]), number(10)]);
    array(&[number(4), number(1), number(stamp().0), query])
}

/// A query for names.
fn list_item(pattern: &[u8]) -> Vec<u8> {
    let query = array(&[number(0), text(pattern), vec![0xf6], number(10)]);
    array(&[number(4), number(1), number(stamp().0), query])
}

#[test]
fn malformed_frames_end_the_connection() {
    let cluster = lone_replica();
    let ping = array(&[number(5), number(1)]);
    let malformed = [
        vec![],
        vec![0xff],
        ping[..2].to_vec(),
        [&ping[..], &[0]].concat(),
        array(&[]),
        array(&[number(99)]),
        array(&[number(u64::MAX)]),
        array(&[number(5)]),
        array(&[number(5), text(b"1")]),
        array(&[number(5), head(1, 0)]),
        // A float and null for a number.
        array(&[number(5), vec![0xfa, 0x3f, 0x80, 0, 0]]),
        array(&[number(5), vec![0xf6]]),
        // A map instead of an array.
        [head(5, 1), number(5), number(1)].concat(),
        // Lengths without the bytes that they announce.
        head(4, u64::MAX),
        [head(4, 2), number(5)].concat(),
        array(&[number(3), head(2, u64::MAX)]),
        array(&[number(3), bytes(&[7; 16]), number(1), number(1), [head(4, 2), number(3), head(4, 1 << 60)].concat()]),
        // Nested without end.
        vec![0x81; 15_000],
        [array(&[number(5), number(1)])[..1].to_vec(), vec![0x9f; 15_000]].concat(),
        // Names and texts against the rules.
        send_item(b"", b"x"),
        send_item(b"Bob", b"x"),
        send_item(b"-bob", b"x"),
        send_item(b"bob\n", b"x"),
        send_item("b\u{f6}b".as_bytes(), b"x"),
        send_item(&[b'b'; 33], b"x"),
        send_item(b"bob", b""),
        send_item(b"bob", &[b'x'; 4097]),
        send_item(b"bob", b"\xc3\x28"),
        send_item(b"bob", b"\xed\xa0\x80"),
        list_item(b""),
        list_item(&[b'*'; 65]),
        list_item(b"[a]"),
        read_item(23),
        read_item(25),
        room_item(b"ops", array(&[number(1)])),
        room_item(b"#", array(&[number(1)])),
        room_item(b"#Ops", array(&[number(1)])),
        room_item(b"#0ps", array(&[number(1)])),
        room_item(b"#ops", array(&[number(99)])),
        room_item(b"#ops", array(&[number(5), text(b"two\nlines")])),
        room_item(b"#ops", array(&[number(5), text(&[b'x'; 513])])),
        inbox_item(65),
    ];
    for item in malformed {
        let mut client = cluster.greet("a");
        println!("{:02x?}", &item[..item.len().min(80)]);
        client.send_bytes(&frame_of(&item)).expect("the connection stands");
        let reason = client.closing();
        assert!(matches!(reason, CloseReason::Malformed { .. }), "{reason}");
    }

    // The same items without the faults are valid, also with fields that a later version may append.
    let mut client = cluster.greet("a");
    let longer = array(&[number(5), number(1), text(b"more"), vec![0xf6]]);
    let topic = array(&[number(5), text(&[b'x'; 512])]);
    let rooms = [room_item(b"#ops", array(&[number(1)])), room_item(b"#ops", topic), inbox_item(64)];
    for item in [ping, longer, send_item(b"bob", b"x"), list_item(b"*"), read_item(24)].into_iter().chain(rooms) {
        client.send_bytes(&frame_of(&item)).expect("the connection stands");
        let answer = client.receive();
        assert!(!matches!(answer, ToClient::Closing { .. }), "{answer:?} after {item:02x?}");
    }
}

#[test]
fn a_connection_may_close_at_any_byte() {
    let cluster = lone_replica();
    let (alice, bob) = (Person::new("alice"), Person::new("bob"));
    create_accounts(&mut cluster.greet("a"), &[&alice, &bob]);
    let hello = frame(&hello(CLUSTER));
    for cut in 0..hello.len() {
        let mut client = cluster.connect("a");
        client.send_bytes(&hello[..cut]).expect("the connection stands");
    }
    let after_greeting = |client: &RawClient| {
        let request = Session::default().next(send("bob", "whole"));
        [frame(&client.login_message(&alice, true)), frame(&request)].concat()
    };
    let length = after_greeting(&cluster.greet("a")).len();
    for cut in 0..length - 1 {
        let mut client = cluster.greet("a");
        let said = after_greeting(&client);
        // Timestamps vary in length, but not by a byte within a test.
        assert_eq!(said.len(), length);
        client.send_bytes(&said[..cut]).expect("the connection stands");
        if cut % 2 == 0 {
            client.finish().expect("the connection stands");
            client.until_end();
        }
    }
    // No request that was sent in part took effect, and complete requests still do.
    let mut client = cluster.greet("a");
    client.login(&bob, true);
    assert_eq!(client.unread(), []);
    let mut sender = cluster.greet("a");
    sender.login(&alice, false);
    assert_eq!(sender.call(send("bob", "whole")), Answer::Done);
    assert_eq!(client.unread().len(), 1);
}

#[test]
fn a_client_may_send_byte_by_byte_or_all_at_once() {
    let cluster = lone_replica();
    let alice = Person::new("alice");
    create_accounts(&mut cluster.greet("a"), &[&alice]);
    let mut byte_by_byte = cluster.connect("a");
    for byte in frame(&hello(CLUSTER)) {
        byte_by_byte.send_bytes(&[byte]).expect("the connection stands");
    }
    assert!(matches!(byte_by_byte.receive(), ToClient::Welcome { .. }));
    for byte in
        [frame(&ToReplica::Ping { sent: Timestamp(1) }), frame(&ToReplica::Ping { sent: Timestamp(2) })].concat()
    {
        byte_by_byte.send_bytes(&[byte]).expect("the connection stands");
    }
    for sent in [1, 2] {
        assert!(matches!(byte_by_byte.receive(), ToClient::Pong { sent: Timestamp(number), .. } if number == sent));
    }

    // Requests may be sent before the login is answered, and before the requests ahead of them are.
    let mut at_once = cluster.greet("a");
    let (mut pipeline, mut frames) = (Pipeline::default(), frame(&at_once.login_message(&alice, true)));
    (0..100).for_each(|number| pipeline.issue(send("alice", format!("number {number}")), &mut frames));
    let settled = at_once.settle(&mut pipeline, &frames);
    assert!(settled.iter().all(|settled| settled.answer == Answer::Done), "{settled:?}");
    for number in 0..100 {
        assert_eq!(at_once.delivery().text.as_str(), format!("number {number}"));
    }
}

#[test]
fn mutilated_frames_harm_nobody_else() {
    let cluster = lone_replica();
    // A changed byte can turn mallory's message into another valid request, such as the deletion of her own account.
    let (alice, bob, mallory) = (Person::new("alice"), Person::new("bob"), Person::new("mallory"));
    let mut witness = cluster.greet("a");
    create_accounts(&mut witness, &[&alice, &bob, &mallory]);
    witness.login(&bob, true);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..300 {
        let mut client = cluster.greet("a");
        let login = client.login_message(&mallory, true);
        let mut bytes = [frame(&login), frame(&Session::default().next(send("bob", "x"))), frame_of(&list_item(b"*"))];
        let victim = random.choice(bytes.iter_mut()).expect("not empty");
        for _ in 0..random.usize(1..4) {
            let at = random.usize(0..victim.len());
            victim[at] = random.u8(..);
        }
        client.send_bytes(&bytes.concat()).expect("the connection stands");
        if random.bool() {
            client.finish().expect("the connection stands");
            client.until_end();
        }
        witness.ping();
    }
    let mut sender = cluster.greet("a");
    sender.login(&alice, false);
    assert_eq!(sender.call(send("bob", "after all that")), Answer::Done);
    // A request whose timestamp was mutilated may come after it.
    assert!(witness.unread().iter().any(|message| message.text.as_str() == "after all that"));
}
