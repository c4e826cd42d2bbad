//! Comparing our clock with the peers', and believing no clock that is wrong.
//!
//! The protocol orders requests by clocks, so a replica with a wrong clock would apply requests before others know of them, refuse
//! what others accept, or hold everybody up. Each peer is pinged, at once when it is connected and then once a second, and its
//! answers estimate how far its clock is ahead ([`stablechat_protocol::clock_offset`]). With that:
//!
//! - A replica joins only when it has compared its clock with those of all peers that are up.
//! - A replica *stands down* if more clocks agree with each other than with its own: it catches up as if it had been restarted, and
//!   joins when its clock is right. Nobody waits for it meanwhile.
//! - If there are as many clocks on each side, as with two replicas, nobody can say which is wrong. Only one side may go on: the
//!   one on which a replica serves already, or else the one with the replica that the cluster file names first.
//! - If a log ends ahead of the clock, and nobody can say that the log is wrong, the clock is raised to *log time*
//!   ([`Replica::mend_log_ahead`]). A replica whose log does not end there follows replicas that say that they show log time.
//!
//! This takes a round trip, and a clock may be set at any time. So beyond that, no timestamp of another replica counts that lies
//! further ahead of our clock than a right clock can have accepted ([`ProtocolSettings::latest_credible`]).

use super::peers::{Peer, PeerState};
use super::{Effect, Output, PeerId, Phase, ProtocolSettings, Replica};
use stablechat_protocol::clock_offset::Exchange;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::time::Timestamp;
use std::cmp::Reverse;
use std::time::Duration;

/// How often a peer is pinged.
const PING: Duration = Duration::from_secs(1);

/// How our clock stands among those of the replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockStanding {
    /// It agrees with most, or with none and we are the one to go on.
    #[default]
    Good,
    /// More clocks agree with each other than with ours. Stays until ours agrees with a peer's or is set.
    Outvoted {
        /// How far our clock is ahead of theirs, in nanoseconds.
        ahead_ns: i64,
    },
    /// As many clocks agree with each other as with ours, and the others go on.
    Yielding {
        /// How far our clock is ahead of theirs, in nanoseconds.
        ahead_ns: i64,
    },
}

impl ClockStanding {
    /// How far our clock is ahead of those that go on, in nanoseconds; none when ours is good.
    pub fn ahead_ns(self) -> Option<i64> {
        match self {
            ClockStanding::Good => None,
            ClockStanding::Outvoted { ahead_ns } | ClockStanding::Yielding { ahead_ns } => Some(ahead_ns),
        }
    }
}

/// The comparison of our clock with the peers'.
#[derive(Debug, Default)]
pub struct ClockCheck {
    /// When the peers were last asked for their clocks.
    pinged_at: Timestamp,
    standing: ClockStanding,
    /// Since when it is not good.
    off_since: Option<Timestamp>,
    /// Whether the replicas that go on, when we do not, say that their clocks show log time.
    is_behind_log_time: bool,
    /// How far the wall clock is ahead, if it is so far behind that our clock does not follow.
    unfollowed_ns: Option<i64>,
    /// Whether the operator has been told that our log ends ahead and cannot be mended.
    has_reported_log: bool,
}

impl ClockCheck {
    pub fn standing(&self) -> ClockStanding {
        self.standing
    }

    /// Our clock has jumped: it has to be compared anew.
    pub fn forget(&mut self) {
        (self.standing, self.off_since) = (ClockStanding::Good, None);
    }

    /// Whether our clock shows log time: it is ahead of the machine's clock, and cannot go back.
    pub fn is_log_time(&self) -> bool {
        self.unfollowed_ns.is_some()
    }

    pub fn note_unfollowed(&mut self, unfollowed_ns: Option<i64>) {
        self.unfollowed_ns = unfollowed_ns;
    }

    /// Whether we have stood down for this long for replicas whose clocks are ahead and show log time.
    fn has_yielded_to_log_time(&self, now: Timestamp, patience: Duration) -> bool {
        self.is_behind_log_time && self.off_since.is_some_and(|since| now > since.after(patience))
    }

