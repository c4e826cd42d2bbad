//! A help that fits a screen.
//!
//! `argh` makes the help of what the commands are declared to be, with a line for each exit code and a blank line between
//! sections, and leaves long lines to the terminal. A help that scrolls away is read less.

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind};

/// The columns of a screen.
pub const COLUMNS: usize = 80;
/// The lines of a screen.
pub const LINES: usize = 24;
/// How the section of exit codes begins.
const EXIT_CODES: &str = "Exit codes:";

/// How the section of commands begins.
const COMMANDS: &str = "Commands:";
/// How it begins if there is only room for their names.
pub const COMMAND_NAMES: &str = "Commands, each with a --help of its own:";

/// How the line of the option begins by which this help is shown.
const HELP_OPTION: &str = "  --help, help";

/// A help of `argh`'s in which no line is longer than a screen is wide, and exit codes are one paragraph. Blank lines are left out
/// when there is no room for them, then exit codes, which the manual page has as well, then the option that the reader has
/// found already, and then what each command does. `common` is a section that follows the options. Ends with a line's end.
pub fn fit(help: &str, common: Option<&str>) -> String {
    let mut sections = Vec::new();
    for text in help.trim_end().split("\n\n") {
        sections.push(section(text));
        if text.starts_with("Options:") {
            sections.extend(common.map(section));
        }
    }
    let fits = |text: &String| text.lines().count() <= LINES;
    let mut text = sections.join("\n\n");
    if !fits(&text) {
        text = sections.join("\n");
    }
    if !fits(&text) {
        sections.retain(|section| !section.starts_with(EXIT_CODES));
        text = sections.join("\n");
    }
    let without_help_option =
        |text: &str| text.lines().filter(|line| !line.starts_with(HELP_OPTION)).collect::<Vec<&str>>().join("\n");
    if !fits(&text) {
        text = without_help_option(&text);
    }
    if !fits(&text) {
        sections
            .iter_mut()
            .filter(|section| section.starts_with(COMMANDS))
            .for_each(|section| *section = names(section));
        text = without_help_option(&sections.join("\n"));
    }
    text + "\n"
}

/// The section of commands with nothing but their names.
fn names(commands: &str) -> String {
    let is_command = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
    let names = commands.lines().filter(is_command).filter_map(|line| line.split_whitespace().next());
    format!("{COMMAND_NAMES}\n{}", wrap(&format!("  {}", names.collect::<Vec<&str>>().join(" ")), "  "))
}

/// A section for the help of a subcommand, with the options of the program; none when it has no options.
pub fn common_options(program: &CommandInfoWithArgs) -> Option<String> {
    let shown = program.flags.iter().filter(|flag| !flag.hidden && flag.long != "--help");
    let usage = |flag: &FlagInfo| match flag.kind {
        FlagInfoKind::Switch => flag.long.to_string(),
        FlagInfoKind::Option { arg_name } => format!("{} <{arg_name}>", flag.long),
    };
    let options: Vec<String> = shown.map(usage).collect();
    (!options.is_empty()).then(|| format!("Common options:\n  {}", options.join("  ")))
}

/// A section whose lines are short enough.
fn section(text: &str) -> String {
    let is_long = |line: &str| line.chars().count() > COLUMNS;
    match text.split_once('\n') {
        Some(("Error codes:", codes)) => {
            let codes: Vec<&str> = codes.lines().map(str::trim).collect();
            wrap(&format!("{EXIT_CODES} {}", codes.join("; ")), "  ")
        }
        // Notes that do not fit as they are laid out are a paragraph.
        Some(("Notes:", notes)) if notes.lines().any(is_long) => {
            format!("Notes:\n{}", wrap(&format!("  {}", notes.trim_start()), "  "))
        }
        _ => {
            let hanging = if text.starts_with("Usage:") { "    " } else { "" };
            let line = |line: &str| if is_long(line) { wrap(line, hanging) } else { line.into() };
            text.lines().map(line).collect::<Vec<String>>().join("\n")
        }
    }
}

/// Words in as many lines as they need. The first line is indented as it is, the others as told.
fn wrap(text: &str, hanging: &str) -> String {
    let indent: String = text.chars().take_while(|character| *character == ' ').collect();
    let (mut lines, mut current, mut is_empty) = (Vec::new(), indent, true);
    for word in text.split_whitespace() {
        if !is_empty && current.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push(std::mem::replace(&mut current, hanging.into()));
        } else if !is_empty {
            current.push(' ');
        }
        current += word;
        is_empty = false;
    }
    lines.push(current);
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_help_that_fits_is_unchanged() {
        let help = "Usage: x\n\nDoes things.\n\nOptions:\n  --help, help      display usage information\n";
        assert_eq!(fit(help, None), help);
    }

    #[test]
    fn exit_codes_are_a_paragraph_and_long_lines_are_cut_at_blanks() {
        let (word, many) = ("a-word", ["a-word"; 11].join(" "));
        let help = format!(
            "Usage: {many} {word}\n\n{many} {word}\n\nNotes:\n  {word}\n  {many} {word}\n\n\
             Error codes:\n  0 done\n  78 configuration\n"
        );
        let ten = ["a-word"; 10].join(" ");
        let expected = format!(
            "Usage: {ten}\n    {word} {word}\n\n{many}\n{word}\n\nNotes:\n  {many}\n  {word} {word}\n\n\
             Exit codes: 0 done; 78 configuration\n"
        );
        assert_eq!(fit(&help, None), expected);
        assert_eq!(
            wrap(&format!("  {}", "x".repeat(90)), ""),
            format!("  {}", "x".repeat(90)),
            "what cannot be cut is not"
        );
    }

    #[test]
    fn blank_lines_go_when_there_is_no_room() {
        let options: String = (0..20).map(|number| format!("\n  --option-{number}")).collect();
        let fitted = fit(&format!("Usage: x\n\nDoes things.\n\nOptions:{options}\n"), None);
        assert_eq!((fitted.lines().count(), fitted.contains("\n\n")), (23, false));
    }

    #[test]
    fn exit_codes_go_when_there_is_no_room_either() {
        let help = |count: u32| {
            let options: String = (0..count).map(|number| format!("\n  --option-{number}")).collect();
            fit(&format!("Usage: x\n\nOptions:{options}\n\nError codes:\n  0 done\n"), None)
        };
        assert!(help(21).ends_with("Exit codes: 0 done\n"));
        assert_eq!((help(22).lines().count(), help(22).contains("0 done")), (24, false));
    }

    #[test]
    fn the_option_for_help_goes_last() {
        let help = |count: u32| {
            let options: String = (0..count).map(|number| format!("\n  --option-{number}")).collect();
            fit(&format!("Usage: x\n\nOptions:{options}\n  --help, help      display usage information\n"), None)
        };
        assert!(help(21).contains("--help"));
        assert_eq!((help(22).lines().count(), help(22).contains("--help")), (24, false));
    }

    #[test]
    fn many_commands_are_named_only() {
        let commands: String = (0..30).map(|number| format!("\n  command-{number}   Does this.")).collect();
        let fitted = fit(&format!("Usage: x\n\nCommands:{commands}\n"), None);
        assert!(
            fitted.starts_with("Usage: x\nCommands, each with a --help of its own:\n  command-0 command-1 "),
            "{fitted}"
        );
        assert!(fitted.ends_with(" command-29\n") && !fitted.contains("Does this"), "{fitted}");
    }
}
