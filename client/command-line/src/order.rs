//! The order of the words of a command line.
//!
//! `argh` takes an option of the program before the subcommand only, an option of the subcommand before its text only, and the
//! word `help` in the middle of a text for a request for help. People type options where they think of them. So words are put
//! in this order before `argh` sees them: the program's options, the subcommand, its options, `--`, and everything else.
//!
//! The rules, which hold for both programs:
//!
//! - Options are recognized anywhere, also behind a text, until a word `--`. What follows that is never an option.
//! - `--option=value` is the same as `--option value`.
//! - A word that looks like an option and is none is an error, unless a text has begun: there it is text.
//!
//! Subcommands have no subcommands.

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality};

/// The words of a command line, in the order that `argh` reads.
#[derive(Debug, PartialEq, Eq)]
pub struct Ordered {
    /// The words.
    pub words: Vec<String>,
    /// The subcommand among them.
    pub command: Option<&'static str>,
}

/// Why words cannot be put in order.
#[derive(Debug, PartialEq, Eq)]
pub struct OrderError {
    /// What is wrong.
    pub fault: String,
    /// The subcommand whose help tells more; none if it is the program's help.
    pub command: Option<&'static str>,
}

/// Puts the words of a command line in order.
///
/// # Errors
/// A word is no option or subcommand, or an option lacks its value or has one too many.
pub fn arrange(program: &CommandInfoWithArgs, words: impl IntoIterator<Item = String>) -> Result<Ordered, OrderError> {
    let mut sorter =
        Sorter { program, command: None, common: vec![], own: vec![], operands: vec![], wants_help: false };
    sorter.take(words.into_iter()).map_err(|fault| OrderError { fault, command: sorter.command_name() })?;
    Ok(sorter.finish())
}

struct Sorter<'a> {
    program: &'a CommandInfoWithArgs,
    command: Option<&'a CommandInfoWithArgs>,
    /// Options of the program, with their values.
    common: Vec<String>,
    /// Options of the subcommand, with their values.
    own: Vec<String>,
    /// Arguments of the subcommand that are not options.
    operands: Vec<String>,
    wants_help: bool,
}

impl Sorter<'_> {
    fn take(&mut self, mut words: impl Iterator<Item = String>) -> Result<(), String> {
        while let Some(word) = words.next() {
            if word == "--" {
                words.by_ref().try_for_each(|word| self.on_operand(word))?;
            } else if self.is_help(&word) {
                self.wants_help = true;
                // The subcommand may follow, and nothing else matters.
                let named = words.find_map(|word| find_command(self.program, &word));
                self.command = self.command.or(named);
                break;
            } else if !self.on_option(&word, &mut words)? {
                self.on_operand(word)?;
            }
        }
        Ok(())
    }

    /// Whether a word asks for help: `--help` anywhere, and `help` where it cannot be a word of a text.
    fn is_help(&self, word: &str) -> bool {
        word == "--help" || (word == "help" && self.operands.is_empty())
    }

    /// Takes a word if it is an option, and its value if that is the next word. Returns whether it was one.
    fn on_option(&mut self, word: &str, following: &mut impl Iterator<Item = String>) -> Result<bool, String> {
        let (name, given) = match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_string())),
            _ => (word, None),
        };
        let own = self.command.and_then(|command| find_flag(command, name));
        let Some(flag) = own.or_else(|| find_flag(self.program, name)) else {
            return if looks_like_option(word) && !self.has_text() {
                Err(self.no_such_option(word))
            } else {
                Ok(false)
            };
        };

        let value = match (&flag.kind, given) {
            (FlagInfoKind::Switch, None) => None,
            (FlagInfoKind::Switch, Some(_)) => return Err(format!("the option {name} takes no value")),
            (FlagInfoKind::Option { .. }, Some(value)) => Some(value),
            (FlagInfoKind::Option { arg_name }, None) => match following.next() {
                Some(value) => Some(value),
                None => return Err(format!("the option {name} lacks its value: {name} <{arg_name}>")),
            },
        };
        let options = if own.is_some() { &mut self.own } else { &mut self.common };
        options.extend([name.to_string()].into_iter().chain(value));
        Ok(true)
    }

    /// Takes a word that is not an option: the subcommand, or an argument of it.
    fn on_operand(&mut self, word: String) -> Result<(), String> {
        if self.command.is_some() {
            self.operands.push(word);
            return Ok(());
        }
        self.command = find_command(self.program, &word);
        match self.command {
            Some(_) => Ok(()),
            None => {
                let names: Vec<&str> = self.program.commands.iter().map(|command| command.name).collect();
                Err(format!("there is no command {word:?}; there are {}", names.join(", ")))
            }
        }
    }

    /// Whether the words have come to a text of any number of words.
    fn has_text(&self) -> bool {
        let positionals = self.command.map(|command| command.positionals).unwrap_or_default();
        let is_text = positionals.last().is_some_and(|last| last.optionality == Optionality::Greedy);
        is_text && self.operands.len() >= positionals.len()
    }

    fn no_such_option(&self, word: &str) -> String {
        match self.command {
            None => format!("there is no option {word}"),
            Some(command) if command.positionals.is_empty() => format!("{} has no option {word}", command.name),
            Some(command) => format!("{} has no option {word}; if it is none, put -- before it", command.name),
        }
    }

    fn command_name(&self) -> Option<&'static str> {
        self.command.map(|command| command.name)
    }

    fn finish(self) -> Ordered {
        let command = self.command_name();
        if self.wants_help {
            let words = command.into_iter().chain(["--help"]).map(String::from).collect();
            return Ordered { words, command };
        }
        let mut words = self.common;
        words.extend(command.map(String::from));
        words.extend(self.own);
        if !self.operands.is_empty() {
            // Whatever they look like, they are neither options nor a request for help.
            words.push("--".into());
        }
        words.extend(self.operands);
        Ordered { words, command }
    }
}

