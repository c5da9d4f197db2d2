//! The binary as a process that sends its metrics to a collector, and what it tells as its last word.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use ringtide_servers::{Emulator, ValkeyServer, free_port};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

type Received = Arc<Mutex<Vec<Value>>>;

async fn collector() -> (String, Received) {
    let received: Received = Arc::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let take = async move |State(received): State<Received>, body: String| {
        received.lock().unwrap().push(serde_json::from_str(&body).unwrap());
        "{}"
    };
    let router = Router::new().route("/v1/metrics", post(take)).with_state(Arc::clone(&received));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, received)
}

fn run(folder: &Path, dynamodb: &str, environment: &[(&str, &str)]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_ringtide"))
        .args(["run", "--config", folder.join("ringtide.toml").to_str().unwrap(), "--endpoint-url", dynamodb])
        .envs(environment.iter().copied())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn ended(child: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("the process does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn configure(folder: &Path, valkey: &str, pages: u16) {
    let text = format!(
        "[worker]\napplication = \"ringtide-otlp\"\nlisten = \"127.0.0.1:{pages}\"\n[probe]\ntable = \"probes\"\ninterval = \"100ms\"\n\
         [[ring.shards]]\nname = \"a\"\naddress = \"{valkey}\"\n"
    );
    std::fs::write(folder.join("ringtide.toml"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_numbers_are_sent_when_the_worker_stops() {
    let (dynamodb, valkey) = (Emulator::start().await.unwrap(), ValkeyServer::start().unwrap());
    let ((url, received), pages) = (collector().await, free_port().unwrap());
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), &valkey.address(), pages);
    // An interval that does not come: what is sent is sent at the end.
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), ("OTEL_METRIC_EXPORT_INTERVAL", "3600000")];
    let mut worker = run(folder.path(), dynamodb.url(), &environment);
    let begun = Instant::now();
    let measured = || std::net::TcpStream::connect(("127.0.0.1", pages)).is_ok();
    while !measured() {
        assert!(begun.elapsed() < PATIENCE && worker.try_wait().unwrap().is_none(), "the worker does not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(Command::new("kill").arg(worker.id().to_string()).status().unwrap().success());
    assert_eq!(tokio::task::spawn_blocking(move || ended(&mut worker)).await.unwrap(), Some(0));
    let received = received.lock().unwrap();
    assert_eq!(received.len(), 1);
    let text = received[0].to_string();
    assert!(text.contains("ringtide_worker_info") && text.contains("ringtide-otlp"), "{text}");
}

#[test]
fn an_endpoint_that_cannot_be_used_is_an_error_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), "127.0.0.1:1", free_port().unwrap());
    let mut worker = run(folder.path(), "http://127.0.0.1:1", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost")]);
    assert_eq!(ended(&mut worker), Some(2));
}
