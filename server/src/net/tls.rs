//! The replica's part in TLS: its certificate, and whose certificates it trusts.

use parking_lot::RwLock;
use rustls::Connection;
use stablechat_authority::valid_until;
use stablechat_protocol::name::ReplicaName;
use stablechat_transport::{Identity, TlsAcceptor, TlsDialer, TlsError};
use std::sync::Arc;
use std::time::SystemTime;

/// Makes the near ends of all connections. Clones share what they hold, which may be replaced while connections stand.
#[derive(Clone, Debug)]
pub struct ReplicaTls(Arc<RwLock<Parts>>);

#[derive(Clone, Debug)]
struct Parts {
    acceptor: TlsAcceptor,
    dialer: TlsDialer,
    expiry: Expiry,
}

/// Until when certificates are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The replica's own.
    pub replica: SystemTime,
    /// That of the authority; while it is being replaced, that of the one that lasts longer.
    pub authority: SystemTime,
}

impl ReplicaTls {
    /// For a replica with this certificate and private key, which trusts the certificates of these authorities (all in PEM).
    ///
    /// # Errors
    /// A text has no certificate, or the replica's certificate and key do not belong together.
    pub fn new(authorities: &str, identity: &str) -> Result<ReplicaTls, TlsError> {
        let until = |text| valid_until(text).map_err(|error| TlsError::new(error.to_string()));
        let expiry = Expiry { replica: until(identity)?, authority: until(authorities)? };
        let identity = Identity::from_pem(identity)?;
        let acceptor = TlsAcceptor::new(authorities, &identity)?;
        let dialer = TlsDialer::for_replica(authorities, &identity)?;
        Ok(ReplicaTls(Arc::new(RwLock::new(Parts { acceptor, dialer, expiry }))))
    }

    /// Uses what the other one holds for all connections that are made from here on. Those that stand stay as they are.
    pub fn replace(&self, other: &ReplicaTls) {
        let parts = other.0.read().clone();
        *self.0.write() = parts;
    }

    /// Until when the certificates are valid.
    pub fn expiry(&self) -> Expiry {
        self.0.read().expiry
    }

    /// The near end of a connection that was accepted.
    pub(super) fn accept(&self) -> Result<Connection, TlsError> {
        self.0.read().acceptor.accept()
    }

    /// The near end of a connection to a peer.
    pub(super) fn dial(&self, peer: &ReplicaName) -> Result<Connection, TlsError> {
        self.0.read().dialer.dial(peer.as_str())
    }
}
