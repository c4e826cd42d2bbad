//! Trust: the authorities whose certificates are accepted, and the certificate by which a replica proves its name.
//!
//! TLS 1.3 and nothing older, with certificates of the cluster's own authority. A client proves nothing here: accounts log in
//! later, on the connection. A replica has a certificate for its name, which it shows whether it dials or is dialed.
//!
//! Sessions are not resumed. A full handshake takes a fraction of a millisecond, and a session that was agreed upon under an old
//! certificate must not outlive it. Nothing is sent as early data, which an attacker could replay.

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use std::fmt;
use std::sync::Arc;

/// What both sides say they speak (ALPN), so that no connection can be passed on to a server of another protocol that has a certificate
/// of the same authority.
const PROTOCOL: &[u8] = b"stablechat";

/// A text has no certificate or key that can be used. `Display` says what it lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError(String);

impl TlsError {
    /// For a person: what a text lacks.
    pub fn new(fault: String) -> TlsError {
        TlsError(fault)
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

/// A replica's certificate and its private key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// The certificate and the private key in a PEM text.
    ///
    /// # Errors
    /// The text lacks one of them.
    pub fn from_pem(text: &str) -> Result<Identity, TlsError> {
        let chain = certificates(text)?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map_err(|error| TlsError(format!("it has no private key (BEGIN PRIVATE KEY): {error}")))?;
        Ok(Identity { chain, key })
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

/// Makes the near ends of connections to replicas.
#[derive(Clone, Debug)]
pub struct TlsDialer(Arc<ClientConfig>);

impl TlsDialer {
    /// For a client, which trusts the replicas with certificates of these authorities (PEM).
    ///
    /// # Errors
    /// The text has no certificate of an authority.
    pub fn for_client(authorities: &str) -> Result<TlsDialer, TlsError> {
        let roots = roots(authorities)?;
        Ok(TlsDialer::new(client_builder()?.with_root_certificates(roots).with_no_client_auth()))
    }

    /// For a replica, which shows its certificate to those that it dials.
    ///
    /// # Errors
    /// The text has no certificate of an authority, or the identity's certificate and key do not belong together.
    pub fn for_replica(authorities: &str, identity: &Identity) -> Result<TlsDialer, TlsError> {
        let roots = roots(authorities)?;
        let builder = client_builder()?.with_root_certificates(roots);
        let config = builder.with_client_auth_cert(identity.chain.clone(), identity.key()).map_err(in_words)?;
        Ok(TlsDialer::new(config))
    }

    fn new(mut config: ClientConfig) -> TlsDialer {
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![PROTOCOL.into()];
        // The names of replicas are nobody else's business, and each address has one replica.
        config.enable_sni = false;
        TlsDialer(Arc::new(config))
    }

    /// The near end of a connection to the replica of this name. No other is taken for it.
    ///
    /// # Errors
    /// The name is no DNS name.
    pub fn dial(&self, replica: &str) -> Result<Connection, TlsError> {
        let name = ServerName::try_from(replica.to_owned())
            .map_err(|error| TlsError(format!("no certificate can be for a replica named {replica}: {error}")))?;
        ClientConnection::new(Arc::clone(&self.0), name).map(Connection::from).map_err(in_words)
    }
}

/// Makes the near ends of connections from clients and replicas.
#[derive(Clone, Debug)]
pub struct TlsAcceptor(Arc<ServerConfig>);

impl TlsAcceptor {
    /// For a replica with this identity, which trusts the peers with certificates of these authorities (PEM).
    ///
    /// # Errors
    /// The text has no certificate of an authority, or the identity's certificate and key do not belong together.
    pub fn new(authorities: &str, identity: &Identity) -> Result<TlsAcceptor, TlsError> {
        let roots = roots(authorities)?;
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
        // Clients have none. And what a certificate should say is nothing that strangers need to be told.
        let verifier = builder.allow_unauthenticated().clear_root_hint_subjects().build();
        let verifier = verifier.map_err(|error| TlsError(error.to_string()))?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(in_words)?;
        let mut config = builder
            .with_client_cert_verifier(verifier)
            .with_single_cert(identity.chain.clone(), identity.key())
            .map_err(in_words)?;
        config.alpn_protocols = vec![PROTOCOL.into()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(TlsAcceptor(Arc::new(config)))
    }

    /// The near end of a connection that was accepted.
    ///
    /// # Errors
    /// The operating system has no random numbers.
    pub fn accept(&self) -> Result<Connection, TlsError> {
        ServerConnection::new(Arc::clone(&self.0)).map(Connection::from).map_err(in_words)
    }
}

fn client_builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider());
    builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(in_words)
}

/// The cryptography.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The authorities in a PEM text.
fn roots(text: &str) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(text)? {
        roots.add(certificate).map_err(in_words)?;
    }
    Ok(Arc::new(roots))
}

/// The certificates in a PEM text, at least one.
fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match all {
        Ok(all) if all.is_empty() => Err(TlsError("it has no certificate (BEGIN CERTIFICATE)".into())),
        Ok(all) => Ok(all),
        Err(error) => Err(TlsError(format!("its certificate is damaged: {error}"))),
    }
}

fn in_words(error: rustls::Error) -> TlsError {
    TlsError(error.to_string())
}
