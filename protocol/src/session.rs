//! Sessions: numbered sequences of requests, so that each takes effect at most once.

use crate::name::AccountName;

/// The most requests of a session that may be unanswered at a time. A session remembers this many answers, so that every
/// request that a client can still repeat gets the answer it got before.
pub const WINDOW: u64 = 1024;

wire_bytes! {
    /// The identity of a session: 128 random bits, or derived from an account and a key of the user's choice.
    pub struct ClientId([u8; 16]);
}

impl ClientId {
    /// The session in which `account` sends the request that it calls `key` (`send --id KEY`).
    ///
    /// The same account and key give the same session, so a command that is given again after any failure, even by another
    /// process, is recognised as a repetition.
    pub fn derive(account: &AccountName, key: &str) -> ClientId {
        let mut hasher = blake3::Hasher::new_derive_key("stablechat session of an account and a key, version 1");
        // A name has no zero byte, so no two pairs of account and key give the same input.
        hasher.update(account.as_str().as_bytes()).update(b"\0").update(key.as_bytes());

        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        ClientId(id)
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
}
