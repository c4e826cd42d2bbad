//! Manual pages and completions are complete and can be loaded.

use stablechat_command_line::help::COMMAND_NAMES;
use stablechat_tests::process::{built, run_to_end};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The standard output of a command, which must succeed and print nothing to standard error.
fn printed(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let shown = format!("{command:?}");
    let output = run_to_end(command);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{shown}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The options that a text mentions.
fn options(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-');
    words.filter(|word| word.len() > 2 && word.starts_with("--")).collect()
}

/// The commands that a help lists.
fn commands(help: &str) -> Vec<&str> {
    let mut list = help.lines().skip_while(|line| !line.starts_with("Commands"));
    let are_only_named = list.next() == Some(COMMAND_NAMES);
    let list = list.take_while(|line| line.starts_with(char::is_whitespace));
    if are_only_named {
        return list.flat_map(str::split_whitespace).collect();
    }
    // The continuation lines of a description are indented further.
    list.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next()).collect()
}

#[test]
fn the_manual_has_every_command_and_option_of_the_help_and_completions_load() {
    let room = tempfile::tempdir().expect("temporary files can be made");
    printed(built("stablechat-manual"), &[&room.path().to_string_lossy()]);
    let read = |name: &str| std::fs::read_to_string(room.path().join(name)).expect("it was written");
    for (program, page) in [("stablechat", "stablechat.1"), ("stablechatd", "stablechatd.8")] {
        // The page without fonts and escapes.
        let plain =
            ["\\fB", "\\fI", "\\fR"].iter().fold(read(page), |text, font| text.replace(font, " ")).replace('\\', "");
        let help = printed(built(program), &["--help"]);
        let commands = commands(&help);
        assert!(commands.len() > 1, "{help}");
        let mut wanted: BTreeSet<String> = options(&help).into_iter().map(String::from).collect();
        for command in commands {
            assert!(plain.contains(&format!(".SS {command}\n")), "{page} has no {command}");
            wanted.extend(options(&printed(built(program), &[command, "--help"])).into_iter().map(String::from));
        }
        wanted.remove("--help");
        let has = options(&plain);
        assert!(!wanted.is_empty());
        for option in &wanted {
            assert!(has.contains(option.as_str()), "{page} has no {option}");
        }
        assert_loads(&room.path().join(format!("{program}.bash")), program);
    }
}

/// Bash understands a completion, and completes an option with it.
fn assert_loads(completion: &Path, program: &str) {
    let script = "source \"$1\"; COMP_WORDS=(\"$2\" --); COMP_CWORD=1; \"_$2\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let completed = printed("bash", &["-c", script, "bash", &completion.to_string_lossy(), program]);
    assert!(completed.contains("--help"), "{completed} lacks --help");
}
