//! The grace, by which replicas close behind their clocks: strangers cannot make it long, nor keep it short.

use stablechat_protocol::answer::{Answer, Refusal};
use stablechat_protocol::command::Query;
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::name::Pattern;
use stablechat_protocol::request::RequestId;
use stablechat_protocol::time::Timestamp;
use stablechat_tests::cluster::Cluster;
use stablechat_tests::raw::{RawClient, create_accounts};
use stablechat_tests::session::{Person, Session, send, stamp};
use stablechat_tests::wait::{SOON, wait_until};
use std::time::Duration;

/// With one replica, this is also the longest grace.
const DELIVERY_BOUND: Duration = Duration::from_millis(1000);

/// Connections that speak for no account: one has not logged in, the other has, to an account that nobody has made.
fn strangers(cluster: &Cluster) -> [RawClient; 2] {
    let [nobody, mut mallory] = [cluster.greet("a"), cluster.greet("a")];
    mallory.login(&Person::new("mallory"), false);
    [nobody, mallory]
}

/// A replica, and a client that is logged in to an account.
fn replica_with_alice() -> (Cluster, RawClient) {
    let cluster = Cluster::start(&["a"], DELIVERY_BOUND);
    let alice = Person::new("alice");
    let mut client = cluster.greet("a");
    create_accounts(&mut client, &[&alice, &Person::new("bob")]);
    client.login(&alice, false);
    (cluster, client)
}

/// A cheap query of this time.
fn query(id: u64, timestamp: Timestamp) -> ToReplica {
    ToReplica::Query { id, timestamp, query: Query::List { pattern: Pattern::all(), after: None, limit: 1 } }
}

/// How far behind its clock the replica closes.
fn grace(client: &mut RawClient) -> Duration {
    client.send(&ToReplica::Status).expect("the connection stands");
    let ToClient::Status { report } = client.receive_other() else { panic!("not a status report") };
    Duration::from_nanos(report.grace_ns)
}

#[test]
fn stale_requests_of_strangers_do_not_make_the_grace_long() {
    let (cluster, mut alice) = replica_with_alice();
    let mut strangers = strangers(&cluster);
    let mut id = 0;
    wait_until("the grace is short although strangers send stale queries", SOON, || {
        for stranger in &mut strangers {
            id += 1;
            stranger.send(&query(id, stamp().before(Duration::from_millis(600)))).expect("the connection stands");
            stranger.receive();
        }
        assert_eq!(alice.call(send("bob", "x")), Answer::Done);
        grace(&mut alice) < Duration::from_millis(200)
    });
}

#[test]
fn fresh_requests_of_strangers_do_not_shut_out_an_account_further_away() {
    /// A stranger sends so many for each of the account's.
    const FLOOD: u64 = 2500;
    /// And so many at a time, each with a timestamp of its own.
    const AT_A_TIME: u64 = 50;
    let (cluster, mut alice) = replica_with_alice();
    let mut strangers = strangers(&cluster);
    let (session, mut id) = (Session::default(), 0);
    wait_until("a request that was 30 ms on its way is accepted", SOON, || {
        for stranger in &mut strangers {
            for _ in 0..FLOOD / AT_A_TIME / 2 {
                for _ in 0..AT_A_TIME {
                    id += 1;
                    stranger.send(&query(id, stamp())).expect("the connection stands");
                }
                (0..AT_A_TIME).for_each(|_| drop(stranger.receive()));
                // However slow the machine is, her connection is not ended as silent.
                alice.ping();
            }
        }
        let late = stamp().before(Duration::from_millis(30));
        alice.send(&session.attempt(1, late, send("bob", "from far away"))).expect("the connection stands");
        match alice.receive_other() {
            ToClient::Answer { answer, .. } => answer == Answer::Done,
            ToClient::Refused { request: RequestId::Command { .. }, reason: Refusal::Late, .. } => false,
            other => panic!("neither answered nor late: {other:?}"),
        }
    });
}
