//! Who pings whom, what was answered, and what is open.

use stablechat_protocol::clock_offset::Exchange;
use stablechat_protocol::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// One end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// This machine.
    Here,
    /// The replica at this place of the cluster file.
    Replica(usize),
}

/// The pings from one place to another.
#[derive(Clone, Debug)]
pub struct Path {
    /// What was answered, in the order in which it was asked.
    exchanges: Vec<Exchange>,
    /// What is not: when it was sent, by the clock of who asks, and by ours.
    open: BTreeMap<Timestamp, Timestamp>,
    /// Whether it was measured all the time.
    is_whole: bool,
}

impl Path {
    /// A path of which nothing is known, and of which it is known or not that it can be measured from now on.
    pub fn new(is_whole: bool) -> Path {
        Path { exchanges: Vec::new(), open: BTreeMap::new(), is_whole }
    }

    /// A ping goes out, of which we know at `now`.
    pub fn on_ping(&mut self, sent: Timestamp, now: Timestamp) {
        self.open.insert(sent, now);
    }

    /// An answer came; to other pings than these it says nothing.
    pub fn on_pong(&mut self, exchange: Exchange) {
        if self.open.remove(&exchange.sent).is_none() {
            return;
        }
        // Answers come in order, or not at all because the connection was another.
        let later = self.open.split_off(&exchange.sent);
        self.is_whole &= self.open.is_empty();
        self.open = later;
        self.exchanges.push(exchange);
    }

    /// There is no connection on this path: what is open is not answered any more, for another reason than that it is slow.
    pub fn interrupt(&mut self) {
        self.open.clear();
        self.is_whole = false;
    }

    /// What was answered.
    pub fn exchanges(&self) -> &[Exchange] {
        &self.exchanges
    }

    /// Whether it was measured all the time.
    pub fn is_whole(&self) -> bool {
        self.is_whole && !self.exchanges.is_empty()
    }

    /// Whether every ping is answered.
    pub fn is_answered(&self) -> bool {
        self.open.is_empty()
    }

    /// For how long the oldest of what is open has been so: a delay will have been at least that.
    pub fn waited(&self, now: Timestamp) -> Option<Duration> {
        self.open.values().min().map(|asked| now.since(*asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(sent: u64) -> Exchange {
        Exchange { sent: Timestamp(sent), clock: Timestamp(sent), received: Timestamp(sent + 1) }
    }

    #[test]
    fn answers_belong_to_pings_and_what_is_open_ages() {
        let mut path = Path::new(true);
        assert!(path.is_answered() && !path.is_whole(), "nothing was measured");
        path.on_pong(answer(1));
        assert!(path.exchanges().is_empty(), "nobody has asked");
        for sent in 1..=3 {
            path.on_ping(Timestamp(sent), Timestamp(100 + sent));
        }
        path.on_pong(answer(1));
        assert_eq!((path.exchanges().len(), path.is_whole(), path.is_answered()), (1, true, false));
        assert_eq!(path.waited(Timestamp(110)), Some(Duration::from_nanos(8)));
        path.on_pong(answer(3));
        assert!(!path.is_whole() && path.is_answered(), "an answer is missing");
    }

    #[test]
    fn without_a_connection_nothing_is_waited_for() {
        let mut path = Path::new(true);
        path.on_ping(Timestamp(1), Timestamp(1));
        path.on_pong(answer(1));
        path.on_ping(Timestamp(2), Timestamp(2));
        path.interrupt();
        assert_eq!((path.waited(Timestamp(9)), path.is_whole(), path.exchanges().len()), (None, false, 1));
        assert!(!Path::new(false).is_whole());
    }
}
