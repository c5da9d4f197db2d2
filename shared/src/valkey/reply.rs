//! Reading scripts' replies.

use bytes::Bytes;
use redis::Value;

use crate::version::Version;

/// Reads what a server answered field by field; a field of another kind than asked for is `None`.
pub(super) struct Fields(std::vec::IntoIter<Value>);

impl Fields {
    pub(super) fn of(value: Value) -> Option<Self> {
        match value {
            Value::Array(values) => Some(Self(values.into_iter())),
            _ => None,
        }
    }

    /// A byte that tells answers apart.
    pub(super) fn tag(&mut self) -> Option<u8> {
        match self.0.next()? {
            Value::BulkString(bytes) => bytes.first().copied(),
            _ => None,
        }
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        match self.0.next()? {
            Value::Int(number) => u64::try_from(number).ok(),
            _ => None,
        }
    }

    pub(super) fn bytes(&mut self) -> Option<Bytes> {
        match self.0.next()? {
            Value::BulkString(bytes) => Some(bytes.into()),
            _ => None,
        }
    }

    pub(super) fn list(&mut self) -> Option<Vec<Vec<u8>>> {
        let Value::Array(values) = self.0.next()? else { return None };
        let bytes = |value| match value {
            Value::BulkString(bytes) => Some(bytes),
            _ => None,
        };
        values.into_iter().map(bytes).collect()
    }

    pub(super) fn version(&mut self) -> Option<Version> {
        Some(Version::from_bytes(self.bytes()?[..].try_into().ok()?))
    }
}
