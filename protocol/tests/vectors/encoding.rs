//! What the encoding allows and refuses, and the items that are hashed or signed.

use super::samples::*;
use super::{Appended, DerivedKey, DerivedSession, Frame, Invalid, Invitation, Login, RequestUid, Vectors, hex};
use argon2::{Algorithm, Argon2, Params, Version};
use ciborium::Value;
use serde::de::DeserializeOwned;
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::command::{Command, Query};
use stablechat_protocol::frame::{Decoded, FrameBuffer, encode};
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::operator::InvitationCode;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::request::{Actor, Request, RequestId};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use stablechat_protocol::wire::{from_cbor, to_cbor};
use std::fmt::Debug;

impl Vectors {
    /// Items with elements that version 1 does not know and skips.
    pub fn add_appended(&mut self) {
        let ping = ToReplica::Ping { sent: Timestamp(1) };
        let bytes = [0x83, 0x05, 0x01, 0x81, 0x63, b'n', b'e', b'w'];
        assert_eq!(from_cbor(&bytes), Ok(ping.clone()));
        self.appended.push(Appended {
            name: "a field at the end of a message",
            rule: "to-replica",
            hex: hex(&bytes),
            read_as: hex(&to_cbor(&ping)),
        });

        let welcome = PeerMessage::Welcome { to: 1, applied: Timestamp(2), grace_ns: 3 };
        let bytes = [0x85, 0x05, 0x01, 0x02, 0x03, 0x04];
        assert_eq!(from_cbor(&bytes), Ok(welcome.clone()));
        self.appended.push(Appended {
            name: "a field at the end of a message between replicas",
            rule: "peer-message",
            hex: hex(&bytes),
            read_as: hex(&to_cbor(&welcome)),
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

    /// Bytes that a decoder refuses.
    pub fn add_invalid(&mut self) {
        self.add_refused::<ToReplica>("no bytes", "to-replica", &[]);
        self.add_refused::<ToReplica>("an array that ends early", "to-replica", &[0x82, 0x05]);
        self.add_refused::<ToReplica>("two items", "to-replica", &[0x81, 0x02, 0x81, 0x02]);
        self.add_refused::<ToReplica>("no array", "to-replica", &[0x02]);
        self.add_refused::<ToReplica>("a byte string in the place of an array", "to-replica", &[0x41, 0x02]);
        self.add_refused::<PeerMessage>("a byte string in the place of an array", "peer-message", &[0x42, 0x02, 0x17]);
        self.add_refused::<ToReplica>("an array without a tag", "to-replica", &[0x80]);
        self.add_refused::<ToReplica>("an unknown tag", "to-replica", &[0x81, 0x18, 0x63]);
        self.add_refused::<ToClient>("an unknown tag", "to-client", &[0x81, 0x18, 0x63]);
        self.add_refused::<PeerMessage>("an unknown tag", "peer-message", &[0x81, 0x18, 0x63]);
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
        self.add_refused::<PeerMessage>(
            "a uid of 25 bytes",
            "peer-message",
            &to_cbor(&(3, [Value::Bytes(vec![0; 25])])),
        );
        self.add_refused::<PeerMessage>("a request without its uid", "peer-message", &to_cbor(&(8, [[0u8; 0]])));
        self.add_refused::<RequestId>("an unknown tag in a field's place", "request-id", &[0x82, 0x02, 0x01]);
    }

    fn add_refused<T: DeserializeOwned + Debug>(&mut self, name: &'static str, rule: &'static str, bytes: &[u8]) {
        from_cbor::<T>(bytes).expect_err(name);
        self.invalid.push(Invalid { name, rule, hex: hex(bytes) });
    }

    pub fn add_frames(&mut self) {
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

    pub fn add_uids(&mut self) {
        let create = Command::Create { name: account("alice"), key: secret_key().public(), invitation: None };
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

    pub fn add_logins(&mut self) {
        let statement = statement();
        self.add_item("login-statement", "LoginStatement".into(), &statement);
        let signature = secret_key().sign(&statement);
        assert!(statement.is_signed_by(&signature));
        let encoded = to_cbor(&statement);
        self.logins.push(Login {
            name: "by the key of an account",
            seed: hex(&SEED),
            public_key: statement.key.to_string(),
            signed: hex(&[b"stablechat login, version 2\0", &encoded[..]].concat()),
            statement: hex(&encoded),
            signature: signature.to_string(),
        });
    }

    pub fn add_sessions(&mut self) {
        for (name, key) in [("alice", "backup of 2024-05-01"), ("bob", "")] {
            let client = ClientId::derive(&secret_key(), &account(name), key).to_string();
            self.sessions.push(DerivedSession { seed: hex(&SEED), account: name, key, client });
        }
    }

    pub fn add_invitations(&mut self) {
        for code in [code(), InvitationCode::from_random([0; 16])] {
            self.invitations.push(Invitation { code: code.to_string(), digest: code.digest().to_string() });
        }
    }

    /// Passwords are an affair of clients. This is the derivation that PROTOCOL.md describes, to which they are compared.
    pub fn add_passwords(&mut self) {
        let (cluster_id, account) = ("7f3a", "alice");
        let salt = blake3::derive_key("stablechat password salt, version 1", b"7f3a\0alice");
        let parameters = Params::new(64 * 1024, 3, 4, Some(32)).expect("good parameters");
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters);
        for password in ["correct horse battery staple", "z\u{fc}richsee 4711"] {
            let mut seed = [0; 32];
            argon2.hash_password_into(password.as_bytes(), &salt, &mut seed).expect("good lengths");
            self.passwords.push(DerivedKey { password, cluster_id, account, salt: hex(&salt), seed: hex(&seed) });
        }
    }
}
