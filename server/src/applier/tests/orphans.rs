//! In which sessions orphans are submitted again.

use super::*;
use crate::store::testing::held;
use stablechat_protocol::request::StampedRequest;

/// A replica that holds these orphans of session 2, which belongs to ann and has executed its first request.
fn with_orphans(orphans: &[StampedRequest]) -> Cluster {
    let mut cluster = Cluster::new(1);
    let ann = actor("ann", 1);
    cluster.issue(create(&ann));
    cluster.run(Duration::from_secs(2));
    submit(&mut cluster, 1, "one");
    cluster.run(Duration::from_secs(2));
    let applier = cluster.nodes[0].applier.as_mut().expect("it is up");
    orphans.iter().for_each(|orphan| applier.executor.store.keep_orphan(orphan));
    applier.executor.store.commit().expect("memory does not fail");
    // They are submitted after each start.
    cluster.kill(0);
    cluster.start(0);
    cluster
}

/// Submits a request of session 2 on connection 7.
fn submit(cluster: &mut Cluster, sequence: u64, text: &str) {
    let ann = actor("ann", 1);
    let request = Request { client: ClientId([2; 16]), sequence, actor: Some(ann.clone()), command: send(&ann, text) };
    let (time, body) = (cluster.now.after(STEP), Body::Request(request));
    let submission = Submission { time, from: ConnectionId(7), timestamp: time, body, too_fast: None };
    cluster.nodes[0].inbox.push_back(NetEvent::Request(submission));
}

/// The sessions and sequence numbers of the last requests in the log of the first replica.
fn last_requests(cluster: &Cluster, count: usize) -> Vec<(ClientId, u64)> {
    let entries = cluster.applier(0).store().log().entries(Uid::MIN);
    let requests = entries.map(|entry| entry.expect("it reads").1.request);
    let all: Vec<(ClientId, u64)> = requests.map(|request| (request.client, request.sequence)).collect();
    all[all.len() - count..].to_vec()
}

#[test]
fn orphans_that_wait_for_each_other_stay_in_their_session() {
    let ann = actor("ann", 1);
    // The uid of a later request comes first, as it may when one of them was sent again.
    let orphans = [held(10, 2, 3, &ann, send(&ann, "three")), held(20, 2, 2, &ann, send(&ann, "two"))];
    let mut cluster = with_orphans(&orphans);
    cluster.run(Duration::from_secs(10));
    let session = ClientId([2; 16]);
    assert_eq!(last_requests(&cluster, 3), [(session, 3), (session, 2), (session, 3)]);
    assert_eq!(cluster.applier(0).store().orphans(Uid::MIN, 10).expect("it reads"), []);
}

#[test]
fn orphans_that_could_not_be_submitted_stay_in_their_session() {
    let ann = actor("ann", 1);
    let mut cluster = with_orphans(&[held(10, 2, 2, &ann, send(&ann, "two"))]);
    let set_room = |cluster: &mut Cluster, has_room| {
        cluster.nodes[0].applier.as_mut().expect("it is up").note_room(has_room);
    };
    set_room(&mut cluster, false);
    cluster.run(Duration::from_secs(8));
    set_room(&mut cluster, true);
    cluster.run(Duration::from_secs(8));
    assert_eq!(last_requests(&cluster, 1), [(ClientId([2; 16]), 2)]);
}

#[test]
fn an_orphan_is_left_to_its_connected_client_and_submitted_when_its_session_can_take_it() {
    let ann = actor("ann", 1);
    let mut cluster = with_orphans(&[held(10, 2, 3, &ann, send(&ann, "three"))]);
    cluster.nodes[0].inbox.push_back(NetEvent::Greeted { connection: ConnectionId(7) });
    submit(&mut cluster, 1, "one");
    cluster.run(Duration::from_secs(40));
    let session = ClientId([2; 16]);
    // Once in its session, which lacks the second, and no more.
    let submitted = |cluster: &Cluster| {
        let all = last_requests(cluster, cluster.applier(0).store().applied().position as usize);
        all.iter().filter(|request| **request == (session, 3)).count()
    };
    assert_eq!(submitted(&cluster), 1);

    submit(&mut cluster, 2, "two");
    cluster.run(Duration::from_secs(5));
    assert_eq!(last_requests(&cluster, 2), [(session, 2), (session, 3)]);
    assert_eq!(cluster.applier(0).store().orphans(Uid::MIN, 10).expect("it reads"), []);
}

#[test]
fn an_orphan_whose_client_does_not_help_is_submitted_in_a_session_of_its_own() {
    let ann = actor("ann", 1);
    let orphan = held(10, 2, 3, &ann, send(&ann, "three"));
    let mut cluster = with_orphans(std::slice::from_ref(&orphan));
    cluster.nodes[0].inbox.push_back(NetEvent::Greeted { connection: ConnectionId(7) });
    submit(&mut cluster, 1, "one");
    cluster.run(Duration::from_secs(80));
    assert_eq!(last_requests(&cluster, 1), [(crate::store::in_own_session(&orphan.request).client, 1)]);
    assert_eq!(cluster.applier(0).store().orphans(Uid::MIN, 10).expect("it reads"), []);
}
