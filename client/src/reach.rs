//! Sets of links: which replicas are in reach, and which of them have refused something.

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
}