    /// Whether it is time to ask the peers for their clocks. Then it counts as done.
    fn is_ping_due(&mut self, now: Timestamp) -> bool {
        let is_due = now >= self.pinged_at.after(PING);
        if is_due {
            self.pinged_at = now;
        }
        is_due
    }

    /// Judges our clock by those of the peers at `now`. `tolerance` is Δ/N: the difference that the delivery bound has room for.
    fn judge(&mut self, now: Timestamp, ours: Reading, theirs: &[Reading], tolerance: Duration) {
        let is_outvoted = matches!(self.standing, ClockStanding::Outvoted { .. });
        if theirs.is_empty() && is_outvoted {
            // Those that outvoted us are gone. That does not make our clock right.
            return;
        }

        let all: Vec<Reading> = theirs.iter().chain([&ours]).copied().collect();
        let group = |reading: &Reading| Group::around(reading, &all, tolerance);
        let is_rival = |reading: &&Reading| !reading.agrees_with(&ours, tolerance);
        let rival = theirs.iter().filter(is_rival).max_by_key(|reading| (group(reading), reading.ahead_ns));
        let rival = rival.map(|reading| (group(reading), *reading));
        let own = group(&ours);
        self.is_behind_log_time = false;
        self.standing = match rival {
            Some((group, Reading { ahead_ns: their_ns, is_log_time, .. })) if group > own => {
                self.is_behind_log_time = is_log_time && their_ns > 0;
                let ahead_ns = their_ns.saturating_neg();
                match group.size > own.size {
                    true => ClockStanding::Outvoted { ahead_ns },
                    false => ClockStanding::Yielding { ahead_ns },
                }
            }
            _ => ClockStanding::Good,
        };
        self.off_since = match self.standing {
            ClockStanding::Good => None,
            _ => self.off_since.or(Some(now)),
        };
    }
}

/// A replica's clock, as far as it is known.
#[derive(Clone, Copy, Debug)]
struct Reading {
    of: PeerId,
    /// How far it is ahead of ours, in nanoseconds.
    ahead_ns: i64,
    /// By how much that may be wrong either way.
    error_ns: u64,
    /// Whether the replica serves, or is about to.
    serves: bool,
    /// Whether the clock shows the time of the replica's log, not that of its machine.
    is_log_time: bool,
}

impl Reading {
    /// The clock of a replica by an exchange with it.
    fn of_exchange(of: PeerId, exchange: &Exchange, serves: bool, is_log_time: bool) -> Reading {
        Reading { of, ahead_ns: exchange.offset_ns(), error_ns: exchange.error_ns(), serves, is_log_time }
    }

    /// Whether the two clocks may differ by no more than the tolerance.
    fn agrees_with(&self, other: &Reading, tolerance: Duration) -> bool {
        let error_ns = self.error_ns.saturating_add(other.error_ns);
        let apart = Duration::from_nanos(self.ahead_ns.abs_diff(other.ahead_ns).saturating_sub(error_ns));
        apart <= tolerance
    }
}

/// Clocks that agree with one of them. The greatest group goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    size: usize,
    /// Whether one of its replicas serves.
    serves: bool,
    /// The replica in it that the cluster file names first.
    first: Reverse<PeerId>,
}

impl Group {
    fn around(reading: &Reading, all: &[Reading], tolerance: Duration) -> Group {
        let members = || all.iter().filter(|other| other.agrees_with(reading, tolerance));
        Group {
            size: members().count(),
            serves: members().any(|member| member.serves),
            first: Reverse(members().map(|member| member.of).min().unwrap_or(reading.of)),
        }
    }
}

impl ProtocolSettings {
    /// The latest timestamp that a replica with a right clock can have accepted by `now`, our clock. Later ones from other
    /// replicas are not believed: a clock is wrong, theirs or ours.
    pub fn latest_credible(&self, now: Timestamp) -> Timestamp {
        // Δ/N is more than clocks may differ by.
        now.after(self.ahead + self.hop())
    }
}

