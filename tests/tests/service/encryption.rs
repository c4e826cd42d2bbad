//! Encryption, certificates and logins, with real processes.

use rustix::process::Signal;
use stablechat_authority::Authority;
use stablechat_protocol::answer::Answer;
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::digest::Digest;
use stablechat_protocol::login::ChannelBinding;
use stablechat_protocol::message::{MAGIC, Role, ToClient, ToReplica};
use stablechat_protocol::name::{ClusterName, ReplicaName};
use stablechat_tests::cluster::{CLUSTER, Cluster};
use stablechat_tests::metrics::Metrics;
use stablechat_tests::raw::{RawClient, frame, hello};
use stablechat_tests::session::{Person, send};
use stablechat_tests::wait::{SOON, wait_until};
use stablechat_transport::{Identity, TlsDialer};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

const DELIVERY_BOUND: Duration = Duration::from_millis(1000);
const HOUR: Duration = Duration::from_secs(3600);

fn name(text: &str) -> ReplicaName {
    ReplicaName::parse(text).expect("a name")
}

/// A new authority of the cluster.
fn another_authority() -> Authority {
    Authority::create(&ClusterName::parse(CLUSTER).expect("a name")).expect("random numbers")
}

/// Replicas a and b with metrics, and a connection with a that is logged in as alice.
fn two_replicas_and_alice() -> (Cluster, RawClient) {
    let mut cluster = Cluster::prepare(&["a", "b"], DELIVERY_BOUND).with_metrics();
    ["a", "b"].iter().for_each(|name| cluster.start_replica(name));
    cluster.wait_until_same(SOON);
    let person = Person::new("alice");
    let mut client = cluster.greet("a");
    assert_eq!(client.call(person.create()), Answer::Done);
    client.login(&person, false);
    (cluster, client)
}

#[test]
fn a_stranger_without_tls_learns_nothing() {
    let cluster = Cluster::start(&["a"], DELIVERY_BOUND);
    for bytes in [frame(&hello(CLUSTER)), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()] {
        let mut stranger = TcpStream::connect(cluster.address("a")).expect("it listens");
        stranger.set_read_timeout(Some(SOON)).expect("a limit that is not zero");
        stranger.write_all(&bytes).expect("a small write");
        let mut answer = Vec::new();
        // The end may come as a reset, since not all that was sent is read.
        drop(stranger.read_to_end(&mut answer));
        // At most an alert (21), in a record of TLS.
        assert!(answer.is_empty() || answer[..2] == [21, 3] && answer.len() == 7, "{answer:?}");
    }
    cluster.greet("a").ping();
}

#[test]
fn a_login_is_of_no_use_on_another_connection() {
    let cluster = Cluster::start(&["a"], DELIVERY_BOUND);
    let person = Person::new("alice");
    let mut client = cluster.greet("a");
    assert_eq!(client.call(person.create()), Answer::Done);
    // As somebody would have it who stands between client and replica: everything is right but the channel.
    let relayed = client.login_message_for(&person, ChannelBinding([7; 32]));
    client.send(&relayed).expect("the connection stands");
    assert!(matches!(client.receive_other(), ToClient::LoginRefused { .. }));
    client.login(&person, false);
}

#[test]
fn only_a_certified_replica_greets_as_one() {
    let cluster = Cluster::start(&["b"], DELIVERY_BOUND);
    let role = Role::Replica { name: name("b"), cluster_file: Digest::ZERO };
    let cluster_name = ClusterName::parse(CLUSTER).expect("a name");
    let hello = ToReplica::Hello { magic: MAGIC.into(), version_min: 1, version_max: 1, role, cluster: cluster_name };
    let reason = |tls: &TlsDialer| {
        let mut client = RawClient::connect(cluster.address("b"), "b", tls).expect("it listens");
        client.send(&hello).expect("the connection stands");
        client.closing()
    };
    assert_eq!(reason(&cluster.tls()), CloseReason::NotCertified, "a client");
    let certified_as = |named: &str| {
        let identity = cluster.authority().issue(&name(named)).expect("random numbers");
        let identity = Identity::from_pem(&identity).expect("a certificate");
        TlsDialer::for_replica(cluster.authority().certificate(), &identity).expect("a good certificate")
    };
    assert_eq!(reason(&certified_as("a")), CloseReason::NotCertified, "another replica");
    assert_eq!(reason(&certified_as("b")), CloseReason::OtherClusterFile, "it has the name, and not the cluster file");

    // The certificate of another authority, for the right name.
    let other = another_authority();
    let identity = Identity::from_pem(&other.issue(&name("b")).expect("random numbers")).expect("a certificate");
    let tls = TlsDialer::for_replica(cluster.authority().certificate(), &identity).expect("a good certificate");
    let mut client = RawClient::connect(cluster.address("b"), "b", &tls).expect("the handshake ends for us first");
    client.send(&hello).ok();
    assert_eq!(client.ended_by(), "received fatal alert: UnknownCA");
}

