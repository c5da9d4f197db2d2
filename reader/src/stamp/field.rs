//! A version number as a field of an application's type.

use std::fmt;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A version number as a field of an application's type, whole: a stamp has more digits than any other number that survives
/// codecs and items.
///
/// It is written as a text of digits, and read from a text or a number: what a refresh stores of an item is the number. Not within
/// `#[serde(flatten)]` and the like, which keep fewer digits of a number. An item that is made of a type with such a field holds that
/// text where [`VersionClock::stamp_item`](crate::VersionClock) puts the number; `ItemLoader`, which knows the version
/// attribute, reads that number into the field.
///
/// ```
/// use ringtide::{Stamp, VersionClock};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Product {
///     name: String,
///     version: Stamp,
/// }
///
/// # fn example(clock: VersionClock, product: Product) {
/// clock.observe(product.version.0);
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u128);

impl From<u128> for Stamp {
    fn from(number: u128) -> Self {
        Self(number)
    }
}

impl From<Stamp> for u128 {
    fn from(stamp: Stamp) -> Self {
        stamp.0
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(RAW, Digits)
    }
}

/// What serde_json calls what it hands over as it is written, all digits of a number; to other formats it is a name like any.
const RAW: &str = "$serde_json::private::RawValue";

struct Digits;

impl<'de> Visitor<'de> for Digits {
    type Value = Stamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number, not negative, or a text of its digits")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Stamp, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut raw: A) -> Result<Stamp, A::Error> {
        let written = raw.next_entry::<de::IgnoredAny, String>()?.map(|(_, written)| written).unwrap_or_default();
        let digits = written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(&written);
        self.visit_str(digits)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Stamp, E> {
        Ok(Stamp(number.into()))
    }

    fn visit_u128<E: de::Error>(self, number: u128) -> Result<Stamp, E> {
        Ok(Stamp(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Stamp, E> {
        let unsigned = u128::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))?;
        Ok(Stamp(unsigned))
    }

    fn visit_str<E: de::Error>(self, digits: &str) -> Result<Stamp, E> {
        digits.parse().map(Stamp).map_err(|_| E::invalid_value(de::Unexpected::Str(digits), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(number: u128) -> serde_json::Value {
        serde_json::Value::String(number.to_string())
    }

    #[test]
    fn it_survives_a_codec_and_is_read_from_numbers_too() {
        let highest = Stamp(10_u128.pow(38) - 1);
        let text = serde_json::to_string(&highest).unwrap();
        assert_eq!(serde_json::from_str::<Stamp>(&text).unwrap(), highest);
        for number in [7, u128::from(u64::MAX) + 1, highest.0] {
            assert_eq!(serde_json::from_str::<Stamp>(&number.to_string()).unwrap(), Stamp(number));
            assert_eq!(serde_json::from_value::<Stamp>(text_of(number)).unwrap(), Stamp(number));
        }
        for no in ["-7", "1.5", "1e3", "null", "{}", "[7]", "\"\"", "\"x\"", "\"-7\"", "\"1\\u0030\""] {
            assert!(serde_json::from_str::<Stamp>(no).is_err(), "{no}");
        }
    }
}
