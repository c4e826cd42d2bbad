//! What scenes are written in: what happens, and when.

use crate::simulator::bounds::Bounds;
use fastrand::Rng;
use std::ops::Range;
use std::time::Duration;

/// Faults in a given order.
#[derive(Clone, Debug)]
pub struct Scene {
    pub length: Duration,
    pub steps: Vec<(Cue, Act)>,
}

/// When something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cue {
    /// So long after the beginning.
    After(Duration),
    /// So long after a replica sends this part of the exchange to another, for the first time. Without a wait, before the
    /// message is on its way.
    Sent { from: usize, to: usize, part: Part, wait: Duration },
}

/// A message that is a cue: a join, or one that concerns the subject, which is the request that the scene is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// An announcement of the subject.
    Announcement,
    /// A list of recent requests with the subject, on a new connection.
    List,
    /// The subject's body.
    Body,
    /// The sender wants to be consulted.
    Join,
    /// A report of a boundary after the subject.
    Boundary,
}

/// Something that happens in a scene.
#[derive(Clone, Debug)]
pub enum Act {
    /// A client that dies at once sends a request to these replicas, with a timestamp that lies so far back.
    Speak { to: Vec<usize>, behind: Duration, is_subject: bool },
    /// What one replica sends to another on the present connection arrives after this time.
    Hold { from: usize, to: usize, length: Duration },
    /// The connection between two replicas breaks, and everything under way on it is lost.
    Sever { one: usize, other: usize },
    /// A replica is killed, and what is under way from it to some is lost. It stays down for so long.
    Kill { node: usize, lost_to: Vec<usize>, down: Duration },
    /// A replica's machine is gone, so that nobody can tell whether the replica lives, and what is under way from it to some is
    /// lost. It stays away for so long.
    Vanish { node: usize, lost_to: Vec<usize>, down: Duration },
    /// A replica is asked to stop, and stays down for so long.
    Stop { node: usize, down: Duration },
    /// A replica is paused: at once, or in its next turn between reading what arrived and handling it.
    Pause { node: usize, length: Duration, in_turn: bool },
    /// Nothing gets from a replica to any other, nor back.
    CutOff { node: usize, length: Duration },
    /// Two replicas that are cut off from each other can connect again.
    Reunite { one: usize, other: usize },
    /// Every message from one replica to another takes so much longer.
    SlowDown { from: usize, to: usize, longer: Duration, length: Duration },
    /// A machine's wall clock is so many nanoseconds ahead of the true time for a while; its replica starts with it or not.
    SetClock { node: usize, skew: i64, length: Duration, kill: bool },
    /// A replica takes so much longer to send another the bodies that it asks for.
    SlowBodies { from: usize, to: usize, wait: Duration, length: Duration },
    /// The clients with plans send nothing new.
    Hush { length: Duration },
    /// It is a violation if one of these replicas has a barrier now, in a run of nothing but this scene.
    ExpectNoBarrier { nodes: Vec<usize> },
    /// It is a violation if the replica does not serve now, in a run of nothing but this scene.
    ExpectServing { node: usize },
    /// It is a violation if something is pending at the replica now, in a run of nothing but this scene.
    ExpectNothingPending { node: usize },
    /// It is a violation if any replica has repaired its log so far, in a run of nothing but this scene.
    ExpectNoRepair,
}

/// Who plays which part.
pub struct Cast {
    pub one: usize,
    pub other: usize,
    /// All replicas beside these two, in any order.
    pub rest: Vec<usize>,
}

impl Cast {
    /// Gives the parts to replicas at random.
    pub fn draw(random: &mut Rng, replicas: usize) -> Cast {
        let mut parts: Vec<usize> = (0..replicas).collect();
        random.shuffle(&mut parts);
        let rest = parts.split_off(2);
        Cast { one: parts[0], other: parts[1], rest }
    }

    /// All but `one`.
    pub fn others(&self) -> Vec<usize> {
        [&[self.other], &self.rest[..]].concat()
    }

    /// All.
    pub fn all(&self) -> Vec<usize> {
        [&[self.one, self.other], &self.rest[..]].concat()
    }
}

/// A scene that is being written. Times are in milliseconds.
pub struct Script {
    steps: Vec<(Cue, Act)>,
    bounds: Bounds,
}

impl Script {
    /// An empty script for a cluster with these bounds.
    pub fn new(bounds: Bounds) -> Script {
        Script { steps: Vec::new(), bounds }
    }

    /// Δ/N.
    pub fn hop(&self) -> u64 {
        self.bounds.hop().as_millis() as u64
    }

    /// The longest that a connection is held up. With three brisk messages, as many turns of a replica and clocks that differ,
    /// the hop takes less than Δ/N.
    pub fn hold_max(&self) -> u64 {
        self.hop() - 68
    }

    /// A late hold: from three quarters of the longest on.
    pub fn late(&self) -> Range<u64> {
        self.hold_max() * 3 / 4..self.hold_max()
    }

    /// The grace of a replica to which requests come as late as can be.
    pub fn lateness_max(&self) -> u64 {
        self.bounds.lateness_max().as_millis() as u64
    }

    /// Adds an act, so long after the beginning.
    pub fn at(&mut self, after: u64, act: Act) {
        self.steps.push((Cue::After(ms(after)), act));
    }

    /// Adds an act, so long after a message.
    pub fn on(&mut self, (from, to, part): (usize, usize, Part), wait: u64, act: Act) {
        self.steps.push((Cue::Sent { from, to, part, wait: ms(wait) }, act));
    }

    /// Holds up the announcement of the subject from a replica to others for a time drawn for each.
    pub fn hold_announcements(&mut self, random: &mut Rng, from: usize, to: &[usize], length: Range<u64>) {
        for to in to.iter().copied() {
            let length = random.u64(length.clone());
            self.on((from, to, Part::Announcement), 0, hold(from, to, length));
        }
    }

    /// Has requests sent to these replicas at intervals.
    pub fn chatter(&mut self, to: &[usize], from: u64, length: u64, every: usize) {
        (from..from + length).step_by(every).for_each(|after| self.at(after, speak(to, 0)));
    }

    /// Lets a replica receive several late requests, so that its grace becomes as long as they are late.
    pub fn lengthen_grace(&mut self, after: u64, node: usize, lateness: u64) {
        (0..4).for_each(|_| self.at(after, speak(&[node], lateness)));
    }

    /// The scene, which takes so long.
    pub fn scene(self, length: u64) -> Scene {
        Scene { length: ms(length), steps: self.steps }
    }
}

/// A request to these replicas, with a timestamp so far back.
pub fn speak(to: &[usize], behind: u64) -> Act {
    Act::Speak { to: to.to_vec(), behind: ms(behind), is_subject: false }
}

/// The subject, to one replica, with a timestamp so far back.
pub fn subject(to: usize, behind: u64) -> Act {
    Act::Speak { to: vec![to], behind: ms(behind), is_subject: true }
}

/// A hold of a connection, in one direction.
pub fn hold(from: usize, to: usize, length: u64) -> Act {
    Act::Hold { from, to, length: ms(length) }
}

/// A death, and a start so long after it.
pub fn kill(node: usize, lost_to: &[usize], down: u64) -> Act {
    Act::Kill { node, lost_to: lost_to.to_vec(), down: ms(down) }
}

/// The loss of a machine, which is there again so long after it.
pub fn vanish(node: usize, lost_to: &[usize], down: u64) -> Act {
    Act::Vanish { node, lost_to: lost_to.to_vec(), down: ms(down) }
}

/// So many milliseconds.
pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
