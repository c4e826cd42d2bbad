//! The scenes beyond bounds: situations that have failed once.

use super::script::{Act, Cast, Part, Scene, Script, hold, kill, ms, speak, subject};
use fastrand::Rng;

/// A replica is alone for longer than Δ, and applies a request that the others do not get. It is killed, and has to catch up
/// with two peers whose logs have so much after that request, and come so slowly, that each takes longer than Δ to read. By
/// the time that it has read the one, the other may have more again; so a second reading must go on where the first ended.
pub fn two_slow_logs(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    let (one, others) = (cast.one, cast.others());
    script.at(0, Act::Hush { length: ms(9500) });
    script.at(0, Act::CutOff { node: one, length: ms(2400) });

    // After Δ the two sides have lost each other, and Δ/N and more after that their barriers are past.
    let said = 1000 + script.hop() + random.u64(150..250);
    script.at(said, subject(one, 0));
    script.chatter(&others, said + 5, 540, 3);

    let death = said + 600 + random.u64(0..100);
    script.at(death, kill(one, &others, 2400_u64.saturating_sub(death) + 50));
    for peer in &others[..2] {
        let (longer, length) = (ms(random.u64(150..180)), ms(6900));
        script.at(2400, Act::SlowDown { from: *peer, to: one, longer, length });
    }
    script.at(9000, Act::ExpectServing { node: one });
    script.scene(9500)
}

/// A replica alone receives a request, and the others hear of it at once; but it takes longer than Δ to send them the body. They wait
/// for it before they apply what comes after it: a repair would be certain otherwise.
pub fn bodies_later_than_the_bound(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    let (one, others) = (cast.one, cast.others());
    script.at(0, Act::Hush { length: ms(4000) });
    let said = random.u64(100..300);
    let wait = ms(1000 + random.u64(50..700));
    others.iter().for_each(|to| script.at(0, Act::SlowBodies { from: one, to: *to, wait, length: ms(3000) }));
    script.at(said, subject(one, 0));
    script.chatter(&cast.all(), said + 5, 100, 20);
    others.iter().for_each(|node| script.at(said + 2500, Act::ExpectNothingPending { node: *node }));
    script.at(said + 2500, Act::ExpectNoRepair);
    script.scene(4000)
}

/// A replica tells the others of a request, and sends its body to nobody. They wait for it, but no longer than 2 Δ, and go on without
/// the replica.
pub fn listed_and_never_sent(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    let (one, others) = (cast.one, cast.others());
    script.at(0, Act::Hush { length: ms(7000) });
    let said = random.u64(100..300);
    let wait = ms(60_000);
    others.iter().for_each(|to| script.at(0, Act::SlowBodies { from: one, to: *to, wait, length: ms(3500) }));
    script.at(said, subject(one, 0));
    script.chatter(&cast.all(), said + 5, 100, 20);

    let latest = said + 105 + 2000 + 100;
    others.iter().for_each(|node| script.at(latest, Act::ExpectNothingPending { node: *node }));
    // By then it has caught up with the others, and they with it.
    cast.all().iter().for_each(|node| script.at(6500, Act::ExpectServing { node: *node }));
    script.scene(7000)
}

/// A replica is alone and applies a request. Of the others, which are more than half of all, one settles its log without that
/// request; another has not heard that they agree when it meets the lonely replica, and takes the request in. So the log of a
/// connected peer has a request that the first one has no place for. It must not put it into its log, nor announce it: it could not
/// send it to anybody.
pub fn settled_without_it(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    let Cast { one, other: near, .. } = cast;
    script.at(0, Act::Hush { length: ms(7500) });

    let said = 1000 + script.hop() + random.u64(150..250);
    script.at(0, Act::CutOff { node: one, length: ms(said + 4500) });
    script.at(said, subject(one, 0));
    for number in 0..6 {
        script.at(said + 5 + number * random.u64(100..400), speak(&cast.others(), 0));
    }

    // Those that are far from the replica settle what `near` reports, as soon as it does. What they report comes too late there: it
    // is connected to one more replica by then, which does not agree.
    script.on((near, cast.rest[0], Part::Boundary), 0, Act::Reunite { one, other: near });
    for far in cast.rest {
        script.on((far, near, Part::Boundary), 0, hold(far, near, random.u64(500..700)));
    }
    script.scene(7500)
}
