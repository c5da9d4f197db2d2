//! DynamoDB's JSON: one record of a Lambda event or of a file, read so that one bad record harms no other.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::raw::TTL_PRINCIPAL;
use super::{Attribute, AttributeError, Attributes, ChangeRecord, EventName, RawRecord, SequenceNumber, Stream};

/// A record that could not be read, with what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("record {} of {} cannot be read: {reason}", .sequence.map_or_else(|| "without a sequence number".to_owned(), |s| s.to_string()), .table.as_deref().unwrap_or("an unknown table"))]
pub struct UnreadableRecord {
    /// Its place in the stream, where that much can be read.
    pub sequence: Option<SequenceNumber>,
    /// Its table, where that much can be read.
    pub table: Option<String>,
    /// Its stream's ARN, where that much can be read.
    pub stream_arn: Option<Arc<str>>,
    /// The stream shard it was read from, where the edge knows it.
    pub stream_shard: Option<Arc<str>>,
    /// What is wrong with it; names attributes and holds no values.
    pub reason: String,
    /// The whole of it in DynamoDB's JSON, as far as there is such a thing.
    pub content: Option<RawRecord>,
}

/// An image as the JSON text in which DynamoDB sent it; attributes are decoded when asked for.
#[derive(Debug)]
pub struct JsonImage(Box<RawValue>);

impl JsonImage {
    /// Keeps the text of an image.
    #[must_use]
    pub fn new(text: Box<RawValue>) -> Self {
        Self(text)
    }
}

impl Attributes for JsonImage {
    fn pick(&self, names: &[String]) -> Result<Vec<Option<Attribute>>, AttributeError> {
        let mut deserializer = serde_json::Deserializer::from_str(self.0.get());
        let found = Pick(names).deserialize(&mut deserializer).map_err(|e| AttributeError::Image(fault(&e)))?;
        found.into_iter().zip(names).map(|(raw, name)| raw.map(|raw| decode(name, raw)).transpose()).collect()
    }

    fn all(&self) -> Result<BTreeMap<String, Attribute>, AttributeError> {
        let raw: BTreeMap<String, &RawValue> =
            serde_json::from_str(self.0.get()).map_err(|e| AttributeError::Image(fault(&e)))?;
        raw.into_iter().map(|(name, raw)| decode(&name, raw).map(|value| (name, value))).collect()
    }

    fn write_dynamodb_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.get().as_bytes());
    }
}

/// Reads one record of an event, as DynamoDB Streams hands it to Lambda.
///
/// # Errors
/// [`UnreadableRecord`] where the record has no usable event name, keys, stream ARN or sequence number; what could be
/// read of it is in there.
pub fn record_from_json(text: &RawValue) -> Result<ChangeRecord, UnreadableRecord> {
    let mut unreadable = UnreadableRecord::default();
    read(text, &mut unreadable).map_err(|reason| {
        unreadable.reason = reason;
        unreadable.content = Some(RawRecord::from(text.to_owned()));
        unreadable
    })
}

