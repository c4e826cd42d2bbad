//! What an account has read of a conversation: all up to its marker, and ranges beyond it.
//!
//! A client says which range it was shown, with the number of messages in it and the sum of their uids. The range is read only if it
//! has exactly these messages where the command is applied. So a message that a repair inserts is unread, even if messages before and
//! after it were read: the command for its range is rejected when it is applied again. The commands for other ranges hold, since both of their ends
//! have moved alike. Commands never move a marker back.
//!
//! Messages that were removed because of their age count as read. Messages from before an account (last) joined a room do not concern
//! it. A range that begins among either begins at their end.

use super::conversations;
use super::parts::{Part, point_at};
use super::rows::Rows;
use super::values::{Mark, MarkRange, Membership, Point};
use super::{Abort, Outcome, users};
use stablechat_protocol::answer::Rejection;
use stablechat_protocol::conversation::{Conversation, READ_AHEAD_MAX, ReadRange};
use stablechat_protocol::request::Actor;
use stablechat_protocol::uid::Uid;

/// Notes that the actor was shown the messages of a range.
pub fn read(
    rows: &mut Rows,
    uid: Uid,
    actor: Option<&Actor>,
    conversation: &Conversation,
    range: &ReadRange,
) -> Result<Outcome, Abort> {
    let (_, user) = users::owned(rows, actor)?;
    let part = conversations::named(rows, &user, conversation)?;
    if range.after >= range.up_to || range.up_to > uid {
        return Err(Rejection::NoRange.into());
    }
    let Some(part) = part else { return Err(Rejection::Outdated.into()) };
    let start = part.start();
    if range.up_to <= start.uid {
        return Ok(Outcome::done());
    }

    let after = point_after(rows, &part, start, range.after)?;
    let up_to = point_after(rows, &part, start, range.up_to)?;
    let is_same = up_to.position - after.position == range.count && up_to.sum.xor(after.sum) == range.sum;
    if !is_same {
        return Err(Rejection::Outdated.into());
    }
    if range.count == 0 {
        return Ok(Outcome::done());
    }
    let membership = with_range(&part, MarkRange { after: after.into(), up_to: up_to.into() })?;
    if membership != part.membership {
        Part { membership, ..part }.write(rows, user.id)?;
    }
    Ok(Outcome::done())
}

/// The point of a uid, but not one before the start.
fn point_after(rows: &Rows, part: &Part, start: Point, uid: Uid) -> Result<Point, Abort> {
    if uid <= start.uid {
        return Ok(start);
    }
    Ok(point_at(rows, part.id, &part.head, uid)?)
}

/// An account's part, once it has read this range as well.
fn with_range(part: &Part, range: MarkRange) -> Result<Membership, Rejection> {
    let mut marker = part.membership.marker;
    if marker.position < part.read_to() {
        marker = part.start().into();
    }
    let (mut ahead, mut new) = (Vec::new(), range);
    for old in part.membership.ahead.iter().copied() {
        let is_apart = old.up_to.position < new.after.position || new.up_to.position < old.after.position;
        if is_apart {
            ahead.push(old);
        } else {
            new = MarkRange { after: least(old.after, new.after), up_to: greatest(old.up_to, new.up_to) };
        }
    }
    ahead.push(new);
    ahead.sort_by_key(|range| range.after.position);

    // Ranges that the marker reaches are before it from here on.
    ahead.retain(|range| {
        let is_reached = range.after.position <= marker.position;
        if is_reached {
            marker = greatest(marker, range.up_to);
        }
        !is_reached
    });
    match ahead.len() > READ_AHEAD_MAX {
        true => Err(Rejection::TooManyRanges),
        false => Ok(Membership { marker, ahead, ..part.membership.clone() }),
    }
}

fn least(one: Mark, other: Mark) -> Mark {
    if other.position < one.position { other } else { one }
}

