//! The scenes within bounds. The first replica of the cast is the one that accepts the subject.

use super::script::{Act, Cast, Part, Scene, Script, hold, kill, ms, speak, subject, vanish};
use crate::simulator::faults;
use fastrand::Rng;

/// One replica alone receives a request, applies it, answers and dies before any other has its body. The others go on.
pub fn alone_with_an_answer(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    let (one, others) = (cast.one, cast.others());
    let held = random.u64(script.hold_max() / 3..script.hold_max());
    others.iter().for_each(|other| script.at(0, hold(one, *other, held)));
    let said = random.u64(0..40);
    script.at(said, subject(one, random.u64(0..30)));
    script.chatter(&cast.all(), said + 1, 150, 15);
    let death = said + random.u64(10..200);
    script.at(death, kill(one, &others, random.u64(1200..3000)));
    script.chatter(&others, death, 300, 40);
    script.scene(800)
}

/// A replica accepts a request, sends it to one that lives on, and dies with the body under way; it is back at once. A third
/// starts meanwhile. It has not known the old incarnation, need not wait for the new one, and cannot know what is under way.
pub fn started_into_a_death(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    // The one that lives on dials, since a new connection of the other's would end the old one with what is under way.
    let (living, dying) = (cast.one.min(cast.other), cast.one.max(cast.other));
    let starting = cast.rest[0];
    let down = random.u64(60..120);
    script.at(0, kill(starting, &[], down));
    let said = down - 35 + random.u64(0..40);
    script.at(said, subject(dying, random.u64(0..5)));
    let held = random.u64(script.late());
    script.on((dying, living, Part::Body), 0, hold(dying, living, held));
    script.on((dying, living, Part::Body), random.u64(1..5), kill(dying, &cast.rest, random.u64(1..5)));
    // Bystanders hear nothing of it either, as nothing reaches them before the death.
    let late = script.hold_max();
    cast.rest[1..].iter().for_each(|to| script.on((dying, *to, Part::Announcement), 0, hold(dying, *to, late)));
    script.chatter(&[&[living], &cast.rest[..]].concat(), said + 10, 300, 8);
    script.scene(1000)
}

/// As `missed_or_left`: it is killed, and back at once.
pub fn back_before_it_is_missed(script: Script, random: &mut Rng, cast: Cast) -> Scene {
    missed_or_left(script, random, cast, false)
}

/// As `missed_or_left`: it stops.
pub fn left_before_all_had_heard(script: Script, random: &mut Rng, cast: Cast) -> Scene {
    missed_or_left(script, random, cast, true)
}

/// A replica that closes late accepts a request below one that the others hold and have closed up to. It sends it to one of
/// them only, and dies and is back at once, or leaves. The rest wait for it no more, and hear of the request late.
fn missed_or_left(mut script: Script, random: &mut Rng, cast: Cast, leaves: bool) -> Scene {
    let (one, other) = (cast.one, cast.other);
    let hop = script.hop();
    script.lengthen_grace(0, one, script.lateness_max() - 20);
    let above = random.u64(40..200);
    script.at(above, speak(&cast.others(), 0));
    let said = above + random.u64(10..hop / 4);
    script.at(said, subject(one, said - above + random.u64(1..20)));
    let late = script.hold_max();
    let held = if leaves { hop / 8..hop / 3 } else { late..late + 1 };
    script.hold_announcements(random, one, &cast.rest, held);
    let end = match leaves {
        true => Act::Stop { node: one, down: ms(random.u64(1..1000)) },
        false => kill(one, &cast.rest, random.u64(1..5)),
    };
    script.on((one, other, Part::Body), random.u64(1..5), end);
    script.hold_announcements(random, other, &cast.rest, late / 2..late);
    script.scene(900)
}

