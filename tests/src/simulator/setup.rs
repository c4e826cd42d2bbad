//! The settings of a simulated cluster.

use super::scenario::Scenario;
use super::scenes::SceneKind;
use fastrand::Rng;

/// The settings of the cluster file.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub min_live: usize,
    pub refusal_is_proof: bool,
    pub log_retention: u64,
    pub replicas: usize,
    pub restarts_free: u32,
}

/// How often a replica may begin anew before it waits, as in a real cluster.
const RESTARTS_FREE: u32 = 3;
/// More often than any does in a run.
const NO_WAIT: u32 = 1000;

impl Setup {
    /// The usual settings, or a log so short that a replica that was away needs a snapshot, or replicas that answer nothing when
    /// they are in contact with too few, or that wait for the dead.
    pub fn choose(random: &mut Rng, scenario: Scenario) -> Setup {
        let replicas = scenario.replicas;
        if scenario.scene == Some(SceneKind::SettledWithoutIt) {
            // Replicas settle without those that are away when their logs are too long; and none of them may be muted.
            let log_retention = random.u64(500..1_500);
            return Setup { min_live: 1, refusal_is_proof: true, log_retention, replicas, restarts_free: NO_WAIT };
        }
        if let Some(scene) = scenario.scene {
            // In most scenes replicas are killed often, and all serve when the next one begins.
            let restarts_free = if scene == SceneKind::CrashLoop { RESTARTS_FREE } else { NO_WAIT };
            let log_retention = u64::MAX / 2;
            return Setup { min_live: 1, refusal_is_proof: true, log_retention, replicas, restarts_free };
        }
        let log_retention = if random.u8(..3) == 0 { random.u64(500..20_000) } else { u64::MAX / 2 };
        let majority = replicas / 2 + 1;
        let min_live = if replicas > 1 && random.u8(..4) == 0 { random.usize(2..=majority) } else { 1 };
        let restarts_free = if random.u8(..3) == 0 { RESTARTS_FREE } else { NO_WAIT };
        let refusal_is_proof = random.u8(..8) > 0;
        Setup { min_live, refusal_is_proof, log_retention, replicas, restarts_free }
    }
}
