//! Runs one target of [`targets`] under libFuzzer. `scripts/fuzz` builds and starts it.
#![no_main]

mod targets;

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;
use targets::Target;

/// Names the target. libFuzzer takes the arguments of the command line for itself.
const VARIABLE: &str = "STABLECHAT_FUZZ_TARGET";
/// The target that is run.
static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var(VARIABLE).unwrap_or_default();
        let Some(target) = targets::ALL.iter().find(|target| target.name == name) else {
            let names: Vec<&str> = targets::ALL.iter().map(|target| target.name).collect();
            panic!("{VARIABLE} is {name:?}; it must be one of {}", names.join(", "));
        };
        TARGET.get_or_init(|| *target);
    },
    |input: &[u8]| (TARGET.get().expect("it was set before the first input").run)(input)
);
