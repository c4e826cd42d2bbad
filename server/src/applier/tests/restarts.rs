//! How the restarts of a replica are counted and shown.

use super::*;

#[test]
fn restarts_and_rejoins_are_stored_until_the_replica_is_stable() {
    let mut cluster = Cluster::new(2);
    let restarts = |cluster: &Cluster| {
        let applier = cluster.applier(0);
        assert_eq!(applier.replica().restarts(), applier.store().restarts());
        applier.store().restarts()
    };
    assert_eq!(restarts(&cluster), 0);
    // A pause.
    cluster.now = cluster.now.after(Duration::from_secs(2));
    cluster.run(Duration::from_secs(5));
    assert_eq!(restarts(&cluster), 1);
    cluster.kill(0);
    cluster.start(0);
    assert_eq!(restarts(&cluster), 2);
    cluster.run(Duration::from_secs(5));

    // One that leaves does not count.
    cluster.nodes[0].inbox.push_back(NetEvent::Stop);
    cluster.run(Duration::from_secs(1));
    assert!(cluster.applier(0).is_stopped());
    cluster.kill(0);
    cluster.start(0);
    assert_eq!(restarts(&cluster), 2, "the one that left has taken its own back");
    cluster.run(Duration::from_secs(310));
    assert_eq!(restarts(&cluster), 0);
    cluster.kill(0);
    cluster.start(0);
    assert_eq!(restarts(&cluster), 1);
}

#[test]
fn a_replica_that_waits_because_of_its_restarts_says_so() {
    let mut cluster = Cluster::new(2);
    for _ in 0..5 {
        cluster.kill(1);
        cluster.start(1);
    }
    cluster.run(Duration::from_secs(1));
    let summary = cluster.applier(1).summary();
    assert!(summary.starts_with("waiting for 3 s before it joins, after 5 restarts"), "{summary}");
    cluster.run(Duration::from_secs(6));
    cluster.assert_same();
}
