//! How long the client waits for answers.
//!
//! A script must not wait for ever, so a command that is not answered ends with an exit code. A person at a prompt decides when
//! to give up, until the prompt is to end.

use crate::cli::mode::Mode;
use stablechat_protocol::time::Timestamp;
use std::time::Duration;

/// A script gives up after this time without an answer, plus four delivery bounds. The client notices a dead replica within one
/// bound, and repeats its unanswered requests after two bounds and a second.
const UNANSWERED_MAX: Duration = Duration::from_secs(10);
/// A prompt that ends waits this long for requests in flight, plus two delivery bounds.
const CLOSING_MAX: Duration = Duration::from_secs(1);

pub(super) struct Timeouts {
    mode: Mode,
    delivery_bound: Duration,
    /// The time of the last answer, or the last time at which no answer was awaited.
    progress: Timestamp,
    /// Whether all replicas in reach have refused a command for lack of room since the last answer.
    has_no_room: bool,
    /// Whether all replicas in reach have ever refused a command because too many came.
    is_throttled: bool,
    /// When the input ended, if it did.
    closing_since: Option<Timestamp>,
}

impl Timeouts {
    pub fn new(mode: Mode, delivery_bound: Duration, now: Timestamp) -> Timeouts {
        Timeouts { mode, delivery_bound, progress: now, has_no_room: false, is_throttled: false, closing_since: None }
    }

    /// An answer came, or a request was made while none was in flight.
    pub fn on_progress(&mut self, now: Timestamp) {
        self.progress = now;
        self.has_no_room = false;
    }

    /// All replicas in reach lack room for a command. Returns whether this is the first time since the last answer.
    pub fn on_no_room(&mut self) -> bool {
        !std::mem::replace(&mut self.has_no_room, true)
    }

    /// All replicas in reach want fewer commands. Returns whether that is news.
    pub fn on_throttled(&mut self) -> bool {
        !std::mem::replace(&mut self.is_throttled, true)
    }

    pub fn has_no_room(&self) -> bool {
        self.has_no_room
    }

    /// Updates the times from which the limits count. To be called when time has passed.
    pub fn on_time(&mut self, now: Timestamp, is_waiting: bool, is_closing: bool) {
        if !is_waiting {
            self.progress = now;
        }
        if is_closing {
            self.closing_since.get_or_insert(now);
        }
    }

    /// When to give up on unanswered requests, if ever.
    pub fn give_up_at(&self, is_waiting: bool) -> Option<Timestamp> {
        match (self.mode, self.closing_since) {
            (Mode::Prompt | Mode::Listen, Some(since)) => Some(since.after(CLOSING_MAX + self.delivery_bound * 2)),
            (Mode::Prompt, None) => None,
            _ => is_waiting.then(|| self.unanswered_until(self.progress)),
        }
    }

    /// When to give up on a session that has been stranded since then, where that does not end everything.
    pub fn abandon_at(&self, stranded_since: Option<Timestamp>) -> Option<Timestamp> {
        let goes_on = matches!(self.mode, Mode::Prompt | Mode::Listen);
        stranded_since.filter(|_| goes_on).map(|since| self.unanswered_until(since))
    }

    fn unanswered_until(&self, since: Timestamp) -> Timestamp {
        since.after(UNANSWERED_MAX + self.delivery_bound * 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(1_000_000_000_000).after(Duration::from_secs(seconds))
    }

    fn timeouts(mode: Mode) -> Timeouts {
        Timeouts::new(mode, Duration::from_secs(1), at(0))
    }

    #[test]
    fn a_script_gives_up_when_nothing_is_answered_for_long() {
        let mut script = timeouts(Mode::Filter);
        assert_eq!((script.give_up_at(false), script.give_up_at(true)), (None, Some(at(14))));
        script.on_progress(at(5));
        assert_eq!(script.give_up_at(true), Some(at(19)));
        script.on_time(at(7), false, true);
        assert_eq!(script.give_up_at(true), Some(at(21)), "the time without a request does not count");
        assert_eq!(script.abandon_at(Some(at(0))), None);
    }

    #[test]
    fn a_prompt_waits_until_it_is_to_end() {
        let mut prompt = timeouts(Mode::Prompt);
        assert_eq!(prompt.give_up_at(true), None);
        assert_eq!(prompt.abandon_at(Some(at(3))), Some(at(17)));
        prompt.on_time(at(20), true, true);
        prompt.on_time(at(21), true, true);
        assert_eq!(prompt.give_up_at(true), Some(at(23)));
    }

    #[test]
    fn a_lack_of_room_is_news_until_something_is_answered() {
        let mut timeouts = timeouts(Mode::Prompt);
        assert!(timeouts.on_no_room() && !timeouts.on_no_room() && timeouts.has_no_room());
        timeouts.on_progress(at(1));
        assert!(timeouts.on_no_room());
    }
}
