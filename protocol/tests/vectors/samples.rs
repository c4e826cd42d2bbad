//! The values that the vectors are made of.

use stablechat_protocol::answer::{AnswerMetadata, Stability};
use stablechat_protocol::command::Command;
use stablechat_protocol::conversation::{Conversation, Message};
use stablechat_protocol::digest::Digest;
use stablechat_protocol::login::{Challenge, ChannelBinding, LoginStatement, PublicKey, SecretKey};
use stablechat_protocol::name::{AccountName, ClusterId, ClusterName, ReplicaName};
use stablechat_protocol::operator::InvitationCode;
use stablechat_protocol::room::RoomName;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::text::MessageText;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;

/// A session. Its bytes ascend, so that a wrong order would show.
pub const CLIENT: ClientId = ClientId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
pub const CHALLENGE: Challenge = Challenge([0xc4; 32]);
/// 2023-11-14T22:13:20.123456789Z.
pub const NOW: Timestamp = Timestamp(1_700_000_000_123_456_789);
/// The seed of the private key of every login.
pub const SEED: [u8; 32] = [7; 32];

pub fn secret_key() -> SecretKey {
    SecretKey::from_seed(&SEED)
}

pub fn account(name: &str) -> AccountName {
    AccountName::parse(name).expect("a name")
}

pub fn replica(name: &str) -> ReplicaName {
    ReplicaName::parse(name).expect("a name")
}

pub fn bob() -> Conversation {
    Conversation::with(&account("bob"))
}

pub fn room(name: &str) -> RoomName {
    RoomName::parse(name).expect("a name")
}

pub fn send(text: &str) -> Command {
    Command::Send { to: bob(), text: MessageText::parse(text).expect("a text") }
}

/// A uid for each number.
pub fn uid(number: u8) -> Uid {
    Uid::new(NOW, &[number])
}

pub fn message(number: u8, text: &str) -> Message {
    let text = MessageText::parse(text).expect("a text");
    Message { uid: uid(number), position: number.into(), from: account("alice"), to: bob(), text }
}

pub fn metadata(stability: Stability) -> AnswerMetadata {
    AnswerMetadata { position: 100_000, log_digest: Digest([0xd1; 32]), stability, copies: 2 }
}

pub fn statement() -> LoginStatement {
    let key: PublicKey = secret_key().public();
    LoginStatement {
        cluster: ClusterName::parse("demo").expect("a name"),
        cluster_id: ClusterId::parse("7f3a").expect("an id"),
        replica: replica("a"),
        challenge: CHALLENGE,
        account: account("alice"),
        key,
        channel: ChannelBinding([9; 32]),
    }
}

/// The code of an invitation.
pub fn code() -> InvitationCode {
    InvitationCode::parse("k7q1-m2xa-9rdt-w3hz-5vbn").expect("a code")
}