impl Replica {
    /// The latest timestamp that is believed if another replica says that it has accepted or closed it.
    pub fn latest_credible(&self) -> Timestamp {
        self.settings.latest_credible(self.now.max(self.read))
    }

    /// Whether this replica stands down because its clock differs from those of others, which go on.
    pub fn is_clock_off(&self) -> bool {
        self.clock_check.standing().ahead_ns().is_some()
    }

    /// Whether our clock shows the time of our log: it is ahead of the machine's clock, and cannot go back.
    pub fn is_log_time(&self) -> bool {
        self.clock_check.is_log_time()
    }

    /// Whether our log ends in the future and cannot be mended, so that we wait for an operator.
    pub fn is_log_unmendable(&self) -> bool {
        self.clock_check.has_reported_log
    }

    /// Whether the process has to begin anew with the time of the machine's wall clock, which our clock did not follow: our clock is off,
    /// or the peers contradict it.
    pub fn has_to_start_again(&self) -> bool {
        let unfollowed = self.clock_check.unfollowed_ns;
        unfollowed.is_some_and(|ahead_ns| self.is_clock_off() || self.is_contradicted(ahead_ns))
    }

    /// Whether a clock that is so far ahead of ours is right, and ours is not, going by the peers: no peer's clock agrees with ours,
    /// and that of one agrees with this one. `ahead_ns` is that of the machine's wall clock, which we did not follow.
    ///
    /// That peer does not count if its log and ours end ahead of the wall clock. It is about to raise its clock to the end of
    /// its log. If we took the time that it shows until then, each of us could take the other's time over and over.
    fn is_contradicted(&self, ahead_ns: i64) -> bool {
        let tolerance = self.settings.hop();
        let wall = Reading { ahead_ns, ..self.reading() };
        let credible = self.settings.latest_credible(self.now.offset_by(ahead_ns));

        let stays = |peer: PeerId| {
            let its_end = self.peers.get(peer).and_then(|peer| peer.log_end);
            self.applied.timestamp <= credible || its_end.is_some_and(|end| end <= credible)
        };
        let theirs = self.readings();
        theirs.iter().any(|reading| reading.agrees_with(&wall, tolerance) && stays(reading.of))
            && !theirs.iter().any(|reading| reading.agrees_with(&self.reading(), tolerance))
    }

    /// Whether a peer's clock differs from ours by more than the delivery bound has room for.
    pub(super) fn is_clock_apart(&self, peer: &Peer) -> bool {
        let ours = self.reading();
        let reading = |exchange| Reading::of_exchange(self.settings.place, exchange, false, peer.is_log_time);
        let theirs = peer.offset.best().map(reading);
        theirs.is_some_and(|theirs| !theirs.agrees_with(&ours, self.settings.hop()))
    }

    /// The clocks of the peers that are up. One whose connection broke may be back in a moment.
    fn readings(&self) -> Vec<Reading> {
        let up = self.peers.iter().filter(|(_, peer)| peer.state != PeerState::Down);
        let reading = |(of, peer): (PeerId, &Peer)| {
            Some(Reading::of_exchange(of, peer.offset.best()?, peer.state == PeerState::Linked, peer.is_log_time))
        };
        up.filter_map(reading).collect()
    }

    /// Our own clock, which all others are compared with.
    fn reading(&self) -> Reading {
        Reading {
            of: self.settings.place,
            ahead_ns: 0,
            error_ns: 0,
            serves: self.phase != Phase::CatchingUp,
            is_log_time: self.clock_check.is_log_time(),
        }
    }

    /// Whether our clock has been compared with those of all peers that are up.
    pub(super) fn has_compared_clocks(&self) -> bool {
        let slowest = self.settings.delivery_bound;
        self.peers.all_up(|peer| peer.offset.is_measured_within(slowest))
    }

