//! What the command lines of `stablechat` and `stablechatd` have in common.
//!
//! Both are declared with `argh`, which reads options of the program only before the subcommand, knows no `--option=value`, and
//! leaves its help as long and as wide as it comes. [`parse`] stands between: it puts the words in the order that `argh` reads
//! ([`order`]) and makes the help fit a screen ([`help`]). [`completion`] tells the shells the same. [`size`] writes sizes.
//!
//! Left out: what the words mean. Nothing here knows an option or a subcommand of either program; all of it comes from
//! `argh`'s description of the command line.

#![deny(missing_docs)]

pub mod completion;
pub mod help;
pub mod order;
pub mod size;

use argh::{ArgsInfo, FromArgs};
use order::Ordered;
use std::ffi::OsString;

/// Why a command line gives nothing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Early {
    /// Help was asked for: a text for standard output, which ends with a line's end.
    Help(String),
    /// The command line is wrong: what is wrong with it, and how to get help.
    Usage(String),
}

/// Reads the words of a command line, without the program's name, which is given apart.
///
/// # Errors
/// Help was asked for, or the command line is wrong.
pub fn parse<T: FromArgs + ArgsInfo>(program: &str, words: impl IntoIterator<Item = OsString>) -> Result<T, Early> {
    let info = T::get_args_info();
    let wrong = |fault: &str, command: Option<&str>| {
        let command = command.map(|command| format!(" {command}")).unwrap_or_default();
        Early::Usage(format!("{}\nRun `{program}{command} --help` for help.", fault.trim_end()))
    };

    let words: Result<Vec<String>, OsString> = words.into_iter().map(OsString::into_string).collect();
    let words = words.map_err(|word| wrong(&format!("the argument {word:?} is not UTF-8"), None))?;
    let Ordered { words, command } =
        order::arrange(&info, words).map_err(|error| wrong(&error.fault, error.command))?;

    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    T::from_args(&[program], &words).map_err(|early| match early.status {
        Ok(()) => {
            let common = command.and_then(|_| help::common_options(&info));
            Early::Help(help::fit(&early.output, common.as_deref()))
        }
        Err(()) => wrong(&early.output, command),
    })
}
