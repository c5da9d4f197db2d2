//! Metrics as CloudWatch's embedded metric format: JSON lines in the log, which CloudWatch turns into metrics.
//!
//! Source of the format: "Specification: Embedded metric format", Amazon CloudWatch user guide.
//!
//! # Dimensions
//! One document stands for one set of labels. Each of its metrics is published twice, under `FunctionName` and under
//! `FunctionName` with the labels: alarms can be set on the whole function, because an alarm cannot search for labels.
//!
//! # What is written when
//! [`Metrics::flush`] writes what has changed since the last time: counters by their increase, gauges that were set,
//! histograms with their values. It is called before an invocation is answered, because the sandbox may be frozen, or
//! ended, as soon as it has answered.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Counter, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use serde::Serialize;
use serde_json::{Map, Value};

/// The namespace of every metric.
pub const NAMESPACE: &str = "Ringtide";
/// The dimension that holds the function's name.
pub const FUNCTION: &str = "FunctionName";

/// The most metrics of one document, and the most values of one metric in it.
const MOST: usize = 100;

/// Collects the process's metrics, cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    function: Arc<str>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    units: HashMap<KeyName, &'static str>,
    slots: HashMap<Key, Slot>,
}

enum Slot {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<Level>),
    Histogram(Arc<Values>),
}

/// A gauge, and whether it was set since it was last written.
#[derive(Default)]
struct Level {
    bits: AtomicU64,
    touched: AtomicBool,
}

/// A histogram's values since they were last written; past [`MOST`] the newest take the places of the oldest.
#[derive(Default)]
struct Values(Mutex<(Vec<f64>, usize)>);

impl Metrics {
    /// Begins to collect for a function of this name.
    #[must_use]
    pub fn new(function: &str) -> Self {
        Self { function: function.into(), state: Arc::default() }
    }

    /// Makes it the process's recorder; one that was installed before stays.
    pub fn install(&self) {
        let _installed_before = metrics::set_global_recorder(self.clone());
    }

    /// Writes what has changed since the last time, a line for each set of labels; `request_id` is a property.
    ///
    /// # Errors
    /// Where it cannot be written; what was taken for it is lost.
    pub fn flush(&self, out: &mut impl Write, now_ms: u64, request_id: Option<&str>) -> io::Result<()> {
        let mut lines = Vec::new();
        for (labels, metrics) in self.changed() {
            for metrics in metrics.chunks(MOST) {
                let document = Document::new(&self.function, &labels, metrics, now_ms, request_id);
                serde_json::to_writer(&mut lines, &document)?;
                lines.push(b'\n');
            }
        }
        out.write_all(&lines)?;
        out.flush()
    }

    fn changed(&self) -> BTreeMap<Vec<(String, String)>, Vec<Measured>> {
        let mut changed: BTreeMap<_, Vec<Measured>> = BTreeMap::new();
        let state = self.state();
        for (key, slot) in &state.slots {
            let value = match slot {
                Slot::Counter(count) => match count.swap(0, Ordering::AcqRel) {
                    0 => continue,
                    count => Value::from(count),
                },
                Slot::Gauge(level) if level.touched.swap(false, Ordering::AcqRel) => {
                    // A gauge that was left without a value is no number, and no part of a document.
                    match f64::from_bits(level.bits.load(Ordering::Acquire)) {
                        value if value.is_finite() => Value::from(value),
                        _ => continue,
                    }
                }
                Slot::Gauge(_) => continue,
                Slot::Histogram(values) => match values.take() {
                    values if values.is_empty() => continue,
                    values => Value::from(values),
                },
            };
            let labels = key.labels().map(|label| (label.key().to_owned(), label.value().to_owned())).collect();
            let unit = state.units.get(key.name()).copied();
            changed.entry(labels).or_default().push(Measured { name: key.name().to_owned(), unit, value });
        }
        drop(state);
        changed.values_mut().for_each(|metrics| metrics.sort_by(|a, b| a.name.cmp(&b.name)));
        changed
    }