/// A replica dies when it has sent a request to one other, where it comes late, and is back at once. The rest have heard of
/// neither, and do not wait for the new incarnation as long as that catches up.
pub fn back_before_it_is_heard(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    // The one that died dials the rest, so that they meet at once; the other dials it, and only when the request has come.
    let ([other, one], rest) = ([0, 1], (2..cast.all().len()).collect::<Vec<_>>());
    let late = script.hold_max();
    script.at(0, subject(one, random.u64(0..5)));
    script.hold_announcements(random, one, &rest, late..late + 1);
    let held = random.u64(script.late());
    script.on((one, other, Part::Body), 0, hold(one, other, held));
    script.on((one, other, Part::Body), random.u64(1..5), kill(one, &rest, random.u64(1..5)));
    script.hold_announcements(random, other, &rest, 1..late);
    // What is below the barrier would hold up what is said later.
    script.chatter(&[&[other], &rest[..]].concat(), random.u64(90..150), 150, 10);
    script.scene(900)
}

/// A replica is paused that has announced a request. As it goes on, it reads another that belongs before that one,
/// accepts it, and closes up to both. What it then sends to the rest comes late.
pub fn closed_over_what_it_has_read(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    let one = cast.one;
    script.at(0, speak(&cast.all(), 0));
    let begin = random.u64(5..20);
    let length = random.u64(60..(script.lateness_max() - 20).min(300));
    script.at(begin, Act::Pause { node: one, length: ms(length), in_turn: false });
    let said = begin + random.u64(5..length);
    script.at(said, subject(one, said + random.u64(1..5)));
    let held = script.hold_max() / 5..script.hold_max();
    script.hold_announcements(random, one, &cast.rest, held);
    script.scene(900)
}

/// A replica is paused, accepts a request as soon as it goes on, and its machine is lost. What it sends to one of the others comes late, and
/// what that one sends to the rest; so the rest have missed it for Δ before they hear of the request.
pub fn silent_before_its_death(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    let (one, other) = (cast.one, cast.other);
    let paused = script.hop() - random.u64(15..60);
    script.at(0, Act::Pause { node: one, length: ms(paused), in_turn: false });
    let late = script.hold_max();
    cast.rest.iter().for_each(|to| script.at(paused - 20, hold(one, *to, late)));
    // Its messages after the pause are still on their way when it is lost.
    let said = paused + random.u64(late / 3..late - late / 8);
    script.at(said, subject(one, random.u64(0..8)));
    let held = random.u64(script.late());
    script.on((one, other, Part::Body), 0, hold(one, other, held));
    script.on((one, other, Part::Body), random.u64(1..10), vanish(one, &cast.rest, random.u64(1200..3000)));
    let held = script.late();
    script.hold_announcements(random, other, &cast.rest, held);
    script.chatter(&cast.others(), said + 2, 200, 20);
    script.scene(1400)
}

/// A request comes to a replica over two hops, as late as can be, and while its announcement or its body is under way the replica is
/// suspended until a later request, which cannot be closed for want of the one that is lost, is older than Δ.
pub fn suspended_while_a_body_comes(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    let (one, other, suspended) = (cast.one, cast.other, cast.rest[0]);
    let (late, lateness) = (script.hold_max(), script.lateness_max());
    script.lengthen_grace(0, one, lateness);
    let timestamp = random.u64(15..40);
    script.chatter(&cast.others(), timestamp + 2, 25, 5);
    let said = timestamp + random.u64(lateness - 30..lateness - 5);
    script.at(said, subject(one, said - timestamp));
    script.hold_announcements(random, one, &cast.rest, late..late + 1);
    let held = random.u64(script.late());
    script.on((one, other, Part::Body), 0, hold(one, other, held));
    script.on((one, other, Part::Body), random.u64(1..10), vanish(one, &cast.rest, random.u64(1500..3000)));
    // The announcement or the body arrives while the replica is suspended, before the later requests are older than Δ.
    let (part, held) = (if random.bool() { Part::Announcement } else { Part::Body }, random.u64(script.late()));
    script.on((other, suspended, part), 0, hold(other, suspended, held));
    let pause = Act::Pause { node: suspended, length: ms(script.hop() - random.u64(15..60)), in_turn: true };
    script.on((other, suspended, part), random.u64(held / 4..held - held / 4), pause);
    script.scene(1300)
}

