//! Sets of links: which replicas are in reach, and which of them have refused something; and why others are not in reach.

use stablechat_protocol::cluster::Cluster;
use std::collections::BTreeMap;

/// A set of links, by their numbers: the positions of their replicas in the cluster file, which are below 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkSet(u64);

impl LinkSet {
    pub const EMPTY: LinkSet = LinkSet(0);

    pub fn insert(&mut self, link: usize) {
        self.0 |= 1 << link;
    }

    pub fn remove(&mut self, link: usize) {
        self.0 &= !(1 << link);
    }

    pub fn contains(self, link: usize) -> bool {
        self.0 & (1 << link) != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all links of this set are also in the other.
    pub fn is_within(self, other: LinkSet) -> bool {
        self.0 & !other.0 == 0
    }
}

/// Why links are not ready, by their numbers.
#[derive(Clone, Debug, Default)]
pub struct LinkFaults(BTreeMap<usize, String>);

impl LinkFaults {
    /// A link was lost, or an attempt to make it ready has failed.
    pub fn on_fault(&mut self, link: usize, reason: String) {
        self.0.insert(link, reason);
    }

    pub fn on_ready(&mut self, link: usize) {
        self.0.remove(&link);
    }

    /// That no replica of the cluster can be reached, with the reason for each.
    pub fn unreachable(&self, cluster: &Cluster) -> String {
        let reason = |(link, name): (usize, _)| match self.0.get(&link) {
            Some(reason) => format!("{name}: {reason}"),
            None => format!("{name}: not connected yet"),
        };
        let names = cluster.replicas.iter().map(|replica| &replica.name);
        let reasons: Vec<String> = names.enumerate().map(reason).collect();
        format!("cannot reach any replica of the cluster {} ({})", cluster.name, reasons.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_inserted_removed_and_compared() {
        let (mut one, mut both) = (LinkSet::EMPTY, LinkSet::EMPTY);
        one.insert(2);
        both.insert(2);
        both.insert(8);
        assert!(one.is_within(both) && !both.is_within(one));
        assert!(LinkSet::EMPTY.is_within(one) && LinkSet::EMPTY.is_empty());
        both.remove(8);
        assert_eq!(one, both);
        assert!(both.contains(2) && !both.contains(8));
    }

    #[test]
    fn the_reason_is_given_for_each_replica() {
        let text = "name = 'demo'\nid = '1'\n[[replica]]\nname = 'a'\naddress = 'x:1'\n[[replica]]\nname = 'b'\naddress = 'x:2'\n";
        let cluster = Cluster::parse(text).expect("a good file");
        let mut faults = LinkFaults::default();
        faults.on_fault(1, "timed out".into());
        faults.on_fault(0, "connection refused".into());
        let expected = "cannot reach any replica of the cluster demo (a: connection refused, b: timed out)";
        assert_eq!(faults.unreachable(&cluster), expected);
        faults.on_ready(0);
        assert!(faults.unreachable(&cluster).contains("(a: not connected yet, b: timed out)"));
    }
}
