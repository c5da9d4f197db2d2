//! A payload as data, whatever type an application reads it as. Pure.

use std::collections::BTreeMap;
use std::fmt;

use ringtide_core::entry::{Codec, Compression, Entry};
use ringtide_core::payload::{messagepack, zstandard};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A value of a payload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// A number's digits.
    Number(String),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Object(BTreeMap<String, Value>),
    /// Something that no attribute of DynamoDB is.
    Other,
}

impl Value {
    /// The fields of an object.
    pub(crate) fn fields(&self) -> Option<&BTreeMap<String, Value>> {
        if let Self::Object(fields) = self { Some(fields) } else { None }
    }
}

/// Reads an entry's payload.
///
/// # Errors
/// Why it tells nothing.
pub(crate) fn read(entry: &Entry) -> Result<Value, &'static str> {
    let decompressed;
    let plain = match entry.header.compression {
        Compression::None => &entry.payload[..],
        Compression::Zstd if entry.header.codec == Codec::Raw => return Err(RAW),
        Compression::Zstd => {
            decompressed = zstandard::decompress(&entry.payload).map_err(|_| "its payload cannot be decompressed")?;
            &decompressed
        }
    };
    match entry.header.codec {
        Codec::Json => json(plain).ok_or("its payload is no JSON"),
        Codec::MessagePack => messagepack::from_bytes(plain).map_err(|_| "its payload is no MessagePack"),
        Codec::Raw => Err(RAW),
    }
}

const RAW: &str = "its payload is raw";

/// Reads JSON.
pub(crate) fn json(text: &[u8]) -> Option<Value> {
    serde_json::from_slice(text).ok()
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.to_string()))
    }

    /// As short as tells it from all others of its width: 0.1 and not 0.10000000149011612.
    fn visit_f32<E>(self, number: f32) -> Result<Value, E> {
        Ok(if number.is_finite() { Value::Number(format!("{number:e}")) } else { Value::Other })
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(if number.is_finite() { Value::Number(format!("{number:e}")) } else { Value::Other })
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(Value::Bytes(bytes.to_vec()))
    }

    /// MessagePack's extensions come like this: a type and its bytes.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(Anything).map(|_| Value::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = values.next_element()? {
            list.push(value);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let (mut object, mut named) = (BTreeMap::new(), true);
        while let Some((name, value)) = fields.next_entry::<Value, Value>()? {
            match name {
                // Names that are numbers are texts in JSON, and in DynamoDB.
                Value::Text(name) | Value::Number(name) => _ = object.insert(name, value),
                Value::Null | Value::Bool(_) | Value::Bytes(_) | Value::List(_) | Value::Object(_) | Value::Other => {
                    named = false;
                }
            }
        }
        Ok(if named { Value::Object(object) } else { Value::Other })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use ringtide_core::entry::Header;
    use serde::Serialize;

    use super::*;

    #[derive(Serialize)]
    struct Everything {
        nothing: Option<u8>,
        truth: bool,
        small: f32,
        large: f64,
        count: u64,
        below: i8,
        text: &'static str,
        list: Vec<u16>,
        by_number: HashMap<u32, char>,
    }

    fn entry(codec: Codec, compression: Compression, payload: Vec<u8>) -> Entry {
        Entry { header: Header { compression, ..Header::value(codec) }, payload: Bytes::from(payload) }
    }

    fn compressed(plain: &[u8]) -> Vec<u8> {
        zstandard::compress(plain).unwrap().unwrap()
    }

    #[test]
    fn a_value_is_the_same_whatever_it_is_written_as() {
        let everything = Everything {
            nothing: None,
            truth: true,
            small: 0.1,
            large: 1.5e300,
            count: u64::MAX,
            below: -7,
            text: "tea",
            list: vec![1, 300],
            by_number: HashMap::from([(7, 'x')]),
        };
        let text = serde_json::to_vec(&everything).unwrap();
        let packed = messagepack::to_bytes(&everything).unwrap();
        let Value::Object(fields) = json(&text).unwrap() else { panic!("no object") };
        assert_eq!(fields["count"], Value::Number(u64::MAX.to_string()));
        assert_eq!(fields["by_number"], Value::Object(BTreeMap::from([("7".into(), Value::Text("x".into()))])));
        assert_eq!(fields["small"], Value::Number("1e-1".into()));
        for (codec, plain) in [(Codec::Json, text), (Codec::MessagePack, packed)] {
            for (compression, payload) in [(Compression::Zstd, compressed(&plain)), (Compression::None, plain)] {
                assert_eq!(read(&entry(codec, compression, payload)), Ok(Value::Object(fields.clone())), "{codec:?}");
            }
        }
    }

    #[test]
    fn what_tells_nothing_says_why() {
        let reason =
            |codec, compression, payload: &[u8]| read(&entry(codec, compression, payload.to_vec())).unwrap_err();
        for compression in [Compression::None, Compression::Zstd] {
            assert_eq!(reason(Codec::Raw, compression, b"{}"), "its payload is raw");
        }
        assert_eq!(reason(Codec::Json, Compression::None, b"{"), "its payload is no JSON");
        assert_eq!(reason(Codec::MessagePack, Compression::None, b"\x81"), "its payload is no MessagePack");
        assert_eq!(reason(Codec::MessagePack, Compression::Zstd, b"\x80"), "its payload cannot be decompressed");
    }

    #[test]
    fn what_no_attribute_is_spoils_nothing_beside_it() {
        // An extension, a float that is no number, a map whose names are lists, and bytes, in a map beside a number.
        let packed = b"\x85\xa1e\xd4\x05\x00\xa1f\xca\x7f\xc0\x00\x00\xa1m\x81\x90\x01\xa1b\xc4\x02\x00\xff\xa1n\x07";
        let expected = [
            ("e", Value::Other),
            ("f", Value::Other),
            ("m", Value::Other),
            ("b", Value::Bytes(vec![0, 255])),
            ("n", Value::Number("7".into())),
        ];
        let expected = expected.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(read(&entry(Codec::MessagePack, Compression::None, packed.to_vec())), Ok(Value::Object(expected)));
    }
}
