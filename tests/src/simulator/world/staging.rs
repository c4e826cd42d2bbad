//! Playing scenes.

use super::{SimEvent, World};
use crate::simulator::client::speech;
use crate::simulator::faults::{self, Fault};
use crate::simulator::network::Way;
use crate::simulator::node;
use crate::simulator::scenes::{self, Act, Cue, Part, QUIET, Scene, SceneKind};
use crate::simulator::{Check, START, Violation};
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::time::Duration;

/// The most microseconds that a request in a scene takes to arrive.
const HEARD_MAX_US: u64 = 1000;

/// The scene that is being played.
#[derive(Default)]
pub(super) struct Stage {
    /// Whether a scene is being played.
    is_playing: bool,
    /// The acts that wait for a message.
    cues: Vec<(Cue, Act)>,
    /// The request that the scene is about.
    subject: Option<Uid>,
}

impl Stage {
    /// Whether a scene is being played.
    pub(super) fn is_playing(&self) -> bool {
        self.is_playing
    }

    /// Which cue a message is, if any.
    fn part_of(&self, message: &PeerMessage) -> Option<Part> {
        let is_subject = |uid: &Uid| Some(*uid) == self.subject;
        match message {
            PeerMessage::Join { .. } => Some(Part::Join),
            PeerMessage::Boundary { digests } => {
                let is_after = |subject: Uid| digests.boundary() > subject.timestamp;
                self.subject.is_some_and(is_after).then_some(Part::Boundary)
            }
            PeerMessage::Announce { uids, .. } => uids.iter().any(is_subject).then_some(Part::Announcement),
            PeerMessage::Listed { uids } => uids.iter().any(is_subject).then_some(Part::List),
            PeerMessage::Bodies { requests } => requests.iter().any(|held| is_subject(&held.uid)).then_some(Part::Body),
            _ => None,
        }
    }
}

impl World {
    /// Whether a scene can be played: all replicas serve, and no fault affects any of them.
    fn is_set(&self) -> bool {
        self.nodes.iter().all(node::Node::is_well)
    }

    /// Plans a scene. Until it is over, no other fault occurs.
    pub(super) fn plan_scene(&mut self, kind: SceneKind) {
        self.plan(QUIET, SimEvent::Scene(kind));
    }

    /// Begins a scene, as soon as it can be played and unless it is too late for one.
    pub(super) fn on_scene(&mut self, kind: SceneKind) {
        if !self.is_set() {
            let is_early = self.now.since(START) < scenes::LAST;
            self.plan(QUIET, if is_early { SimEvent::Scene(kind) } else { SimEvent::Fault });
            return;
        }

        let Scene { length, steps } = kind.compose(&mut self.random, self.nodes.len());
        self.tally.count(Fault::Scene.name());
        self.tally.count(kind.name());
        self.note(None, || format!("the scene `{}` begins", kind.name()));
        (self.stage.is_playing, self.links.is_brisk) = (true, true);
        for (cue, act) in steps {
            match cue {
                Cue::After(wait) => self.plan(wait, SimEvent::Act(act)),
                Cue::Sent { .. } => self.stage.cues.push((cue, act)),
            }
        }
        self.plan(length, SimEvent::SceneEnds);
    }

    /// The scene ends.
    pub(super) fn on_scene_ends(&mut self) {
        self.stage = Stage::default();
        self.links.is_brisk = false;
        let wait = faults::gap(&mut self.random);
        self.plan(wait, SimEvent::Fault);
    }

    /// A replica is about to send a message to another, which may be a cue.
    pub(super) fn on_about_to_send(&mut self, from: usize, to: usize, message: &PeerMessage) -> Check {
        if self.stage.cues.is_empty() {
            return Ok(());
        }
        let Some(part) = self.stage.part_of(message) else { return Ok(()) };
        let is_it = |(cue, _): &mut (Cue, Act)| matches!(cue, Cue::Sent { from: one, to: other, part: what, .. } if (*one, *other, *what) == (from, to, part));
        let acts: Vec<(Cue, Act)> = self.stage.cues.extract_if(.., is_it).collect();
        for (cue, act) in acts {
            match cue {
                Cue::Sent { wait, .. } if wait > Duration::ZERO => self.plan(wait, SimEvent::Act(act)),
                _ => self.on_act(act)?,
            }
        }
        Ok(())
    }

