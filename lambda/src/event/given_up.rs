//! What Lambda gives up: the invocation records that its event source mapping leaves at its on-failure destination.
//!
//! Source of the formats: "Retain discarded records for a DynamoDB event source in Lambda", AWS Lambda developer guide
//! (services-dynamodb-errors), and "Event message structure", Amazon S3 user guide, for notifications.
//!
//! | destination | what arrives in the queue | what is in it |
//! | --- | --- | --- |
//! | SQS | the invocation record | `DDBStreamBatchInfo`: the stream and the place of the batch, no change records |
//! | S3 | a notification of the object `aws/lambda/<mapping>/<shard>/…` | the object is the invocation record, and its `payload` is the whole event as a text |

use ringtide_core::record::{Stream, stream_of_arn};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Event, text_of};

/// What the body of a message tells.
#[derive(Debug)]
pub enum Notice {
    /// A batch was given up.
    Batch(GivenUp),
    /// Objects were stored that tell of batches.
    Objects(Vec<ObjectPlace>),
    /// Nothing was given up: S3 tries its notifications when they are set up, and tells of objects that are removed.
    Nothing,
}

/// A batch that was given up.
#[derive(Debug)]
pub struct GivenUp {
    /// The stream it came from.
    pub stream: Stream,
    /// The stream shard; empty where it is not told.
    pub shard: String,
    /// The sequence numbers of the first and the last record; empty where they are not told.
    pub range: (String, String),
    /// Why: `RetryAttemptsExhausted`, `MaximumRecordAgeExceeded` and the like; empty where it is not told.
    pub condition: String,
    /// The event that was given up, where the destination keeps it and it can be read.
    pub payload: Option<Event>,
}

/// An object in S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectPlace {
    /// The bucket's name.
    pub bucket: String,
    /// The object's key, as it is.
    pub key: String,
}

/// A text that is neither an invocation record nor a notification of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotGivenUp {
    /// The text is not a JSON object.
    #[error("it is not a JSON object: {0}")]
    Malformed(String),
    /// The object has neither the one's fields nor the other's.
    #[error("it is neither an invocation record of a DynamoDB stream nor a notification of S3")]
    Unknown,
    /// It tells of a batch, but not from which stream.
    #[error("its \"streamArn\" is not the ARN of a DynamoDB stream")]
    NoStream,
}

impl Notice {
    /// Reads the body of a message.
    ///
    /// # Errors
    /// [`NotGivenUp`].
    pub fn read(body: &str) -> Result<Self, NotGivenUp> {
        let fields: Fields<'_> = object(body)?;
        if fields.batch.is_some() {
            return GivenUp::read(body).map(Self::Batch);
        }
        if text_of(fields.test).as_deref() == Some("s3:TestEvent") {
            return Ok(Self::Nothing);
        }
        let records: Vec<&RawValue> =
            fields.records.and_then(|raw| serde_json::from_str(raw.get()).ok()).ok_or(NotGivenUp::Unknown)?;
        let stored: Vec<Option<ObjectPlace>> =
            records.iter().map(|record| stored(record)).collect::<Option<_>>().ok_or(NotGivenUp::Unknown)?;
        match stored.into_iter().flatten().collect::<Vec<_>>() {
            none if none.is_empty() => Ok(Self::Nothing),
            objects => Ok(Self::Objects(objects)),
        }
    }
}

impl GivenUp {
    /// Reads an invocation record.
    ///
    /// # Errors
    /// [`NotGivenUp`].
    pub fn read(text: &str) -> Result<Self, NotGivenUp> {
        let fields: Fields<'_> = object(text)?;
        let info = fields.batch.ok_or(NotGivenUp::Unknown)?;
        let info: BatchInfo<'_> = object(info.get())?;
        let stream = text_of(info.stream).as_deref().and_then(stream_of_arn).ok_or(NotGivenUp::NoStream)?;
        let context = fields.context.and_then(|raw| object::<RequestContext<'_>>(raw.get()).ok());
        let event = |payload: &RawValue| match text_of(Some(payload)) {
            Some(text) => Event::parse(text),
            None => Event::parse(payload.get().to_owned()),
        };
        Ok(Self {
            stream,
            shard: text_of(info.shard).unwrap_or_default(),
            range: (text_of(info.start).unwrap_or_default(), text_of(info.end).unwrap_or_default()),
            condition: context.and_then(|context| text_of(context.condition)).unwrap_or_default(),
            payload: fields.payload.and_then(event),
        })
    }
}

#[derive(Deserialize)]
struct Fields<'e> {
    #[serde(rename = "DDBStreamBatchInfo", borrow)]
    batch: Option<&'e RawValue>,
    #[serde(rename = "requestContext", borrow)]
    context: Option<&'e RawValue>,
    #[serde(borrow)]
    payload: Option<&'e RawValue>,
    #[serde(rename = "Records", borrow)]
    records: Option<&'e RawValue>,
    #[serde(rename = "Event", borrow)]
    test: Option<&'e RawValue>,
}

#[derive(Deserialize)]
struct BatchInfo<'e> {
    #[serde(rename = "streamArn", borrow)]
    stream: Option<&'e RawValue>,
    #[serde(rename = "shardId", borrow)]
    shard: Option<&'e RawValue>,
    #[serde(rename = "startSequenceNumber", borrow)]
    start: Option<&'e RawValue>,
    #[serde(rename = "endSequenceNumber", borrow)]
    end: Option<&'e RawValue>,
}

#[derive(Deserialize)]
struct RequestContext<'e> {
    #[serde(borrow)]
    condition: Option<&'e RawValue>,
}

