//! Scenes: faults in a given order, each scene made to test one rule of the protocol, with times drawn at random.
//!
//! Independent faults seldom meet: that a request reaches one replica only, which sends it to one other only and dies, while
//! a third is about to go on without it. A scene has this order from the start. The replicas get their parts at random. All
//! of them serve when a scene begins, no other fault occurs from [`QUIET`] before it until its end, and messages take no
//! longer than [`BRISK_MAX`](super::links::BRISK_MAX) unless the scene holds them up.
//!
//! Most scenes are *within bounds* (`within`). Beside deaths they use delays: a connection between live replicas may be held up
//! for `Script::hold_max`, nothing is lost on it and order is kept, and each hop of a request (its announcement, the fetch and
//! the body) is held up once, so that it takes less than Δ/N with clocks that differ. Pauses stay below Δ/N, and a replica is
//! paused only while no hop leads through it: before it accepts anything, or when everything that a hop still needs is on its
//! way to it. After a longer pause a replica rejoins, so it may come at any time. The scenes of `beyond` are played in that mode
//! only.
//!
//! To add a scene, give it a variant of [`SceneKind`], its row in [`SceneKind::traits`], and a function that writes its script.

mod beyond;
mod script;
mod within;

use super::Mode;
use super::bounds::Bounds;
use fastrand::Rng;
pub use script::{Act, Cue, Part, Scene};
use script::{Cast, Script};
use std::str::FromStr;
use std::time::Duration;

/// How long no fault has occurred when a scene begins, so that no hop is late already.
pub const QUIET: Duration = Duration::from_millis(350);
/// After this no scene begins, so that few last longer than other faults do.
pub const LAST: Duration = Duration::from_secs(10);

/// Which scene is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SceneKind {
    AloneWithAnAnswer,
    StartedIntoADeath,
    BackBeforeItIsMissed,
    LeftBeforeAllHadHeard,
    SilentBeforeItsDeath,
    SuspendedWhileABodyComes,
    ToldAndCutOff,
    LateRequestsAtItsStart,
    BackBeforeItIsHeard,
    ClosedOverWhatItHasRead,
    PassedOnByTheDying,
    CrashLoop,
    PausedOverARequest,
    WrongClockAtItsStart,
    ClockThatSteps,
    ToldWhileItJoins,
    SeveralDieAtOnce,
    TwoSlowLogs,
    SettledWithoutIt,
    BodiesLaterThanTheBound,
    ListedAndNeverSent,
}

/// What is known of a kind of scene.
struct Traits {
    /// What it is counted as, and called on the command line.
    name: &'static str,
    mode: Mode,
    /// The least number of replicas that have parts in it.
    replicas: usize,
    write: fn(Script, &mut Rng, Cast) -> Scene,
}

impl SceneKind {
    pub const ALL: [SceneKind; 21] = [
        SceneKind::AloneWithAnAnswer,
        SceneKind::StartedIntoADeath,
        SceneKind::BackBeforeItIsMissed,
        SceneKind::LeftBeforeAllHadHeard,
        SceneKind::SilentBeforeItsDeath,
        SceneKind::SuspendedWhileABodyComes,
        SceneKind::ToldAndCutOff,
        SceneKind::LateRequestsAtItsStart,
        SceneKind::BackBeforeItIsHeard,
        SceneKind::ClosedOverWhatItHasRead,
        SceneKind::PassedOnByTheDying,
        SceneKind::CrashLoop,
        SceneKind::PausedOverARequest,
        SceneKind::WrongClockAtItsStart,
        SceneKind::ClockThatSteps,
        SceneKind::ToldWhileItJoins,
        SceneKind::SeveralDieAtOnce,
        SceneKind::TwoSlowLogs,
        SceneKind::SettledWithoutIt,
        SceneKind::BodiesLaterThanTheBound,
        SceneKind::ListedAndNeverSent,
    ];

