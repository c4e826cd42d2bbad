//! The cluster file (TOML): the facts that all replicas and clients of a cluster share.

use crate::digest::Digest;
use crate::hex::bytes_from_hex;
use crate::login::PublicKey;
use crate::name::{ClusterId, ClusterName, ReplicaName};
use crate::operator::{InitialSettings, OPERATORS_MAX, Registration};
use serde::Deserialize;
use std::fmt;
use std::time::Duration;

/// The delivery bound of a cluster file that does not give one, in milliseconds.
const DELIVERY_BOUND_DEFAULT_MS: u64 = 1000;
/// The least delivery bound that a cluster file may give, in milliseconds.
const DELIVERY_BOUND_MIN_MS: u64 = 10;
/// The greatest delivery bound that a cluster file may give, in milliseconds.
pub const DELIVERY_BOUND_MAX_MS: u64 = 60_000;
/// The log retention of a cluster file that does not give one, in MiB.
const LOG_RETENTION_DEFAULT_MIB: u64 = 1024;
/// The greatest log retention that a cluster file may give, in MiB: 1 PiB.
const LOG_RETENTION_MAX_MIB: u64 = 1 << 30;
/// The most replicas in a cluster.
pub const REPLICAS_MAX: usize = 9;
/// The most by which an accepted timestamp may be ahead of a replica's clock, however long the delivery bound: enough for
/// clients whose clocks are corrected by estimated offsets.
const AHEAD_MAX: Duration = Duration::from_millis(50);

/// A cluster, as its file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Cluster {
    pub name: ClusterName,
    /// Random, from when the file was made. It keeps two clusters of the same name apart: clients keep their keys by it, and logins
    /// are signed for it.
    pub id: ClusterId,
    /// The certificates of the cluster's authority, in PEM: one, or while the authority is being replaced two. Empty if the file has
    /// none; then nobody can connect.
    pub ca: String,
    /// Δ, which must be at least `N·(δ+ε)`: N replicas, messages that take at most δ, and clocks that agree within ε. From 10
    /// ms to 60 s.
    pub delivery_bound: Duration,
    /// How many replicas, itself included, a replica must be in contact with to answer anything. With 1 it goes on alone; with a
    /// majority it refuses in a partition instead of diverging.
    pub min_live: usize,
    /// Whether a replica takes it for a proof of a peer's death that nobody listens at the peer's address. Without that it waits Δ,
    /// as it does for a machine that is gone.
    pub refusal_is_proof: bool,
    /// The keys of operators. A replica takes logins with these, and no others, for those of operators.
    pub operators: Vec<PublicKey>,
    /// The settings that operators have not changed.
    pub initial: InitialSettings,
    /// How many bytes of its log a replica keeps for peers that were away. A peer that lacks more gets a snapshot.
    pub log_retention: u64,
    /// 1 to [`REPLICAS_MAX`] replicas, with distinct names and addresses.
    pub replicas: Vec<ReplicaEntry>,
}

/// A replica in a cluster file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ReplicaEntry {
    pub name: ReplicaName,
    /// `HOST:PORT`, where it listens for clients and replicas alike.
    pub address: String,
}

/// Why a text is not a cluster file, for the person who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterError(String);

impl fmt::Display for ClusterError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for ClusterError {}

/// The file before its rules are checked and its defaults filled in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: ClusterName,
    id: ClusterId,
    #[serde(default)]
    ca: String,
    delivery_bound_ms: Option<u64>,
    min_live: Option<usize>,
    #[serde(default = "yes")]
    refusal_is_proof: bool,
    log_retention_mib: Option<u64>,
    #[serde(default)]
    operators: Vec<String>,
    registration: Option<String>,
    first_invitation: Option<String>,
    #[serde(default)]
    replica: Vec<ReplicaEntry>,
}

/// The default of settings that are on.
fn yes() -> bool {
    true
}

impl Cluster {
    /// Parses the text of a cluster file, and checks its rules.
    ///
    /// # Errors
    /// The text is not TOML, has a field that cluster files do not have, or breaks a rule. The error says where, or which.
    pub fn parse(text: &str) -> Result<Cluster, ClusterError> {
        let file: File =
            toml::from_str(text).map_err(|error| ClusterError(error.to_string().trim_end().to_string()))?;
        let File { name, id, ca, min_live, refusal_is_proof, replica: replicas, .. } = file;

        let bound = file.delivery_bound_ms.unwrap_or(DELIVERY_BOUND_DEFAULT_MS);
        check_range("delivery_bound_ms", bound, DELIVERY_BOUND_MIN_MS, DELIVERY_BOUND_MAX_MS)?;
        let retention = file.log_retention_mib.unwrap_or(LOG_RETENTION_DEFAULT_MIB);
        check_range("log_retention_mib", retention, 1, LOG_RETENTION_MAX_MIB)?;
        check_replicas(&replicas)?;

        let min_live = min_live.unwrap_or(1);
        if !(1..=replicas.len()).contains(&min_live) {
            return Err(ClusterError(format!(
                "min_live is {min_live}; it must be from 1 to the number of replicas, {}",
                replicas.len()
            )));
        }
        let operators = read_operators(&file.operators)?;
        let initial = read_initial(file.registration.as_deref(), file.first_invitation.as_deref())?;
        let (delivery_bound, log_retention) = (Duration::from_millis(bound), retention << 20);
        Ok(Cluster {
            name,
            id,
            ca,
            delivery_bound,
            min_live,
            refusal_is_proof,
            operators,
            initial,
            log_retention,
            replicas,
        })
    }

