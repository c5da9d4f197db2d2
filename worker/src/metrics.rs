//! All metrics of a worker's process as one text.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use metrics_exporter_prometheus::PrometheusHandle;
use ringtide_core::metrics as names;

use crate::health::{Health, ShardAge};

/// What a recorder has collected, and the gauges of the stream shards that are read now.
///
/// A recorder keeps every series that it was ever told of, and stream shards come and go for as long as a worker runs. So
/// their gauges are none of the recorder's: they are made from what is known of them whenever somebody asks.
#[derive(Clone)]
pub struct Metrics {
    recorder: PrometheusHandle,
    health: Arc<OnceLock<Health>>,
}

impl Metrics {
    /// Begins with a recorder's handle.
    #[must_use]
    pub fn new(recorder: PrometheusHandle) -> Self {
        Self { recorder, health: Arc::default() }
    }

    /// Shows the stream shards of a worker from now on; of the first one, where there are several.
    pub(crate) fn show(&self, health: &Health) {
        let _ = self.health.set(health.clone());
    }

    /// Prometheus's text format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = self.recorder.render();
        if let Some(health) = self.health.get() {
            let ages = health.ages();
            gauge(&mut text, names::STREAM_AGE, &ages, |shard| shard.age.as_secs_f64());
            gauge(&mut text, names::STREAM_UNDELIVERED, &ages, |shard| shard.undelivered.as_secs_f64());
        }
        text
    }

    /// Lets the recorder tidy up; to be called now and then.
    pub(crate) fn upkeep(&self) {
        self.recorder.run_upkeep();
    }
}

fn gauge(text: &mut String, name: &str, shards: &[ShardAge], value: impl Fn(&ShardAge) -> f64) {
    if shards.is_empty() {
        return;
    }
    let help = names::ALL.iter().find(|(of, ..)| *of == name).map_or("", |(_, _, help)| help);
    let (table, stream_shard) = (names::TABLE, names::STREAM_SHARD);
    // Writing to a text cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
    for shard in shards {
        let (of, id) = (escaped(&shard.table), escaped(shard.stream_shard.as_str()));
        let _ = writeln!(text, "{name}{{{table}=\"{of}\",{stream_shard}=\"{id}\"}} {}", value(shard));
    }
    text.push('\n');
}

/// A label's value as it stands between quotation marks.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stream_shards_that_came_and_went_leave_no_series_behind() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let shown = Metrics::new(recorder.handle());
        let table: Arc<str> = "t\"1\"".into();
        let health = Health::new(Duration::from_secs(60), [table.clone()]);
        shown.show(&health);
        let work = |n: usize| {
            let line = health.shard(&table, &format!("shard-{n}").as_str().into());
            line.read(Duration::from_millis(1500));
            line
        };
        metrics::with_local_recorder(&recorder, || {
            // What is there once for all: the recorder's own.
            work(0).ended();
            let before = shown.recorder.render();
            for n in 1..1000 {
                let line = work(n);
                line.delivering(1, None);
                line.ended();
            }
            assert_eq!(shown.recorder.render().len(), before.len(), "the recorder keeps something of each");
            assert!(!shown.render().contains("shard-"));
            let _line = work(1000);
            let text = shown.render();
            let series: Vec<&str> = text.lines().filter(|line| line.contains("shard-")).collect();
            let labels = r#"{table="t\"1\"",stream_shard="shard-1000"}"#;
            let expected = [
                format!("ringtide_stream_age_seconds{labels} 1.5"),
                format!("ringtide_stream_undelivered_seconds{labels} 0"),
            ];
            assert_eq!(series, expected);
            assert_eq!(text.matches("# TYPE ringtide_stream_age_seconds gauge\n").count(), 1);
        });
    }
}
