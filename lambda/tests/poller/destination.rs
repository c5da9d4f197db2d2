//! The on-failure destination: what is given up, as messages to the same function.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::mapping::{Batch, GivenUp};
use super::runtime_api::Reply;
use super::sandbox::Ended;
use super::table::STREAM;

const BUCKET: &str = "given-up";

/// Where the mapping sends what it gives up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// A queue: positions without records.
    Queue,
    /// A bucket: the event too, told about by a notification in a queue.
    Bucket,
    /// A bucket whose objects are gone when the function looks for them.
    LostBucket,
}

/// A queue message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    id: String,
    body: String,
    receives: u32,
}

/// The messages that wait for the function.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) waiting: Vec<Message>,
    sent: u64,
}

impl Queue {
    /// Takes a given-up batch.
    pub(crate) fn push(&mut self, given_up: &GivenUp, kind: Kind, objects: &Objects) {
        self.sent += 1;
        let number = objects.next.fetch_add(1, Ordering::Relaxed);
        let mut record = record_of(given_up);
        let body = match kind {
            Kind::Queue => record,
            Kind::Bucket | Kind::LostBucket => {
                let key = format!("aws/lambda/0a1b2c3d/shardId-00000001573689847184/2026-01-02T03.04.05-{number}");
                if kind == Kind::Bucket {
                    record["payload"] = json!(Batch { records: given_up.records.clone() }.event());
                    objects.put(&key, record.to_string());
                }
                notification(&key)
            }
        };
        self.waiting.push(Message { id: format!("message-{}", self.sent), body: body.to_string(), receives: 0 });
    }

    /// The event with the messages that come first, and how many they are.
    pub(crate) fn event(&mut self) -> Option<(String, usize)> {
        let messages = self.waiting.len().min(10);
        let records: Vec<Value> = self.waiting[..messages]
            .iter_mut()
            .map(|message| {
                message.receives += 1;
                json!({
                    "messageId": message.id,
                    "receiptHandle": "handle",
                    "body": message.body,
                    "attributes": { "ApproximateReceiveCount": message.receives.to_string(), "SentTimestamp": "1767323045000" },
                    "messageAttributes": {},
                    "md5OfBody": "c4ca4238a0b923820dcc509a6f75849b",
                    "eventSource": "aws:sqs",
                    "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:given-up",
                    "awsRegion": "us-east-1",
                })
            })
            .collect();
        (!records.is_empty()).then(|| (json!({ "Records": records }).to_string(), messages))
    }

    /// Deletes what was delivered of the first messages; those that failed come again. Tells whether the answer was a
    /// proper one.
    pub(crate) fn ended(&mut self, messages: usize, ended: &Ended) -> bool {
        let Ended::Said(Reply::Answer(answer)) = ended else { return !matches!(ended, Ended::Said(_)) };
        let Ok(answer) = serde_json::from_str::<Value>(answer) else { return false };
        let failures = answer["batchItemFailures"].as_array().cloned().unwrap_or_default();
        let failed: Vec<&str> = failures.iter().filter_map(|failure| failure["itemIdentifier"].as_str()).collect();
        let known = |id: &&&str| self.waiting[..messages].iter().any(|message| message.id == **id);
        if failed.iter().filter(known).count() != failures.len() {
            return false;
        }
        let mut place = 0;
        self.waiting.retain(|message| {
            place += 1;
            place > messages || failed.contains(&message.id.as_str())
        });
        true
    }
}

fn record_of(given_up: &GivenUp) -> Value {
    let number = |place: usize| given_up.records[place].sequence.to_string();
    json!({
        "requestContext": {
            "requestId": "316aa6d0-8154-40a1-9af7-85d5f4a6bc81",
            "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:ringtide",
            "condition": given_up.condition,
            "approximateInvokeCount": 1,
        },
        "responseContext": { "statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled" },
        "version": "1.0",
        "timestamp": "2026-01-02T03:04:49.717Z",
        "DDBStreamBatchInfo": {
            "shardId": "shardId-00000001573689847184-864758bb",
            "startSequenceNumber": number(0),
            "endSequenceNumber": number(given_up.records.len() - 1),
            "approximateArrivalOfFirstRecord": "2026-01-02T03:04:19Z",
            "approximateArrivalOfLastRecord": "2026-01-02T03:04:19Z",
            "batchSize": given_up.records.len(),
            "streamArn": STREAM,
        },
    })
}

fn notification(key: &str) -> Value {
    json!({ "Records": [{
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "us-east-1",
        "eventTime": "2026-01-02T03:04:50.000Z",
        "eventName": "ObjectCreated:Put",
        "s3": {
            "s3SchemaVersion": "1.0",
            "bucket": { "name": BUCKET, "arn": format!("arn:aws:s3:::{BUCKET}") },
            "object": { "key": key, "size": 1024, "eTag": "c4ca4238a0b923820dcc509a6f75849b" },
        },
    }]})
}

/// The bucket, behind the one call that the function needs of it.
pub(crate) struct Objects {
    pub(crate) url: String,
    held: Arc<Mutex<HashMap<String, String>>>,
    next: AtomicU64,
    server: JoinHandle<()>,
}

impl Objects {
    pub(crate) async fn serve() -> Self {
        let held: Arc<Mutex<HashMap<String, String>>> = Arc::default();
        let routes = Router::new().route("/{bucket}/{*key}", get(object)).with_state(held.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { url, held, next: AtomicU64::new(0), server }
    }

    fn put(&self, key: &str, object: String) {
        self.held.lock().unwrap().insert(format!("{BUCKET}/{key}"), object);
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn object(
    State(held): State<Arc<Mutex<HashMap<String, String>>>>,
    Path((bucket, key)): Path<(String, String)>,
) -> (StatusCode, String) {
    let missing = "<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>";
    match held.lock().unwrap().get(&format!("{bucket}/{key}")) {
        Some(object) => (StatusCode::OK, object.clone()),
        None => (StatusCode::NOT_FOUND, missing.to_owned()),
    }
}
