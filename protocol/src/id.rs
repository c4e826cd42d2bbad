//! Identities that are bytes: sessions, digests and challenges.

use crate::name::AccountName;

wire_bytes! {
    /// The identity of a client's session: 128 random bits, or derived from an account and a key of the user's choice.
    pub struct ClientId([u8; 16]);
}

wire_bytes! {
    /// A BLAKE3 digest of the log up to a position, or of the whole state.
    pub struct Digest([u8; 32]);
}

wire_bytes! {
    /// What a replica asks a client to sign: random, and new for each connection.
    pub struct Challenge([u8; 32]);
}

impl ClientId {
    /// The session in which `account` repeats what it calls `key` (`send --id`): the same for the same two, so that a
    /// command given again after any failure is recognized.
    pub fn derive(account: &AccountName, key: &str) -> ClientId {
        let mut hasher = blake3::Hasher::new_derive_key("stablechat session of an account and a key, version 1");
        hasher.update(account.as_str().as_bytes()).update(b"\0").update(key.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        ClientId(id)
    }
}

impl Digest {
    /// The digest of nothing: where a log begins, and of a state without rows.
    pub const ZERO: Digest = Digest([0; 32]);

    /// The log digest after appending the request with this uid to a log with this digest. The uid holds 128 bits of the
    /// request's own digest, so the chain commits to the bodies as well.
    pub fn chain(self, uid: crate::uid::Uid) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(&uid.to_bytes());
        Digest(*hasher.finalize().as_bytes())
    }

    /// Adds an item to a digest of a set, or removes it again: exclusive or.
    pub fn toggle(&mut self, item: Digest) {
        self.0.iter_mut().zip(item.0).for_each(|(byte, other)| *byte ^= other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_sessions_depend_on_account_and_key() {
        let alice = AccountName::parse("alice").expect("a name");
        let bob = AccountName::parse("bob").expect("a name");
        assert_eq!(ClientId::derive(&alice, "k"), ClientId::derive(&alice, "k"));
        assert_ne!(ClientId::derive(&alice, "k"), ClientId::derive(&alice, "l"));
        assert_ne!(ClientId::derive(&alice, "k"), ClientId::derive(&bob, "k"));
    }

    #[test]
    fn toggling_twice_is_nothing() {
        let mut digest = Digest([3; 32]);
        digest.toggle(Digest([5; 32]));
        assert_eq!(digest, Digest([6; 32]));
        digest.toggle(Digest([5; 32]));
        assert_eq!(digest, Digest([3; 32]));
    }
}
