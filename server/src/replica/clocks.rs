//! Comparing our clock with the peers'.
//!
//! Each peer is pinged once a second, and its answers estimate how far its clock is ahead, see
//! [`stablechat_protocol::clock_offset`]. A replica whose clock is off against two others that agree is the one that is wrong: it
//! would refuse good timestamps, and close too early or too late. It is muted until its clock is right.

use super::{Output, PeerId, Replica};
use stablechat_protocol::clock_offset::Exchange;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::time::Timestamp;
use std::time::Duration;

/// How often a peer is pinged.
const PING: Duration = Duration::from_secs(1);

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

    /// A peer says what its clock shows.
    pub(super) fn on_pong(&mut self, from: PeerId, time: Timestamp, sent: Timestamp, clock: Timestamp) {
        if let Some(peer) = self.peers.get_mut(from) {
            peer.offset.observe(Exchange { sent, clock, received: time });
        }

        let connected = self.peers.iter().filter(|(_, peer)| peer.is_connected);
        let offsets = connected.filter_map(|(_, peer)| peer.offset.estimate_ns()).collect();
        self.clock_check.judge(offsets, self.closing.grace.max());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_others_that_agree_outvote_our_clock() {
        let is_off = |offsets: &[i64]| {
            let mut check = ClockCheck::default();
            check.judge(offsets.to_vec(), Duration::from_nanos(100));
            check.is_off()
        };
        assert!(is_off(&[500, 550]) && is_off(&[-500, -450, 0]));
        assert!(!is_off(&[]) && !is_off(&[500]), "one other clock may be the wrong one");
        assert!(!is_off(&[500, -500]), "the others do not agree");
        assert!(!is_off(&[100, 90]), "within what the delivery bound has room for");
        assert!(is_off(&[i64::MIN, i64::MIN]));
    }
}
