//! Scenes: what goes wrong in a given order, to put one rule of the protocol to the test, with lengths drawn at random.
//!
//! Faults that fall as they like seldom meet: that a request reaches one replica only, which tells it to one other only and
//! dies, while a third is about to go on without it. A scene has this order from the start. Three replicas play, in parts
//! drawn at random: all serve, and nothing else goes wrong from [`QUIET`] before the scene until its end.
//!
//! All scenes are *within bounds*. What they use beside death is time: a connection between live replicas may be held up for
//! [`HOLD_MAX_MS`], nothing is lost on it and order is kept, and each hop of a request (its listing, the fetch and the body)
//! is held up once, so that it takes less than Δ/N with clocks that differ. Pauses stay below Δ/2, and a replica is paused
//! only while no hop leads through it: before it accepts anything, or when all that a hop still needs is on its way to it.

use super::REPLICAS;
use fastrand::Rng;
use std::time::Duration;

/// How long nothing has gone wrong when a scene begins, so that no hop is late already.
pub const QUIET: Duration = Duration::from_millis(350);
/// The longest that a connection is held up, in milliseconds. With three messages that take no longer than
/// [`BRISK_MAX`](super::links::BRISK_MAX), and as many turns of a replica, a hop takes less than 300 ms.
const HOLD_MAX_MS: u64 = 265;

/// What goes wrong in a given order.
#[derive(Clone, Debug)]
pub struct Scene {
    /// What it is counted as.
    pub kind: &'static str,
    /// How long it takes.
    pub length: Duration,
    /// What happens, and when.
    pub steps: Vec<(Cue, Act)>,
}

/// When something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cue {
    /// So long after the beginning.
    After(Duration),
    /// So long after a replica sends this to another.
    NetCommand {
        /// The replica.
        from: usize,
        /// The other.
        to: usize,
        /// What it sends.
        part: Part,
        /// How long after it; when at once, before the message is on its way.
        wait: Duration,
    },
}

/// A message: that somebody joins, or one about the request that the scene is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// That it is held, as news.
    Announcement,
    /// That it is held, among all else that is, on a new connection.
    List,
    /// The request itself.
    Body,
    /// That its sender wants to be consulted.
    Join,
}

/// Something that happens in a scene.
#[derive(Clone, Debug)]
pub enum Act {
    /// Someone says something to these replicas, and is gone.
    Speak {
        /// The replicas.
        to: Vec<usize>,
        /// How far its timestamp lies back.
        behind: Duration,
        /// Whether it is the request that the scene is about.
        is_subject: bool,
    },
    /// What is sent from one replica to another on the present connection comes after this time.
    Hold {
        /// The one.
        from: usize,
        /// The other.
        to: usize,
        /// For how long.
        length: Duration,
    },
    /// The connection between two replicas breaks, and all that is under way is lost.
    Sever {
        /// One of them.
        one: usize,
        /// The other.
        other: usize,
    },
    /// A replica is killed.
    Kill {
        /// The replica.
        node: usize,
        /// To whom what is under way is lost.
        lost_to: Vec<usize>,
        /// How long it stays down.
        down: Duration,
    },
    /// A replica is asked to stop.
    Stop {
        /// The replica.
        node: usize,
        /// How long it stays down.
        down: Duration,
    },
    /// A replica is paused.
    Pause {
        /// The replica.
        node: usize,
        /// For how long.
        length: Duration,
        /// Whether in the middle of its next turn, when it has read what arrived and not yet taken it in.
        in_turn: bool,
    },
}

/// Some scene.
pub fn compose(random: &mut Rng) -> Scene {
    let mut parts = [0, 1, 2];
    debug_assert_eq!(parts.len(), REPLICAS);
    random.shuffle(&mut parts);
    let script = Script { steps: Vec::new() };
    match random.u8(..10) {
        0 => alone_with_an_answer(script, random, parts),
        1 => started_into_a_death(script, random, parts),
        2 => back_before_it_is_missed(script, random, parts, false),
        3 => back_before_it_is_missed(script, random, parts, true),
        4 => silent_before_its_death(script, random, parts),
        5 => suspended_while_a_body_comes(script, random, parts),
        6 => told_and_cut_off(script, random, parts),
        7 => spoken_to_late_at_its_start(script, random, parts),
        8 => back_before_it_is_heard(script, random),
        _ => closed_over_what_it_has_read(script, random, parts),
    }
}

/// One replica alone hears a request, applies it, answers and dies before anyone else has its body. The others go on.
fn alone_with_an_answer(mut script: Script, random: &mut Rng, [one, other, third]: [usize; 3]) -> Scene {
    let held = random.u64(80..HOLD_MAX_MS);
    script.at(0, hold(one, other, held));
    script.at(0, hold(one, third, held));
    let said = random.u64(0..40);
    script.at(said, subject(one, random.u64(0..30)));
    script.chatter(&[one, other, third], said + 1, 150, 15);
    let death = said + random.u64(10..200);
    script.at(death, kill(one, &[other, third], random.u64(1200..3000)));
    script.chatter(&[other, third], death, 300, 40);
    script.scene("scenes: alone with an answer", 800)
}

