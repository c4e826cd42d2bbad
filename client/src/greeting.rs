//! What a new connection begins with: the cluster that is looked for, and whom one speaks for.

use stablechat_protocol::cluster::ReplicaEntry;
use stablechat_protocol::login::{Challenge, LoginProof, LoginStatement, SecretKey};
use stablechat_protocol::message::{MAGIC, Role, ToReplica};
use stablechat_protocol::name::{AccountName, ClusterName};
use stablechat_protocol::version::Versions;
use std::rc::Rc;

/// An account and its key.
pub struct Credentials {
    /// The account.
    pub account: AccountName,
    /// Its key.
    pub secret: SecretKey,
}

/// What every new connection begins with.
pub struct Greeting {
    /// The cluster we look for.
    pub cluster: ClusterName,
    /// Whom we speak for.
    pub identity: Option<Rc<Credentials>>,
    /// Whether its messages shall be pushed to us.
    pub receive: bool,
    /// The versions of the protocol that we speak.
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

    /// The frame that proves who we are.
    pub fn login(&self, identity: &Credentials, replica: &ReplicaEntry, challenge: Challenge) -> ToReplica {
        let statement = LoginStatement {
            cluster: self.cluster.clone(),
            replica: replica.name.clone(),
            challenge,
            account: identity.account.clone(),
            key: identity.secret.public(),
            channel: None,
        };
        ToReplica::Login {
            account: identity.account.clone(),
            key: identity.secret.public(),
            receive: self.receive,
            proof: LoginProof::Signature { signature: identity.secret.sign(&statement) },
        }
    }
}
