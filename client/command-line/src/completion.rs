//! What shells complete.

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality};

/// The description of a program in which each subcommand has the program's options too, since [`crate::order`] takes them there.
///
/// The new lists are leaked, for descriptions only borrow them. Call this once, to write the completions.
pub fn with_common_options(mut program: CommandInfoWithArgs) -> CommandInfoWithArgs {
    for command in &mut program.commands {
        let is_new = |flag: &&FlagInfo| !command.command.flags.iter().any(|own| own.long == flag.long);
        let common = program.flags.iter().filter(is_new);
        let flags: Vec<FlagInfo> = command.command.flags.iter().chain(common).map(copy).collect();
        command.command.flags = flags.leak();
    }
    program
}

/// A copy of an option, which argh's type cannot make of itself.
fn copy(flag: &FlagInfo<'static>) -> FlagInfo<'static> {
    FlagInfo {
        kind: match flag.kind {
            FlagInfoKind::Switch => FlagInfoKind::Switch,
            FlagInfoKind::Option { arg_name } => FlagInfoKind::Option { arg_name },
        },
        optionality: match flag.optionality {
            Optionality::Required => Optionality::Required,
            Optionality::Optional => Optionality::Optional,
            Optionality::Repeating => Optionality::Repeating,
            Optionality::Greedy => Optionality::Greedy,
        },
        long: flag.long,
        short: flag.short,
        description: flag.description,
        hidden: flag.hidden,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use argh::SubCommandInfo;

    #[test]
    fn subcommands_have_the_options_of_the_program_once() {
        const HELP: FlagInfo = FlagInfo {
            kind: FlagInfoKind::Switch,
            optionality: Optionality::Optional,
            long: "--help",
            short: None,
            description: "",
            hidden: false,
        };
        const JSON: FlagInfo = FlagInfo { long: "--json", ..HELP };
        let command = CommandInfoWithArgs { flags: &[HELP], ..CommandInfoWithArgs::default() };
        let commands = vec![SubCommandInfo { name: "show", command }];
        let program = CommandInfoWithArgs { flags: &[HELP, JSON], commands, ..CommandInfoWithArgs::default() };
        let completed = with_common_options(program);
        let names: Vec<&str> = completed.commands[0].command.flags.iter().map(|flag| flag.long).collect();
        assert_eq!(names, ["--help", "--json"]);
    }
}