    fn describe(&self, name: KeyName, unit: Option<Unit>) {
        if let Some(unit) = unit {
            self.state().units.insert(name, unit_of(unit));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorder for Metrics {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(name, unit);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(name, unit);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(name, unit);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.state().slots.entry(key.clone()).or_insert_with(|| Slot::Counter(Arc::default())) {
            Slot::Counter(count) => Counter::from_arc(Arc::<AtomicU64>::clone(count)),
            Slot::Gauge(_) | Slot::Histogram(_) => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match self.state().slots.entry(key.clone()).or_insert_with(|| Slot::Gauge(Arc::default())) {
            Slot::Gauge(level) => Gauge::from_arc(Arc::<Level>::clone(level)),
            Slot::Counter(_) | Slot::Histogram(_) => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match self.state().slots.entry(key.clone()).or_insert_with(|| Slot::Histogram(Arc::default())) {
            Slot::Histogram(values) => Histogram::from_arc(Arc::<Values>::clone(values)),
            Slot::Counter(_) | Slot::Gauge(_) => Histogram::noop(),
        }
    }
}

impl GaugeFn for Level {
    fn increment(&self, value: f64) {
        GaugeFn::increment(&self.bits, value);
        self.touched.store(true, Ordering::Release);
    }

    fn decrement(&self, value: f64) {
        GaugeFn::decrement(&self.bits, value);
        self.touched.store(true, Ordering::Release);
    }

    fn set(&self, value: f64) {
        GaugeFn::set(&self.bits, value);
        self.touched.store(true, Ordering::Release);
    }
}

impl Values {
    fn take(&self) -> Vec<f64> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).0
    }
}

impl HistogramFn for Values {
    fn record(&self, value: f64) {
        let (values, seen) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match values.get_mut(*seen % MOST) {
            Some(oldest) => *oldest = value,
            None => values.push(value),
        }
        *seen += 1;
    }
}

struct Measured {
    name: String,
    unit: Option<&'static str>,
    value: Value,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "_aws")]
    head: Head<'a>,
    #[serde(flatten)]
    members: Map<String, Value>,
}

#[derive(Serialize)]
struct Head<'a> {
    #[serde(rename = "Timestamp")]
    timestamp: u64,
    #[serde(rename = "CloudWatchMetrics")]
    directives: [Directive<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Directive<'a> {
    namespace: &'static str,
    dimensions: Vec<Vec<&'a str>>,
    metrics: Vec<Definition<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Definition<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'static str>,
}

impl<'a> Document<'a> {
    fn new(
        function: &str,
        labels: &'a [(String, String)],
        metrics: &'a [Measured],
        timestamp: u64,
        request_id: Option<&str>,
    ) -> Self {
        let mut dimensions = vec![vec![FUNCTION]];
        if !labels.is_empty() {
            dimensions.push(std::iter::once(FUNCTION).chain(labels.iter().map(|(name, _)| name.as_str())).collect());
        }
        let mut members = Map::new();
        members.insert(FUNCTION.to_owned(), function.into());
        members.extend(request_id.map(|id| ("requestId".to_owned(), id.into())));
        members.extend(labels.iter().map(|(name, value)| (name.clone(), value.as_str().into())));
        members.extend(metrics.iter().map(|measured| (measured.name.clone(), measured.value.clone())));
        let metrics = metrics.iter().map(|measured| Definition { name: &measured.name, unit: measured.unit }).collect();
        Self {
            head: Head { timestamp, directives: [Directive { namespace: NAMESPACE, dimensions, metrics }] },
            members,
        }
    }
}

