//! A stream without end: DynamoDB Streams over HTTP, as fast as it is read.
//!
//! The emulator keeps every record and looks through all of them at each call, so that hours at full rate are beyond it.
//! Here records are numbers: record `n` of a line of stream shards changes item `n % ITEMS` of that line, and is committed
//! when it is handed out for the first time. A stream shard ends after so many records, its child goes on, and only the
//! last ones of a line are listed, as on AWS.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// Lines of stream shards, read at the same time.
pub(crate) const LINES: usize = 4;
/// Items of a line.
pub(crate) const ITEMS: u64 = 50_000;
const SHARD_RECORDS: u64 = 10_000;
const PAGE_RECORDS: u64 = 1_000;
/// As many generations of stream shards as are left of a day at six roll-overs a day.
const LISTED: u64 = 6;
/// Sequence numbers have 21 digits at least.
const FIRST_SEQUENCE: u128 = 100_000_000_000_000_000_000;

/// The lines, each by the number of records that were committed.
#[derive(Default)]
pub(crate) struct Endless {
    committed: [Mutex<u64>; LINES],
    dried_up: AtomicBool,
}

/// The endpoint of an endless stream; it ends with this handle.
pub(crate) struct Endpoint {
    pub(crate) url: String,
    _serving: AbortOnDropHandle<()>,
}

impl Endless {
    pub(crate) async fn serve(self: &Arc<Self>) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(Arc::clone(self));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Endpoint { url, _serving: AbortOnDropHandle::new(serving) }
    }

    /// How many records of a line were committed.
    pub(crate) fn committed(&self, line: usize) -> u64 {
        *self.committed[line].lock().unwrap()
    }

    pub(crate) fn records(&self) -> u64 {
        (0..LINES).map(|line| self.committed(line)).sum()
    }

    pub(crate) fn roll_overs(&self) -> u64 {
        (0..LINES).map(|line| self.committed(line) / SHARD_RECORDS).sum()
    }

    /// The newest revision of an item that is committed: one more than its record's number, 0 before its first.
    pub(crate) fn revision(&self, line: usize, item: u64) -> u64 {
        match self.committed(line).checked_sub(item + 1) {
            Some(since) => item + since / ITEMS * ITEMS + 1,
            None => 0,
        }
    }

    /// Commits nothing any more.
    pub(crate) fn dry_up(&self) {
        self.dried_up.store(true, Ordering::Relaxed);
    }

    fn describe(&self, arn: &str) -> Value {
        let shards: Vec<Value> = (0..LINES)
            .flat_map(|line| {
                let newest = self.committed(line) / SHARD_RECORDS;
                (newest.saturating_sub(LISTED - 1)..=newest).map(move |shard| {
                    let mut range = json!({ "StartingSequenceNumber": sequence(line, shard * SHARD_RECORDS) });
                    if shard < newest {
                        range["EndingSequenceNumber"] = sequence(line, (shard + 1) * SHARD_RECORDS - 1).into();
                    }
                    let mut described = json!({ "ShardId": shard_id(line, shard), "SequenceNumberRange": range });
                    if let Some(parent) = shard.checked_sub(1) {
                        described["ParentShardId"] = shard_id(line, parent).into();
                    }
                    described
                })
            })
            .collect();
        json!({ "StreamDescription": { "StreamArn": arn, "StreamStatus": "ENABLED", "Shards": shards } })
    }

    fn iterator(&self, request: &Value) -> Option<Value> {
        let (shard, line) = request["ShardId"].as_str()?.strip_prefix("shardId-")?.split_once('-')?;
        let (shard, line): (u64, usize) = (shard.parse().ok()?, line.parse().ok()?);
        let record = || Some(record_of(request["SequenceNumber"].as_str()?.parse().ok()?));
        let next = match request["ShardIteratorType"].as_str()? {
            "TRIM_HORIZON" => shard * SHARD_RECORDS,
            "LATEST" => self.committed(line),
            "AT_SEQUENCE_NUMBER" => record()?,
            "AFTER_SEQUENCE_NUMBER" => record()? + 1,
            _ => return None,
        };
        Some(json!({ "ShardIterator": format!("{line}/{shard}/{next}") }))
    }

    /// Hands out a page; it is committed thereby.
    fn records_at(&self, iterator: &str) -> Option<String> {
        let mut parts = iterator.splitn(3, '/');
        let (line, shard, next) = (parts.next()?, parts.next()?, parts.next()?);
        let (line, shard, next): (usize, u64, u64) = (line.parse().ok()?, shard.parse().ok()?, next.parse().ok()?);
        let shard_end = (shard + 1) * SHARD_RECORDS;
        let mut end = (next + PAGE_RECORDS).min(shard_end);
        {
            let mut committed = self.committed[line].lock().unwrap();
            if self.dried_up.load(Ordering::Relaxed) {
                end = end.min(*committed).max(next);
            }
            *committed = end.max(*committed);
        }
        let mut page = String::from("{\"Records\":[");
        for record in next..end {
            let comma = if record > next { "," } else { "" };
            write!(
                page,
                r#"{comma}{{"eventID":"{record}","eventName":"MODIFY","eventVersion":"1.1","eventSource":"aws:dynamodb","#
            )
            .unwrap();
            write!(
                page,
                r#""dynamodb":{{"Keys":{{"pk":{{"S":"{}"}}}},"SequenceNumber":"{}","StreamViewType":"KEYS_ONLY"}}}}"#,
                pk(line, record % ITEMS),
                sequence(line, record)
            )
            .unwrap();
        }
        page.push(']');
        if end < shard_end {
            write!(page, ",\"NextShardIterator\":\"{line}/{shard}/{end}\"").unwrap();
        }
        page.push('}');
        Some(page)
    }
}

/// The primary key of an item.
pub(crate) fn pk(line: usize, item: u64) -> String {
    format!("{line}-{item}")
}

/// The item of a primary key.
pub(crate) fn item(pk: &str) -> Option<(usize, u64)> {
    let (line, item) = pk.split_once('-')?;
    Some((line.parse().ok()?, item.parse().ok()?))
}

fn shard_id(line: usize, shard: u64) -> String {
    format!("shardId-{shard:020}-{line:08}")
}

fn sequence(line: usize, record: u64) -> String {
    (FIRST_SEQUENCE + u128::from(record) * LINES as u128 + line as u128).to_string()
}

fn record_of(sequence: u128) -> u64 {
    u64::try_from((sequence - FIRST_SEQUENCE) / LINES as u128).unwrap()
}

async fn answer(State(stream): State<Arc<Endless>>, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let answered = match target.rsplit('.').next().unwrap_or_default() {
        "DescribeStream" => Some(stream.describe(request["StreamArn"].as_str().unwrap_or_default()).to_string()),
        "GetShardIterator" => stream.iterator(&request).map(|answer| answer.to_string()),
        "GetRecords" => request["ShardIterator"].as_str().and_then(|iterator| stream.records_at(iterator)),
        _ => None,
    };
    match answered {
        Some(answer) => (StatusCode::OK, answer),
        None => (StatusCode::BAD_REQUEST, r#"{"__type":"ValidationException","message":"not a call of this"}"#.into()),
    }
}
