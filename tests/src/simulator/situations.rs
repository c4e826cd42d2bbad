//! Situations that have failed once, and that must keep occurring: recognized, and counted, from what replicas send.
//!
//! A seed that failed shows a situation only until the simulator or the protocol changes. So for each there is a scene that
//! makes it occur (`scenes`), and a count here that proves that it did.

use super::DELIVERY_BOUND;
use super::tally::Tally;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::time::Timestamp;
use stablechat_server::store::ChatStore;
use std::collections::{BTreeMap, BTreeSet};

/// Two logs that each took a replica longer than Δ to read, in the same incarnation.
pub const TWO_SLOW_LOGS: &str = "situations: two logs that each take longer than the bound to read";
/// A piece of a peer's log has a request that lies below what the reader has settled, and that its log lacks.
pub const UNPLACEABLE: &str = "situations: a request in a peer's log below what is settled here";

/// A replica has not applied all that was stable in a wake, because that would have taken too long.
pub const CUT_SHORT: &str = "situations: a wake that left something stable for the next";
/// A replica has found that its clock is off, and stands down.
pub const STOOD_DOWN: &str = "situations: a replica stands down because its clock is off";
/// A process has ended because its clock had to be set back.
pub const ENDED_FOR_ITS_CLOCK: &str = "situations: a process ends to start with the right clock";
/// A replica has raised its clock to the end of its log.
pub const RAISED_ITS_CLOCK: &str = "situations: a clock is raised to the end of the log";
/// A replica tells a peer that it has gone on without it.
pub const TOLD_TOO_SLOW: &str = "situations: a peer is told that it is too slow";
/// A replica takes back that it holds a request.
pub const TAKEN_BACK: &str = "situations: a request that is listed and not held any more";

/// A client has learned that another command was executed under the number that it repeated.
pub const OTHER_COMMAND: &str = "situations: a command whose number another one has used";
/// A client has got an answer to a command that it had given under the same number before.
pub const FOREIGN_ANSWER: &str = "situations: an answer to the other command under a number";

/// What has been seen of the replicas that read others' logs.
#[derive(Default)]
pub struct Situations {
    /// When a replica began to read a peer's log, by the replica and the peer.
    reading: BTreeMap<(usize, usize), Timestamp>,
    /// The replicas, and the peers whose logs took long to read since the replica began to catch up.
    slow: BTreeSet<(usize, usize)>,
}

impl Situations {
    /// A replica sends a message to a peer.
    pub fn on_sent(&mut self, now: Timestamp, node: usize, peer: usize, message: &PeerMessage, tally: &mut Tally) {
        match message {
            PeerMessage::Rejoin { .. } => tally.count(TOLD_TOO_SLOW),
            PeerMessage::NotHeld { .. } => tally.count(TAKEN_BACK),
            PeerMessage::FetchLog { .. } => {
                self.reading.entry((node, peer)).or_insert(now);
            }
            PeerMessage::LogMarks { .. } => {
                self.reading.remove(&(node, peer));
            }
            PeerMessage::Incarnation { .. } => self.slow.retain(|(reader, of)| (*reader, *of) != (node, peer)),
            _ => {}
        }
    }

    /// A message from a peer arrives at a replica with this store.
    pub fn on_arrival(
        &mut self,
        now: Timestamp,
        node: usize,
        peer: usize,
        message: &PeerMessage,
        store: Option<&ChatStore>,
        tally: &mut Tally,
    ) {
        let (PeerMessage::LogEntries { requests, is_end, .. }, Some(store)) = (message, store) else { return };
        let lacks = |uid| store.log().contains(uid).is_ok_and(|is_there| !is_there);
        // What comes before the base was in the log, and has been truncated.
        let (base, settled) = (store.log().base().uid, store.log().settled());
        if requests.iter().any(|stamped| stamped.uid > base && stamped.uid <= settled && lacks(stamped.uid)) {
            tally.count(UNPLACEABLE);
        }
        if *is_end
            && let Some(begun) = self.reading.remove(&(node, peer))
            && now.since(begun) > DELIVERY_BOUND
            && self.slow.insert((node, peer))
            && self.slow.iter().filter(|(reader, _)| *reader == node).count() == 2
        {
            tally.count(TWO_SLOW_LOGS);
        }
    }
}
