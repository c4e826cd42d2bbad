//! A scenario: everything that determines a run.

use super::scenes::SceneKind;
use std::fmt;
use std::str::FromStr;

/// The most replicas of a cluster, here as in a cluster file.
pub const REPLICAS_MAX: usize = 9;
/// Seeds take their turns with one to this many replicas, unless a number is given.
pub const REPLICAS_USUAL: usize = 5;

/// Which faults occur, and which claims have to hold nevertheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The delivery bound holds.
    Bounds,
    /// It does not hold.
    Beyond,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        match text {
            "bounds" => Ok(Mode::Bounds),
            "beyond" => Ok(Mode::Beyond),
            _ => Err(format!("no mode is called `{text}`: they are `bounds` and `beyond`")),
        }
    }
}

/// A run before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    pub mode: Mode,
    /// Determines everything that is drawn at random.
    pub seed: u64,
    /// At least 1 and at most [`REPLICAS_MAX`].
    pub replicas: usize,
    /// The only kind of scene that is played; one drawn at random, each time, when there is none.
    pub scene: Option<SceneKind>,
}

impl Scenario {
    /// The run of a seed. Neighbouring seeds have different numbers of replicas, so that any range of seeds covers all.
    pub fn of_seed(mode: Mode, seed: u64) -> Scenario {
        let replicas = 1 + (seed % REPLICAS_USUAL as u64) as usize;
        Scenario { mode, seed, replicas, scene: None }
    }

    /// The same with this number of replicas.
    pub fn with_replicas(self, replicas: usize) -> Scenario {
        assert!((1..=REPLICAS_MAX).contains(&replicas), "a cluster has 1 to {REPLICAS_MAX} replicas");
        Scenario { replicas, ..self }
    }

    /// The same with scenes of this kind only.
    pub fn with_scene(self, scene: SceneKind) -> Scenario {
        Scenario { scene: Some(scene), ..self }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "seed {} with {} replicas", self.seed, self.replicas)
    }
}
