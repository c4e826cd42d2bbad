//! Which versions of the protocol a build speaks, and how two builds agree on one.
//!
//! A build speaks its own version and the one before it, so the replicas and clients of a cluster can be upgraded one after the
//! other while all of them work. Two builds speak the newest version that both know.

use std::fmt;

/// The newest version of the protocol that this build speaks: its own.
pub const VERSION_MAX: u16 = 1;
/// The oldest version of the protocol that this build speaks: the one before its own, if there is one.
pub const VERSION_MIN: u16 = if VERSION_MAX > 1 { VERSION_MAX - 1 } else { 1 };

/// The versions of the protocol that a build speaks: all from `min` to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Versions {
    pub min: u16,
    pub max: u16,
}

impl Versions {
    /// The versions that this build speaks.
    pub const OURS: Versions = Versions { min: VERSION_MIN, max: VERSION_MAX };

    /// The newest version in both ranges; none when the ranges do not overlap, or one of them is empty (`min > max`).
    pub fn agree(self, theirs: Versions) -> Option<u16> {
        let newest = self.max.min(theirs.max);
        let oldest = self.min.max(theirs.min);
        (newest >= oldest).then_some(newest)
    }

    /// Whether `version` is in the range.
    pub fn contains(self, version: u16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    /// Why this program cannot talk with one that speaks `theirs`, and which of the two to upgrade. For this program's user; the
    /// text speaks of the other program as "it".
    pub fn mismatch(self, theirs: Versions) -> String {
        let advice = if theirs.min > theirs.max {
            "that is no range"
        } else if theirs.max < self.min {
            "it is older than this program: upgrade it"
        } else {
            "it is newer than this program: upgrade this one"
        };
        format!("it speaks {theirs} of the protocol, this program {self}; {advice}")
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Versions { min, max } = self;
        match min == max {
            true => write!(formatter, "version {min}"),
            false => write!(formatter, "versions {min} to {max}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(min: u16, max: u16) -> Versions {
        Versions { min, max }
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        assert_eq!(Versions::OURS.agree(Versions::OURS), Some(VERSION_MAX));
        for (one, other, agreed) in [
            (range(1, 1), range(1, 2), Some(1)),
            (range(1, 2), range(2, 3), Some(2)),
            (range(1, 2), range(1, 2), Some(2)),
            (range(1, 2), range(0, u16::MAX), Some(2)),
            (range(1, 1), range(2, 2), None),
            (range(1, 2), range(3, 4), None),
            (range(1, 2), range(3, 1), None),
        ] {
            assert_eq!((one.agree(other), other.agree(one)), (agreed, agreed), "{one} and {other}");
        }
    }

    #[test]
    fn a_build_speaks_its_version_and_the_one_before() {
        let Versions { min, max } = Versions::OURS;
        assert!(min >= 1 && min == max.saturating_sub(1).max(1), "{min} to {max}");
        assert!(Versions::OURS.contains(min) && Versions::OURS.contains(max) && !Versions::OURS.contains(max + 1));
    }

    #[test]
    fn a_mismatch_says_which_program_is_older() {
        let older = range(2, 3).mismatch(range(1, 1));
        assert_eq!(
            older,
            "it speaks version 1 of the protocol, this program versions 2 to 3; it is older than this program: upgrade it"
        );
        assert!(range(1, 1).mismatch(range(2, 3)).ends_with("it is newer than this program: upgrade this one"));
        assert!(range(1, 1).mismatch(range(3, 1)).ends_with("that is no range"));
    }
}
