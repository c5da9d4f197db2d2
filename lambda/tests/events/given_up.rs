//! What Lambda gave up, a stream that changes, and time that runs short.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use ringtide_lambda::event::{Answer, Event};
use ringtide_lambda::handler::{ObjectError, Refused};
use serde_json::{Value, json};

use crate::corpus::{ARN, change, invocation_record, message, notification};
use crate::stage::Stage;

/// The prefixes of every key space.
const ALL: [&str; 4] = ["category:", "copy:", "product:", "slow:"];

async fn handle_within(stage: &Stage, event: Value, left: Duration) -> Result<Answer, Refused> {
    let event = Event::parse(event.to_string()).unwrap();
    stage.handler.handle(&event, SystemTime::now() + left).await
}

async fn handle(stage: &Stage, event: Value) -> Vec<String> {
    let answer = handle_within(stage, event, Duration::from_secs(60)).await.unwrap();
    answer.failures.into_iter().map(|failure| failure.identifier).collect()
}

fn one_message(body: &Value) -> Value {
    json!({ "Records": [message("m-1", &body.to_string())] })
}

fn received(times: u32, body: &Value) -> Value {
    let mut event = one_message(body);
    event["Records"][0]["attributes"]["ApproximateReceiveCount"] = times.to_string().into();
    event
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_which_only_the_place_is_known_is_made_good_by_a_flush() {
    let stage = Stage::new();
    assert!(handle(&stage, one_message(&invocation_record(None))).await.is_empty());
    assert_eq!(stage.take_flushed(), ALL);
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_records_are_at_hand_is_delivered_and_flushes_nothing() {
    let stage = Stage::new();
    let event = json!({ "Records": [change(&mut Rng::with_seed(1), "KEYS_ONLY", 0), "odd"] }).to_string();
    let key = "aws/lambda/u/shardId-1/2026/01/02/2026-01-02T03.04.05-x";
    stage.store("b", key, Ok(invocation_record(Some(&event)).to_string()));
    assert!(handle(&stage, one_message(&notification("b", key))).await.is_empty());
    assert_eq!(stage.take_applied(), stage.planned(&event));
    assert_eq!(stage.parked(), 1, "a record of it that nobody can read is parked as any other");
    assert!(stage.take_flushed().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_records_are_gone_is_made_good_by_a_flush_of_everything() {
    let stage = Stage::new();
    let key = "aws/lambda/u/shardId-1/2026/01/02/2026-01-02T03.04.05-x";
    assert!(handle(&stage, one_message(&notification("b", key))).await.is_empty());
    assert_eq!(stage.take_flushed(), ALL);
    stage.store("b", key, Ok("{\"payload\": \"cut o".to_owned()));
    assert!(handle(&stage, one_message(&notification("b", key))).await.is_empty());
    assert_eq!(stage.take_flushed(), ALL);
    // What is not Lambda's own says nothing about any stream.
    assert_eq!(handle(&stage, one_message(&notification("b", "holiday.jpg"))).await, ["m-1"]);
    assert!(stage.take_flushed().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_fetched_is_tried_again_before_it_is_taken_for_lost() {
    let stage = Stage::new();
    let key = "aws/lambda/u/shardId-1/2026/01/02/2026-01-02T03.04.05-x";
    stage.store("b", key, Err(ObjectError::Unavailable("denied".to_owned())));
    let body = notification("b", key);
    for times in [1, 2] {
        assert_eq!(handle(&stage, received(times, &body)).await, ["m-1"]);
        assert!(stage.take_flushed().is_empty());
    }
    assert!(handle(&stage, received(3, &body)).await.is_empty());
    assert_eq!(stage.take_flushed(), ALL);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_tells_of_nothing_fails_alone() {
    let stage = Stage::new();
    let other_table = invocation_record(None).to_string().replace("table/products/", "table/orders/");
    let event = json!({ "Records": [
        message("odd", "hello"),
        message("good", &invocation_record(None).to_string()),
        message("test", r#"{"Service":"Amazon S3","Event":"s3:TestEvent"}"#),
        message("no-routes", &other_table),
    ] });
    assert_eq!(handle(&stage, event).await, ["odd", "no-routes"]);
    assert_eq!(stage.take_flushed(), ALL);
}

#[tokio::test(start_paused = true)]
async fn a_message_stays_while_the_ring_is_down() {
    let stage = Stage::new();
    stage.notes.down.store(true, Ordering::SeqCst);
    let event = json!({ "Records": [change(&mut Rng::with_seed(1), "KEYS_ONLY", 0)] }).to_string();
    let records = [
        message("flush", &invocation_record(None).to_string()),
        message("deliver", &invocation_record(Some(&event)).to_string()),
    ];
    assert_eq!(handle(&stage, json!({ "Records": records })).await, ["deliver", "flush"]);
    stage.notes.down.store(false, Ordering::SeqCst);
    assert!(handle(&stage, json!({ "Records": records })).await.is_empty());
    assert_eq!(stage.take_flushed(), ALL);
}

fn of_stream(label: &str, sequence: u64) -> Value {
    let mut record = change(&mut Rng::with_seed(sequence), "KEYS_ONLY", 0);
    record["eventSourceARN"] = ARN.replace("2026-01-02T03:04:05.678", label).into();
    record["dynamodb"]["SequenceNumber"] = sequence.to_string().into();
    record
}

fn stream_event(label: &str, sequence: u64) -> Value {
    json!({ "Records": [of_stream(label, sequence)] })
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_changes_is_flushed_once_and_late_batches_of_the_old_one_are_delivered() {
    let stage = Stage::new();
    let (old, new) = ("2026-01-01T00:00:00.000", "2026-02-01T00:00:00.000");
    assert!(handle(&stage, stream_event(old, 900)).await.is_empty());
    assert!(stage.take_flushed().is_empty(), "the first stream is no change");
    assert!(handle(&stage, stream_event(new, 1)).await.is_empty());
    assert_eq!(stage.take_flushed(), ALL);
    stage.take_applied();
    assert!(handle(&stage, stream_event(old, 901)).await.is_empty());
    assert!(handle(&stage, stream_event(new, 2)).await.is_empty());
    assert_eq!(stage.take_applied().len(), 6, "both are delivered, to three key spaces each");
    assert!(stage.take_flushed().is_empty(), "once a sandbox");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_not_delivered_before_the_flush_that_it_owes() {
    let stage = Stage::new();
    assert!(handle(&stage, stream_event("2026-01-01T00:00:00.000", 1)).await.is_empty());
    stage.notes.down.store(true, Ordering::SeqCst);
    assert_eq!(handle(&stage, stream_event("2026-02-01T00:00:00.000", 7)).await, ["7"]);
    stage.notes.down.store(false, Ordering::SeqCst);
    stage.take_flushed();
    assert!(handle(&stage, stream_event("2026-02-01T00:00:00.000", 7)).await.is_empty());
    assert_eq!(stage.take_flushed(), ALL);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_begun_when_there_is_no_time() {
    let stage = Stage::new();
    let both = json!({ "Records": [of_stream("2026-01-01T00:00:00.000", 5), message("m-1", &invocation_record(None).to_string())] });
    let answer = handle_within(&stage, both, Duration::ZERO).await.unwrap();
    let identifiers: Vec<_> = answer.failures.iter().map(|failure| failure.identifier.as_str()).collect();
    assert_eq!(identifiers, ["5", "m-1"]);
    assert!(stage.take_applied().is_empty() && stage.take_flushed().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_named_fails_the_event_and_an_event_that_nobody_knows_is_refused() {
    let stage = Stage::new();
    stage.notes.down.store(true, Ordering::SeqCst);
    let nameless = json!({ "Records": [
        { "eventSource": "aws:sqs", "body": "x" }, message("m-1", &json!({ "Event": "s3:TestEvent" }).to_string())
    ] });
    let refused = handle_within(&stage, nameless, Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(refused, Refused::Unnameable(_)));
    let refused = handle_within(&stage, json!([1]), Duration::from_secs(60)).await.unwrap_err();
    assert_eq!(refused.to_string(), "the event is not a JSON object, but a list");
    assert!(
        handle_within(&stage, json!({ "source": "aws.events" }), Duration::from_secs(60))
            .await
            .unwrap()
            .failures
            .is_empty()
    );
}
