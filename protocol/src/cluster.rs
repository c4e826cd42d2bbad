//! The cluster file: what every replica and client of a cluster knows about it.

use crate::digest::Digest;
use crate::name::{ClusterName, ReplicaName};
use serde::Deserialize;
use std::fmt;
use std::time::Duration;

/// The delivery bound of a cluster file that does not give one, in milliseconds.
const DELIVERY_BOUND_DEFAULT_MS: u64 = 1000;
/// The least delivery bound that a cluster file may give, in milliseconds.
const DELIVERY_BOUND_MIN_MS: u64 = 10;
/// The greatest delivery bound that a cluster file may give, in milliseconds.
pub const DELIVERY_BOUND_MAX_MS: u64 = 60_000;
/// How much of its log a replica keeps when a cluster file does not say, in MiB.
const LOG_RETENTION_DEFAULT_MIB: u64 = 1024;
/// The most that a cluster file may have it keep, in MiB: a pebibyte.
const LOG_RETENTION_MAX_MIB: u64 = 1 << 30;
/// The most replicas in a cluster.
pub const REPLICAS_MAX: usize = 9;
/// The furthest that an accepted timestamp may be ahead of a replica's clock, whatever the delivery bound.
const AHEAD_MAX: Duration = Duration::from_millis(50);

/// A cluster: its name, its replicas and its delivery bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// What keeps it apart from others.
    pub name: ClusterName,
    /// Δ: at least `N·(δ+ε)` for N replicas, a message delay of at most δ and clocks that agree within ε.
    pub delivery_bound: Duration,
    /// How many replicas, itself included, a replica must be in contact with to answer anything: 1 for one that goes on
    /// alone, a majority for one that rather refuses than diverges in a partition.
    pub min_live: usize,
    /// How many bytes of its log a replica keeps for others that have been away. Who was away for longer gets a snapshot.
    pub log_retention: u64,
    /// The replicas, at least one, with distinct names and addresses.
    pub replicas: Vec<ReplicaEntry>,
}

/// A replica in a cluster file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaEntry {
    /// Its name.
    pub name: ReplicaName,
    /// `HOST:PORT`, where it listens for clients and replicas alike.
    pub address: String,
}

/// What is wrong with a cluster file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterError(String);

impl fmt::Display for ClusterError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for ClusterError {}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: ClusterName,
    delivery_bound_ms: Option<u64>,
    min_live: Option<usize>,
    log_retention_mib: Option<u64>,
    #[serde(default)]
    replica: Vec<ReplicaEntry>,
}

impl Cluster {
    /// Reads the text of a cluster file (TOML).
    ///
    /// # Errors
    /// The text is not TOML, has other fields than a cluster file, or breaks a rule; the error says where and which.
    pub fn parse(text: &str) -> Result<Cluster, ClusterError> {
        let file: File =
            toml::from_str(text).map_err(|error| ClusterError(error.to_string().trim_end().to_string()))?;
        let bound = file.delivery_bound_ms.unwrap_or(DELIVERY_BOUND_DEFAULT_MS);
        if !(DELIVERY_BOUND_MIN_MS..=DELIVERY_BOUND_MAX_MS).contains(&bound) {
            return Err(ClusterError(format!(
                "delivery_bound_ms is {bound}; it must be from {DELIVERY_BOUND_MIN_MS} to {DELIVERY_BOUND_MAX_MS}"
            )));
        }
        if !(1..=REPLICAS_MAX).contains(&file.replica.len()) {
            return Err(ClusterError(format!(
                "it has {} [[replica]] entries; it must have 1 to {REPLICAS_MAX}",
                file.replica.len()
            )));
        }
        for (index, replica) in file.replica.iter().enumerate() {
            let valid = replica
                .address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
            if !valid {
                return Err(ClusterError(format!(
                    "the address {:?} of replica {} is not HOST:PORT",
                    replica.address, replica.name
                )));
            }
            for earlier in &file.replica[..index] {
                if earlier.name == replica.name {
                    return Err(ClusterError(format!("two replicas are named {}", replica.name)));
                }
                if earlier.address == replica.address {
                    return Err(ClusterError(format!(
                        "replicas {} and {} have the same address {}",
                        earlier.name, replica.name, replica.address
                    )));
                }
            }
        }
        let min_live = file.min_live.unwrap_or(1);
        if !(1..=file.replica.len()).contains(&min_live) {
            return Err(ClusterError(format!(
                "min_live is {min_live}; it must be from 1 to the number of replicas, {}",
                file.replica.len()
            )));
        }
        let retention = file.log_retention_mib.unwrap_or(LOG_RETENTION_DEFAULT_MIB);
        if !(1..=LOG_RETENTION_MAX_MIB).contains(&retention) {
            return Err(ClusterError(format!(
                "log_retention_mib is {retention}; it must be from 1 to {LOG_RETENTION_MAX_MIB}"
            )));
        }
        let (delivery_bound, log_retention) = (Duration::from_millis(bound), retention << 20);
        Ok(Cluster { name: file.name, delivery_bound, min_live, log_retention, replicas: file.replica })
    }