    fn traits(self) -> Traits {
        let (name, mode, replicas, write): (_, _, _, fn(Script, &mut Rng, Cast) -> Scene) = match self {
            SceneKind::AloneWithAnAnswer => ("alone with an answer", Mode::Bounds, 2, within::alone_with_an_answer),
            SceneKind::StartedIntoADeath => ("started into a death", Mode::Bounds, 3, within::started_into_a_death),
            SceneKind::BackBeforeItIsMissed => {
                ("back before it is missed", Mode::Bounds, 3, within::back_before_it_is_missed)
            }
            SceneKind::LeftBeforeAllHadHeard => {
                ("left before all had heard", Mode::Bounds, 3, within::left_before_all_had_heard)
            }
            SceneKind::SilentBeforeItsDeath => {
                ("silent before its death", Mode::Bounds, 3, within::silent_before_its_death)
            }
            SceneKind::SuspendedWhileABodyComes => {
                ("suspended while a body comes", Mode::Bounds, 3, within::suspended_while_a_body_comes)
            }
            SceneKind::ToldAndCutOff => ("told and cut off", Mode::Bounds, 2, within::told_and_cut_off),
            SceneKind::LateRequestsAtItsStart => {
                ("late requests at its start", Mode::Bounds, 2, within::late_requests_at_its_start)
            }
            SceneKind::BackBeforeItIsHeard => {
                ("back before it is heard", Mode::Bounds, 3, within::back_before_it_is_heard)
            }
            SceneKind::ClosedOverWhatItHasRead => {
                ("closed over what it has read", Mode::Bounds, 2, within::closed_over_what_it_has_read)
            }
            SceneKind::PassedOnByTheDying => {
                ("passed on by the dying", Mode::Bounds, 3, within::passed_on_by_the_dying)
            }
            SceneKind::CrashLoop => ("crash loop", Mode::Bounds, 2, within::crash_loop),
            SceneKind::PausedOverARequest => ("paused over a request", Mode::Bounds, 3, within::paused_over_a_request),
            SceneKind::WrongClockAtItsStart => {
                ("a wrong clock at its start", Mode::Bounds, 2, within::a_wrong_clock_at_its_start)
            }
            SceneKind::ClockThatSteps => ("a clock that steps", Mode::Bounds, 2, within::a_clock_that_steps),
            SceneKind::ToldWhileItJoins => ("told while it joins", Mode::Bounds, 3, within::told_while_it_joins),
            SceneKind::SeveralDieAtOnce => ("several die at once", Mode::Bounds, 3, within::several_die_at_once),
            SceneKind::TwoSlowLogs => ("two slow logs", Mode::Beyond, 3, beyond::two_slow_logs),
            SceneKind::SettledWithoutIt => ("settled without it", Mode::Beyond, 3, beyond::settled_without_it),
            SceneKind::BodiesLaterThanTheBound => {
                ("bodies later than the bound", Mode::Beyond, 2, beyond::bodies_later_than_the_bound)
            }
            SceneKind::ListedAndNeverSent => ("listed and never sent", Mode::Beyond, 2, beyond::listed_and_never_sent),
        };
        Traits { name, mode, replicas, write }
    }

    /// What it is counted as.
    pub fn name(self) -> &'static str {
        self.traits().name
    }

    /// Whether the scene can be played in this mode by so many replicas.
    pub fn is_possible(self, mode: Mode, replicas: usize) -> bool {
        let traits = self.traits();
        traits.replicas <= replicas && (traits.mode == Mode::Bounds || mode == Mode::Beyond)
    }

    /// Whether it is drawn at random. A crash loop is not: it takes as long as all faults of a run.
    pub fn is_drawn(self) -> bool {
        self != SceneKind::CrashLoop
    }

    /// Writes the scene down, with parts and times drawn at random.
    pub fn compose(self, random: &mut Rng, replicas: usize) -> Scene {
        let script = Script::new(Bounds::of(replicas));
        let cast = Cast::draw(random, replicas);
        (self.traits().write)(script, random, cast)
    }
}

impl FromStr for SceneKind {
    type Err = String;

    fn from_str(text: &str) -> Result<SceneKind, String> {
        let found = SceneKind::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| {
            let names: Vec<&str> = SceneKind::ALL.into_iter().map(SceneKind::name).collect();
            format!("no scene is called `{text}`; there are: {}", names.join(", "))
        })
    }
}

/// Some kind of scene that can be played; none when there are too few replicas.
pub fn choose(random: &mut Rng, mode: Mode, replicas: usize) -> Option<SceneKind> {
    let can_be_drawn = |kind: &SceneKind| kind.is_drawn() && kind.is_possible(mode, replicas);
    random.choice(SceneKind::ALL.into_iter().filter(can_be_drawn).collect::<Vec<_>>())
}
