//! Runs the fuzz targets on the inputs that are kept in `tests/fuzz/corpus`: examples to begin with, and each input that a target
//! once failed on. `scripts/fuzz` looks for new ones.

#[path = "../../tests/fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

#[test]
fn the_targets_hold_on_all_kept_inputs() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    for target in targets::ALL {
        let inputs = fs::read_dir(corpus.join(target.name)).expect("each target has inputs");
        let mut count = 0;
        for input in inputs {
            let path = input.expect("readable").path();
            // If the target panics, the test's output ends with the input's name.
            println!("{}", path.display());
            (target.run)(&fs::read(&path).expect("readable"));
            count += 1;
        }
        assert!(count > 0, "{} has no inputs", target.name);
    }
}