/// Of two replicas one, which closes late, announces to the other a request below one that the other holds, and the connection
/// breaks before the announcement arrives. The rest have left.
pub fn told_and_cut_off(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    let (one, other) = (cast.one, cast.other);
    for node in cast.rest {
        script.at(0, Act::Stop { node, down: ms(random.u64(1200..2500)) });
    }
    let lateness = script.lateness_max();
    script.lengthen_grace(200, one, lateness);
    let above = random.u64(220..260);
    script.chatter(&[one, other], above, 12, 4);
    let said = above + random.u64(lateness - 25..lateness - 5);
    script.at(said, subject(one, said - above + random.u64(1..5)));
    script.on((one, other, Part::Announcement), 1, Act::Sever { one, other });
    let held = random.u64(script.hold_max() / 5..script.hold_max() / 2);
    script.on((one, other, Part::List), 0, hold(one, other, held));
    script.scene(1000)
}

/// A replica that starts receives late requests, while one of the others does not consult it yet.
pub fn late_requests_at_its_start(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    let (one, other) = (cast.one, cast.other);
    let down = random.u64(50..200);
    script.at(0, Act::Stop { node: one, down: ms(down) });
    if random.bool() {
        let held = random.u64(script.hold_max() / 5..script.hold_max());
        script.on((one, other, Part::Join), 0, hold(one, other, held));
    }
    script.chatter(&cast.others(), down, 400, random.usize(15..150));
    let lateness = script.lateness_max() - 20;
    (down + 10..down + 450).step_by(10).for_each(|after| script.at(after, speak(&[one], random.u64(10..lateness))));
    script.scene(800)
}

/// A request takes all the hops that there can be: every replica but the last sends it to one other only, where it comes as
/// late as can be, and dies. Each is back at once, or stays away for long.
pub fn passed_on_by_the_dying(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    // The next of the chain dials the one before, since a new connection of that one's would end the old one with what is
    // under way on it.
    let chain: Vec<usize> = (0..cast.all().len()).rev().collect();
    let late = script.hold_max();
    let down = if random.bool() { 1..5 } else { 1200..3000 };
    script.at(0, subject(chain[0], random.u64(0..5)));
    for (at, pair) in chain.windows(2).enumerate().take(chain.len() - 2) {
        let (from, to, later) = (pair[0], pair[1], &chain[at + 2..]);
        script.hold_announcements(random, from, later, late..late + 1);
        let held = random.u64(script.late());
        script.on((from, to, Part::Body), 0, hold(from, to, held));
        script.on((from, to, Part::Body), random.u64(1..5), kill(from, later, random.u64(down.clone())));
    }
    // What is said later may not be applied before the subject has come to the last.
    script.chatter(&chain[chain.len() - 2..], random.u64(20..150), 600, 25);
    script.scene(1500)
}

/// A replica is killed again and again, soon after each of its starts. After some times it waits before it joins, so that its
/// next death costs the others nothing: they have no barrier any more.
pub fn crash_loop(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    let one = cast.one;
    let (every, down) = (random.u64(700..1000), random.u64(5..200));
    for number in 0..9 {
        script.at(number * every, kill(one, &cast.others(), down));
    }
    script.chatter(&cast.others(), 10, 9 * every, 40);
    // By the fifth start it waits for longer than it lives; the barrier of the death before lasts for up to two delivery bounds.
    for expected in 8..=9 {
        script.at(expected * every, Act::ExpectNoBarrier { nodes: cast.others() });
    }
    script.scene(9 * every + 200)
}

/// A replica is killed, and starts with a wrong clock: fast or slow, by seconds to years. The others serve on as if it were
/// away. When the clock is set right, it serves too.
pub fn a_wrong_clock_at_its_start(script: Script, random: &mut Rng, cast: Cast) -> Scene {
    a_wrong_clock(script, random, cast, true)
}

/// The wall clock of a replica's machine is set wrong while the replica runs, and right again.
pub fn a_clock_that_steps(script: Script, random: &mut Rng, cast: Cast) -> Scene {
    a_wrong_clock(script, random, cast, false)
}

