//! The configuration as it is written: every field optional, unknown ones collected.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Fields that a section does not have.
pub(super) type Unknown = BTreeMap<String, toml::Value>;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawConfig {
    pub(super) aws: RawAws,
    pub(super) valkey: RawValkey,
    pub(super) ring: RawRing,
    pub(super) spaces: BTreeMap<String, RawSpace>,
    pub(super) routes: Vec<RawRoute>,
    pub(super) park: RawPark,
    pub(super) delivery: RawDelivery,
    pub(super) worker: RawWorker,
    pub(super) probe: RawProbe,
    pub(super) reader: RawReader,
    #[serde(flatten)]
    pub(super) unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawAws {
    pub(super) region: Option<String>,
    pub(super) endpoint_url: Option<String>,
    #[serde(flatten)]
    pub(super) unknown: Unknown,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawValkey {
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) password_file: Option<String>,
    pub(super) password_secret: Option<String>,
    pub(super) iam_cache: Option<String>,
    pub(super) iam_serverless: Option<bool>,
    pub(super) cluster: Option<bool>,
    pub(super) tls: Option<bool>,
    pub(super) ca_file: Option<String>,
    pub(super) connections: Option<i64>,
    pub(super) command_timeout: Option<String>,
    pub(super) connect_timeout: Option<String>,
    #[serde(flatten)]
    pub(super) unknown: Unknown,
}

impl std::fmt::Debug for RawValkey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawValkey").finish_non_exhaustive()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawRing {
    pub(super) placement: Option<String>,
    pub(super) epoch: Option<i64>,
    pub(super) changed_at_ms: Option<i64>,
    pub(super) shards: Vec<RawShard>,
    pub(super) earlier: Vec<RawRing>,
    #[serde(flatten)]
    pub(super) unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawShard {
    pub(super) name: Option<String>,
    pub(super) address: Option<String>,
    pub(super) weight: Option<i64>,
    #[serde(flatten)]
    pub(super) unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawSpace {
    pub(super) key: Option<String>,
    pub(super) mode: Option<String>,
    pub(super) settle: Option<String>,
    pub(super) version_attribute: Option<String>,
    pub(super) consistent_loads: Option<bool>,
    pub(super) tombstone: Option<String>,
    pub(super) ttl: Option<String>,
    pub(super) ttl_jitter: Option<f64>,
    pub(super) negative_ttl: Option<String>,
    pub(super) stale_while_revalidate: Option<String>,
    pub(super) stale_if_error: Option<String>,
    pub(super) early_refresh: Option<f64>,
    pub(super) codec: Option<String>,
    pub(super) compress_above: Option<i64>,
    pub(super) load_timeout: Option<String>,
    pub(super) local: Option<String>,
    pub(super) local_ttl: Option<String>,
    #[serde(flatten)]
    pub(super) unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawRoute {
    pub(super) table: Option<String>,
    pub(super) space: Option<String>,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) on: Option<Vec<String>>,
    pub(super) when_changed: Vec<String>,
    pub(super) action: Option<String>,
    pub(super) projection: Option<Vec<String>>,
    pub(super) populate: Option<bool>,
    #[serde(flatten)]
    pub(super) unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawPark {
    pub(super) to: Option<String>,
    #[serde(flatten)]
    pub(super) unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawDelivery {
    pub(super) redeliver_window: Option<String>,
    pub(super) redeliver_keys: Option<i64>,
    pub(super) check_interval: Option<String>,
    pub(super) wait_replicas: Option<i64>,
    pub(super) wait_timeout: Option<String>,
    pub(super) watch: Option<String>,
    #[serde(flatten)]
    pub(super) unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawWorker {
    pub(super) application: Option<String>,
    pub(super) listen: Option<String>,
    pub(super) otlp_endpoint: Option<String>,
    pub(super) idle_poll: Option<String>,
    pub(super) max_reads_per_second: Option<i64>,
    pub(super) discovery_interval: Option<String>,
    pub(super) checkpoint_interval: Option<String>,
    pub(super) lease_timeout: Option<String>,
    pub(super) drain_timeout: Option<String>,
    pub(super) unhealthy_after: Option<String>,
    pub(super) log_capacity: Option<i64>,
    pub(super) pages_in_flight: Option<i64>,
    #[serde(flatten)]
    pub(super) unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawProbe {
    pub(super) table: Option<String>,
    pub(super) interval: Option<String>,
    pub(super) timeout: Option<String>,
    #[serde(flatten)]
    pub(super) unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawReader {
    pub(super) lease_ttl: Option<String>,
    pub(super) load_timeout: Option<String>,
    pub(super) max_attempts: Option<i64>,
    pub(super) max_fallback_loads: Option<i64>,
    pub(super) inline_max: Option<i64>,
    pub(super) max_loads: Option<i64>,
    pub(super) timeout: Option<String>,
    pub(super) soft_timeout: Option<String>,
    pub(super) local_capacity: Option<i64>,
    pub(super) breaker_failures: Option<i64>,
    pub(super) breaker_pause: Option<String>,
    pub(super) retry_budget: Option<f64>,
    pub(super) retry_queue: Option<i64>,
    pub(super) watch: Option<String>,
    #[serde(flatten)]
    pub(super) unknown: Unknown,
}
