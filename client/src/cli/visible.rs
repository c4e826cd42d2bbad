//! Text of others, made harmless for a terminal.

use std::fmt::Write;

/// Text of others with everything made visible that would move the cursor, colour the screen, or turn the direction of
/// writing: control characters are shown as their pictures or codes.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\0'..='\u{1f}' => shown.push(char::from_u32(0x2400 + u32::from(character)).expect("a control picture")),
            '\u{7f}' => shown.push('\u{2421}'),
            '\u{80}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}' => write!(shown, "\\u{{{:x}}}", u32::from(character)).expect("strings take everything"),
            _ => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(visible("a\x1b[2Jb\nc\td\0\x7f"), "a\u{241b}[2Jb\u{240a}c\u{2409}d\u{2400}\u{2421}");
        assert_eq!(visible("\u{9b}31m \u{202e}evil\u{2066}"), "\\u{9b}31m \\u{202e}evil\\u{2066}");
        assert_eq!(visible("gr\u{fc}\u{df}e \u{1f600}, \"x\" \\"), "gr\u{fc}\u{df}e \u{1f600}, \"x\" \\");
    }
}
