//! The SDK's form of a record → the neutral one. Images stay as they are and are decoded attribute by attribute.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aws_sdk_dynamodbstreams::types::{AttributeValue, Identity, Record};
use ringtide_core::record::{
    Attribute, AttributeError, Attributes, ChangeRecord, EventName, SequenceNumber, Stream, UnreadableRecord,
};

use super::ShardId;

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
    let change = record.dynamodb;
    let sequence =
        change.as_ref().and_then(|change| change.sequence_number.as_deref()).map(str::parse::<SequenceNumber>);
    let known = sequence.as_ref().and_then(|sequence| sequence.as_ref().ok()).copied();
    let unreadable = |reason: String| UnreadableRecord { sequence: known, table: Some(stream.table.clone()), reason };
    let sequence = match sequence {
        Some(sequence) => sequence.map_err(|e| unreadable(e.to_string()))?,
        None => return Err(unreadable("it has no sequence number".to_owned())),
    };
    let event = record
        .event_name
        .as_ref()
        .and_then(|event| EventName::parse(event.as_str()))
        .ok_or_else(|| unreadable(format!("its event {:?} is not INSERT, MODIFY or REMOVE", record.event_name)))?;
    let change = change.ok_or_else(|| unreadable("it has no change".to_owned()))?;
    let keys = change.keys.filter(|keys| !keys.is_empty()).ok_or_else(|| unreadable("it has no keys".to_owned()))?;
    let image = |image: HashMap<String, AttributeValue>| Box::new(SdkImage(image)) as Box<dyn Attributes>;
    Ok(ChangeRecord {
        stream: Arc::clone(stream),
        stream_shard: shard.shared(),
        event,
        keys: image(keys),
        old: change.old_image.map(image),
        new: change.new_image.map(image),
        sequence,
        approximate_time_s: change.approximate_creation_date_time.and_then(|time| u64::try_from(time.secs()).ok()),
        ttl_deletion: record.user_identity.as_ref().is_some_and(is_ttl),
    })
}

/// Emulators spell the identity in lower case.
fn is_ttl(identity: &Identity) -> bool {
    let is = |text: Option<&str>, expected: &str| text.is_some_and(|text| text.eq_ignore_ascii_case(expected));
    is(identity.r#type(), "Service") && is(identity.principal_id(), "dynamodb.amazonaws.com")
}

fn named(name: &str, value: &AttributeValue) -> Result<Attribute, AttributeError> {
    attribute(value).map_err(|reason| AttributeError::Attribute { name: name.to_owned(), reason })
}

fn attribute(value: &AttributeValue) -> Result<Attribute, String> {
    Ok(match value {
        AttributeValue::S(text) => Attribute::S(text.clone()),
        AttributeValue::N(digits) => Attribute::N(digits.clone()),
        AttributeValue::B(bytes) => Attribute::B(bytes.as_ref().to_vec()),
        AttributeValue::Bool(truth) => Attribute::Bool(*truth),
        AttributeValue::Null(_) => Attribute::Null,
        AttributeValue::L(items) => Attribute::L(items.iter().map(attribute).collect::<Result<_, _>>()?),
        AttributeValue::M(map) => {
            Attribute::M(map.iter().map(|(k, v)| attribute(v).map(|v| (k.clone(), v))).collect::<Result<_, _>>()?)
        }
        AttributeValue::Ss(set) => Attribute::Ss(set.iter().cloned().collect()),
        AttributeValue::Ns(set) => Attribute::Ns(set.iter().cloned().collect()),
        AttributeValue::Bs(set) => Attribute::Bs(set.iter().map(|bytes| bytes.as_ref().to_vec()).collect()),
        _ => return Err("it is not one of DynamoDB's attribute types".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodbstreams::types::{OperationType, StreamRecord};

    use super::*;

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
    }

    #[test]
    fn a_ttl_deletion_is_told_in_any_case_of_letters() {
        for (kind, principal) in [("Service", "dynamodb.amazonaws.com"), ("service", "DYNAMODB.amazonaws.com")] {
            assert!(is_ttl(&Identity::builder().r#type(kind).principal_id(principal).build()));
        }
        assert!(!is_ttl(&Identity::builder().r#type("User").principal_id("dynamodb.amazonaws.com").build()));
    }
}
