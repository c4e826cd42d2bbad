//! The test vectors of the protocol, `docs/vectors.json`: that they are what this crate encodes, that they decode to what
//! was encoded, and that no message is without one.
//!
//! Whether they also are what `docs/protocol.cddl` says, and what another language's libraries make of them, is checked by
//! `scripts/check-vectors`. After a change of the format, `UPDATE_VECTORS=1 cargo test` writes the file anew.

use ciborium::Value;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use stablechat_protocol::answer::{Answer, Message, Note, QueryAnswer, Refusal, Rejection, Stability};
use stablechat_protocol::command::{Command, PasswordParameters, Query, Recipient};
use stablechat_protocol::frame::{Decoded, FrameBuffer, encode};
use stablechat_protocol::id::{Challenge, ClientId, Digest};
use stablechat_protocol::login::{PublicKey, SecretKey, Signature, Statement};
use stablechat_protocol::message::{CloseReason, MAGIC, Proof, RequestId, Role, ToClient, ToReplica};
use stablechat_protocol::message::{VERSION_MAX, VERSION_MIN};
use stablechat_protocol::name::{AccountName, ClusterName, Pattern, ReplicaName};
use stablechat_protocol::request::{Actor, Request};
use stablechat_protocol::text::MessageText;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use stablechat_protocol::wire::{from_cbor, to_cbor};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;

#[test]
fn the_file_is_what_this_crate_encodes() {
    let expected = Vectors::build().to_json();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vectors.json");
    if std::env::var_os("UPDATE_VECTORS").is_some_and(|value| value == "1") {
        std::fs::write(&path, expected).expect("docs/vectors.json can be written");
        return;
    }
    let found = std::fs::read_to_string(&path).expect("docs/vectors.json can be read");
    for (number, (found, expected)) in (1..).zip(found.lines().zip(expected.lines())) {
        assert_eq!(found, expected, "line {number} of docs/vectors.json");
    }
    assert_eq!(found.len(), expected.len(), "docs/vectors.json ends elsewhere");
}

#[test]
fn every_variant_has_a_vector() {
    let have = Vectors::build().variants;
    let missing: Vec<_> = VARIANTS.iter().filter(|variant| !have.contains(*variant)).collect();
    assert!(missing.is_empty(), "without a vector: {missing:?}");
}

/// An enum of the wire, whose variants can be named.
trait WireEnum {
    /// Its rule in `docs/protocol.cddl`.
    const RULE: &'static str;
    /// The name of this variant.
    fn variant(&self) -> &'static str;
}

/// Lists enums and their variants. A variant that is not listed does not compile (the match is exhaustive); one that is
/// listed and has no vector fails [`every_variant_has_a_vector`].
macro_rules! wire_enums {
    ($( $rule:literal $enum:ident { $( $variant:ident ),* $(,)? } )*) => {
        const VARIANTS: &[(&str, &str)] = &[$( $( ($rule, stringify!($variant)) ),* ),*];
        $(
            impl WireEnum for $enum {
                const RULE: &'static str = $rule;
                fn variant(&self) -> &'static str {
                    match self {
                        $( Self::$variant { .. } => stringify!($variant) ),*
                    }
                }
            }
        )*
    };
}

wire_enums! {
    "to-replica" ToReplica { Hello, Login, Logout, Request, Query, Ping }
    "to-client" ToClient {
        Welcome, Closing, LoggedIn, LoginRefused, Answer, QueryAnswer, Refused, Delivery, Pong
    }
    "role" Role { Client, Replica }
    "proof" Proof { Signature }
    "close-reason" CloseReason {
        NotStablechat, Version, WrongCluster, Malformed, TooLarge, OutOfPlace, Silent, SlowReader, Stopping, Full
    }
    "request-id" RequestId { Command, Query }
    "refusal" Refusal { Late, Ahead, NotServing, Overloaded }
    "stability" Stability { Closed, RealTime }
    "command" Command { Create, Delete, Send, Ack }
    "recipient" Recipient { Account }
    "answer-body" Answer { Done, Rejected }
    "rejection" Rejection {
        AlreadyExists, NoSuchUser, NotOwner, LoginRequired, MailboxFull, NotYourSession, OutOfSequence,
        AnswerForgotten, TooMany
    }
    "query-body" Query { List, Unread, History, KeyLookup }
    "query-answer-body" QueryAnswer { Rejected, Accounts, Messages, Key }
}