fn find_command<'a>(program: &'a CommandInfoWithArgs, name: &str) -> Option<&'a CommandInfoWithArgs> {
    program.commands.iter().find(|command| command.name == name).map(|command| &command.command)
}

fn find_flag<'a>(command: &'a CommandInfoWithArgs, name: &str) -> Option<&'a FlagInfo<'static>> {
    command.flags.iter().find(|flag| flag.long == name)
}

/// Whether a word is written like an option. Numbers below zero and texts with blanks are not, nor is a dash alone.
fn looks_like_option(word: &str) -> bool {
    let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).unwrap_or_default();
    name.starts_with(|first: char| first.is_ascii_alphabetic()) && !name.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use argh::{ArgsInfo, FromArgs};

    /// A program.
    #[derive(FromArgs, ArgsInfo)]
    struct Program {
        /// a value
        #[argh(option, long = "as", arg_name = "name")]
        _account: Option<String>,
        /// a switch
        #[argh(switch, long = "json")]
        _json: bool,
        #[argh(subcommand)]
        _command: Option<Command>,
    }

    #[derive(FromArgs, ArgsInfo)]
    #[argh(subcommand)]
    enum Command {
        Send(Send),
        Show(Show),
    }

    /// Has a text.
    #[derive(FromArgs, ArgsInfo)]
    #[argh(subcommand, name = "send")]
    struct Send {
        /// a value
        #[argh(option, long = "id", arg_name = "key")]
        _id: Option<String>,
        /// to whom
        #[argh(positional)]
        _name: String,
        /// what
        #[argh(positional, greedy)]
        _text: Vec<String>,
    }

    /// Has none.
    #[derive(FromArgs, ArgsInfo)]
    #[argh(subcommand, name = "show")]
    struct Show {
        /// a switch
        #[argh(switch, long = "once")]
        _once: bool,
        /// how many
        #[argh(positional)]
        _count: Option<i32>,
    }

    /// What a line of words becomes.
    fn ordered(line: &str) -> Result<String, String> {
        let info = Program::get_args_info();
        let words = line.split_whitespace().map(String::from);
        arrange(&info, words).map(|ordered| ordered.words.join(" ")).map_err(|error| error.fault)
    }

    #[track_caller]
    fn becomes(lines: &[&str], expected: &str) {
        for line in lines {
            assert_eq!(ordered(line).as_deref(), Ok(expected), "{line}");
        }
    }

    #[test]
    fn options_of_the_program_are_taken_on_both_sides_of_the_command() {
        becomes(&["--json show", "show --json"], "--json show");
        becomes(&["--as a --json show", "--as a show --json"], "--as a --json show");
        becomes(&["show --as a --json", "show --as=a --json", "--as=a show --json"], "--as a --json show");
        becomes(&["show 5 --as a --once", "show --once --as a 5", "--as a show 5 --once"], "--as a show --once -- 5");
        becomes(&["--as a --json", "--as=a --json"], "--as a --json");
        becomes(&[""], "");
    }

    #[test]
    fn options_are_taken_before_within_and_after_a_text() {
        let expected = "--as a --json send --id k -- bob hi you";
        becomes(&["--as a --json send --id k bob hi you", "send --as a bob hi you --json --id k"], expected);
        becomes(&["send bob --as a hi --json you --id=k", "send bob hi --as=a --json --id k you"], expected);
    }

    #[test]
    fn a_value_is_taken_whatever_it_looks_like() {
        becomes(&["show --as --json", "show --as=--json"], "--as --json show");
        becomes(&["send --id send bob", "send bob --id=send"], "send --id send -- bob");
        becomes(&["show --as -- --once"], "--as -- show --once");
        becomes(&["show --as="], "--as  show");
        becomes(&["show --as=a=b"], "--as a=b show");
    }

    #[test]
    fn words_after_two_dashes_are_no_options() {
        becomes(&["send bob -- --json --as x"], "send -- bob --json --as x");
        becomes(&["send -- bob --help", "-- send bob --help"], "send -- bob --help");
        becomes(&["send bob -- a -- b"], "send -- bob a -- b");
        becomes(&["--json -- show 5"], "--json show -- 5");
    }

    #[test]
    fn text_may_begin_with_a_dash() {
        becomes(&["send bob hi -x --dance"], "send -- bob hi -x --dance");
        becomes(&["send bob -1 degrees"], "send -- bob -1 degrees");
        becomes(&["send bob - item", "send bob -- - item"], "send -- bob - item");
        becomes(&["show -1"], "show -- -1");
        let info = Program::get_args_info();
        let words = ["send", "bob", "-x is an option", "--json"].map(String::from);
        let expected = ["--json", "send", "--", "bob", "-x is an option"].map(String::from);
        assert_eq!(arrange(&info, words).map(|ordered| ordered.words), Ok(expected.into()));
    }

    #[test]
    fn help_is_shown_wherever_it_is_asked_for_but_not_by_a_text() {
        becomes(&["--help", "help", "--json --help"], "--help");
        becomes(
            &["send --help", "send help", "help send", "--help send", "send bob --help", "--as a send --help"],
            "send --help",
        );
        becomes(&["send bob help"], "send -- bob help");
        becomes(&["send bob hi help me"], "send -- bob hi help me");
        becomes(&["send -- help hi"], "send -- help hi");
    }

    #[test]
    fn an_invalid_order_says_why() {
        for (line, expected) in [
            ("--dance", "there is no option --dance"),
            ("dance", "there is no command \"dance\"; there are send, show"),
            ("--json dance --json", "there is no command \"dance\""),
            ("-- --json", "there is no command \"--json\""),
            ("--once show", "there is no option --once"),
            ("show --id k", "show has no option --id"),
            ("send bob -x", "send has no option -x; if it is none, put -- before it"),
            ("send --jsno bob hi", "send has no option --jsno"),
            ("send bob --jsno=1", "send has no option --jsno=1"),
            ("show --json=yes", "the option --json takes no value"),
            ("show --as", "the option --as lacks its value: --as <name>"),
            ("send bob hi --id", "the option --id lacks its value: --id <key>"),
        ] {
            let fault = ordered(line).expect_err(line);
            assert!(fault.contains(expected), "{line}: {fault:?} lacks {expected:?}");
        }
    }

    #[test]
    fn argh_reads_what_was_put_in_order() {
        let parse = |line: &str| {
            let words = line.split_whitespace().map(std::ffi::OsString::from);
            crate::parse::<Program>("program", words)
        };
        let Ok(program) = parse("send --as a bob -- --json help --json") else { panic!("it is right") };
        let Some(Command::Send(send)) = program._command else { panic!("it is a send") };
        assert_eq!((program._account.as_deref(), program._json), (Some("a"), false));
        assert_eq!(
            (send._name.as_str(), send._id, send._text),
            ("bob", None, vec!["--json".into(), "help".into(), "--json".into()])
        );

        let Ok(program) = parse("show -1 --once") else { panic!("it is right") };
        let Some(Command::Show(show)) = program._command else { panic!("it is a show") };
        assert_eq!((show._once, show._count), (true, Some(-1)));

        let Err(crate::Early::Help(text)) = parse("show --json --help") else { panic!("it is help") };
        assert!(text.contains("\nCommon options:\n  --as <name>  --json\n"), "{text}");
        let Err(crate::Early::Help(text)) = parse("--help") else { panic!("it is help") };
        assert!(!text.contains("Common options"), "{text}");
        let Err(crate::Early::Usage(text)) = parse("show --dance") else { panic!("it is wrong") };
        assert_eq!(
            text,
            "show has no option --dance; if it is none, put -- before it\nRun `program show --help` for help."
        );
        let Err(crate::Early::Usage(text)) = parse("show five") else { panic!("it is wrong") };
        assert!(text.ends_with("\nRun `program show --help` for help."), "{text}");
    }
}
