//! How messages are written for people.
//!
//! In a file or a pipe, each line has its whole time. At a terminal, a line tells when the day changes, lines have the time of the day,
//! and names and times may have colours.

use crate::cli::visible::visible;
use stablechat_protocol::conversation::{Conversation, Message};
use stablechat_protocol::name::AccountName;
use stablechat_protocol::time::{Timestamp, utc};

/// The colours of names, by their SGR codes: those that can be read on dark and on light ground.
const COLOURS: [u8; 6] = [31, 32, 33, 34, 35, 36];
/// The colour of times: faint.
const FAINT: u8 = 2;

/// How messages are written.
#[derive(Clone, Debug)]
pub struct MessageStyle {
    is_colourful: bool,
    /// The day of the last line, of which the date was shown; none where each line has its date.
    day: Option<String>,
}

impl MessageStyle {
    /// Each line with its date, and without colours.
    pub fn plain() -> MessageStyle {
        MessageStyle { is_colourful: false, day: None }
    }

    /// At a terminal, on this day.
    pub fn at_terminal(is_colourful: bool, now: Timestamp) -> MessageStyle {
        MessageStyle { is_colourful, day: Some(day_of(now)) }
    }

    /// The same with colours, or without.
    pub fn coloured(self, is_colourful: bool) -> MessageStyle {
        MessageStyle { is_colourful, ..self }
    }

    /// A message of a conversation of `reader`. Between two accounts, one reads only who speaks, unless it is oneself.
    pub fn line(&mut self, message: &Message, reader: Option<&AccountName>) -> String {
        let Message { from, to, .. } = message;
        match to {
            Conversation::Room { name } => {
                let parties = format!("{} {}", self.bold(name.as_str()), self.name(from));
                self.with_time(message, &parties)
            }
            _ if reader == Some(from) && *to != Conversation::with(from) => self.exchanged(message),
            _ => {
                let parties = self.name(from);
                self.with_time(message, &parties)
            }
        }
    }

    /// A message with its sender and where it was sent to.
    pub fn exchanged(&mut self, message: &Message) -> String {
        let to = match &message.to {
            Conversation::Account { name } => self.name(name),
            other => self.bold(&other.to_string()),
        };
        let parties = format!("{} -> {to}", self.name(&message.from));
        self.with_time(message, &parties)
    }

    fn with_time(&mut self, message: &Message, parties: &str) -> String {
        let (moment, text) = (utc(message.uid.timestamp), visible(message.text.as_str()));
        let (date, time) = moment.split_once(' ').unwrap_or((&moment, ""));
        let Some(day) = &mut self.day else { return format!("[{moment}] {parties}: {text}") };
        let change = match day == date {
            true => String::new(),
            false => {
                *day = date.to_string();
                self.paint(FAINT, &format!("--- {date} (UTC) ---")) + "\n"
            }
        };
        format!("{change}{} {parties}: {text}", self.paint(FAINT, time))
    }

    /// A name in its colour, which it always has.
    fn name(&self, name: &AccountName) -> String {
        let sum = name.as_str().bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        self.paint(COLOURS[sum % COLOURS.len()], name.as_str())
    }

    fn bold(&self, text: &str) -> String {
        self.paint(1, text)
    }

    fn paint(&self, code: u8, text: &str) -> String {
        match self.is_colourful {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_string(),
        }
    }
}

/// The date of a moment.
fn day_of(moment: Timestamp) -> String {
    utc(moment).split(' ').next().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use stablechat_protocol::text::MessageText;
    use stablechat_protocol::uid::Uid;

    /// 2026-11-22 08:30:05.
    const MORNING: u64 = 1_795_336_205_000_000_000;
    const DAY: u64 = 86_400_000_000_000;

    fn name(text: &str) -> AccountName {
        AccountName::parse(text).expect("a name")
    }

    fn message(time: u64, to: &str) -> Message {
        let text = MessageText::parse("hi\u{7}").expect("a text");
        let to = to.parse().expect("a name");
        Message { uid: Uid::new(Timestamp(time), b""), position: 1, from: name("alice"), to, text }
    }

    #[test]
    fn lines_of_a_file_have_their_dates() {
        let mut style = MessageStyle::plain();
        let bob = name("bob");
        assert_eq!(style.line(&message(MORNING, "bob"), Some(&bob)), "[2026-11-22 08:30:05] alice: hi\u{2407}");
        assert_eq!(style.line(&message(MORNING, "#ops"), Some(&bob)), "[2026-11-22 08:30:05] #ops alice: hi\u{2407}");
        let own = style.line(&message(MORNING, "bob"), Some(&name("alice")));
        assert_eq!(own, "[2026-11-22 08:30:05] alice -> bob: hi\u{2407}");
        assert_eq!(style.exchanged(&message(MORNING, "bob")), own);
        let note = style.line(&message(MORNING, "alice"), Some(&name("alice")));
        assert_eq!(note, "[2026-11-22 08:30:05] alice: hi\u{2407}");
    }

    #[test]
    fn at_a_terminal_a_line_tells_when_the_day_changes() {
        let mut style = MessageStyle::at_terminal(false, Timestamp(MORNING + DAY));
        let mut line = |time| style.line(&message(time, "bob"), None);
        assert_eq!(line(MORNING + DAY), "08:30:05 alice: hi\u{2407}");
        assert_eq!(line(MORNING), "--- 2026-11-22 (UTC) ---\n08:30:05 alice: hi\u{2407}");
        assert_eq!(line(MORNING + 1_000_000_000), "08:30:06 alice: hi\u{2407}");
        assert_eq!(line(MORNING + DAY), "--- 2026-11-23 (UTC) ---\n08:30:05 alice: hi\u{2407}");
    }

    #[test]
    fn a_name_has_one_colour_and_no_text_can_change_it() {
        let mut style = MessageStyle::plain().coloured(true);
        let line = style.line(&message(MORNING, "#ops"), None);
        assert_eq!(line.matches('\u{1b}').count(), 4, "{line:?}");
        assert!(line.contains("\u{1b}[1m#ops\u{1b}[0m") && line.ends_with("alice\u{1b}[0m: hi\u{2407}"), "{line:?}");
        assert_eq!(style.line(&message(MORNING, "#ops"), None), line);
    }
}
