//! The pings from one place to another: which were answered, and which are open.

use stablechat_protocol::clock_offset::Exchange;
use stablechat_protocol::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// One end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The machine that runs the probe.
    Here,
    /// By its position in the cluster file.
    Replica(usize),
}

/// The pings from one place to another.
#[derive(Clone, Debug)]
pub struct Path {
    /// The pings that were answered, in the order in which they were sent.
    exchanges: Vec<Exchange>,
    /// The pings that are not: when each was sent, by the clock of the place that pings, and when we heard of it, by ours.
    open: BTreeMap<Timestamp, Timestamp>,
    /// Whether no ping was lost, the connection never broke, and it was there when the measurement began.
    is_whole: bool,
}

impl Path {
    /// A path without pings. `is_whole` says whether the measurement has yet to begin.
    pub fn new(is_whole: bool) -> Path {
        Path { exchanges: Vec::new(), open: BTreeMap::new(), is_whole }
    }

    /// A ping was sent at `sent`, by the clock of the place that pings. We heard of it at `now`.
    pub fn on_ping(&mut self, sent: Timestamp, now: Timestamp) {
        self.open.insert(sent, now);
    }

    /// An answer came. Answers to unknown pings are ignored.
    pub fn on_pong(&mut self, exchange: Exchange) {
        if self.open.remove(&exchange.sent).is_none() {
            return;
        }
        // Answers come in order, so earlier pings that are still open were lost with a connection.
        let later = self.open.split_off(&exchange.sent);
        self.is_whole &= self.open.is_empty();
        self.open = later;
        self.exchanges.push(exchange);
    }

    /// The connection of this path broke. Open pings are dropped: they will not be answered, but not because of a delay.
    pub fn interrupt(&mut self) {
        self.open.clear();
        self.is_whole = false;
    }

    /// The pings that were answered, in the order in which they were sent.
    pub fn exchanges(&self) -> &[Exchange] {
        &self.exchanges
    }

    /// Whether there are measurements from the beginning to the end.
    pub fn is_whole(&self) -> bool {
        self.is_whole && !self.exchanges.is_empty()
    }

    /// Whether every ping is answered.
    pub fn is_answered(&self) -> bool {
        self.open.is_empty()
    }

    /// The age of the oldest open ping, which is a lower bound of its round trip.
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
    fn an_answer_closes_its_ping_and_loses_the_earlier_ones() {
        let mut path = Path::new(true);
        assert!(path.is_answered() && !path.is_whole(), "nothing was measured");
        path.on_pong(answer(1));
        assert!(path.exchanges().is_empty(), "an answer to an unknown ping");
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
    fn a_broken_connection_drops_open_pings() {
        let mut path = Path::new(true);
        path.on_ping(Timestamp(1), Timestamp(1));
        path.on_pong(answer(1));
        path.on_ping(Timestamp(2), Timestamp(2));
        path.interrupt();
        assert_eq!((path.waited(Timestamp(9)), path.is_whole(), path.exchanges().len()), (None, false, 1));
        assert!(!Path::new(false).is_whole());
    }
}
