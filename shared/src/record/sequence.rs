//! Sequence numbers: up to 40 decimal digits, compared as numbers.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU8;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A record's place in its stream: an unsigned number of up to 40 decimal digits (133 bits).
///
/// Compared as a number, never as text. Comparable within one stream only. It is written as it was read: services that begin
/// theirs with zeros know them by no other text.
#[derive(Clone, Copy)]
pub struct SequenceNumber {
    limbs: [u32; LIMBS],
    /// The digits that it was written with, zeros before it included.
    digits: NonZeroU8,
}

const LIMBS: usize = 5;
const MAX_DIGITS: usize = 40;
/// The largest power of ten in a limb: digits are taken nine at a time.
const CHUNK: u32 = 9;

/// A text that is not a sequence number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a sequence number: 1 to 40 decimal digits are expected")]
pub struct InvalidSequenceNumber(pub String);

impl SequenceNumber {
    /// The number as 20 big-endian bytes.
    #[must_use]
    pub fn to_be_bytes(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        for (chunk, limb) in bytes.chunks_exact_mut(4).zip(self.limbs) {
            chunk.copy_from_slice(&limb.to_be_bytes());
        }
        bytes
    }

    fn push_digits(&mut self, value: u32, digits: u32) {
        let mut carry = u64::from(value);
        let scale = u64::from(10_u32.pow(digits));
        for limb in self.limbs.iter_mut().rev() {
            let product = u64::from(*limb) * scale + carry;
            *limb = (product & u64::from(u32::MAX)) as u32;
            carry = product >> 32;
        }
    }
}

impl Default for SequenceNumber {
    fn default() -> Self {
        Self { limbs: [0; LIMBS], digits: NonZeroU8::MIN }
    }
}

impl PartialEq for SequenceNumber {
    fn eq(&self, other: &Self) -> bool {
        self.limbs == other.limbs
    }
}

impl Eq for SequenceNumber {}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> Ordering {
        self.limbs.cmp(&other.limbs)
    }
}

impl Hash for SequenceNumber {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.limbs.hash(state);
    }
}

impl FromStr for SequenceNumber {
    type Err = InvalidSequenceNumber;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidSequenceNumber(text.chars().take(64).collect());
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        let significant = text.trim_start_matches('0');
        if significant.len() > MAX_DIGITS {
            return Err(invalid());
        }
        let digits = NonZeroU8::new(text.len().min(MAX_DIGITS) as u8).unwrap_or(NonZeroU8::MIN);
        let mut number = Self { digits, ..Self::default() };
        for chunk in significant.as_bytes().chunks(CHUNK as usize) {
            let value = chunk.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
            number.push_digits(value, chunk.len() as u32);
        }
        Ok(number)
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut limbs = self.limbs;
        let mut chunks = Vec::with_capacity(5);
        while limbs.iter().any(|limb| *limb != 0) {
            let mut remainder = 0_u64;
            for limb in &mut limbs {
                let value = remainder << 32 | u64::from(*limb);
                *limb = (value / 1_000_000_000) as u32;
                remainder = value % 1_000_000_000;
            }
            chunks.push(remainder);
        }
        let first = chunks.pop().unwrap_or_default();
        let width = usize::from(self.digits.get()).saturating_sub(chunks.len() * CHUNK as usize);
        write!(f, "{first:0width$}")?;
        chunks.iter().rev().try_for_each(|chunk| write!(f, "{chunk:09}"))
    }
}

impl fmt::Debug for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SequenceNumber({self})")
    }
}

/// As the text of its digits: no reader of JSON keeps so many of a number.
impl Serialize for SequenceNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SequenceNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_number_of_up_to_40_digits_is_kept(text in "0|[1-9][0-9]{0,39}") {
            let number: SequenceNumber = text.parse().unwrap();
            prop_assert_eq!(number.to_string(), text);
        }

        #[test]
        fn order_is_that_of_numbers(a in "[1-9][0-9]{0,39}", b in "[1-9][0-9]{0,39}") {
            let by_number = (a.len(), &a).cmp(&(b.len(), &b));
            let (a, b): (SequenceNumber, SequenceNumber) = (a.parse().unwrap(), b.parse().unwrap());
            prop_assert_eq!(a.cmp(&b), by_number);
            prop_assert_eq!(a.to_be_bytes().cmp(&b.to_be_bytes()), by_number);
        }
    }

    #[test]
    fn leading_zeros_are_kept_and_do_not_count() {
        let number = |text: &str| text.parse::<SequenceNumber>().unwrap();
        for text in ["0", "000", "000000000000000000042"] {
            assert_eq!(number(text).to_string(), text);
        }
        assert_eq!(number("000000000000000000042"), number("42"));
        assert!(number("041") < number("42") && number("43") > number("0042"));
        // No number has more than 40 digits.
        assert_eq!(number(&format!("{}42", "0".repeat(50))).to_string(), format!("{}42", "0".repeat(38)));
    }

    #[test]
    fn what_is_no_number_is_refused_with_its_text() {
        for text in ["", "-1", "1e5", "12 ", "SHARD_END", "1".repeat(41).as_str()] {
            let error = text.parse::<SequenceNumber>().unwrap_err();
            assert!(error.to_string().contains("1 to 40 decimal digits"), "{error}");
        }
    }
}
