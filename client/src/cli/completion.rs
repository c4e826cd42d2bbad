//! What the Tab key completes at the prompt: verbs, and the names of accounts and rooms that have been seen.

use crate::cli::print::Item;
use crate::cli::verb::HELP;
use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};
use stablechat_protocol::conversation::{Conversation, Message};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// The most names that are remembered. Those that come when there are as many are not completed.
const NAMES_MAX: usize = 10_000;

/// The names that have been seen. The prompt's thread completes them, and the poll loop's learns them.
#[derive(Clone, Default)]
pub struct Names(Arc<Mutex<BTreeSet<String>>>);

impl Names {
    /// Learns the names in something that is shown.
    pub fn learn_from(&self, item: &Item) {
        match item {
            Item::Account { name } | Item::Created { name } => self.learn(name.as_str()),
            Item::Message { message, .. } | Item::Exchanged(message) => self.learn_parties(message),
            Item::Conversation(entry) => self.learn_place(&entry.conversation),
            Item::Invited(invitation) => self.learn(invitation.room.as_str()),
            Item::Room(room) => self.learn(room.name.as_str()),
            Item::Member(member) => self.learn(member.name.as_str()),
            Item::RoomChanged { room, .. } => self.learn(room.as_str()),
            Item::RoomNews(news) => {
                self.learn(news.room.as_str());
                self.learn(news.by.as_str());
            }
            _ => {}
        }
    }

    fn learn_parties(&self, message: &Message) {
        self.learn(message.from.as_str());
        self.learn_place(&message.to);
    }

    fn learn_place(&self, conversation: &Conversation) {
        if !matches!(conversation, Conversation::Former { .. }) {
            self.learn(&conversation.to_string());
        }
    }

    /// Learns a name.
    pub fn learn(&self, name: &str) {
        let mut names = self.0.lock().expect("no thread panics with it");
        if names.len() < NAMES_MAX && !names.contains(name) {
            names.insert(name.to_string());
        }
    }

    /// The names that begin so.
    fn beginning_with(&self, start: &str) -> Vec<String> {
        let names = self.0.lock().expect("no thread panics with it");
        names.range(start.to_string()..).take_while(|name| name.starts_with(start)).cloned().collect()
    }
}

/// Completes lines of the prompt.
pub struct LineCompleter {
    names: Names,
}

impl LineCompleter {
    pub fn new(names: Names) -> LineCompleter {
        LineCompleter { names }
    }

    /// The beginning of the word that ends here, and its possible completions. The first word is a verb, perhaps with a `/` before it; in a
    /// message it is a name, too.
    fn complete_word(&self, line: &str) -> (usize, Vec<String>) {
        let start = line.rfind([' ', '\t']).map_or(0, |blank| blank + 1);
        let word = &line[start..];
        let is_first = line[..start].trim().is_empty();
        let mut found = Vec::new();
        if is_first {
            let (slash, verb) = word.strip_prefix('/').map_or(("", word), |verb| ("/", verb));
            found.extend(
                verbs().into_iter().filter(|known| known.starts_with(verb)).map(|known| format!("{slash}{known}")),
            );
        }
        if !word.is_empty() || !is_first {
            found.extend(self.names.beginning_with(word));
        }
        found.iter_mut().for_each(|completed| completed.push(' '));
        (start, found)
    }
}

/// The first word of each line of the help.
fn verbs() -> BTreeSet<&'static str> {
    HELP.lines().filter_map(|line| line.split_whitespace().next()).collect()
}

impl Completer for LineCompleter {
    type Candidate = String;
    fn complete(&self, line: &str, end: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.complete_word(&line[..end]))
    }
}

impl Hinter for LineCompleter {
    type Hint = String;
}

impl Highlighter for LineCompleter {}
impl Validator for LineCompleter {}
impl Helper for LineCompleter {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_names_and_rooms_are_completed() {
        let names = Names::default();
        ["alice", "albert", "bob", "#ops"].into_iter().for_each(|name| names.learn(name));
        let completer = LineCompleter::new(names);
        let complete = |line: &str| completer.complete_word(line);
        assert_eq!(complete("hi"), (0, vec!["history ".into()]));
        assert_eq!(complete("/hi"), (0, vec!["/history ".into()]));
        assert_eq!(complete("send al"), (5, vec!["albert ".into(), "alice ".into()]));
        assert_eq!(complete("join #"), (5, vec!["#ops ".into()]));
        assert_eq!(complete("al"), (0, vec!["albert ".into(), "alice ".into()]), "as in a message");
        assert_eq!(complete("what says bo"), (10, vec!["bob ".into()]));
        assert_eq!(complete("unm"), (0, vec!["unmute ".into()]));
        assert!(complete("").1.contains(&"quit ".to_string()));
        assert_eq!(complete("zzz"), (0, vec![]));
    }
}
