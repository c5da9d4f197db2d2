//! The bootstrap itself behind a Runtime API: its start, its log and metrics, panics, a freeze, and its end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod reading;
mod sandbox;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use lambda_runtime::{Context, LambdaEvent};
use ringtide_core::config::Config;
use ringtide_core::pipeline::Services;
use ringtide_lambda::Handler;
use ringtide_lambda::emf::Metrics;
use ringtide_lambda::event::Event;
use ringtide_lambda::event::given_up::ObjectPlace;
use ringtide_lambda::function::Function;
use ringtide_lambda::handler::{ObjectError, Objects};
use ringtide_lambda::logs::Invocation;
use ringtide_servers::ValkeyServer;
use sandbox::{LONG, Sandbox, Start, TRACE};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BOOTSTRAP: &str = env!("CARGO_BIN_EXE_bootstrap");

fn config(addresses: &[String]) -> String {
    let shard = |(n, address): (usize, &String)| format!("[[ring.shards]]\nname = \"s{n}\"\naddress = \"{address}\"\n");
    let shards: String = addresses.iter().enumerate().map(shard).collect();
    format!(
        "{shards}[spaces.product]\nkey = \"product:{{pk}}\"\n[[routes]]\ntable = \"products\"\nspace = \"product\"\n"
    )
}

fn record(pk: &str, sequence: u64) -> Value {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    json!({
        "eventName": "MODIFY", "eventSource": "aws:dynamodb",
        "eventSourceARN": "arn:aws:dynamodb:us-east-1:000000000000:table/products/stream/2026-01-02T03:04:05.678",
        "dynamodb": {
            "Keys": { "pk": { "S": pk } }, "SequenceNumber": sequence.to_string(),
            "ApproximateCreationDateTime": now_s - 3
        }
    })
}

fn event(records: &[Value]) -> String {
    json!({ "Records": records }).to_string()
}

async fn bootstrap(config: &str, extensions: bool) -> Sandbox {
    let env = [("RINGTIDE_CONFIG_TEXT", config)];
    Sandbox::start(Start { program: Path::new(BOOTSTRAP), env: &env, extensions }).await
}

