//! Keys that are derived from passwords, so that a person can log in from a machine that has no key file.
//!
//! A key is Argon2id (RFC 9106) of the password, by the RFC's second recommendation; `docs/PROTOCOL.md` has the whole
//! derivation. It is done here, on the client: neither the password nor anything about it leaves this machine, and replicas
//! cannot tell such a key from another. The salt is made of the cluster's id and the account's name, both of which the client
//! knows. So no replica has to be asked for it. One that is asked could tell strangers which accounts exist, or ask for a
//! derivation that is cheaper to guess.

use argon2::{Algorithm, Argon2, Params, Version};
use stablechat_protocol::login::SecretKey;
use stablechat_protocol::name::{AccountName, ClusterId};

/// Tells salts from all other digests.
const SALT: &str = "stablechat password salt, version 1";
/// Memory, in KiB.
const MEMORY_KIB: u32 = 64 * 1024;
/// Passes over it.
const PASSES: u32 = 3;
/// Independent lanes of it.
const LANES: u32 = 4;
/// The fewest characters of a new password. With a copy of a replica's data, passwords can be tried as fast as
/// machines allow.
pub const LENGTH_MIN: usize = 10;

/// The private key of an account with this password. Takes about a fifth of a second and 64 MiB.
pub fn derive(password: &str, cluster: &ClusterId, account: &AccountName) -> SecretKey {
    let parameters = Params::new(MEMORY_KIB, PASSES, LANES, Some(32)).expect("they are within the bounds of Argon2");
    let salt = blake3::derive_key(SALT, format!("{cluster}\0{account}").as_bytes());
    let mut seed = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
        .hash_password_into(password.as_bytes(), &salt, &mut seed)
        .expect("salt and key have lengths that Argon2 takes");
    SecretKey::from_seed(&seed)
}

/// Whether a password may be a new one.
///
/// # Errors
/// It is too short. The text is for a person.
pub fn check(password: &str) -> Result<(), String> {
    match password.chars().count() {
        length if length < LENGTH_MIN => Err(format!(
            "the password has {length} characters, and needs {LENGTH_MIN}; several words are easy to remember"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_test_vectors() {
        let vectors: serde_json::Value = serde_json::from_str(include_str!("../../docs/vectors.json")).expect("JSON");
        let vectors = vectors["passwords"].as_array().expect("a section");
        assert!(!vectors.is_empty());
        for vector in vectors {
            let text = |field: &str| vector[field].as_str().expect("a text");
            let cluster = ClusterId::parse(text("cluster_id")).expect("an id");
            let secret = derive(text("password"), &cluster, &AccountName::parse(text("account")).expect("a name"));
            assert_eq!(secret.seed().map(|byte| format!("{byte:02x}")).concat(), text("seed"));
        }
    }

    #[test]
    fn a_key_belongs_to_password_account_and_cluster() {
        let name = |text: &str| AccountName::parse(text).expect("a name");
        let cluster = |text: &str| ClusterId::parse(text).expect("an id");
        let key = |password: &str, id: &str, account: &str| derive(password, &cluster(id), &name(account)).seed();
        let alice = key("correct horse", "1", "alice");
        assert_eq!(alice, key("correct horse", "1", "alice"));
        assert_ne!(alice, key("correct horse ", "1", "alice"));
        assert_ne!(alice, key("correct horse", "1", "bob"));
        assert_ne!(alice, key("correct horse", "2", "alice"));
    }

    #[test]
    fn new_passwords_are_not_short() {
        assert!(check("ten-chars!").is_ok() && check("öööööööööö").is_ok());
        assert!(check("nine-char").expect_err("it is short").contains("9 characters"));
    }
}
