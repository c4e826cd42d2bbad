//! The first frames of a connection: which cluster the client looks for, and which account it logs in.

use stablechat_protocol::cluster::ReplicaEntry;
use stablechat_protocol::login::{Challenge, ChannelBinding, LoginProof, LoginStatement, SecretKey};
use stablechat_protocol::message::{MAGIC, Role, ToReplica};
use stablechat_protocol::name::{AccountName, ClusterId, ClusterName};
use stablechat_protocol::request::Actor;
use stablechat_protocol::version::Versions;
use std::rc::Rc;

pub struct Credentials {
    pub account: AccountName,
    pub secret: SecretKey,
    /// Whether the key is derived from a password that was given now, which may be the wrong one.
    pub is_from_password: bool,
}

impl Credentials {
    /// The actor of all requests on a connection that is logged in with these.
    pub fn actor(&self) -> Actor {
        Actor { account: self.account.clone(), key: self.secret.public() }
    }
}

/// The greeting of all connections of a client.
pub struct Greeting {
    /// A replica of any other cluster closes the connection.
    pub cluster: ClusterName,
    pub cluster_id: ClusterId,
    /// The account to log in; `None` for nobody.
    pub credentials: Option<Rc<Credentials>>,
    /// Whether replicas shall push the account's messages.
    pub receive: bool,
    /// The versions of the protocol that the client speaks.
    pub versions: Versions,
}

impl Greeting {
    /// The first frame.
    pub fn hello(&self) -> ToReplica {
        ToReplica::Hello {
            magic: MAGIC.into(),
            version_min: self.versions.min,
            version_max: self.versions.max,
            role: Role::Client,
            cluster: self.cluster.clone(),
        }
    }

    /// The answer to a replica's challenge on this channel, which proves that the client has the account's key.
    pub fn login(
        &self,
        credentials: &Credentials,
        replica: &ReplicaEntry,
        challenge: Challenge,
        channel: ChannelBinding,
    ) -> ToReplica {
        let statement = LoginStatement {
            cluster: self.cluster.clone(),
            cluster_id: self.cluster_id.clone(),
            replica: replica.name.clone(),
            challenge,
            account: credentials.account.clone(),
            key: credentials.secret.public(),
            channel,
        };
        ToReplica::Login {
            account: credentials.account.clone(),
            key: credentials.secret.public(),
            receive: self.receive,
            proof: LoginProof::Signature { signature: credentials.secret.sign(&statement) },
        }
    }
}
