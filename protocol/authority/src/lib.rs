//! The certificate authority of a cluster: its own, which nobody else trusts and which trusts nobody else.
//!
//! It signs a certificate for each replica, whose only DNS name is the *replica's name*, so that a replica's address may change. The
//! certificate of the authority is in the cluster file: whoever has that file knows whom to trust. The private key of the authority
//! makes new certificates, and nothing else needs it, so it belongs on none of the replicas' machines.

#![deny(missing_docs)]

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use stablechat_protocol::name::{ClusterName, ReplicaName};
use std::fmt;
use std::ops::Range;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long the certificate of an authority is valid: ten years.
pub const AUTHORITY_VALID: Duration = DAY.saturating_mul(3652);
/// How long the certificate of a replica is valid: two years.
pub const REPLICA_VALID: Duration = DAY.saturating_mul(730);
/// Certificates are valid from this long before they are made, so that clocks which are a little slow take them.
const EARLIER: Duration = Duration::from_secs(3600);

/// A certificate authority, with its private key.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate could not be made, or a text is not an authority.
#[derive(Debug)]
pub struct AuthorityError(String);

impl fmt::Display for AuthorityError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for AuthorityError {}

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> AuthorityError {
        AuthorityError(error.to_string())
    }
}

impl Authority {
    /// A new authority, valid from now on.
    ///
    /// # Errors
    /// The operating system has no random numbers.
    pub fn create(cluster: &ClusterName) -> Result<Authority, AuthorityError> {
        let now = SystemTime::now();
        Authority::create_valid(cluster, now - EARLIER..now + AUTHORITY_VALID)
    }

    /// A new authority that is valid for this time.
    ///
    /// # Errors
    /// The operating system has no random numbers.
    pub fn create_valid(cluster: &ClusterName, valid: Range<SystemTime>) -> Result<Authority, AuthorityError> {
        let key = KeyPair::generate()?;
        // Two authorities of a cluster have different names, so that nobody takes a certificate of one for a damaged one of the other.
        let mark: String = key.public_key_raw().iter().rev().take(4).map(|byte| format!("{byte:02x}")).collect();
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (OffsetDateTime::from(valid.start), OffsetDateTime::from(valid.end));
        params.distinguished_name.push(DnType::CommonName, format!("stablechat cluster {cluster}, authority {mark}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Authority { certificate, issuer: Issuer::new(params, key) })
    }

    /// The authority in a text that [`Authority::to_pem`] has made.
    ///
    /// # Errors
    /// The text lacks the certificate or the private key, one of them is damaged, or they do not belong together.
    pub fn from_pem(text: &str) -> Result<Authority, AuthorityError> {
        let certificate = section(text, "CERTIFICATE").ok_or_else(|| lacks("certificate (BEGIN CERTIFICATE)"))?;
        let key = section(text, "PRIVATE KEY").ok_or_else(|| lacks("private key (BEGIN PRIVATE KEY)"))?;
        let key = KeyPair::from_pem(&key).map_err(|error| AuthorityError(format!("its private key: {error}")))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)
            .map_err(|error| AuthorityError(format!("its certificate: {error}")))?;
        let (_, block) = x509_parser::pem::parse_x509_pem(certificate.as_bytes())
            .map_err(|error| AuthorityError(format!("its certificate: {error}")))?;
        let parsed = block.parse_x509().map_err(|error| AuthorityError(format!("its certificate: {error}")))?;
        if *parsed.public_key().subject_public_key.data != *issuer.key().public_key_raw() {
            return Err(AuthorityError("its private key is not that of its certificate".into()));
        }
        Ok(Authority { certificate, issuer })
    }

    /// The certificate, which is no secret.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The certificate and the private key. Whoever has this text can make certificates for any replica.
    pub fn to_pem(&self) -> String {
        format!("{}{}", self.certificate, self.issuer.key().serialize_pem())
    }

    /// A new certificate for a replica with its private key, valid from now on.
    ///
    /// # Errors
    /// The operating system has no random numbers.
    pub fn issue(&self, replica: &ReplicaName) -> Result<String, AuthorityError> {
        let now = SystemTime::now();
        self.issue_valid(replica, now - EARLIER..now + REPLICA_VALID)
    }

    /// A new certificate for a replica with its private key, valid for this time.
    ///
    /// # Errors
    /// The operating system has no random numbers.
    pub fn issue_valid(&self, replica: &ReplicaName, valid: Range<SystemTime>) -> Result<String, AuthorityError> {
        let mut params = CertificateParams::new([replica.to_string()])?;
        (params.not_before, params.not_after) = (OffsetDateTime::from(valid.start), OffsetDateTime::from(valid.end));
        params.distinguished_name.push(DnType::CommonName, format!("stablechat replica {replica}"));
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Replicas dial each other, so each is server and client.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
    }
}

fn lacks(what: &str) -> AuthorityError {
    AuthorityError(format!("it has no {what}"))
}

/// Until when the certificates in a PEM text are valid: the time at which the last of them ends, since a new authority is added before
/// the old one ends.
///
/// # Errors
/// The text has no certificate.
pub fn valid_until(text: &str) -> Result<SystemTime, AuthorityError> {
    let mut last = None;
    for block in x509_parser::pem::Pem::iter_from_buffer(text.as_bytes()) {
        let block = block.map_err(|error| AuthorityError(format!("it is no PEM: {error}")))?;
        if block.label == "CERTIFICATE" {
            let certificate =
                block.parse_x509().map_err(|error| AuthorityError(format!("its certificate is damaged: {error}")))?;
            let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
            last = last.max(Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)));
        }
    }
    last.ok_or_else(|| lacks("certificate (BEGIN CERTIFICATE)"))
}