    /// The replica with this name.
    pub fn replica(&self, name: &ReplicaName) -> Option<&ReplicaEntry> {
        self.replicas.iter().find(|replica| replica.name == *name)
    }

    /// What the cluster files of two replicas must agree on when they connect: the digest of the cluster's name, of what the
    /// protocol goes by, of all names in their order, and of the addresses of the two. The address of a third may be changed at one
    /// replica after the other, and so may how much of the log is kept.
    pub fn digest_between(&self, one: &ReplicaName, other: &ReplicaName) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key("stablechat cluster file, version 1");
        let milliseconds = self.delivery_bound.as_millis();
        hasher.update(format!("{}\n{milliseconds}\n{}\n", self.name, self.min_live).as_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = 'demo'\n[[replica]]\nname = 'a'\naddress = '127.0.0.1:7401'\n[[replica]]\nname = 'b'\naddress = 'host.example:7402'\n";

    #[test]
    fn two_replicas_agree_on_what_matters_to_both() {
        let text = format!("{GOOD}[[replica]]\nname = 'c'\naddress = '127.0.0.1:7403'\n");
        let [a, b, c] = ["a", "b", "c"].map(|name| ReplicaName::parse(name).expect("a name"));
        let digest = |text: &str, one, other| Cluster::parse(text).expect("a good file").digest_between(one, other);
        let same = digest(&text, &a, &b);
        assert_eq!(same, digest(&text, &b, &a));
        assert_eq!(same, digest(&format!("log_retention_mib = 2\n{text}"), &a, &b));
        let moved = text.replace("127.0.0.1:7403", "127.0.0.2:7403");
        assert_eq!(same, digest(&moved, &a, &b));
        for (one, other) in [(&a, &c), (&b, &c)] {
            assert_ne!(digest(&text, one, other), digest(&moved, one, other));
        }
        let others = [
            text.replace("'demo'", "'prod'"),
            text.replace("name = 'c'", "name = 'd'"),
            text.replace("7401", "7400"),
            format!("delivery_bound_ms = 999\n{text}"),
            format!("min_live = 2\n{text}"),
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
        let short = Cluster::parse(&format!("log_retention_mib = 2\n{GOOD}")).expect("a good file");
        assert_eq!(short.log_retention, 2 << 20);
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
            ("name = 'demo'".to_string(), "0 [[replica]] entries"),
            ("name = 'Demo'".to_string(), "has a character"),
            (format!("delivery_bound = 5\n{GOOD}"), "unknown field"),
            (format!("delivery_bound_ms = 5\n{GOOD}"), "delivery_bound_ms is 5"),
            (format!("delivery_bound_ms = -5\n{GOOD}"), "line 1"),
            (format!("min_live = 0\n{GOOD}"), "min_live is 0"),
            (format!("min_live = 3\n{GOOD}"), "min_live is 3"),
            (format!("log_retention_mib = 0\n{GOOD}"), "log_retention_mib is 0"),
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
