//! The help of both programs and of each of their subcommands: it fits a screen of 80 columns and 24 lines, and has an example.

use stablechat_command_line::help::{COLUMNS, COMMAND_NAMES, LINES};
use stablechat_tests::process::{built, run_to_end};
use std::process::Command;

/// The output of a program for these words and `--help`.
fn help(program: &str, words: &[String]) -> String {
    let mut command = Command::new(built(program));
    command.args(words).arg("--help");
    let output = run_to_end(command);
    assert_eq!(output.status.code(), Some(0), "{program} {words:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The subcommands that a help text names: one in each line, or, where there are many, in lines with nothing else.
fn subcommands(help: &str) -> Vec<String> {
    let mut listed = help.lines().skip_while(|line| !line.starts_with("Commands"));
    let are_only_named = listed.next() == Some(COMMAND_NAMES);
    let listed = listed.take_while(|line| line.starts_with("  "));
    if are_only_named {
        return listed.flat_map(str::split_whitespace).map(String::from).collect();
    }
    // The continuation lines of a description are indented further.
    let named = listed.filter(|line| !line.starts_with("   "));
    named.filter_map(|line| line.split_whitespace().next().map(String::from)).collect()
}

/// Checks a help text and those of the subcommands that it names. Returns the number of texts.
fn check(program: &str, words: &[String]) -> usize {
    let text = help(program, words);
    let shown = format!("{program} {} --help:\n{text}", words.join(" "));
    let (lines, columns) = (text.lines().count(), text.lines().map(|line| line.chars().count()).max());
    assert!(lines <= LINES, "{lines} lines: {shown}");
    assert!(columns <= Some(COLUMNS), "{columns:?} columns: {shown}");
    let example = text.lines().skip_while(|line| !line.starts_with("Examples:")).nth(1).unwrap_or_default();
    assert!(example.contains(program), "no example: {shown}");
    let of_subcommands = subcommands(&text).into_iter().map(|name| check(program, &[words, &[name]].concat()));
    1 + of_subcommands.sum::<usize>()
}

#[test]
fn every_help_fits_a_screen_and_has_an_example() {
    // The numbers are lower limits: they show that subcommands were found.
    assert!(check("stablechat", &[]) >= 20);
    assert!(check("stablechatd", &[]) >= 2);
}