/// A replica accepts a request, sends it to one that lives on, and dies with the body under way; it is back at once. A third
/// starts meanwhile. It has not known the old incarnation, need not wait for the new one, and cannot know what is under way.
fn started_into_a_death(mut script: Script, random: &mut Rng, [one, other, starting]: [usize; 3]) -> Scene {
    // The one that lives on dials, since a new connection of the other's would end the old one with what is under way.
    let (living, dying) = (one.min(other), one.max(other));
    let down = random.u64(60..120);
    script.at(0, kill(starting, &[], down));
    let said = down - 35 + random.u64(0..40);
    script.at(said, subject(dying, random.u64(0..5)));
    let held = random.u64(200..HOLD_MAX_MS);
    script.on((dying, living, Part::Body), 0, hold(dying, living, held));
    script.on((dying, living, Part::Body), random.u64(1..5), kill(dying, &[starting], random.u64(1..5)));
    script.chatter(&[living, starting], said + 10, 300, 8);
    script.scene("scenes: started into a death", 1000)
}

/// A replica that closes late accepts a request below one that the others hold and have closed up to. It sends it to one of
/// them only, and dies and is back at once, or leaves. The third waits for it no more, and hears of the request late.
fn back_before_it_is_missed(
    mut script: Script,
    random: &mut Rng,
    [one, other, third]: [usize; 3],
    leaves: bool,
) -> Scene {
    script.slow_down(0, one, 300);
    let above = random.u64(40..200);
    script.at(above, speak(&[other, third], 0));
    let said = above + random.u64(10..90);
    script.at(said, subject(one, said - above + random.u64(1..20)));
    let held = if leaves { random.u64(40..120) } else { HOLD_MAX_MS };
    script.on((one, third, Part::Announcement), 0, hold(one, third, held));
    let end = match leaves {
        true => Act::Stop { node: one, down: ms(random.u64(1..1000)) },
        false => kill(one, &[third], random.u64(1..5)),
    };
    script.on((one, other, Part::Body), random.u64(1..5), end);
    script.on((other, third, Part::Announcement), 0, hold(other, third, random.u64(150..HOLD_MAX_MS)));
    let kind = if leaves { "scenes: left before all had heard it" } else { "scenes: back before it is missed" };
    script.scene(kind, 900)
}

/// A replica dies when it has sent a request to one other, where it comes late, and is back at once. The third has heard of
/// neither, and does not wait for the new incarnation as long as that catches up.
fn back_before_it_is_heard(mut script: Script, random: &mut Rng) -> Scene {
    // The one that died dials the third, so that they meet at once; the other dials it, and only when the request has come.
    let [other, one, third] = [0, 1, 2];
    script.at(0, subject(one, random.u64(0..5)));
    script.on((one, third, Part::Announcement), 0, hold(one, third, HOLD_MAX_MS));
    script.on((one, other, Part::Body), 0, hold(one, other, random.u64(200..HOLD_MAX_MS)));
    script.on((one, other, Part::Body), random.u64(1..5), kill(one, &[third], random.u64(1..5)));
    script.on((other, third, Part::Announcement), 0, hold(other, third, random.u64(1..HOLD_MAX_MS)));
    // What is below the barrier would hold up what is said later.
    script.chatter(&[other, third], random.u64(90..150), 150, 10);
    script.scene("scenes: back before it is heard", 900)
}

/// A replica is paused that has said that it holds a request. As it goes on, it reads another that belongs before that one,
/// accepts it, and closes up to both. What it then says to one of the others comes late.
fn closed_over_what_it_has_read(mut script: Script, random: &mut Rng, [one, other, third]: [usize; 3]) -> Scene {
    script.at(0, speak(&[one, other, third], 0));
    let begin = random.u64(5..20);
    let length = random.u64(60..300);
    script.at(begin, Act::Pause { node: one, length: ms(length), in_turn: false });
    let said = begin + random.u64(5..length);
    script.at(said, subject(one, said + random.u64(1..5)));
    script.on((one, third, Part::Announcement), 0, hold(one, third, random.u64(50..HOLD_MAX_MS)));
    script.scene("scenes: closed over what it has read", 900)
}

/// A replica is paused, accepts a request as soon as it goes on, and dies. What it says to one of the others comes late, and
/// what that one says to the third; so the third misses it for Δ before it hears of the request.
fn silent_before_its_death(mut script: Script, random: &mut Rng, [one, other, third]: [usize; 3]) -> Scene {
    let paused = random.u64(380..440);
    script.at(0, Act::Pause { node: one, length: ms(paused), in_turn: false });
    script.at(paused - 20, hold(one, third, HOLD_MAX_MS));
    let said = paused + random.u64(60..130);
    script.at(said, subject(one, random.u64(0..8)));
    script.on((one, other, Part::Body), 0, hold(one, other, random.u64(200..HOLD_MAX_MS)));
    script.on((one, other, Part::Body), random.u64(1..10), kill(one, &[third], random.u64(1200..3000)));
    script.on((other, third, Part::Announcement), 0, hold(other, third, random.u64(200..HOLD_MAX_MS)));
    script.chatter(&[other, third], said + 2, 200, 20);
    script.scene("scenes: silent before its death", 1300)
}

