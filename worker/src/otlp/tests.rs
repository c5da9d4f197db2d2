use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use ringtide_core::metrics as names;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::health::Health;
use crate::metrics::Metrics;

use super::*;

/// What a collector was sent: headers and body.
type Received = Arc<Mutex<Vec<(HeaderMap, Value)>>>;

/// Collects, on a loopback port; refuses at first, as one that is starting does.
async fn collector(refusals: usize) -> (String, Received) {
    let received: Received = Arc::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let left = Arc::new(Mutex::new(refusals));
    let take = async move |State(received): State<Received>, headers: HeaderMap, body: Bytes| {
        let mut left = left.lock().unwrap();
        if *left > 0 {
            *left -= 1;
            return (StatusCode::SERVICE_UNAVAILABLE, "starting");
        }
        received.lock().unwrap().push((headers, serde_json::from_slice(&body).unwrap()));
        (StatusCode::OK, "{}")
    };
    let router = Router::new().route("/v1/metrics", post(take)).with_state(Arc::clone(&received));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, received)
}

fn settings(endpoint: &str, more: &[(&str, &str)]) -> Result<Option<Settings>, Vec<ringtide_core::config::Violation>> {
    let found = |name: &str| more.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned());
    Settings::read((!endpoint.is_empty()).then_some(endpoint), "shop", found)
}

fn metric<'a>(body: &'a Value, name: &str) -> &'a Value {
    let metrics = body["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array().unwrap();
    metrics.iter().find(|metric| metric["name"] == name).unwrap_or_else(|| panic!("{name} was not sent: {body}"))
}

#[tokio::test]
async fn a_collector_gets_what_the_page_shows() {
    let (url, received) = collector(1).await;
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &[0.1, 1.0])
        .unwrap()
        .build_recorder();
    let shown = Metrics::new(recorder.handle());
    let health = Health::new(Duration::from_secs(60), []);
    shown.show(&health);
    let line = health.shard(&"t".into(), &"s".into());
    line.read(Duration::from_secs(7));
    metrics::with_local_recorder(&recorder, || {
        metrics::counter!(names::GAPS, names::TABLE => "a \"b\" c\\d\ne", names::REASON => "trimmed").increment(2);
        metrics::gauge!(names::DELIVERY_PENDING, names::RING_SHARD => "a").set(1.5);
        metrics::gauge!(names::DELIVERY_PENDING, names::RING_SHARD => "b").set(f64::NAN);
        for lag in [0.05, 0.5, 0.5, 7.0] {
            metrics::histogram!(names::PROBE_LAG, names::RING_SHARD => "a").record(lag);
        }
    });
    let environment = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret, x-scope=1"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "20"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test"),
    ];
    let settings = settings(&format!("{url}/"), &environment).unwrap().unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(Exporter::new(settings, shown).unwrap().run(stop.clone()));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while received.lock().unwrap().is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "nothing was sent");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    running.await.unwrap();

    let (headers, body) = received.lock().unwrap()[0].clone();
    assert_eq!(headers["authorization"], "Bearer secret");
    assert_eq!(headers["content-type"], "application/json");
    let resource = body["resourceMetrics"][0]["resource"]["attributes"].to_string();
    assert!(resource.contains("ringtide") && resource.contains("shop") && resource.contains("test"), "{resource}");
    let gaps = &metric(&body, "ringtide_gaps_total")["sum"];
    assert_eq!((&gaps["aggregationTemporality"], &gaps["isMonotonic"]), (&json!(2), &json!(true)));
    assert_eq!(gaps["dataPoints"][0]["asDouble"], 2.0);
    let attributes = gaps["dataPoints"][0]["attributes"].as_array().unwrap();
    assert!(
        attributes.contains(&json!({ "key": "table", "value": { "stringValue": "a \"b\" c\\d\ne" } })),
        "{attributes:?}"
    );
    let pending = &metric(&body, "ringtide_delivery_pending")["gauge"]["dataPoints"];
    assert_eq!(
        (pending.as_array().unwrap().len(), &pending[0]["asDouble"]),
        (1, &json!(1.5)),
        "what is no number is not sent"
    );
    let age = &metric(&body, "ringtide_stream_age_seconds")["gauge"]["dataPoints"];
    assert_eq!(age.as_array().unwrap().len(), 1);
    assert!(age[0]["asDouble"].as_f64().unwrap() >= 7.0, "{age}");
    let lag = &metric(&body, "ringtide_probe_lag_seconds");
    assert_eq!(lag["unit"], "s");
    let lag = &lag["histogram"]["dataPoints"][0];
    assert_eq!(lag["bucketCounts"], json!(["1", "2", "1"]));
    assert_eq!((&lag["explicitBounds"], &lag["count"], &lag["sum"]), (&json!([0.1, 1.0]), &json!("4"), &json!(8.05)));
    assert!(lag["timeUnixNano"].as_str().unwrap().len() == 19, "{lag}");
}

#[tokio::test]
async fn a_collector_that_hangs_or_is_away_costs_no_more_than_its_time() {
    let metrics = Metrics::new(PrometheusBuilder::new().build_recorder().handle());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hanging = format!("http://{}", listener.local_addr().unwrap());
    let timeout = [("OTEL_EXPORTER_OTLP_TIMEOUT", "50")];
    let exporter = Exporter::new(settings(&hanging, &timeout).unwrap().unwrap(), metrics.clone()).unwrap();
    assert!(matches!(exporter.export().await, Err(ExportError::TimedOut(_))));
    drop(listener);
    let exporter = Exporter::new(settings(&hanging, &[]).unwrap().unwrap(), metrics).unwrap();
    assert!(matches!(exporter.export().await, Err(ExportError::Unreachable(_))));
}

#[test]
fn the_environment_is_opentelemetrys_own() {
    let endpoint =
        |configured: &str, more: &[(&str, &str)]| settings(configured, more).unwrap().map(|settings| settings.endpoint);
    let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318");
    let special = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://b:1/own");
    assert_eq!(endpoint("", &[]), None);
    assert_eq!(endpoint("", &[general]).as_deref(), Some("http://a:4318/v1/metrics"));
    assert_eq!(endpoint("", &[general, special]).as_deref(), Some("http://b:1/own"));
    assert_eq!(endpoint("http://c:2/", &[general, special]).as_deref(), Some("http://c:2/v1/metrics"));
    assert_eq!(endpoint("", &[general, ("OTEL_SDK_DISABLED", "true")]), None);
    let named = settings("http://c", &[("OTEL_SERVICE_NAME", "cache")]).unwrap().unwrap().resource;
    assert_eq!(named.iter().filter(|(name, _)| name == "service.name").count(), 1);
    assert!(named.contains(&("service.name".to_owned(), "cache".to_owned())));
}

#[test]
fn what_cannot_be_used_is_told_at_once_without_credentials() {
    let wrong = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "bad name=hunter2"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
    ];
    let Err(violations) = settings("localhost:4317", &wrong) else { panic!("it was taken") };
    let text = violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert_eq!(violations.len(), 4, "{text}");
    assert!(text.contains("worker.otlp_endpoint") && text.contains("grpc") || text.contains("gRPC"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}
