//! A replica that is killed again and again: it waits before it joins, so that the others need not wait for it each time.

use stablechat_protocol::answer::Answer;
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::status::ReportedPhase;
use stablechat_tests::cluster::Cluster;
use stablechat_tests::raw::create_accounts;
use stablechat_tests::session::{Person, send};
use stablechat_tests::wait::{SOON, wait_until};
use std::time::Duration;

/// So long that the wait, which is 64 of these after enough restarts, does not end within this test.
const DELIVERY_BOUND: Duration = Duration::from_secs(2);
/// More than it takes to get the longest wait.
const KILLS: u32 = 11;

#[test]
fn a_replica_that_was_killed_often_waits_unless_it_is_needed() {
    let mut cluster = Cluster::prepare(&["a", "b", "c"], DELIVERY_BOUND).with_metrics();
    ["a", "b", "c"].iter().for_each(|name| cluster.start_replica(name));
    cluster.wait_until_same(SOON);
    for _ in 0..KILLS {
        cluster.kill("c");
        cluster.start_replica("c");
    }
    wait_until("c says why it waits", SOON, || cluster.log("c").contains("it waits for"));
    wait_until("c says that it is not ready", SOON, || {
        cluster.page("c", "/readyz") == (503, "waiting to join, after many restarts\n".into())
    });
    let (_, metrics) = cluster.page("c", "/metrics");
    assert!(metrics.contains(&format!("\nstablechat_restarts {KILLS}\n")), "{metrics}");
    let mut client = cluster.greet("c");
    client.login(&Person::operator(), false);
    client.send(&ToReplica::Status).expect("the connection stands");
    let ToClient::Status { report } = client.receive() else { panic!("not a status report") };
    assert_eq!((report.phase, report.restarts), (ReportedPhase::CatchingUp, KILLS.into()));
    assert!(report.join_wait_ns.is_some(), "{report:?}");

    // The others serve meanwhile.
    let alice = Person::new("alice");
    let mut client = cluster.greet("a");
    create_accounts(&mut client, &[&alice, &Person::new("bob")]);
    client.login(&alice, false);
    assert_eq!(client.call(send("bob", "x")), Answer::Done);

    cluster.kill("a");
    cluster.kill("b");
    wait_until("c serves alone, since it is needed", SOON, || cluster.page("c", "/readyz").0 == 200);
    assert!(cluster.log("c").contains("waiting no more before it joins"), "{}", cluster.log("c"));
}