/// An item as `docs/protocol.cddl` describes it.
#[derive(Serialize)]
struct Item {
    name: String,
    rule: &'static str,
    value: serde_json::Value,
    hex: String,
}

/// An item that a later version might send, and the item as which version 1 reads it.
#[derive(Serialize)]
struct Appended {
    name: &'static str,
    rule: &'static str,
    hex: String,
    read_as: String,
}

/// Bytes that are no item under a rule.
#[derive(Serialize)]
struct Invalid {
    name: &'static str,
    rule: &'static str,
    hex: String,
}

/// An item and its frame.
#[derive(Serialize)]
struct Frame {
    name: &'static str,
    item: String,
    hex: String,
}

/// A request's uid.
#[derive(Serialize)]
struct RequestUid {
    name: &'static str,
    timestamp: u64,
    request: String,
    uid: String,
}

/// A signed statement.
#[derive(Serialize)]
struct Login {
    name: &'static str,
    seed: String,
    public_key: String,
    statement: String,
    signed: String,
    signature: String,
}

/// The session that an account and a key of the user's choice determine.
#[derive(Serialize)]
struct DerivedSession {
    account: &'static str,
    key: &'static str,
    client: String,
}

/// What the file holds.
#[derive(Default)]
struct Vectors {
    items: Vec<Item>,
    appended: Vec<Appended>,
    invalid: Vec<Invalid>,
    frames: Vec<Frame>,
    uids: Vec<RequestUid>,
    logins: Vec<Login>,
    sessions: Vec<DerivedSession>,
    /// The rule and variant of each item that is an enum.
    variants: BTreeSet<(&'static str, &'static str)>,
}

impl Vectors {
    fn build() -> Vectors {
        let mut vectors = Vectors::default();
        vectors.add_messages_to_replicas();
        vectors.add_messages_to_clients();
        vectors.add_commands_and_queries();
        vectors.add_answers();
        vectors.add_small_enums();
        vectors.add_appended();
        vectors.add_invalid();
        vectors.add_frames();
        vectors.add_uids();
        vectors.add_logins();
        vectors.add_sessions();
        vectors
    }

    /// Adds a value of an enum.
    fn add<T>(&mut self, detail: &str, value: T)
    where
        T: WireEnum + Serialize + DeserializeOwned + PartialEq + Debug,
    {
        let variant = value.variant();
        self.variants.insert((T::RULE, variant));
        let name = if detail.is_empty() { variant.to_string() } else { format!("{variant}, {detail}") };
        self.add_item(T::RULE, name, &value);
    }

