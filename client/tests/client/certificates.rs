//! Replicas that the client must not trust.

use super::run::Cluster;
use stablechat_authority::Authority;
use stablechat_protocol::name::{ClusterName, ReplicaName};
use std::time::{Duration, SystemTime};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_replica_of_another_authority_is_not_talked_to() {
    let cluster = Cluster::with_accounts(1, &["alice"]);
    let other = Authority::create(&ClusterName::parse("test").expect("a name")).expect("random numbers");
    cluster.trust(other.certificate());
    let said = cluster.run(&["--as", "alice", "send", "alice", "a secret"]);
    said.fails(78, "its certificate is not of the authority in the cluster file");
    assert!(cluster.replicas[0].state().sent.is_empty());

    // While an authority is being replaced, both are trusted.
    cluster.trust(&format!("{}{}", other.certificate(), cluster.authority.certificate()));
    cluster.run(&["--as", "alice", "send", "alice", "x"]).says("sent to alice\n");
}

#[test]
fn a_certificate_of_another_time_or_replica_is_refused_with_the_reason() {
    let cluster = Cluster::start(1);
    let now = SystemTime::now();
    let name = |text: &str| ReplicaName::parse(text).expect("a name");
    for (named, valid, fault) in [
        ("a", now - 50 * HOUR..now - 49 * HOUR, "its certificate has expired, 2 days ago by this machine's clock"),
        ("a", now + 48 * HOUR..now + 90 * HOUR, "which is probably wrong"),
        ("b", now - HOUR..now + HOUR, "its certificate is for another replica"),
    ] {
        let identity = cluster.authority.issue_valid(&name(named), valid).expect("random numbers");
        cluster.replicas[0].show(&identity, &cluster.authority);
        cluster.run(&["list"]).fails(78, fault);
    }
    let identity = cluster.authority.issue(&name("a")).expect("random numbers");
    cluster.replicas[0].show(&identity, &cluster.authority);
    let said = cluster.run(&["status"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
}
