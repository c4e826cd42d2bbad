//! The key directory: one file for each account whose key this user holds.
//!
//! A key file is text. It appears complete or not at all, is never overwritten, and is refused when other users can read it.
//! Without its key an account is lost, so the client removes a key only after it has deleted the account.

use stablechat_protocol::login::SecretKey;
use stablechat_protocol::name::AccountName;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The first line of a key file.
const HEADING: &str = "stablechat private key, version 1 - keep it secret, whoever has it owns the account";
/// No key file is longer, in bytes.
const FILE_MAX: u64 = 1024;

/// A directory of keys, which need not exist yet.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The directory.
    directory: PathBuf,
}

/// Why a key cannot be read or kept.
#[derive(Debug)]
pub struct KeyError {
    /// The file or directory.
    path: PathBuf,
    /// What is wrong with it.
    fault: String,
}

impl fmt::Display for KeyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the key {}: {}", self.path.display(), self.fault)
    }
}

impl std::error::Error for KeyError {}

/// A key that [`Keys::load_or_create`] found or made.
pub struct LoadedKey {
    /// The key.
    pub secret: SecretKey,
    /// Whether it was made just now.
    pub is_new: bool,
}

impl Keys {
    /// The keys in a directory.
    pub fn new(directory: PathBuf) -> Keys {
        Keys { directory }
    }

    /// Where an account's key is kept.
    pub fn path(&self, account: &AccountName) -> PathBuf {
        self.directory.join(format!("{account}.key"))
    }

    /// The accounts that have a key file, by name. Whether a file is a usable key shows only when it is loaded.
    ///
    /// # Errors
    /// The directory exists and cannot be read.
    pub fn accounts(&self) -> Result<Vec<AccountName>, KeyError> {
        let failed = |error: io::Error| KeyError { path: self.directory.clone(), fault: error.to_string() };
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };

        let mut accounts = Vec::new();
        for entry in entries {
            let file_name = entry.map_err(failed)?.file_name();
            let name = file_name.to_str().and_then(|name| name.strip_suffix(".key"));
            accounts.extend(name.and_then(|name| AccountName::parse(name).ok()));
        }
        accounts.sort();
        Ok(accounts)
    }

    /// The account's key; `None` when there is no such file.
    ///
    /// # Errors
    /// The file cannot be read, others may read it, or it is not a key of this account.
    pub fn load(&self, account: &AccountName) -> Result<Option<SecretKey>, KeyError> {
        let path = self.path(account);
        let failed = |fault: String| KeyError { path: path.clone(), fault };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error.to_string())),
        };
        let mode = file.metadata().map_err(|error| failed(error.to_string()))?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(failed(format!(
                "others than its owner have access to it (mode {mode:03o}); if nobody has used it: chmod 600"
            )));
        }
        let mut text = String::new();
        file.take(FILE_MAX).read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
        parse(&text, account).map(Some).map_err(|fault| failed(fault.to_string()))
    }

    /// The account's key, made when there is none.
    ///
    /// # Errors
    /// As with [`Keys::load`], or the file cannot be written.
    pub fn load_or_create(&self, account: &AccountName) -> Result<LoadedKey, KeyError> {
        if let Some(secret) = self.load(account)? {
            return Ok(LoadedKey { secret, is_new: false });
        }
        let path = self.path(account);
        let mut seed = [0; 32];
        let made = getrandom::fill(&mut seed).map_err(io::Error::other).and_then(|()| self.store(account, &seed));
        match made {
            Ok(()) => Ok(LoadedKey { secret: SecretKey::from_seed(&seed), is_new: true }),
            // Another process was faster: its key is the account's.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match self.load(account)? {
                Some(secret) => Ok(LoadedKey { secret, is_new: false }),
                None => Err(KeyError { path, fault: "it comes and goes".into() }),
            },
            Err(error) => Err(KeyError { path, fault: format!("cannot be written: {error}") }),
        }
    }

    /// Removes the account's key.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self, account: &AccountName) -> Result<(), KeyError> {
        let path = self.path(account);
        fs::remove_file(&path).map_err(|error| KeyError { path, fault: format!("cannot be removed: {error}") })
    }

    /// Writes a key under another name and then links it to its own, which fails when the file exists.
    fn store(&self, account: &AccountName, seed: &[u8; 32]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let draft = self.directory.join(format!(".{account}.{:016x}", u64::from_ne_bytes(random)));
        let linked = write_draft(&draft, account, seed).and_then(|()| fs::hard_link(&draft, self.path(account)));
        fs::remove_file(&draft)?;
        linked?;
        File::open(&self.directory)?.sync_all()
    }
}

