//! Checks the test vectors of the protocol, `docs/vectors.json`: they are what this crate encodes, they decode to the same
//! values, and every message has one.
//!
//! `scripts/check-vectors` checks them against `docs/protocol.cddl`, and decodes them with the libraries of another language. After a
//! change of the format, `UPDATE_VECTORS=1 cargo test -p stablechat-protocol` writes the file anew.
//!
//! - [`clients`]: messages between clients and replicas.
//! - [`peers`]: messages between replicas.
//! - [`status`]: status reports.
//! - [`encoding`]: appended fields, refused bytes, frames, uids, logins, sessions, passwords, invitations.
//! - [`samples`]: the values that the vectors are made of.
//!
//! To add a message, add its variant to its list in [`wire_enums`], without which the tests do not compile, and a line that
//! adds a vector.

/// Lists enums and their variants. The match is exhaustive, so a variant that is not listed does not compile; one that is
/// listed and has no vector fails `every_variant_has_a_vector`.
macro_rules! wire_enums {
    ($( $rule:literal $enum:ident { $( $variant:ident ),* $(,)? } )*) => {
        /// Each variant, with the rule of its enum.
        pub const VARIANTS: &[(&str, &str)] = &[$( $( ($rule, stringify!($variant)) ),* ),*];
        $(
            impl crate::WireEnum for $enum {
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

mod clients;
mod encoding;
mod peers;
mod samples;
mod status;

use ciborium::Value;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
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
    let missing: Vec<_> = [clients::VARIANTS, peers::VARIANTS, status::VARIANTS]
        .concat()
        .into_iter()
        .filter(|variant| !have.contains(variant))
        .collect();
    assert!(missing.is_empty(), "without a vector: {missing:?}");
}

/// An enum that crosses the wire.
trait WireEnum {
    /// The name of its rule in `docs/protocol.cddl`.
    const RULE: &'static str;
    fn variant(&self) -> &'static str;
}

/// An item as `docs/protocol.cddl` describes it.
#[derive(Serialize)]
struct Item {
    name: String,
    rule: &'static str,
    value: serde_json::Value,
    hex: String,
}

/// An item that a later version might send, and the item that version 1 reads it as.
#[derive(Serialize)]
struct Appended {
    name: &'static str,
    rule: &'static str,
    hex: String,
    read_as: String,
}

/// Bytes that break a rule.
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

/// A session that is derived from a private key, its account and a key of the user's choice.
#[derive(Serialize)]
struct DerivedSession {
    seed: String,
    account: &'static str,
    key: &'static str,
    client: String,
}

/// The code of an invitation, and the digest by which replicas know it.
#[derive(Serialize)]
struct Invitation {
    code: String,
    digest: String,
}

/// A key that is derived from a password.
#[derive(Serialize)]
struct DerivedKey {
    password: &'static str,
    cluster_id: &'static str,
    account: &'static str,
    salt: String,
    seed: String,
}

/// The content of the file.
#[derive(Default)]
struct Vectors {
    items: Vec<Item>,
    appended: Vec<Appended>,
    invalid: Vec<Invalid>,
    frames: Vec<Frame>,
    uids: Vec<RequestUid>,
    logins: Vec<Login>,
    sessions: Vec<DerivedSession>,
    passwords: Vec<DerivedKey>,
    invitations: Vec<Invitation>,
    /// The rule and variant of each item that is an enum.
    variants: BTreeSet<(&'static str, &'static str)>,
}

impl Vectors {
    fn build() -> Vectors {
        let mut vectors = Vectors::default();
        vectors.add_messages_to_replicas();
        vectors.add_messages_to_clients();
        vectors.add_messages_between_replicas();
        vectors.add_status();
        vectors.add_commands_and_queries();
        vectors.add_answers();
        vectors.add_small_enums();
        vectors.add_appended();
        vectors.add_invalid();
        vectors.add_frames();
        vectors.add_uids();
        vectors.add_logins();
        vectors.add_sessions();
        vectors.add_passwords();
        vectors.add_invitations();
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

    /// Adds a value, and checks that decoding its encoding gives it back.
    fn add_item<T>(&mut self, rule: &'static str, name: String, value: &T)
    where
        T: Serialize + DeserializeOwned + PartialEq + Debug,
    {
        let bytes = to_cbor(value);
        assert_eq!(from_cbor::<T>(&bytes).as_ref(), Ok(value), "{rule}: {name}");
        let structure: Value = from_cbor(&bytes).expect("it was decoded before");
        self.items.push(Item { name, rule, value: render(&structure), hex: hex(&bytes) });
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
            ("passwords", lines(&self.passwords)),
            ("invitations", lines(&self.invitations)),
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
