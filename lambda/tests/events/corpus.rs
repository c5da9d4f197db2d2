//! Records as Lambda sends them: every view type, every attribute type, deletions by the time to live, messages of
//! batches that were given up. Each record has a key of its own.

use fastrand::Rng;
use serde_json::{Value, json};

pub(crate) const ARN: &str = "arn:aws:dynamodb:eu-west-1:123456789012:table/products/stream/2026-01-02T03:04:05.678";

/// One to six change records of one view type.
pub(crate) fn changes(rng: &mut Rng) -> Vec<String> {
    let view = ["KEYS_ONLY", "NEW_IMAGE", "OLD_IMAGE", "NEW_AND_OLD_IMAGES"][rng.usize(..4)];
    (0..rng.usize(1..=6)).map(|index| change(rng, view, index).to_string()).collect()
}

/// One to four messages: batches that were given up to a queue, and to S3.
pub(crate) fn messages(rng: &mut Rng) -> Vec<String> {
    (0..rng.usize(1..=4))
        .map(|index| {
            let body = match rng.u8(..4) {
                0 => invocation_record(None),
                1 => invocation_record(Some(&json!({ "Records": [change(rng, "NEW_IMAGE", index)] }).to_string())),
                2 => notification("bucket", "aws/lambda/uuid/shardId-1/2026/01/02/2026-01-02T03.04.05-x"),
                _ => json!({ "Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "bucket" }),
            };
            message(&message_id(index), &body.to_string()).to_string()
        })
        .collect()
}

pub(crate) fn message_id(index: usize) -> String {
    format!("059f36b4-87a3-44ab-83d2-66197{index:07}")
}

/// A message of an SQS queue as Lambda sends it.
pub(crate) fn message(id: &str, body: &str) -> Value {
    json!({
        "messageId": id,
        "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a...",
        "body": body,
        "attributes": { "ApproximateReceiveCount": "1", "SentTimestamp": "1545082649183", "SenderId": "AIDAIENQZJOLO23YVJ4VO" },
        "messageAttributes": {},
        "md5OfBody": "098f6bcd4621d373cade4e832627b4f6",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:eu-west-1:123456789012:given-up",
        "awsRegion": "eu-west-1"
    })
}

/// An invocation record of a batch that was given up.
pub(crate) fn invocation_record(payload: Option<&str>) -> Value {
    let mut record = json!({
        "requestContext": {
            "requestId": "316aa6d0-8154-xmpl-9af7-85d5f4a6bc81",
            "functionArn": "arn:aws:lambda:eu-west-1:123456789012:function:ringtide",
            "condition": "RetryAttemptsExhausted",
            "approximateInvokeCount": 1
        },
        "responseContext": { "statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled" },
        "version": "1.0",
        "timestamp": "2026-01-02T04:04:05.678Z",
        "DDBStreamBatchInfo": {
            "shardId": "shardId-00000001573689847184-864758bb",
            "startSequenceNumber": "800000000003126276362",
            "endSequenceNumber": "800000000003126276370",
            "approximateArrivalOfFirstRecord": "2026-01-02T03:05:05Z",
            "approximateArrivalOfLastRecord": "2026-01-02T03:05:06Z",
            "batchSize": 9,
            "streamArn": ARN
        }
    });
    if let (Some(payload), Some(record)) = (payload, record.as_object_mut()) {
        record.insert("payload".to_owned(), payload.into());
    }
    record
}

/// A notification of S3 that an object was stored.
pub(crate) fn notification(bucket: &str, key: &str) -> Value {
    json!({ "Records": [{
        "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu-west-1",
        "eventTime": "2026-01-02T04:04:05.678Z", "eventName": "ObjectCreated:Put",
        "s3": {
            "s3SchemaVersion": "1.0",
            "bucket": { "name": bucket, "arn": format!("arn:aws:s3:::{bucket}") },
            "object": { "key": key, "size": 1024, "eTag": "d41d8cd98f00b204e9800998ecf8427e", "sequencer": "0A1B2C3D4E5F678901" }
        }
    }] })
}

/// A change record.
pub(crate) fn change(rng: &mut Rng, view: &str, index: usize) -> Value {
    let event = ["INSERT", "MODIFY", "REMOVE"][rng.usize(..3)];
    let pk = format!("p{index}-{}", rng.u32(..));
    let (old, new) = (rng.u32(1..1000), rng.u32(1000..2000));
    let mut change = json!({
        "ApproximateCreationDateTime": 1_767_323_100 + u64::from(rng.u16(..)),
        "Keys": { "pk": { "S": pk } },
        "SequenceNumber": format!("{}", 800_000_000_003_126_276_362_u128 + u128::from(rng.u64(..))),
        "SizeBytes": 26,
        "StreamViewType": view
    });
    let Some(fields) = change.as_object_mut() else { return change };
    if event != "INSERT" && view.contains("OLD") {
        fields.insert("OldImage".to_owned(), image(rng, &pk, index, old));
    }
    if event != "REMOVE" && view.starts_with("NEW") {
        fields.insert("NewImage".to_owned(), image(rng, &pk, index, new));
    }
    let mut record = json!({
        "eventID": "c4ca4238a0b923820dcc509a6f75849b",
        "eventName": event,
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "eu-west-1",
        "dynamodb": change,
        "eventSourceARN": ARN
    });
    if let (true, Some(record)) = (event == "REMOVE" && rng.bool(), record.as_object_mut()) {
        let identity = json!({ "type": "Service", "principalId": "dynamodb.amazonaws.com" });
        record.insert("userIdentity".to_owned(), identity);
    }
    record
}

fn image(rng: &mut Rng, pk: &str, index: usize, rev: u32) -> Value {
    json!({
        "pk": { "S": pk },
        "rev": { "N": rev.to_string() },
        "category": { "S": format!("c{index}-{}", rng.u32(..)) },
        "name": { "S": "Tee – grün, 茶 \u{1f375}" },
        "price": { "N": "12.50" },
        "photo": { "B": "iVBORw0KGgo=" },
        "sold": { "BOOL": false },
        "nothing": { "NULL": true },
        "tags": { "SS": ["a", "b"] },
        "sizes": { "NS": ["1", "-2.5E+3"] },
        "blobs": { "BS": ["AA==", "AQ=="] },
        "list": { "L": [{ "S": "x" }, { "N": "1" }, { "L": [{ "M": {} }] }] },
        "map": { "M": { "inner": { "M": { "deep": { "L": [{ "BOOL": true }] } } } } }
    })
}
