//! Options that may come from the environment too, so that one unit file of systemd serves every replica.

use super::Failure;
use std::fmt::Display;
use std::str::FromStr;

/// What the command line gives, or else a variable of the environment; an empty one is as good as none.
///
/// # Errors
/// The variable cannot be understood.
pub fn optional<T: FromStr<Err: Display>>(given: Option<T>, variable: &str) -> Result<Option<T>, Failure> {
    let from_environment = || std::env::var_os(variable).filter(|value| !value.is_empty());
    let Some(value) = given.is_none().then(from_environment).flatten() else { return Ok(given) };
    let text = value.into_string().map_err(|value| Failure::usage(format!("{variable}: {value:?} is not UTF-8")))?;
    text.parse().map(Some).map_err(|error| Failure::usage(format!("{variable}: {error}")))
}

/// The same for what cannot be done without.
///
/// # Errors
/// Neither gives it, or the variable cannot be understood.
pub fn required<T: FromStr<Err: Display>>(given: Option<T>, option: &str, variable: &str) -> Result<T, Failure> {
    let missing = || Failure::usage(format!("{option} is missing: give it, or set {variable}"));
    optional(given, variable)?.ok_or_else(missing)
}
