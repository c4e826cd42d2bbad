//! The replicas and accounts that attacks are about.

use crate::cluster::Cluster;
use crate::raw::{RawClient, create_accounts};
use crate::session::{Person, send};
use stablechat_protocol::answer::Answer;
use stablechat_transport::TlsDialer;
use std::net::SocketAddr;

/// How many names there are to be listed: more than one page.
const LISTED: usize = 1200;
/// How many messages of the greatest size are unread by a hostile account: more than the largest page of text.
const UNREAD: usize = 140;
/// How many requests the preparations keep in flight.
const IN_FLIGHT: usize = 400;

/// A hostile account.
pub type Hostile = Person;

/// The replicas under attack, and the accounts that attack.
pub struct Targets {
    /// Where each replica listens for clients and peers.
    pub replicas: Vec<SocketAddr>,
    /// The name of each.
    pub names: Vec<String>,
    /// Makes the near ends of connections to them.
    pub tls: TlsDialer,
    /// Where each replica serves metrics.
    pub monitors: Vec<SocketAddr>,
    /// Hostile accounts. The first has an inbox with the largest page of unread messages.
    pub hostile: Vec<Hostile>,
    /// Accounts whose mailboxes are attacked. The last one belongs to the honest pair.
    pub victims: Vec<String>,
}

impl Targets {
    /// Creates the hostile accounts, a victim, and enough names and messages for the largest pages.
    pub fn prepare(cluster: &Cluster, names: &[&str], honest: &Person) -> Targets {
        let hostile: Vec<Hostile> = ["mallory", "mordred", "morgana"].map(Person::new).into_iter().collect();
        let victim = Person::new("vera");
        let mut client = cluster.greet(names[0]);
        create_accounts(&mut client, &[&hostile[0], &hostile[1], &hostile[2], &victim]);

        let listed: Vec<usize> = (0..LISTED).collect();
        for numbers in listed.chunks(IN_FLIGHT) {
            // Names of the greatest length make the largest pages.
            let create = |number: &usize| Person::new(&format!("somebody-with-a-long-name-{number:06}")).create();
            assert_done(&mut client, numbers.iter().map(create));
        }
        client.login(&hostile[1], false);
        let recipient = hostile[0].account.as_str();
        assert_done(&mut client, (0..UNREAD).map(|_| send(recipient, "x".repeat(4096))));

        let victims = vec![victim.account.to_string(), honest.account.to_string()];
        Targets {
            replicas: names.iter().map(|name| cluster.address(name)).collect(),
            names: names.iter().map(|name| (*name).to_string()).collect(),
            tls: cluster.tls(),
            monitors: names.iter().map(|name| cluster.monitor(name)).collect(),
            hostile,
            victims,
        }
    }
}

/// Calls commands that all have to be done.
fn assert_done(client: &mut RawClient, commands: impl IntoIterator<Item = stablechat_protocol::command::Command>) {
    let settled = client.call_all(commands);
    assert!(settled.iter().all(|settled| settled.answer == Answer::Done), "the preparations are done");
}
