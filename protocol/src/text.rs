//! The text of a message.

use crate::name::checked_text;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// The most bytes in a message's text.
pub const TEXT_MAX: usize = 4096;

/// Why a text is not the text of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextError {
    /// It has no bytes.
    Empty,
    /// It has this many bytes, which is more than [`TEXT_MAX`].
    TooLong(usize),
}

impl fmt::Display for TextError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TextError::Empty => write!(formatter, "the text is empty; a message has 1 to {TEXT_MAX} bytes"),
            TextError::TooLong(length) => {
                write!(formatter, "the text has {length} bytes; a message has at most {TEXT_MAX}")
            }
        }
    }
}

impl std::error::Error for TextError {}

checked_text! {
    /// The text of a message: UTF-8, 1 to [`TEXT_MAX`] bytes, kept exactly as typed.
    MessageText, check_text, TextError
}

/// The rule for texts.
fn check_text(text: &str) -> Result<(), TextError> {
    match text.len() {
        0 => Err(TextError::Empty),
        1..=TEXT_MAX => Ok(()),
        length => Err(TextError::TooLong(length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_counts_bytes() {
        assert_eq!(MessageText::parse(""), Err(TextError::Empty));
        assert!(MessageText::parse(" ").is_ok());
        assert!(MessageText::parse("x".repeat(4096)).is_ok());
        assert!(MessageText::parse("\u{e9}".repeat(2048)).is_ok());
        assert_eq!(MessageText::parse("\u{e9}".repeat(2049)), Err(TextError::TooLong(4098)));
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_refused() {
        assert!(crate::wire::from_cbor::<MessageText>(&[0x62, 0xc3, 0x28]).is_err());
    }
}
