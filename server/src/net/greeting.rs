//! What a client may say when: the greeting, logins, and what follows them.
//!
//! Pure: a message goes in, and a [`Reaction`] comes out.

use super::{ReplicaIdentity, peer_greeting};
use crate::replica::{Body, PeerId};
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::command::{ACK_MAX, Command};
use stablechat_protocol::login::{Challenge, LoginProof, LoginStatement};
use stablechat_protocol::message::{MAGIC, Role, ToClient, ToReplica};
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::request::{Actor, QueryRequest, Request};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::version::Versions;

/// The state of a client's connection, or of one that has not said yet what it is.
#[derive(Debug)]
pub struct Greeting {
    /// Logins on this connection sign it.
    challenge: Challenge,
    /// Whether the replica has room for a peer, but not for one more client.
    is_full: bool,
    /// Whether hello and welcome have been exchanged.
    is_greeted: bool,
    /// The account that the connection speaks for.
    actor: Option<Actor>,
}

/// What is to be done about a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Send this message back.
    Reply(ToClient),
    /// Send back this welcome, and accept frames of full size from here on.
    Welcome(ToClient),
    /// Send back a greeting: the connection is this peer's, in this version of the protocol.
    Peer(PeerId, u16),
    /// End the connection of a process that says it is the replica of this name.
    RefusePeer(ReplicaName, CloseReason),
    /// End the connection: the other side speaks these versions of the protocol, and none of ours.
    RefuseVersions(Role, Versions),
    /// Confirm the login. The flag says whether messages for the account are to be pushed to the connection.
    LoggedIn(Actor, bool),
    /// The connection speaks for no account. After a failed login the message says so.
    LoggedOut(Option<ToClient>),
    /// Pass on a request or a query with its timestamp.
    Request(Timestamp, Body),
    /// Pass on that the connection asks for the status.
    Status,
    /// Pass on that the connection asks for pings of the peers.
    PingPeers,
    /// End the connection.
    Close(CloseReason),
}

impl Greeting {
    /// A connection on which nothing has come. With `is_full`, a client is turned away.
    pub fn new(challenge: Challenge, is_full: bool) -> Greeting {
        Greeting { challenge, is_full, is_greeted: false, actor: None }
    }

    /// Whether hello and welcome have been exchanged.
    pub fn is_done(&self) -> bool {
        self.is_greeted
    }

    /// Takes a message. `now` is the replica's clock.
    pub fn on_message(&mut self, message: ToReplica, us: &ReplicaIdentity, now: Timestamp) -> Reaction {
        match message {
            ToReplica::Hello { magic, version_min, version_max, role, cluster } if !self.is_greeted => {
                let theirs = Versions { min: version_min, max: version_max };
                if magic != MAGIC {
                    return Reaction::Close(CloseReason::NotStablechat);
                }
                match us.versions.agree(theirs) {
                    None => Reaction::RefuseVersions(role, theirs),
                    Some(_) if cluster != us.cluster => {
                        Reaction::Close(CloseReason::WrongCluster { cluster: us.cluster.clone() })
                    }
                    Some(version) => self.welcome(role, version, us, now),
                }
            }
            ToReplica::Hello { .. } => out_of_place("a second hello"),
            _ if !self.is_greeted => out_of_place("the first frame must be a hello"),
            ToReplica::Login { account, key, receive, proof } => {
                self.on_login(Actor { account, key }, receive, &proof, us)
            }
            ToReplica::Logout => {
                self.actor = None;
                Reaction::LoggedOut(None)
            }
            ToReplica::Request { command: Command::Ack { uids }, .. } if uids.len() > ACK_MAX => {
                // A request has to fit into the messages between replicas as well.
                Reaction::Close(CloseReason::Malformed { detail: format!("an ack of more than {ACK_MAX} uids") })
            }
            ToReplica::Request { client, sequence, timestamp, command } => {
                let request = Request { client, sequence, actor: self.actor.clone(), command };
                Reaction::Request(timestamp, Body::Request(request))
            }
            ToReplica::Query { id, timestamp, query } => {
                let query = QueryRequest { id, actor: self.actor.clone(), query };
                Reaction::Request(timestamp, Body::Query(query))
            }
            ToReplica::Status => Reaction::Status,
            ToReplica::PingPeers => Reaction::PingPeers,
            ToReplica::Ping { sent } => Reaction::Reply(ToClient::Pong { sent, clock: now }),
        }
    }

    /// Takes in a client or peer of our cluster that shares a version with us.
    fn welcome(&mut self, role: Role, version: u16, us: &ReplicaIdentity, now: Timestamp) -> Reaction {
        match role {
            Role::Client if self.is_full => Reaction::Close(CloseReason::Full),
            Role::Client => {
                self.is_greeted = true;
                let (replica, challenge) = (us.replica.clone(), self.challenge);
                Reaction::Welcome(ToClient::Welcome { version, replica, clock: now, challenge })
            }
            Role::Replica { name, cluster_file } => match peer_greeting::admit(&name, cluster_file, us) {
                Ok(peer) => Reaction::Peer(peer, version),
                Err(reason) => Reaction::RefusePeer(name, reason),
            },
        }
    }

    /// Checks that the client holds the key that it names. Whether the key owns the account is decided where requests are applied.
    fn on_login(&mut self, actor: Actor, receive: bool, proof: &LoginProof, us: &ReplicaIdentity) -> Reaction {
        let statement = LoginStatement {
            cluster: us.cluster.clone(),
            replica: us.replica.clone(),
            challenge: self.challenge,
            account: actor.account.clone(),
            key: actor.key,
            channel: None,
        };
        let LoginProof::Signature { signature } = proof;
        if statement.is_signed_by(signature) {
            self.actor = Some(actor.clone());
            Reaction::LoggedIn(actor, receive)
        } else {
            self.actor = None;
            Reaction::LoggedOut(Some(ToClient::LoginRefused { account: actor.account }))
        }
    }
}

/// Ends the connection over a valid message that may not come at this point.
fn out_of_place(detail: &str) -> Reaction {
    Reaction::Close(CloseReason::OutOfPlace { detail: detail.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use stablechat_protocol::cluster::Cluster;

    #[test]
    fn where_it_is_full_there_is_room_for_a_peer() {
        let text =
            "name = 'demo'\n[[replica]]\nname = 'a'\naddress = 'x:1'\n[[replica]]\nname = 'b'\naddress = 'x:2'\n";
        let cluster = Cluster::parse(text).expect("a good file");
        let name = |place: usize| cluster.replicas[place].name.clone();
        let us = ReplicaIdentity::of(&cluster, &name(1)).expect("one of the two");
        let greet = |role, full| {
            let (magic, cluster, Versions { min, max }) = (MAGIC.into(), cluster.name.clone(), Versions::OURS);
            let hello = ToReplica::Hello { magic, version_min: min, version_max: max, role, cluster };
            Greeting::new(Challenge([0; 32]), full).on_message(hello, &us, Timestamp::ZERO)
        };
        let peer = || Role::Replica { name: name(0), cluster_file: cluster.digest_between(&name(0), &name(1)) };
        assert_eq!(greet(Role::Client, true), Reaction::Close(CloseReason::Full));
        assert!(matches!(greet(Role::Client, false), Reaction::Welcome(_)));
        assert!(matches!(greet(peer(), true), Reaction::Peer(PeerId(0), _)));
    }
}