/// CloudWatch's name of a unit.
fn unit_of(unit: Unit) -> &'static str {
    match unit {
        Unit::Count => "Count",
        Unit::Percent => "Percent",
        Unit::Seconds => "Seconds",
        Unit::Milliseconds => "Milliseconds",
        Unit::Microseconds => "Microseconds",
        Unit::Bytes => "Bytes",
        Unit::Kibibytes => "Kilobytes",
        Unit::Mebibytes => "Megabytes",
        Unit::Gibibytes => "Gigabytes",
        Unit::Tebibytes => "Terabytes",
        Unit::BitsPerSecond => "Bits/Second",
        Unit::KilobitsPerSecond => "Kilobits/Second",
        Unit::MegabitsPerSecond => "Megabits/Second",
        Unit::GigabitsPerSecond => "Gigabits/Second",
        Unit::TerabitsPerSecond => "Terabits/Second",
        Unit::CountPerSecond => "Count/Second",
        // CloudWatch has no unit as small.
        Unit::Nanoseconds => "None",
    }
}

#[cfg(test)]
mod tests {
    use metrics::{counter, describe_counter, gauge, histogram};

    use super::*;

    fn documents(metrics: &Metrics) -> Vec<Value> {
        let mut out = Vec::new();
        metrics.flush(&mut out, 1_700_000_000_000, Some("r-1")).unwrap();
        String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_document_has_the_whole_function_and_the_labels_as_dimensions() {
        let metrics = Metrics::new("f");
        let written = metrics::with_local_recorder(&metrics, || {
            describe_counter!("records_total", Unit::Count, "records");
            counter!("records_total", "table" => "products").increment(3);
            counter!("records_total", "table" => "products").increment(4);
            documents(&metrics)
        });
        assert_eq!(
            written,
            [serde_json::json!({
                "_aws": {
                    "Timestamp": 1_700_000_000_000_u64,
                    "CloudWatchMetrics": [{
                        "Namespace": "Ringtide",
                        "Dimensions": [["FunctionName"], ["FunctionName", "table"]],
                        "Metrics": [{ "Name": "records_total", "Unit": "Count" }]
                    }]
                },
                "FunctionName": "f", "table": "products", "requestId": "r-1", "records_total": 7
            })]
        );
    }

    #[test]
    fn only_what_has_changed_is_written_and_counters_by_their_increase() {
        let metrics = Metrics::new("f");
        metrics::with_local_recorder(&metrics, || {
            counter!("c").increment(2);
            gauge!("g").set(1.5);
            histogram!("h").record(0.25);
            histogram!("h").record(0.5);
            let first = documents(&metrics);
            assert_eq!(first.len(), 1);
            assert_eq!((&first[0]["c"], &first[0]["g"]), (&Value::from(2), &Value::from(1.5)));
            assert_eq!(first[0]["h"], serde_json::json!([0.25, 0.5]));
            assert!(documents(&metrics).is_empty());
            counter!("c").increment(1);
            gauge!("g").set(1.5);
            let second = documents(&metrics);
            assert_eq!((&second[0]["c"], &second[0]["g"]), (&Value::from(1), &Value::from(1.5)));
            assert_eq!(second[0].get("h"), None);
            gauge!("g").set(f64::NAN);
            assert!(documents(&metrics).is_empty());
        });
    }

    #[test]
    fn no_document_is_larger_than_cloudwatch_takes() {
        let metrics = Metrics::new("f");
        metrics::with_local_recorder(&metrics, || {
            for n in 0..250 {
                counter!(format!("c{n}")).increment(1);
                histogram!("h").record(f64::from(n));
            }
            let written = documents(&metrics);
            assert_eq!(written.len(), 3);
            for document in &written {
                let defined = document["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap();
                assert!(defined.len() <= 100);
                assert!(defined.iter().all(|metric| document.get(metric["Name"].as_str().unwrap()).is_some()));
            }
            let values = written.iter().find_map(|document| document.get("h")).unwrap().as_array().unwrap();
            assert_eq!(values.len(), 100);
            assert!(values.contains(&Value::from(249.0)), "the newest are kept");
        });
    }
}
