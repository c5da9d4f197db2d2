//! What entries, floors and refreshes are compared by.

use std::fmt;

use crate::record::SequenceNumber;

/// Orders the states of one item: 28 bytes, compared as seven unsigned 32-bit big-endian numbers.
///
/// Two kinds share the layout. A version attribute of the item is `0 (8 bytes) · number (16) · 0 or 1 (4)`, where
/// 1 stands for "just above", the deletion of that version. A position in a stream is
/// `stream's creation in unix ms (8) · sequence number (20)`; a re-enabled stream may start with lower sequence
/// numbers, so they are compared only as that pair. All zeros is [`Version::NONE`], lower than any other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version([u8; Version::LEN]);

impl Version {
    /// Bytes that a version takes in an entry, a lock and a script's argument.
    pub const LEN: usize = 28;

    /// No version: lower than every other.
    pub const NONE: Version = Version([0; Version::LEN]);

    /// Makes the version that an item's version attribute stands for.
    ///
    /// The number is stored one higher, so that version 0 is not [`Version::NONE`]. DynamoDB's numbers have at most
    /// 38 digits, which leaves room for that.
    #[must_use]
    pub fn from_number(number: u128) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes[8..24].copy_from_slice(&number.saturating_add(1).to_be_bytes());
        Self(bytes)
    }

    /// Makes the version of a change at `sequence` in the stream that was created at `stream_created_ms`.
    #[must_use]
    pub fn from_sequence(stream_created_ms: u64, sequence: &SequenceNumber) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&stream_created_ms.to_be_bytes());
        bytes[8..].copy_from_slice(&sequence.to_be_bytes());
        Self(bytes)
    }

    /// Returns the version of this item's deletion: above this version and below the next number.
    #[must_use]
    pub fn just_above(mut self) -> Self {
        self.0[Self::LEN - 1] |= 1;
        self
    }

    /// Returns the version of an invalidation that stands for two: the higher one, and [`Version::NONE`], which drops
    /// whatever is cached, where one of them has none.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self.is_none() || other.is_none() { Self::NONE } else { self.max(other) }
    }

    /// Reads a version from its 28 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The 28 bytes as they stand in entries and scripts.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Tells whether this is [`Version::NONE`].
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version(")?;
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        write!(f, ")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_lies_between_its_version_and_the_next() {
        let seven = Version::from_number(7);
        assert!(seven < seven.just_above());
        assert!(seven.just_above() < Version::from_number(8));
        assert!(Version::NONE < Version::from_number(0));
    }

    #[test]
    fn stream_positions_compare_by_stream_first_and_as_numbers() {
        let at = |created, digits: &str| Version::from_sequence(created, &digits.parse().expect("a sequence number"));
        assert!(at(1, "9") < at(1, "10"));
        assert!(at(1, "9999999999999999999999999999999999999999") < at(2, "1"));
    }
}