/// The first section of a PEM text with this label.
fn section(text: &str, label: &str) -> Option<String> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let from = text.find(&begin)?;
    let to = from + text[from..].find(&end)? + end.len();
    Some(format!("{}\n", &text[from..to]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_the_same_after_it_was_kept_in_a_file() {
        let authority = Authority::create(&ClusterName::parse("demo").expect("a name")).expect("random numbers");
        let again = Authority::from_pem(&authority.to_pem()).expect("an authority");
        assert_eq!((again.certificate(), again.to_pem()), (authority.certificate(), authority.to_pem()));
        let issued = again.issue(&ReplicaName::parse("a").expect("a name")).expect("random numbers");
        assert!(section(&issued, "CERTIFICATE").is_some() && section(&issued, "PRIVATE KEY").is_some());
    }

    #[test]
    fn it_is_known_until_when_certificates_are_valid() {
        let authority = Authority::create(&ClusterName::parse("demo").expect("a name")).expect("random numbers");
        let name = ReplicaName::parse("a").expect("a name");
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let issued = |until| authority.issue_valid(&name, at(0)..at(until)).expect("random numbers");
        let until = |text: &str| valid_until(text).expect("a certificate");
        assert_eq!(until(&issued(2_000_000_000)), at(2_000_000_000));
        assert_eq!(until(&format!("{}{}", issued(5), issued(4))), at(5));
        assert!(until(authority.certificate()) > SystemTime::now() + AUTHORITY_VALID - Duration::from_secs(60));
        assert!(valid_until("").is_err());
    }

    #[test]
    fn a_text_that_is_no_authority_says_why() {
        let authority = Authority::create(&ClusterName::parse("demo").expect("a name")).expect("random numbers");
        let fault = |text: &str| Authority::from_pem(text).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(fault("").contains("no certificate"));
        assert!(fault(authority.certificate()).contains("no private key"));
        assert!(fault(&authority.to_pem().replacen("MI", "!!", 1)).contains("its certificate"));
        let other = Authority::create(&ClusterName::parse("demo").expect("a name")).expect("random numbers");
        let mixed = format!("{}{}", authority.certificate(), section(&other.to_pem(), "PRIVATE KEY").expect("a key"));
        assert_eq!(fault(&mixed), "its private key is not that of its certificate");
    }
}
