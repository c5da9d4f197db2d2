//! Counters of one key space, looked up once, so that a read only adds to them.

use metrics::{Counter, Histogram, counter, histogram};
use ringtide_core::metrics as names;

/// Closed sets of label values, and a counter for each.
macro_rules! labelled {
    ($($(#[doc = $doc:literal])* $set:ident as $counters:ident { $($value:ident = $text:literal),* $(,)? })*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $set { $($value),* }

        pub(crate) struct $counters([Counter; [$($text),*].len()]);

        impl $counters {
            fn new(name: &'static str, label: &'static str, space: &str) -> Self {
                Self([$($text),*].map(|text| counter!(name, names::SPACE => space.to_owned(), label => text)))
            }

            pub(crate) fn add(&self, value: $set) {
                self.0[value as usize].increment(1);
            }
        }
    )*};
}

labelled! {
    /// Why a look-up found no usable entry.
    MissReason as Misses {
        Absent = "absent", Foreign = "foreign", UnknownFormat = "unknown_format", Damaged = "damaged",
        Undecodable = "undecodable", Invalidated = "invalidated", Expired = "expired", Refused = "refused",
        Unavailable = "unavailable",
    }
    /// Why a stale value was served.
    StaleReason as Stale {
        Revalidate = "revalidate", Error = "error", SoftTimeout = "soft_timeout", Deadline = "deadline",
    }
    /// How a load ended.
    LoadOutcome as Loads { Loaded = "loaded", Failed = "failed", Panicked = "panicked", TimedOut = "timed_out" }
    /// What a lease call was answered.
    LeaseOutcome as Leases { Hit = "hit", Granted = "granted", Wait = "wait", Failed = "failed" }
    /// What a fill was answered.
    FillOutcome as Fills { Stored = "stored", Void = "void", Below = "below", Older = "older", Failed = "failed" }
}

pub(crate) struct Counters {
    pub(crate) hits: Counter,
    pub(crate) negatives: Counter,
    pub(crate) misses: Misses,
    pub(crate) joined: Counter,
    pub(crate) loads: Loads,
    pub(crate) load_time: Histogram,
    pub(crate) leases: Leases,
    pub(crate) fills: Fills,
    pub(crate) stale: Stale,
    pub(crate) early: Counter,
    pub(crate) late: Counter,
    pub(crate) fallbacks: Counter,
    pub(crate) uncached: Counter,
    pub(crate) wake_time: Histogram,
}

impl Counters {
    pub(crate) fn new(space: &str) -> Self {
        let one = |name: &'static str| counter!(name, names::SPACE => space.to_owned());
        Self {
            hits: one(names::READER_HITS),
            negatives: one(names::READER_NEGATIVES),
            misses: Misses::new(names::READER_MISSES, names::REASON, space),
            joined: one(names::READER_JOINED),
            loads: Loads::new(names::READER_LOADS, names::OUTCOME, space),
            load_time: histogram!(names::READER_LOAD_TIME, names::SPACE => space.to_owned()),
            leases: Leases::new(names::READER_LEASES, names::OUTCOME, space),
            fills: Fills::new(names::READER_FILLS, names::OUTCOME, space),
            stale: Stale::new(names::READER_STALE, names::REASON, space),
            early: one(names::READER_EARLY),
            late: one(names::READER_LATE),
            fallbacks: one(names::READER_FALLBACKS),
            uncached: one(names::READER_UNCACHED),
            wake_time: histogram!(names::READER_WAKE_TIME, names::SPACE => space.to_owned()),
        }
    }
}
