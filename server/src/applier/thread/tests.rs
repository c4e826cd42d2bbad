//! What happens to the events of a wake in which storage fails.

use super::*;
use crate::applier::tests::settled_alone;
use crate::replica::{ConnectionId, PeerId};
use crate::store::testing::{actor, create, held};
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::uid::Uid;

/// A wake that fails at the first of these events has not taken in the others: a login, the end of another connection, a question
/// for the status, and the signal to stop.
#[test]
fn events_of_a_wake_that_fails_are_not_lost() {
    let (mut applier, now) = settled_alone();
    let (ann, bob) = (actor("ann", 1), actor("bob", 2));
    let login = |connection, actor: &_| NetEvent::LoggedIn { connection, actor: Clone::clone(actor), receive: true };
    let first = EventBatch { events: vec![login(ConnectionId(1), &ann)], drained: None };
    applier.wake([first], || now, |_| {}).expect("memory does not fail");

    // A peer's entry is compared with ours, which cannot be read.
    let damaged = held(1, 9, 1, &bob, create(&bob));
    applier.executor.store.damage_log(damaged.uid);
    let entries = PeerMessage::LogEntries { after: Uid::MIN, requests: vec![damaged], is_end: true };
    let events = vec![
        NetEvent::PeerConnected { peer: PeerId(2) },
        NetEvent::Peer { time: now, peer: PeerId(1), message: entries },
        login(ConnectionId(2), &bob),
        NetEvent::Closed { connection: ConnectionId(1) },
        NetEvent::PeerConnected { peer: PeerId(2) },
        NetEvent::Status { from: ConnectionId(2) },
        NetEvent::Stop,
    ];
    let failing = EventBatch { events, drained: None };
    applier.wake([failing], || now, |_| {}).expect_err("the entry cannot be read");

    let mut outbox = Outbox::default();
    let halted = Halted::new(applier, now, &mut outbox);
    assert_eq!(halted.clients.subscribers_of(&bob), [ConnectionId(2)]);
    assert_eq!(halted.clients.subscribers_of(&ann), []);
    assert!(halted.is_stopping);
    let mut sent = Vec::new();
    outbox.release(&mut |messages| sent.extend(messages));
    let is_status = |sent: &NetCommand| {
        matches!(sent, NetCommand::ToClient { to: ConnectionId(2), message: ToClient::Status { .. } })
    };
    assert_eq!(sent.iter().filter(|sent| is_status(sent)).count(), 1);
    let is_seen = |sent: &&NetCommand| matches!(sent, NetCommand::ConnectionSeen { peer: PeerId(2) });
    assert_eq!(sent.iter().filter(is_seen).count(), 2, "the poll loop waits for one for each connection");
}
