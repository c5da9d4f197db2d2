//! The SDK's form of a record → the neutral one. Images stay as they are and are decoded attribute by attribute.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aws_sdk_dynamodbstreams::types::{AttributeValue, Identity, OperationType, Record, StreamViewType};
use ringtide_core::record::{
    Attribute, AttributeError, Attributes, ChangeRecord, EventName, RawRecord, SequenceNumber, Stream, UnreadableRecord,
};

use super::ShardId;
use crate::attribute::of_stream;

/// An image as the SDK hands it out.
#[derive(Debug)]
struct SdkImage(HashMap<String, AttributeValue>);

impl Attributes for SdkImage {
    fn pick(&self, names: &[String]) -> Result<Vec<Option<Attribute>>, AttributeError> {
        names.iter().map(|name| self.0.get(name).map(|value| named(name, value)).transpose()).collect()
    }

    fn all(&self) -> Result<BTreeMap<String, Attribute>, AttributeError> {
        self.0.iter().map(|(name, value)| named(name, value).map(|value| (name.clone(), value))).collect()
    }

    fn write_dynamodb_json(&self, out: &mut Vec<u8>) {
        write_image(&self.0, out);
    }
}

/// Reads one record of a page.
///
/// # Errors
/// A record without event, keys or sequence number, with what is known of it.
pub(super) fn change_record(
    record: Record,
    stream: &Arc<Stream>,
    shard: &ShardId,
) -> Result<ChangeRecord, UnreadableRecord> {
    let (sequence, event) = head_of(&record).map_err(|reason| unreadable(&record, reason, stream, shard))?;
    let ttl_deletion = record.user_identity.as_ref().is_some_and(is_ttl);
    let image = |image: HashMap<String, AttributeValue>| Box::new(SdkImage(image)) as Box<dyn Attributes>;
    let change = record.dynamodb.map(|change| {
        let time = change.approximate_creation_date_time.and_then(|time| u64::try_from(time.secs()).ok());
        (change.keys.unwrap_or_default(), change.old_image, change.new_image, time)
    });
    let (keys, old, new, approximate_time_s) = change.unwrap_or_default();
    Ok(ChangeRecord {
        stream: Arc::clone(stream),
        stream_shard: shard.shared(),
        event,
        keys: image(keys),
        old: old.map(image),
        new: new.map(image),
        sequence,
        approximate_time_s,
        ttl_deletion,
    })
}

/// Reads what no record can do without, and looks whether there are keys.
fn head_of(record: &Record) -> Result<(SequenceNumber, EventName), String> {
    let change = record.dynamodb.as_ref().ok_or("it has no change")?;
    let sequence = change.sequence_number.as_deref().ok_or("it has no sequence number")?;
    let sequence = sequence.parse::<SequenceNumber>().map_err(|e| e.to_string())?;
    let event = record.event_name.as_ref().map(OperationType::as_str).unwrap_or_default();
    let event = EventName::parse(event).ok_or_else(|| {
        let named: String = event.chars().take(64).collect();
        format!("its event {named:?} is not INSERT, MODIFY or REMOVE")
    })?;
    if change.keys.as_ref().is_none_or(HashMap::is_empty) {
        return Err("it has no keys".to_owned());
    }
    Ok((sequence, event))
}

fn unreadable(record: &Record, reason: String, stream: &Stream, shard: &ShardId) -> UnreadableRecord {
    let sequence = record.dynamodb.as_ref().and_then(|change| change.sequence_number.as_deref());
    UnreadableRecord {
        sequence: sequence.and_then(|sequence| sequence.parse().ok()),
        table: Some(stream.table.clone()),
        stream_arn: Some(Arc::from(stream.arn.as_str())),
        stream_shard: Some(shard.shared()),
        reason,
        content: String::from_utf8(content(record, stream)).ok().and_then(RawRecord::parse),
    }
}

