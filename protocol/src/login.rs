//! Proving which account a connection speaks for.
//!
//! A replica's welcome carries a [`Challenge`]. The client signs a [`LoginStatement`] about it with the private half of the
//! account's Ed25519 key (RFC 8032). The replica that receives the login checks the signature only. Whether the key owns the
//! account is checked where requests are applied, see [`crate::request::Actor`].

use crate::name::{AccountName, ClusterId, ClusterName, ReplicaName};
use crate::wire::to_cbor;
use ed25519_dalek::Signer;

wire_bytes! {
    /// What a replica asks a client to sign: random, and new for each connection, so that a login cannot be replayed.
    pub struct Challenge([u8; 32]);
}

wire_bytes! {
    /// Identifies one encrypted channel to both of its ends (`tls-exporter`, RFC 9266).
    pub struct ChannelBinding([u8; 32]);
}

wire_bytes! {
    /// The public half of an account's Ed25519 key.
    pub struct PublicKey([u8; 32]);
}

wire_bytes! {
    /// An Ed25519 signature.
    pub struct Signature([u8; 64]);
}

wire_enum! {
    /// How a login proves that the client holds the private half of its key.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum LoginProof {
        /// A signature of the [`LoginStatement`] about this connection.
        0 => Signature { signature: Signature },
    }
}

wire_enum! {
    /// Why a replica refuses a login.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum LoginRefusal {
        /// The proof is not good: the client does not hold the key that it names.
        0 => BadProof,
        /// This address has lately tried too many keys that are not the account's.
        1 => TooManyKeys {
            /// After how many milliseconds it may try again.
            wait_ms: u32,
        },
        /// The replica's cluster file has no operator with this key.
        2 => NotAnOperator,
    }
}

wire_struct! {
    /// What a client signs to log in. It names everything that the login is for, so that a signature is of no use to another
    /// cluster, replica, connection or account.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct LoginStatement {
        pub cluster: ClusterName,
        /// Many clusters have the same name.
        pub cluster_id: ClusterId,
        /// The replica whose challenge it is.
        pub replica: ReplicaName,
        pub challenge: Challenge,
        pub account: AccountName,
        /// The key that signs.
        pub key: PublicKey,
        /// The connection, so that nobody who stands between the two can pass the login on.
        pub channel: ChannelBinding,
    }
}

impl LoginStatement {
    /// The bytes that are signed: a prefix that no other use of the key shares, then the statement's encoding.
    fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = b"stablechat login, version 2\0".to_vec();
        bytes.extend(to_cbor(self));
        bytes
    }

    /// Whether the private half of the statement's key made this signature. Keys of small order are refused: a signature by one
    /// can be good for many statements.
    pub fn is_signed_by(&self, signature: &Signature) -> bool {
        let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(&self.key.0) else { return false };
        key.verify_strict(&self.signed_bytes(), &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
    }
}

/// An account's private key.
#[derive(Clone)]
pub struct SecretKey(ed25519_dalek::SigningKey);

impl SecretKey {
    /// The key with this seed, which must be 256 random bits or derived from a password, as `docs/PROTOCOL.md` says.
    pub fn from_seed(seed: &[u8; 32]) -> SecretKey {
        SecretKey(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The seed. Whoever has it can log in as the account, so only its owner may be able to read where it is kept.
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs a statement, whose `key` must be the public half of this key.
    pub fn sign(&self, statement: &LoginStatement) -> Signature {
        debug_assert_eq!(statement.key, self.public());
        Signature(self.0.sign(&statement.signed_bytes()).to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_good_for_its_statement_only() {
        let secret = SecretKey::from_seed(&[7; 32]);
        let statement = LoginStatement {
            cluster: ClusterName::parse("demo").expect("a name"),
            cluster_id: ClusterId::parse("1").expect("an id"),
            replica: ReplicaName::parse("a").expect("a name"),
            challenge: Challenge([1; 32]),
            account: AccountName::parse("alice").expect("a name"),
            key: secret.public(),
            channel: ChannelBinding([2; 32]),
        };
        let signature = secret.sign(&statement);
        assert!(statement.is_signed_by(&signature));

        let others = [
            LoginStatement { cluster: ClusterName::parse("prod").expect("a name"), ..statement.clone() },
            LoginStatement { replica: ReplicaName::parse("b").expect("a name"), ..statement.clone() },
            LoginStatement { challenge: Challenge([2; 32]), ..statement.clone() },
            LoginStatement { account: AccountName::parse("bob").expect("a name"), ..statement.clone() },
            LoginStatement { key: SecretKey::from_seed(&[8; 32]).public(), ..statement.clone() },
            LoginStatement { cluster_id: ClusterId::parse("2").expect("an id"), ..statement.clone() },
            LoginStatement { channel: ChannelBinding([3; 32]), ..statement.clone() },
            LoginStatement { key: PublicKey([0; 32]), ..statement.clone() },
        ];
        assert!(others.iter().all(|other| !other.is_signed_by(&signature)));
        assert!(!statement.is_signed_by(&Signature([0; 64])));
    }
}
