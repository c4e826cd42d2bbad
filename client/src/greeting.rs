//! What a new connection begins with: the cluster that is looked for, and whom one speaks for.

use stablechat_protocol::login::SecretKey;
use stablechat_protocol::message::{MAGIC, Role, ToReplica, VERSION_MAX, VERSION_MIN};
use stablechat_protocol::name::{AccountName, ClusterName};
use std::rc::Rc;

/// An account and its key.
pub struct Identity {
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
    pub identity: Option<Rc<Identity>>,
    /// Whether its messages shall be pushed to us.
    pub receive: bool,
}

impl Greeting {
    /// The first frame.
    pub fn hello(&self) -> ToReplica {
        ToReplica::Hello {
            magic: MAGIC.into(),
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            role: Role::Client,
            cluster: self.cluster.clone(),
        }
    }
}
