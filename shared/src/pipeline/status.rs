//! How deliveries fare, for people and pages to look at.

use serde::Serialize;

/// How one ring shard's queue fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RingShardStatus {
    /// The ring shard's name.
    pub name: String,
    /// Whether it took the last batch or flush.
    pub up: bool,
    /// Commands that wait or are under way.
    pub pending: usize,
    /// Why a flush waits for it or is under way; nothing is delivered before that flush. `None` where none does.
    pub flushing: Option<&'static str>,
    /// The last flush that it acknowledged to this process.
    pub last_flush: Option<LastFlush>,
}

/// A flush of key spaces that a ring shard acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastFlush {
    /// When, in unix ms by this process's clock.
    pub at_ms: u64,
    /// Why.
    pub reason: &'static str,
    /// Names that were removed.
    pub names: u64,
}

/// What became of records that could not be turned into all of their commands, since this process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ParkingStatus {
    /// Records that were parked, or only logged where there is no place to park them.
    pub parked: u64,
    /// Records that wait to be parked.
    pub waiting: usize,
    /// Whether the store did not take the last one.
    pub failing: bool,
}
