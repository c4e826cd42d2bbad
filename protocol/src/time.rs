//! Timestamps: moments, and the distances between them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// A moment: nanoseconds since the Unix epoch (1970-01-01T00:00:00Z), which reach to the year 2554.
///
/// Arithmetic saturates at both ends: a hostile timestamp must not overflow anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The Unix epoch. Before every request.
    pub const ZERO: Timestamp = Timestamp(0);
    /// The last moment that can be written, in the year 2554.
    pub const MAX: Timestamp = Timestamp(u64::MAX);

    /// The moment `duration` later, at most [`Timestamp::MAX`].
    pub fn after(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(nanoseconds(duration)))
    }

    /// The moment `duration` earlier, at least [`Timestamp::ZERO`].
    pub fn before(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(nanoseconds(duration)))
    }

    /// The time from `earlier` to this moment; zero when this is not the later one.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The next moment, one nanosecond later.
    pub fn next(self) -> Timestamp {
        Timestamp(self.0.saturating_add(1))
    }

    /// What a clock that is `offset` nanoseconds ahead of this one shows at this moment.
    pub fn offset_by(self, offset: i64) -> Timestamp {
        Timestamp(self.0.saturating_add_signed(offset))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, duration: Duration) -> Timestamp {
        self.after(duration)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// A duration in nanoseconds, at most 584 years' worth.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A moment in UTC, to the second: `2026-11-22 08:30:05`. The date is computed as in Howard Hinnant's "chrono-compatible
/// low-level date algorithms" (`civil_from_days`).
pub fn utc(timestamp: Timestamp) -> String {
    let seconds = timestamp.0 / 1_000_000_000;
    let (day, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    // An era is 400 years, 146,097 days, after which the calendar repeats.
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);

    // Months are counted from March, so that the leap day is the last of the year.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
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

    #[test]
    fn times_are_utc() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_709_251_199, "2024-02-29 23:59:59"),
            (1_735_689_599, "2024-12-31 23:59:59"),
            (1_795_336_205, "2026-11-22 08:30:05"),
            (18_446_744_073, "2554-07-21 23:34:33"),
        ] {
            assert_eq!(utc(Timestamp(seconds * 1_000_000_000)), expected);
        }
        utc(Timestamp::MAX);
    }
}
