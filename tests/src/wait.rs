//! Waiting for conditions, with a limit.

use std::time::{Duration, Instant};

/// How long anything may take that takes a fraction of a second on a machine of its own: some hundred times that, since the
/// machine may be slow, or busy with other things.
pub const SOON: Duration = Duration::from_secs(60);
/// The time between two checks of a condition.
const INTERVAL: Duration = Duration::from_millis(5);

/// Waits until a condition holds.
///
/// # Panics
/// The condition does not hold within the limit. `what` names it in the message.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, limit, || condition().then_some(()));
}

/// Waits until there is a value.
///
/// # Panics
/// There is none within the limit. `what` names it in the message.
pub fn wait_for<T>(what: &str, limit: Duration, probe: impl FnMut() -> Option<T>) -> T {
    try_wait_for(limit, probe).unwrap_or_else(|| panic!("waited {limit:?} in vain: {what}"))
}

/// Waits until there is a value. None if there is none within the limit.
pub fn try_wait_for<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let value = probe();
        if value.is_some() || Instant::now() >= deadline {
            return value;
        }
        std::thread::sleep(INTERVAL);
    }
}
