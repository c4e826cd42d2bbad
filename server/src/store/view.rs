//! A read-only view of a database in a directory that another user may control.
//!
//! `stablechatd backup` usually runs as root, and the data directory belongs to the replica's user. An attacker who
//! has taken over that user can put symbolic links there. RocksDB follows links, and it writes when it opens a database: it would
//! write to any file that a link names, with root's rights. So the database is never opened in its own directory. Its files are opened here, one by
//! one and without following links. The view, a private directory, has links to these open sorted files, which RocksDB only
//! reads; it has copies of the few small files that RocksDB changes. They take at most about 70 MiB, most of it the write-ahead
//! log.
//!
//! The replica does not change the database meanwhile: it is a checkpoint, or the data directory is locked. An attacker who changes it
//! spoils this backup and nothing else.

use super::error::OpenError;
use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, open, openat};
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use tempfile::TempDir;

/// The id of root.
const ROOT: u32 = 0;

/// See the module documentation.
pub struct DatabaseView {
    directory: TempDir,
    /// The sorted files that the links in the directory lead to.
    _sorted: Vec<OwnedFd>,
}

impl DatabaseView {
    /// The view of the database in this directory, as it is now.
    ///
    /// # Errors
    /// The operating system refuses to read it, it has files that are none of the replica's, or there is no room for the view.
    pub fn of(database: &Path) -> Result<DatabaseView, OpenError> {
        let viewed = allow_many_files().and_then(|()| view(database));
        viewed.map_err(|error| OpenError::System { doing: format!("read the database {}", database.display()), error })
    }

    /// The private directory, a database that can be opened and changed.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

fn view(database: &Path) -> io::Result<DatabaseView> {
    let source = open(database, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let directory = TempDir::with_prefix("stablechat-backup-")?;
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o700))?;
    let mut sorted = Vec::new();
    for entry in Dir::read_from(&source)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let Some(role) = role(name) else { continue };
        let file = open_own_file(&source, name)?;
        let place = directory.path().join(name);
        match role {
            FileRole::Sorted => {
                symlink(format!("/proc/self/fd/{}", file.as_raw_fd()), place)?;
                sorted.push(file);
            }
            FileRole::Changed => {
                io::copy(&mut File::from(file), &mut File::create_new(place)?)?;
            }
        }
    }
    Ok(DatabaseView { directory, _sorted: sorted })
}

/// How RocksDB treats a file of a database.
enum FileRole {
    /// It is written once, and then only read.
    Sorted,
    /// It is appended to, or replaced.
    Changed,
}

/// The role of the file with this name; `None` for files that are not part of the data, such as RocksDB's log of events.
fn role(name: &str) -> Option<FileRole> {
    if name.ends_with(".sst") {
        Some(FileRole::Sorted)
    } else if name.ends_with(".log")
        || ["CURRENT", "IDENTITY"].contains(&name)
        || ["MANIFEST-", "OPTIONS-"].iter().any(|prefix| name.starts_with(prefix))
    {
        Some(FileRole::Changed)
    } else {
        None
    }
}

/// Opens a regular file in a directory to read it. In another user's directory, root opens only files of that user: a hard link
/// could lead to a file that its maker may not read.
fn open_own_file(directory: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let in_file = |error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
    // Without NONBLOCK, opening a named pipe would wait for a writer.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty()).map_err(|error| in_file(error.into()))?;
    let (found, owner) = (fstat(&file)?, fstat(directory)?.st_uid);
    if !FileType::from_raw_mode(found.st_mode).is_file() {
        return Err(in_file(io::Error::other("it is not a regular file")));
    }
    if geteuid().is_root() && ![ROOT, found.st_uid].contains(&owner) {
        return Err(in_file(io::Error::other("it does not belong to the owner of the directory")));
    }
    Ok(file)
}

/// Raises the limit of open files as far as the system allows: a view has a file open for each 64 MiB of data.
fn allow_many_files() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}