    /// The replica with this name.
    pub fn replica(&self, name: &ReplicaName) -> Option<&ReplicaEntry> {
        self.replicas.iter().find(|replica| replica.name == *name)
    }

    /// The digest of everything that the cluster files of these two replicas must have the same, or they refuse to connect: the
    /// cluster's name and id, the delivery bound, `min_live`, the initial settings, the names of all replicas in their order, and the
    /// addresses of these two.
    ///
    /// The address of a third replica, the authority's certificates, the operators, the log retention and `refusal_is_proof` are left
    /// out, so that they can be changed at one replica after the other.
    pub fn digest_between(&self, one: &ReplicaName, other: &ReplicaName) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key("stablechat cluster file, version 3");
        let milliseconds = self.delivery_bound.as_millis();
        hasher.update(format!("{}\n{}\n{milliseconds}\n{}\n", self.name, self.id, self.min_live).as_bytes());
        let InitialSettings { registration, invitation } = &self.initial;
        let invitation = invitation.map(|digest| digest.to_string()).unwrap_or_default();
        hasher.update(format!("{}\n{invitation}\n", registration.word()).as_bytes());
        for ReplicaEntry { name, address } in &self.replicas {
            let address = if [one, other].contains(&name) { address } else { "" };
            hasher.update(format!("{name}\n{address}\n").as_bytes());
        }
        Digest(*hasher.finalize().as_bytes())
    }

    /// How far an accepted timestamp may be ahead of a replica's clock: min(50 ms, Δ/N).
    pub fn ahead(&self) -> Duration {
        let share = self.delivery_bound / u32::try_from(self.replicas.len()).expect("at most nine");
        AHEAD_MAX.min(share)
    }
}

/// Checks that a number of the file is from `min` to `max`.
fn check_range(field: &str, value: u64, min: u64, max: u64) -> Result<(), ClusterError> {
    match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(ClusterError(format!("{field} is {value}; it must be from {min} to {max}"))),
    }
}

/// The keys of operators, from hexadecimal digits.
fn read_operators(texts: &[String]) -> Result<Vec<PublicKey>, ClusterError> {
    if texts.len() > OPERATORS_MAX {
        return Err(ClusterError(format!("it has {} operators; it must have at most {OPERATORS_MAX}", texts.len())));
    }
    let read = |text: &String| bytes_from_hex(text).map(PublicKey).ok_or_else(|| not_hex("an operator's key", text));
    texts.iter().map(read).collect()
}

/// The settings that operators have not changed. Strangers are kept out of a cluster whose file says nothing of them.
fn read_initial(registration: Option<&str>, invitation: Option<&str>) -> Result<InitialSettings, ClusterError> {
    let registration = registration.map_or(Ok(Registration::ByInvitation), str::parse).map_err(ClusterError)?;
    let read = |text| bytes_from_hex(text).map(Digest).ok_or_else(|| not_hex("first_invitation", text));
    Ok(InitialSettings { registration, invitation: invitation.map(read).transpose()? })
}

fn not_hex(what: &str, text: &str) -> ClusterError {
    ClusterError(format!("{what} is {text:?}; it must be 64 hexadecimal digits"))
}

