//! The keys of this user's accounts: one file for each, in a directory of its cluster.
//!
//! A key is the only thing that opens an account, and no replica has a copy. So a key file is written to the disk before it
//! appears under its name, is never overwritten and never removed, and is refused when other users can read it. An account's
//! files differ in their state:
//!
//! | file | key |
//! |---|---|
//! | `CLUSTER/NAME.key` | of the account: a replica has confirmed that it was created with this key |
//! | `CLUSTER/NAME.key.new` | of a create or change that no replica has confirmed; the next one of this name uses it |
//! | `CLUSTER/NAME.key.deleted-TIME` | of an account that was deleted |
//! | `CLUSTER/NAME.key.replaced-TIME` | of an account that has got another one since |
//!
//! Names are per cluster, so keys are too: the account `alice` of one cluster has nothing to do with that of another. `CLUSTER` is
//! the cluster's name, followed by `@` and its id if its file has one: two clusters may have the same name.
//!
//! Processes that create an account of the same name at once use the same new key. The one whose create takes effect moves the
//! file to its place, and the others leave it alone. So the account's key is kept, whichever process creates it. Changes of files are made
//! under a lock of the directory, which is never held while a replica is waited for.

use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::key_file::{read_key, write_key};
use stablechat_protocol::login::{PublicKey, SecretKey};
use stablechat_protocol::name::AccountName;
use stablechat_protocol::time::{Timestamp, utc};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// No key file is longer, in bytes.
const FILE_MAX: u64 = 1024;
/// The file in the directory that processes lock while they change others.
const LOCK_FILE: &str = ".lock";

/// The directory of the keys of one cluster, which need not exist yet.
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
    /// The fault, for a person.
    fault: String,
}

impl fmt::Display for KeyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the key {}: {}", self.path.display(), self.fault)
    }
}

impl std::error::Error for KeyError {}

impl Keys {
    /// The keys of a cluster, in a directory that has those of all clusters.
    pub fn new(directory: &Path, cluster: &Cluster) -> Keys {
        // No name has the character.
        Keys { directory: directory.join(format!("{}@{}", cluster.name, cluster.id)) }
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

    /// The account's key; `None` when there is none. Without a confirmed key it is that of the last create: if its answer never
    /// came, the account may exist all the same.
    ///
    /// # Errors
    /// The file cannot be read, others may read it, or it is not a key of this account.
    pub fn load(&self, account: &AccountName) -> Result<Option<SecretKey>, KeyError> {
        let (path, new_path) = (self.path(account), self.new_path(account));
        // The new key may be moved to its place between two of these.
        for path in [&path, &new_path, &path] {
            if let Some(secret) = read(path, account)? {
                return Ok(Some(secret));
            }
        }
        Ok(None)
    }

    /// The account's key, or that of a change which is not confirmed, if it is another than these.
    ///
    /// # Errors
    /// As with [`Keys::load`].
    pub fn load_another(&self, account: &AccountName, than: &[PublicKey]) -> Result<Option<SecretKey>, KeyError> {
        let (path, new_path) = (self.path(account), self.new_path(account));
        // The new key may be moved to its place between two of these.
        for path in [&path, &new_path, &path] {
            if let Some(secret) = read(path, account)?.filter(|secret| !than.contains(&secret.public())) {
                return Ok(Some(secret));
            }
        }
        Ok(None)
    }

    /// The key to create an account with: the one that there is, or a new one.
    ///
    /// # Errors
    /// As with [`Keys::load`], or the file cannot be written.
    pub fn load_or_create(&self, account: &AccountName) -> Result<SecretKey, KeyError> {
        let _lock = self.lock()?;
        match self.load(account)? {
            Some(secret) => Ok(secret),
            None => self.create_next(account),
        }
    }

    /// The key that is to take the place of the present one: that of a change whose outcome is not known, or a new one.
    ///
    /// # Errors
    /// As with [`Keys::load`], or a file cannot be written or renamed.
    pub fn next(&self, account: &AccountName, present: Option<PublicKey>) -> Result<SecretKey, KeyError> {
        let _lock = self.lock()?;
        let (path, new_path) = (self.path(account), self.new_path(account));
        match read(&new_path, account)? {
            // No replica has confirmed the create that it was made for, and it opens the account all the same.
            Some(secret) if Some(secret.public()) == present => {
                let failed = |error: io::Error| KeyError { path, fault: format!("cannot be written: {error}") };
                fs::rename(&new_path, self.path(account)).map_err(failed)?;
                self.create_next(account)
            }
            Some(secret) => Ok(secret),
            None => self.create_next(account),
        }
    }

    /// Makes a key that no replica has confirmed.
    fn create_next(&self, account: &AccountName) -> Result<SecretKey, KeyError> {
        let path = self.new_path(account);
        let failed = |error: io::Error| KeyError { path: path.clone(), fault: format!("cannot be written: {error}") };
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| failed(io::Error::other(error)))?;
        let secret = SecretKey::from_seed(&seed);
        self.store(&path, account, &secret).map_err(failed)?;
        Ok(secret)
    }

