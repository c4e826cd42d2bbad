//! Snapshots whose rows were changed on their way, at random: they are refused, or installed whole.

use super::tests::{install, parts, truncated};
use super::{SnapshotError, SnapshotPart};
use crate::fuzzing::{inputs, mutate};
use crate::random::Random;
use crate::store::ChatStore;
use crate::store::testing::{apply, assert_sound, contents, identity, memory, stream};
use stablechat_protocol::operator::InitialSettings;
use stablechat_protocol::peer::SnapshotRow;
use stablechat_protocol::wire::{from_cbor, to_cbor};

/// Changes a row of a snapshot: its place among the others, its key or value, or its encoding. Returns whether it is still a row.
fn damage(random: &mut Random, parts: &mut [SnapshotPart]) -> bool {
    let values: Vec<Vec<u8>> = parts.iter().flat_map(|(rows, _)| rows).map(|row| row.value.0.clone()).collect();
    let filled: Vec<usize> = (0..parts.len()).filter(|&at| !parts[at].0.is_empty()).collect();
    let rows = &mut parts[*random.one_of(&filled)].0;
    let at = random.below(rows.len());
    match random.below(8) {
        0 => drop(rows.remove(at)),
        1 => rows.insert(at, rows[at].clone()),
        2 => {
            let other = random.below(rows.len());
            rows.swap(at, other);
        }
        3 => rows[at].family = random.below(10) as u8,
        4 => mutate(random, &mut rows[at].key.0, &values),
        5 | 6 => mutate(random, &mut rows[at].value.0, &values),
        _ => {
            let mut encoded = to_cbor(&rows[at]);
            mutate(random, &mut encoded, &values);
            match from_cbor::<SnapshotRow>(&encoded) {
                Ok(row) => rows[at] = row,
                Err(_) => return false,
            }
        }
    }
    true
}

#[test]
fn a_changed_snapshot_is_refused_or_installed_whole() {
    let sent = parts(&truncated(&stream(&mut Random(2), 40), 10, 0));
    let ours = stream(&mut Random(3), 20);
    let (mut refused, mut installed) = (0, 0);
    for input in inputs(150) {
        let random = &mut Random(input);
        let mut received = sent.clone();
        if !damage(random, &mut received) {
            continue;
        }

        let location = memory();
        let mut store = ChatStore::open(&location, &identity(), &InitialSettings::OPEN).expect("a new store opens");
        ours.iter().for_each(|held| drop(apply(&mut store, held)));
        store.commit().expect("memory does not fail");
        let before = contents(&store);
        match install(&mut store, received) {
            Ok(()) => installed += 1,
            Err(SnapshotError::Invalid(_)) => {
                assert_eq!(contents(&store), before, "input {input} was refused and has changed the store");
                refused += 1;
            }
            Err(SnapshotError::Store(error)) => panic!("input {input}: {error:?}"),
        }
        drop(store);
        let store = ChatStore::open(&location, &identity(), &InitialSettings::OPEN).expect("the store opens");
        let report = store.check();
        assert!(report.faults.is_empty(), "input {input}: {report:#?}");
        assert_sound(&store);
    }
    assert!(refused > 0, "{refused} refused, {installed} installed");
}
