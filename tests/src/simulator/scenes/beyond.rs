//! The scenes beyond bounds: situations that have failed once.

use super::script::{Act, Cast, Scene, Script, kill, ms, speak, subject};
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

/// A replica is alone for so long that the others, more than half of all, settle their log without a request that it has
/// applied. They must not take that request from its log, since they cannot put it into theirs: they would announce a
/// request that they cannot send to anybody.
pub fn settled_without_it(mut script: Script, random: &mut Rng, cast: Cast) -> Scene {
    let one = cast.one;
    script.at(0, Act::Hush { length: ms(6500) });

    // A boundary at most 1 s after the request is settled when it lies 2 s back, but what is applied is listed for 4 s only.
    let said = 1000 + script.hop() + random.u64(150..250);
    let alone = said + 3000 + random.u64(150..400);
    script.at(0, Act::CutOff { node: one, length: ms(alone) });
    script.at(said, subject(one, 0));
    for number in 0..6 {
        script.at(said + 5 + number * random.u64(100..400), speak(&cast.others(), 0));
    }
    script.scene(6500)
}