fn read(text: &RawValue, known: &mut UnreadableRecord) -> Result<ChangeRecord, String> {
    let fields: Fields = serde_json::from_str(text.get()).map_err(|e| fault(&e))?;
    let arn = fields.event_source_arn.as_deref().map(|arn| text_of("eventSourceARN", arn)).transpose();
    let stream = arn.as_ref().ok().and_then(Option::as_deref).and_then(stream_of_arn);
    known.table = stream.as_ref().map(|stream| stream.table.clone());
    known.stream_arn = stream.as_ref().map(|stream| Arc::from(stream.arn.as_str()));
    let change: Change = fields
        .dynamodb
        .ok_or("it has no \"dynamodb\" part")
        .and_then(|raw| parse(&raw).map_err(|_| "its \"dynamodb\" part is not an object"))?;
    let sequence = change.sequence_number.as_deref().ok_or("it has no \"SequenceNumber\"")?;
    let sequence: SequenceNumber =
        text_of("SequenceNumber", sequence)?.parse().map_err(|e: super::InvalidSequenceNumber| e.to_string())?;
    known.sequence = Some(sequence);
    arn?;
    let event = text_of("eventName", fields.event_name.as_deref().ok_or("it has no \"eventName\"")?)?;
    let event = EventName::parse(&event)
        .ok_or_else(|| format!("its \"eventName\" {:?} is not INSERT, MODIFY or REMOVE", cut(&event)))?;
    let image = |raw: Option<Box<RawValue>>| {
        raw.filter(|raw| raw.get() != "null").map(|raw| Box::new(JsonImage(raw)) as Box<dyn Attributes>)
    };
    Ok(ChangeRecord {
        stream: Arc::new(stream.ok_or("its \"eventSourceARN\" is not the ARN of a stream")?),
        stream_shard: Arc::from(""),
        event,
        keys: image(change.keys).ok_or("it has no \"Keys\"")?,
        old: image(change.old_image),
        new: image(change.new_image),
        sequence,
        approximate_time_s: change.time.and_then(|raw| parse::<f64>(&raw).ok()).map(|seconds| seconds as u64),
        ttl_deletion: fields.user_identity.is_some_and(|raw| is_ttl(&raw)),
    })
}

/// Reads table and creation time from a stream's ARN, `…:table/NAME/stream/2026-01-02T03:04:05.678`.
#[must_use]
pub fn stream_of_arn(arn: &str) -> Option<Stream> {
    let (table, label) = arn.split_once(":table/")?.1.split_once("/stream/")?;
    if table.is_empty() || label.is_empty() {
        return None;
    }
    Some(Stream { table: table.to_owned(), arn: arn.to_owned(), created_ms: unix_ms(label).unwrap_or(0) })
}

/// Reads a stream label, `2026-01-02T03:04:05.678` in UTC, as unix ms.
fn unix_ms(label: &str) -> Option<u64> {
    let (date, time) = label.trim_end_matches('Z').split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let milliseconds: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    if !in_range {
        return None;
    }
    // Days since 1970-01-01 of the proleptic Gregorian calendar, with the year beginning in March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year - 719_468;
    u64::try_from(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + milliseconds).ok()
}

#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "eventName")]
    event_name: Option<Box<RawValue>>,
    #[serde(rename = "eventSourceARN")]
    event_source_arn: Option<Box<RawValue>>,
    #[serde(rename = "userIdentity")]
    user_identity: Option<Box<RawValue>>,
    dynamodb: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Change {
    #[serde(rename = "Keys")]
    keys: Option<Box<RawValue>>,
    #[serde(rename = "OldImage")]
    old_image: Option<Box<RawValue>>,
    #[serde(rename = "NewImage")]
    new_image: Option<Box<RawValue>>,
    #[serde(rename = "SequenceNumber")]
    sequence_number: Option<Box<RawValue>>,
    #[serde(rename = "ApproximateCreationDateTime")]
    time: Option<Box<RawValue>>,
}

fn parse<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T, serde_json::Error> {
    serde_json::from_str(raw.get())
}

fn text_of(name: &str, raw: &RawValue) -> Result<String, String> {
    parse(raw).map_err(|_| format!("its {name:?} is not a text"))
}

/// What is wrong with a JSON text, without the values that the reader's own words repeat.
fn fault(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "another type than expected",
        serde_json::error::Category::Syntax => "not JSON",
        serde_json::error::Category::Eof | serde_json::error::Category::Io => "cut short",
    };
    format!("{what} at line {} column {}", error.line(), error.column())
}

/// Enough of a name that ought to be a short one.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}

