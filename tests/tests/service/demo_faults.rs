//! The demonstration of faults, run from its command line: a short story, the picture it draws, and its verdict.

use stablechat_tests::process::built;
use std::process::{Command, Output};

fn demo(directory: &std::path::Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(built("stablechat-demo-faults"));
    command.current_dir(directory).args(arguments).output().expect("it is built")
}

#[test]
fn a_short_story_has_a_picture_and_a_verdict() {
    let directory = tempfile::tempdir().expect("temporary files can be made");
    let story =
        "--at 1 kill a --at 1.5 kill b --at 2.5 start b --at 3 stop c --at 3.5 pause b --at 3.6 resume b --seconds 4";
    let arguments = ["--delivery-bound-ms 400 --people 2 --out picture", story].join(" ");
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let output = demo(directory.path(), &arguments);
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}{complained}");
    let verdict = said.lines().last().expect("a verdict");
    assert!(verdict.starts_with("Answered: ") && verdict.ends_with("each once, in order. Lost: 0."), "{verdict}");
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    assert!(said.contains("3   2.5 s start b"), "{said}");
    let picture = std::fs::read_to_string(directory.path().join("picture.svg")).expect("a picture");
    assert!(picture.contains(verdict) && picture.contains(">resume b<") && picture.ends_with("</svg>\n"), "{picture}");
    let answers = std::fs::read_to_string(directory.path().join("picture.tsv")).expect("a table");
    assert!(verdict.starts_with(&format!("Answered: {} messages", answers.lines().count() - 1)), "{verdict}");
}

#[test]
fn a_contradictory_story_is_refused_before_it_begins() {
    let directory = tempfile::tempdir().expect("temporary files can be made");
    for (arguments, says) in [
        (&["--at", "3", "kill", "d"][..], "there is no replica d, only a, b, c"),
        (&["--at", "3 start a"], "cannot start a after 3 s: it runs by then"),
        (&["--at", "3", "kill"], "is not SECONDS DEED REPLICA"),
        (&["--at", "3", "kill", "a", "--seconds", "2"], "--seconds has to be more than 3"),
        (&["--people", "0"], "from 1 to 64 people"),
        (&["--fast"], "--fast"),
    ] {
        let output = demo(directory.path(), arguments);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{complained}");
        assert!(complained.contains(says) && complained.contains("--help"), "{complained}");
        assert!(output.stdout.is_empty(), "nothing is done");
    }
    let help = demo(directory.path(), &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("--at 3 kill a"));
}
