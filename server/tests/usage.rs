//! The command line of the built `stablechatd`: what it prints when it is asked for help or cannot be understood.
//!
//! This file has a second purpose. Cargo builds the programs of a package for a test run only if the package has a file in
//! `tests/`. Without this one, `cargo test --workspace` and `cargo nextest run` from a fresh clone would not build
//! `stablechatd`, and the tests that start it, in the package `stablechat-tests`, would not find it.

use std::process::{Command, Output};

fn stablechatd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stablechatd")).args(arguments).output().expect("stablechatd can be started")
}

#[test]
fn help_goes_to_standard_output() {
    for arguments in [&["--help"][..], &["help"], &["run", "--help"]] {
        let output = stablechatd(arguments);
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{arguments:?}: {output:?}");
        let help = String::from_utf8_lossy(&output.stdout);
        assert!(help.contains("--cluster cluster.toml --name a --data"), "{arguments:?} prints: {help}");
    }
}

#[test]
fn usage_errors_go_to_standard_error_and_name_the_wrong_argument() {
    let wrong: [(&[&str], &str); 6] = [
        (&[], "run"),
        (&["walk"], "walk"),
        (&["run"], "--cluster"),
        (&["run", "--cluster", "x", "--name", "a", "--data", "d", "extra"], "extra"),
        (&["run", "--cluster", "x", "--name", "A!", "--data", "d"], "has a character"),
        (&["run", "--cluster", "x", "--name", "a", "--data", "d", "--fast"], "--fast"),
    ];
    for (arguments, named) in wrong {
        let output = stablechatd(arguments);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}: {output:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(named), "{arguments:?} prints: {error}");
    }
}