    /// An act of a scene.
    pub(super) fn on_act(&mut self, act: Act) -> Check {
        self.note(None, || format!("{act:?}"));
        match act {
            Act::Speak { to, behind, is_subject } => self.speak(&to, self.now.before(behind), is_subject),
            Act::Hold { from, to, length } => {
                if let Some(link) = self.nodes[from].links.get(to) {
                    self.links.hold(link, to, self.now.after(length));
                }
            }
            Act::Sever { one, other } => {
                if let Some(link) = self.nodes[one].links.get(other) {
                    self.end_link(link, [one, other], &[one, other]);
                }
            }
            Act::Kill { node, lost_to, down } => {
                if self.nodes[node].is_up() {
                    self.stays_down[node] = Some(down);
                    self.end_losing(node, "killed", &lost_to);
                }
            }
            Act::Vanish { node, lost_to, down } => {
                if self.nodes[node].is_up() {
                    self.stays_down[node] = Some(down);
                    self.vanish(node, &lost_to);
                }
            }
            Act::Stop { node, down } => {
                if self.stop(node) {
                    self.stays_down[node] = Some(down);
                }
            }
            Act::Pause { node, length, in_turn: true } => self.nodes[node].pause_in_turn = Some(length),
            Act::Pause { node, length, in_turn: false } => {
                self.pause(node, length);
            }
            Act::CutOff { node, length } => self.cut_off(node, None, true, length),
            Act::Reunite { one, other } => self.links.reunite(one, other),
            Act::SetClock { node, skew, length, kill } => {
                self.take_effect(Fault::WrongClock { node, skew, length, kill });
            }
            Act::SlowDown { from, to, longer, length } => {
                self.links.slow_down(from, to, longer, self.now.after(length));
            }
            Act::Hush { length } => {
                let until = self.now.after(length);
                self.clients.iter_mut().for_each(|client| client.hush(until));
            }
            Act::SlowBodies { from, to, wait, length } => {
                self.links.slow_bodies_down(from, to, wait, self.now.after(length));
            }
            Act::ExpectServing { .. } | Act::ExpectNothingPending { .. } | Act::ExpectNoRepair => {
                return self.check_expected(&act);
            }
            Act::ExpectNoBarrier { nodes } => self.expect_no_barrier(&nodes)?,
        }
        Ok(())
    }

    /// Checks that these replicas have no barrier, in a run of nothing but one kind of scene: otherwise other faults raise it.
    fn expect_no_barrier(&self, nodes: &[usize]) -> Check {
        let has_barrier = |node: &&usize| {
            let applier = self.nodes[**node].applier.as_ref();
            applier.is_some_and(|applier| applier.replica().overview().has_barrier)
        };
        match nodes.iter().find(has_barrier).filter(|_| self.scenario.scene.is_some()) {
            Some(node) => Err(Violation::at(*node, "another replica's crash loop makes its answers slow")),
            None => Ok(()),
        }
    }

    /// Checks what a scene expects. Where other faults occurred before, there may be more to catch up with, or to repair.
    fn check_expected(&self, act: &Act) -> Check {
        if self.scenario.scene.is_none() {
            return Ok(());
        }
        match *act {
            Act::ExpectServing { node } if !self.nodes[node].is_serving() => {
                Err(Violation::at(node, "it does not serve, though it has had time to catch up"))
            }
            Act::ExpectNothingPending { node } if self.nodes[node].pending_requests() > 0 => {
                Err(Violation::at(node, format!("{} requests are still pending", self.nodes[node].pending_requests())))
            }
            Act::ExpectNoRepair if self.checks.undone() > 0 => {
                Err(Violation::among_all(format!("{} requests were undone and applied again", self.checks.undone())))
            }
            _ => Ok(()),
        }
    }

    /// A client sends a request to those of these replicas that are up, and dies.
    fn speak(&mut self, to: &[usize], timestamp: Timestamp, is_subject: bool) {
        let session = ClientId(self.random.u128(..).to_be_bytes());
        let (uid, said) = speech(&self.clients[0], &self.clients[1], session, timestamp);
        self.checks.on_issued(uid);
        if is_subject {
            self.stage.subject = Some(uid);
        }
        for node in to.iter().copied().filter(|node| self.nodes[*node].is_up()).collect::<Vec<_>>() {
            let id = self.network.connect(usize::MAX, node, self.nodes[node].incarnation);
            let at = self.now.after(Duration::from_micros(self.random.u64(1..HEARD_MAX_US)));
            said.iter().for_each(|message| self.plan_at(at, SimEvent::AtNode(id, Some(message.clone()))));
            let [gone, _] = self.network.break_off(&mut self.random, at, id, [false, true]);
            debug_assert!(gone > at && !self.network.is_lost(id, Way::Up));
            self.plan_at(gone, SimEvent::AtNode(id, None));
        }
    }
}
