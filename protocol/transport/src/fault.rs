//! Why a connection is of no use any more, for a person.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

/// Why a connection is broken.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The socket has failed.
    Socket(ErrorKind),
    /// It ended without the word that says so: the process was killed, or somebody between the two has cut the connection.
    CutOff,
    /// The other side is not whom we trust, does not trust us, or does not speak TLS 1.3; or its bytes were changed on the way.
    Tls(Error),
}

impl Fault {
    /// Whether an operator has to change something before the connection can be of use.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Fault::Tls(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Socket(kind) => kind.fmt(formatter),
            Fault::CutOff => formatter.write_str("the connection was cut off"),
            Fault::Tls(error) => formatter.write_str(&in_words(error)),
        }
    }
}

/// What a TLS error means for the two who wanted to talk.
fn in_words(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(fault) => certificate_in_words(fault),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => "it does not speak TLS".into(),
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        )
        | Error::AlertReceived(AlertDescription::ProtocolVersion) => "it does not speak TLS 1.3".into(),
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "it says that our certificate is not valid at this time: renew it, or compare the clocks of both machines"
                .into()
        }
        Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::BadCertificate) => {
            "it does not trust our certificate: the authority in its cluster file has not signed it".into()
        }
        Error::AlertReceived(alert) => format!("it ends the handshake ({alert:?})"),
        Error::DecryptError => "its bytes were damaged or forged on the way".into(),
        _ => error.to_string(),
    }
}

fn certificate_in_words(fault: &CertificateError) -> String {
    match fault {
        CertificateError::ExpiredContext { time, not_after } => format!(
            "its certificate has expired, {} ago by this machine's clock: renew it, or set the clock",
            span(time.as_secs().saturating_sub(not_after.as_secs()))
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "its certificate is not valid yet, for {} by this machine's clock, which is probably wrong",
            span(not_before.as_secs().saturating_sub(time.as_secs()))
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is not of the authority in the cluster file: it belongs to another cluster, or the file is old".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another replica".into()
        }
        _ => format!("its certificate cannot be used ({fault})"),
    }
}

/// A time in the largest unit that it fills.
fn span(seconds: u64) -> String {
    let time = Duration::from_secs(seconds).as_secs();
    match time {
        0..60 => format!("{time} s"),
        60..3600 => format!("{} min", time / 60),
        3600..172_800 => format!("{} h", time / 3600),
        _ => format!("{} days", time / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::UnixTime;

    #[test]
    fn a_wrong_time_is_told_with_its_distance() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let expired = CertificateError::ExpiredContext { time: at(900_000), not_after: at(100_000) };
        assert!(certificate_in_words(&expired).contains("9 days ago"));
        let early = CertificateError::NotValidYetContext { time: at(1000), not_before: at(8200) };
        assert!(certificate_in_words(&early).contains("for 2 h"));
        assert_eq!([span(59), span(60), span(3600), span(172_800)], ["59 s", "1 min", "1 h", "2 days"]);
    }
}
