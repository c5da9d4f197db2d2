//! Metrics → the request that OTLP has for them, in its JSON encoding: 64-bit numbers are texts.

use ringtide_core::metrics::ALL;
use serde_json::{Value, json};

use super::exposition::{Family, Histogram, Labels, Series};

/// Values count from the process's start: OTLP's `AGGREGATION_TEMPORALITY_CUMULATIVE`.
const CUMULATIVE: u8 = 2;

pub(super) fn of(families: &[Family], resource: &[(String, String)], started_ms: u64, now_ms: u64) -> Value {
    let metrics: Vec<Value> = families.iter().map(|family| metric(family, started_ms, now_ms)).collect();
    let scope = json!({ "name": "ringtide", "version": env!("CARGO_PKG_VERSION") });
    let attributes = attributes(resource.iter().map(|(name, value)| (name, value)));
    json!({ "resourceMetrics": [{
        "resource": { "attributes": attributes },
        "scopeMetrics": [{ "scope": scope, "metrics": metrics }],
    }] })
}

fn metric(family: &Family, started_ms: u64, now_ms: u64) -> Value {
    let times = (nanoseconds(started_ms), nanoseconds(now_ms));
    let point = |(labels, value): &(Labels, f64)| {
        json!({
            "attributes": attributes(labels), "startTimeUnixNano": times.0, "timeUnixNano": times.1, "asDouble": value,
        })
    };
    let help = ALL.iter().find(|(name, ..)| *name == family.name).map_or("", |(.., help)| help);
    let mut metric = json!({ "name": family.name, "description": help, "unit": unit(&family.name) });
    let (kind, data) = match &family.series {
        Series::Counter(series) => {
            let points: Vec<Value> = series.iter().map(point).collect();
            let data = json!({ "aggregationTemporality": CUMULATIVE, "isMonotonic": true, "dataPoints": points });
            ("sum", data)
        }
        Series::Gauge(series) => ("gauge", json!({ "dataPoints": series.iter().map(point).collect::<Vec<_>>() })),
        Series::Histogram(series) => {
            let points: Vec<Value> =
                series.iter().map(|(labels, histogram)| distribution(labels, histogram, &times)).collect();
            ("histogram", json!({ "aggregationTemporality": CUMULATIVE, "dataPoints": points }))
        }
    };
    metric[kind] = data;
    metric
}

fn distribution(labels: &Labels, histogram: &Histogram, times: &(String, String)) -> Value {
    let mut below = 0;
    let counts: Vec<String> = histogram
        .buckets
        .iter()
        .map(|(_, up_to)| {
            let count = up_to.saturating_sub(below);
            below = *up_to;
            count.to_string()
        })
        .collect();
    let bounds: Vec<f64> =
        histogram.buckets.iter().map(|(bound, _)| *bound).filter(|bound| bound.is_finite()).collect();
    json!({
        "attributes": attributes(labels), "startTimeUnixNano": times.0, "timeUnixNano": times.1,
        "count": histogram.count.to_string(), "sum": histogram.sum, "bucketCounts": counts, "explicitBounds": bounds,
    })
}

fn attributes<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> Vec<Value> {
    let attribute = |(name, value)| json!({ "key": name, "value": { "stringValue": value } });
    pairs.into_iter().map(attribute).collect()
}

fn unit(name: &str) -> &'static str {
    if name.ends_with("_seconds") {
        "s"
    } else if name.ends_with("_bytes") {
        "By"
    } else {
        "1"
    }
}

fn nanoseconds(ms: u64) -> String {
    (u128::from(ms) * 1_000_000).to_string()
}
