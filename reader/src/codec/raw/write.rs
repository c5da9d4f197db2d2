//! Writing raw payloads.

use serde::ser::{Impossible, Serialize, SerializeSeq, SerializeTuple, Serializer};

use super::RawError;

/// Writes bytes (a byte buffer, or a sequence or tuple of `u8`) and text as they are.
///
/// # Errors
/// [`RawError::Shape`] for anything else.
pub(in crate::codec) fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, RawError> {
    value.serialize(Whole)
}

/// Takes the whole value.
struct Whole;

/// Takes one byte of a sequence.
struct One;

/// Bytes that come one by one.
struct Bytes(Vec<u8>);

fn refused<T>(what: &'static str) -> Result<T, RawError> {
    Err(RawError::Shape { what })
}

/// Refuses values of the given kinds.
macro_rules! refuse {
    ($($method:ident($($type:ty),*) = $what:literal;)*) => {$(
        fn $method(self, $(_: $type),*) -> Result<Self::Ok, RawError> {
            refused($what)
        }
    )*};
}

/// What neither the whole nor one byte of it can be.
macro_rules! refuse_others {
    () => {
        type Error = RawError;
        type SerializeTupleStruct = Impossible<Self::Ok, RawError>;
        type SerializeTupleVariant = Impossible<Self::Ok, RawError>;
        type SerializeMap = Impossible<Self::Ok, RawError>;
        type SerializeStruct = Impossible<Self::Ok, RawError>;
        type SerializeStructVariant = Impossible<Self::Ok, RawError>;

        refuse! {
            serialize_bool(bool) = "a truth value";
            serialize_i8(i8) = "a number";
            serialize_i16(i16) = "a number";
            serialize_i32(i32) = "a number";
            serialize_i64(i64) = "a number";
            serialize_u16(u16) = "a number";
            serialize_u32(u32) = "a number";
            serialize_u64(u64) = "a number";
            serialize_f32(f32) = "a number";
            serialize_f64(f64) = "a number";
            serialize_char(char) = "a character";
            serialize_none() = "an option";
            serialize_unit() = "a unit";
            serialize_unit_struct(&'static str) = "a unit";
            serialize_unit_variant(&'static str, u32, &'static str) = "an enum";
        }

        fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<Self::Ok, RawError> {
            refused("an option")
        }

        fn serialize_newtype_struct<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            value: &T,
        ) -> Result<Self::Ok, RawError> {
            value.serialize(self)
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result<Self::Ok, RawError> {
            refused("an enum")
        }

        fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, RawError> {
            refused("a tuple struct")
        }

        fn serialize_tuple_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeTupleVariant, RawError> {
            refused("an enum")
        }

        fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, RawError> {
            refused("a map")
        }

        fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, RawError> {
            refused("a struct")
        }

        fn serialize_struct_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeStructVariant, RawError> {
            refused("an enum")
        }
    };
}

impl Serializer for Whole {
    type Ok = Vec<u8>;
    type SerializeSeq = Bytes;
    type SerializeTuple = Bytes;

    refuse_others!();
    refuse! { serialize_u8(u8) = "a number"; }

    fn serialize_str(self, text: &str) -> Result<Vec<u8>, RawError> {
        Ok(text.as_bytes().to_vec())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<Vec<u8>, RawError> {
        Ok(bytes.to_vec())
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Bytes, RawError> {
        Ok(Bytes(Vec::with_capacity(length.unwrap_or_default())))
    }

    fn serialize_tuple(self, length: usize) -> Result<Bytes, RawError> {
        Ok(Bytes(Vec::with_capacity(length)))
    }
}

impl Serializer for One {
    type Ok = u8;
    type SerializeSeq = Impossible<u8, RawError>;
    type SerializeTuple = Impossible<u8, RawError>;

    refuse_others!();
    refuse! {
        serialize_str(&str) = "a sequence of texts";
        serialize_bytes(&[u8]) = "a sequence of byte buffers";
    }

    fn serialize_u8(self, byte: u8) -> Result<u8, RawError> {
        Ok(byte)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, RawError> {
        refused("a sequence of sequences")
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, RawError> {
        refused("a sequence of tuples")
    }
}

impl SerializeSeq for Bytes {
    type Ok = Vec<u8>;
    type Error = RawError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, byte: &T) -> Result<(), RawError> {
        self.0.push(byte.serialize(One)?);
        Ok(())
    }

    fn end(self) -> Result<Vec<u8>, RawError> {
        Ok(self.0)
    }
}

impl SerializeTuple for Bytes {
    type Ok = Vec<u8>;
    type Error = RawError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, byte: &T) -> Result<(), RawError> {
        SerializeSeq::serialize_element(self, byte)
    }

    fn end(self) -> Result<Vec<u8>, RawError> {
        Ok(self.0)
    }
}