/// The record as an event of Lambda has it, as far as it has its fields.
fn content(record: &Record, stream: &Stream) -> Vec<u8> {
    let mut out = Vec::new();
    let mut object = Object::begin(&mut out);
    object.text("eventSource", "aws:dynamodb");
    object.text("eventSourceARN", &stream.arn);
    object.texts([
        ("eventID", record.event_id()),
        ("eventVersion", record.event_version()),
        ("eventName", record.event_name().map(OperationType::as_str)),
        ("awsRegion", record.aws_region()),
    ]);
    if let Some(change) = &record.dynamodb {
        let mut change_out = Object::begin(object.member("dynamodb"));
        change_out.texts([
            ("SequenceNumber", change.sequence_number()),
            ("StreamViewType", change.stream_view_type().map(StreamViewType::as_str)),
        ]);
        if let Some(time) = change.approximate_creation_date_time {
            change_out.member("ApproximateCreationDateTime").extend_from_slice(time.secs().to_string().as_bytes());
        }
        for (name, image) in [("Keys", &change.keys), ("OldImage", &change.old_image), ("NewImage", &change.new_image)]
        {
            if let Some(image) = image {
                write_image(image, change_out.member(name));
            }
        }
        change_out.end();
    }
    if let Some(identity) = &record.user_identity {
        let mut identity_out = Object::begin(object.member("userIdentity"));
        identity_out.texts([("type", identity.r#type()), ("principalId", identity.principal_id())]);
        identity_out.end();
    }
    object.end();
    out
}

/// A JSON object that is being written, member by member.
struct Object<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl<'o> Object<'o> {
    fn begin(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    /// Begins a member, whose value is to be written next.
    fn member(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        Attribute::S(name.to_owned()).write_json(self.out);
        self.out.push(b':');
        self.out
    }

    fn text(&mut self, name: &str, value: &str) {
        Attribute::S(value.to_owned()).write_json(self.member(name));
    }

    fn texts<'t>(&mut self, members: impl IntoIterator<Item = (&'t str, Option<&'t str>)>) {
        for (name, value) in members {
            if let Some(value) = value {
                self.text(name, value);
            }
        }
    }

    fn end(self) {
        self.out.push(b'}');
    }
}

fn write_image(image: &HashMap<String, AttributeValue>, out: &mut Vec<u8>) {
    // The same record is the same text, whatever order a map has.
    let sorted: BTreeMap<&String, &AttributeValue> = image.iter().collect();
    let mut object = Object::begin(out);
    for (name, value) in sorted {
        write_attribute(value, object.member(name));
    }
    object.end();
}

/// Writes a value in DynamoDB's JSON; one of a type that nobody knows is told as such.
fn write_attribute(value: &AttributeValue, out: &mut Vec<u8>) {
    match value {
        AttributeValue::M(map) => {
            let mut object = Object::begin(out);
            write_image(map, object.member("M"));
            object.end();
        }
        AttributeValue::L(items) => {
            let mut object = Object::begin(out);
            let list = object.member("L");
            list.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    list.push(b',');
                }
                write_attribute(item, list);
            }
            list.push(b']');
            object.end();
        }
        value => match of_stream(value) {
            Ok(attribute) => attribute.write_dynamodb_json(out),
            Err(_) => out.extend_from_slice(br#"{"UNKNOWN":null}"#),
        },
    }
}

/// Emulators spell the identity in lower case.
fn is_ttl(identity: &Identity) -> bool {
    let is = |text: Option<&str>, expected: &str| text.is_some_and(|text| text.eq_ignore_ascii_case(expected));
    is(identity.r#type(), "Service") && is(identity.principal_id(), "dynamodb.amazonaws.com")
}

fn named(name: &str, value: &AttributeValue) -> Result<Attribute, AttributeError> {
    of_stream(value).map_err(|reason| AttributeError::Attribute { name: name.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodbstreams::primitives::Blob;
    use aws_sdk_dynamodbstreams::types::StreamRecord;
    use ringtide_core::record::{record_from_json, stream_of_arn};

    use super::*;

    const ARN: &str = "arn:aws:dynamodb:eu-west-1:123456789012:table/products/stream/2026-01-02T03:04:05.678";

    fn stream() -> Arc<Stream> {
        Arc::new(Stream { table: "products".into(), arn: "arn".into(), created_ms: 7 })
    }

    fn read(record: Record) -> Result<ChangeRecord, UnreadableRecord> {
        change_record(record, &stream(), &ShardId::from("shard-1"))
    }

    #[test]
    fn a_record_keeps_its_images_and_its_number() {
        let change = StreamRecord::builder()
            .keys("pk", AttributeValue::S("42".into()))
            .new_image("pk", AttributeValue::S("42".into()))
            .sequence_number("1234567890123456789012345678901234567890")
            .build();
        let record = read(Record::builder().event_name(OperationType::Insert).dynamodb(change).build()).unwrap();
        assert_eq!(record.sequence.to_string(), "1234567890123456789012345678901234567890");
        assert!(record.old.is_none() && !record.ttl_deletion);
        let new = record.new.unwrap();
        assert_eq!(new.pick(&["pk".into(), "none".into()]).unwrap(), [Some(Attribute::S("42".into())), None]);
    }

    #[test]
    fn a_record_without_keys_or_number_tells_what_is_known_of_it() {
        let numbered = StreamRecord::builder().sequence_number("7").build();
        let error = read(Record::builder().event_name(OperationType::Modify).dynamodb(numbered).build()).unwrap_err();
        assert_eq!((error.sequence, error.table.as_deref()), (Some("7".parse().unwrap()), Some("products")));
        assert!(error.reason.contains("keys"), "{error}");
        let error = read(Record::builder().event_name(OperationType::Modify).build()).unwrap_err();
        assert_eq!(error.sequence, None);
        assert_eq!(error.stream_shard.as_deref(), Some("shard-1"));
    }

    #[test]
    fn the_content_of_an_unreadable_record_is_an_events_record() {
        let nested = AttributeValue::M(HashMap::from([
            ("list".to_owned(), AttributeValue::L(vec![AttributeValue::N("1.50".into()), AttributeValue::Null(true)])),
            ("bytes".to_owned(), AttributeValue::B(Blob::new([0, 255]))),
            ("set".to_owned(), AttributeValue::Ns(vec!["1".into()])),
        ]));
        let change = StreamRecord::builder()
            .keys("pk", AttributeValue::S("4\"2".into()))
            .new_image("nested", nested)
            .sequence_number("7")
            .stream_view_type(StreamViewType::NewImage);
        let record = Record::builder().event_name(OperationType::from("UPSERT")).dynamodb(change.build());
        let identity = Identity::builder().r#type("Service").principal_id("dynamodb.amazonaws.com").build();
        let stream = stream_of_arn(ARN).unwrap();
        let error = change_record(record.user_identity(identity).build(), &Arc::new(stream), &"s".into()).unwrap_err();
        assert!(error.reason.contains("UPSERT"), "{error}");
        let text = error.content.unwrap().get().to_owned();
        assert!(
            text.contains(
                r#""nested":{"M":{"bytes":{"B":"AP8="},"list":{"L":[{"N":"1.50"},{"NULL":true}]},"set":{"NS":["1"]}}}"#
            ),
            "{text}"
        );
        // With an event that is known it can be delivered.
        let mended = RawRecord::parse(text.replace("UPSERT", "MODIFY")).unwrap();
        let record = record_from_json(mended.as_raw()).unwrap();
        assert_eq!((record.sequence.to_string().as_str(), record.ttl_deletion), ("7", true));
        assert_eq!(record.keys.all().unwrap()["pk"], Attribute::S("4\"2".into()));
    }

    #[test]
    fn a_ttl_deletion_is_told_in_any_case_of_letters() {
        for (kind, principal) in [("Service", "dynamodb.amazonaws.com"), ("service", "DYNAMODB.amazonaws.com")] {
            assert!(is_ttl(&Identity::builder().r#type(kind).principal_id(principal).build()));
        }
        assert!(!is_ttl(&Identity::builder().r#type("User").principal_id("dynamodb.amazonaws.com").build()));
    }
}