    /// Sees to it that our log does not end ahead of our clock, and says whether that is so already. If it does, one of the two is
    /// wrong, and nothing that comes after that end could be accepted for as long.
    ///
    /// If a peer's clock agrees with ours and its log does not end ahead, our log has requests of a wrong clock. The peer's log
    /// replaces ours, and the entries that only ours had are submitted again. Otherwise the log is believed: all that the protocol
    /// needs is that the clocks of the replicas agree, with each other and with the log. So the clock is raised: to the time of
    /// the replicas that go on, if those have outvoted us, or else to the end of the log.
    ///
    /// But if a peer serves whose clock agrees with ours, and its log lacks requests that are settled in ours, we would have to stand
    /// down for it once our clock is raised. Each of the two logs may have something that the other lacks, so this is left to the
    /// operator, and we wait.
    ///
    /// A replica whose log does not end ahead, as after the loss of its disk, could take nothing from logs that do. If the replicas
    /// that go on say that they show log time, it raises its clock to theirs as well, after giving them time to find that it
    /// contradicts them.
    pub(super) fn mend_log_ahead(&mut self, outputs: &mut Vec<Output>) -> bool {
        let credible = self.latest_credible();
        let has_yielded = self.clock_check.has_yielded_to_log_time(self.now, self.settings.memory());
        if self.applied.timestamp <= credible && !has_yielded {
            self.clock_check.has_reported_log = false;
            return true;
        }

        let can_replace = |peer: &Peer| {
            let is_up = peer.state != PeerState::Down;
            is_up && !self.is_clock_apart(peer) && peer.log_end.is_some_and(|end| end <= credible)
        };
        let better = self.peers.those(|_, peer| can_replace(peer));
        let serves_without_it =
            |peer: &Peer| peer.state == PeerState::Linked && !self.is_clock_apart(peer) && peer.log_end.is_none();
        let is_unmendable = better.is_empty() && !self.peers.those(|_, peer| serves_without_it(peer)).is_empty();
        if self.is_clock_off() || better.is_empty() && !is_unmendable {
            if let Some(to) = self.time_of_log_ahead() {
                outputs.push(Output::Effect(Effect::RaiseClock { to }));
                self.clock_check.forget();
            }
        } else if let Some(peer) = better.both(self.peers.connected()).iter().next() {
            self.on_outdated(peer, outputs);
        } else if is_unmendable && !std::mem::replace(&mut self.clock_check.has_reported_log, true) {
            outputs.push(Output::Effect(Effect::LogUnmendable));
        }
        false
    }

    /// The time from which to go on with a log that ends ahead of our clock and that no peer's log can replace. None if the others
    /// go on at an earlier time than ours: their log can replace ours once this machine's clock is set right.
    fn time_of_log_ahead(&self) -> Option<Timestamp> {
        match self.clock_check.standing().ahead_ns() {
            None => Some(self.applied.timestamp),
            Some(ahead_ns) => (ahead_ns < 0).then(|| self.now.offset_by(ahead_ns.saturating_neg())),
        }
    }

    /// Pings a peer that has just been connected: it can join only when it knows how its clock stands.
    pub(super) fn ping_at_once(&self, to: PeerId, outputs: &mut Vec<Output>) {
        outputs.push(Output::send(to, PeerMessage::Ping { sent: self.now }));
    }

    /// Pings all peers, if it is time.
    pub(super) fn ping(&mut self, outputs: &mut Vec<Output>) {
        if self.clock_check.is_ping_due(self.now) {
            let ping = PeerMessage::Ping { sent: self.now };
            outputs.extend(self.peers.connected().iter().map(|to| Output::send(to, ping.clone())));
        }
    }

    /// A peer says what its clock shows.
    pub(super) fn on_pong(&mut self, from: PeerId, exchange: Exchange, is_log_time: bool) {
        if let Some(peer) = self.peers.get_mut(from) {
            peer.offset.observe(exchange);
            peer.is_log_time = is_log_time;
        }
    }

