//! Manual pages, made from the command lines' own descriptions, so that the two cannot differ.

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality, PositionalInfo};
use roff::{Inline, Roff, bold, italic, roman};

/// A heading, and the terms under it, each with its explanation.
pub type Section = (&'static str, &'static [(&'static str, &'static str)]);

/// The manual of a program.
pub struct Manual {
    /// The program's name.
    pub name: &'static str,
    /// The number of the manual's section, such as 1 for commands.
    pub section: u8,
    /// One line for `apropos`.
    pub summary: &'static str,
    /// Its command line.
    pub command: CommandInfoWithArgs,
    /// Further sections, which the command line's description lacks.
    pub sections: &'static [Section],
}

impl Manual {
    /// The page, for `man`.
    pub fn page(&self) -> String {
        let Manual { name, command, .. } = self;
        let mut page = Roff::new();
        let title = [name.to_uppercase(), self.section.to_string(), String::new(), "stablechat".into()];
        page.control("TH", title.iter().map(String::as_str));
        // Left-aligned and without hyphenation, so that options can be searched for and examples copied.
        page.control("ad", ["l"]);
        page.control("nh", []);
        heading(&mut page, "NAME");
        page.text([roman(format!("{name} - {}", self.summary))]);
        heading(&mut page, "SYNOPSIS");
        synopsis(&mut page, name, command);
        heading(&mut page, "DESCRIPTION");
        page.text([roman(command.description)]);
        if visible(command.flags).next().is_some() {
            heading(&mut page, "OPTIONS");
            options(&mut page, command);
        }
        heading(&mut page, "COMMANDS");
        for subcommand in &command.commands {
            page.control("SS", [subcommand.name]);
            page.text([roman(subcommand.command.description)]);
            page.control("PP", []);
            synopsis(&mut page, &format!("{name} {}", subcommand.name), &subcommand.command);
            options(&mut page, &subcommand.command);
            rest(&mut page, &format!("{name} {}", subcommand.name), &subcommand.command);
        }
        heading(&mut page, "EXAMPLES AND EXIT STATUS");
        rest(&mut page, name, command);
        for (title, terms) in self.sections {
            heading(&mut page, title);
            terms.iter().for_each(|(term, text)| entry(&mut page, [bold(*term)], text));
        }
        page.to_roff()
    }
}

/// Begins a section.
fn heading(page: &mut Roff, title: &str) {
    page.control("SH", [title]);
}

/// A term, and what it means.
fn entry(page: &mut Roff, term: impl Into<Vec<Inline>>, text: &str) {
    page.control("TP", []);
    page.text(term);
    page.text([roman(text)]);
}

/// The synopsis of a command.
fn synopsis(page: &mut Roff, name: &str, command: &CommandInfoWithArgs) {
    let mut line = vec![bold(name)];
    for flag in visible(command.flags) {
        let (open, close) = brackets(&flag.optionality);
        line.extend([roman(format!(" {open}")), bold(flag.long)]);
        line.extend(value(flag).map(|value| italic(format!(" {value}"))));
        line.push(roman(close));
    }
    for positional in command.positionals {
        let (open, close) = brackets(&positional.optionality);
        line.extend([roman(format!(" {open}")), italic(positional.name), roman(close)]);
    }
    if !command.commands.is_empty() {
        line.extend([roman(" "), italic("command"), roman(" ...")]);
    }
    page.text(line);
}

/// The brackets that mark an argument as optional or repeatable.
fn brackets(optionality: &Optionality) -> (&'static str, &'static str) {
    match optionality {
        Optionality::Required => ("", ""),
        Optionality::Optional => ("[", "]"),
        Optionality::Repeating | Optionality::Greedy => ("[", " ...]"),
    }
}

/// The name of an option's value; none for a switch.
fn value<'a>(flag: &FlagInfo<'a>) -> Option<&'a str> {
    match flag.kind {
        FlagInfoKind::Switch => None,
        FlagInfoKind::Option { arg_name } => Some(arg_name),
    }
}

/// The options that help shows, but for help itself, which every command has.
fn visible<'a>(flags: &'a [FlagInfo<'a>]) -> impl Iterator<Item = &'a FlagInfo<'a>> {
    flags.iter().filter(|flag| !flag.hidden && flag.long != "--help")
}

/// The options and arguments of a command, each with its description.
fn options(page: &mut Roff, command: &CommandInfoWithArgs) {
    for PositionalInfo { name, description, .. } in command.positionals {
        entry(page, [italic(*name)], description);
    }
    for flag in visible(command.flags) {
        let mut term = vec![bold(flag.long)];
        term.extend(value(flag).map(|value| italic(format!(" {value}"))));
        entry(page, term, flag.description);
    }
}

/// The notes, examples and exit codes of a command.
fn rest(page: &mut Roff, name: &str, command: &CommandInfoWithArgs) {
    for note in command.notes {
        page.control("PP", []);
        page.text([roman(*note)]);
    }
    for example in command.examples {
        page.control("PP", []);
        page.text([roman("Example:")]);
        page.control("RS", ["4"]);
        page.control("nf", []);
        page.text([roman(example.replace("{command_name}", name))]);
        page.control("fi", []);
        page.control("RE", []);
    }
    if !command.error_codes.is_empty() {
        page.control("PP", []);
        page.text([roman("Exit status:")]);
        for code in command.error_codes {
            entry(page, [bold(code.code.to_string())], code.description);
        }
    }
}
