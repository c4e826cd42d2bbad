//! One test for each golden script of a directory, named after its file.
//!
//! The test harness only knows tests that the compiler has seen, so the names are written out. A file that is not among them
//! would never run: one more test compares the names with the directory.

use std::collections::BTreeSet;

/// `golden_scripts!("DIRECTORY", RUNNER, NAME, ...)` makes a module `scripts` with a test for each script of a directory of this
/// crate. `RUNNER` is a function that returns a new `goldenscript::Runner`. `UPDATE_GOLDENFILES=1` writes their output anew.
macro_rules! golden_scripts {
    ($directory:literal, $runner:path, $($name:ident),+ $(,)?) => {
        mod scripts {
            use super::*;

            const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/", $directory);

            $(
                #[test]
                fn $name() {
                    let path = std::path::Path::new(DIRECTORY).join(stringify!($name));
                    goldenscript::run(&mut $runner(), path).expect("the script runs");
                }
            )+

            #[test]
            fn every_script_has_a_test() {
                crate::golden::assert_names(DIRECTORY, &[$(stringify!($name)),+]);
            }
        }
    };
}

pub(crate) use golden_scripts;

/// Fails unless these are the names of the files in a directory.
pub fn assert_names(directory: &str, names: &[&str]) {
    let entries = std::fs::read_dir(directory).expect("the scripts are there");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("the directory can be read").file_name().into_string().expect("a name in ASCII")
    };
    let found: BTreeSet<String> = entries.map(name).collect();
    let listed: BTreeSet<String> = names.iter().map(|name| name.to_string()).collect();
    assert_eq!(found, listed, "the scripts of {directory}, and those that golden_scripts! names");
}