/// A request comes to a replica over two hops, as late as can be, and while its body is under way the replica is suspended
/// until a later request, which cannot be closed for want of the one that died, is older than Δ.
fn suspended_while_a_body_comes(mut script: Script, random: &mut Rng, [one, other, third]: [usize; 3]) -> Scene {
    script.slow_down(0, one, 320);
    let timestamp = random.u64(15..40);
    script.chatter(&[other, third], timestamp + 2, 25, 5);
    let said = timestamp + random.u64(290..315);
    script.at(said, subject(one, said - timestamp));
    script.on((one, third, Part::Announcement), 0, hold(one, third, HOLD_MAX_MS));
    script.on((one, other, Part::Body), 0, hold(one, other, random.u64(200..HOLD_MAX_MS)));
    script.on((one, other, Part::Body), random.u64(1..10), kill(one, &[third], random.u64(1500..3000)));
    script.on((other, third, Part::Body), 0, hold(other, third, random.u64(100..HOLD_MAX_MS)));
    let pause = Act::Pause { node: third, length: ms(random.u64(390..440)), in_turn: true };
    script.on((other, third, Part::Body), random.u64(1..100), pause);
    script.scene("scenes: suspended while a body comes", 1300)
}

/// Of two replicas one, which closes late, tells the other of a request below what that holds, and the connection breaks
/// before it hears it. The third has left.
fn told_and_cut_off(mut script: Script, random: &mut Rng, [one, other, third]: [usize; 3]) -> Scene {
    script.at(0, Act::Stop { node: third, down: ms(random.u64(1200..2500)) });
    script.slow_down(200, one, 320);
    let above = random.u64(220..260);
    script.chatter(&[one, other], above, 12, 4);
    let said = above + random.u64(295..315);
    script.at(said, subject(one, said - above + random.u64(1..5)));
    script.on((one, other, Part::Announcement), 1, Act::Sever { one, other });
    script.on((one, other, Part::List), 0, hold(one, other, random.u64(50..HOLD_MAX_MS / 2)));
    script.scene("scenes: told and cut off", 1000)
}

/// A replica that begins is spoken to late, while one of the others does not consult it yet.
fn spoken_to_late_at_its_start(mut script: Script, random: &mut Rng, [one, other, third]: [usize; 3]) -> Scene {
    let down = random.u64(50..200);
    script.at(0, Act::Stop { node: one, down: ms(down) });
    if random.bool() {
        script.on((one, other, Part::Join), 0, hold(one, other, random.u64(50..HOLD_MAX_MS)));
    }
    script.chatter(&[other, third], down, 400, random.usize(15..150));
    (down + 10..down + 450).step_by(10).for_each(|after| script.at(after, speak(&[one], random.u64(10..300))));
    script.scene("scenes: spoken to late at its start", 800)
}

/// A scene in the making.
struct Script {
    steps: Vec<(Cue, Act)>,
}

impl Script {
    /// Adds something that happens so many milliseconds after the beginning.
    fn at(&mut self, after: u64, act: Act) {
        self.steps.push((Cue::After(ms(after)), act));
    }

    /// Adds something that happens so many milliseconds after a message.
    fn on(&mut self, (from, to, part): (usize, usize, Part), wait: u64, act: Act) {
        self.steps.push((Cue::NetCommand { from, to, part, wait: ms(wait) }, act));
    }

    /// Has something said to these replicas from time to time.
    fn chatter(&mut self, to: &[usize], from: u64, length: u64, every: usize) {
        (from..from + length).step_by(every).for_each(|after| self.at(after, speak(to, 0)));
    }

    /// Lets a replica hear several that speak late, so that its grace becomes so long.
    fn slow_down(&mut self, after: u64, node: usize, grace: u64) {
        (0..4).for_each(|_| self.at(after, speak(&[node], grace)));
    }

    /// The scene of this length.
    fn scene(self, kind: &'static str, length: u64) -> Scene {
        Scene { kind, length: ms(length), steps: self.steps }
    }
}

/// Something said to these replicas, so many milliseconds late.
fn speak(to: &[usize], behind: u64) -> Act {
    Act::Speak { to: to.to_vec(), behind: ms(behind), is_subject: false }
}

/// What the scene is about, said to one replica so many milliseconds late.
fn subject(to: usize, behind: u64) -> Act {
    Act::Speak { to: vec![to], behind: ms(behind), is_subject: true }
}

/// A connection that is held up for so many milliseconds, one way.
fn hold(from: usize, to: usize, length: u64) -> Act {
    Act::Hold { from, to, length: ms(length) }
}

/// A death of so many milliseconds.
fn kill(node: usize, lost_to: &[usize], down: u64) -> Act {
    Act::Kill { node, lost_to: lost_to.to_vec(), down: ms(down) }
}

/// So many milliseconds.
fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