/// As one of the two above.
fn a_wrong_clock(mut script: Script, random: &mut Rng, cast: Cast, kill: bool) -> Scene {
    let (one, others) = (cast.one, cast.others());
    let length = random.u64(1500..3500);
    script.at(0, Act::SetClock { node: one, skew: faults::wrong_skew(random), length: ms(length), kill });
    script.chatter(&cast.all(), 50, length, 40);
    for after in (100..length + 2000).step_by(100) {
        others.iter().for_each(|node| script.at(after, Act::ExpectServing { node: *node }));
    }

    // It has to notice, to start again, to find the other replicas, and to catch up.
    script.at(length + 5900, Act::ExpectServing { node: one });
    script.scene(length + 6000)
}

/// A request comes to a replica as late as can be, from one that dies. Before the replica has handled it, it is paused for a
/// little longer than a hop may take. If it then passed the request on, this would come too late for the rest.
pub fn paused_over_a_request(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    let (one, other) = (cast.one, cast.other);
    let (late, lateness, hop) = (script.hold_max(), script.lateness_max(), script.hop());
    script.lengthen_grace(0, one, lateness);
    let timestamp = random.u64(15..40);
    let said = timestamp + random.u64(lateness - 30..lateness - 5);
    script.at(said, subject(one, said - timestamp));
    script.hold_announcements(random, one, &cast.rest, late..late + 1);
    let held = random.u64(script.late());
    script.on((one, other, Part::Body), 0, hold(one, other, held));
    script.on((one, other, Part::Body), random.u64(1..10), kill(one, &cast.rest, random.u64(1500..3000)));
    let pause = Act::Pause { node: other, length: ms(random.u64(hop + 5..500.max(hop + 50))), in_turn: true };
    script.on((one, other, Part::Body), held, pause);
    script.hold_announcements(random, other, &cast.rest, late..late + 1);
    script.chatter(&cast.others(), timestamp + 2, 25, 5);
    script.chatter(&cast.rest, said, 300, 40);
    script.scene(2000)
}

/// A replica starts, and one of the others consults it before the rest do: that one accepts a request, tells only the one that
/// starts, and dies. The rest go on without it, and did not wait for the one that joins.
pub fn told_while_it_joins(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    let (dying, joining) = (cast.one, cast.other);
    let late = script.hold_max();
    let down = random.u64(60..120);
    script.at(0, kill(joining, &[], down));
    for to in cast.rest.iter().copied() {
        let held = random.u64(script.late());
        script.on((joining, to, Part::Join), 0, hold(joining, to, held));
        script.on((dying, to, Part::Announcement), 0, hold(dying, to, late));
    }
    script.on((joining, dying, Part::Join), random.u64(1..15), subject(dying, random.u64(0..5)));
    // It is asked for the body, or not.
    let end = kill(dying, &cast.rest, random.u64(1200..3000));
    script.on((dying, joining, Part::Body), random.u64(1..6), end.clone());
    script.on((dying, joining, Part::Announcement), random.u64(10..40), end);
    script.chatter(&cast.rest, down, 400, 8);
    script.scene(1200)
}

/// A replica accepts a request and tells another, which tells a third; the first two die at the same time, or one soon after the
/// other, and with more than three replicas perhaps another one. Some are back at once.
pub fn several_die_at_once(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    let (first, second) = (cast.one, cast.other);
    let late = script.hold_max();
    script.chatter(&cast.all(), 0, 60, 7);
    script.at(40, subject(first, random.u64(0..5)));
    script.hold_announcements(random, first, &cast.rest, late..late + 1);
    let held = 1..late / 2;
    script.hold_announcements(random, second, &cast.rest, held);
    let begin = random.u64(1..10);
    let mut dying = vec![first, second];
    dying.extend(cast.rest[1..].iter().copied().filter(|_| random.u8(..3) == 0));
    random.shuffle(&mut dying);
    for node in dying {
        let lost: Vec<usize> = cast.all().into_iter().filter(|other| *other != node && random.bool()).collect();
        let down = if random.bool() { random.u64(1..30) } else { random.u64(800..2500) };
        script.on((first, second, Part::Body), begin + random.u64(..6), kill(node, &lost, down));
    }
    script.chatter(&cast.rest[..1], 60, 500, 10);
    script.scene(1200)
}
