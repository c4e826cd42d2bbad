//! The places of files that the command line does not name: environment variables, then the XDG base directories.

use crate::cli::exit::{self, Failure};
use std::env;
use std::path::PathBuf;

/// The cluster file, and the option, variable or default that names it, so that an error can say what to change.
pub struct ClusterFile {
    pub path: PathBuf,
    pub named_by: NamedBy,
}

/// The origin of a file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    Option,
    Environment,
    /// Nothing: it is where it is looked for by default.
    Default,
}

/// The cluster file: as given, or `STABLECHAT_CLUSTER`, or `cluster.toml` in the configuration directory.
///
/// # Errors
/// There is no home directory to look in.
pub fn cluster_file(given: Option<PathBuf>) -> Result<ClusterFile, Failure> {
    let given = given.map(|path| (path, NamedBy::Option));
    let set = || variable("STABLECHAT_CLUSTER").map(|path| (path, NamedBy::Environment));
    let default = || own("XDG_CONFIG_HOME", ".config", "cluster.toml").map(|path| (path, NamedBy::Default));
    let found = given.or_else(set).or_else(default);
    found.map(|(path, named_by)| ClusterFile { path, named_by }).ok_or_else(|| homeless("--cluster FILE"))
}

/// The directory of keys: as given, or `STABLECHAT_KEYS`, or `keys` in the data directory.
///
/// # Errors
/// There is no home directory to look in.
pub fn key_directory(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let named = given.or_else(|| variable("STABLECHAT_KEYS"));
    named.or_else(|| own("XDG_DATA_HOME", ".local/share", "keys")).ok_or_else(|| homeless("--keys DIR"))
}

/// The file of lines typed at the prompt, in the state directory. `None` without a home directory.
pub fn history_file() -> Option<PathBuf> {
    own("XDG_STATE_HOME", ".local/state", "history")
}

/// The program's own file or directory in a base directory.
fn own(base: &str, in_home: &str, name: &str) -> Option<PathBuf> {
    // The specification has relative paths ignored.
    let base = variable(base).filter(|path| path.is_absolute());
    let base = base.or_else(|| variable("HOME").map(|home| home.join(in_home)));
    base.map(|base| base.join("stablechat").join(name))
}

/// A variable that is set, and not to nothing.
fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn homeless(option: &str) -> Failure {
    Failure::new(exit::CONFIGURATION, format!("HOME is not set; say where with {option}"))
}
