//! Writing the files of a cluster.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A file that could not be written, and the reason.
pub struct WriteError(PathBuf, io::Error);

impl fmt::Display for WriteError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.0.display(), self.1)
    }
}

/// The name of the cluster file in every directory that has one.
pub const CLUSTER_FILE: &str = "cluster.toml";
/// The mode of files that everybody may read.
pub const READABLE: u32 = 0o644;
/// The mode of files for their owner only.
pub const SECRET: u32 = 0o600;

/// Writes a file, which must not exist, and makes its directory if need be.
pub fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), WriteError> {
    let write = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| WriteError(path.into(), error))
}

/// Writes a file in the place of the one that is there, if there is one: a reader sees the old text or the new one.
///
/// # Errors
/// The directory does not exist, or cannot be written to.
pub fn replace(path: &Path, text: &str, mode: u32) -> Result<(), WriteError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        let mut draft = tempfile::NamedTempFile::new_in(directory)?;
        draft.write_all(text.as_bytes())?;
        draft.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        draft.as_file().sync_all()?;
        draft.persist(path).map_err(|error| error.error)?;
        fs::File::open(directory)?.sync_all()
    };
    write().map_err(|error| WriteError(path.into(), error))
}
