//! A version number as a field of an application's type.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A version number as a field of an application's type, whole: a stamp has more digits than any other number that survives
/// codecs and items.
///
/// It is written as a text of digits, and read from a text or a number. An item that is made of a type with such a field holds that
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
        deserializer.deserialize_any(Digits)
    }
}

struct Digits;

impl Visitor<'_> for Digits {
    type Value = Stamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number, not negative, or a text of its digits")
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

    #[test]
    fn it_survives_a_codec_and_is_read_from_numbers_too() {
        let highest = Stamp(10_u128.pow(38) - 1);
        let text = serde_json::to_string(&highest).unwrap();
        assert_eq!(serde_json::from_str::<Stamp>(&text).unwrap(), highest);
        assert_eq!(serde_json::from_str::<Stamp>("7").unwrap(), Stamp(7));
        for no in ["-7", "1.5", "\"x\"", "84785810912915280000000000000000000"] {
            assert!(serde_json::from_str::<Stamp>(no).is_err(), "{no}");
        }
    }
}