/// Writes a key to a new file and to the disk.
fn write_draft(path: &Path, account: &AccountName, seed: &[u8; 32]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let digits: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
    write!(file, "{HEADING}\naccount {account}\ned25519 {digits}\n")?;
    file.sync_all()
}

/// Reads a key file's text.
fn parse(text: &str, account: &AccountName) -> Result<SecretKey, &'static str> {
    let mut lines = text.lines();
    if lines.next() != Some(HEADING) {
        return Err("it is not a key file of this version");
    }
    if lines.next().and_then(|line| line.strip_prefix("account ")) != Some(account.as_str()) {
        return Err("it is the key of another account");
    }
    let digits = lines.next().and_then(|line| line.strip_prefix("ed25519 ")).ok_or("its third line is missing")?;
    match seed_from_hex(digits) {
        Some(seed) if lines.next().is_none() => Ok(SecretKey::from_seed(&seed)),
        _ => Err("its third line is not 64 hexadecimal digits, the last thing in it"),
    }
}

/// 32 bytes from 64 hexadecimal digits.
fn seed_from_hex(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut seed = [0; 32];
    for (at, byte) in seed.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn name(text: &str) -> AccountName {
        AccountName::parse(text).expect("a name")
    }

    fn keys() -> (tempfile::TempDir, Keys) {
        let directory = tempfile::tempdir().expect("a directory");
        let keys = Keys::new(directory.path().join("a").join("keys"));
        (directory, keys)
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_only() {
        let (_directory, keys) = keys();
        assert!(keys.load(&name("alice")).expect("no fault").is_none());
        let made = keys.load_or_create(&name("alice")).expect("made");
        let found = keys.load_or_create(&name("alice")).expect("found");
        assert!(made.is_new && !found.is_new);
        assert_eq!(made.secret.seed(), found.secret.seed());
        let path = keys.path(&name("alice"));
        let mode = |path: &Path| fs::metadata(path).expect("it exists").mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().expect("a directory")), 0o700);
        assert_eq!(fs::read_dir(path.parent().expect("a directory")).expect("readable").count(), 1, "no drafts");
        assert_ne!(keys.load_or_create(&name("bob")).expect("made").secret.seed(), made.secret.seed());
    }

    #[test]
    fn accounts_are_listed_by_name_and_other_files_are_not() {
        let (_directory, keys) = keys();
        assert_eq!(keys.accounts().expect("no fault"), []);
        keys.load_or_create(&name("bob")).expect("made");
        keys.load_or_create(&name("alice")).expect("made");
        for other in ["notes.txt", "Not A Name.key", ".alice.0123"] {
            fs::write(keys.directory.join(other), "").expect("written");
        }
        assert_eq!(keys.accounts().expect("readable"), [name("alice"), name("bob")]);
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let (_directory, keys) = keys();
        keys.load_or_create(&name("alice")).expect("made");
        let path = keys.path(&name("alice"));
        let before = fs::read(&path).expect("readable");
        let error = keys.store(&name("alice"), &[1; 32]).expect_err("it is there");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("readable"), before);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let (_directory, keys) = keys();
        keys.load_or_create(&name("alice")).expect("made");
        fs::set_permissions(keys.path(&name("alice")), fs::Permissions::from_mode(0o640)).expect("changed");
        let error = keys.load(&name("alice")).err().expect("refused").to_string();
        assert!(error.contains("mode 640") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_malformed_key_says_what_is_wrong() {
        let (_directory, keys) = keys();
        keys.load_or_create(&name("alice")).expect("made");
        let path = keys.path(&name("alice"));
        let good = fs::read_to_string(&path).expect("readable");
        for (text, fault) in [
            (String::new(), "not a key file"),
            (good.replace("version 1", "version 2"), "not a key file"),
            (good.replace("account alice", "account bob"), "another account"),
            (good.replace("ed25519 ", "ed25519 0"), "64 hexadecimal"),
            (format!("{good}more\n"), "64 hexadecimal"),
            (good.lines().take(2).collect::<Vec<_>>().join("\n"), "third line is missing"),
        ] {
            fs::write(&path, text).expect("written");
            let error = keys.load(&name("alice")).err().expect("malformed").to_string();
            assert!(error.contains(fault), "{error:?} lacks {fault:?}");
        }
    }
}
