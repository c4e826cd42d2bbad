//! One test for each golden script of a directory, named after its file.
//!
//! The test harness needs one test function per script, so the names of the scripts are written out. A script without a test
//! would never run, so another test compares the names with the files in the directory.

use std::collections::BTreeSet;

/// `golden_scripts!("DIRECTORY", RUNNER, NAME, ...)` makes a module `scripts` with a test for each script of a directory of this
/// crate. `RUNNER` is a function that returns a new `goldenscript::Runner`. With `UPDATE_GOLDENFILES=1`,
/// the tests write the output into the scripts instead of comparing it.
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

/// Panics unless these are the names of the files in a directory.
pub fn assert_names(directory: &str, names: &[&str]) {
    let entries = std::fs::read_dir(directory).expect("the scripts are there");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("the directory can be read").file_name().into_string().expect("a name in ASCII")
    };
    let found: BTreeSet<String> = entries.map(name).collect();
    let listed: BTreeSet<String> = names.iter().map(|name| name.to_string()).collect();
    assert_eq!(found, listed, "the files in {directory} (left) and the tests (right) differ");
}