/// The identity's spelling differs: AWS documents `principalId` and sends `PrincipalId` in some interfaces.
fn is_ttl(identity: &RawValue) -> bool {
    parse::<BTreeMap<String, serde_json::Value>>(identity).is_ok_and(|identity| {
        let is = |name: &str, expected: &str| {
            identity.iter().any(|(key, value)| {
                key.eq_ignore_ascii_case(name) && value.as_str().is_some_and(|v| v.eq_ignore_ascii_case(expected))
            })
        };
        is("type", "Service") && is("principalId", TTL_PRINCIPAL)
    })
}

/// Lists and maps within each other past which an attribute is not read: DynamoDB itself allows 32, and a text of
/// nothing but brackets must not exhaust the stack.
const DEEPEST: usize = 64;

fn decode(name: &str, raw: &RawValue) -> Result<Attribute, AttributeError> {
    attribute(raw, DEEPEST).map_err(|reason| AttributeError::Attribute { name: name.to_owned(), reason })
}

fn attribute(raw: &RawValue, levels: usize) -> Result<Attribute, String> {
    let Some(levels) = levels.checked_sub(1) else { return Err("it is nested too deeply".to_owned()) };
    let typed: BTreeMap<&str, &RawValue> =
        parse(raw).map_err(|_| "an attribute is an object of one type and its value".to_owned())?;
    let mut entries = typed.into_iter();
    let (Some((kind, value)), None) = (entries.next(), entries.next()) else {
        return Err("an attribute has exactly one type".to_owned());
    };
    let failed = |e: serde_json::Error| format!("{:?}: {}", cut(kind), fault(&e));
    let bytes = |text: String| STANDARD.decode(text).map_err(|_| format!("{:?}: not base64", cut(kind)));
    Ok(match kind {
        "S" => Attribute::S(parse(value).map_err(failed)?),
        "N" => Attribute::N(parse(value).map_err(failed)?),
        "B" => Attribute::B(bytes(parse(value).map_err(failed)?)?),
        "BOOL" => Attribute::Bool(parse(value).map_err(failed)?),
        "NULL" => Attribute::Null,
        "L" => {
            let items: Vec<&RawValue> = parse(value).map_err(failed)?;
            Attribute::L(items.into_iter().map(|item| attribute(item, levels)).collect::<Result<_, _>>()?)
        }
        "M" => {
            let items: BTreeMap<String, &RawValue> = parse(value).map_err(failed)?;
            Attribute::M(
                items.into_iter().map(|(k, v)| attribute(v, levels).map(|v| (k, v))).collect::<Result<_, _>>()?,
            )
        }
        "SS" => Attribute::Ss(parse(value).map_err(failed)?),
        "NS" => Attribute::Ns(parse(value).map_err(failed)?),
        "BS" => {
            let items: Vec<String> = parse(value).map_err(failed)?;
            Attribute::Bs(items.into_iter().map(bytes).collect::<Result<BTreeSet<_>, _>>()?)
        }
        other => return Err(format!("{:?} is not one of DynamoDB's attribute types", cut(other))),
    })
}

/// Finds the named members of a JSON object and skips the others without building them.
struct Pick<'n>(&'n [String]);