fn greatest(one: Mark, other: Mark) -> Mark {
    if other.position > one.position { other } else { one }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::store::state::keys::ConversationId;
    use crate::store::state::values::Head;
    use stablechat_protocol::conversation::UidSum;
    use stablechat_protocol::name::AccountName;
    use stablechat_protocol::time::Timestamp;
    use std::collections::BTreeSet;

    fn mark(position: u64) -> Mark {
        Mark { uid: Uid::new(Timestamp(position), b""), position }
    }

    /// A conversation of so many messages, of which the account has read none and the first ones are removed.
    fn part(length: u64, removed: u64) -> Part {
        let point = |position| Point { uid: mark(position).uid, position, sum: UidSum::ZERO };
        let name = AccountName::parse("bob").expect("a name");
        Part {
            id: ConversationId::of_two(Uid::MIN, Uid::MAX),
            membership: Membership {
                of: Conversation::Account { name },
                joined: Point::START,
                marker: Point::START.into(),
                ahead: Vec::new(),
                is_muted: false,
            },
            head: Head { end: point(length), removed: point(removed), unanswered: None },
        }
    }

    fn range(after: u64, up_to: u64) -> MarkRange {
        MarkRange { after: mark(after), up_to: mark(up_to) }
    }

    fn shape(membership: &Membership) -> (u64, Vec<(u64, u64)>) {
        let ahead = membership.ahead.iter().map(|range| (range.after.position, range.up_to.position));
        (membership.marker.position, ahead.collect())
    }

    #[test]
    fn ranges_are_joined_and_fill_gaps() {
        let mut part = part(100, 0);
        for (after, up_to, expected) in [
            (20, 30, (0, vec![(20, 30)])),
            (40, 50, (0, vec![(20, 30), (40, 50)])),
            (30, 35, (0, vec![(20, 35), (40, 50)])),
            (25, 45, (0, vec![(20, 50)])),
            (0, 10, (10, vec![(20, 50)])),
            (5, 8, (10, vec![(20, 50)])),
            (10, 20, (50, vec![])),
            (49, 60, (60, vec![])),
        ] {
            part.membership = with_range(&part, range(after, up_to)).expect("there is room");
            assert_eq!(shape(&part.membership), expected);
        }
    }

    #[test]
    fn what_was_removed_is_read() {
        let mut part = part(100, 40);
        part.membership = with_range(&part, range(60, 70)).expect("there is room");
        assert_eq!((shape(&part.membership), part.unread()), ((40, vec![(60, 70)]), 50));
        for (removed, unread) in [(55, 35), (60, 30), (65, 30), (70, 30), (80, 20), (100, 0)] {
            part.head.removed.position = removed;
            assert_eq!(part.unread(), unread, "removed up to {removed}");
        }
        part.membership = with_range(&part, range(100, 100)).expect("there is room");
        assert_eq!(shape(&part.membership), (100, vec![]));
    }

    #[test]
    fn at_the_limit_a_range_can_be_extended_and_none_added() {
        let mut part = part(1000, 0);
        for at in 1..=READ_AHEAD_MAX as u64 {
            part.membership = with_range(&part, range(10 * at, 10 * at + 5)).expect("there is room");
        }
        assert_eq!(with_range(&part, range(5, 6)), Err(Rejection::TooManyRanges));
        assert_eq!(with_range(&part, range(990, 1000)), Err(Rejection::TooManyRanges));
        assert!(with_range(&part, range(15, 17)).is_ok_and(|part| part.ahead.len() == READ_AHEAD_MAX));
        assert!(with_range(&part, range(0, 3)).is_ok_and(|part| part.ahead.len() == READ_AHEAD_MAX));
    }

    /// In whatever order messages are read and removed, those are unread to which neither has happened.
    #[test]
    fn the_count_is_that_of_a_set() {
        for seed in 0..300 {
            let mut random = Random(seed);
            let (mut part, mut unread) = (part(60, 0), (1..=60).collect::<BTreeSet<u64>>());
            for _ in 0..30 {
                let after = random.below(60) as u64;
                let up_to = (after + 1 + random.below(8) as u64).min(60);
                if random.percent(15) {
                    part.head.removed = Point { position: after.max(part.head.removed.position), ..part.head.removed };
                    unread.retain(|message| *message > after);
                } else {
                    // As `read` does with a range that begins in what was removed.
                    let start = part.start().position;
                    let (after, up_to) = (after.max(start), up_to.max(start));
                    if after < up_to {
                        part.membership = with_range(&part, range(after, up_to)).expect("there is room");
                    }
                    unread.retain(|message| *message <= after || *message > up_to);
                }
                assert_eq!(part.unread(), unread.len() as u64, "seed {seed}");
            }
        }
    }
}
