//! How the peers' clocks stand to ours.
//!
//! Each peer is pinged now and then. An answer that came back fast says best how far its clock is ahead, so of the last ones
//! the fastest counts (as in Cristian's *Probabilistic clock synchronization*, 1989). A replica whose clock is off against
//! two others that agree is the one that is wrong: its timestamps would be refused, and what it closes would be too early or
//! too late. It stops serving until it is right.

use super::{Output, PeerId, Replica};
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::time::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// How often a peer is pinged.
const PING: Duration = Duration::from_secs(1);
/// Of how many answers the fastest counts.
const SAMPLES: usize = 8;

/// How far a peer's clock is ahead of ours.
#[derive(Debug, Default)]
pub struct Offset {
    /// The last answers: how long each took, and how far ahead the clock then was, in nanoseconds.
    samples: VecDeque<(Duration, i64)>,
}

impl Offset {
    /// Takes in an answer that came at `now`.
    fn observe(&mut self, now: Timestamp, sent: Timestamp, clock: Timestamp) {
        let round_trip = now.since(sent);
        let middle = sent.after(round_trip / 2);
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((round_trip, clock.0.cast_signed().wrapping_sub(middle.0.cast_signed())));
    }

    /// How far the clock is ahead, in nanoseconds; none before an answer came.
    pub fn estimate(&self) -> Option<i64> {
        self.samples.iter().min().map(|(_, offset)| *offset)
    }
}

impl Replica {
    /// Pings all peers, if it is time.
    pub(super) fn ping(&mut self, outputs: &mut Vec<Output>) {
        if self.now < self.pinged_at.after(PING) {
            return;
        }
        self.pinged_at = self.now;
        let to: Vec<PeerId> = self.connected().collect();
        to.into_iter().for_each(|to| outputs.push(Output::send(to, PeerMessage::Ping { sent: self.now })));
    }

    /// A peer asks what our clock shows.
    pub(super) fn on_ping(&self, from: PeerId, time: Timestamp, sent: Timestamp, outputs: &mut Vec<Output>) {
        outputs.push(Output::send(from, PeerMessage::Pong { sent, clock: time }));
    }

    /// A peer says what its clock shows.
    pub(super) fn on_pong(&mut self, from: PeerId, time: Timestamp, sent: Timestamp, clock: Timestamp) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.offset.observe(time, sent, clock);
        }
        self.clock_is_off = self.judge_clock();
    }

    /// Whether our clock is off by more than Δ/N against others, of which at least two agree.
    fn judge_clock(&self) -> bool {
        let tolerance = self.grace.max().as_nanos().cast_signed() as i64;
        let connected = self.peers.values().filter(|peer| peer.is_connected);
        let mut offsets: Vec<i64> = connected.filter_map(|peer| peer.offset.estimate()).collect();
        offsets.sort_unstable();
        let Some(&median) = offsets.get(offsets.len() / 2) else { return false };
        let agreeing =
            offsets.iter().filter(|offset| offset.saturating_sub(median).saturating_abs() <= tolerance).count();
        median.saturating_abs() > tolerance && agreeing >= 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_of_the_last_answers_counts() {
        let mut offset = Offset::default();
        assert_eq!(offset.estimate(), None);
        offset.observe(Timestamp(1_010), Timestamp(1_000), Timestamp(2_005));
        assert_eq!(offset.estimate(), Some(1_000));
        offset.observe(Timestamp(3_000), Timestamp(1_000), Timestamp(9_000));
        assert_eq!(offset.estimate(), Some(1_000));
        (0..SAMPLES).for_each(|_| offset.observe(Timestamp(1_020), Timestamp(1_000), Timestamp(910)));
        assert_eq!(offset.estimate(), Some(-100));
    }
}