    /// A replica has confirmed that the account was created with this key, or has got it: puts it into its place.
    ///
    /// # Errors
    /// A file cannot be read, written or renamed.
    pub fn confirm(&self, account: &AccountName, secret: &SecretKey) -> Result<(), KeyError> {
        let _lock = self.lock()?;
        let (path, new_path) = (self.path(account), self.new_path(account));
        let failed = |error: io::Error| KeyError { path: path.clone(), fault: format!("cannot be written: {error}") };
        match read(&path, account)? {
            Some(present) if present.seed() == secret.seed() => return Ok(()),
            // The account has got the new key in the place of this one, or was deleted and created again.
            Some(_) => drop(self.set_aside(&path, account, "replaced")?),
            None => {}
        }

        match read(&new_path, account)? {
            Some(new) if new.seed() == secret.seed() => fs::rename(&new_path, &path).map_err(failed)?,
            // Another process has confirmed the key, and since then deleted the account. This one has created it again.
            _ => self.store(&path, account, secret).map_err(failed)?,
        }
        self.sync().map_err(failed)
    }

    /// A replica has confirmed that the account was deleted with this key: sets the key aside. Returns where it is kept, if it
    /// was found.
    ///
    /// # Errors
    /// A file cannot be read or renamed.
    pub fn retire(&self, account: &AccountName, secret: &SecretKey) -> Result<Option<PathBuf>, KeyError> {
        let _lock = self.lock()?;
        for path in [self.path(account), self.new_path(account)] {
            // Another key may be there by now, if the account was created again.
            if read(&path, account)?.is_some_and(|present| present.seed() == secret.seed()) {
                return self.set_aside(&path, account, "deleted").map(Some);
            }
        }
        Ok(None)
    }

    /// Where the key of a create that is not confirmed is kept.
    fn new_path(&self, account: &AccountName) -> PathBuf {
        self.directory.join(format!("{account}.key.new"))
    }

    /// Renames a key file to a name that says why and when, and that no file has. Returns it.
    fn set_aside(&self, path: &Path, account: &AccountName, why: &str) -> Result<PathBuf, KeyError> {
        let failed = |error: io::Error| KeyError { path: path.into(), fault: format!("cannot be renamed: {error}") };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = utc(Timestamp::ZERO.after(now)).replace(' ', "T").replace(':', "");
        let name = |number: u64| match number {
            0 => format!("{account}.key.{why}-{time}"),
            _ => format!("{account}.key.{why}-{time}-{number}"),
        };
        let target = (0..).map(|number| self.directory.join(name(number))).find(|target| !target.exists());
        let target = target.expect("no directory has so many files");
        fs::rename(path, &target).and_then(|()| self.sync()).map_err(failed)?;
        Ok(target)
    }

    /// Waits until no other process changes the directory, which never takes long, and keeps others from it until the result is
    /// dropped. Makes the directory.
    fn lock(&self) -> Result<File, KeyError> {
        let path = self.directory.join(LOCK_FILE);
        let lock = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            file.lock().map(|()| file)
        };
        lock().map_err(|error| KeyError { path: path.clone(), fault: format!("cannot be locked: {error}") })
    }

    /// Writes a key under a name that nothing looks for and then links it to its own, which fails when that file exists.
    fn store(&self, path: &Path, account: &AccountName, secret: &SecretKey) -> io::Result<()> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let draft = self.directory.join(format!(".{account}.{:016x}", u64::from_ne_bytes(random)));
        let linked = write_draft(&draft, account, secret).and_then(|()| fs::hard_link(&draft, path));
        // Why the key could not be written matters more than that there is no draft to remove.
        let removed = fs::remove_file(&draft);
        linked.and(removed)?;
        self.sync()
    }

    /// Writes the names in the directory to the disk.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

/// Writes a key to a new file and to the disk.
fn write_draft(path: &Path, account: &AccountName, secret: &SecretKey) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(write_key(account, secret).as_bytes())?;
    file.sync_all()
}

/// The key in a file; `None` when there is no such file.
fn read(path: &Path, account: &AccountName) -> Result<Option<SecretKey>, KeyError> {
    let failed = |fault: String| KeyError { path: path.into(), fault };
    let file = match File::open(path) {
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
    read_key(&text, account).map(Some).map_err(|fault| failed(fault.to_string()))
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
