//! The hostile party, run from its command line: each attack once, alone, while honest people chat.

use stablechat_tests::hostile::attack;
use stablechat_tests::process::built;
use std::process::Command;

#[test]
fn no_attack_harms_the_honest() {
    let mut command = Command::new(built("stablechat-hostile"));
    // A delivery bound that is long enough for a machine that is busy with other tests, as the replicas are with the attacks.
    command.args(["--each-s", "1", "--quiet-s", "2", "--delivery-bound-ms", "10000"]);
    let output = command.output().expect("it is built");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    assert_eq!(output.status.code(), Some(0), "{complained}");
    assert!(attack::all().all(|attack| said.contains(attack.name)));
}

#[test]
fn the_documentation_has_the_table_of_attacks() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ARCHITECTURE.md");
    let documentation = std::fs::read_to_string(path).expect("the documentation is there");
    let table = attack::table();
    assert!(documentation.contains(&table), "docs/ARCHITECTURE.md should have the table of `--list`:\n{table}");
}
