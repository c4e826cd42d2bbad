//! What a client may say when: the greeting, logins, and what follows them.
//!
//! Pure: a message goes in, and a [`Reaction`] comes out.

use super::logins::LoginAttempt;
use super::{ReplicaIdentity, peer_greeting};
use crate::replica::{Body, PeerId};
use stablechat_protocol::answer::Refusal;
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::login::{Challenge, ChannelBinding, LoginProof, LoginRefusal, LoginStatement};
use stablechat_protocol::message::{MAGIC, Role, ToClient, ToReplica};
use stablechat_protocol::name::{AccountName, ReplicaName};
use stablechat_protocol::request::{Actor, QueryRequest, Request, RequestId};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::version::Versions;
use std::time::Duration;

/// What the encryption of a connection proves of its other side.
pub trait Channel {
    /// What identifies the connection to both of its ends; none before they are agreed on keys.
    fn binding(&self) -> Option<ChannelBinding>;

    /// Whether the other side has a certificate of the cluster's authority for the replica of this name.
    fn is_certified_as(&self, name: &ReplicaName) -> bool;
}

/// The state of a client's connection, or of one that has not said yet what it is.
#[derive(Debug)]
pub struct Greeting {
    /// Logins on this connection sign it.
    challenge: Challenge,
    /// Whether hello and welcome have been exchanged.
    is_greeted: bool,
    /// The account that the connection speaks for.
    actor: Option<Actor>,
    /// Whether a login waits for its signature to be checked. Messages behind it have to wait as well.
    is_logging_in: bool,
    /// Whether the last login was refused. What the client asks for as that account must not be done as nobody's.
    is_refused: bool,
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
    /// Check the signature of a login, and report the result with [`Greeting::on_checked`].
    Check(Box<LoginAttempt>),
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
    /// A connection on which nothing has come.
    pub fn new(challenge: Challenge) -> Greeting {
        Greeting { challenge, is_greeted: false, actor: None, is_logging_in: false, is_refused: false }
    }

    /// Whether hello and welcome have been exchanged.
    pub fn is_done(&self) -> bool {
        self.is_greeted
    }

    /// Whether the connection speaks for an account.
    pub fn is_logged_in(&self) -> bool {
        self.actor.is_some()
    }

    /// Whether a login waits for its signature to be checked. No message may be taken meanwhile.
    pub fn is_logging_in(&self) -> bool {
        self.is_logging_in
    }

    /// Takes a message that came over this channel. `now` is the replica's clock.
    pub fn on_message(
        &mut self,
        message: ToReplica,
        channel: &impl Channel,
        us: &ReplicaIdentity,
        now: Timestamp,
    ) -> Reaction {
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
                    Some(version) => self.welcome(role, version, channel, us, now),
                }
            }
            ToReplica::Hello { .. } => out_of_place("a second hello"),
            _ if !self.is_greeted => out_of_place("the first frame must be a hello"),
            ToReplica::Login { account, key, receive, proof } => match channel.binding() {
                Some(binding) => self.on_login(Actor { account, key }, receive, proof, binding, us),
                None => out_of_place("a login before the handshake is done"),
            },
            ToReplica::Logout => {
                self.actor = None;
                self.is_refused = false;
                Reaction::LoggedOut(None)
            }
            ToReplica::Request { client, sequence, timestamp, .. } if self.is_refused => {
                refused(RequestId::Command { client, sequence }, timestamp, now)
            }
            ToReplica::Query { id, timestamp, .. } if self.is_refused => {
                refused(RequestId::Query { id }, timestamp, now)
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
    fn welcome(
        &mut self,
        role: Role,
        version: u16,
        channel: &impl Channel,
        us: &ReplicaIdentity,
        now: Timestamp,
    ) -> Reaction {
        match role {
            Role::Client => {
                self.is_greeted = true;
                let (replica, challenge) = (us.replica.clone(), self.challenge);
                Reaction::Welcome(ToClient::Welcome { version, replica, clock: now, challenge })
            }
            Role::Replica { name, .. } if !channel.is_certified_as(&name) => {
                Reaction::RefusePeer(name, CloseReason::NotCertified)
            }
            Role::Replica { name, cluster_file } => match peer_greeting::admit(&name, cluster_file, us) {
                Ok(peer) => Reaction::Peer(peer, version),
                Err(reason) => Reaction::RefusePeer(name, reason),
            },
        }
    }

    /// Has a login's signature checked. Whether a key is an operator's is decided here: the state machine knows no cluster file.
    fn on_login(
        &mut self,
        actor: Actor,
        receive: bool,
        proof: LoginProof,
        channel: ChannelBinding,
        us: &ReplicaIdentity,
    ) -> Reaction {
        let LoginProof::Signature { signature } = proof;
        let statement = LoginStatement {
            cluster: us.cluster.clone(),
            cluster_id: us.file.id.clone(),
            replica: us.replica.clone(),
            challenge: self.challenge,
            account: actor.account,
            key: actor.key,
            channel,
        };
        self.actor = None;
        if statement.account.is_operator() && !us.file.operators.contains(&statement.key) {
            return self.refuse_login(statement.account, LoginRefusal::NotAnOperator);
        }
        self.is_logging_in = true;
        Reaction::Check(Box::new(LoginAttempt { statement, signature, receive }))
    }

    /// A login is refused before its signature is checked: too many keys were tried.
    pub fn on_too_many_keys(&mut self, attempt: LoginAttempt, wait: Duration) -> Reaction {
        self.is_logging_in = false;
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        self.refuse_login(attempt.statement.account, LoginRefusal::TooManyKeys { wait_ms })
    }

    fn refuse_login(&mut self, account: AccountName, reason: LoginRefusal) -> Reaction {
        self.is_refused = true;
        Reaction::LoggedOut(Some(ToClient::LoginRefused { account, reason }))
    }

    /// A login's signature has been checked: the client holds the key that it names, or it does not. Whether the key owns the account is
    /// decided where requests are applied.
    pub fn on_checked(&mut self, attempt: LoginAttempt, is_genuine: bool) -> Reaction {
        let LoginStatement { account, key, .. } = attempt.statement;
        self.is_logging_in = false;
        if is_genuine {
            let actor = Actor { account, key };
            self.actor = Some(actor.clone());
            self.is_refused = false;
            Reaction::LoggedIn(actor, attempt.receive)
        } else {
            self.refuse_login(account, LoginRefusal::BadProof)
        }
    }
}

/// Refuses what came after a login that was refused.
fn refused(request: RequestId, timestamp: Timestamp, now: Timestamp) -> Reaction {
    Reaction::Reply(ToClient::Refused { request, timestamp, reason: Refusal::LoginRefused, clock: now })
}

/// Ends the connection over a valid message that may not come at this point.
fn out_of_place(detail: &str) -> Reaction {
    Reaction::Close(CloseReason::OutOfPlace { detail: detail.into() })
}
