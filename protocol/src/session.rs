//! Sessions: numbered sequences of requests, so that each takes effect at most once.

use crate::login::SecretKey;
use crate::name::AccountName;

/// The most requests of a session that may be unanswered at a time. A session remembers this many answers, so that every
/// request that a client can still repeat gets the answer it got before.
pub const WINDOW: u64 = 1024;

/// The context of [`ClientId::derive`], which no other use of BLAKE3's key derivation shares.
const DERIVED_SESSION: &str = "stablechat session of a private key, an account and a key of its choice, version 1";

wire_bytes! {
    /// The identity of a session: 128 random bits, or derived with [`ClientId::derive`].
    pub struct ClientId([u8; 16]);
}

impl ClientId {
    /// The session in which `account`, whose private key is `secret`, sends the request that it calls `key` (`send --id KEY`).
    ///
    /// The same input gives the same session, so a command that is given again after any failure, even by another process, is
    /// recognised as a repetition. A session belongs to the account that uses it first, and users choose keys that others can
    /// guess. Without the private key in the input, a stranger could compute the session and use it first.
    pub fn derive(secret: &SecretKey, account: &AccountName, key: &str) -> ClientId {
        let mut hasher = blake3::Hasher::new_derive_key(DERIVED_SESSION);
        // The seed has a fixed length and a name has no zero byte, so no two inputs give the same bytes.
        hasher.update(&secret.seed()).update(account.as_str().as_bytes()).update(b"\0").update(key.as_bytes());

        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        ClientId(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_sessions_depend_on_private_key_account_and_key() {
        let derive = |seed, account, key| {
            let account = AccountName::parse(account).expect("a name");
            ClientId::derive(&SecretKey::from_seed(&[seed; 32]), &account, key)
        };
        let session = derive(1, "alice", "k");
        assert_eq!(session, derive(1, "alice", "k"));
        for other in [derive(2, "alice", "k"), derive(1, "bob", "k"), derive(1, "alice", "l"), derive(1, "alic", "ek")]
        {
            assert_ne!(session, other);
        }
    }
}
