//! Random bytes of the operating system, for keys, codes and ids.

use super::Failure;
use crate::exit;

/// Bytes that nobody can guess.
///
/// # Errors
/// The operating system has none.
pub fn random<const LENGTH: usize>() -> Result<[u8; LENGTH], Failure> {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).map_err(|error| Failure {
        code: exit::CANNOT_CREATE,
        message: format!("the operating system has no random numbers: {error}"),
    })?;
    Ok(bytes)
}
