//! Whole runs in virtual time: fixed sets of seeds within bounds and beyond, in which every kind of fault has to occur.

use stablechat_tests::simulator::{
    self, CUT_SHORT, ENDED_FOR_ITS_CLOCK, FOREIGN_ANSWER, Failure, Fault, Mode, OTHER_COMMAND, RAISED_ITS_CLOCK,
    REPLICAS_MAX, STOOD_DOWN, Scenario, SceneKind, TOLD_TOO_SLOW, TWO_SLOW_LOGS, Tally, UNPLACEABLE,
};
use std::thread;

/// How many seeds are run in each mode, 40 for each number of replicas from 1 to 5: as many as a machine of two cores does in
/// about a minute.
const SEEDS: u64 = 200;
/// The first of them: from here on, so many draw each scene several times.
const FIRST: u64 = 600;

/// Runs scenarios on all cores, and adds up what was counted in them.
fn run_all(scenarios: &[Scenario]) -> Tally {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let run_some = |first: usize| -> Result<Tally, Failure> {
        let mut tally = Tally::default();
        for scenario in scenarios.iter().skip(first).step_by(threads) {
            tally.merge(&simulator::run(*scenario)?.tally);
        }
        Ok(tally)
    };
    let tallies: Vec<Result<Tally, Failure>> = thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|first| scope.spawn(move || run_some(first))).collect();
        handles.into_iter().map(|handle| handle.join().expect("panics are caught in the run")).collect()
    });

    let mut tally = Tally::default();
    for some in tallies {
        tally.merge(&some.unwrap_or_else(|failure| panic!("{failure}")));
    }
    println!("{} seeds: {tally}", scenarios.len());
    tally
}

/// Runs the fixed set of a mode, in which every fault of the mode has to occur, every scene, and `more`.
fn run_fixed_set(mode: Mode, more: &[&str]) {
    let scenarios: Vec<Scenario> = (FIRST..FIRST + SEEDS).map(|seed| Scenario::of_seed(mode, seed)).collect();
    let tally = run_all(&scenarios);

    let faults = Fault::NAMES.iter().filter(|(of, _)| *of == Mode::Bounds || mode == Mode::Beyond);
    let usual = ["refused late", "refused not serving", CUT_SHORT, OTHER_COMMAND, FOREIGN_ANSWER];
    for fault in faults.map(|(_, name)| *name).chain(usual).chain(more.iter().copied()) {
        assert!(tally.of(fault) >= SEEDS / 20, "{fault}: only {}", tally.of(fault));
    }
    let is_drawn = |scene: &SceneKind| scene.is_drawn() && scene.is_possible(mode, REPLICAS_MAX);
    let scenes = SceneKind::ALL.into_iter().filter(is_drawn);
    for scene in scenes.map(SceneKind::name) {
        assert!(tally.of(scene) >= SEEDS / 100, "the scene `{scene}`: only {}", tally.of(scene));
    }
}

#[test]
fn within_bounds_replicas_agree_whatever_goes_wrong() {
    run_fixed_set(Mode::Bounds, &[STOOD_DOWN, ENDED_FOR_ITS_CLOCK]);
}

#[test]
fn beyond_bounds_replicas_become_equal_and_lose_nothing() {
    run_fixed_set(Mode::Beyond, &["requests undone and applied again", STOOD_DOWN, RAISED_ITS_CLOCK]);
}

#[test]
fn nine_replicas_do_as_few_do() {
    for mode in [Mode::Bounds, Mode::Beyond] {
        let tally = run_all(&[0, 1, 2].map(|seed| Scenario::of_seed(mode, seed).with_replicas(9)));
        assert!(tally.of("requests answered") > 0);
    }
}

/// Runs a scene alone, with three to five replicas, and checks that the situation for which it is kept occurred.
fn run_scene(mode: Mode, scene: SceneKind, situation: &str) {
    let of_size =
        |replicas| (0..10).map(move |seed| Scenario::of_seed(mode, seed).with_replicas(replicas).with_scene(scene));
    let tally = run_all(&(3..=5).flat_map(of_size).collect::<Vec<_>>());
    assert!(tally.of(situation) > 0, "the scene `{}` never showed `{situation}`", scene.name());
}

/// A replica that catches up with two peers reads their logs in turns. If each reading began where the logs part, and took
/// longer than Δ, the replica would never have read both of late, and would never join.
#[test]
fn a_replica_joins_though_two_logs_take_long_to_read() {
    run_scene(Mode::Beyond, SceneKind::TwoSlowLogs, TWO_SLOW_LOGS);
}

/// A request of a peer's log that belongs below what is settled here has no place in our log. If the protocol saw it, the
/// replica would announce a request that it cannot send to anybody.
#[test]
fn a_request_below_the_settled_prefix_is_not_announced() {
    run_scene(Mode::Beyond, SceneKind::SettledWithoutIt, UNPLACEABLE);
}

/// A replica that is killed again and again waits before it joins, so that after some deaths the others have no barrier any more.
#[test]
fn a_crash_loop_does_not_make_the_others_slow() {
    run_scene(Mode::Bounds, SceneKind::CrashLoop, SceneKind::CrashLoop.name());
}

/// The clock of one replica is fast or slow by seconds to years, at its start or by a step while it runs. The others serve all the
/// time and refuse nothing for it, and it serves again when its clock is right: with two replicas, with a majority, and with more.
#[test]
fn one_wrong_clock_harms_nobody() {
    let steps: &[&str] = &["clocks stepped forward", "clocks stepped back"];
    for (scene, faults) in
        [(SceneKind::WrongClockAtItsStart, &["clocks wrong at a start"][..]), (SceneKind::ClockThatSteps, steps)]
    {
        for replicas in 2..=5 {
            let of_seed = |seed| Scenario::of_seed(Mode::Bounds, seed).with_replicas(replicas).with_scene(scene);
            let tally = run_all(&(0..10).map(of_seed).collect::<Vec<_>>());
            faults.iter().for_each(|fault| assert!(tally.of(fault) > 0, "{replicas} replicas: no {fault}"));
            assert!(tally.of("requests answered") > 0, "{replicas} replicas");
            assert!(tally.of(STOOD_DOWN) > 0, "{replicas} replicas: none stood down");
        }
    }
}

/// A body comes later than Δ after its request's timestamp, though the request was listed at once. A replica that applied later
/// requests meanwhile would have to repair its log.
#[test]
fn later_requests_wait_for_a_body_on_its_way() {
    let scene = SceneKind::BodiesLaterThanTheBound;
    run_scene(Mode::Beyond, scene, scene.name());
}

/// A replica that lists a request and sends it to nobody holds the others up for 2 Δ at most, and has to rejoin.
#[test]
fn a_body_that_never_comes_is_given_up() {
    run_scene(Mode::Beyond, SceneKind::ListedAndNeverSent, TOLD_TOO_SLOW);
}

#[test]
fn a_seed_reproduces_a_run_exactly() {
    for scenario in [Scenario::of_seed(Mode::Bounds, 3), Scenario::of_seed(Mode::Beyond, 14)] {
        let run = simulator::run(scenario).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(run, simulator::run(scenario).unwrap_or_else(|failure| panic!("{failure}")));
    }
}
