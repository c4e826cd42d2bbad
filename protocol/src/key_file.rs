//! The text of a file with a private key.

use crate::hex::bytes_from_hex;
use crate::login::SecretKey;
use crate::name::AccountName;

/// The first line.
const HEADING: &str = "stablechat private key, version 1 - keep it secret: it opens the account";

/// The text of an account's key file.
pub fn write_key(account: &AccountName, secret: &SecretKey) -> String {
    let digits: String = secret.seed().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{HEADING}\naccount {account}\ned25519 {digits}\n")
}

/// Reads the text of an account's key file.
///
/// # Errors
/// It is none, of another version, or of another account. The text is for a person.
pub fn read_key(text: &str, account: &AccountName) -> Result<SecretKey, &'static str> {
    let mut lines = text.lines();
    if lines.next() != Some(HEADING) {
        return Err("it is not a key file of this version");
    }
    if lines.next().and_then(|line| line.strip_prefix("account ")) != Some(account.as_str()) {
        return Err("it is the key of another account");
    }
    let digits = lines.next().and_then(|line| line.strip_prefix("ed25519 ")).ok_or("its third line is missing")?;
    match bytes_from_hex(digits) {
        Some(seed) if lines.next().is_none() => Ok(SecretKey::from_seed(&seed)),
        _ => Err("its third line is not 64 hexadecimal digits, the last thing in it"),
    }
}
