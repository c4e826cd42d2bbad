//! Text of others, made harmless for a terminal: in lines for people, and in JSON, which people look at as well.

use serde_json::Value;
use std::fmt::Write;

/// Text of others with everything made visible that would move the cursor, colour the screen, or turn the direction of
/// writing: control characters are shown as their pictures or codes.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\0'..='\u{1f}' => shown.push(char::from_u32(0x2400 + u32::from(character)).expect("a control picture")),
            '\u{7f}' => shown.push('\u{2421}'),
            _ if is_deceptive(character) => {
                write!(shown, "\\u{{{:x}}}", u32::from(character)).expect("strings take everything");
            }
            _ => shown.push(character),
        }
    }
    shown
}

/// An object as one line of JSON, with its end. Outside of its strings JSON is ASCII, so every character that is escaped here is
/// in a string, where an escape means the same.
pub fn json_line(object: &Value) -> String {
    let json = object.to_string();
    let mut line = String::with_capacity(json.len() + 1);
    for character in json.chars() {
        match is_deceptive(character) {
            true => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(line, "\\u{unit:04x}").expect("strings take everything");
                }
            }
            false => line.push(character),
        }
    }
    line.push('\n');
    line
}

/// Whether a character beyond those that JSON escapes moves the cursor or colours the screen (DEL and C1, of which U+009B begins
/// a sequence as Escape does), breaks the line, or turns the direction of writing or hides in it, so that a text reads as
/// another one.
fn is_deceptive(character: char) -> bool {
    matches!(
        character,
        '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(visible("a\x1b[2Jb\nc\td\0\x7f"), "a\u{241b}[2Jb\u{240a}c\u{2409}d\u{2400}\u{2421}");
        assert_eq!(visible("\u{9b}31m \u{202e}evil\u{2066}"), "\\u{9b}31m \\u{202e}evil\\u{2066}");
        assert_eq!(visible("\u{7f}\u{206f}\u{fffb}"), "\u{2421}\\u{206f}\\u{fffb}");
        assert_eq!(visible("gr\u{fc}\u{df}e \u{1f600}, \"x\" \\"), "gr\u{fc}\u{df}e \u{1f600}, \"x\" \\");
    }

    #[test]
    fn json_escapes_what_a_terminal_would_act_on_and_means_the_same() {
        let text = "\x1b[2J \u{9b}31m \x7f \u{202e}evil\u{2066} \u{2028} gr\u{fc}\u{df}e \u{1f600} \\ \"\n";
        let line = json_line(&serde_json::json!({ "text": text }));
        let expected = r#"{"text":"\u001b[2J \u009b31m \u007f \u202eevil\u2066 \u2028 "#;
        assert!(line.starts_with(expected) && line.contains("gr\u{fc}\u{df}e \u{1f600}"), "{line}");
        assert_eq!(line.matches('\n').count(), 1, "one line");
        assert_eq!(serde_json::from_str::<Value>(&line).expect("JSON")["text"], text);
    }
}