/// Checks the number of replicas, the form of their addresses, and that no two have the same name or address.
fn check_replicas(replicas: &[ReplicaEntry]) -> Result<(), ClusterError> {
    if !(1..=REPLICAS_MAX).contains(&replicas.len()) {
        return Err(ClusterError(format!(
            "it has {} [[replica]] entries; it must have 1 to {REPLICAS_MAX}",
            replicas.len()
        )));
    }

    for (index, ReplicaEntry { name, address }) in replicas.iter().enumerate() {
        let is_valid = address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
        if !is_valid {
            return Err(ClusterError(format!("the address {address:?} of replica {name} is not HOST:PORT")));
        }

        for earlier in &replicas[..index] {
            if earlier.name == *name {
                return Err(ClusterError(format!("two replicas are named {name}")));
            }
            if earlier.address == *address {
                return Err(ClusterError(format!(
                    "replicas {} and {name} have the same address {address}",
                    earlier.name
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = 'demo'\nid = '7f'\n[[replica]]\nname = 'a'\naddress = '127.0.0.1:7401'\n[[replica]]\nname = 'b'\naddress = 'host.example:7402'\n";

    #[test]
    fn two_replicas_agree_on_what_matters_to_both() {
        let text = format!("{GOOD}[[replica]]\nname = 'c'\naddress = '127.0.0.1:7403'\n");
        let [a, b, c] = ["a", "b", "c"].map(|name| ReplicaName::parse(name).expect("a name"));
        let digest = |text: &str, one, other| Cluster::parse(text).expect("a good file").digest_between(one, other);
        let same = digest(&text, &a, &b);
        assert_eq!(same, digest(&text, &b, &a));
        assert_eq!(same, digest(&format!("log_retention_mib = 2\n{text}"), &a, &b));
        assert_eq!(same, digest(&format!("ca = 'any'\n{text}"), &a, &b));
        assert_eq!(same, digest(&format!("refusal_is_proof = false\n{text}"), &a, &b));
        assert_eq!(same, digest(&format!("operators = ['{}']\n{text}", "7f".repeat(32)), &a, &b));
        assert_eq!(same, digest(&format!("registration = 'invitation'\n{text}"), &a, &b));
        let moved = text.replace("127.0.0.1:7403", "127.0.0.2:7403");
        assert_eq!(same, digest(&moved, &a, &b));
        for (one, other) in [(&a, &c), (&b, &c)] {
            assert_ne!(digest(&text, one, other), digest(&moved, one, other));
        }
        let others = [
            text.replace("'demo'", "'prod'"),
            text.replace("'7f'", "'80'"),
            text.replace("name = 'c'", "name = 'd'"),
            text.replace("7401", "7400"),
            format!("delivery_bound_ms = 999\n{text}"),
            format!("min_live = 2\n{text}"),
            format!("registration = 'open'\n{text}"),
            format!("first_invitation = '{}'\n{text}", "7f".repeat(32)),
            GOOD.to_string(),
        ];
        for other in others {
            assert_ne!(same, digest(&other, &a, &b), "{other}");
        }
    }

    #[test]
    fn a_good_file_and_its_defaults() {
        let cluster = Cluster::parse(GOOD).expect("a good file");
        assert_eq!(cluster.name.as_str(), "demo");
        assert_eq!(cluster.delivery_bound, Duration::from_millis(1000));
        assert_eq!(cluster.replicas[1].address, "host.example:7402");
        assert_eq!(cluster.ahead(), Duration::from_millis(50));
        assert_eq!(cluster.log_retention, 1 << 30);
        assert_eq!((&cluster.operators[..], cluster.initial.registration), (&[][..], Registration::ByInvitation));
        let short = Cluster::parse(&format!("log_retention_mib = 2\n{GOOD}")).expect("a good file");
        assert_eq!(short.log_retention, 2 << 20);
        let waits = Cluster::parse(&format!("refusal_is_proof = false\n{GOOD}")).expect("a good file");
        assert_eq!((cluster.refusal_is_proof, waits.refusal_is_proof), (true, false));
        let tight = Cluster::parse(&format!("delivery_bound_ms = 60\n{GOOD}")).expect("a good file");
        assert_eq!(tight.ahead(), Duration::from_millis(30));
        assert!(cluster.replica(&ReplicaName::parse("b").expect("a name")).is_some());
        assert!(cluster.replica(&ReplicaName::parse("c").expect("a name")).is_none());
    }

    #[test]
    fn a_bad_file_says_what_is_wrong() {
        let cases = [
            ("".to_string(), "name"),
            ("name = ".to_string(), "line 1"),
            ("name = 'demo'".to_string(), "id"),
            ("name = 'demo'\nid = '7f'".to_string(), "0 [[replica]] entries"),
            ("name = 'Demo'".to_string(), "has a character"),
            (format!("delivery_bound = 5\n{GOOD}"), "unknown field"),
            (format!("delivery_bound_ms = 5\n{GOOD}"), "delivery_bound_ms is 5"),
            (format!("delivery_bound_ms = -5\n{GOOD}"), "line 1"),
            (format!("min_live = 0\n{GOOD}"), "min_live is 0"),
            (format!("min_live = 3\n{GOOD}"), "min_live is 3"),
            (format!("refusal_is_proof = 1\n{GOOD}"), "line 1"),
            (format!("log_retention_mib = 0\n{GOOD}"), "log_retention_mib is 0"),
            (GOOD.replace("7f", "../other"), "has a character"),
            (format!("registration = 'all'\n{GOOD}"), "registration is \"all\"; it must be open, invitation or closed"),
            (format!("operators = ['7f']\n{GOOD}"), "an operator's key is \"7f\"; it must be 64"),
            (format!("operators = [{}]\n{GOOD}", "'7f',".repeat(17)), "it has 17 operators"),
            (format!("first_invitation = '{}'\n{GOOD}", "x".repeat(64)), "first_invitation is"),
            (format!("log_retention_mib = 2000000000\n{GOOD}"), "log_retention_mib is 2000000000"),
            (GOOD.replace("'b'", "'a'"), "two replicas are named a"),
            (GOOD.replace("host.example:7402", "127.0.0.1:7401"), "have the same address"),
            (GOOD.replace("host.example:7402", "host.example"), "is not HOST:PORT"),
            (GOOD.replace("7402", "74020"), "is not HOST:PORT"),
            (GOOD.replace("7402", "0"), "is not HOST:PORT"),
        ];
        for (text, fault) in cases {
            let error = Cluster::parse(&text).expect_err(&text).to_string();
            assert!(error.contains(fault), "{error:?} lacks {fault:?}");
        }
    }
}
