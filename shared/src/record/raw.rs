//! A whole record as DynamoDB's JSON, for keeping what cannot be used.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{Attributes, ChangeRecord};

/// A record as the JSON text of an event of Lambda, cheap to clone; `Debug` never shows it.
#[derive(Clone)]
pub struct RawRecord(Arc<RawValue>);

impl RawRecord {
    /// Keeps a text; `None` where it is no JSON.
    #[must_use]
    pub fn parse(text: String) -> Option<Self> {
        RawValue::from_string(text).ok().map(Self::from)
    }

    /// The text.
    #[must_use]
    pub fn get(&self) -> &str {
        self.0.get()
    }

    /// The same JSON value, to be read as a record again.
    #[must_use]
    pub fn as_raw(&self) -> &RawValue {
        &self.0
    }

    /// The record without the item's old and new image; `None` where it does not have the form of a record.
    #[must_use]
    pub fn without_images(&self) -> Option<Self> {
        let mut record: BTreeMap<String, Box<RawValue>> = serde_json::from_str(self.get()).ok()?;
        let mut change: BTreeMap<String, Box<RawValue>> = serde_json::from_str(record.get("dynamodb")?.get()).ok()?;
        change.retain(|name, _| !matches!(name.as_str(), "OldImage" | "NewImage"));
        record.insert("dynamodb".to_owned(), serde_json::value::to_raw_value(&change).ok()?);
        serde_json::value::to_raw_value(&record).ok().map(Self::from)
    }
}

impl From<Box<RawValue>> for RawRecord {
    fn from(text: Box<RawValue>) -> Self {
        Self(Arc::from(text))
    }
}

impl PartialEq for RawRecord {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for RawRecord {}

impl fmt::Debug for RawRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawRecord({} bytes)", self.get().len())
    }
}

impl Serialize for RawRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Self::from)
    }
}

impl ChangeRecord {
    /// The record as an event of Lambda has it, with what is known of it: images as they came, whether or not they can
    /// be decoded. `None` where an image is no JSON.
    #[must_use]
    pub fn to_raw(&self) -> Option<RawRecord> {
        let image = |image: &dyn Attributes| {
            let mut text = Vec::new();
            image.write_dynamodb_json(&mut text);
            RawValue::from_string(String::from_utf8(text).ok()?).ok()
        };
        let mut images: Vec<(&'static str, Box<RawValue>)> = vec![("Keys", image(&*self.keys)?)];
        for (name, attributes) in [("OldImage", &self.old), ("NewImage", &self.new)] {
            if let Some(attributes) = attributes {
                images.push((name, image(&**attributes)?));
            }
        }
        let change = Change {
            approximate_creation_date_time: self.approximate_time_s,
            images: images.into_iter().collect(),
            sequence_number: self.sequence.to_string(),
        };
        let identity = self.ttl_deletion.then_some(Identity { r#type: "Service", principal_id: TTL_PRINCIPAL });
        let record = Record {
            event_source: "aws:dynamodb",
            event_version: "1.1",
            event_name: self.event.as_str(),
            event_source_arn: &self.stream.arn,
            aws_region: self.stream.arn.split(':').nth(3).unwrap_or_default(),
            dynamodb: change,
            user_identity: identity,
        };
        serde_json::value::to_raw_value(&record).ok().map(RawRecord::from)
    }
}

/// Who deletes items whose time to live is over.
pub(super) const TTL_PRINCIPAL: &str = "dynamodb.amazonaws.com";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    event_source: &'static str,
    event_version: &'static str,
    event_name: &'static str,
    #[serde(rename = "eventSourceARN")]
    event_source_arn: &'a str,
    aws_region: &'a str,
    dynamodb: Change,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_identity: Option<Identity>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Change {
    #[serde(skip_serializing_if = "Option::is_none")]
    approximate_creation_date_time: Option<u64>,
    #[serde(flatten)]
    images: BTreeMap<&'static str, Box<RawValue>>,
    sequence_number: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    r#type: &'static str,
    principal_id: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::record_from_json;

    #[test]
    fn a_record_is_the_same_after_being_written_and_read_again() {
        let text = r#"{"eventName":"REMOVE","eventSourceARN":"arn:aws:dynamodb:eu-west-1:123456789012:table/t/stream/2026-01-02T03:04:05.678",
            "userIdentity":{"type":"Service","principalId":"dynamodb.amazonaws.com"},
            "dynamodb":{"ApproximateCreationDateTime":1.7e9,"Keys":{"pk":{"S":"a\u0000"}},"OldImage":{"bad":{"Q": 1.50}},"SequenceNumber":"42"}}"#;
        let record = record_from_json(RawRecord::parse(text.to_owned()).unwrap().as_raw()).unwrap();
        let raw = record.to_raw().unwrap();
        assert!(raw.get().contains(r#"{"bad":{"Q": 1.50}}"#), "images stay as they are: {}", raw.get());
        assert!(raw.get().contains(r#""awsRegion":"eu-west-1""#));
        let again = record_from_json(raw.as_raw()).unwrap();
        assert_eq!((again.event, again.sequence, again.ttl_deletion), (record.event, record.sequence, true));
        assert_eq!((&again.stream, again.approximate_time_s), (&record.stream, record.approximate_time_s));
        assert_eq!(again.to_raw().unwrap(), raw);
    }
}