impl<'de> DeserializeSeed<'de> for Pick<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of attributes")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = vec![None; self.0.len()];
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            match self.0.iter().zip(&mut found).find(|(wanted, _)| **wanted == name) {
                Some((_, place)) => *place = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:dynamodb:eu-west-1:123456789012:table/products/stream/2026-01-02T03:04:05.678";

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn event(change: &str) -> String {
        format!(r#"{{"eventName":"MODIFY","eventSourceARN":"{ARN}","dynamodb":{change}}}"#)
    }

    #[test]
    fn a_record_is_read_without_touching_its_images() {
        let record = record_from_json(&raw(&event(
            r#"{"Keys":{"pk":{"S":"42"}},"NewImage":{"bad":{"Q":1},"pk":{"S":"42"}},
                "SequenceNumber":"1234567890123456789012345678901234567890","ApproximateCreationDateTime":1.7e9}"#,
        )))
        .unwrap();
        assert_eq!(record.stream.table, "products");
        assert_eq!(record.stream.created_ms, 1_767_323_045_678);
        assert_eq!(record.sequence.to_string(), "1234567890123456789012345678901234567890");
        assert_eq!(record.approximate_time_s, Some(1_700_000_000));
        let new = record.new.unwrap();
        assert_eq!(new.pick(&["pk".into(), "none".into()]).unwrap(), [Some(Attribute::S("42".into())), None]);
        let error = new.pick(&["bad".into()]).unwrap_err().to_string();
        assert!(error.contains("\"bad\"") && error.contains("\"Q\""), "{error}");
    }

    #[test]
    fn an_unreadable_record_tells_what_is_known_of_it() {
        for (change, reason) in [
            (r#"{"SequenceNumber":"7"}"#, "Keys"),
            (r#"{"Keys":{}}"#, "SequenceNumber"),
            (r#"{"Keys":{},"SequenceNumber":""}"#, "40 decimal digits"),
            (r#"{"Keys":{},"SequenceNumber":7}"#, "not a text"),
            ("[]", "not an object"),
        ] {
            let error = record_from_json(&raw(&event(change))).unwrap_err();
            assert!(error.reason.contains(reason), "{change}: {error}");
            assert_eq!(error.table.as_deref(), Some("products"));
        }
        let text = r#"{"dynamodb":{"SequenceNumber":"7"}, "eventSourceARN": 5}"#;
        let error = record_from_json(&raw(text)).unwrap_err();
        assert_eq!(error.sequence, Some("7".parse().unwrap()));
        assert_eq!(error.content.as_ref().map(RawRecord::get), Some(text));
    }

    #[test]
    fn no_reason_repeats_a_value() {
        let image = |attribute: &str| JsonImage(raw(&format!(r#"{{"a":{attribute}}}"#))).all().unwrap_err().to_string();
        for attribute in [
            r#"{"N":["hush"]}"#,
            r#"{"L":"hush"}"#,
            r#"{"M":{"x":{"BOOL":"hush"}}}"#,
            r#"{"B":"hush!"}"#,
            r#"{"BS":["hush!"]}"#,
            r#""hush""#,
        ] {
            let reason = image(attribute);
            assert!(reason.contains("\"a\"") && !reason.contains("hush"), "{reason}");
        }
        for change in [r#"{"Keys":{},"SequenceNumber":["hush"]}"#, r#""hush""#] {
            let error = record_from_json(&raw(&event(change))).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
        }
    }

    #[test]
    fn a_ttl_deletion_is_told_in_either_spelling() {
        for identity in [
            r#"{"type":"Service","principalId":"dynamodb.amazonaws.com"}"#,
            r#"{"Type":"Service","PrincipalId":"dynamodb.amazonaws.com"}"#,
        ] {
            assert!(is_ttl(&raw(identity)));
        }
        assert!(!is_ttl(&raw(r#"{"type":"User","principalId":"dynamodb.amazonaws.com"}"#)));
        assert!(!is_ttl(&raw("null")));
    }

    #[test]
    fn every_type_is_decoded_and_sets_have_no_order() {
        let image = |set: &str| {
            JsonImage(raw(&format!(
                r#"{{"a":{{"M":{{"l":{{"L":[{{"N":"1"}},{{"NULL":true}},{{"BOOL":false}}]}},"b":{{"B":"AP8="}},"s":{{"SS":{set}}},"bs":{{"BS":["AA=="]}}}}}}}}"#
            )))
        };
        let one = image(r#"["x","y"]"#).all().unwrap();
        assert_eq!(one, image(r#"["y","x"]"#).all().unwrap());
        assert_ne!(one, image(r#"["y"]"#).all().unwrap());
    }

    #[test]
    fn a_label_is_read_as_utc() {
        assert_eq!(unix_ms("1970-01-01T00:00:00.000"), Some(0));
        assert_eq!(unix_ms("2000-02-29T12:00:00.5"), Some(951_825_600_500));
        assert_eq!(unix_ms("whatever"), None);
    }
}