    /// Judges our clock, and stands down if it is not good.
    pub(super) fn judge_clock(&mut self, outputs: &mut Vec<Output>) {
        let (ours, theirs) = (self.reading(), self.readings());
        self.clock_check.judge(self.now, ours, &theirs, self.settings.hop());

        if self.is_clock_off() && self.phase != Phase::CatchingUp {
            self.rejoin(outputs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000_000;
    const NOW: Timestamp = Timestamp(1_000_000_000_000_000);

    /// A clock of the replica at this place that is so far ahead; a negative place is that of a replica that serves.
    fn reading(place: i8, ahead_ns: i64) -> Reading {
        Reading { of: PeerId(place.unsigned_abs()), ahead_ns, error_ns: 10, serves: place < 0, is_log_time: false }
    }

    /// How our clock stands among these; ours is that of the second replica of the cluster file.
    fn judge(serves: bool, theirs: &[Reading]) -> ClockStanding {
        let mut check = ClockCheck::default();
        let ours = Reading { of: PeerId(1), ahead_ns: 0, error_ns: 0, serves, is_log_time: false };
        check.judge(NOW, ours, theirs, Duration::from_nanos(100));
        check.standing()
    }

    #[test]
    fn more_clocks_that_agree_outvote_ours() {
        let outvoted = |ahead_ns| ClockStanding::Outvoted { ahead_ns };
        assert_eq!(judge(false, &[reading(2, HOUR), reading(3, HOUR + 50)]), outvoted(-HOUR - 50));
        assert_eq!(judge(true, &[reading(2, -HOUR), reading(3, -HOUR)]), outvoted(HOUR), "even if we serve");
        assert_eq!(judge(false, &[reading(2, i64::MIN), reading(3, i64::MIN)]), outvoted(i64::MAX));
        let few = [reading(2, HOUR), reading(3, HOUR), reading(4, 20)];
        assert_eq!(judge(true, &few), ClockStanding::Good, "one agrees with ours, and we serve");
        let more = [reading(2, HOUR), reading(3, HOUR), reading(4, 20), reading(5, HOUR)];
        assert_eq!(judge(true, &more), outvoted(-HOUR));
    }

    #[test]
    fn clocks_within_what_the_bound_has_room_for_agree() {
        for theirs in [vec![], vec![reading(2, 110), reading(3, 90)], vec![reading(2, -110), reading(3, 110)]] {
            assert_eq!(judge(false, &theirs), ClockStanding::Good);
        }
    }

    #[test]
    fn of_as_many_clocks_those_of_replicas_that_serve_go_on_and_then_the_first() {
        let yielding = |ahead_ns| ClockStanding::Yielding { ahead_ns };
        assert_eq!(judge(false, &[reading(-2, HOUR)]), yielding(-HOUR), "the other one serves");
        assert_eq!(judge(true, &[reading(2, HOUR)]), ClockStanding::Good, "only we serve");
        assert_eq!(judge(false, &[reading(2, HOUR)]), ClockStanding::Good, "ours is named first");
        assert_eq!(judge(false, &[reading(0, HOUR)]), yielding(-HOUR), "the other one is named first");
        assert_eq!(judge(true, &[Reading { serves: true, ..reading(0, HOUR) }]), yielding(-HOUR));
        assert_eq!(judge(false, &[reading(2, HOUR), reading(3, -HOUR)]), ClockStanding::Good, "no two agree");
    }

    #[test]
    fn who_is_outvoted_stays_so_while_nobody_is_there() {
        let mut check = ClockCheck::default();
        let ours = Reading { of: PeerId(1), ahead_ns: 0, error_ns: 0, serves: false, is_log_time: false };
        let tolerance = Duration::from_nanos(100);
        check.judge(NOW, ours, &[reading(2, HOUR), reading(3, HOUR)], tolerance);
        check.judge(NOW, ours, &[], tolerance);
        assert_eq!(check.standing(), ClockStanding::Outvoted { ahead_ns: -HOUR });
        check.judge(NOW, ours, &[reading(2, 5)], tolerance);
        assert_eq!(check.standing(), ClockStanding::Good);

        check.judge(NOW, ours, &[reading(0, HOUR)], tolerance);
        check.judge(NOW, ours, &[], tolerance);
        assert_eq!(check.standing(), ClockStanding::Good, "it only yielded to one that is gone");
    }
}
