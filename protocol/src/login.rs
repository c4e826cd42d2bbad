//! Proving for whom a connection speaks.
//!
//! A replica's welcome carries a [`Challenge`]. The client signs a [`Statement`] about it with the private half of the
//! account's Ed25519 key (RFC 8032). The replica checks that the key signed; which key owns which account is checked where
//! requests are applied (see [`crate::request::Actor`]).

use crate::id::Challenge;
use crate::name::{AccountName, ClusterName, ReplicaName};
use crate::wire::to_cbor;
use ed25519_dalek::Signer;

wire_bytes! {
    /// The public half of an account's Ed25519 key.
    pub struct PublicKey([u8; 32]);
}

wire_bytes! {
    /// An Ed25519 signature.
    pub struct Signature([u8; 64]);
}

wire_struct! {
    /// What a client signs to log in. Everything that could make the signature useful elsewhere is in it.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Statement {
        /// The cluster.
        pub cluster: ClusterName,
        /// The replica that asked.
        pub replica: ReplicaName,
        /// What it asked.
        pub challenge: Challenge,
        /// The account.
        pub account: AccountName,
        /// The key that signs.
        pub key: PublicKey,
        /// What binds the login to an encrypted channel; `None` on a plain connection.
        pub channel: Option<Challenge>,
    }
}

impl Statement {
    /// The bytes that are signed: a prefix that no other use of the key shares, then the statement's encoding.
    fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = b"stablechat login, version 1\0".to_vec();
        bytes.extend(to_cbor(self));
        bytes
    }

    /// Whether the private half of the statement's key made this signature. Strict: keys of small order are refused.
    pub fn is_signed_by(&self, signature: &Signature) -> bool {
        let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(&self.key.0) else { return false };
        key.verify_strict(&self.signed_bytes(), &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
    }
}

/// An account's private key.
#[derive(Clone)]
pub struct SecretKey(ed25519_dalek::SigningKey);

impl SecretKey {
    /// The key with this seed, which should be 256 random bits.
    pub fn from_seed(seed: &[u8; 32]) -> SecretKey {
        SecretKey(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The seed, to be kept where only its owner reads it.
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs a statement, which must name this key.
    pub fn sign(&self, statement: &Statement) -> Signature {
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
        let statement = Statement {
            cluster: ClusterName::parse("demo").expect("a name"),
            replica: ReplicaName::parse("a").expect("a name"),
            challenge: Challenge([1; 32]),
            account: AccountName::parse("alice").expect("a name"),
            key: secret.public(),
            channel: None,
        };
        let signature = secret.sign(&statement);
        assert!(statement.is_signed_by(&signature));

        let others = [
            Statement { cluster: ClusterName::parse("prod").expect("a name"), ..statement.clone() },
            Statement { replica: ReplicaName::parse("b").expect("a name"), ..statement.clone() },
            Statement { challenge: Challenge([2; 32]), ..statement.clone() },
            Statement { account: AccountName::parse("bob").expect("a name"), ..statement.clone() },
            Statement { key: SecretKey::from_seed(&[8; 32]).public(), ..statement.clone() },
            Statement { channel: Some(Challenge([3; 32])), ..statement.clone() },
            Statement { key: PublicKey([0; 32]), ..statement.clone() },
        ];
        assert!(others.iter().all(|other| !other.is_signed_by(&signature)));
        assert!(!statement.is_signed_by(&Signature([0; 64])));
    }
}
