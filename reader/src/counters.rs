//! Counters of one key space, looked up once, so that a read only adds to them.

use metrics::{Counter, Histogram, counter, histogram};
use ringtide_core::metrics as names;

use crate::write::Invalidated;

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

            #[allow(dead_code, reason = "invalidations are counted many at a time")]
            pub(crate) fn add(&self, value: $set) {
                self.count(value, 1);
            }

            pub(crate) fn count(&self, value: $set, times: u64) {
                self.0[value as usize].increment(times);
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
    /// Whether the budget allowed a load on behalf of a second attempt.
    RepeatOutcome as Repeats { Allowed = "allowed", Denied = "denied" }
    /// What a lease call was answered.
    LeaseOutcome as Leases { Hit = "hit", Granted = "granted", Wait = "wait", Failed = "failed" }
    /// What a fill was answered.
    FillOutcome as Fills { Stored = "stored", Void = "void", Below = "below", Older = "older", Failed = "failed" }
}

labelled! {
    /// What became of an invalidation that the application asked for.
    InvalidationOutcome as Invalidations {
        Absent = "absent", Dropped = "dropped", Marked = "marked", Older = "older", Queued = "queued", Gone = "gone",
    }
}

pub(crate) struct Counters {
    pub(crate) hits: Counter,
    pub(crate) negatives: Counter,
    pub(crate) misses: Misses,
    pub(crate) joined: Counter,
    pub(crate) loads: Loads,
    pub(crate) load_time: Histogram,
    pub(crate) batches: Counter,
    pub(crate) batch_keys: Histogram,
    pub(crate) repeated: Repeats,
    pub(crate) put_off: Counter,
    pub(crate) shared_errors: Counter,
    pub(crate) leases: Leases,
    pub(crate) fills: Fills,
    invalidations: Invalidations,
    pub(crate) stale: Stale,
    pub(crate) early: Counter,
    pub(crate) late: Counter,
    pub(crate) fallbacks: Counter,
    pub(crate) local_hits: Counter,
    pub(crate) local_refused: Counter,
    pub(crate) local_fallback_hits: Counter,
    pub(crate) local_fallback_sets: Counter,
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
            batches: one(names::READER_BATCHES),
            batch_keys: histogram!(names::READER_BATCH_KEYS, names::SPACE => space.to_owned()),
            repeated: Repeats::new(names::READER_REPEATED, names::OUTCOME, space),
            put_off: one(names::READER_PUT_OFF),
            shared_errors: one(names::READER_SHARED_ERRORS),
            leases: Leases::new(names::READER_LEASES, names::OUTCOME, space),
            fills: Fills::new(names::READER_FILLS, names::OUTCOME, space),
            invalidations: Invalidations::new(names::READER_INVALIDATIONS, names::OUTCOME, space),
            stale: Stale::new(names::READER_STALE, names::REASON, space),
            early: one(names::READER_EARLY),
            late: one(names::READER_LATE),
            fallbacks: one(names::READER_FALLBACKS),
            local_hits: one(names::READER_LOCAL_HITS),
            local_refused: one(names::READER_LOCAL_REFUSED),
            local_fallback_hits: one(names::READER_LOCAL_FALLBACK_HITS),
            local_fallback_sets: one(names::READER_LOCAL_FALLBACK_SETS),
            uncached: one(names::READER_UNCACHED),
            wake_time: histogram!(names::READER_WAKE_TIME, names::SPACE => space.to_owned()),
        }
    }

    /// Counts what became of invalidations.
    pub(crate) fn invalidated(&self, sum: &Invalidated) {
        let (applied, outcome) = (&sum.applied, &self.invalidations);
        outcome.count(InvalidationOutcome::Absent, applied.absent);
        outcome.count(InvalidationOutcome::Dropped, applied.dropped);
        outcome.count(InvalidationOutcome::Marked, applied.marked);
        outcome.count(InvalidationOutcome::Older, applied.older);
        outcome.count(InvalidationOutcome::Queued, sum.queued);
        outcome.count(InvalidationOutcome::Gone, sum.gone);
    }
}