    /// Adds a value, once it has come back from its encoding as it was.
    fn add_item<T>(&mut self, rule: &'static str, name: String, value: &T)
    where
        T: Serialize + DeserializeOwned + PartialEq + Debug,
    {
        let bytes = to_cbor(value);
        assert_eq!(from_cbor::<T>(&bytes).as_ref(), Ok(value), "{rule}: {name}");
        let structure: Value = from_cbor(&bytes).expect("it was decoded before");
        self.items.push(Item { name, rule, value: render(&structure), hex: hex(&bytes) });
    }

    fn add_messages_to_replicas(&mut self) {
        let hello = |role| ToReplica::Hello {
            magic: MAGIC.to_string(),
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            role,
            cluster: ClusterName::parse("demo").expect("a name"),
        };
        self.add("of a client", hello(Role::Client));
        self.add("of a replica", hello(Role::Replica));
        self.add(
            "to receive messages",
            ToReplica::Login {
                account: account("alice"),
                key: secret_key().public(),
                receive: true,
                proof: Proof::Signature { signature: secret_key().sign(&statement(None)) },
            },
        );
        self.add("", ToReplica::Logout);
        self.add(
            "to send a message",
            ToReplica::Request { client: CLIENT, sequence: 24, timestamp: NOW, command: send("hello, bob") },
        );
        self.add(
            "with the greatest numbers",
            ToReplica::Request {
                client: CLIENT,
                sequence: u64::MAX,
                timestamp: Timestamp::MAX,
                command: Command::Delete,
            },
        );
        self.add(
            "for unread messages",
            ToReplica::Query { id: 1, timestamp: NOW, query: Query::Unread { after: None, limit: 1000 } },
        );
        self.add("", ToReplica::Ping { sent: NOW });
    }

    fn add_messages_to_clients(&mut self) {
        self.add("", ToClient::Welcome { version: 1, replica: replica("a"), clock: NOW, challenge: CHALLENGE });
        self.add("", ToClient::Closing { reason: CloseReason::Stopping });
        self.add("", ToClient::LoggedIn { account: account("alice") });
        self.add("", ToClient::LoginRefused { account: account("alice") });
        self.add(
            "of a command that took effect",
            ToClient::Answer {
                client: CLIENT,
                sequence: 24,
                uid: uid(1),
                answer: Answer::Done,
                note: note(Stability::Closed),
            },
        );
        self.add(
            "of a command that had no effect",
            ToClient::Answer {
                client: CLIENT,
                sequence: 25,
                uid: uid(2),
                answer: Answer::Rejected { reason: Rejection::NoSuchUser { name: account("bob") } },
                note: note(Stability::RealTime),
            },
        );
        self.add(
            "with a page of messages",
            ToClient::QueryAnswer {
                id: 1,
                answer: QueryAnswer::Messages { messages: vec![message(1, "one"), message(2, "two")], more: true },
                note: note(Stability::RealTime),
            },
        );
        for (detail, request) in [
            ("a command", RequestId::Command { client: CLIENT, sequence: 24 }),
            ("a query", RequestId::Query { id: 1 }),
        ] {
            self.add(detail, ToClient::Refused { request, timestamp: NOW, reason: Refusal::Late, clock: NOW.next() });
        }
        self.add("", ToClient::Delivery { message: message(1, "line one\nline two \u{1f44b}") });
        self.add("", ToClient::Pong { sent: NOW, clock: NOW.next() });
    }

    fn add_commands_and_queries(&mut self) {
        let create = |password| Command::Create { name: account("alice"), key: secret_key().public(), password };
        self.add("with a key from a file", create(None));
        self.add("with a key from a password", create(Some(password())));
        self.add("", Command::Delete);
        self.add("", send("hello, bob"));
        self.add("of a longer text", send(&"na\u{ef}ve ".repeat(40)));
        self.add("of nothing", Command::Ack { uids: vec![] });
        self.add("of two messages", Command::Ack { uids: vec![uid(1), uid(2)] });

        let list = |after| Query::List { pattern: Pattern::parse("a*.?").expect("a pattern"), after, limit: 1000 };
        self.add("from the beginning", list(None));
        self.add("after a name", list(Some(account("alice"))));
        self.add("from the beginning", Query::Unread { after: None, limit: 23 });
        self.add("after a message", Query::Unread { after: Some(uid(1)), limit: 255 });
        self.add("of the last messages", Query::History { with: bob(), before: None, limit: 256 });
        self.add("before a message", Query::History { with: bob(), before: Some(uid(1)), limit: u16::MAX });
        self.add("", Query::KeyLookup { name: account("alice") });
    }

    fn add_answers(&mut self) {
        self.add("", Answer::Done);
        self.add("", Answer::Rejected { reason: Rejection::AlreadyExists { name: account("alice") } });
        self.add("", QueryAnswer::Rejected { reason: Rejection::LoginRequired });
        self.add("none", QueryAnswer::Accounts { names: vec![], next: None });
        self.add("none, but perhaps later", QueryAnswer::Accounts { names: vec![], next: Some(account("amy")) });
        let names = vec![account("alice"), account("amy")];
        self.add("two", QueryAnswer::Accounts { names, next: Some(account("amy")) });
        self.add("none", QueryAnswer::Messages { messages: vec![], more: false });
        self.add("one", QueryAnswer::Messages { messages: vec![message(1, "one")], more: false });
        self.add("", QueryAnswer::Key { parameters: password() });

        self.add("", Rejection::AlreadyExists { name: account("alice") });
        self.add("", Rejection::NoSuchUser { name: account("0.a_b-c") });
        self.add("", Rejection::NotOwner { name: account("alice") });
        self.add("", Rejection::LoginRequired);
        self.add("", Rejection::MailboxFull { name: account(&"x".repeat(32)) });
        self.add("", Rejection::NotYourSession);
        self.add("", Rejection::OutOfSequence { expected: 65_536 });
        self.add("", Rejection::AnswerForgotten);
        self.add("", Rejection::TooMany);
    }

    fn add_small_enums(&mut self) {
        self.add("", Role::Client);
        self.add("", Role::Replica);
        self.add("", Proof::Signature { signature: Signature([0x5a; 64]) });
        self.add("", bob());
        self.add("", RequestId::Command { client: CLIENT, sequence: 256 });
        self.add("", RequestId::Query { id: 23 });
        for refusal in [Refusal::Late, Refusal::Ahead, Refusal::NotServing, Refusal::Overloaded] {
            self.add("", refusal);
        }
        self.add("", Stability::Closed);
        self.add("", Stability::RealTime);

        self.add("", CloseReason::NotStablechat);
        self.add("", CloseReason::Version { version_min: 1, version_max: u16::MAX });
        self.add("", CloseReason::WrongCluster { cluster: ClusterName::parse("prod").expect("a name") });
        self.add("", CloseReason::Malformed { detail: "9 is not a tag of ToReplica".to_string() });
        self.add("", CloseReason::TooLarge { length: u64::from(u32::MAX), limit: 1024 * 1024 });
        self.add("", CloseReason::OutOfPlace { detail: "a second hello".to_string() });
        self.add("", CloseReason::Silent);
        self.add("", CloseReason::SlowReader);
        self.add("", CloseReason::Stopping);
        self.add("", CloseReason::Full);
    }

    /// Items with elements after those of version 1, which are skipped.
    fn add_appended(&mut self) {
        let ping = ToReplica::Ping { sent: Timestamp(1) };
        let bytes = [0x83, 0x05, 0x01, 0x81, 0x63, b'n', b'e', b'w'];
        assert_eq!(from_cbor(&bytes), Ok(ping.clone()));
        self.appended.push(Appended {
            name: "a field at the end of a message",
            rule: "to-replica",
            hex: hex(&bytes),
            read_as: hex(&to_cbor(&ping)),
        });

        let closing = ToClient::Closing { reason: CloseReason::Silent };
        let bytes = [0x82, 0x01, 0x82, 0x06, 0x00];
        assert_eq!(from_cbor(&bytes), Ok(closing.clone()));
        self.appended.push(Appended {
            name: "a field at the end of a field",
            rule: "to-client",
            hex: hex(&bytes),
            read_as: hex(&to_cbor(&closing)),
        });
    }

    /// Bytes that a reader refuses.
    fn add_invalid(&mut self) {
        self.add_refused::<ToReplica>("no bytes", "to-replica", &[]);
        self.add_refused::<ToReplica>("an array that ends early", "to-replica", &[0x82, 0x05]);
        self.add_refused::<ToReplica>("two items", "to-replica", &[0x81, 0x02, 0x81, 0x02]);
        self.add_refused::<ToReplica>("no array", "to-replica", &[0x02]);
        self.add_refused::<ToReplica>("an array without a tag", "to-replica", &[0x80]);
        self.add_refused::<ToReplica>("an unknown tag", "to-replica", &[0x81, 0x18, 0x63]);
        self.add_refused::<ToClient>("an unknown tag", "to-client", &[0x81, 0x09]);
        self.add_refused::<ToReplica>("a missing field", "to-replica", &[0x81, 0x05]);
        self.add_refused::<ToReplica>("a negative timestamp", "to-replica", &[0x82, 0x05, 0x20]);
        self.add_refused::<ToReplica>("a timestamp that is text", "to-replica", &[0x82, 0x05, 0x61, b'1']);
        self.add_refused::<Query>("a limit of 65536", "query-body", &[0x83, 0x01, 0xf6, 0x1a, 0, 1, 0, 0]);
        for (name, text) in [
            ("an empty name", String::new()),
            ("a name of 33 characters", "x".repeat(33)),
            ("a name with a capital letter", "Alice".to_string()),
            ("a name that begins with a sign", "-alice".to_string()),
            ("a name with a newline", "alice\n".to_string()),
        ] {
            self.add_refused::<ToClient>(name, "to-client", &to_cbor(&(2, text)));
        }
        self.add_refused::<ToClient>("a name that is not UTF-8", "to-client", &[0x82, 0x02, 0x62, 0xc3, 0x28]);
        self.add_refused::<Query>("an empty pattern", "query-body", &to_cbor(&(0, "", None::<u8>, 1)));
        self.add_refused::<Command>("an empty text", "command", &to_cbor(&(2, (0, "bob"), "")));
        self.add_refused::<Command>("a uid of 23 bytes", "command", &to_cbor(&(3, [Value::Bytes(vec![0; 23])])));
        self.add_refused::<RequestId>("an unknown tag in a field's place", "request-id", &[0x82, 0x02, 0x01]);
    }

    fn add_refused<T: DeserializeOwned + Debug>(&mut self, name: &'static str, rule: &'static str, bytes: &[u8]) {
        from_cbor::<T>(bytes).expect_err(name);
        self.invalid.push(Invalid { name, rule, hex: hex(bytes) });
    }

    fn add_frames(&mut self) {
        let short = ToReplica::Logout;
        let long = ToReplica::Request { client: CLIENT, sequence: 1, timestamp: NOW, command: send(&"x".repeat(300)) };
        for (name, message) in [("a short item", short), ("an item of more than 255 bytes", long)] {
            let mut bytes = Vec::new();
            encode(&message, &mut bytes).expect("a short frame");
            let mut buffer = FrameBuffer::default();
            buffer.push(&bytes);
            assert_eq!(buffer.decode(), Ok(Decoded::Frame(message.clone())));
            self.frames.push(Frame { name, item: hex(&to_cbor(&message)), hex: hex(&bytes) });
        }
    }

    fn add_uids(&mut self) {
        let create = Command::Create { name: account("alice"), key: secret_key().public(), password: None };
        let alice = Actor { account: account("alice"), key: secret_key().public() };
        for (name, timestamp, request) in [
            ("of nobody", NOW, Request { client: CLIENT, sequence: 1, actor: None, command: create }),
            (
                "of an account",
                NOW.next(),
                Request { client: CLIENT, sequence: 2, actor: Some(alice.clone()), command: send("hello, bob") },
            ),
            (
                "with a long sequence number",
                Timestamp(1),
                Request { client: CLIENT, sequence: 1 << 32, actor: Some(alice), command: Command::Delete },
            ),
        ] {
            self.add_item("logged-request", format!("Request, {name}"), &request);
            let uid = request.uid(timestamp);
            assert_eq!(Uid::from_hex(&uid.to_string()), Some(uid));
            let request = hex(&to_cbor(&request));
            self.uids.push(RequestUid { name, timestamp: timestamp.0, request, uid: uid.to_string() });
        }
    }

    fn add_logins(&mut self) {
        for (name, channel) in [("on a plain connection", None), ("on an encrypted channel", Some(Challenge([9; 32])))]
        {
            let statement = statement(channel);
            self.add_item("statement", format!("Statement, {name}"), &statement);
            let signature = secret_key().sign(&statement);
            assert!(statement.is_signed_by(&signature));
            let encoded = to_cbor(&statement);
            self.logins.push(Login {
                name,
                seed: hex(&SEED),
                public_key: statement.key.to_string(),
                signed: hex(&[b"stablechat login, version 1\0", &encoded[..]].concat()),
                statement: hex(&encoded),
                signature: signature.to_string(),
            });
        }
    }

    fn add_sessions(&mut self) {
        for (name, key) in [("alice", "backup of 2024-05-01"), ("bob", "")] {
            let client = ClientId::derive(&account(name), key).to_string();
            self.sessions.push(DerivedSession { account: name, key, client });
        }
    }

    /// The text of the file: JSON with one vector a line.
    fn to_json(&self) -> String {
        let sections = [
            ("items", lines(&self.items)),
            ("appended", lines(&self.appended)),
            ("invalid", lines(&self.invalid)),
            ("frames", lines(&self.frames)),
            ("uids", lines(&self.uids)),
            ("logins", lines(&self.logins)),
            ("sessions", lines(&self.sessions)),
        ];
        let sections: Vec<String> =
            sections.iter().map(|(name, lines)| format!("{}: [\n{lines}\n]", json!(name))).collect();
        format!("{{\n{}\n}}\n", sections.join(",\n"))
    }
}

/// Vectors as the lines of a JSON array.
fn lines<T: Serialize>(vectors: &[T]) -> String {
    let lines: Vec<String> = vectors
        .iter()
        .map(|vector| format!("  {}", serde_json::to_string(vector).expect("vectors can be written as JSON")))
        .collect();
    lines.join(",\n")
}

/// An item's structure in JSON, where a byte string is the text `h'…'`.
fn render(value: &Value) -> serde_json::Value {
    match value {
        Value::Integer(number) => {
            json!(u64::try_from(i128::from(*number)).expect("the protocol has no negative numbers"))
        }
        Value::Bytes(bytes) => json!(format!("h'{}'", hex(bytes))),
        Value::Text(text) => json!(text),
        Value::Bool(bool) => json!(bool),
        Value::Null => json!(null),
        Value::Array(elements) => elements.iter().map(render).collect(),
        other => panic!("the protocol has no {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A session, in ascending bytes so that a wrong order would show.
const CLIENT: ClientId = ClientId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
/// What a replica asks to be signed.
const CHALLENGE: Challenge = Challenge([0xc4; 32]);
/// 2023-11-14T22:13:20.123456789Z.
const NOW: Timestamp = Timestamp(1_700_000_000_123_456_789);
/// The private key of every login.
const SEED: [u8; 32] = [7; 32];

fn secret_key() -> SecretKey {
    SecretKey::from_seed(&SEED)
}

fn account(name: &str) -> AccountName {
    AccountName::parse(name).expect("a name")
}

fn replica(name: &str) -> ReplicaName {
    ReplicaName::parse(name).expect("a name")
}

fn bob() -> Recipient {
    Recipient::Account { name: account("bob") }
}

fn send(text: &str) -> Command {
    Command::Send { to: bob(), text: MessageText::parse(text).expect("a text") }
}

/// The uid of some request.
fn uid(number: u8) -> Uid {
    Uid::new(NOW, &[number])
}

fn message(number: u8, text: &str) -> Message {
    Message { uid: uid(number), from: account("alice"), to: bob(), text: MessageText::parse(text).expect("a text") }
}

fn note(stability: Stability) -> Note {
    Note { position: 100_000, log_digest: Digest([0xd1; 32]), stability, copies: 2 }
}

fn password() -> PasswordParameters {
    PasswordParameters { salt: Digest([0x5a; 32]), memory_kib: 65_536, passes: 3, lanes: 1 }
}

fn statement(channel: Option<Challenge>) -> Statement {
    let key: PublicKey = secret_key().public();
    Statement {
        cluster: ClusterName::parse("demo").expect("a name"),
        replica: replica("a"),
        challenge: CHALLENGE,
        account: account("alice"),
        key,
        channel,
    }
}
