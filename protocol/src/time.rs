//! Moments and the distances between them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A moment: nanoseconds since the Unix epoch (1970-01-01T00:00:00Z), which reach to the year 2554.
///
/// Arithmetic saturates at both ends: a hostile timestamp must not overflow anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The Unix epoch, before every request.
    pub const ZERO: Timestamp = Timestamp(0);
    /// The last moment there is.
    pub const MAX: Timestamp = Timestamp(u64::MAX);

    /// The moment `duration` later.
    pub fn after(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(nanoseconds(duration)))
    }

    /// The moment `duration` earlier.
    pub fn before(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(nanoseconds(duration)))
    }

    /// How long after `earlier` this is; zero when it is not.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The next moment, one nanosecond later.
    pub fn next(self) -> Timestamp {
        Timestamp(self.0.saturating_add(1))
    }

    /// This moment on a clock that is `offset` nanoseconds ahead of ours.
    pub fn offset_by(self, offset: i64) -> Timestamp {
        Timestamp(self.0.saturating_add_signed(offset))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// A duration's nanoseconds, or as many as fit.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let second = Duration::from_secs(1);
        assert_eq!(Timestamp::MAX.after(second), Timestamp::MAX);
        assert_eq!(Timestamp::MAX.next(), Timestamp::MAX);
        assert_eq!(Timestamp::ZERO.before(second), Timestamp::ZERO);
        assert_eq!(Timestamp(5).since(Timestamp(7)), Duration::ZERO);
        assert_eq!(Timestamp(5).offset_by(-9), Timestamp::ZERO);
        assert_eq!(Timestamp(5).after(second).since(Timestamp(5)), second);
    }
}