#[test]
fn certificates_are_renewed_while_connections_stay() {
    let (mut cluster, mut client) = two_replicas_and_alice();

    // The metrics tell that the new one ends soon.
    let ends = |cluster: &Cluster| {
        Metrics::of(cluster, "a").get("stablechat_certificate_expiry_timestamp_seconds{certificate=\"replica\"}")
    };
    let before = ends(&cluster);
    let now = SystemTime::now();
    let identity = cluster.authority().issue_valid(&name("a"), now - HOUR..now + HOUR).expect("random numbers");
    std::fs::write(cluster.identity("a"), identity).expect("temporary files can be written");
    cluster.program("a").signal(Signal::HUP);
    wait_until("the certificate is taken in", SOON, || ends(&cluster) < before);
    assert_eq!(client.call(send("alice", "on the same connection")), Answer::Done);
    cluster.greet("a").ping();

    // A file that is no certificate changes nothing.
    std::fs::write(cluster.identity("a"), "nonsense").expect("temporary files can be written");
    cluster.program("a").signal(Signal::HUP);
    wait_until("the fault is logged", SOON, || cluster.log("a").contains("the certificates stay as they were: "));
    cluster.greet("a").ping();
}

#[test]
fn the_authority_is_replaced_while_people_chat() {
    let (mut cluster, mut client) = two_replicas_and_alice();

    let new = another_authority();
    let renew = |cluster: &mut Cluster, replica: &str| {
        let log = cluster.log(replica).matches("new connections use").count();
        cluster.program(replica).signal(Signal::HUP);
        wait_until("the files are read", SOON, || cluster.log(replica).matches("new connections use").count() > log);
    };
    let (old_certificate, new_certificate) = (cluster.authority().certificate().to_string(), new.certificate());
    cluster.trust(&format!("{old_certificate}{new_certificate}"));
    ["a", "b"].iter().for_each(|replica| renew(&mut cluster, replica));
    for replica in ["a", "b"] {
        cluster.certify(replica, &new);
        renew(&mut cluster, replica);
        assert_eq!(client.call(send("alice", "meanwhile")), Answer::Done);
    }
    cluster.trust(new_certificate);
    ["a", "b"].iter().for_each(|replica| renew(&mut cluster, replica));
    assert_eq!(client.call(send("alice", "on the same connection")), Answer::Done);

    // New connections are made under the new authority, between replicas too.
    let tls = TlsDialer::for_client(new_certificate).expect("an authority");
    RawClient::connect(cluster.address("b"), "b", &tls).expect("it is trusted").greet(CLUSTER).expect("there is room");
    assert!(RawClient::connect(cluster.address("b"), "b", &cluster.tls()).is_err(), "the old one has not signed it");
    cluster.kill("b");
    cluster.start_replica("b");
    wait_until("the peers are connected", SOON, || Metrics::of(&cluster, "a").sum("stablechat_peer_linked") == 1.0);
}

#[test]
fn a_replica_whose_certificate_has_ended_is_refused_and_says_so() {
    let mut cluster = Cluster::prepare(&["a", "b"], DELIVERY_BOUND);
    let now = SystemTime::now();
    let identity = cluster.authority().issue_valid(&name("b"), now - 2 * HOUR..now - HOUR).expect("random numbers");
    std::fs::write(cluster.identity("b"), identity).expect("temporary files can be written");
    ["a", "b"].iter().for_each(|name| cluster.start_replica(name));
    wait_until("the replica that dials says why", SOON, || {
        cluster.log("a").contains("replica b: its certificate has expired, 1 h ago by this machine's clock")
    });
    // And from the other side: b would be dialed by a, so let a have the old certificate.
    cluster.kill("a");
    cluster.kill("b");
    let identity = cluster.authority().issue_valid(&name("a"), now - 2 * HOUR..now - HOUR).expect("random numbers");
    std::fs::write(cluster.identity("a"), identity).expect("temporary files can be written");
    cluster.certify("b", cluster.authority());
    ["a", "b"].iter().for_each(|name| cluster.start_replica(name));
    wait_until("the replica that is refused says why", SOON, || {
        cluster.log("a").contains("replica b: it says that our certificate is not valid at this time")
    });
}
