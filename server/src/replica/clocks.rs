//! Comparing our clock with the peers'.
//!
//! Each peer is pinged once a second. An answer that came back fast says best how far its clock is ahead, so of the last ones
//! the fastest counts (as in Cristian's *Probabilistic clock synchronization*, 1989). A replica whose clock is off against
//! two others that agree is the one that is wrong: it would refuse good timestamps, and close too early or too late. It is muted
//! until its clock is right.

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

/// Whether our own clock can be trusted, going by the peers' clocks.
#[derive(Debug, Default)]
pub struct ClockCheck {
    /// When the peers were last asked for their clocks.
    pinged_at: Timestamp,
    is_off: bool,
}

impl ClockCheck {
    /// Whether our clock is off by more than Δ/N against those of at least two others that agree.
    pub fn is_off(&self) -> bool {
        self.is_off
    }

    /// Whether it is time to ask the peers for their clocks. Then it counts as done.
    fn is_ping_due(&mut self, now: Timestamp) -> bool {
        let is_due = now >= self.pinged_at.after(PING);
        if is_due {
            self.pinged_at = now;
        }
        is_due
    }

    /// Judges our clock by how far those of the others are ahead, in nanoseconds. `tolerance` is Δ/N: what the delivery bound has
    /// room for.
    fn judge(&mut self, mut offsets: Vec<i64>, tolerance: Duration) {
        offsets.sort_unstable();
        let Some(&median) = offsets.get(offsets.len() / 2) else {
            self.is_off = false;
            return;
        };

        let tolerance = tolerance.as_nanos().cast_signed() as i64;
        let agrees = |offset: &&i64| offset.saturating_sub(median).saturating_abs() <= tolerance;
        self.is_off = median.saturating_abs() > tolerance && offsets.iter().filter(agrees).count() >= 2;
    }
}

impl Replica {
    /// Pings all peers, if it is time.
    pub(super) fn ping(&mut self, outputs: &mut Vec<Output>) {
        if self.clock_check.is_ping_due(self.now) {
            let ping = PeerMessage::Ping { sent: self.now };
            outputs.extend(self.peers.connected().iter().map(|to| Output::send(to, ping.clone())));
        }
    }

    /// A peer asks what our clock shows.
    pub(super) fn on_ping(&self, from: PeerId, time: Timestamp, sent: Timestamp, outputs: &mut Vec<Output>) {
        outputs.push(Output::send(from, PeerMessage::Pong { sent, clock: time }));
    }

    /// A peer says what its clock shows.
    pub(super) fn on_pong(&mut self, from: PeerId, time: Timestamp, sent: Timestamp, clock: Timestamp) {
        if let Some(peer) = self.peers.get_mut(from) {
            peer.offset.observe(time, sent, clock);
        }

        let connected = self.peers.iter().filter(|(_, peer)| peer.is_connected);
        let offsets = connected.filter_map(|(_, peer)| peer.offset.estimate()).collect();
        self.clock_check.judge(offsets, self.closing.grace.max());
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