#[derive(Deserialize)]
struct Notification {
    #[serde(rename = "eventSource")]
    source: String,
    #[serde(rename = "eventName")]
    name: String,
    s3: Stored,
}

#[derive(Deserialize)]
struct Stored {
    bucket: Bucket,
    object: Object,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Object {
    key: String,
}

/// Reads an object, and nothing that merely can be read as one.
fn object<'e, T: Deserialize<'e>>(text: &'e str) -> Result<T, NotGivenUp> {
    if super::kind_of(text) != Some(super::OBJECT) {
        return Err(NotGivenUp::Malformed("it begins otherwise".to_owned()));
    }
    serde_json::from_str(text).map_err(|error| NotGivenUp::Malformed(error.to_string()))
}

/// Reads one record of a notification: the object that was stored, `Some(None)` where none was, `None` where it is no
/// such record.
fn stored(record: &RawValue) -> Option<Option<ObjectPlace>> {
    let notification: Notification = serde_json::from_str(record.get()).ok()?;
    if notification.source != "aws:s3" {
        return None;
    }
    if !notification.name.starts_with("ObjectCreated") {
        return Some(None);
    }
    let Stored { bucket, object } = notification.s3;
    let key = decoded(&object.key).filter(|key| !key.is_empty())?;
    (!bucket.name.is_empty()).then_some(Some(ObjectPlace { bucket: bucket.name, key }))
}

/// Undoes the encoding of keys in notifications, which is that of a form: a space is `+`.
fn decoded(key: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?,
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the developer guide shows it.
    const RECORD: &str = r#"{
        "requestContext": {
            "requestId": "316aa6d0-8154-xmpl-9af7-85d5f4a6bc81",
            "functionArn": "arn:aws:lambda:us-east-2:123456789012:function:myfunction",
            "condition": "RetryAttemptsExhausted",
            "approximateInvokeCount": 1
        },
        "responseContext": { "statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled" },
        "version": "1.0",
        "timestamp": "2019-11-14T00:13:49.717Z",
        "DDBStreamBatchInfo": {
            "shardId": "shardId-00000001573689847184-864758bb",
            "startSequenceNumber": "800000000003126276362",
            "endSequenceNumber": "800000000003126276363",
            "approximateArrivalOfFirstRecord": "2019-11-14T00:13:19Z",
            "approximateArrivalOfLastRecord": "2019-11-14T00:13:19Z",
            "batchSize": 1,
            "streamArn": "arn:aws:dynamodb:us-east-2:123456789012:table/mytable/stream/2019-11-14T00:04:06.388"
        }PAYLOAD
    }"#;

    fn batch(payload: &str) -> GivenUp {
        match Notice::read(&RECORD.replace("PAYLOAD", payload)).unwrap() {
            Notice::Batch(batch) => batch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_invocation_record_tells_the_batch() {
        let batch = batch("");
        assert_eq!(batch.stream.table, "mytable");
        assert_eq!(batch.shard, "shardId-00000001573689847184-864758bb");
        assert_eq!(batch.range.0, "800000000003126276362");
        assert_eq!(batch.condition, "RetryAttemptsExhausted");
        assert!(batch.payload.is_none());
    }

    #[test]
    fn the_event_is_in_the_payload_as_a_text_or_as_it_is() {
        for payload in [r#","payload":"{\"Records\":[{\"a\":1}]}""#, r#","payload":{"Records":[{"a":1}]}"#] {
            let event = batch(payload).payload.unwrap();
            assert_eq!(event.contents().unwrap().changes.len(), 1);
        }
        assert!(batch(r#","payload":"{\"Records\":[{""#).payload.is_none(), "a text that was cut off");
    }

    #[test]
    fn a_notification_tells_the_object_and_its_key_is_decoded() {
        let notification = |name: &str, key: &str| {
            format!(
                r#"{{"Records":[{{"eventSource":"aws:s3","eventName":"{name}","s3":{{"bucket":{{"name":"b"}},"object":{{"key":"{key}","size":1}}}}}}]}}"#
            )
        };
        let read =
            Notice::read(&notification("ObjectCreated:Put", "aws/lambda/x/shardId-1/2026/01/02/a%3Ab+c")).unwrap();
        let Notice::Objects(objects) = read else { panic!("{read:?}") };
        let key = "aws/lambda/x/shardId-1/2026/01/02/a:b c".to_owned();
        assert_eq!(objects, [ObjectPlace { bucket: "b".to_owned(), key }]);
        assert!(matches!(Notice::read(&notification("ObjectRemoved:Delete", "k")), Ok(Notice::Nothing)));
        assert_eq!(Notice::read(&notification("ObjectCreated:Put", "%4")).unwrap_err(), NotGivenUp::Unknown);
        let test = r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"b"}"#;
        assert!(matches!(Notice::read(test), Ok(Notice::Nothing)));
    }

    #[test]
    fn what_is_neither_is_said_to_be_so() {
        assert!(matches!(Notice::read("hello"), Err(NotGivenUp::Malformed(_))));
        assert!(matches!(Notice::read("[1,2]"), Err(NotGivenUp::Malformed(_))));
        assert_eq!(Notice::read("{}").unwrap_err(), NotGivenUp::Unknown);
        assert_eq!(Notice::read(r#"{"Records":[{"eventSource":"aws:sns"}]}"#).unwrap_err(), NotGivenUp::Unknown);
        let kinesis = r#"{"DDBStreamBatchInfo":{"streamArn":"arn:aws:kinesis:us-east-2:1:stream/x"}}"#;
        assert_eq!(Notice::read(kinesis).unwrap_err(), NotGivenUp::NoStream);
    }
}
