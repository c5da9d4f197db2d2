//! The wall clock, for what is compared with servers' clocks or written down.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longer than anybody waits, and short enough for every clock to reckon with.
pub(crate) const CENTURY: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// Tells the time in unix ms; 0 where the clock stands before 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
