//! Options that may also be given by environment variables, so that one systemd unit file serves every replica.

use super::Failure;
use std::fmt::Display;
use std::str::FromStr;

/// The value from the command line, or else from an environment variable. An empty variable counts as unset.
///
/// # Errors
/// The variable is not UTF-8, or not a `T`.
pub fn optional<T: FromStr<Err: Display>>(given: Option<T>, variable: &str) -> Result<Option<T>, Failure> {
    let from_environment = || std::env::var_os(variable).filter(|value| !value.is_empty());
    let Some(value) = given.is_none().then(from_environment).flatten() else { return Ok(given) };
    let text = value.into_string().map_err(|value| Failure::usage(format!("{variable}: {value:?} is not UTF-8")))?;
    text.parse().map(Some).map_err(|error| Failure::usage(format!("{variable}: {error}")))
}

/// Like [`optional`], for an option that must be given.
///
/// # Errors
/// Neither the option nor the variable is given, or the variable is not a `T`.
pub fn required<T: FromStr<Err: Display>>(given: Option<T>, option: &str, variable: &str) -> Result<T, Failure> {
    let missing = || Failure::usage(format!("{option} is missing: give it, or set {variable}"));
    optional(given, variable)?.ok_or_else(missing)
}