/// Sends one inline command to a Valkey server, and returns the first bytes of its answer.
async fn say(server: &ValkeyServer, command: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
    let mut answer = [0; 256];
    let read = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..read]).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_used_is_told_to_lambda_with_every_violation() {
    let wrong =
        "[[ring.shards]]\nname = \"a\"\naddress = \"nowhere\"\n[[ring.shards]]\nname = \"b\"\naddress = \"::1\"\n";
    let mut sandbox = bootstrap(wrong, true).await;
    let told: Value = serde_json::from_str(&sandbox.init_error().await).unwrap();
    assert_eq!(told["errorType"], "Runtime.ConfigInvalid");
    let message = told["errorMessage"].as_str().unwrap();
    assert!(message.contains("nowhere") && message.contains("::1"), "{message}");
    assert!(!sandbox.ended().await.success());
    let errors = sandbox.lines().iter().filter(|line| line.contains("\"ERROR\"")).count();
    assert_eq!(errors, 1, "logged once: {:#?}", sandbox.lines());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_shard_that_is_down_is_no_error_at_the_start_and_its_records_fail() {
    let up = ValkeyServer::start().unwrap();
    let down = format!("127.0.0.1:{}", ringtide_servers::free_port().unwrap());
    let mut sandbox = bootstrap(&config(&[up.address(), down]), true).await;
    sandbox.ready().await;
    let records: Vec<Value> = (0..20).map(|n| record(&n.to_string(), 100 + n)).collect();
    let begun = Instant::now();
    let answered = sandbox.invoke(&event(&records), Duration::from_secs(2)).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "before the time is over");
    let answer: Value = serde_json::from_str(&answered.body).unwrap();
    assert!(answered.ok && answer["batchItemFailures"].as_array().unwrap().len() == 1, "{answered:?}");
    let undelivered = sandbox.line(|line| line.get("ringtide_lambda_undelivered_total").and_then(Value::as_u64)).await;
    assert!((1..=20).contains(&undelivered));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_has_its_invocation_and_metrics_are_written_before_the_answer() {
    let server = ValkeyServer::start().unwrap();
    let mut sandbox = bootstrap(&config(&[server.address()]), true).await;
    let answered = sandbox.invoke(&event(&[record("1", 7), json!({ "odd": 1 })]), LONG).await;
    sandbox.signal("STOP");
    assert_eq!((answered.ok, answered.body.as_str()), (true, r#"{"batchItemFailures":[]}"#));
    let handled = sandbox.line(|line| (line["message"] == "handled a batch").then(|| line.clone())).await;
    assert_eq!((&handled["requestId"], &handled["xrayTraceId"]), (&json!("request-1"), &json!(TRACE)));
    assert_eq!((&handled["level"], &handled["records"], &handled["parked"]), (&json!("INFO"), &json!(2), &json!(1)));
    let parked = sandbox.line(|line| (line["level"] == "ERROR").then(|| line.clone())).await;
    assert_eq!(parked["requestId"], "request-1", "{parked}");
    for (metric, expected) in [
        ("ringtide_pipeline_records_total", 1.0),
        ("ringtide_pipeline_parked_total", 1.0),
        ("ringtide_lambda_cold_starts_total", 1.0),
        ("ringtide_lambda_events_total", 1.0),
    ] {
        let document = sandbox.line(|line| line.get(metric).is_some().then(|| line.clone())).await;
        assert_eq!(document[metric].as_f64(), Some(expected), "{document}");
        let directive = &document["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(
            (&directive["Namespace"], &directive["Dimensions"][0]),
            (&json!("Ringtide"), &json!(["FunctionName"]))
        );
        assert_eq!(document["FunctionName"], "ringtide");
    }
    let age = sandbox.line(|line| line.get("ringtide_stream_age_seconds").and_then(Value::as_f64)).await;
    assert!((3.0..60.0).contains(&age), "{age}");
    let submit = sandbox.line(|line| line.get("ringtide_pipeline_submit_seconds").cloned()).await;
    assert_eq!(submit.as_array().map(Vec::len), Some(1), "a histogram is a list of values");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_event_after_a_thaw_is_delivered_over_a_new_connection_without_a_long_wait() {
    let server = ValkeyServer::start().unwrap();
    let mut sandbox = bootstrap(&config(&[server.address()]), true).await;
    assert!(sandbox.invoke(&event(&[record("1", 1)]), LONG).await.ok);
    let mut longest = Duration::ZERO;
    for n in 2..6 {
        // A server that closes connections as fast as they are made is kept at a distance, which is another matter.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        sandbox.signal("STOP");
        assert_eq!(say(&server, &format!("SET product:{n} old")).await, "+OK");
        let killed = say(&server, "CLIENT KILL TYPE normal").await;
        assert_ne!(killed, ":0", "the function's connection was there to be closed");
        sandbox.hand_out(&event(&[record(&n.to_string(), n)]), LONG);
        sandbox.signal("CONT");
        let answered = sandbox.answer().await;
        assert_eq!(answered.body, r#"{"batchItemFailures":[]}"#);
        assert_eq!(say(&server, &format!("EXISTS product:{n}")).await, ":0");
        println!("first event after a thaw: {:?}", answered.took);
        longest = longest.max(answered.took);
    }
    println!("the slowest first event after a thaw took {longest:?}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_is_ended_writes_its_last_metrics() {
    let server = ValkeyServer::start().unwrap();
    let mut sandbox = bootstrap(&config(&[server.address()]), true).await;
    sandbox.ready().await;
    let begun = Instant::now();
    sandbox.signal("TERM");
    assert!(sandbox.ended().await.success());
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    sandbox.line(|line| line.get("ringtide_lambda_cold_starts_total").cloned()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_without_extensions_is_enough() {
    let server = ValkeyServer::start().unwrap();
    let mut sandbox = bootstrap(&config(&[server.address()]), false).await;
    assert!(sandbox.invoke(&event(&[record("1", 1)]), LONG).await.ok);
    let refused = sandbox.invoke("\"ping\"", LONG).await;
    assert!(!refused.ok && refused.body.contains("Ringtide.UnknownEvent"), "{refused:?}");
    assert!(sandbox.invoke("{}", LONG).await.ok, "and the sandbox goes on");
}

/// A place that nobody can fetch from.
#[derive(Debug)]
struct Broken;

#[async_trait]
impl Objects for Broken {
    async fn fetch(&self, _: &ObjectPlace) -> Result<Bytes, ObjectError> {
        panic!("planted")
    }
}

#[tokio::test]
async fn a_panic_is_an_answered_error_and_the_sandbox_goes_on() {
    let server = ValkeyServer::start().unwrap();
    let config = Config::parse(&config(&[server.address()]), []).unwrap();
    let handler = Handler::connect_with(&config, Services::default(), Arc::new(Broken)).unwrap();
    let function = Function::new(handler, Metrics::new("f"), Invocation::default());
    let invoke = |text: String| {
        let mut context = Context::default();
        context.deadline = (SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + LONG).as_millis() as u64;
        function.invoke(LambdaEvent::new(Event::parse(text).unwrap(), context))
    };
    let notification = json!({ "Records": [{
        "eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": { "bucket": { "name": "b" }, "object": { "key": "k" } }
    }] });
    let message = json!({ "eventSource": "aws:sqs", "messageId": "m", "body": notification.to_string() });
    let error = invoke(event(&[message])).await.unwrap_err();
    assert_eq!(
        (error.error_type.as_str(), error.error_message.as_str()),
        ("Ringtide.Panic", "the function panicked: planted")
    );
    assert!(invoke(event(&[record("1", 1)])).await.unwrap().failures.is_empty());
}
