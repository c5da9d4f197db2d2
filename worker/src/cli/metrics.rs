//! Where metrics go.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use ringtide_core::config::{Violation, Worker};

use crate::metrics::Metrics;
use crate::otlp::{Exporter, Settings};

/// Bounds of histograms of durations, in seconds: from what a local ring shard takes to what nobody should wait for.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Begins to collect metrics, for `/metrics` and for a collector. `None` where somebody else collects them.
pub(super) fn begin() -> Option<Metrics> {
    let handle = collect().map_err(|error| tracing::warn!(%error, "metrics are not exported")).ok();
    ringtide_core::metrics::describe();
    handle
}

fn collect() -> Result<Metrics, BuildError> {
    let durations = Matcher::Suffix("_seconds".to_owned());
    PrometheusBuilder::new().set_buckets_for_metric(durations, &SECONDS)?.install_recorder().map(Metrics::new)
}

/// Prepares to send metrics to a collector, where the configuration or the environment names one.
pub(super) fn exporter(settings: &Worker, metrics: Option<&Metrics>) -> Result<Option<Exporter>, Vec<Violation>> {
    let of = |name: &str| std::env::var(name).ok();
    let found = Settings::read(settings.otlp_endpoint.as_deref(), &settings.application, of)?;
    let (Some(found), Some(metrics)) = (found, metrics) else { return Ok(None) };
    let exporter = Exporter::new(found, metrics.clone());
    exporter.map(Some).map_err(|error| {
        let problem = format!("metrics cannot be sent: the system's certificates cannot be read: {error}");
        vec![Violation::new("worker.otlp_endpoint", problem, "install the package ca-certificates")]
    })
}
