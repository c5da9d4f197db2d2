//! Names and labels of every metric, once; the edges choose where they go.
//!
//! Counters end in `_total`, durations are in seconds, ages and sizes are gauges. Labels hold names of tables, key
//! spaces and ring shards, never keys.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Label: the table's name.
pub const TABLE: &str = "table";
/// Label: the key space's name.
pub const SPACE: &str = "space";
/// Label: the ring shard's name.
pub const RING_SHARD: &str = "ring_shard";
/// Label: the stream shard's id.
pub const STREAM_SHARD: &str = "stream_shard";
/// Label: how something ended.
pub const OUTCOME: &str = "outcome";
/// Label: why something happened.
pub const REASON: &str = "reason";
/// Label: what sort of thing it is about.
pub const KIND: &str = "kind";
/// Label: how something stands.
pub const STATE: &str = "state";
/// Label: the program's version.
pub const VERSION: &str = "version";

macro_rules! kind {
    (describe_counter) => {
        "counter"
    };
    (describe_gauge) => {
        "gauge"
    };
    (describe_histogram) => {
        "histogram"
    };
}

macro_rules! names {
    ($($(#[doc = $doc:literal])* $kind:ident $name:ident = $text:literal, $unit:ident, $help:literal;)*) => {
        $(
            #[doc = concat!($help, ".")]
            pub const $name: &str = $text;
        )*

        /// Every metric: its name, its kind as Prometheus has it, and what it means.
        pub const ALL: &[(&str, &str, &str)] = &[$(($text, kind!($kind), $help)),*];

        /// Tells the recorder what each metric means.
        pub fn describe() {
            $($kind!($name, Unit::$unit, $help);)*
        }
    };
}

names! {
    // The pipeline.
    describe_counter PIPELINE_RECORDS = "ringtide_pipeline_records_total", Count, "Change records taken in, by table";
    describe_counter PIPELINE_COMMANDS = "ringtide_pipeline_commands_total", Count, "Commands after coalescing, by ring shard";
    describe_counter PIPELINE_COALESCED = "ringtide_pipeline_coalesced_total", Count, "Commands that another one for the same key of the page stands for";
    describe_counter PIPELINE_UNROUTED = "ringtide_pipeline_unrouted_total", Count, "Records no route wanted, by table";
    describe_counter PIPELINE_UNRENDERABLE = "ringtide_pipeline_unrenderable_total", Count, "Keys that cannot be rendered, so that no reader can have cached them, by key space";
    describe_counter PIPELINE_IMAGELESS = "ringtide_pipeline_imageless_total", Count, "Records without the image that would tell their keys, so that those may be stale, by key space";
    describe_counter PIPELINE_VERSION_MISSING = "ringtide_pipeline_version_missing_total", Count, "Records of versioned key spaces without a usable version, which drop the entry, by key space";
    describe_counter PIPELINE_KEYS_ONLY = "ringtide_pipeline_keys_only_total", Count, "Records whose images cannot be decoded and that were routed by their keys, by table";
    describe_counter PIPELINE_PARKED = "ringtide_pipeline_parked_total", Count, "Records that could not be turned into all of their commands and were parked, by table";
    describe_counter PARK_FAILURES = "ringtide_park_failures_total", Count, "Failed attempts to park a record, by reason";
    describe_gauge PARK_PENDING = "ringtide_park_pending", Count, "Records that wait to be parked";
    describe_histogram PIPELINE_SUBMIT = "ringtide_pipeline_submit_seconds", Seconds, "From taking in a page until all of its commands are queued";
    describe_counter APPLIED = "ringtide_applied_total", Count, "Commands carried out, by ring shard and by what they did";
    describe_counter DELIVERY_RETRIES = "ringtide_delivery_retries_total", Count, "Batches that had to be sent again, by ring shard";
    describe_gauge DELIVERY_PENDING = "ringtide_delivery_pending", Count, "Commands that wait for a ring shard";
    describe_gauge DELIVERY_BLIND = "ringtide_delivery_blind", Count, "1 while a ring shard does not say which server it is, so that fail-overs cannot be seen";
    describe_counter FAILOVERS = "ringtide_failovers_total", Count, "Ring shards that came back as another server or with other data, by ring shard and what was done about what they may have lost";
    describe_counter REDELIVERED = "ringtide_redelivered_total", Count, "Commands delivered again after a fail-over, by ring shard";
    describe_counter DELIVERY_RING_CHANGES = "ringtide_delivery_ring_changes_total", Count, "Memberships of the ring that were offered to the pipeline, by outcome";
    describe_gauge DELIVERY_RING_EPOCH = "ringtide_delivery_ring_epoch", Count, "Epoch of the membership that the pipeline delivers by, once every ring shard that joined with it is flushed";
    describe_gauge DELIVERY_DIRTY = "ringtide_delivery_dirty", Count, "1 while a ring shard has to be flushed before it is delivered to again";
    describe_counter FLUSHES = "ringtide_flushes_total", Count, "Flushes of key spaces on a ring shard, by ring shard and reason";
    describe_counter FLUSHED_KEYS = "ringtide_flushed_keys_total", Count, "Names removed by flushes, by ring shard";

    // Ring shards.
    describe_gauge SHARD_UP = "ringtide_ring_shard_up", Count, "1 while a ring shard is connected";
    describe_counter SHARD_CONNECTS = "ringtide_ring_shard_connects_total", Count, "Connections made to a ring shard";
    describe_counter SHARD_ERRORS = "ringtide_ring_shard_errors_total", Count, "Failed commands, by ring shard and reason";
    describe_counter FOREIGN_VALUES = "ringtide_foreign_values_total", Count, "Values under cached keys that are not entries, by reason";
    describe_counter INBOX_UNREADABLE = "ringtide_inbox_unreadable_total", Count, "Messages to an inbox that cannot be read";

    // The stream consumer.
    describe_counter STREAM_READS = "ringtide_stream_reads_total", Count, "GetRecords calls, by table and outcome";
    describe_counter STREAM_RECORDS = "ringtide_stream_records_total", Count, "Records read, by table";
    describe_gauge STREAM_AGE = "ringtide_stream_age_seconds", Seconds, "How far the reading of a stream shard is behind: the age of the newest record of its last page, 0 for an empty page, and the time since; DynamoDB rounds to seconds";
    describe_gauge STREAM_UNDELIVERED = "ringtide_stream_undelivered_seconds", Seconds, "How long the watermark of a stream shard has stood still while pages were under way to the ring; its checkpoint stands still as long";
    describe_gauge STREAM_LEASES = "ringtide_stream_leases", Count, "Stream shards by table and by who reads them: here, elsewhere, free, waiting, paused, ended, or unheld where nobody does for too long";
    describe_gauge STREAM_SHARDS_OPEN = "ringtide_stream_shards_open", Count, "Stream shards being read, by table";
    describe_counter STREAM_SHARDS_ENDED = "ringtide_stream_shards_ended_total", Count, "Stream shards read to their end, by table";
    describe_counter STREAM_ERRORS = "ringtide_stream_errors_total", Count, "Failed calls of DynamoDB Streams, by table and reason";
    describe_counter DISCOVERIES = "ringtide_stream_discoveries_total", Count, "Listings of a stream's shards, by table and outcome";
    describe_counter CHECKPOINTS = "ringtide_checkpoints_total", Count, "Checkpoints written, by table and outcome";
    describe_counter LEASE_CHANGES = "ringtide_stream_lease_changes_total", Count, "What became of stream leases: created, taken, stolen, asked (for a fair share), released, lost, expired, or twin: another worker has this one's name";
    describe_gauge LEASES_IN_PLAY = "ringtide_stream_leases_in_play", Count, "Stream leases that somebody is to read, of all tables of the configuration";
    describe_gauge LEASES_HELD = "ringtide_stream_leases_held", Count, "Those of them that this worker holds or has asked for";
    describe_gauge WORKERS = "ringtide_workers", Count, "Workers that hold stream leases, this one included";
    describe_counter GAPS = "ringtide_gaps_total", Count, "Gaps in a stream: records lost to this consumer, by table and reason";
    describe_counter TTL_DELETIONS = "ringtide_ttl_deletions_total", Count, "Deletions by DynamoDB's time to live, by table";
    describe_histogram PROBE_LAG = "ringtide_probe_lag_seconds", Seconds, "From a write to the probe table until its entry was invalidated, by ring shard";
    describe_counter PROBE_FAILURES = "ringtide_probe_failures_total", Count, "Probes that measured nothing, by ring shard and reason";
    describe_gauge WORKER_LIVE = "ringtide_worker_live", Count, "1 while /healthz says that the worker gets on with its work";
    describe_gauge WORKER_READY = "ringtide_worker_ready", Count, "1 while /readyz says that all is read, here and in the fleet";
    describe_gauge WORKER_INFO = "ringtide_worker_info", Count, "Always 1, by the program's version";

    // The function.
    describe_counter LAMBDA_EVENTS = "ringtide_lambda_events_total", Count, "Events of the function, by how they were answered";
    describe_counter LAMBDA_UNDELIVERED = "ringtide_lambda_undelivered_total", Count, "Records that were not delivered and that Lambda sends again, by table";
    describe_counter LAMBDA_GIVEN_UP = "ringtide_lambda_given_up_total", Count, "Batches that Lambda gave up and that came back to the function, by table and by what became of them";
    describe_counter LAMBDA_COLD_STARTS = "ringtide_lambda_cold_starts_total", Count, "Sandboxes that were started";
    describe_counter LAMBDA_PANICS = "ringtide_lambda_panics_total", Count, "Events that were answered with an error because the function panicked";
    describe_histogram LAMBDA_REMAINING = "ringtide_lambda_remaining_seconds", Seconds, "What was left of an invocation's time when its event was answered";
    describe_counter STREAM_EXPIRING = "ringtide_stream_expiring_total", Count, "Records taken in within the last of the 24 hours after which DynamoDB drops them, by table";
    describe_counter STREAM_SUPERSEDED = "ringtide_stream_superseded_total", Count, "Records of a stream that a newer stream of the same table has taken the place of, by table";

    // The reader.
    describe_counter READER_HITS = "ringtide_reader_hits_total", Count, "Reads answered by a cached value, by key space";
    describe_counter READER_NEGATIVES = "ringtide_reader_negatives_total", Count, "Reads answered by a cached absence, by key space";
    describe_counter READER_MISSES = "ringtide_reader_misses_total", Count, "Reads that found no usable entry, by key space and reason";
    describe_counter READER_JOINED = "ringtide_reader_joined_total", Count, "Misses that joined a load of this process, by key space";
    describe_counter READER_LOADS = "ringtide_reader_loads_total", Count, "Loads, by key space and outcome";
    describe_histogram READER_LOAD_TIME = "ringtide_reader_load_seconds", Seconds, "Duration of loads, by key space";
    describe_counter READER_BATCHES = "ringtide_reader_batch_loads_total", Count, "Calls of batch loaders, each for the loads of several keys, by key space";
    describe_histogram READER_BATCH_KEYS = "ringtide_reader_batch_load_keys", Count, "Keys of a batch loader's call, by key space";
    describe_counter READER_LEASES = "ringtide_reader_leases_total", Count, "Lease calls, by key space and outcome";
    describe_counter READER_FILLS = "ringtide_reader_fills_total", Count, "Fill calls, by key space and outcome";
    describe_counter READER_STALE = "ringtide_reader_stale_total", Count, "Reads answered by a stale value, by key space and reason";
    describe_counter READER_EARLY = "ringtide_reader_early_refreshes_total", Count, "Values loaded again before their time to live was over, by key space";
    describe_counter READER_LATE = "ringtide_reader_deadlines_exceeded_total", Count, "Reads whose deadline passed before there was a value, by key space";
    describe_counter READER_FALLBACKS = "ringtide_reader_fallbacks_total", Count, "Flights answered past a ring shard that failed, each for all who waited, by key space";
    describe_gauge READER_BREAKER = "ringtide_reader_breaker_state", Count, "0 while a ring shard is used, 2 while it is left alone after failures, 1 while it is probed";
    describe_counter READER_BREAKER_OPENED = "ringtide_reader_breaker_opened_total", Count, "How often a ring shard came to be left alone";
    describe_gauge READER_RETRIES_PENDING = "ringtide_reader_retries_pending", Count, "Fills and invalidations of this process that wait to be sent again, by kind";
    describe_counter READER_RETRIES_SENT = "ringtide_reader_retries_sent_total", Count, "Fills and invalidations that were answered when they were sent again, by kind";
    describe_counter READER_RETRIES_DROPPED = "ringtide_reader_retries_dropped_total", Count, "Fills and invalidations that were not sent again, by kind and reason; a dropped invalidation may leave a stale entry";
    describe_counter READER_REPEATED = "ringtide_reader_repeated_loads_total", Count, "Loads on behalf of second attempts, by key space and whether the budget allowed them";
    describe_counter READER_PUT_OFF = "ringtide_reader_loads_put_off_total", Count, "Loads that had to wait for others to end, by key space";
    describe_counter READER_SHARED_ERRORS = "ringtide_reader_shared_errors_total", Count, "Reads answered by the error of a load shortly before, by key space";
    describe_counter READER_INVALIDATIONS = "ringtide_reader_invalidations_total", Count, "Invalidations that an application asked for, by key space and by what they did";
    describe_counter READER_RING_CHANGES = "ringtide_reader_ring_changes_total", Count, "Memberships of the ring that were offered, and steps towards them that failed, by outcome";
    describe_gauge READER_RING_EPOCH = "ringtide_reader_ring_epoch", Count, "Epoch of the membership that keys are placed by";
    describe_counter READER_LOCAL_HITS = "ringtide_reader_local_hits_total", Count, "Reads answered from this process's memory before a ring shard was asked, by key space";
    describe_counter READER_LOCAL_FALLBACK_HITS = "ringtide_reader_local_fallback_hits_total", Count, "Reads answered from this process's memory because their ring shard failed, by key space";
    describe_counter READER_LOCAL_FALLBACK_SETS = "ringtide_reader_local_fallback_sets_total", Count, "Values kept in this process's memory that were loaded because their ring shard failed, by key space";
    describe_counter READER_LOCAL_REFUSED = "ringtide_reader_local_refused_total", Count, "Values not kept in this process's memory because their keys changed while they were read, by key space";
    describe_counter READER_LOCAL_PUSHES = "ringtide_reader_local_pushes_total", Count, "Keys that a ring shard told to have changed, by ring shard";
    describe_counter READER_LOCAL_FLUSHES = "ringtide_reader_local_flushes_total", Count, "How often all that was read from a ring shard was dropped from this process's memory, by ring shard and reason";
    describe_gauge READER_LOCAL_BYTES = "ringtide_reader_local_bytes", Bytes, "How much of this process's memory keeps what it has read";
    describe_counter READER_UNCACHED = "ringtide_reader_uncached_total", Count, "Values returned uncached after the last attempt, by key space";
    describe_histogram READER_WAKE_TIME = "ringtide_reader_wake_seconds", Seconds, "How long waiters waited for another process's load, from their lease call on";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_metric_is_documented_and_every_documented_one_exists() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md")).unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `ringtide_"));
        let documented: BTreeSet<(String, String)> = rows
            .map(|row| {
                let mut cells = row.split('|').map(|cell| cell.trim().trim_matches('`'));
                (format!("ringtide_{}", cells.next().unwrap()), cells.next().unwrap().to_owned())
            })
            .collect();
        let named: BTreeSet<_> = ALL.iter().map(|(name, kind, _)| ((*name).to_owned(), (*kind).to_owned())).collect();
        let missing: Vec<_> = named.difference(&documented).collect();
        assert!(missing.is_empty(), "not in docs/metrics.md: {missing:?}");
        let unknown: Vec<_> = documented.difference(&named).collect();
        assert!(unknown.is_empty(), "in docs/metrics.md only: {unknown:?}");
    }

    #[test]
    fn names_say_what_they_count() {
        for (name, kind, _) in ALL {
            assert_eq!(name.ends_with("_total"), *kind == "counter", "{name}");
            assert!(name.starts_with("ringtide_"), "{name}");
        }
        let names: BTreeSet<_> = ALL.iter().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), ALL.len(), "each once");
    }
}
