//! Reading raw payloads.

use serde::de::value::SeqDeserializer;
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::RawError;

/// Reads bytes, or text where the type asks for text.
///
/// # Errors
/// [`RawError::Shape`] for any other type, and [`RawError::NotText`].
pub(in crate::codec) fn from_bytes<T: DeserializeOwned>(payload: &[u8]) -> Result<T, RawError> {
    T::deserialize(Whole(payload))
}

/// The whole payload.
struct Whole<'a>(&'a [u8]);

/// One byte of it.
struct One(u8);

fn refused<T>(what: &'static str) -> Result<T, RawError> {
    Err(RawError::Shape { what })
}

impl<'a> Whole<'a> {
    fn one_by_one(self) -> SeqDeserializer<impl Iterator<Item = One>, RawError> {
        SeqDeserializer::new(self.0.iter().map(|byte| One(*byte)))
    }

    fn text(self) -> Result<&'a str, RawError> {
        std::str::from_utf8(self.0).map_err(|_| RawError::NotText)
    }
}

macro_rules! refuse {
    ($($method:ident($($type:ty),*) = $what:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, $(_: $type,)* _: V) -> Result<V::Value, RawError> {
            refused($what)
        }
    )*};
}

impl<'de> Deserializer<'de> for Whole<'_> {
    type Error = RawError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RawError> {
        visitor.visit_bytes(self.0)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RawError> {
        visitor.visit_bytes(self.0)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RawError> {
        visitor.visit_byte_buf(self.0.to_vec())
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RawError> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RawError> {
        visitor.visit_string(self.text()?.to_owned())
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RawError> {
        let mut bytes = self.one_by_one();
        let value = visitor.visit_seq(&mut bytes)?;
        bytes.end()?;
        Ok(value)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, RawError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, RawError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RawError> {
        visitor.visit_unit()
    }

    refuse! {
        deserialize_bool() = "a truth value";
        deserialize_i8() = "a number";
        deserialize_i16() = "a number";
        deserialize_i32() = "a number";
        deserialize_i64() = "a number";
        deserialize_i128() = "a number";
        deserialize_u8() = "a number";
        deserialize_u16() = "a number";
        deserialize_u32() = "a number";
        deserialize_u64() = "a number";
        deserialize_u128() = "a number";
        deserialize_f32() = "a number";
        deserialize_f64() = "a number";
        deserialize_char() = "a character";
        deserialize_option() = "an option";
        deserialize_unit() = "a unit";
        deserialize_unit_struct(&'static str) = "a unit";
        deserialize_tuple_struct(&'static str, usize) = "a tuple struct";
        deserialize_map() = "a map";
        deserialize_struct(&'static str, &'static [&'static str]) = "a struct";
        deserialize_enum(&'static str, &'static [&'static str]) = "an enum";
        deserialize_identifier() = "an identifier";
    }
}

impl<'de> Deserializer<'de> for One {
    type Error = RawError;

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RawError> {
        visitor.visit_u8(self.0)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, RawError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, RawError> {
        refused("a sequence of anything but bytes")
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq
        tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl IntoDeserializer<'_, RawError> for One {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}
